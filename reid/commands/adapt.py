"""A trained model adapted to cameras of which nobody has labels: clusters stand in for people.

In each round the model embeds the target's crops, DBSCAN groups them by the Jaccard distance of their
neighbourhoods, crops in no cluster are left out, and the model is trained on the clusters as if they were
people, by the loop, the losses and the batches of `reid.train`. Its classifier is new in each round, since
clusters have no names that last.

The method is that of UDA_TP (Song et al., arXiv 1807.11334). Its numbers and those of its successors:

    min_samples 4, k2 6                     SpCL (Ge et al., NeurIPS 2020, arXiv 2006.02713), Cluster Contrast
                                            (Dai et al., arXiv 2103.11568), with k1 30 and eps 0.6, or others
                                            by dataset; see below
    Adam at 3.5e-4, weight decay 5e-4       SpCL, Cluster Contrast
    16 clusters x 4 crops a batch           MMT (Ge et al., ICLR 2020, arXiv 2001.01526) and both above
    new classifier, the means of clusters   MMT with DBSCAN, in the authors' code: rows of length 1
    a new optimizer in each round           the same
    mean teacher                            MMT; `ema.decay=0.999` clusters and keeps the averaged weights

eps is 0.4 and k1 is 20 here, chosen on drawn people whom no study judges (`dataset.seed=7`, 14 crops each).
There eps 0.6 with k1 30 joins nearly all crops into one cluster. So does any eps that is too large for a
target: look at the number of clusters, and sweep it.

What differs: the Jaccard distance is that of this suite's re-ranking (the authors take k1 neighbours where it
takes k1 + 1), an image's distances are divided by its largest one before they become weights, a round has few
steps and a cosine of its own, and the loss is the suite's. Published runs have 20,000 steps in 50 rounds and
no rule to stop.

It stops by what can be seen without labels: clusters that stay as they were, see `is_stable`. Labels that the
target has are judged by, and nothing else: not trained on, not stopped by, and no round is chosen by its
score.
"""

import csv
import io
import logging
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from reid.commands.threshold import trained_images
from reid.commands.train import Fit, epoch, trackable, trained_network, trainee, training_batches
from reid.config.checks import ConfigError
from reid.config.identity import changed, config_hash, flat, resume_hash
from reid.config.schema import AdaptConfig, AdaptKeys, EvalConfig
from reid.config.settings import adapt_settings, as_trained, with_network_of
from reid.config.trial import check_built
from reid.data import IdentitySampler, ReidDataset
from reid.data.batches import plain_batches
from reid.data.division import validation_split
from reid.data.image_store import ImageStore
from reid.data.unlabelled import Target, read_target, with_crops_of
from reid.engine.average import WeightAverage
from reid.engine.batch_norm import batch_norms, estimate_statistics
from reid.engine.card import TRAINED_ON, card_path, model_card, seen_data
from reid.engine.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from reid.engine.checkpoint_meta import ADAPTATION
from reid.engine.checkpoint_source import find_checkpoint, with_data_now
from reid.engine.collapse import collapse
from reid.engine.compute import Compute, work_bytes
from reid.engine.describe import checkpoint_meta, data_input, rebuild_model, take_normalisation
from reid.engine.finite import DivergedError
from reid.engine.prepare import (
    CAMERAS_UNKNOWN,
    JudgedData,
    TrainingData,
    check_balanced,
    check_judgeable,
    fingerprint,
    fingerprint_of,
    open_judged_data,
    open_target_crops,
    pseudo_labelled,
    with_protocol_of,
)
from reid.engine.rundir import LAST
from reid.engine.runtime import seed_everything
from reid.engine.session import Session
from reid.errors import RunError
from reid.figures import adaptation_rounds, save
from reid.home import home
from reid.jobs.console import epoch_line, score_table, tracked_as
from reid.jobs.job import Job
from reid.judging.embed import embed
from reid.judging.judge import Judgement, describe, judge, judged_rows, judged_values
from reid.judging.queries import QUERIES, query_csv
from reid.judging.stored_scores import KEY as SCORES
from reid.judging.stored_scores import stored_scores
from reid.models import ReidModel, described_head
from reid.models.weights import file_sha256
from reid.retrieval import EvaluationError
from reid.retrieval.clusters import OUTLIER, Clusters, agreement, cluster
from reid.retrieval.nearest import CHUNK_BYTES
from reid.tracking import JOURNAL, Tracker, default_store
from reid.tracking.journal import replace_text
from reid.words import percent

log = logging.getLogger(__name__)

