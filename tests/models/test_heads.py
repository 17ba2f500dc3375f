"""Heads: what each gives out, to every loss and to the test, against the formulas written out."""

import warnings
from functools import cache
from itertools import pairwise

import pytest
import torch
from composing import settings_of
from torch import Tensor, nn
from torch.nn import functional

from reid.config.checks import ConfigError
from reid.config.schema import TrainConfig, config_folder
from reid.engine.distributed import Processes, SharedBatchNorm, share_neck, synchronise_batch_norm
from reid.engine.objective import Objective, build_metric_loss
from reid.models import Head, HeadError, ReidModel, as_backbone, build_head
from reid.models.heads import BNNeck, GeM, MaxAvg, Parts

HEADS = sorted(file.stem for file in (config_folder() / "head").glob("*.yaml"))
LOSSES = sorted(file.stem for file in (config_folder() / "loss").glob("*.yaml"))
CHANNELS, CLASSES, IMAGES = 6, 4, 12

pytestmark = pytest.mark.usefixtures("own_home")


@cache
def composed(*overrides: str) -> TrainConfig:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Values of Tp or Tn")
        return settings_of("backbone.weights=none", *overrides)


@pytest.fixture
def feature_map() -> Tensor:
    """As a ReLU gives it out."""
    return torch.randn(IMAGES, CHANNELS, 8, 4, generator=torch.Generator().manual_seed(0)).relu()


