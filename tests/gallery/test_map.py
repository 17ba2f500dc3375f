"""Maps of embeddings: the same for the same seed, people together, by a process that can be ended."""

from multiprocessing import Pipe

import numpy as np
import pytest
import torch

from reid.gallery.map import TsneMap, _work, choose_images, pca_map, tsne_map


def people(count: int, each: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of people in clusters, and their pids."""
    generator = torch.Generator().manual_seed(0)
    pids = torch.arange(count).repeat_interleave(each)
    centres = 4 * torch.randn(count, 60, generator=generator)
    return centres[pids] + torch.randn(len(pids), 60, generator=generator), pids


def test_the_two_largest_directions_by_hand() -> None:
    corners = torch.tensor([[4.0, 0, 0], [-4.0, 0, 0], [0, 2.0, 0], [0, -2.0, 0]]) + 7
    expected = torch.tensor([[1.0, 0], [-1, 0], [0, 0.5], [0, -0.5]])
    torch.testing.assert_close(pca_map(corners), expected)
    turned = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1))).Q
    torch.testing.assert_close(pca_map(corners @ turned.t()).abs(), expected.abs(), atol=1e-6, rtol=0)
    assert pca_map(torch.ones(3, 4)).tolist() == [[0, 0]] * 3
    assert pca_map(torch.arange(4.0)[:, None])[:, 1].tolist() == [0] * 4


def test_a_sample_has_the_same_share_of_each_person() -> None:
    pids = torch.tensor([1] * 10 + [2] * 30 + [3] * 60)[torch.randperm(100)]
    rows = choose_images(pids, 20, seed=3)
    assert torch.equal(rows, rows.unique())
    counts = [int((pids[rows] == pid).sum()) for pid in (1, 2, 3)]
    assert all(abs(count - wanted) <= 1 for count, wanted in zip(counts, (2, 6, 12), strict=True))
    assert sum(counts) == 20
    assert torch.equal(choose_images(pids, 20, seed=3), rows)
    assert not torch.equal(choose_images(pids, 20, seed=4), rows)
    assert torch.equal(choose_images(pids, 500), torch.arange(100))


@pytest.mark.slow
def test_tsne_puts_people_together_and_repeats_itself_in_another_process() -> None:
    features, pids = people(4, 15)
    with TsneMap(features, seed=1) as other:
        here = tsne_map(features, seed=1)
        found = other.result(wait=60)
    assert found is not None
    assert torch.equal(found, here)
    distance = torch.cdist(here, here).fill_diagonal_(torch.inf)
    assert bool((pids[distance.argmin(dim=1)] == pids).all())
    assert float(here.abs().max()) == 1
    assert torch.equal(tsne_map(features[:3]), pca_map(features[:3]))


def test_a_map_is_called_off() -> None:
    with TsneMap(people(4, 15)[0]) as called_off:
        assert called_off.result() is None
    with pytest.raises(RuntimeError, match="called off"):
        called_off.result()
    assert not called_off._process.is_alive()


@pytest.mark.slow
def test_a_process_that_fails_or_is_killed_says_so() -> None:
    results, ours = Pipe(duplex=False)
    _work(ours, np.full((9, 3), np.nan, np.float32), seed=0)
    assert "Error: " in results.recv()
    killed = TsneMap(people(4, 15)[0])
    killed._process.kill()
    with pytest.raises(RuntimeError, match="t-SNE failed: its process ended with code -9"):
        killed.result(wait=10)