#: The rows of `history.csv`, a round each.
HISTORY, CLUSTERS, FIGURE = "history.csv", "clusters.csv", "rounds.png"
#: Between the split and the score, of the model whose batch norms alone are the target's.
NORMS = "batch_norm"
#: What the batch norms alone leave of what a checkpoint says of itself. A threshold and a calibration do not
#: stay: the distances are others.
_STAYS = (
    "model", "preprocessing", "dataset", "pids", "eval", "config", "config_hash", "resume_hash",
    "train_fingerprint", "begun", "teacher", "progress", "converted", ADAPTATION,
)  # fmt: skip
#: How features are compared stays as the model was trained, unless something else is typed.
_SPACE = ("metric", "feature_norm", "neck_feature", "flip")
#: Keys that may change where an adaptation goes on: when it stops, and where its model lies.
_MAY_CHANGE = ("adapt.rounds", "adapt.patience", "adapt.stability", "checkpoint")
#: Seeds of two rounds lie so far apart, so that seeds 0, 1, 2, … of a sweep have no round in common.
_SEEDS = 100_000


class AdaptationError(RunError):
    """The clusters of a round cannot be trained on; the message says which key to change."""


@dataclass(frozen=True)
class Inputs:
    """The target's crops, and what it is judged on, where it has labels for that."""

    target: Target
    store: ImageStore
    evaluation: EvalConfig
    judged: JudgedData | None
    fingerprint: str

    @property
    def camids(self) -> torch.Tensor | None:
        """(N,) int64; None where the cameras are unknown."""
        return self.store.camids if self.target.cameras else None

    def true_labels(self) -> torch.Tensor | None:
        """(N,) int64, the pids of the target's crops, for judging alone; None where they have none."""
        labelled = self.target.labelled
        if labelled is None:
            return None
        pid_of = {crop.path: crop.pid for crop in labelled.train}
        pids = [pid_of.get(crop.path) for crop in self.store.crops]
        return None if None in pids else torch.tensor(pids)


@dataclass
class State:
    """How far an adaptation is: `model` and `meta` are those after `round` complete rounds.

    labels: (N,) int64, the clusters that the last round was trained on; empty before the first.
    stable: how many rounds in a row had stable clusters. rows: what `history.csv` holds.
    """

    model: Mapping[str, torch.Tensor]
    meta: dict[str, Any]
    round: int = 0
    stable: int = 0
    labels: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    rows: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Adaptation:
    """One adaptation under way; nothing but `state` changes."""

    job: Job
    settings: AdaptConfig
    compute: Compute
    inputs: Inputs
    origin: Mapping[str, object]
    state: State

    def save(self) -> None:
        """Write `last.pt`, from which a killed adaptation goes on."""
        state = self.state
        training = {
            "adaptation": {
                "round": state.round, "stable": state.stable, "labels": state.labels, "rows": state.rows,
                "data": self.inputs.fingerprint, "config": flat(self.settings),
            }
        }  # fmt: skip
        save_checkpoint(self.job.folder / LAST, Checkpoint(state.model, state.meta, training))

    def model(self) -> ReidModel:
        """The model as the last complete round has left it."""
        return self.compute.place(rebuild_model(Checkpoint(self.state.model, self.state.meta, {})))

    def features(self, model: ReidModel, neck_feature: str, what: str) -> torch.Tensor:
        """(N, D), those of the target's crops; of any length."""
        own, model.eval_feature = model.eval_feature, neck_feature
        found = embed(
            model, self.inputs.store, self.compute, normalise=False, batch=self.settings.eval.batch,
            progress=self.job.progress, what=what,
        )  # fmt: skip
        model.eval_feature = own
        return found.features.clone()  # an ordinary tensor, whose like may become weights

    def judgement(self, model: ReidModel, final: bool = False) -> Judgement | None:
        """The model judged by the target's labels, re-ranked where that is asked for in the end; None without
        labels."""
        judged = self.inputs.judged
        if judged is None:
            return None
        evaluation = self.inputs.evaluation if final else replace(self.inputs.evaluation, rerank=False)
        return judge(model, judged.query, judged.gallery, evaluation, self.compute, self.job.progress)

    def record(self, row: dict[str, float]) -> None:
        """Take a round into the history, on the disk and in memory."""
        self.state.rows.append(row)
        names = list(dict.fromkeys(name for one in self.state.rows for name in one))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.state.rows)
        replace_text(self.job.folder / HISTORY, text.getvalue())


def run(job: Job) -> dict[str, float]:
    """The job of the command, from its composed config on."""
    return adapt(job, adapt_settings(job.config))


