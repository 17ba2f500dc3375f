"""What a run's figures choose to show: which queries, which images of their lists, the first right match."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from reid.data import Crop
from reid.data.image_store import open_store
from reid.engine.prepare import JudgedData
from reid.jobs.run_figures import HITS, QUERIES, pick_queries, ranked_list, sheet_of
from reid.judging.judge import Judgement
from reid.retrieval import Embeddings, evaluate


def judged(places: dict[str, list[tuple[float, int, int]]]) -> tuple[Judgement, JudgedData]:
    """Query and gallery on a line: (place, pid, camera) of each image; each one's colour is its number."""
    parts = {}
    for part, images in places.items():
        place, pids, camids = zip(*images, strict=True)
        parts[part] = Embeddings(torch.tensor(place)[:, None], torch.tensor(pids), torch.tensor(camids))
    scores = evaluate(parts["query"], parts["gallery"])
    stores = {
        part: SimpleNamespace(
            pixels=np.arange(len(images), dtype=np.uint8)[:, None, None, None].repeat(3, axis=3),
            rows=np.arange(len(images)),
        )
        for part, images in places.items()
    }
    return Judgement(scores, parts["query"], parts["gallery"]), cast(JudgedData, SimpleNamespace(**stores))


def test_a_list_ends_at_its_last_match_and_says_how_many_there_are() -> None:
    # Two matches by another camera, one image by the query's own camera (junk), and two other people.
    gallery = [(1.0, 5, 1), (2.0, 7, 1), (3.0, 5, 2), (0.5, 5, 0), (4.0, 8, 1), (5.0, 9, 1)]
    judgement, data = judged({"query": [(0.0, 5, 0)], "gallery": gallery})
    shown = ranked_list(0, judgement, data, "cross_camera")
    assert [int(np.asarray(hit.image).flat[0]) for hit in shown.hits] == [0, 1, 2]
    assert [hit.correct for hit in shown.hits] == [True, False, True]
    assert shown.query_label == "id 5\ncam 1\n2 matches\nfirst: rank 1"
    assert shown.first_match is None
    everything = ranked_list(0, judgement, data, "ignore_camera")
    assert everything.query_label.endswith("3 matches\nfirst: rank 1")


@pytest.mark.parametrize("before", [HITS - 1, HITS, 40])
def test_the_first_match_is_shown_with_its_rank_where_it_comes_late(before: int) -> None:
    gallery = [(1.0 + i, 7, 1) for i in range(before)] + [(100.0, 5, 2), (200.0, 8, 1)]
    judgement, data = judged({"query": [(0.0, 5, 0)], "gallery": gallery})
    shown = ranked_list(0, judgement, data, "cross_camera")
    rank = before + 1
    assert int(judgement.scores.first_match[0]) == rank
    assert shown.query_label == f"id 5\ncam 1\n1 match\nfirst: rank {rank}"
    assert len(shown.hits) == min(HITS, rank)
    if before < HITS:
        assert shown.first_match is None
        assert shown.hits[-1].correct
    else:
        assert shown.first_match is not None
        assert shown.first_match.correct
        assert int(np.asarray(shown.first_match.image).flat[0]) == before
        assert shown.first_match.label == f"rank {rank}\ncam 3, d 100.00"


def precision(*values: float) -> Tensor:
    return torch.tensor(values)


def test_the_best_queries_are_of_as_many_people() -> None:
    values = precision(0.9, 1.0, 1.0, 0.3, torch.nan, 0.8, 0.7)
    pids = torch.tensor([1, 1, 2, 2, 3, 4, 1])
    assert pick_queries(values, pids, "best") == [1, 2, 5]
    assert pick_queries(values, pids, "worst") == [3, 6, 5, 0, 1, 2]
    everyone = torch.arange(20)
    best = pick_queries(torch.linspace(0, 1, 20), everyone, "best")
    assert best == list(range(19, 19 - QUERIES, -1))


def test_the_contact_sheet_shows_what_could_be_read_and_outlives_its_files(tmp_path: Path) -> None:
    """A test picture that is left out, or deleted while the run trains, would end the run after its work."""
    crops = []
    for number in range(6):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (64, 128), (40 * number, 0, 0)).save(path)
        crops.append(Crop(path, 1 + number // 3, number % 3))
    crops[1].path.write_bytes(b"no picture")
    store = open_store(crops, 16, 8, tmp_path / "store", on_bad_image="skip")
    crops[4].path.unlink()
    figure = sheet_of((store,), "mine")
    shown = [np.asarray(image.get_array()) for image in figure.axes[0].images]
    assert sorted(int(pixels[0, 0, 0]) for pixels in shown) == [0, 80, 120, 160, 200]
    assert sorted(pixels.shape[0] for pixels in shown) == [16, 128, 128, 128, 128]
