"""Which tracked runs somebody means, and what a run tells: shared by the subcommands of `reid.runs`."""

from __future__ import annotations

import itertools
import re
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reid.config.checks import nearest
from reid.home import home
from reid.tracking import RunRecord, TrackingError, run_folders, under_way

#: The shortest prefix of a run id that is shown.
SHORTEST = 8
STATUSES = ("FINISHED", "FAILED", "KILLED", "RUNNING")
_SECONDS = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
#: So many runs are taken of the store before it is looked whether they are enough.
_AT_ONCE = 200
#: A run that is no child, with its children.
Family = tuple[RunRecord, list[RunRecord]]
_FINGERPRINT = "reid.data.fingerprint"


@dataclass(frozen=True)
class RunScore:
    """mAP and rank-1 (fractions; None: not there) on `split`; `best` of a sweep's children."""

    split: str
    mAP: float | None
    rank1: float | None
    best: bool = False


@dataclass(frozen=True)
class RunFilter:
    """The filters that were typed; None lets everything through. older_than: seconds."""

    experiment: str | None = None
    status: str | None = None
    older_than: float | None = None

    def __bool__(self) -> bool:
        return (self.experiment, self.status, self.older_than) != (None, None, None)

    def fits(self, run: RunRecord, now: float) -> bool:
        """Whether a run passes; its age counts from its end, or from its start where it never ended."""
        age = now - (run.ended or run.started or now)
        return (
            self.experiment in (None, run.experiment)
            and self.status in (None, run.status)
            and (self.older_than is None or age > self.older_than)
        )


def seconds(text: str) -> float:
    """`30d`, `12h`, `90m` or `2w` in seconds. Raises ValueError for anything else."""
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw])", text)
    if parts is None:
        raise ValueError(f"{text!r} is no age: expected a number and m, h, d or w, such as 30d")
    return float(parts[1]) * _SECONDS[parts[2]]


def find_run(runs: Sequence[RunRecord], name: str) -> RunRecord:
    """The run of this id, or of the only id that begins so.

    Raises:
        TrackingError: naming the candidates of an ambiguous beginning, or what is near an unknown one.
    """
    found = [run for run in runs if run.run_id and run.run_id.startswith(name.lower())] if name else []
    if len(found) == 1:
        return found[0]
    if found:
        listed = "\n  ".join(_line(run) for run in found[:8])
        more = f"\n  … and {len(found) - 8} more" if len(found) > 8 else ""
        raise TrackingError(
            f"{name!r} begins the ids of {len(found)} runs; give more digits:\n  {listed}{more}"
        )
    named = [run for run in runs if run.name == name]
    if named:
        listed = "\n  ".join(_line(run) for run in named[:8])
        raise TrackingError(f"{name!r} is a run's name, not its id; meant may be:\n  {listed}")
    heads = [str(run.run_id)[: max(len(name), SHORTEST)] for run in runs]
    raise TrackingError(
        f"no run {name!r}.{nearest(name, heads)} Expected an id, or its beginning, as `python -m reid.runs "
        "list` shows it"
    )


def known_experiment(experiments: Iterable[str], name: str) -> None:
    """Raise TrackingError for an experiment that is not among these."""
    names = sorted(set(experiments))
    if name not in names:
        raise TrackingError(
            f"no runs of an experiment {name!r}.{nearest(name, names)} There are: "
            + (", ".join(names) or "none")
        )


def short_ids(runs: Sequence[RunRecord]) -> dict[str, str]:
    """For each id its beginning, as long as it takes to tell all of them apart."""
    ids = sorted(str(run.run_id) for run in runs)
    length = SHORTEST
    for first, second in itertools.pairwise(ids):
        common = next((i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b), len(first))
        length = max(length, common + 1)
    return {each: each[:length] for each in ids}


def families(runs: Sequence[RunRecord]) -> list[Family]:
    """Each run that is no child, with its children, oldest of these first; a child without its parent stands
    for itself. The order of `runs`, newest first, stays."""
    ids = {run.run_id for run in runs}
    heads = [run for run in runs if run.parent not in ids]
    kin: dict[str | None, list[RunRecord]] = {}
    for run in reversed(runs):
        if run.parent in ids:
            kin.setdefault(run.parent, []).append(run)
    return [(head, kin.get(head.run_id, [])) for head in heads]


def newest_families(
    runs: Iterable[RunRecord],
    limit: int,
    fits: Callable[[RunRecord], bool],
    those_there: Callable[[set[str]], set[str]],
) -> tuple[list[Family], list[RunRecord], bool]:
    """The newest families of which any run `fits`, `limit` of them at most, or all where it is 0.

    runs: newest first; no more of them are taken than it needs. those_there: which of these ids the store
    has. Returns the families, the runs that were taken, and whether older ones were left.
    """
    taken: list[RunRecord] = []
    there: dict[str, bool] = {}  # of the parents that were not taken, whether the store has them
    source, more = iter(runs), True
    while True:
        some = list(itertools.islice(source, _AT_ONCE))
        taken, more = taken + some, len(some) == _AT_ONCE
        if more and not limit:
            continue
        known = sorted(taken, key=_age) if not more else _of_known_families(taken, there, those_there)
        found = [family for family in families(known) if any(map(fits, [family[0], *family[1]]))]
        if not more:
            return found[: limit or None], taken, 0 < limit < len(found)
        # No run of a family is older than its head; one of the same age may come after it.
        if len(found) > limit and _age(taken[-1]) > _age(found[limit][0]):
            return found[:limit], taken, True