def adapt(job: Job, typed: AdaptConfig) -> dict[str, float]:
    """One adaptation from checkpoint to checkpoint; scores (fractions) where the target has labels to judge
    by."""
    source = find_checkpoint(typed.checkpoint, typed.tracking.uri)
    parent = with_data_now(load_checkpoint(source), typed.data.root)
    space = {key: parent.meta["eval"][key] for key in _SPACE if key in parent.meta["eval"]}
    settings = with_network_of(
        replace(typed, eval=as_trained(typed.eval, space, job.overrides)),
        {**parent.meta["model"], "head": described_head(parent.meta["model"])},
        parent.meta["preprocessing"],
        job.overrides,
    )
    check_built(settings)
    refuse_unfit(settings, parent)
    compute = Compute.set_up(
        settings.device, settings.precision, channels_last=settings.channels_last, compile=settings.compile,
        deterministic=settings.deterministic,
    )  # fmt: skip
    sha256 = file_sha256(source)
    inputs_now = cache(lambda: read_inputs(job, settings, sha256))
    job.resume(
        typed.resume, config_hash(typed), str(settings.dataset["root"]), settings.sweep.take,
        lambda: inputs_now().fingerprint,
    )  # fmt: skip
    if job.found_a_run and (scores := job.taken(inputs_now().fingerprint)) is not None:
        return scores
    inputs = inputs_now()
    warn_of_trained(parent.meta, inputs.target)
    origin = origin_of(source, sha256, parent.meta)
    if job.resuming:
        state = resumed(job, settings, inputs, sha256)
    else:
        state = begun(settings, inputs, parent, sha256, origin)
    adaptation = Adaptation(job, settings, compute, inputs, origin, state)
    say_what(adaptation, source)
    if not job.resuming and not (job.folder / JOURNAL).exists():
        adaptation.save()
        job.save_status()
    with job.track(replace(settings, eval=inputs.evaluation), facts(adaptation, parent.meta)) as tracker:
        name, image = settings.dataset["name"], settings.image
        tracker.inputs([data_input(name, fingerprint_of(inputs.store), "adaptation", image, inputs.store)])
        if inputs.judged is not None:
            stores = inputs.judged.query, inputs.judged.gallery
            tracker.inputs([data_input(name, fingerprint(inputs.judged.fingerprint), "eval", image, *stores)])
        for row in state.rows:  # what a kill kept from the tracker; what it has already is not sent again
            tracker.metrics(trackable_row(row), int(row["round"]))
        if not state.rows:
            before_any_round(adaptation, tracker)
        if settings.adapt.batch_norm_only:
            stopped = estimate(adaptation, tracker)
        else:
            stopped = rounds(adaptation, tracker)
        return conclusion(adaptation, tracker, stopped)


def refuse_unfit(settings: AdaptConfig, parent: Checkpoint) -> None:
    """Raises ConfigError for a model that cannot be adapted."""
    name = parent.meta["model"]["backbone"]["name"]
    if parent.meta["model"]["backbone"].get("cameras"):
        raise ConfigError(
            f"checkpoint={settings.checkpoint} has learnt the cameras of its training set "
            "(backbone.cameras), and a target has others. Adapt a model that was trained with "
            "backbone.cameras=null"
        )
    if settings.adapt.batch_norm_only and not batch_norms(rebuild_model(parent)):
        raise ConfigError(
            f"adapt.batch_norm_only=true does not fit {name}: it has no batch norms. Leave it out, and the "
            "whole network is adapted"
        )


def read_inputs(job: Job, settings: AdaptConfig, sha256: str) -> Inputs:
    """The target, decoded; people are held out of it by `eval.split=val` where it has labels.

    Raises:
        DatasetError, ConfigError: nothing to adapt to, or nobody to hold out.
    """
    target = read_target(settings.dataset, settings.adapt.labels, job.progress)
    labelled = target.labelled
    if settings.eval.split == "val":
        if labelled is None or {crop.path for crop in labelled.train} != {crop.path for crop in target.crops}:
            raise ConfigError(
                f"eval.split=val holds out people by their labels, and the crops of {target.name} have none. "
                "Leave eval.split=test"
            )
        split = validation_split(labelled, settings.eval.val_identities, settings.eval.val_seed)
        target, labelled = with_crops_of(target, split), split
    evaluation = settings.eval
    judged = None
    if labelled is not None:
        evaluation = with_protocol_of(labelled, settings.eval, job.overrides)
        if is_judgeable(labelled, evaluation):
            judged = open_judged_data(
                labelled, settings.image, settings.data, job.progress, evaluation.protocol
            )
    if settings.adapt.camera_aware and not target.cameras:
        raise ConfigError(
            f"adapt.camera_aware=true does not fit {target.name}, whose cameras are unknown. Leave it out, "
            "or name the cameras: a column camid, _c1 in the files' names, or folders cam1, cam2, …"
        )
    store = open_target_crops(target.crops, settings.image, settings.data, job.progress)
    parts = [fingerprint_of(store), *([] if judged is None else [judged.fingerprint]), sha256]
    return Inputs(target, store, evaluation, judged, fingerprint(*parts))


def is_judgeable(labelled: ReidDataset, evaluation: EvalConfig) -> bool:
    """Whether some query has a match; otherwise it is said that nothing is judged."""
    try:
        check_judgeable(labelled, evaluation)
    except EvaluationError as error:
        log.warning("%s cannot be judged on, so no score is computed: %s", labelled.name, error)
        return False
    return True