@pytest.fixture
def labels() -> Tensor:
    return torch.arange(CLASSES).repeat_interleave(IMAGES // CLASSES)


def normalised(features: Tensor) -> Tensor:
    """A new neck in training mode."""
    return (features - features.mean(0)) / (features.var(0, unbiased=False) + 1e-5).sqrt()


# ---- every head with every loss


@pytest.mark.parametrize("bnneck", ["true", "false"])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_head_trains_with_every_loss_by_the_feature_that_is_chosen(
    head: str, loss: str, bnneck: str, feature_map: Tensor, labels: Tensor
) -> None:
    options = composed(f"loss={loss}").loss
    for trained in ("both",) if loss == "mix" else ("after", "before"):
        for tested in ("after", "before"):
            chosen = {"train_feature": trained, "eval_feature": tested}
            torch.manual_seed(0)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Values of Tp or Tn")
                module = build_head(
                    composed(f"head={head}", f"tricks.bnneck={bnneck}").head | chosen, CHANNELS, CLASSES
                )
                metric_loss = build_metric_loss(options, CLASSES, module.embedding_size)
            objective = Objective(options["id_weight"], options["metric_weight"], 0.1, metric_loss)
            module.train()
            features, logits = module(feature_map)
            before, after = module.embed(feature_map)
            wanted = {"after": after, "before": before, "both": torch.cat([before, after], dim=1)}[trained]
            assert torch.equal(features, wanted)
            assert features.shape == (IMAGES, wanted.shape[1])
            assert torch.equal(before, after) == (bnneck == "false")
            assert torch.equal(logits, module.logits(after))

            values = objective(features, logits, labels)
            # Cross entropy by hand: the mean over the images, and the stripes where there are some.
            stripes = logits.unbind(1) if logits.ndim == 3 else [logits]
            by_stripe = [functional.cross_entropy(one, labels, label_smoothing=0.1) for one in stripes]
            torch.testing.assert_close(values["id_loss"], torch.stack(by_stripe).mean())
            module.zero_grad()
            values["loss"].backward()
            for name, parameter in module.named_parameters():
                # Where the metric loss alone trains, it sees no classifier, and no neck that comes after it.
                unseen = ("classifier", "bottleneck") if trained == "before" else ("classifier",)
                if parameter.requires_grad and not (objective.id_weight == 0 and name.startswith(unseen)):
                    assert parameter.grad is not None, name
                    assert parameter.grad.any(), name
            assert ("accuracy" in objective.watch(features, logits, labels)) == (objective.id_weight > 0)

            module.eval()
            before, after = module.embed(feature_map)
            assert torch.equal(module(feature_map), after if tested == "after" else before)


def test_an_image_counts_as_recognised_by_the_mean_of_its_stripes(labels: Tensor) -> None:
    features = torch.randn(IMAGES, 8, generator=torch.Generator().manual_seed(0))
    logits = functional.one_hot(labels, CLASSES).float().unsqueeze(1).repeat(1, 3, 1)
    logits[0, 0] = torch.tensor([0.0, 1.9, 0.0, 0.0])  # means 2/3 of its own person, 1.9/3 of another
    logits[1, 0] = torch.tensor([0.0, 2.5, 0.0, 0.0])  # 2/3 and 2.5/3
    watched = Objective(1.0, 0.0, 0.0, None).watch(features, logits, labels)
    assert watched["accuracy"].item() == pytest.approx((IMAGES - 1) / IMAGES)


# ---- what each computes


def test_bnneck_is_the_mean_and_a_batch_norm(feature_map: Tensor) -> None:
    head = BNNeck(CHANNELS, CLASSES).train()
    features, logits = head(feature_map)
    expected = normalised(feature_map.mean(dim=(2, 3)))
    torch.testing.assert_close(features, expected)
    torch.testing.assert_close(logits, expected @ head.classifier.weight.T)


def test_gem_is_the_formula_and_learns_its_power(feature_map: Tensor) -> None:
    head = GeM(CHANNELS, CLASSES, neck=False).double().eval()
    values = feature_map.double()
    values[0, 0] = -1.0  # of which nothing is above eps
    pooled = head(values)
    for image in range(3):
        for channel in range(CHANNELS):
            places = [max(float(x), 1e-6) for x in values[image, channel].flatten()]
            expected = (sum(x**3.0 for x in places) / len(places)) ** (1 / 3.0)
            assert pooled[image, channel].item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(
        lambda p: torch.func.functional_call(head, {"pooling_p": p}, (values[1:3],)),
        head.pooling_p.detach().requires_grad_(),
    )


def test_gem_lies_between_mean_and_maximum(feature_map: Tensor) -> None:
    values = feature_map.clamp(min=1e-3)
    mean, high = (GeM(CHANNELS, CLASSES, neck=False, p=p).eval()(values) for p in (1.0, 50.0))
    torch.testing.assert_close(mean, values.mean(dim=(2, 3)))
    torch.testing.assert_close(high, values.amax(dim=(2, 3)), rtol=0.1, atol=0)


@pytest.mark.parametrize(("stripes", "edges"), [(4, [0, 2, 4, 6, 8]), (3, [0, 2, 5, 8]), (8, range(9))])
def test_parts_are_the_means_of_disjoint_rows(stripes: int, edges: list[int], feature_map: Tensor) -> None:
    head = Parts(CHANNELS, CLASSES, stripes=stripes, reduction=None).train()
    features, logits = head(feature_map)
    assert head.embedding_size == features.shape[1] == stripes * CHANNELS
    assert logits.shape == (IMAGES, stripes, CLASSES)
    for number, (top, bottom) in enumerate(pairwise(edges)):
        expected = normalised(feature_map[:, :, top:bottom].mean(dim=(2, 3)))
        torch.testing.assert_close(features.chunk(stripes, 1)[number], expected)
        torch.testing.assert_close(logits[:, number], expected @ head.classifier[number].weight.T)


def test_parts_are_reduced_each_by_its_own_layer(feature_map: Tensor) -> None:
    head = Parts(CHANNELS, CLASSES, neck=False, stripes=2, reduction=3).eval()
    features = head(feature_map)
    for number, rows in enumerate((feature_map[:, :, :4], feature_map[:, :, 4:])):
        layer = head.reduction[number]
        assert isinstance(layer, nn.Linear)
        expected = rows.mean(dim=(2, 3)) @ layer.weight.T
        torch.testing.assert_close(features[:, 3 * number : 3 * number + 3], expected)


def test_max_avg_is_the_sum_of_both_or_both_apart(feature_map: Tensor) -> None:
    mean, largest = feature_map.mean(dim=(2, 3)), feature_map.amax(dim=(2, 3))
    head = MaxAvg(CHANNELS, CLASSES).train()
    features, logits = head(feature_map)
    torch.testing.assert_close(features, normalised(mean + largest))
    assert logits.shape == (IMAGES, 1, CLASSES)
    apart = MaxAvg(CHANNELS, CLASSES, separate=True).train()
    features, logits = apart(feature_map)
    assert apart.embedding_size == 2 * CHANNELS
    torch.testing.assert_close(features, torch.cat([normalised(mean), normalised(largest)], dim=1))
    for number, pooled in enumerate((mean, largest)):
        torch.testing.assert_close(logits[:, number], normalised(pooled) @ apart.classifier[number].weight.T)


@pytest.mark.parametrize("head", ["bnneck", "gem", "max_avg"])
def test_an_embedding_stands_before_the_neck(head: str, feature_map: Tensor) -> None:
    typed = (f"head={head}", "head.embedding=3")
    module = build_head(composed(*typed).head, CHANNELS, CLASSES).train()
    assert module.embedding_size == 3
    plain = build_head(composed(f"head={head}", "tricks.bnneck=false").head, CHANNELS, CLASSES).eval()
    layer = next(layer for layer in module.modules() if isinstance(layer, nn.Linear))
    before, after = module.embed(feature_map)
    torch.testing.assert_close(before, plain(feature_map) @ layer.weight.T)
    torch.testing.assert_close(after, normalised(before), rtol=1e-4, atol=1e-5)
    assert module(feature_map)[1].shape[-1] == CLASSES


@pytest.mark.parametrize("head", HEADS)
def test_a_layer_norm_knows_one_image_alone(head: str, feature_map: Tensor) -> None:
    module = build_head(composed(f"head={head}", "head.norm=layer").head, CHANNELS, CLASSES).train()
    features, _ = module(feature_map)
    alone, _ = module(feature_map[:1])
    torch.testing.assert_close(features[:1], alone)
    before, _ = module.embed(feature_map)
    size = 256 if head == "parts" else CHANNELS
    expected = functional.layer_norm(before.reshape(-1, size), (size,)).reshape(features.shape)
    torch.testing.assert_close(features, expected)
    for name, parameter in module.named_parameters():
        assert parameter.requires_grad or name.endswith("bias")


@pytest.mark.parametrize("head", HEADS)
def test_memory_layout_changes_no_feature_and_reaches_the_gradient(head: str, feature_map: Tensor) -> None:
    options = composed(f"head={head}").head
    torch.manual_seed(0)
    module = build_head(options, CHANNELS, CLASSES).train()
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        laid_out = feature_map.clone(memory_format=layout).requires_grad_()
        features, logits = module(laid_out)
        gradients: list[Tensor] = []
        middle = laid_out * 1.0  # what a backbone would get back
        middle.register_hook(gradients.append)
        features, logits = module(middle)
        (features.square().sum() + logits.square().sum()).backward()
        assert gradients[0].is_contiguous(memory_format=layout)
        found.append((features, logits, gradients[0]))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("head", HEADS)
def test_a_head_is_computed_in_the_precision_of_its_weights(head: str) -> None:
    options = composed(f"head={head}").head
    backbone = as_backbone(nn.Conv2d(3, CHANNELS, 3, padding=1), "tiny", CHANNELS)
    model = ReidModel(backbone, CLASSES, head=build_head(options, CHANNELS, CLASSES)).train()
    with torch.autocast("cpu", torch.bfloat16):
        features, logits = model(torch.randn(4, 3, 8, 4))
    assert features.dtype == logits.dtype == torch.float32


@pytest.mark.parametrize("head", HEADS)
def test_state_dict_names_have_no_prefix_and_load_again(head: str, feature_map: Tensor) -> None:
    options = composed(f"head={head}").head
    models = [
        ReidModel(
            as_backbone(nn.Conv2d(3, CHANNELS, 3), "tiny", CHANNELS), CLASSES,
            head=build_head(options, CHANNELS, CLASSES),
        )
        for _ in range(2)
    ]  # fmt: skip
    state = models[0].state_dict()
    parts = [name.partition(".")[0] for name in state]
    assert parts[0] == "backbone"
    assert {"bottleneck", "classifier"} <= set(parts)
    assert "head" not in parts
    models[1].load_state_dict(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in models[1].state_dict().items())
    wrapped = nn.ModuleDict({"module": models[1]})  # as DistributedDataParallel names it
    assert list(wrapped.state_dict()) == [f"module.{name}" for name in state]
    wrapped.load_state_dict(wrapped.state_dict())
    with pytest.raises(RuntimeError, match="bottleneck"):
        models[1].load_state_dict({name: state[name] for name in state if "bottleneck" not in name})


# ---- what is refused


class WithoutNeck(Head):
    """A head of a user's, which knows no neck."""

    def __init__(
        self, channels: int, num_classes: int, train_feature: str = "after", eval_feature: str = "after"
    ) -> None:
        super().__init__(train_feature, eval_feature)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["head.neck=false"], r"head.neck=False differs from tricks.bnneck=True.* Set tricks.bnneck alone"),
        (["head.train_feature=before"], r"Set loss.neck_feature alone"),
        (["head.eval_feature=before"], r"Set eval.neck_feature alone"),
        (["head=parts", "head.stripes=x"], r"head.stripes='x' is not allowed: expected a whole number"),
        (["head=parts", "+head.width=3"], r"no key head.width"),
        (["head=parts", "head.embedding=512"], r"no key head.embedding"),
        (
            ["head=gem", "head.embedding=0"],
            r"head.embedding=0 is not allowed: expected a whole number from 1",
        ),
        (["head=gem", "head.embedding=x"], r"head.embedding='x' is not allowed: expected a whole number or"),
        (
            ["head=max_avg", "head.norm=instance"],
            r"head.norm='instance' is not allowed: expected one of batch",
        ),
        (["head=parts", "image.height=64"], r"head.stripes=6 does not fit image.height=64 .*has 4 rows"),
        (["~head.train_feature"], r"head.train_feature is not given"),
    ],
)
def test_what_does_not_fit_is_named(overrides: list[str], words: str) -> None:
    with pytest.raises((ConfigError, HeadError), match=words):
        settings_of("backbone.weights=none", *overrides)


