"""Same person or another, measured: the threshold of a checkpoint, and what to expect of it.

On people that were not trained on and without augmentation: all pairs of the query and the gallery are
counted, three figures drawn, and the threshold for `target` is written into the checkpoint, for
`reid.compare` and whoever else applies it.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reid.commands.trained_file import destination, put_back, run_named_by
from reid.config.checks import ConfigError
from reid.config.dataset import judged_on
from reid.config.schema import EvalConfig, ImageConfig, ThresholdConfig
from reid.config.settings import as_trained, threshold_settings
from reid.data import Crop, DatasetError, IdentitySampler, ReidDataset, load_dataset
from reid.data.division import validation_split
from reid.data.image_store import ImageStore
from reid.engine.card import card_path, model_card
from reid.engine.checkpoint import load_checkpoint
from reid.engine.checkpoint_source import find_checkpoint, trained_dataset, with_data_now
from reid.engine.compute import Compute
from reid.engine.describe import rebuild_model
from reid.engine.prepare import (
    JudgedData,
    check_balanced,
    fingerprint,
    open_judged_data,
    warn_of_doubles,
    with_protocol_of,
)
from reid.jobs.job import Job
from reid.judging import verification_report as threshold_report
from reid.judging.embed import embed_as
from reid.judging.judge import describe
from reid.judging.stored_threshold import chosen_threshold, feature_space, store_threshold
from reid.people import NO_TRACKLET, is_person
from reid.retrieval import (
    Embeddings,
    bootstrap,
    count_pairs,
    hardest_pairs,
    middle_frames,
    pair_totals,
    require_pairs,
    verify_counts,
)
from reid.tracking.journal import replace_text

log = logging.getLogger(__name__)


def threshold(job: Job, settings: ThresholdConfig) -> dict[str, float]:
    """Rates (fractions) of a checkpoint on a dataset; writes figures, threshold.json and the checkpoint."""
    compute = Compute.set_up(settings.device, settings.precision)
    uri = settings.tracking.uri
    run_id = None if settings.output else run_named_by(settings.checkpoint, uri)
    source = find_checkpoint(settings.checkpoint, uri)
    checkpoint = with_data_now(load_checkpoint(source), settings.data.root)
    target = destination(settings.checkpoint, settings.output, source, job.folder)
    evaluation = as_trained(settings.eval, checkpoint.meta["eval"], job.overrides)
    # Both belong to a ranking; a pair has none.
    evaluation = replace(evaluation, query_expansion=0, rerank=False)
    spec = settings.dataset or trained_dataset(checkpoint)
    dataset = load_dataset(**judged_on(spec), progress=job.progress)
    if evaluation.split == "val":
        dataset = validation_split(dataset, evaluation.val_identities, evaluation.val_seed)
    evaluation = with_protocol_of(dataset, evaluation, job.overrides)
    check_not_trained_on(dataset, spec, checkpoint.meta)
    crops = tuple({crop.path: crop for crop in dataset.query + dataset.gallery}.values())
    if settings.batch.cameras == "balanced":
        check_balanced(crops, dataset.name)
    require_pairs(*pairs_of(crops, evaluation), settings.target)
    model = compute.place(rebuild_model(checkpoint))
    model.eval_feature = evaluation.neck_feature
    if model.cameras:  # as compare, search and same() embed images, of which nobody says who saw them
        evaluation = replace(evaluation, cameras=False)

    size = checkpoint.meta["preprocessing"]
    image = ImageConfig(height=size["height"], width=size["width"])
    judged = open_judged_data(dataset, image, settings.data, job.progress)
    if evaluation.protocol == "ignore_camera":
        warn_of_doubles(judged.query.crops, judged.gallery.crops)
    space = feature_space(evaluation, settings.precision)
    parts = [
        embed_as(model, store, compute, evaluation, progress=job.progress, what=what)
        for what, store in together(judged).items()
    ]
    images = joined(parts)

    counts = count_pairs(images, space.metric, evaluation.protocol)
    require_pairs(int(counts.genuine[-1]), int(counts.impostor[-1]), settings.target)
    measured = verify_counts(counts.thresholds, counts.genuine, counts.impostor, settings.target)
    sure = bootstrap(images, measured, space.metric, evaluation.protocol, settings.replicates, settings.seed)
    measured_on = data_name(spec)
    people = int(is_person(images.pids.unique()).sum())
    data_fingerprint = fingerprint(judged.fingerprint)
    chosen = chosen_threshold(
        measured, sure, evaluation, measured_on, data_fingerprint, people, settings.precision
    )

    header = (
        f"{describe(evaluation, measured_on)}: {measured.genuine:,} genuine and {measured.impostor:,} "
        f"impostor pairs of {len(images):,} images of {people:,} people"
    )
    hardest = hardest_by_batch(images, space.metric, settings)
    title = f"{data_name(checkpoint.meta['dataset'])} -> {measured_on}"
    with job.stop.in_one_piece():  # what is raised below matplotlib's C++ arrives as a ValueError
        figures = threshold_report.draw(job.folder / "figures", counts, measured, sure, hardest, space, title)
    record = {
        "checkpoint": settings.checkpoint,
        "config_hash": checkpoint.meta["config_hash"],
        "header": header,
        "eval": asdict(evaluation),
        "threshold": asdict(chosen),
        **threshold_report.as_json(measured, sure),
    }
    (job.folder / "threshold.json").write_text(json.dumps(record, indent=2) + "\n")
    card = card_path(target)
    replace_text(card, model_card(store_threshold(source, target, chosen)))

    logged = put_back(run_id, uri, target)

    job.console.print(threshold_report.table(measured, sure, header))
    for line in (
        threshold_report.verdict(chosen),
        f"written into {target}{logged}",
        f"threshold.json and figures/ ({', '.join(path.name for path in figures)}) are in {job.folder}",
    ):
        job.console.print(line, highlight=False, soft_wrap=True)
    return {f"{evaluation.split}/{name}": value for name, value in threshold_report.values(measured).items()}


def check_not_trained_on(dataset: ReidDataset, spec: dict[str, Any], meta: dict[str, Any]) -> None:
    """Refuse the people that the model was trained on: their distances are better than anybody else's.

    Raises:
        ConfigError: the data are those of the training, and people of the training are to be measured.
    """
    tested = [crop for crop in dataset.query + dataset.gallery if is_person(crop.pid)]
    people = {crop.pid for crop in tested}
    trained = meta["dataset"]
    if trained["name"] == "joint":
        images = trained_images(meta)
        if known := {crop.pid for crop in tested if crop.path in images}:
            raise ConfigError(
                f"{len(known)} of the {len(people)} people of {dataset.name} were trained on, as part of a "
                "joint dataset: a threshold from them would promise too much. Take people that it never saw: "
                "eval.split=test, or another dataset=…"
            )
        return
    known = people & set(meta["pids"])
    if not known or spec["name"] != trained["name"]:
        return
    overlap = f"{len(known)} of the {len(people)} people of {dataset.name} bear pids that were trained on"
    if all(spec.get(place) == trained.get(place) for place in ("root", "file")):
        raise ConfigError(
            f"{overlap} (for example {min(known)}), in the same data: a threshold from them would promise "
            "too much. Take people that it never saw: eval.split=test, or another dataset=…"
        )
    log.warning(
        "%s. If these are the same people as in %s, the rates promise too much", overlap, trained.get("root")
    )


def trained_images(meta: dict[str, Any]) -> set[Path]:
    """The images that a model of joint data was trained on: a part by itself has other pids.

    None where these data are no longer as they were.
    """
    try:
        joint = load_dataset(**judged_on(meta["dataset"]))
    except DatasetError:
        return set()
    pids = set(meta["pids"])
    return {crop.path for crop in joint.train if crop.pid in pids}


def data_name(spec: dict[str, Any]) -> str:
    """What data are called in words: the reader's name, with the table's or folder's where that says more."""
    folder = Path(spec.get("file") or spec.get("root", "")).name
    return spec["name"] if spec["name"] in folder or not folder else f"{spec['name']} {folder}"


