"""Train a model and track the run: `python -m reid.train [key=value …]`, `--help` for the choices.

One story: read and check the data, build the model, train epoch by epoch, judge, save, draw.
"""

import logging
import math
from contextlib import nullcontext
from dataclasses import replace
from functools import cache

import torch
from rich.text import Text

from reid.config.checks import ConfigError
from reid.config.identity import config_hash
from reid.config.schema import TrainConfig
from reid.config.settings import train_settings
from reid.data.augment import Augmentation
from reid.data.batches import TrainingBatches
from reid.data.resident import resident_bytes
from reid.engine.checkpoint_source import find_checkpoint
from reid.engine.collapse import collapse
from reid.engine.describe import build_model, checkpoint_meta, describe_data, run_facts
from reid.engine.distributed import synchronise_batch_norm
from reid.engine.finite import DivergedError
from reid.engine.loop import train_epoch
from reid.engine.objective import Objective, build_metric_loss
from reid.engine.optimizers import build_loss_optimizer, build_optimizer, set_learning_rate
from reid.engine.prepare import (
    JudgedData,
    TrainingData,
    data_fingerprint,
    open_judged_data,
    open_training_data,
    read_dataset,
)
from reid.engine.runtime import choose_device, compiled, keep_resident, seed_everything, set_up_backend
from reid.engine.scaling import gradient_scaler
from reid.engine.schedule import scheduled_rate
from reid.engine.session import Session
from reid.engine.shared_neck import share_neck
from reid.engine.start import begin, open_start
from reid.engine.stop import Stopped
from reid.jobs import run_figures
from reid.jobs.console import epoch_line, say_where, score_line, score_table
from reid.jobs.job import Job
from reid.jobs.launch import launch
from reid.judging.judge import Judgement, check_memory, describe, judge_together, judged_rows, judged_values
from reid.judging.queries import QUERIES, query_csv
from reid.tracking import JOURNAL, Tracker

log = logging.getLogger(__name__)