def warn_of_trained(parent: Mapping[str, Any], target: Target) -> None:
    """Warn where crops or people of the target were trained on with labels, by the place of their images."""
    dataset = parent["dataset"]
    if ADAPTATION in parent or not Path(dataset.get("root", "/nowhere")).exists():
        return
    images = trained_images(dict(parent))
    labelled = target.labelled
    shown = [] if labelled is None else [*labelled.train, *labelled.query, *labelled.gallery]
    people = {crop.pid for crop in shown if crop.path in images}
    crops = sum(crop.path in images for crop in target.crops)
    if crops or people:
        whom = f", and {len(people):,} of its people" if people else ""
        log.warning(
            "%d of the %d crops of %s%s were trained on with their labels by the model that is adapted: "
            "scores on these people promise too much of other cameras",
            crops, len(target.crops), target.name, whom,
        )  # fmt: skip


def origin_of(source: Path, sha256: str, parent: Mapping[str, Any]) -> dict[str, object]:
    """What the tracker and the checkpoint say of the model that an adaptation begins with."""
    run_id = parent.get("run_id")
    return {
        "reid.init_from": f"{source.parent.name}/{source.name}",
        "reid.init_from.sha256": sha256,
        TRAINED_ON: ", ".join(seen_data(parent)),
        **({"reid.init_from.run_id": run_id} if run_id else {}),
    }


def begun(
    settings: AdaptConfig, inputs: Inputs, parent: Checkpoint, sha256: str, origin: Mapping[str, object]
) -> State:
    """The state before the first round: the parent's model, which says of itself that it is to be adapted."""
    meta = {key: value for key, value in parent.meta.items() if key in _STAYS}
    description = description_of(settings, inputs, sha256, 0, None)
    return State(dict(parent.model), meta | {ADAPTATION: description})


def description_of(
    settings: AdaptConfig, inputs: Inputs, sha256: str, rounds: int, clusters: Clusters | None
) -> dict[str, Any]:
    """What a checkpoint says of its adaptation: plain JSON, without a name of a person or a folder."""
    return {
        "parent_sha256": sha256,
        "target": str(settings.dataset["name"]),
        "images": len(inputs.store),
        "labels": "judging alone" if inputs.target.labelled is not None else "none",
        "pids": "pseudo-labels" if clusters is not None else "of the parent",
        "batch_norm_only": settings.adapt.batch_norm_only,
        "rounds": rounds,
        **({} if clusters is None else {"clusters": clusters.count, "outliers": clusters.outliers}),
    }


def resumed(job: Job, settings: AdaptConfig, inputs: Inputs, sha256: str) -> State:
    """The state that `last.pt` holds.

    Raises:
        CheckpointError: it began with another model, with other keys or on other data, or holds no
            adaptation.
    """
    path = job.folder / LAST
    checkpoint = load_checkpoint(path)
    kept = checkpoint.training.get("adaptation")
    if kept is None or ADAPTATION not in checkpoint.meta:
        raise CheckpointError(f"{path} holds no adaptation to go on with. To begin anew set resume=null")
    if checkpoint.meta[ADAPTATION]["parent_sha256"] != sha256:
        raise CheckpointError(
            f"{path} began with another checkpoint of this name. To begin anew set resume=null"
        )
    if kept["data"] != inputs.fingerprint:
        raise CheckpointError(
            f"{path} was begun on other crops than lie there now. To begin anew set resume=null"
        )
    now = flat(settings)
    keys = [key for key in changed(kept["config"], now) if not key.startswith(_MAY_CHANGE)]
    if kept["config"]["epochs"] != settings.epochs:
        keys.append(f"epochs was {kept['config']['epochs']}, is {settings.epochs}")
    if keys:
        raise CheckpointError(
            f"{path} was begun with other keys ({'; '.join(keys)}). To begin anew set resume=null"
        )
    state = State(
        checkpoint.model, checkpoint.meta, kept["round"], kept["stable"], kept["labels"], list(kept["rows"])
    )
    job.console.print(f"resumed after round {state.round}")
    return state


def say_what(adaptation: Adaptation, source: Path) -> None:
    """The first lines: model, target, and what labels are used for."""
    job, inputs, compute = adaptation.job, adaptation.inputs, adaptation.compute
    target = inputs.target
    cameras = f"{len(inputs.store.camids.unique())} cameras" if target.cameras else "cameras unknown"
    lines = [
        f"{job.name} on {compute.device}, {adaptation.settings.precision}; run folder {job.folder}",
        f"model: {source}; target: {target.name}, {len(inputs.store):,} crops, {cameras}",
    ]
    if inputs.judged is not None:
        lines.append(
            f"labels: used for judging alone ({len(inputs.judged.query):,} queries, "
            f"{len(inputs.judged.gallery):,} in the gallery), never for training nor stopping"
        )
    elif target.labelled is not None:
        lines.append("labels: they cannot be judged by, as is said above")
    else:
        lines.append("labels: none, so nothing is judged")
    if inputs.store.bad:
        lines.append(f"left out: {len(inputs.store.bad)} unreadable")
    for line in lines:
        job.console.print(line, highlight=False, soft_wrap=True)