def pairs_of(crops: Sequence[Crop], settings: EvalConfig) -> tuple[int, int]:
    """How many genuine and impostor pairs crops make, as images or as tracklets."""
    rows = [(crop.pid, crop.camid, NO_TRACKLET if crop.tracklet is None else crop.tracklet) for crop in crops]
    pids, camids, tracklets = torch.tensor(rows, dtype=torch.int64).unbind(1)
    if settings.tracklets:
        first = middle_frames(tracklets)
        pids, camids, tracklets = pids[first], camids[first], tracklets[first]
    return pair_totals(pids, camids, settings.protocol, tracklets)


def together(judged: JudgedData) -> dict[str, ImageStore]:
    """What is embedded, by what it is called. With tracklets, query and gallery are one set: frames of both
    may be of one tracklet, or the query's stand in the gallery too."""
    query, gallery = judged.query, judged.gallery
    if query.tracklets is None and gallery.tracklets is None:
        return {"query": query, "gallery": gallery}
    crops = tuple({crop.path: crop for crop in query.crops + gallery.crops}.values())
    row_of = {
        crop.path: row
        for store in (query, gallery)
        for crop, row in zip(store.crops, store.rows.tolist(), strict=True)
    }
    rows = np.array([row_of[crop.path] for crop in crops], np.int64)
    return {"query and gallery": replace(query, crops=crops, rows=rows)}


def joined(parts: list[Embeddings]) -> Embeddings:
    """One set of all images."""
    if len(parts) == 1:
        return parts[0]
    return Embeddings(
        torch.cat([part.features for part in parts]),
        torch.cat([part.pids for part in parts]),
        torch.cat([part.camids for part in parts]),
    )


def hardest_by_batch(
    images: Embeddings, metric: str, settings: ThresholdConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """The hardest positive and negative of each anchor, (batches, P x K) each on the CPU.

    The batches are those that training would draw from these people, as many epochs of them as it takes; with
    fewer people than `batch.identities` all of them are in each. Distractors are in none.  NaN where an
    anchor has no positive: its person has one image, or one was drawn K times.
    """
    known = is_person(images.pids).nonzero().flatten()
    people = images.select(known)
    identities = min(settings.batch.identities, len(people.pids.unique()))
    generator = torch.Generator().manual_seed(settings.seed)
    camids = people.camids.tolist() if settings.batch.cameras == "balanced" else None
    sampler = IdentitySampler(people.pids.tolist(), identities, settings.batch.instances, generator, camids)
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    while len(found) < settings.batches:
        for indices in sampler:
            found.append(hardest_pairs(people, metric, indices))
            if len(found) == settings.batches:
                break
    positive, negative = (torch.stack(kind).cpu() for kind in zip(*found, strict=True))
    return positive, negative


def run(job: Job) -> dict[str, float]:
    """The job of the command, from its composed config on."""
    return threshold(job, threshold_settings(job.config))