def train(job: Job, settings: TrainConfig) -> dict[str, float]:
    """One run from config to scores (fractions, by the names that the tracker shows)."""
    show, world = job.console, job.world
    data_now = cache(lambda: data_fingerprint(settings, job.progress, job.overrides))
    data_root = str(settings.dataset["root"])
    job.resume(settings.resume, config_hash(settings), data_root, settings.sweep.take, data_now)
    # The scores of a finished run of this sweep's cell on the data of now; one begun is taken up.
    if job.found_a_run and (scores := job.taken(data_now())) is not None:
        return scores
    start = None
    if settings.init_from is not None and not job.resuming:
        with world.first_ahead():
            found = find_checkpoint(settings.init_from, settings.tracking.uri, "init_from")
            start = open_start(found, settings)
    device = choose_device(world.device(settings.device))
    set_up_backend(device, settings.precision, settings.compile, settings.deterministic)
    seed_everything(settings.seed)

    asked = settings
    # Of several processes the first one draws, fetches and decodes what is not there yet.
    with world.first_ahead():
        world.check_batch(settings.batch.identities, settings.batch.instances)
        dataset, all_training_crops, settings = read_dataset(settings, job.progress, job.overrides)
        identities = len({crop.pid for crop in dataset.train})
        model = build_model(settings, identities, job.resuming)
        if settings.sync_bn and world.size > 1:
            synchronise_batch_norm(model)
        if settings.freeze_bn:
            share_neck(model.bottleneck, world)
        metric_loss = build_metric_loss(settings.loss, identities, model.backbone.channels)
        optimizer = build_optimizer(model, settings.optimizer, metric_loss, device)
        id_weight, metric_weight = settings.loss["id_weight"], settings.loss["metric_weight"]
        objective = Objective(id_weight, metric_weight, settings.tricks.label_smoothing, metric_loss)
        together = f" by {world.size} processes" if world.size > 1 else ""
        begins = f" on {device}{together}, {settings.precision}; run folder {job.folder}"
        show.print(Text.assemble((job.name, "bold"), begins))
        begun: dict[str, object] = {}
        if not job.resuming:
            told, begun = begin(model, start)
            show.print(told, highlight=False)

        data = open_training_data(dataset, settings, job.progress, all_training_crops)
        judged = open_judged_data(
            dataset, settings.image, settings.data, job.progress, settings.eval.protocol
        )
        show.print(describe_data(dataset, data, judged), highlight=False)
        check_memory(len(judged.query), len(judged.gallery), model.backbone.channels, settings.eval, device)
    if not world.first:
        seed_everything(settings.seed + world.rank)  # the same weights, but dropout of its own
    model.to(device)
    if metric_loss is not None:
        metric_loss.to(device)
    loss_optimizer = build_loss_optimizer(metric_loss)
    if settings.channels_last:
        model.to(memory_format=torch.channels_last)

    meta = checkpoint_meta(asked, data, model) | {"begun": begun}
    session = Session(job.folder, model, optimizer, device, meta, metric_loss, loss_optimizer, world)
    session.scaler = gradient_scaler(device, settings.precision)
    if job.resuming:
        with world.first_ahead():
            begun = session.resume(settings.epochs)
        show.print(f"resumed after epoch {session.epoch}, step {session.totals.steps} of the next")
    elif not (job.folder / JOURNAL).exists():
        session.save()  # a kill from here on, such as while a store is made, finds a run to resume
        job.save_status()

    facts = run_facts(asked, dataset, data, judged) | {"reid.processes": world.size}
    with job.track(settings, facts | begun) as tracker:
        session.meta |= {"run_id": tracker.run_id, "run_key": tracker.run_key}
        # What a kill kept from the tracker; what it has already is not sent again.
        for row in session.history:
            tracker.metrics(finite(row), int(row["epoch"]))
        session.folder = job.folder  # beside Hydra's, where that holds a finished run
        if not job.resuming:
            session.save()
        try:
            last = _epochs(job, settings, session, objective, data, judged, tracker)
        except DivergedError as error:
            tracker.tags({"reid.diverged": "true"})
            raise DivergedError(session.diverged(error, data.store)) from error
        if last is None:  # the first process ranks, writes and draws
            return {}
        if (job.folder / "history.csv").exists():
            tracker.artifact(job.folder / "history.csv")
        tracker.text(query_csv({settings.eval.split: last}), QUERIES)
        trained = session.save_model()
        if settings.tracking.checkpoint:
            tracker.artifact(trained, "checkpoints")
        protocol = settings.eval.protocol
        with job.stop.deferred():  # what is raised below matplotlib's C++ arrives as a ValueError
            drawn = run_figures.draw(job.folder, session.history, last, dataset, judged, job.name, protocol)
        for path, shows_people in drawn:
            if settings.tracking.images or not shows_people:
                tracker.artifact(path, "figures")
        scores = judged_values(settings.eval.split, last)
        tracker.description(run_figures.summary(job.name, settings, scores))
    rows = judged_rows("last epoch", last, settings.eval)
    show.print(score_table(rows, describe(settings.eval, dataset.name)))
    say_where(job.console, settings, job.folder, session.history, tracker.run_id)
    return scores


