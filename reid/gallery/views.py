"""What the page shows of a set of crops, as plain data: queries, ranked lists, points, doubted labels."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from pydantic import BaseModel

from reid.data import corrections
from reid.data.crops import DatasetError, Progress
from reid.gallery.map import MOST_IMAGES, TsneMap, choose_images, pca_map
from reid.judging.review import Suspect, SuspectKind
from reid.people import DISTRACTOR
from reid.retrieval.differences import Measured, difference

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Features = npt.NDArray[np.float32]
#: The numbers of crops (n,), and their places (n, 2) from 0 to 1.
Points = tuple[Ints, Features]
T = TypeVar("T")

#: The pid of an image of whom nothing is known.
UNKNOWN = -1
#: A change of average precision that counts as one, where two models are compared.
CHANGE = 0.001
#: Images that a picture from outside is answered with.
SEARCHED = 40
#: Points of a map at most, where it costs little.
MOST_POINTS = 20_000


@dataclass(frozen=True, eq=False)
class Crops:
    """N images by their number.

    The first `queries` of them are looked for in the gallery, those from `gallery` to before `end`; behind it
    are those that were trained on.

    names: (N,), as the page shows and filters them.  pids, camids: (N,) int64, `UNKNOWN` where they are.
    tracklets: likewise, UNKNOWN for an image of none; None where there are none.
    """

    paths: Sequence[Path]
    names: Sequence[str]
    pids: Ints
    camids: Ints
    queries: int
    gallery: int
    end: int
    people: Mapping[int, str] = field(default_factory=dict)
    tracklets: Ints | None = None

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True, eq=False)
class Look:
    """How one model sees the crops.

    Attributes:
        name, space: what it is called, and what its distances are between.
        threshold: a distance of at most this is the same person; None where there is none that holds.
        note: the threshold's expected error rates, or why there is none.
        features: rows (n,) of crops -> (n, C) float32.
        nearest: features (C,) and a count -> places in the gallery, the nearest first, and their distances;
            all of the gallery where that costs little.
        cross_camera: whether images of the query's person and camera do not count.
        precision, first, kinds: (Q,) average precision (NaN: no match), rank of the first match (0: none) and
            how each query went; None where the crops have no labels.
        by_camera: camera -> (Q,) average precision among the gallery's images of that camera alone.
        scores: of all queries, by their names.
        card: what the model is and may be used for, in Markdown.
        embed, activation: of a picture the features (C,), and a map (h, w) in 0 to 1; None without the model.
    """

    name: str
    space: str
    threshold: float | None
    note: str
    features: Callable[[Ints], Features]
    nearest: Callable[[Features, int], tuple[Ints, Floats]]
    cross_camera: bool = True
    precision: Floats | None = None
    first: Ints | None = None
    kinds: Sequence[str] = ()
    by_camera: Mapping[int, Floats] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    embed: Callable[[Image.Image], Features] | None = None
    activation: Callable[[Image.Image], Features] | None = None
    card: str = ""


class Background(Generic[T]):
    """A value that takes long: computed once, in a thread that begins with the first question for it.

    `compute` is given a progress; `state` says how far that is.
    """

    def __init__(self, compute: Callable[[Progress], T]) -> None:
        self._compute, self._lock = compute, threading.Lock()
        self._thread: threading.Thread | None = None
        self._value: T | None = None
        self._error = ""
        self.state = ""

    def value(self) -> T | None:
        """The value; None while it is being computed.

        Raises:
            DatasetError: it could not be computed.
        """
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()
        if self._error:
            raise DatasetError(self._error)
        return self._value

    def _work(self) -> None:
        try:
            self._value = self._compute(self._progress)
        except Exception as error:  # it is told on the page, whatever it is
            self._error = f"this could not be computed: {type(error).__name__}: {error}"

    def _progress(self, items: Iterable[Any], total: int, what: str) -> Iterator[Any]:
        for number, item in enumerate(items):
            self.state = f"{what}: {number:,} of {total:,}"
            yield item


class Filter(BaseModel):
    """Which queries are listed, and in which order.

    camera, other: camids of the query and of the gallery images that it is looked for in.
    low, high: of the average precision, as fractions.
    """

    camera: int | None = None
    other: int | None = None
    low: float = 0.0
    high: float = 1.0
    kind: str = ""
    text: str = ""
    order: Literal["worst", "best", "gained", "lost", "name"] = "worst"


#: What confirming a doubt says of its pair.
_CONFIRMED = {
    SuspectKind.TWO_NAMES: corrections.SAME,
    SuspectKind.WRONG_NAME: corrections.WRONG_NAME,
    SuspectKind.ONE_NAME: corrections.DIFFERENT,
}


@dataclass(frozen=True, eq=False)
class Labels:
    """The doubted labels, and what the user says of them.

    found: where was looked, in words -> pairs, their numbers being those of crops.
    file: of the verdicts; `root`: of the dataset, None where paths stay absolute.
    """

    found: Mapping[str, Background[Sequence[Suspect]]]
    file: Path
    root: Path | None


@dataclass(eq=False)
class Views:
    """All that is asked of one set of crops, as one or two models see them."""

    title: str
    crops: Crops
    looks: Sequence[Look]
    labels: Labels
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        self._lower = [name.lower() for name in self.crops.names]
        self._pca, self._tsne = Background(self._by_pca), Background(self._by_tsne)

    # ---- queries

    def summary(self) -> dict[str, Any]:
        """What the page knows before anything is chosen."""
        crops, look = self.crops, self.looks[0]
        return {
            "title": self.title,
            "queries": crops.queries,
            "gallery": crops.end - crops.gallery,
            "judged": look.precision is not None,
            "cameras": [
                int(camera) for camera in np.unique(crops.camids) if camera != UNKNOWN
            ],
            "kinds": dict(Counter(look.kinds).most_common()),
            "models": [
                {
                    "name": one.name, "space": one.space, "threshold": one.threshold, "note": one.note,
                    "scores": dict(one.scores), "searches": one.embed is not None,
                    "activates": one.activation is not None, "card": one.card,
                }
                for one in self.looks
            ],
            "pairs": self._camera_pairs(look),
            "comparison": self._comparison() if len(self.looks) > 1 else None,
            "labels": list(self.labels.found),
            "notes": list(self.notes),
        }  # fmt: skip

    def queries(self, wanted: Filter, offset: int, count: int) -> dict[str, Any]:
        """The queries that a filter leaves, from `offset` on."""
        look, crops = self.looks[0], self.crops
        keep = np.ones(crops.queries, bool)
        if wanted.camera is not None:
            keep &= crops.camids[: crops.queries] == wanted.camera
        other = wanted.other
        by_look = [one.precision if other is None else one.by_camera.get(other) for one in self.looks]
        precision, others = by_look[0], by_look[1] if len(by_look) > 1 else None
        if other is not None:
            keep &= False if precision is None else np.isfinite(precision)
        if precision is not None:
            if (wanted.low, wanted.high) != (0, 1):
                keep &= (precision >= wanted.low) & (precision <= wanted.high)
            if wanted.kind:
                keep &= np.array([kind == wanted.kind for kind in look.kinds], bool)
        found = np.flatnonzero(keep)
        if text := wanted.text.strip().lower():
            found = np.array([row for row in found if self._speaks_of(int(row), text)], np.int64)
        if precision is not None and wanted.order != "name":
            values = precision[found]
            if wanted.order in ("gained", "lost") and others is not None:
                values = values - others[found]
            # NaN, which is no match at all, comes last either way.
            found = found[
                np.argsort(-values if wanted.order in ("best", "gained") else values, kind="stable")
            ]
        return {
            "total": len(found),
            "items": [
                {
                    **self._facts(int(row)),
                    "ap": None if precision is None else _number(precision[row]),
                    "other_ap": None if others is None else _number(others[row]),
                    "first": int(look.first[row]) if other is None and look.first is not None else None,
                    "kind": look.kinds[row] if look.kinds else "",
                }
                for row in found[offset : offset + count]
            ],
        }

    def _speaks_of(self, row: int, text: str) -> bool:
        pid = int(self.crops.pids[row])
        person = self.crops.people.get(pid, "").lower()
        return text in self._lower[row] or text == f"id {person or pid}" or text in person

    def _facts(self, crop: int) -> dict[str, Any]:
        crops, pid, camera = self.crops, int(self.crops.pids[crop]), int(self.crops.camids[crop])
        return {
            "crop": crop,
            "name": crops.names[crop],
            "pid": None if pid == UNKNOWN else crops.people.get(pid, str(pid)),
            "camera": None if camera == UNKNOWN else camera + 1,
            "query": crop < crops.queries,
        }

    def _camera_pairs(self, look: Look) -> list[dict[str, Any]]:
        """The mean average precision by the query's camera and the gallery's."""
        own = self.crops.camids[: self.crops.queries]
        pairs = []
        for other, values in look.by_camera.items():
            for camera in np.unique(own):
                some = values[(own == camera) & np.isfinite(values)]
                if len(some):
                    pairs.append(
                        {
                            "camera": int(camera), "other": other, "ap": float(some.mean()),
                            "queries": len(some),
                        }
                    )  # fmt: skip
        return pairs

    # ---- two models

    def _change(self) -> Floats:
        first, second = self.looks[0].precision, self.looks[1].precision
        assert first is not None
        assert second is not None
        return first - second

    def _comparison(self) -> dict[str, Any]:
        """How the first model does against the second, query by query."""
        change = self._change()
        valid = np.isfinite(change)
        first, second = (
            Measured(
                np.array([look.precision[valid].mean()]),
                look.precision[valid][None],
                self.crops.pids[: len(valid)][valid],
            )
            for look in self.looks[:2]
            if look.precision is not None
        )
        found = difference(first, second)
        order = np.flatnonzero(valid)[np.argsort(change[valid], kind="stable")]
        return {
            "better": int((change[valid] > CHANGE).sum()),
            "worse": int((change[valid] < -CHANGE).sum()),
            "equal": int((abs(change[valid]) <= CHANGE).sum()),
            "mean": found.value,
            "low": _number(found.interval.low),
            "high": _number(found.interval.high),
            "winners": [self._changed(int(row), change) for row in order[::-1][:6] if change[row] > CHANGE],
            "losers": [self._changed(int(row), change) for row in order[:6] if change[row] < -CHANGE],
        }

    def _changed(self, row: int, change: Floats) -> dict[str, Any]:
        return {**self._facts(row), "change": float(change[row])}

    # ---- ranked lists

    def lists(self, crop: int, offset: int, count: int) -> dict[str, Any]:
        """The gallery as each model ranks it for one crop, from place `offset` on."""
        rows = np.array([crop])
        return {
            "query": {
                **self._facts(crop),
                "kind": self.looks[0].kinds[crop] if crop < len(self.looks[0].kinds) else "",
            },
            "lists": [self._list(look, look.features(rows)[0], crop, offset, count) for look in self.looks],
        }

    def search(self, image: Image.Image) -> dict[str, Any]:
        """The gallery as each model that is here ranks it for a picture from outside.

        Raises:
            DatasetError: no model is here.
        """
        lists = [
            self._list(look, look.embed(image), None, 0, SEARCHED)
            for look in self.looks
            if look.embed is not None
        ]
        if not lists:
            raise DatasetError("the index is open without its model, so no picture can be searched for")
        return {"size": list(image.size), "lists": lists}

    def _list(
        self, look: Look, features: Features, crop: int | None, offset: int, count: int
    ) -> dict[str, Any]:
        crops = self.crops
        places, distances = look.nearest(features, offset + count + 1)
        numbers = places + crops.gallery
        if crop is not None:
            others = numbers != crop
            numbers, distances = numbers[others], distances[others]
        marks = self._marks(look, crop, numbers)
        counted = marks != "junk"
        ranks = np.cumsum(counted)  # of what counts; junk has none
        right = np.flatnonzero(marks == "right")
        whole = len(places) == crops.end - crops.gallery
        within = None if look.threshold is None else int((distances <= look.threshold).sum())
        precision = (np.arange(1, len(right) + 1) / ranks[right]).mean() if whole and len(right) else None
        return {
            "model": look.name,
            "threshold": look.threshold,
            "note": look.note,
            "total": crops.end - crops.gallery,
            "within": within,
            "at_least": not whole and within == len(distances),
            "ap": None if precision is None else float(precision),
            "matches": len(right) if whole else None,
            "first": int(ranks[right[0]]) if len(right) else None,
            "first_item": self._item(numbers, marks, ranks, distances, int(right[0])) if len(right) else None,
            "items": [
                self._item(numbers, marks, ranks, distances, place)
                for place in range(offset, min(offset + count, len(numbers)))
            ],
        }

    def _item(
        self, numbers: Ints, marks: npt.NDArray[np.str_], ranks: Ints, distances: Floats, place: int
    ) -> dict[str, Any]:
        mark = str(marks[place])
        return {
            **self._facts(int(numbers[place])),
            "place": place,
            "rank": None if mark == "junk" else int(ranks[place]),
            "mark": mark,
            "distance": float(distances[place]),
        }

    def _marks(self, look: Look, crop: int | None, numbers: Ints) -> npt.NDArray[np.str_]:
        """right, wrong, junk, or unknown where there are no labels."""
        pids, camids = self.crops.pids[numbers], self.crops.camids[numbers]
        pid = UNKNOWN if crop is None else int(self.crops.pids[crop])
        if pid == UNKNOWN:
            return np.full(len(numbers), "unknown")
        same = (pids == pid) & (pid != DISTRACTOR)
        marks = np.where(same, "right", np.where(pids == UNKNOWN, "unknown", "wrong"))
        if crop is not None and look.cross_camera:
            marks[same & (camids == self.crops.camids[crop]) & (camids != UNKNOWN)] = "junk"
        if crop is not None and self.crops.tracklets is not None:
            tracklet = self.crops.tracklets[crop]
            marks[same & (self.crops.tracklets[numbers] == tracklet) & (tracklet != UNKNOWN)] = "junk"
        return marks

    # ---- pictures

    def activation(self, image: Image.Image, model: int) -> Features:
        """(h, w) in 0 to 1: where a model's last map is strong.

        Raises:
            DatasetError: no such model is here.
        """
        look = self.looks[min(model, len(self.looks) - 1)]
        if look.activation is None:
            raise DatasetError("the index is open without its model, so there are no activation maps")
        return look.activation(image)

    # ---- the map

    def points(self, method: str) -> dict[str, Any]:
        """Where the features lie in a plane, each axis from 0 to 1; not `ready` while that is computed."""
        found = (self._pca if method == "pca" else self._tsne).value()
        if found is None:
            return {"ready": False}
        crops, points = found
        return {
            "ready": True,
            "crops": crops.tolist(),
            "x": points[:, 0].round(4).tolist(),
            "y": points[:, 1].round(4).tolist(),
            "pids": self.crops.pids[crops].tolist(),
            "cameras": self.crops.camids[crops].tolist(),
            "queries": self.crops.gallery,
            "of": self.crops.end,
        }

    def _by_pca(self, _: Progress) -> Points:
        crops = self._drawn(MOST_POINTS)
        points = pca_map(torch.from_numpy(self.looks[0].features(crops)))
        return crops, (points / 2 + 0.5).numpy()

    def _by_tsne(self, _: Progress) -> Points:
        crops = self._drawn(MOST_IMAGES)
        with TsneMap(torch.from_numpy(self.looks[0].features(crops))) as computed:
            while (points := computed.result(60)) is None:
                pass
        return crops, (points / 2 + 0.5).numpy()

    def _drawn(self, most: int) -> Ints:
        return choose_images(torch.from_numpy(self.crops.pids[: self.crops.end]), most).numpy()

    # ---- labels

    def suspects(self, where: str) -> dict[str, Any]:
        """The pairs whose labels are doubted, each with its verdict; not `ready` while they are looked for.

        Raises:
            DatasetError: nothing of that name is looked at, or the file of verdicts cannot be read.
        """
        source = self.labels.found.get(where)
        if source is None:
            raise DatasetError(f"{where!r}: expected one of {', '.join(self.labels.found)}")
        found = source.value()
        if found is None:
            return {"ready": False, "state": source.state}
        verdicts = self._verdicts()
        return {
            "ready": True,
            "file": str(self.labels.file),
            "items": [
                {
                    "pair": number, "kind": one.kind, "distance": one.distance,
                    "verdict": verdicts.get(self._paths(one), ""), "confirmed": _CONFIRMED[one.kind],
                    "first": self._facts(one.first), "second": self._facts(one.second),
                }
                for number, one in enumerate(found)
            ],
        }  # fmt: skip

    def give_verdict(self, where: str, pair: int, answer: str) -> dict[str, Any]:
        """Keep what the user says of a pair: confirm, reject or undo. It is on the disk before this returns.

        Raises:
            DatasetError: no such pair or answer.
            OSError: the file cannot be written.
        """
        source = self.labels.found.get(where)
        found = (source.value() if source else None) or ()
        if not 0 <= pair < len(found):
            raise DatasetError(f"there is no pair {pair} among {where}")
        one, labels = found[pair], self.labels
        words = {
            "confirm": _CONFIRMED[one.kind],
            "reject": corrections.RIGHT,
            "undo": corrections.WITHDRAWN,
        }
        if answer not in words:
            raise DatasetError(f"{answer!r}: expected one of {', '.join(words)}")
        labels.file.parent.mkdir(parents=True, exist_ok=True)
        first, second = self.crops.paths[one.first], self.crops.paths[one.second]
        corrections.append_verdict(labels.file, first, second, words[answer], labels.root)
        return {"pair": pair, "verdict": "" if answer == "undo" else words[answer]}

    def _verdicts(self) -> dict[frozenset[str], str]:
        if not self.labels.file.exists():
            return {}
        return {kept.pair: kept.verdict for kept in corrections.read_verdicts(self.labels.file)}

    def _paths(self, one: Suspect) -> frozenset[str]:
        paths = self.crops.paths[one.first], self.crops.paths[one.second]
        return frozenset(corrections.verdict_path(path, self.labels.root) for path in paths)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