def test_a_head_without_a_neck_cannot_be_had_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reid.models.heads.WithoutNeck", WithoutNeck, raising=False)
    typed = ["head._target_=reid.models.heads.WithoutNeck", "~head.neck", "backbone.weights=none"]
    settings_of(*typed)
    with pytest.raises(ConfigError, match=r"tricks.bnneck=false does not fit this head: .*WithoutNeck"):
        settings_of(*typed, "tricks=no_bnneck")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"_target_": "os.system"}, "head._target_=os.system is refused"),
        ({"_target_": "reid.models.heads.Gem"}, "there is no such class"),
        ({"_target_": "reid.models.build_backbone"}, "is no head"),
        ({"_target_": "reid.models.heads.GeM", "p": 0.0}, "head.p=0.0 is not allowed"),
        ({"_target_": "reid.models.heads.Parts", "stripes": 0}, "head.stripes=0 is not allowed"),
        (
            {"_target_": "reid.models.heads.GeM", "norm": "layer", "neck": False},
            "head.norm=layer does nothing",
        ),
        ({"_target_": "reid.models.heads.BNNeck", "p": 3.0}, "does not take what stands in head: .*'p'"),
    ],
)
def test_what_is_no_head_is_refused(options: dict, words: str) -> None:
    with pytest.raises(HeadError, match=words):
        build_head(options, CHANNELS, CLASSES)