def facts(adaptation: Adaptation, parent: Mapping[str, Any]) -> dict[str, object]:
    """What the tracker shows of an adaptation beside its config and its machine."""
    inputs, settings = adaptation.inputs, adaptation.settings
    return {
        "reid.kind": "adaptation",
        "reid.config_hash": adaptation.job.status.config_hash,
        "reid.data.fingerprint": inputs.fingerprint,
        "reid.data.name": inputs.target.name,
        "reid.data.training": f"{len(inputs.store)} crops without labels",
        "reid.data.labels": adaptation.state.meta[ADAPTATION]["labels"],
        "reid.data.unreadable": len(inputs.store.bad),
        **({} if inputs.target.cameras else {"reid.data.cameras": CAMERAS_UNKNOWN}),
        "reid.trained_on": ", ".join(seen_data(parent)),
        "reid.score_split": settings.eval.split,
        "reid.selection": "last round; stopped by the clusters alone, nothing was chosen by labels",
        **adaptation.origin,
    }


def before_any_round(adaptation: Adaptation, tracker: Tracker) -> None:
    """Row 0 of the history: the scores of the model as it comes, and with the batch norms of the target.

    The first clusters decide what is learnt, and those of a network whose batch norms expect other cameras
    are few and mixed.
    """
    model, state = adaptation.model(), adaptation.state
    row = {"round": 0.0} | scores_of(adaptation, model)
    keys, split = adaptation.settings.adapt, adaptation.settings.eval.split
    first = keys.batch_norm_first and not keys.batch_norm_only and bool(batch_norms(model))
    if first:
        estimate_on_target(adaptation, model)
        with_norms = scores_of(adaptation, model)
        row |= {
            name.replace(f"{split}/", f"{split}/{NORMS}/", 1): value for name, value in with_norms.items()
        }
        state.model = on_cpu(model)
    adaptation.record(row)
    adaptation.save()
    report(adaptation, tracker, row)
    if first:
        known = f"; mAP {percent(row[f'{split}/{NORMS}/mAP'])} on {split}" if len(row) > 1 else ""
        line = f"batch norms with the statistics of the target (adapt.batch_norm_first){known}"
        adaptation.job.console.print(line, highlight=False, soft_wrap=True)


def on_cpu(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.cpu().clone() for name, tensor in model.state_dict().items()}


def scores_of(adaptation: Adaptation, model: ReidModel) -> dict[str, float]:
    judgement = adaptation.judgement(model)
    return {} if judgement is None else judged_values(adaptation.settings.eval.split, judgement)


def report(adaptation: Adaptation, tracker: Tracker, row: dict[str, float]) -> None:
    """A round on the terminal and in the tracker."""
    tracker.metrics(trackable_row(row), int(row["round"]))
    split = adaptation.settings.eval.split
    parts = [f"round {row['round']:3.0f}"]
    if "clusters/count" in row:
        parts.append(f"{row['clusters/count']:,.0f} clusters, {percent(row['clusters/outliers'])} in none")
    if "clusters/agreement" in row:
        parts.append(f"agreement with the round before {row['clusters/agreement']:.3f}")
    if f"{split}/mAP" in row:
        parts.append(
            f"mAP {percent(row[f'{split}/mAP'])}, rank-1 {percent(row[f'{split}/rank-1'])} on {split}"
        )
    before = " (as the model comes)" if row["round"] == 0 else ""
    adaptation.job.console.print("; ".join(parts) + before, highlight=False, soft_wrap=True)


def trackable_row(row: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in trackable(row).items() if name != "round"}


def estimate(adaptation: Adaptation, tracker: Tracker) -> str:
    """AdaBN in place of rounds: the batch norms get the target's statistics; why it ended, in words."""
    state = adaptation.state
    if state.round == 0:
        model = adaptation.model()
        estimate_on_target(adaptation, model)
        state.model = on_cpu(model)
        row = {"round": 1.0} | scores_of(adaptation, model)
        state.round = 1
        adaptation.record(row)
        adaptation.save()
        report(adaptation, tracker, row)
    return "the statistics of the batch norms are the target's; nothing was trained"


