"""Rankings on a pretended GPU that computes, on the CPU, and tells apart what lies where.

A tensor on cuda:0 stands for one of the CPU that holds its values.  Operations that mix it with a tensor of
the CPU are refused as a GPU's are.  So what depends on values runs too, which test_step.py cannot show:
evaluation, re-ranking, counts of pairs, k-means, the optimizer's step.  Autograd and a GPU's kernels are not
in it.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from experiments.benchmark.features import Scale, draw
from reid.config.schema import EvalConfig
from reid.distance import euclidean
from reid.engine.optimizers import build_loss_optimizer, build_optimizer
from reid.judging.judge import score
from reid.losses import (
    ClusteredRankedListLoss,
    RankedListLoss,
    TripletCenterLoss,
    TripletLoss,
    pair_statistics,
)
from reid.retrieval import (
    Embeddings,
    Scores,
    bootstrap,
    count_pairs,
    evaluate,
    hardest_pairs,
    verify_counts,
)

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here: make gpu-check shows more")
CPU = torch.device("cpu")
ADAM = {
    "_target_": "torch.optim.Adam", "lr": 1e-2, "weight_decay": 5e-4, "bias_lr_factor": 2.0,
    "bias_weight_decay": 0.0,
}  # fmt: skip
GPU = torch.device("cuda", 0)


class There(Tensor):
    """A tensor that says it lies on cuda:0; `held` has its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "There":
        # Sparse rows have no strides; nobody asks for them either.
        like = held if held.layout is torch.strided else torch.empty(held.shape, device="meta")
        made: There = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=like.stride(), storage_offset=like.storage_offset(), dtype=held.dtype,
            device=GPU,
        )  # fmt: skip
        made.held = held
        return made

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return dispatch(function, args, kwargs or {})


