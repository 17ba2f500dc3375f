"""A trained model judged on one dataset or on many: scores, figures, a tracked run."""

from dataclasses import asdict, replace
from textwrap import shorten
from typing import Any

from reid.commands import breakdown
from reid.commands.trained_file import destination, put_back, run_named_by
from reid.config.checks import ConfigError
from reid.config.schema import EvalConfig, EvaluateConfig, ImageConfig
from reid.config.settings import as_trained, evaluate_settings
from reid.engine.card import card_path, model_card
from reid.engine.checkpoint import load_checkpoint
from reid.engine.checkpoint_source import find_checkpoint, trained_dataset, with_data_now
from reid.engine.compute import Compute
from reid.engine.describe import data_input, how_far, rebuild_model
from reid.engine.prepare import CAMERAS_UNKNOWN, fingerprint, open_judged_data
from reid.home import home
from reid.jobs import run_figures
from reid.jobs.console import score_table, tracked_as
from reid.jobs.job import NAME_LENGTH, Job
from reid.judging.domains import by_learnt_cameras, read_domain, read_domains
from reid.judging.judge import Judgement, describe, judge, judged_rows, judged_values
from reid.judging.queries import QUERIES, query_csv
from reid.judging.stored_scores import store_scores, stored_scores
from reid.judging.stored_threshold import feature_space, stored_threshold
from reid.retrieval import Scores
from reid.tracking import default_store, hide_home
from reid.tracking.journal import replace_text