def test_a_map_with_fewer_rows_than_stripes_is_refused(feature_map: Tensor) -> None:
    with pytest.raises(HeadError, match=r"head.stripes=9 does not fit a feature map of 8 rows"):
        Parts(CHANNELS, CLASSES, stripes=9)(feature_map)


# ---- what is done with whole models


def whole(head: str, *typed: str) -> ReidModel:
    torch.manual_seed(0)
    backbone = as_backbone(nn.Sequential(nn.Conv2d(3, CHANNELS, 3, padding=1), nn.ReLU()), "tiny", CHANNELS)
    options = composed(f"head={head}", *typed).head
    return ReidModel(backbone, CLASSES, head=build_head(options, CHANNELS, CLASSES))


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_a_compiled_head_is_one_graph_with_the_same_output(head: str) -> None:
    model, images = whole(head, "head.classifier=circle"), torch.randn(IMAGES, 3, 8, 4)
    network = torch.compile(model, backend="eager", fullgraph=True)
    for mode in (True, False):
        model.train(mode)
        torch.testing.assert_close(network(images), model(images))


@pytest.mark.parametrize("head", HEADS)
def test_every_neck_of_a_head_is_shared_by_processes(head: str) -> None:
    shared, synchronised = whole(head), whole(head)
    count = len([module for module in shared.head.modules() if isinstance(module, nn.BatchNorm1d)])
    assert count == (6 if head == "parts" else 1)
    names = list(shared.state_dict())
    share_neck(shared.head, Processes(number=0, count=2))
    synchronise_batch_norm(synchronised)
    for model, kind in ((shared, SharedBatchNorm), (synchronised, nn.SyncBatchNorm)):
        assert len([module for module in model.head.modules() if isinstance(module, kind)]) == count
        assert list(model.state_dict()) == names