def estimate_on_target(adaptation: Adaptation, model: ReidModel) -> None:
    """Give the batch norms of `model` the statistics of the target's crops, in place.

    Raises:
        AdaptationError: there are fewer than two crops.
    """
    job, settings, store = adaptation.job, adaptation.settings, adaptation.inputs.store
    order = torch.randperm(len(store), generator=torch.Generator().manual_seed(settings.seed))
    shuffled = store.subset([store.crops[index] for index in order.tolist()])
    size = settings.eval.batch
    batches = plain_batches(
        shuffled, size, adaptation.compute.device, stream=adaptation.compute.copy_stream,
        normalisation=model.normalisation,
    )  # fmt: skip
    shown = job.progress(batches, -(-len(store) // size), "batch norms")
    with job.stop.in_one_piece():
        try:
            estimate_statistics(model, shown, adaptation.compute)
        except ValueError as error:
            raise AdaptationError(f"the batch norms of {adaptation.inputs.target.name}: {error}") from error


def rounds(adaptation: Adaptation, tracker: Tracker) -> str:
    """All rounds that are left; why they ended, in words."""
    state, keys = adaptation.state, adaptation.settings.adapt
    while state.round < keys.rounds:
        number = state.round + 1
        folder = adaptation.job.folder / f"round_{number:02}"
        folder.mkdir(exist_ok=True)
        model = adaptation.model()
        features = adaptation.features(model, "after", f"crops for round {number}")
        clusters = clusters_of(adaptation, model, features, folder)
        stable = state.stable
        row: dict[str, float] = {"round": float(number)}
        row |= {"clusters/count": clusters.count, "clusters/outliers": clusters.outliers}
        if state.round:
            row["clusters/agreement"] = agreement(state.labels, clusters.labels)
            stable = state.stable + 1 if is_stable(Clusters(state.labels), clusters, keys.stability) else 0
        if stable >= keys.patience:
            return (
                f"the clusters stayed as they were for {stable} rounds (agreement "
                f"{row['clusters/agreement']:.3f}, adapt.stability={keys.stability})"
            )
        refuse_unworkable(clusters, adaptation.settings, number, adaptation.job.folder / LAST)
        truth = adaptation.inputs.true_labels()
        if truth is not None:
            row["clusters/agreement_with_labels"] = agreement(truth, clusters.labels)
        row |= train_round(adaptation, number, folder, clusters, clusters.means(features), row)
        state.round, state.stable, state.labels = number, stable, clusters.labels
        adaptation.record(row)
        adaptation.save()
        with suppress(OSError):  # three times the model's size, and not needed any more
            (folder / LAST).unlink()
        report(adaptation, tracker, row)
    return f"adapt.rounds={keys.rounds} are done, and the clusters went on moving until then"


def clusters_of(adaptation: Adaptation, model: ReidModel, features: torch.Tensor, folder: Path) -> Clusters:
    """The clusters of a round; a round that was cut short goes on with those that it began with."""
    file, crops = folder / CLUSTERS, adaptation.inputs.store.crops
    if (folder / LAST).exists() and file.exists():
        with file.open(newline="", encoding="utf-8") as handle:
            labels = [int(row["cluster"] or OUTLIER) for row in csv.DictReader(handle)]
        if len(labels) == len(crops):
            return Clusters(torch.tensor(labels))
    settings = adaptation.settings
    if settings.eval.neck_feature != "after":
        features = adaptation.features(model, settings.eval.neck_feature, "crops before the neck")
    keys = settings.adapt
    camids = None if keys.camera_aware is False else adaptation.inputs.camids
    work = work_bytes(features.device, CHUNK_BYTES)
    found = cluster(features, keys.eps, keys.min_samples, keys.k1, keys.k2, camids, work)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "cluster"])
    for crop, label in zip(crops, found.labels.tolist(), strict=True):
        writer.writerow([crop.path, "" if label == OUTLIER else label])
    replace_text(file, text.getvalue())
    return found


def is_stable(before: Clusters, now: Clusters, stability: float) -> bool:
    """Whether a round's clusters are those of the round before, as far as that can be seen without labels.

    Their adjusted mutual information is `stability` or more, and both the number of clusters and the share of
    crops in them have changed by no more than a share of 1 - `stability` (or by one cluster).
    """
    moved = 1 - stability
    kept, keeps = 1 - before.outliers, 1 - now.outliers
    return (
        agreement(before.labels, now.labels) >= stability
        and abs(now.count - before.count) <= max(1, moved * before.count)
        and abs(keeps - kept) <= moved * kept
    )


def refuse_unworkable(clusters: Clusters, settings: AdaptConfig, number: int, last: Path) -> None:
    """Refuse clusters that cannot be trained on.

    number: of the round, from 1. last: the file that holds the model of the round before.

    Raises:
        AdaptationError: all crops are outliers or in one cluster, or there are fewer clusters than a batch
            takes.
    """
    keys, needed, crops = settings.adapt, settings.batch.identities, len(clusters.labels)
    how = f"adapt.eps={keys.eps:g}, adapt.min_samples={keys.min_samples}"
    if clusters.count == 0:
        problem = (
            f"none of the {crops:,} crops has {keys.min_samples} neighbours, so all are outliers ({how}). "
            f"Raise adapt.eps, such as adapt.eps={min(0.9, round(keys.eps + 0.1, 2)):g}, or lower "
            "adapt.min_samples; crops of people who were each seen once cannot be clustered"
        )
    elif clusters.count == 1:
        problem = (
            f"all crops that are no outliers lie in one cluster, which teaches nothing ({how}). Lower "
            f"adapt.eps, such as adapt.eps={max(0.1, round(keys.eps - 0.1, 2)):g}"
        )
    elif clusters.count < needed:
        problem = (
            f"{clusters.count} clusters of {crops:,} crops, {percent(clusters.outliers)} of them in none, "
            f"are fewer than batch.identities={needed} ({how}). Set batch.identities={clusters.count} or "
            "fewer; " + ("raise" if clusters.outliers > 0.5 else "lower") + " adapt.eps, or give more crops"
        )
    else:
        return
    kept = f" {last} holds the model after round {number - 1}." if number > 1 else ""
    first = "" if number > 1 else " adapt.batch_norm_only=true needs no clusters."
    raise AdaptationError(f"round {number}: {problem}.{first}{kept}")


