"""Training as one story: beginning, data and model, epochs, judgement, conclusion."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from rich.text import Text
from torch import nn

from reid.config.checks import ConfigError
from reid.config.identity import config_hash
from reid.config.schema import EvalConfig, TrainConfig
from reid.config.settings import train_settings, training_sizes
from reid.data import ReidDataset
from reid.data.batches import BatchRecipe, TrainingBatches, resident_bytes
from reid.engine.augmentation import check_processes, training_augmentation
from reid.engine.average import WeightAverage
from reid.engine.best import BestModel
from reid.engine.card import card_path, model_card
from reid.engine.checkpoint_meta import WITHOUT_CAMIDS
from reid.engine.checkpoint_source import find_checkpoint
from reid.engine.collapse import collapse
from reid.engine.compute import Compute
from reid.engine.describe import build_model, checkpoint_meta, data_inputs, describe_data, run_facts
from reid.engine.distributed import share_neck, synchronise_batch_norm
from reid.engine.finite import DivergedError
from reid.engine.loop import train_epoch
from reid.engine.objective import Objective, build_metric_loss
from reid.engine.optimizers import (
    Optimizers,
    build_loss_optimizer,
    build_optimizer,
    gradient_scaler,
)
from reid.engine.prepare import (
    JudgedData,
    TrainingData,
    data_fingerprint,
    fingerprint,
    open_judged_data,
    open_training_data,
    read_dataset,
)
from reid.engine.runtime import seed_everything
from reid.engine.schedule import epoch_rates
from reid.engine.session import Session
from reid.engine.start import Start, begin, open_start
from reid.engine.stop import Stopped
from reid.engine.teacher import Teacher, build_distillation, open_teacher
from reid.jobs import run_figures
from reid.jobs.console import epoch_line, say_where, score_line, score_table
from reid.jobs.job import Job
from reid.judging.domains import warn_of_unknown_cameras
from reid.judging.judge import Judgement, check_memory, describe, judge, judged_rows, judged_values
from reid.judging.queries import QUERIES, query_csv
from reid.judging.stored_scores import KEY as SCORES
from reid.judging.stored_scores import stored_scores
from reid.models import ReidModel, recompute_blocks
from reid.retrieval import NonFiniteFeaturesError
from reid.tracking import JOURNAL, Tracker
from reid.tracking.system_metrics import SystemMetrics

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """What a run trains with, once everything is there; `evaluation` is how `judged` is judged."""

    job: Job
    settings: TrainConfig
    compute: Compute
    dataset: ReidDataset
    evaluation: EvalConfig
    training: TrainingData
    judged: JudgedData
    objective: Objective
    session: Session


def run(job: Job) -> dict[str, float]:
    """What `python -m reid.train` does with what was typed."""
    return train(job, train_settings(job.config))


def train(job: Job, settings: TrainConfig) -> dict[str, float]:
    """One run from config to scores (fractions, by the names that the tracker shows)."""
    scores, start = beginning(job, settings)
    if scores is not None:
        return scores
    with job.processes.first_ahead():
        teacher = open_teacher(settings)
    run, origin = preparation(job, settings, start, teacher)
    session = run.session
    facts = run_facts(settings, run.dataset, run.training, run.judged)
    facts |= {"reid.processes": run.compute.processes.count, **origin}
    facts |= {} if teacher is None else teacher.facts()
    with job.track(replace(settings, eval=run.evaluation), facts) as tracker:
        tracker.inputs(data_inputs(settings, run.training, run.judged))
        session.attach(job.folder, tracker.run_id, tracker.run_key, job.resuming)
        # What a kill kept from the tracker; what it has already is not sent again.
        for row in session.history:
            tracker.metrics(trackable(row), int(row["epoch"]))
        try:
            last = kept(run, epochs(run, tracker))
        except DivergedError as error:
            tracker.tags({"reid.diverged": "true"})
            raise DivergedError(session.diverged(error, run.training.store)) from error
        if last is None:  # the first process ranks, writes and draws
            return {}
        scores = conclusion(run, tracker, last)
    epoch = "last epoch" if session.best is None else f"epoch {session.kept_epoch}, the best on val"
    rows = judged_rows(epoch, last, run.evaluation)
    job.console.print(score_table(rows, describe(run.evaluation, run.dataset.name)))
    say_where(job.console, settings, job.folder, session.history, scores, tracker.run_id)
    return scores


def beginning(job: Job, settings: TrainConfig) -> tuple[dict[str, float] | None, Start | None]:
    """How the run begins: the scores, where this cell of a sweep is finished already, and the model that
    `init_from` names.

    With neither it is a new run, or (`job.resuming`, in the folder of that run) one that goes on.
    """
    fingerprint_now = cache(partial(data_fingerprint, settings, job.progress, job.overrides))
    data_root = str(settings.dataset["root"])
    job.resume(settings.resume, config_hash(settings), data_root, settings.sweep.take, fingerprint_now)
    if job.found_a_run and (scores := job.taken(fingerprint_now())) is not None:
        return scores, None
    if settings.init_from is None or job.resuming:
        return None, None
    with job.processes.first_ahead():
        found = find_checkpoint(settings.init_from, settings.tracking.uri, "init_from")
        return None, open_start(found, settings)


def preparation(
    job: Job, settings: TrainConfig, start: Start | None, teacher: Teacher | None
) -> tuple[Run, Mapping[str, object]]:
    """Data, model, objective, and the session with their state; what the tracker shows of its origin."""
    compute = Compute.set_up(
        settings.device,
        settings.precision,
        channels_last=settings.channels_last,
        compile=settings.compile,
        deterministic=settings.deterministic,
        processes=job.processes,
    )
    processes = compute.processes
    seed_everything(settings.seed)
    # Of several processes the first one draws, fetches and decodes what is not there yet.
    with processes.first_ahead():
        processes.check_batch(settings.batch.identities, settings.batch.instances)
        check_processes(settings, processes.count)
        dataset, all_training_crops, evaluation = read_dataset(settings, job.progress, job.overrides)
        if teacher is not None:
            teacher.warn_of_judged(settings.dataset, dataset.query)
        model, objective, optimizers = trainee(settings, dataset, compute, job.resuming, teacher)
        together = f" by {processes.count} processes" if processes.count > 1 else ""
        place = f" on {compute.device}{together}, {settings.precision}; run folder {job.folder}"
        job.console.print(Text.assemble((job.name, "bold"), place))
        origin: dict[str, object] = {}
        if not job.resuming:
            line, origin = begin(model, start)
            job.console.print(line, highlight=False, soft_wrap=True)
        training = open_training_data(dataset, settings, job.progress, all_training_crops)
        judged = open_judged_data(dataset, settings.image, settings.data, job.progress, evaluation.protocol)
        job.console.print(describe_data(dataset, training, judged), highlight=False)
        counts = len(judged.query), len(judged.gallery)
        check_memory(*counts, model.embedding_size, evaluation, compute.device)
    if not processes.first:
        seed_everything(settings.seed + processes.number)  # the same weights, but dropout of its own
    warn_of_unknown_cameras(model, dataset)
    compute.place(model)
    if settings.ema.decay is not None:
        optimizers.average = WeightAverage(model, settings.ema.decay, settings.ema.warmup)
    for module in objective.learning:
        module.to(compute.device)
    meta = checkpoint_meta(settings, training, model) | {"begun": origin}
    if teacher is not None:
        meta["teacher"] = teacher.description()
    best = BestModel(f"{settings.eval.split}/mAP") if settings.tracking.checkpoint == "best" else None
    session = Session(
        job.folder, model, optimizers, compute, meta, objective.metric_loss, objective.criterion, best
    )
    if job.resuming:
        with processes.first_ahead():
            origin = session.resume(settings.epochs)
        job.console.print(f"resumed after epoch {session.epoch}, step {session.totals.steps} of the next")
    elif not (job.folder / JOURNAL).exists():
        session.start()
        job.save_status()
    if teacher is not None:  # A resumed model has its normalisation from `last.pt`.
        teacher.place(compute, model.normalisation)
    run = Run(job, settings, compute, dataset, evaluation, training, judged, objective, session)
    return run, origin


def trainee(
    settings: TrainConfig,
    dataset: ReidDataset,
    compute: Compute,
    resuming: bool,
    teacher: Teacher | None = None,
) -> tuple[ReidModel, Objective, Optimizers]:
    """The model, what is minimised, and what moves it; not yet on the device."""
    identities = len({crop.pid for crop in dataset.train})
    model = build_model(settings, identities, resuming, {crop.camid for crop in dataset.train})
    if settings.checkpointing:
        recompute_blocks(model.backbone)
    if settings.sync_bn and compute.processes.count > 1:
        synchronise_batch_norm(model)
    if settings.freeze_bn:
        share_neck(model.head, compute.processes)
    metric_loss = build_metric_loss(settings.loss, identities, model.embedding_size)
    distillation = build_distillation(teacher, settings.teacher, model.embedding_size, settings.seed)
    objective = Objective(
        settings.loss["id_weight"],
        settings.loss["metric_weight"],
        settings.tricks.label_smoothing,
        metric_loss,
        model.head.margin,
        distillation,
    )
    optimizer = build_optimizer(
        model, settings.optimizer, metric_loss, compute.device, objective.criterion,
        frozen_first=settings.freeze_epochs > 0,
    )  # fmt: skip
    scaler = gradient_scaler(compute.device, compute.precision)
    loss_optimizer = build_loss_optimizer(metric_loss)
    return (
        model,
        objective,
        Optimizers(optimizer, loss_optimizer, scaler, settings.clip_norm, settings.accumulate),
    )


def epochs(run: Run, tracker: Tracker) -> Judgement | None:
    """All epochs that are left, and the judgement after the last one; None where another process judges."""
    job, settings, session = run.job, run.settings, run.session
    if session.epoch == settings.epochs:  # it was killed between its last epoch and its end
        return judgement(run, tracker)
    network = trained_network(run)
    batches = training_batches(run)
    last: Judgement | None = None
    collapsed = False
    system = SystemMetrics() if settings.tracking.system_metrics else None
    if judged_after(session.epoch, settings) and not session.judged:
        judgement(run, tracker)
    while session.epoch < settings.epochs:
        values = epoch(run, network, batches)
        if session.epoch == settings.freeze_epochs:
            network = trained_network(run)
        tracker.metrics(trackable(values), session.epoch)
        if system is not None:
            tracker.metrics(system.since_last(), session.epoch)
        trouble = collapse(values)
        # Within the warm-up an untrained network may look so.
        if trouble and not collapsed and session.epoch > settings.tricks.warmup:
            log.warning("epoch %d: %s", session.epoch, trouble)
            tracker.tags({"reid.collapsed": f"since epoch {session.epoch}"})
            collapsed = True
        job.console.print(epoch_line(session.epoch, settings.epochs, values), highlight=False)
        if judged_after(session.epoch, settings):
            last = judgement(run, tracker)
            if last is not None:
                job.after_score(session.epoch, judged_values(settings.eval.split, last))
    return last


def trained_network(run: Run) -> nn.Module:
    """The model as the next epoch trains it; made anew where its backbone is frozen no longer.

    The processes and the compiler fix what has a gradient when they take a network up.
    """
    settings, session = run.settings, run.session
    session.model.freeze_backbone(session.epoch < settings.freeze_epochs)
    # Some of timm's networks hold parameters of a head that is left out here.
    return run.compute.network(session.model, find_unused=settings.backbone.get("library") == "timm")


def training_batches(run: Run) -> TrainingBatches:
    settings, store, compute = run.settings, run.training.store, run.compute
    augmentation = training_augmentation(settings, run.session.model.normalisation)
    learnt_from = run.objective.distillation
    batch = settings.batch
    return TrainingBatches(
        store,
        run.training.labels,
        BatchRecipe(
            batch.identities,
            batch.instances,
            augmentation,
            settings.seed,
            batch.cameras == "balanced",
            training_sizes(settings),
        ),
        compute.device,
        compute.processes.share,
        compute.copy_stream,
        compute.keep_resident(settings.data.resident, resident_bytes(store)),
        bool(run.session.model.cameras or (learnt_from and learnt_from.teacher.model.cameras)),
    )


def judged_after(epoch: int, settings: TrainConfig) -> bool:
    """Whether the model is judged after this epoch; 0 is before the first."""
    if epoch == 0:
        return settings.eval.at_start
    return epoch == settings.epochs or (settings.eval.period > 0 and epoch % settings.eval.period == 0)


def epoch(run: Run, network: nn.Module, batches: TrainingBatches) -> dict[str, float]:
    """The next epoch, or the rest of one that was cut, trained and saved; its values by tracked name."""
    job, settings, session, processes = run.job, run.settings, run.session, run.compute.processes
    number = session.epoch + 1
    plan = batches.plan(number)
    rates = epoch_rates(settings, number, len(plan))
    if settings.accumulate > len(plan):
        raise ConfigError(f"accumulate={settings.accumulate}: an epoch has only {len(plan)} batches")
    totals = session.totals
    left = batches.of(plan, number, totals.steps)
    steps = job.progress(left, len(plan) - totals.steps, f"epoch {number}/{settings.epochs}")
    # A process that stopped between the last step and the checkpoint would leave the others waiting there.
    with job.stop.in_one_piece(processes, of_steps=True):
        try:
            train_epoch(
                network, run.objective, steps, totals, session.optimizers, run.compute, job.stop, rates
            )
        except Stopped as stopped:
            if stopped.clean:
                session.pause()
            raise
        with job.stop.in_one_piece():  # a stop before the checkpoint would cost the epoch that has just ended
            coverage = len(torch.cat(plan).unique()) / len(run.training.store)
            measured = {**totals.means(), "lr": rates[-1], "coverage": coverage}
            if batches.recipe.sizes:
                size = batches.recipe.sizes[session.epoch]
                measured |= {"image_height": size.height, "image_width": size.width}
            values = {f"train/{name}": value for name, value in measured.items()}
            session.end_epoch(values, last=number == settings.epochs)
    return values


def judgement(run: Run, tracker: Tracker) -> Judgement | None:
    """The model judged as it stands, saved and tracked; None where another process judges."""
    session, split = run.session, run.settings.eval.split
    # Re-ranking may take longer than an epoch: only the scores that a run ends with are worth it.
    final = session.epoch == run.settings.epochs and session.best is None
    evaluation = run.evaluation if final else replace(run.evaluation, rerank=False)
    query, gallery = run.judged.query, run.judged.gallery
    try:
        judged = judge(session.result, query, gallery, evaluation, run.compute, run.job.progress)
        if run.settings.ema.raw:
            plain = replace(evaluation, rerank=False)
            raw = judge(session.model, query, gallery, plain, run.compute, run.job.progress)
            judged = replace(judged, raw=raw.scores) if judged is not None and raw is not None else None
        if final:
            judged = with_unknown_cameras(run, judged)
    except NonFiniteFeaturesError as error:
        raise DivergedError(f"{error} A training resumed from here ends here again:") from error
    values = None if judged is None else judged_values(split, judged)
    session.add_score(values)
    if judged is not None and values is not None:
        tracker.metrics(values, session.epoch)
        run.job.console.print(score_line(session.epoch, judged.scores, split))
    return judged


def with_unknown_cameras(run: Run, judged: Judgement | None) -> Judgement | None:
    """The same with the scores of a model that has learnt cameras and does not know which saw an image."""
    model, evaluation = run.session.result, run.evaluation
    if not (model.cameras and evaluation.cameras):
        return judged
    plain = replace(evaluation, rerank=False, cameras=False)
    stores = run.judged.query, run.judged.gallery
    without = judge(model, *stores, plain, run.compute, run.job.progress)
    if judged is None or without is None:
        return None
    return replace(judged, without_camids=without.scores)


def kept(run: Run, last: Judgement | None) -> Judgement | None:
    """The judgement of the model that the run keeps; None where another process judges.

    Where that is the best epoch's, `last` is of another model, or of fewer scores: what is worth computing
    once alone (re-ranking) no epoch is judged by.
    """
    session, evaluation = run.session, run.evaluation
    if session.best is None:
        return last
    complete = not evaluation.rerank and not (session.result.cameras and evaluation.cameras)
    if complete and session.kept_epoch == session.epoch:
        return last
    session.take_best()
    stores = run.judged.query, run.judged.gallery
    judged = judge(session.result, *stores, evaluation, run.compute, run.job.progress)
    return with_unknown_cameras(run, judged)


def kept_values(run: Run, judged: Judgement) -> dict[str, float]:
    """The scores of the model that the run keeps, by tracked name.

    The raw weights of the best epoch are not kept: their scores are those of that epoch's row in the history.
    """
    session, split = run.session, run.settings.eval.split
    values = judged_values(split, judged)
    if session.best is not None:
        (row,) = (row for row in session.history if row["epoch"] == session.kept_epoch)
        values |= {name: value for name, value in row.items() if name.startswith(f"{split}/raw/")}
    return values


def conclusion(run: Run, tracker: Tracker, last: Judgement) -> dict[str, float]:
    """The model and what there is to look at, written and tracked; the scores of the run.

    last: the judgement of the model that is kept.
    """
    job, settings, session = run.job, run.settings, run.session
    if (job.folder / "history.csv").exists():
        tracker.artifact(job.folder / "history.csv")
    tracker.text(query_csv({settings.eval.split: last}), QUERIES)
    data = fingerprint(run.judged.fingerprint)
    if last.without_camids is not None:
        session.meta[WITHOUT_CAMIDS] = {
            "mAP": last.scores.mAP, "mAP_without": last.without_camids.mAP, "split": settings.eval.split,
        }  # fmt: skip
    own = settings.dataset.get("left_out") is None
    session.meta[SCORES] = stored_scores(last, run.evaluation, settings.dataset["name"], own, data)
    trained = session.finish()
    card = model_card(session.meta_of_result())
    written = tracker.text(card, card_path(trained).name)
    if settings.tracking.checkpoint != "none":
        tracker.model(
            trained, written, height=settings.image.height, width=settings.image.width,
            embedding_size=session.model.embedding_size, step=session.kept_epoch,
        )  # fmt: skip
    with job.stop.in_one_piece():  # what is raised below matplotlib's C++ arrives as a ValueError
        drawn = run_figures.draw(
            job.folder,
            session.history,
            last,
            run.dataset,
            run.judged.rows_of(run.evaluation),
            job.name,
            run.evaluation.protocol,
        )
    for path, shows_people in drawn:
        if settings.tracking.images or not shows_people:
            tracker.artifact(path, "figures")
    tracker.description(card)
    scores = kept_values(run, last)
    job.status.epoch = session.kept_epoch
    if session.best is not None:
        tracker.kept(scores, session.kept_epoch)
    return scores


def trackable(values: Mapping[str, float]) -> dict[str, float]:
    """The numbers that the tracker shows: not the epoch, nor what does not exist (a hardest positive where K
    is 1)."""
    return {name: value for name, value in values.items() if name != "epoch" and math.isfinite(value)}