def _epochs(
    job: Job,
    settings: TrainConfig,
    session: Session,
    objective: Objective,
    data: TrainingData,
    judged: JudgedData,
    tracker: Tracker,
) -> Judgement | None:
    """All epochs that are left, and the judgement after the last one; None where another process judges."""
    tricks, batch = settings.tricks, settings.batch
    augmentation = Augmentation(
        settings.image.flip, settings.image.padding, tricks.random_erasing, tricks.erasing_fill
    )
    world, device = job.world, session.device
    # Some of timm's networks hold parameters of a head that is left out here.
    network = world.parallel(session.model, device, settings.backbone.get("library") == "timm")
    if settings.compile:
        network = compiled(network)
    batches = TrainingBatches(
        data.store,
        data.labels,
        batch.identities,
        batch.instances,
        augmentation,
        settings.seed,
        device,
        world.share,
        keep_resident(settings.data.resident, resident_bytes(data.store), device),
    )

    def score(epoch: int) -> Judgement | None:
        # Re-ranking may take longer than an epoch: only the scores that a run ends with are worth it.
        asked = replace(settings.eval, rerank=False) if epoch < settings.epochs else settings.eval
        judgement = judge_together(
            session.model,
            judged.query,
            judged.gallery,
            asked,
            device,
            settings.precision,
            job.progress,
            world,
        )
        session.judged = True
        if judgement is None:
            return None
        values = judged_values(settings.eval.split, judgement)
        session.record(epoch, values)
        tracker.metrics(values, epoch)
        scores = judgement.scores
        job.console.print(score_line(epoch, scores, settings.eval.split))
        return judgement

    def due(epoch: int) -> bool:
        if epoch == 0:
            return settings.eval.at_start
        return epoch == settings.epochs or (settings.eval.period > 0 and epoch % settings.eval.period == 0)

    last: Judgement | None = None
    scored = warned = False
    if due(session.epoch) and not session.judged:
        last, scored = score(session.epoch), True
    while session.epoch < settings.epochs:
        epoch = session.epoch + 1
        lr = scheduled_rate(epoch, settings)
        set_learning_rate(session.optimizer, lr)
        plan = batches.plan(epoch)
        if settings.accumulate > len(plan):
            raise ConfigError(f"accumulate={settings.accumulate}: an epoch has only {len(plan)} batches")
        totals = session.totals
        steps = batches.of(plan, epoch, totals.steps)
        # A rank that stopped between the last step and the checkpoint would leave the others waiting there.
        with nullcontext() if world.size == 1 else job.stop.deferred(world.largest):
            try:
                train_epoch(
                    network,
                    session.optimizer,
                    objective,
                    job.progress(steps, len(plan) - totals.steps, f"epoch {epoch}/{settings.epochs}"),
                    totals,
                    job.stop,
                    device=device, precision=settings.precision, channels_last=settings.channels_last,
                    clip_norm=settings.clip_norm, accumulate=settings.accumulate,
                    loss_optimizer=session.loss_optimizer, scaler=session.scaler, world=world,
                )  # fmt: skip
            except Stopped as stopped:
                # Between two steps everything is consistent, but gradients half accumulated would be lost.
                if stopped.clean and settings.accumulate == 1:
                    session.save()
                raise
            # In one piece: a stop before the checkpoint would cost the epoch that has just ended.
            with job.stop.deferred():
                coverage = len(torch.cat(plan).unique()) / len(data.store)
                values = {
                    f"train/{k}": v for k, v in {**totals.means(), "lr": lr, "coverage": coverage}.items()
                }
                session.record(epoch, values)
                session.end_epoch()
                session.save(must=epoch == settings.epochs)
        tracker.metrics(finite(values), epoch)
        trouble = collapse(values)
        if trouble and not warned and epoch > tricks.warmup:  # before, an untrained network may look so
            log.warning("epoch %d: %s", epoch, trouble)
            tracker.tags({"reid.collapsed": f"since epoch {epoch}"})
            warned = True
        job.console.print(epoch_line(epoch, settings.epochs, values), highlight=False)
        if due(epoch):
            last, scored = score(epoch), True
            session.save()
            if last is not None:
                job.after_score(epoch, judged_values(settings.eval.split, last))
    return last if scored else score(session.epoch)


def finite(values: dict[str, float]) -> dict[str, float]:
    """The numbers to track: not the epoch, nor what does not exist (a hardest positive where K is 1)."""
    return {name: value for name, value in values.items() if "/" in name and math.isfinite(value)}


def main() -> None:
    """The command `python -m reid.train` and `reid-train`."""
    launch("train", lambda job: train(job, train_settings(job.config)), together=True)


if __name__ == "__main__":
    main()