def train_round(
    adaptation: Adaptation,
    number: int,
    folder: Path,
    clusters: Clusters,
    means: torch.Tensor,
    row: Mapping[str, float],
) -> dict[str, float]:
    """Train the model of the state on the clusters, as a child run; puts the result into the state.

    means: (clusters, D), of the features after the neck. row: what is known of the round already.
    Returns the values of its last epoch, and its scores.
    """
    job, state = adaptation.job, adaptation.state
    training = pseudo_labelled(adaptation.inputs.store, clusters.labels)
    seed = adaptation.settings.seed + _SEEDS * number
    settings = replace(adaptation.settings, seed=seed, epochs=epochs_of(adaptation.settings, training))
    seed_everything(settings.seed)
    fit = fit_of(adaptation, settings, training, folder, means)
    session, split = fit.session, settings.eval.split
    tags = {
        "reid.kind": "round",
        "reid.round": number,
        "reid.score_split": split,
        "reid.data.name": adaptation.inputs.target.name,
        "reid.data.training": f"{len(training.store)} crops in {clusters.count} clusters",
    }
    with Tracker.start(
        default_store(home(), settings.tracking.uri), settings.tracking.experiment, folder, f"round {number}",
        tags=tags, params=flat(settings), parent=job.folder, resume=True,
    ) as child:  # fmt: skip
        child.metrics(trackable_row(row), 0)
        for past in session.history:
            child.metrics(trackable(past), int(past["epoch"]))
        values: dict[str, float] = dict(session.history[-1]) if session.history else {}
        network, batches = trained_network(fit), training_batches(fit)
        while session.epoch < settings.epochs:
            try:
                values = epoch(fit, network, batches)
            except DivergedError as error:
                child.tags({"reid.diverged": "true"})
                raise DivergedError(session.diverged(error, training.store)) from error
            if session.epoch == settings.freeze_epochs:
                network = trained_network(fit)
            child.metrics(trackable(values), session.epoch)
            job.console.print(epoch_line(session.epoch, settings.epochs, values), highlight=False)
            if trouble := collapse(values):
                log.warning("round %d, epoch %d: %s", number, session.epoch, trouble)
                child.tags({"reid.collapsed": f"in epoch {session.epoch}"})
        scores = scores_of(adaptation, session.result)
        child.metrics(scores, settings.epochs)
    meta = checkpoint_meta(adaptation.settings, training, session.model)
    sha256 = state.meta[ADAPTATION]["parent_sha256"]
    description = description_of(adaptation.settings, adaptation.inputs, sha256, number, clusters)
    state.model = on_cpu(session.result)
    state.meta = meta | {
        "begun": dict(adaptation.origin), ADAPTATION: description, "progress": {"epoch": session.epoch},
        "config_hash": job.status.config_hash,
        "run_id": job.tracker.run_id if job.tracker else None,
        "run_key": job.tracker.run_key if job.tracker else None,
    }  # fmt: skip
    shown = ("train/loss", "train/accuracy", "train/coverage")
    return {name: values[name] for name in shown if name in values} | scores


def epochs_of(settings: AdaptConfig, training: TrainingData) -> int:
    """The epochs of a round: `epochs`, or as many as `adapt.steps` batches take.

    An epoch ends when too few clusters have crops left for a batch. A few large clusters beside many small
    ones therefore make an epoch of some batches, which teach little.
    """
    batch = settings.batch
    generator = torch.Generator().manual_seed(settings.seed)
    sampler = IdentitySampler(training.labels.tolist(), batch.identities, batch.instances, generator)
    return max(settings.epochs, math.ceil(settings.adapt.steps / sum(1 for _ in sampler)))