def dispatch(function: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
    """The operation on the values that are held; results lie where a GPU's would."""
    flat, form = tree_flatten((args, dict(kwargs)))
    there = [one for one in flat if isinstance(one, There)]
    name = function.name()
    device = kwargs.get("device")
    to = torch.device(device).type if device is not None else ("cuda" if there else "cpu")
    moves = name in ("aten::_to_copy", "aten::copy_")
    # As on a GPU: numbers of the CPU may take part, and so may indices.
    mixed = [one for one in flat if isinstance(one, Tensor) and not isinstance(one, There) and one.ndim]
    if there and mixed and not moves and not name.startswith("aten::index"):
        raise RuntimeError(f"{name}: Expected all tensors to be on the same device, cuda:0 and cpu!")
    if there and name.startswith("aten::index") and not isinstance(args[0], There):
        raise RuntimeError(
            f"{name}: indices should be on the same device as the indexed tensor, cpu and cuda:0"
        )
    held = [one.held if isinstance(one, There) else one for one in flat]
    held_args, held_kwargs = tree_unflatten(held, form)
    if device is not None:
        held_kwargs["device"] = "cpu"
    held_kwargs.pop("pin_memory", None)
    own = {id(one.held): one for one in there}

    def pretended(value: Any) -> Any:
        if not isinstance(value, Tensor) or isinstance(value, There):
            return value
        if id(value) in own:
            return own[id(value)]
        return There(value) if to == "cuda" else value

    return tree_map(pretended, function(*held_args, **held_kwargs))


class Pretended(TorchDispatchMode):
    """Where a device is asked for, and no tensor lies there yet."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(function, args, kwargs or {})


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Only what torch asks the driver is answered in its place."""
    torch._C._ensureCUDADeviceGuardSet()
    answers: dict[Any, dict[str, Any]] = {
        torch.cuda: {
            "_initialized": True,
            "is_available": lambda: True,
            "device_count": lambda: 1,
            "mem_get_info": lambda *_: (2**30, 2**31),
        },
        torch._C: {"_cuda_memoryStats": lambda _: {}, "_cuda_isCurrentStreamCapturing": lambda: False},
    }
    for module, names in answers.items():
        for name, answer in names.items():
            monkeypatch.setattr(module, name, answer, raising=False)
    # A module's parameters become those of the GPU, as its tensors cannot be given another's memory.
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with Pretended():
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


@pytest.fixture(scope="module")
def drawn() -> tuple[Embeddings, Embeddings]:
    """Query and gallery, with distractors, in float64: the order of sums is the same, and so is every bit."""
    scale = Scale(
        queries=40, gallery=200, identities=10, cameras=4, dimensions=16, distractors=40, strangers=8
    )
    query, gallery = (replace(one, features=one.features.double()) for one in draw(scale))
    return query, gallery


def there(images: Embeddings) -> Embeddings:
    return Embeddings(There(images.features), There(images.pids), There(images.camids))


def assert_same(one: Scores, other: Scores) -> None:
    assert (one.mAP, one.mINP, one.valid_queries) == (other.mAP, other.mINP, other.valid_queries)
    for name in ("cmc", "average_precision", "first_match"):
        mine, theirs = getattr(one, name), getattr(other, name)
        assert mine.device == CPU
        assert torch.equal(mine.nan_to_num(-1), theirs.nan_to_num(-1)), name


def test_a_ranking_is_the_cpus(drawn: tuple[Embeddings, Embeddings], gpu: None) -> None:
    """All that a judgement computes: expanded queries, scores, re-ranked scores."""
    settings = EvalConfig(rerank=True, query_expansion=2)
    query, gallery = drawn
    plain, other = score(query, gallery, settings), score(there(query), there(gallery), settings)
    assert other.query.features.device == GPU
    assert_same(other.scores, plain.scores)
    assert plain.reranked is not None
    assert other.reranked is not None
    assert_same(other.reranked, plain.reranked)


@pytest.mark.parametrize("protocol", ["cross_camera", "ignore_camera"])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_a_threshold_is_the_cpus(
    protocol: str, metric: str, drawn: tuple[Embeddings, Embeddings], gpu: None
) -> None:
    """Pairs counted and their rates, with the intervals over people."""
    results = []
    for images in (drawn[1], there(drawn[1])):
        counts = count_pairs(images, metric, protocol)
        measured = verify_counts(counts.thresholds, counts.genuine, counts.impostor, "far_1e-2")
        sure = bootstrap(images, measured, metric, protocol, 20, 0)
        hardest = [one.cpu().nan_to_num(-1).tolist() for one in hardest_pairs(images, metric)]
        results.append((measured.threshold, measured.eer, asdict(sure), hardest))
    assert repr(results[0]) == repr(results[1])


LOSSES = [RankedListLoss(), ClusteredRankedListLoss(), TripletLoss(), TripletCenterLoss(48, 16)]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_a_loss_is_the_cpus(loss: nn.Module, drawn: tuple[Embeddings, Embeddings], gpu: None) -> None:
    """With k-means within it, whose sizes hang on no value."""
    features, pids = drawn[1].features[:64], drawn[1].pids[:64]
    moved = copy.deepcopy(loss).to(GPU)
    with torch.no_grad():
        value = moved(There(features), There(pids))
        assert value.device == GPU
        assert value.item() == loss(features, pids).item()


@pytest.mark.parametrize("metric_loss", [None, TripletCenterLoss(3, 5)], ids=["none", "centres"])
def test_an_optimizer_moves_as_on_the_cpu(metric_loss: nn.Module | None, gpu: None) -> None:
    """Fused Adam, clipped, in the published groups; the centres of a loss by SGD of their own."""
    moved = []
    for device in (CPU, GPU):
        torch.manual_seed(0)
        model, loss = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)), copy.deepcopy(metric_loss)
        parts = [model] if loss is None else [model, loss]
        gradients = [[torch.randn(p.shape) for p in part.parameters()] for part in parts]
        for part in parts:
            part.to(device)
        optimizer = build_optimizer(model, ADAM, loss, device)
        assert optimizer.defaults["fused"]
        optimizers = [one for one in (optimizer, build_loss_optimizer(loss)) if one is not None]
        for _ in range(3):
            for part, values in zip(parts, gradients, strict=True):
                for parameter, value in zip(part.parameters(), values, strict=True):
                    parameter.grad = value.clone().to(device)
            parameters = list(model.parameters())
            norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            nn.utils.clip_grads_with_norm_(parameters, 0.5, norm)
            for one in optimizers:
                one.step()
                one.zero_grad(set_to_none=True)
        moved.append([p.detach().cpu() for part in parts for p in part.parameters()])
        assert all(p.device == device for part in parts for p in part.parameters())
    for mine, theirs in zip(*moved, strict=True):
        assert torch.equal(mine, theirs)


# ---- planted faults


def test_a_mixture_of_devices_is_refused(drawn: tuple[Embeddings, Embeddings], gpu: None) -> None:
    query, gallery = drawn
    for mix in (
        lambda: evaluate(there(query), gallery),
        lambda: pair_statistics(There(query.features), query.pids),
        lambda: euclidean(There(query.features), gallery.features),
        lambda: There(query.features)[:, 0] + torch.arange(40),
        lambda: query.features[There(torch.arange(3))],
        lambda: torch.cat([There(query.pids), gallery.pids]),
    ):
        with pytest.raises((RuntimeError, ValueError), match=r"(cuda:0.*cpu|cpu.*cuda:0)"):
            mix()


def test_values_are_those_of_the_device(gpu: None) -> None:
    """What is written there is read from there, through views too, and a number may come from the host."""
    here = torch.zeros(3, 2, device=GPU)
    here[1] += torch.tensor(2.0)
    here.t()[1, 0] = 5
    assert here.device == GPU
    assert here.is_cuda
    assert here.tolist() == [[0, 5], [2, 2], [0, 0]]
    assert here.cpu().device == CPU
    with pytest.raises((RuntimeError, TypeError), match=r"numpy|Tensor"):
        here.numpy()