def evaluate(job: Job, settings: EvaluateConfig) -> dict[str, float]:
    """Scores (fractions) of a checkpoint on one dataset or on many; tracked, drawn, and in scores.json."""
    compute = Compute.set_up(settings.device, settings.precision)
    run_id = run_named_by(settings.checkpoint, settings.tracking.uri) if settings.card else None
    source = find_checkpoint(settings.checkpoint, settings.tracking.uri)
    checkpoint = with_data_now(load_checkpoint(source), settings.data.root)
    target = destination(settings.checkpoint, None, source, job.folder) if settings.card else None
    evaluation = as_trained(settings.eval, checkpoint.meta["eval"], job.overrides)
    trained_on, so_far = checkpoint.meta["dataset"], how_far(checkpoint.meta)
    if evaluation.datasets:
        keys = settings.dataset  # null: eval.datasets holds those of each
        readers = {entry["label"]: entry["name"] for entry in evaluation.datasets}
        domains = read_domains(evaluation.datasets, trained_on, evaluation, job.progress, job.overrides)
    else:
        keys = settings.dataset or trained_dataset(checkpoint)
        domains = [read_domain(keys, trained_on, evaluation, job.progress, job.overrides)]
        evaluation = domains[0].evaluation
        readers = {domains[0].label: keys["name"]}
    specs = evaluation.datasets or [keys]
    breakdown.check(domains, specs, evaluation)
    if settings.card:
        check_same_space(evaluation, checkpoint.meta["eval"])
    model = compute.place(rebuild_model(checkpoint))
    size = checkpoint.meta["preprocessing"]
    image = ImageConfig(height=size["height"], width=size["width"])

    own = [domain.label for domain in domains if domain.own and trained_on["name"] != "joint"]
    home_of_model = own[0] if own else trained_on["name"]
    title = f"{home_of_model} -> {', '.join(domain.label for domain in domains)}"
    job.name = settings.tracking.run_name or shorten(title, NAME_LENGTH, placeholder=" …")
    facts = {
        "reid.kind": "evaluation",
        "reid.checkpoint": hide_home(settings.checkpoint),
        "reid.checkpoint.run_id": checkpoint.meta.get("run_id"),
        "reid.checkpoint.epoch": checkpoint.meta.get("progress", {}).get("epoch"),
        "reid.config_hash": checkpoint.meta["config_hash"],
        "reid.trained_on": home_of_model,
        "reid.score_split": evaluation.split,
    }
    tracked = replace(settings, eval=evaluation, dataset=keys)
    with job.track(tracked, facts) as tracker:
        results: dict[str, Judgement] = {}
        closer: dict[str, breakdown.Breakdown] = {}
        fingerprints: dict[str, str] = {}
        for domain, spec in zip(domains, specs, strict=True):
            how = by_learnt_cameras(model, domain)
            judged = open_judged_data(domain.dataset, image, settings.data, job.progress, how.protocol)
            judgement = judge(model, judged.query, judged.gallery, how, compute, job.progress)
            assert judgement is not None  # one process judges alone
            label = domain.label
            reader = readers[label]
            tracker.inputs(
                [
                    data_input(
                        reader, fingerprint(judged.fingerprint), "eval", image, judged.query, judged.gallery
                    )
                ]
            )
            results[label], fingerprints[label] = judgement, fingerprint(judged.fingerprint)
            folder = job.folder / "figures" / (label if evaluation.datasets else "")
            with job.stop.in_one_piece():  # what is raised below matplotlib's C++ arrives as a ValueError
                drawn = run_figures.draw_judgement(
                    folder, judgement, judged.rows_of(how), f"{home_of_model} -> {label}", how.protocol
                )
            for path, shows_people in drawn:
                if settings.tracking.images or not shows_people:
                    tracker.artifact(path, str(folder.relative_to(job.folder)))
            if how.quality or how.groups:
                closer[label] = breakdown.break_down(
                    domain, spec, model, judged, judgement, how, stored_threshold(checkpoint.meta), compute,
                    job.progress,
                )  # fmt: skip
                with job.stop.in_one_piece():
                    closer_look = breakdown.draw(folder, closer[label], f"{home_of_model} -> {label}")
                for path in closer_look:
                    tracker.artifact(path, str(folder.relative_to(job.folder)))
        named = {
            label if evaluation.datasets else evaluation.split: judgement
            for label, judgement in results.items()
        }
        values = {
            name: value
            for key, judged_one in named.items()
            for name, value in judged_values(key, judged_one).items()
        }
        tracker.text(query_csv(named), QUERIES)
        if evaluation.quality:
            tracker.text(breakdown.quality_csv(closer), breakdown.QUALITY_TABLE)
        if evaluation.groups:
            tracker.text(breakdown.group_csv(closer), breakdown.GROUP_TABLE)
        tracker.metrics(values, 0)
        tracker.tags({f"reid.data.fingerprint/{label}": value for label, value in fingerprints.items()})
        without = [domain.label for domain in domains if not domain.dataset.cameras]
        tracker.tags({f"reid.data.cameras/{label}": CAMERAS_UNKNOWN for label in without})
        tracker.json(
            {
                "checkpoint": hide_home(settings.checkpoint),
                "config_hash": checkpoint.meta["config_hash"],
                "trained_on": home_of_model,
                "datasets": {
                    domain.label: {"own": domain.own, "data_fingerprint": fingerprints[domain.label]}
                    for domain in domains
                },
                "eval": asdict(evaluation),
                "scores": values,
            },
            "scores.json",
        )
        if evaluation.datasets:
            with job.stop.in_one_piece():
                bars = run_figures.draw_domains(job.folder / "figures", results, home_of_model)
            tracker.artifact(bars, "figures")
    rows: dict[str, Scores] = {}
    for domain in domains:
        marked = " (trained here)" if domain.own and evaluation.datasets else ""
        marked += " (ignore_camera)" if domain.evaluation.protocol != evaluation.protocol else ""
        rows |= judged_rows(f"{home_of_model} -> {domain.label}{marked}", results[domain.label], evaluation)
    header = describe(evaluation, ", ".join(results)) + (f"; {so_far}" if so_far else "")
    job.console.print(score_table(rows, header))
    for label, found in closer.items():
        for part in breakdown.tables(found, label):
            job.console.print(part, highlight=False, soft_wrap=isinstance(part, str))
    uri = default_store(home(), settings.tracking.uri).public_uri
    if target is not None:
        stored = [
            row
            for domain in domains
            for row in stored_scores(
                results[domain.label], domain.evaluation, readers[domain.label], domain.own,
                fingerprints[domain.label],
            )
        ]  # fmt: skip
        more = breakdown.kept(domains, closer, readers, fingerprints)
        replace_text(card_path(target), model_card(store_scores(source, target, stored, more)))
        logged = put_back(run_id, settings.tracking.uri, target)
        job.console.print(f"written into {target}{logged}", highlight=False, soft_wrap=True)
    places = f"scores.json and figures/ are in {job.folder}; {tracked_as(tracker.run_id, uri, job.folder)}"
    job.console.print(places, highlight=False, soft_wrap=True)
    return values


def check_same_space(settings: EvalConfig, trained: dict[str, Any]) -> None:
    """Raises ConfigError where the card would hold scores of other features beside those of the training."""
    # Whether tracklets are judged follows from the data; a row says so.
    ours, theirs = (replace(feature_space(one), pooling="none") for one in (settings, trained))
    if ours != theirs or settings.query_expansion != trained.get("query_expansion", 0):
        raise ConfigError(
            f"card=true: the card holds scores of the {theirs.describe()}, and these would be of the "
            f"{ours.describe()}{', with query expansion' if settings.query_expansion else ''}. Leave eval.* "
            "as the model was judged, or leave card=true out"
        )


def run(job: Job) -> dict[str, float]:
    """The job of the command, from its composed config on."""
    return evaluate(job, evaluate_settings(job.config))