def fit_of(
    adaptation: Adaptation, settings: AdaptConfig, training: TrainingData, folder: Path, means: torch.Tensor
) -> Fit:
    """The model with a new classifier, objective, optimizer and session of a round, or those that it had when
    it was cut short."""
    inputs, compute = adaptation.inputs, adaptation.compute
    crops = training.store.crops
    dataset = ReidDataset(
        inputs.target.name, inputs.target.root, crops, (), (), cameras=inputs.target.cameras
    )
    if settings.batch.cameras == "balanced":
        check_balanced(crops, dataset.name)
    model, objective, optimizers = trainee(settings, dataset, compute, resuming=True)
    own = model.state_dict()
    taken = {
        name: value for name, value in adaptation.state.model.items() if not name.startswith("classifier.")
    }
    model.load_state_dict({**own, **taken})
    take_normalisation(model, adaptation.state.meta["preprocessing"])
    name_classes(model, means)
    compute.place(model)
    if settings.ema.decay is not None:
        optimizers.average = WeightAverage(model, settings.ema.decay, settings.ema.warmup)
    for module in objective.learning:
        module.to(compute.device)
    meta = checkpoint_meta(settings, training, model) | {"begun": dict(adaptation.origin)}
    # When an adaptation stops may change where it goes on, within a round too; `resumed` compares the rest.
    meta["resume_hash"] = resume_hash(replace(settings, checkpoint="", adapt=AdaptKeys()))
    session = Session(folder, model, optimizers, compute, meta, objective.metric_loss, objective.criterion)
    if (folder / LAST).exists():
        session.resume(settings.epochs)
        adaptation.job.console.print(f"resumed within the round, after epoch {session.epoch}")
    else:
        session.start()
    return Fit(
        job=adaptation.job, settings=settings, compute=compute, training=training, objective=objective,
        session=session,
    )  # fmt: skip


@torch.no_grad()
def name_classes(model: ReidModel, means: torch.Tensor) -> None:
    """Let the classifier begin with the means of the clusters, each of length 1, in place.

    means: (classes, D), of the features that the classifier sees; those of several parts side by side. A head
        of the user's whose classifiers have other shapes keeps its new ones.
    """
    classifier = model.head.classifier
    parts = list(classifier) if isinstance(classifier, torch.nn.ModuleList) else [classifier]
    for part, mean in zip(parts, means.cpu().chunk(len(parts), dim=1), strict=False):
        weight = getattr(part, "weight", None)
        if weight is not None and weight.shape == mean.shape:
            weight.copy_(torch.nn.functional.normalize(mean))


def conclusion(adaptation: Adaptation, tracker: Tracker, stopped: str) -> dict[str, float]:
    """The adapted model and what there is to look at, written and tracked; the scores of the adaptation."""
    job, settings, inputs, state = adaptation.job, adaptation.settings, adaptation.inputs, adaptation.state
    job.console.print(f"stopped after round {state.round}: {stopped}", highlight=False, soft_wrap=True)
    model = adaptation.model()
    last = adaptation.judgement(model, final=True)
    meta = dict(state.meta)
    meta[ADAPTATION] = {**meta[ADAPTATION], "rounds": state.round, "stopped": stopped}
    if settings.adapt.batch_norm_only:
        meta |= {"run_id": tracker.run_id, "run_key": tracker.run_key}
    scores = {name: value for name, value in state.rows[-1].items() if name.startswith("clusters/")}
    if last is not None and inputs.judged is not None:
        data = fingerprint(inputs.judged.fingerprint)
        own = not settings.adapt.batch_norm_only
        meta[SCORES] = stored_scores(last, inputs.evaluation, settings.dataset["name"], own, data)
        scores |= judged_values(settings.eval.split, last)
        tracker.text(query_csv({settings.eval.split: last}), QUERIES)
        tracker.metrics(judged_values(settings.eval.split, last), state.round)
    trained = job.folder / "model.pt"
    save_checkpoint(trained, Checkpoint(state.model, meta, {}))
    card = model_card(meta)
    written = tracker.text(card, card_path(trained).name)
    if settings.tracking.checkpoint:
        tracker.model(
            trained, written, height=settings.image.height, width=settings.image.width,
            embedding_size=model.embedding_size, step=state.round,
        )  # fmt: skip
    tracker.artifact(job.folder / HISTORY)
    tracker.tags({"reid.stopped": stopped})
    truth = inputs.true_labels()
    people = None if truth is None else len(truth.unique())
    if any(len(row) > 1 for row in state.rows):
        with job.stop.in_one_piece():  # what is raised below matplotlib's C++ arrives as a ValueError
            figure = adaptation_rounds(
                state.rows, people, f"{job.name}: {inputs.target.name}, round by round"
            )
            tracker.artifact(save(figure, job.folder / "figures" / FIGURE), "figures")
    tracker.description(card)
    if last is not None:
        job.console.print(
            score_table(
                judged_rows("adapted", last, inputs.evaluation),
                describe(inputs.evaluation, inputs.target.name),
            )
        )
        key = f"{settings.eval.split}/mAP"
        job.console.print(
            f"mAP {percent(state.rows[0][key])} as the model came, {percent(scores[key])} adapted without "
            "labels"
        )
    uri = default_store(home(), settings.tracking.uri).public_uri
    for line in (
        f"the adapted model: {trained}; it has no threshold, since the distances are others now: measure one "
        "with python -m reid.threshold on people with labels",
        f"{HISTORY}, figures/ and the clusters of each round are in {job.folder}",
        tracked_as(tracker.run_id, uri, job.folder),
    ):
        job.console.print(line, highlight=False, soft_wrap=True)
    return scores
