"""The figures of a run: curves, CMC, ranked lists of the worst, best and random queries, a contact sheet."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from reid.data import ReidDataset
from reid.data.image_store import ImageStore
from reid.data.pictures import open_picture
from reid.distance import squared_euclidean
from reid.engine.prepare import JudgedData
from reid.figures import (
    Hit,
    RankedList,
    cmc_curves,
    contact_sheet,
    domain_bars,
    ranked_lists,
    save,
    training_curves,
)
from reid.judging.judge import Judgement
from reid.people import is_person
from reid.retrieval import junk

#: Rows and columns of a picture of ranked lists.
QUERIES, HITS = 6, 8
_ONE_A_PERSON = "; one query a person"


def draw(
    folder: Path,
    history: list[dict[str, float]],
    last: Judgement,
    dataset: ReidDataset,
    judged: JudgedData,
    title: str,
    protocol: str,
) -> list[tuple[Path, bool]]:
    """Write the figures of a run to `folder/figures`: (path, whether it shows people) for each."""
    figures = folder / "figures"
    curves = training_curves(pd.DataFrame(history), f"{title}: training, epoch by epoch")
    written = [(save(curves, figures / "training_curves.png"), False)]
    written += draw_judgement(figures, last, judged, title, protocol)
    sheet = sheet_of((judged.query, judged.gallery), dataset.name)
    written.append((save(sheet, figures / "contact_sheet.png"), True))
    return written


def draw_judgement(
    figures: Path, judgement: Judgement, judged: JudgedData, title: str, protocol: str
) -> list[tuple[Path, bool]]:
    """The CMC curve and the ranked lists of one judgement."""
    scores = judgement.scores
    shown = {title: scores} | ({"re-ranked": judgement.reranked} if judgement.reranked else {})
    curve = cmc_curves(
        {name: one.cmc[: len(judgement.gallery)].tolist() for name, one in shown.items()},
        mean_ap={name: one.mAP for name, one in shown.items()},
    )
    written = [(save(curve, figures / "cmc.png"), False)]
    for order in ("worst", "best", "random"):
        entries = [
            ranked_list(int(row), judgement, judged, protocol)
            for row in pick_queries(scores.average_precision, judgement.query.pids, order)
        ]
        note = f"a list ends at its last match, or after {HITS}" + _ONE_A_PERSON * (order == "best")
        drawn = ranked_lists(entries, order, title=f"{title}: ranked lists", note=note)
        written.append((save(drawn, figures / f"ranked_{order}.png"), True))
    return written


def draw_domains(figures: Path, results: dict[str, Judgement], trained_on: str) -> Path:
    """mAP and rank-1 of one model on each dataset, plain and re-ranked."""
    scores: dict[str, dict[str, float]] = {}
    for label, judgement in results.items():
        plain, reranked = judgement.scores, judgement.reranked
        scores[label] = {"mAP": plain.mAP, "rank-1": plain.rank(1)}
        if reranked is not None:
            scores[label] |= {"mAP re-ranked": reranked.mAP, "rank-1 re-ranked": reranked.rank(1)}
    own = trained_on if trained_on in scores else None
    return save(domain_bars(scores, own, title=f"Trained on {trained_on}"), figures / "domains.png")


def pick_queries(average_precision: torch.Tensor, pids: torch.Tensor, order: str) -> list[int]:
    """Up to six valid queries: those of lowest AP, of highest (one a person), or drawn with a fixed seed."""
    valid = torch.nonzero(~average_precision.isnan()).flatten()
    if order == "random":
        chosen = np.random.default_rng(0).permutation(len(valid))[:QUERIES]
        return sorted(valid[torch.from_numpy(chosen)].tolist())
    ranked = valid[torch.argsort(average_precision[valid], descending=order == "best", stable=True)].tolist()
    if order == "best":
        # A person found by one query is mostly found by the next: six rows would show one or two people.
        best = {int(pids[row]): row for row in reversed(ranked)}
        ranked = sorted(best.values(), key=ranked.index)
    return ranked[:QUERIES]


def ranked_list(row: int, judgement: Judgement, judged: JudgedData, protocol: str) -> RankedList:
    """Query `row` and the gallery images nearest to it, up to its last match or to HITS of them.

    Those left out by the protocol are not shown.  A first match that comes later is shown by itself.
    """
    query, gallery = judgement.query, judgement.gallery
    distance = squared_euclidean(query.features[row : row + 1], gallery.features)[0]
    same = gallery.pids == query.pids[row]
    left_out = junk(query.select(torch.tensor([row])), gallery, protocol)[0]
    distance = distance.masked_fill(left_out, torch.inf)
    nearest = torch.sort(distance, stable=True).indices[: int(distance.isfinite().sum())]
    matches = (same[nearest].nonzero().flatten() + 1).tolist()  # their ranks

    def hit(rank: int, label: str) -> Hit:
        index = int(nearest[rank - 1])
        camera, apart = int(gallery.camids[index]) + 1, float(distance[index].clamp(min=0).sqrt())
        named = label.format(rank=rank, cam=camera, d=apart)
        return Hit(_pixels(judged.gallery, index), bool(same[index]), named)

    hits = [hit(rank, "cam {cam}\nd {d:.2f}") for rank in range(1, min(HITS, matches[-1]) + 1)]
    first = matches[0]
    later = hit(first, "rank {rank:,}\ncam {cam}, d {d:.2f}") if first > HITS else None
    found = f"{len(matches)} match{'es' * (len(matches) > 1)}\nfirst: rank {first:,}"
    label = f"id {int(query.pids[row])}\ncam {int(query.camids[row]) + 1}\n{found}"
    precision = float(judgement.scores.average_precision[row])
    return RankedList(_pixels(judged.query, row), precision, label, hits, later)


def sheet_of(stores: Sequence[ImageStore], name: str, people: int = 6, a_cell: int = 2) -> Figure:
    """A contact sheet: some people by rows, the cameras by columns; of images that could be read."""
    cameras = sorted({crop.camid for store in stores for crop in store.crops})
    seen: dict[int, dict[int, list[tuple[ImageStore, int]]]] = {}
    for store in stores:
        for index, crop in enumerate(store.crops):
            if is_person(crop.pid):
                seen.setdefault(crop.pid, {}).setdefault(crop.camid, []).append((store, index))
    shown = sorted(seen, key=lambda pid: (-len(seen[pid]), pid))[:people]
    cells = [
        [[_picture(*place) for place in seen[pid].get(camera, [])[:a_cell]] for camera in cameras]
        for pid in shown
    ]
    title = f"{name}: {len(shown)} people of the query and gallery, by camera"
    return contact_sheet(
        cells, [f"id {pid}" for pid in shown], [f"camera {camera + 1}" for camera in cameras], title=title
    )


def _picture(store: ImageStore, index: int) -> np.ndarray:
    """The image in full; as the network saw it where its file is gone by now, which must not end the run."""
    try:
        return np.asarray(open_picture(store.crops[index].path).image)
    except OSError:
        return _pixels(store, index)


def _pixels(store: ImageStore, index: int) -> np.ndarray:
    return np.asarray(store.pixels[store.rows[index]])