def _of_known_families(
    taken: Sequence[RunRecord], there: dict[str, bool], those_there: Callable[[set[str]], set[str]]
) -> list[RunRecord]:
    """Those of the newest runs whose head was taken too, or is gone; the families of the others are older."""
    ids = {str(run.run_id) for run in taken}
    outside = {run.parent for run in taken if run.parent and run.parent not in ids}
    if unknown := outside - there.keys():
        found = those_there(unknown)
        there |= {each: each in found for each in unknown}
    return [run for run in taken if run.parent not in outside or not there[run.parent]]


def _age(run: RunRecord) -> float:
    """Larger for an older run."""
    return -(run.started or 0.0)


def with_children(chosen: Sequence[RunRecord], runs: Sequence[RunRecord]) -> list[RunRecord]:
    """The chosen runs and all their children, each once, children before their parent."""
    ids = {run.run_id for run in chosen}
    below = [run for run in runs if run.parent in ids]
    wanted = ids | {run.run_id for run in below}
    return sorted((run for run in runs if run.run_id in wanted), key=lambda run: run.parent is None)


def run_score(run: RunRecord) -> RunScore:
    """The score that counts for a run: that of its own split; of a sweep the best of its children."""
    split = run.tags.get("reid.score_split", "test")
    # Sweeps of older versions have their best score under a name of its own.
    name = next(
        (f"{prefix}{split}" for prefix in ("", "best/") if f"{prefix}{split}/mAP" in run.metrics), split
    )
    score, rank1 = (run.metrics.get(f"{name}/{kind}") for kind in ("mAP", "rank-1"))
    best = run.tags.get("reid.kind") == "sweep" and score is not None
    return RunScore(split, score, rank1, best)


def busy(run: RunRecord, folder: Path | None) -> str:
    """Why a run must not be deleted now, or "". `folder` is where its journal lies on this machine."""
    if folder is not None:
        return f"it is under way in {folder}" if under_way(folder) else ""
    if run.status != "RUNNING":
        return ""
    host = run.tags.get("reid.host", "an unknown host")
    where = "this machine, in a folder that is not under outputs/ or multirun/"
    return f"it says RUNNING, on {where if host == socket.gethostname() else host}"


def died(runs: Iterable[RunRecord]) -> set[str]:
    """The ids of those that say RUNNING while their folder on this machine is at rest: their process is gone.

    One whose folder is not found under `outputs/` or `multirun/` may be at work elsewhere.
    """
    running = [run for run in runs if run.status == "RUNNING"]
    folders = run_folders([home() / "outputs", home() / "multirun"]) if running else {}
    places = [(run, folders.get(run.tags.get("reid.run_key", ""))) for run in running]
    return {str(run.run_id) for run, folder in places if folder is not None and not under_way(folder)}


def incomparable(runs: Sequence[RunRecord]) -> list[str]:
    """What makes the scores of these runs no comparison of their settings, in words."""
    warnings = []
    splits = {run_score(run).split for run in runs}
    if len(splits) > 1:
        warnings.append(f"scored on different splits ({', '.join(sorted(splits))})")
    tags = {key for run in runs for key in run.tags if key.startswith(_FINGERPRINT)}
    of_runs = [{key: run.tags[key] for key in tags if key in run.tags} for run in runs]
    if any(len({facts[key] for facts in of_runs if key in facts}) > 1 for key in tags):
        warnings.append("the data differ (fingerprints of the images)")
    elif any(set(facts) != tags for facts in of_runs):
        warnings.append("not all say on which data they were judged, so these may differ")
    if len({code_version(run) for run in runs}) > 1:
        warnings.append(f"made by different code ({', '.join(sorted({code_version(run) for run in runs}))})")
    elif any(code_version(run).endswith("changed") for run in runs):
        warnings.append("made with uncommitted changes (git.diff among their artifacts)")
    return warnings


def code_version(run: RunRecord) -> str:
    """The commit, and whether there were changes beside it."""
    sha = run.tags.get("reid.git.sha", "unknown")[:10]
    return f"{sha}, changed" if run.tags.get("reid.git.dirty") == "true" else sha


def differing(runs: Sequence[RunRecord]) -> dict[str, list[str]]:
    """The params that are not the same in all of these runs, by name; "-" where a run has none.

    What a run of older code lacks is the same as the default, and what follows another key is that key.
    """
    from reid.config.identity import FOLLOWS, later_defaults, param_now  # with Hydra, which others spare

    keys = sorted({key for run in runs for key in run.params} - FOLLOWS.keys())
    without = {key: str(value) for key, value in later_defaults().items()}
    params = [{key: param_now(key, value) for key, value in run.params.items()} for run in runs]
    apart = [key for key in keys if len({one.get(key, without.get(key, "-")) for one in params}) > 1]
    return {key: [one.get(key, "-") for one in params] for key in apart}


def _line(run: RunRecord) -> str:
    return f"{run.run_id}  {run.name}  ({run.experiment}, {run.status})"
