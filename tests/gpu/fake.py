"""A training step and an embedding in a process of their own, on tensors that have a GPU and no values.

`python -m tests.gpu.fake` prints what each check found, as JSON: {name: null or what was wrong}.  Nothing of
torch is replaced for what runs on cuda:0.  A fake tensor goes through the rules of a GPU's: operations on
two devices are refused, and so is whatever would read a value back or has a size that depends on one.
Without a GPU `torch.autocast` switches itself off, so that its state is set as it would set it.  Backward
needs a device that is there: it runs on `meta`, where `torch.autocast`, which does not know it, does nothing.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import unset_fake_temporarily

from experiments.benchmark.trainee import BACKBONES
from reid.config.schema import config_folder
from reid.data.augment import Augmentation
from reid.distance import cosine, euclidean, normalise, squared_euclidean
from reid.engine.loop import EpochTotals
from reid.engine.objective import Objective, build_metric_loss
from reid.models import ReidModel, build_backbone, build_head

#: The losses of conf/loss, by name.
OPTIONS: dict[str, Any] = {
    file.stem: OmegaConf.create({"seed": 0, "loss": OmegaConf.load(file)})
    for file in sorted((config_folder() / "loss").glob("*.yaml"))
}
OPTIONS = {name: OmegaConf.to_container(one.loss, resolve=True) for name, one in OPTIONS.items()}
# The parts of the mix, as Hydra puts a choice in the place of each.
del OPTIONS["mix"]["defaults"]
OPTIONS["mix"] |= {"first": OPTIONS["ranked"], "second": OPTIONS["triplet"]}
#: Losses of pytorch-metric-learning that ask how many pairs there are, and make the host wait for it.
WAIT = {"arcface", "circle", "cosface", "multi_similarity", "ranked_paper", "supcon"}
#: Options of the heads: as many stripes as the map has rows.
HEADS: dict[str, dict[str, Any]] = {"BNNeck": {}, "GeM": {}, "Parts": {"stripes": 4}}
#: What is trained: each backbone with the published head, and the other heads.
NETWORKS = (*BACKBONES, "resnet18 + GeM", "resnet18 + Parts")
GPU, META = torch.device("cuda", 0), torch.device("meta")
IDENTITIES, INSTANCES, HEIGHT, WIDTH = 4, 4, 64, 32
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@contextmanager
def autocast(precision: str) -> Iterator[None]:
    """The state that `torch.autocast("cuda", …)` sets."""
    if precision == "float32":
        yield
        return
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", DTYPES[precision])
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.clear_autocast_cache()


def must_be(what: str, tensor: Tensor, dtype: torch.dtype, device: torch.device = GPU) -> None:
    if (tensor.dtype, tensor.device) != (dtype, device):
        raise AssertionError(f"{what} is {tensor.dtype} on {tensor.device}, not {dtype} on {device}")


def network(name: str, kind: type[ReidModel] = ReidModel) -> ReidModel:
    """One of `NETWORKS`, on the CPU, as every run builds it."""
    backbone, _, head = name.partition(" + ")
    with unset_fake_temporarily():
        net = build_backbone(backbone)
        options = HEADS[head or "BNNeck"] | {"_target_": f"reid.models.heads.{head or 'BNNeck'}"}
        return kind(net, IDENTITIES, head=build_head(options, net.channels, IDENTITIES))


def batch(device: torch.device) -> tuple[Tensor, Tensor]:
    images = torch.rand(IDENTITIES * INSTANCES, 3, HEIGHT, WIDTH, device=device)
    labels = torch.arange(IDENTITIES, device=device).repeat_interleave(INSTANCES)
    return images.contiguous(memory_format=torch.channels_last), labels


def objective(loss: str, channels: int, device: torch.device) -> Objective:
    """As a run with loss=… has it."""
    with unset_fake_temporarily():
        metric = build_metric_loss(OPTIONS[loss], IDENTITIES, channels)
    return Objective(
        OPTIONS[loss]["id_weight"],
        OPTIONS[loss]["metric_weight"],
        0.1,
        None if metric is None else metric.to(device),
    )


def check_step(objective: Objective, features: Tensor, logits: Tensor, labels: Tensor) -> None:
    """What `train_epoch` does between the network and `backward`, and after it."""
    losses = objective(features, logits, labels)
    watched = objective.watch(features, logits, labels)
    for name, value in {**losses, **watched}.items():
        must_be(name, value, torch.float32)
        if value.ndim:
            raise AssertionError(f"{name} has shape {tuple(value.shape)}, and is no scalar")
    totals = EpochTotals()
    for _ in range(2):
        totals.add({**losses, **watched}, len(labels))
    for name, value in totals.sums.items():
        must_be(f"the sum of {name}", value, torch.float64)


def check_forward(model: ReidModel, precision: str) -> tuple[Tensor, Tensor, Tensor]:
    """Features, logits and labels of a training step, each convolution in the dtype of `precision`."""
    convolved: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda *arguments: convolved.append(arguments[2]))
        for module in model.modules()
        if isinstance(module, nn.Conv2d)
    ]
    images, labels = batch(GPU)
    with autocast(precision):
        features, logits = model.train()(images)
    for hook in hooks:
        hook.remove()
    for output in convolved:
        must_be("the output of a convolution", output, DTYPES[precision])
    must_be("features", features, torch.float32)
    must_be("logits", logits, torch.float32)
    return features, logits, labels


def check_embedding(model: ReidModel, precision: str) -> None:
    """Features as an evaluation takes them, and their distances, also within autocast."""
    images, _ = batch(GPU)
    with torch.no_grad(), autocast(precision):
        model.eval()
        features = (model(images).float() + model(images.flip(3)).float()) / 2
        must_be("features", features, torch.float32)
        for distance in (squared_euclidean, euclidean, cosine):
            for argument in (normalise(features), features.to(DTYPES[precision])):
                must_be(f"{distance.__name__} distances", distance(argument, argument), torch.float32)


def check_augmentation() -> None:
    """Every fill, all drawn on the device; the generator is a CPU's, since a GPU's cannot be made here."""
    images = torch.zeros(8, 3, HEIGHT, WIDTH, dtype=torch.uint8, device=GPU)
    for fill in ("published", "zero", "noise"):
        must_be("augmented", Augmentation(fill=fill)(images, torch.Generator()), torch.float32)


def check_backward(backbone: str) -> None:
    """Each parameter gets a gradient like itself, from every loss."""
    model, (images, labels) = network(backbone).to(META).train(), batch(META)
    features, logits = model(images)
    for loss in sorted(OPTIONS.keys() - WAIT):
        aim = objective(loss, model.embedding_size, META)
        model.zero_grad(set_to_none=True)
        aim(features, logits, labels)["loss"].backward(retain_graph=True)
        learnt = list(model.named_parameters())
        if aim.id_weight == 0:  # then nobody trains the classifier
            learnt = [(name, one) for name, one in learnt if ".classifier." not in name]
        if aim.metric_loss is not None:
            learnt += list(aim.metric_loss.named_parameters())
        for name, parameter in learnt:
            if parameter.requires_grad:
                if parameter.grad is None:
                    raise AssertionError(f"{loss}: {name} has no gradient")
                must_be(f"{loss}: the gradient of {name}", parameter.grad, torch.float32, META)


# ---- planted faults: each must be caught, or the checks above show nothing


class ReadsBack(nn.Module):
    """A metric loss that reads a number back within the step."""

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        return features.mean() * float(features.detach().abs().max())


class Branches(nn.Module):
    """A metric loss that asks for the value of a condition."""

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        return features.mean() if (labels > 0).any() else features.sum()


class OnTheHost(nn.Module):
    """A metric loss with a part on the CPU."""

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        return (features * torch.ones(features.shape)).mean()


class Chooses(nn.Module):
    """A metric loss that picks pairs by a mask, whose number the host has to know."""

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        return features[labels > 0].mean()


class Doubles(nn.Module):
    """A metric loss that computes in float64."""

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        return features.double().mean()


class HalfHead(ReidModel):
    """A head that autocast reaches."""

    def forward(self, images: Tensor, camids: Tensor | None = None) -> tuple[Tensor, Tensor]:
        features = self.backbone(images).mean(dim=(2, 3))
        return features, self.head.classifier(features)


def planted() -> dict[str, Callable[[], object]]:
    half = network("resnet18", HalfHead).to(GPU)
    features, logits, labels = check_forward(network("resnet18").to(GPU), "float32")

    def step(loss: nn.Module) -> Callable[[], object]:
        return lambda: check_step(Objective(1.0, 1.0, 0.1, loss), features, logits, labels)

    faults = (ReadsBack(), Branches(), OnTheHost(), Chooses(), Doubles())
    return {
        **{f"planted/{type(loss).__name__}": step(loss) for loss in faults},
        "planted/HalfHead": lambda: check_forward(half, "bf16"),
        "planted/NoAutocast": lambda: must_be("a convolution", _plain_convolution(), torch.bfloat16),
        "planted/means": lambda: _totals().means(),
    }


def _plain_convolution() -> Tensor:
    """What torch.autocast makes of a convolution where no GPU is: nothing, which must be seen."""
    with torch.autocast("cuda", dtype=torch.bfloat16):
        return nn.functional.conv2d(batch(GPU)[0], torch.rand(2, 3, 3, 3, device=GPU))


def _totals() -> EpochTotals:
    totals = EpochTotals()
    totals.add({"loss": torch.zeros((), device=GPU)}, 1)
    return totals


# ----


def attempt(found: dict[str, str | None], name: str, check: Callable[[], Any]) -> Any:
    """Run a check and note what it raised."""
    try:
        value = check()
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)
        own = [f"{frame.filename}:{frame.lineno}" for frame in where if "site-packages" not in frame.filename]
        found[name] = f"{type(error).__name__}: {error} ({own[-1]})"
        return None
    found[name] = None
    return value


class _Nothing(torch.autocast):
    """`meta` has no autocast to be switched off."""

    def __new__(cls, device_type: str, *arguments: Any, **options: Any) -> Any:
        if device_type == "meta":
            return nullcontext()
        return super().__new__(cls)


def main() -> None:
    found: dict[str, str | None] = {}
    for backbone in NETWORKS:
        model = network(backbone)
        with FakeTensorMode(allow_non_fake_inputs=True):
            model.to(GPU)
            for precision in DTYPES:
                attempt(found, f"embed/{backbone}/{precision}", partial(check_embedding, model, precision))
                outputs = attempt(
                    found, f"forward/{backbone}/{precision}", partial(check_forward, model, precision)
                )
            # Of features in float32, whatever the precision of the network.
            for loss in OPTIONS if outputs else ():
                aim = objective(loss, model.embedding_size, GPU)
                attempt(found, f"step/{backbone}/{loss}", partial(check_step, aim, *outputs))
    with FakeTensorMode(allow_non_fake_inputs=True):
        attempt(found, "augmentation", check_augmentation)
        for name, fault in planted().items():
            attempt(found, name, fault)
    torch.autocast = _Nothing  # type: ignore[misc]
    for backbone in NETWORKS:
        attempt(found, f"backward/{backbone}", partial(check_backward, backbone))
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    main()
