"""Classifiers with a margin: the logits against the formulas in Python floats, and what they reach."""

import math
from pathlib import Path

import pytest
import torch
from composing import settings_of
from torch import Tensor, nn
from torch.nn import functional

from reid.commands.train import trainee
from reid.data import Crop, ReidDataset
from reid.engine.compute import Compute
from reid.engine.objective import Objective
from reid.models import HeadError, build_head
from reid.models.classifiers import CosineClassifier, Margin, build_margin
from reid.models.heads import BNNeck, Parts

IMAGES, CLASSES, SIZE = 6, 4, 5
LABELS = torch.tensor([0, 0, 1, 2, 3, 3])


def cosines() -> Tensor:
    """Of all sizes, those of an angle of 0 and of pi among them."""
    drawn = (
        2 * torch.rand(IMAGES, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 1
    )
    drawn[0, 0], drawn[1, 0], drawn[2, 1] = 1.0, -1.0, -0.95
    return drawn


def naive(row: list[float], label: int, margin: Margin) -> list[float]:
    """The logits of one image."""
    s, m, logits = margin.scale, margin.margin, []
    for number, cosine in enumerate(row):
        if margin.kind == "circle":
            weight = max(0.0, 1 + m - cosine) if number == label else max(0.0, cosine + m)
            logits.append(s * weight * (cosine - (1 - m if number == label else m)))
        elif number != label:
            logits.append(s * cosine)
        elif margin.kind == "cosface":
            logits.append(s * (cosine - m))
        else:
            angle = math.acos(cosine)
            logits.append(s * (math.cos(angle + m) if angle < math.pi - m else cosine - m * math.sin(m)))
    return logits


@pytest.mark.parametrize("kind", ["cosface", "arcface", "circle"])
@pytest.mark.parametrize(("scale", "value"), [(None, None), (16.0, 0.1), (8.0, 0.0)])
def test_logits_are_those_of_the_formula(kind: str, scale: float | None, value: float | None) -> None:
    margin = build_margin(kind, scale, value)
    assert margin is not None
    expected = [
        naive(row, label, margin) for row, label in zip(cosines().tolist(), LABELS.tolist(), strict=True)
    ]
    # The sine of an angle of 0 is kept at 3e-4, so that its gradient is finite.
    torch.testing.assert_close(
        margin(cosines(), LABELS),
        torch.tensor(expected, dtype=torch.float64),
        rtol=0,
        atol=margin.scale * 4e-4,
    )


@pytest.mark.parametrize(
    ("kind", "scale", "margin"), [("cosface", 64.0, 0.35), ("arcface", 64.0, 0.5), ("circle", 128.0, 0.25)]
)
def test_the_published_values_stand_where_none_are_set(kind: str, scale: float, margin: float) -> None:
    assert build_margin(kind) == Margin(kind, scale, margin)


@pytest.mark.parametrize("kind", ["cosface", "arcface"])
def test_gradcheck(kind: str) -> None:
    margin = Margin(kind, 4.0, 0.3)
    values = 0.9 * cosines()
    assert torch.autograd.gradcheck(lambda x: margin(x, LABELS), (values.requires_grad_(),))


@pytest.mark.parametrize("kind", ["cosface", "arcface", "circle"])
def test_gradients_are_finite_at_every_angle(kind: str) -> None:
    margin, values = build_margin(kind), cosines().float().requires_grad_()
    assert margin is not None
    margin(values, LABELS).sum().backward()
    assert values.grad is not None
    assert values.grad.isfinite().all()
    if kind == "circle":  # its weights carry no gradient: that of c_y is s [1 + m - c_y]+
        assert values.grad[1, 0].item() == pytest.approx(128 * (1 + 0.25 + 1))


def test_cosines_do_not_know_how_long_features_and_weights_are() -> None:
    torch.manual_seed(0)
    classifier = CosineClassifier(SIZE, CLASSES)
    assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.5)
    features = torch.randn(IMAGES, SIZE)
    expected = [
        [nn.functional.cosine_similarity(feature, weight, dim=0).item() for weight in classifier.weight]
        for feature in features
    ]
    torch.testing.assert_close(classifier(features), torch.tensor(expected))
    with torch.no_grad():
        classifier.weight.mul_(torch.tensor([[3.0], [0.1], [1.0], [7.0]]))
    torch.testing.assert_close(classifier(5 * features), torch.tensor(expected))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["cosface", "arcface", "circle"])
def test_the_objective_trains_with_the_margin_and_watches_without_it(kind: str, smoothing: float) -> None:
    torch.manual_seed(0)
    feature_map = torch.randn(IMAGES, SIZE, 4, 2)
    for head in (
        BNNeck(SIZE, CLASSES, classifier=kind, scale=8.0),  # type: ignore[arg-type]
        Parts(SIZE, CLASSES, stripes=2, reduction=3, classifier=kind, scale=8.0),
    ):
        features, logits = head.train()(feature_map)
        assert logits.abs().max() <= 1 + 1e-6
        objective = Objective(1.0, 0.0, smoothing, None, head.margin)
        losses = objective(features, logits, LABELS)
        terms = []
        parts = logits if logits.ndim == 3 else logits[:, None]
        for image, label in zip(parts.tolist(), LABELS.tolist(), strict=True):
            for row in image:
                scores = naive(row, label, Margin(kind, 8.0, build_margin(kind).margin))  # type: ignore[union-attr]
                log_sum = math.log(sum(map(math.exp, scores)))
                wrong = log_sum - sum(scores) / CLASSES
                terms.append((1 - smoothing) * (log_sum - scores[label]) + smoothing * wrong)
        assert losses["id_loss"].item() == pytest.approx(sum(terms) / len(terms), rel=1e-3)
        # A margin may turn the right answer into a wrong one in training: that is no error.
        right = parts.mean(1).argmax(1) == LABELS
        watched = objective.watch(features, logits, LABELS)["accuracy"]
        assert watched.item() == pytest.approx(right.float().mean().item())


def test_what_is_typed_reaches_the_training() -> None:
    typed = ("head.classifier=arcface", "head.scale=8", "head.margin=0.3", "tricks.label_smoothing=0")
    settings = settings_of("backbone=resnet18", "backbone.weights=none", *typed)
    crops = tuple(Crop(Path(f"{pid}.jpg"), pid, 0) for pid in range(CLASSES))
    dataset = ReidDataset("four", Path(), crops, (), ())
    model, objective, optimizers = trainee(settings, dataset, Compute(torch.device("cpu")), resuming=False)
    assert objective.margin == Margin("arcface", 8.0, 0.3)
    features, logits = model.train()(torch.randn(IMAGES, 3, 32, 16))
    expected = functional.cross_entropy(Margin("arcface", 8.0, 0.3)(logits, LABELS), LABELS)
    losses = objective(features, logits, LABELS)
    torch.testing.assert_close(losses["id_loss"], expected)
    before = model.head.classifier.weight.clone()
    losses["loss"].backward()
    optimizers.step(optimizers.gradient_norm())
    assert (model.head.classifier.weight != before).any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"classifier": "sphereface"}, r"head.classifier='sphereface' is not allowed: give one of linear"),
        ({"classifier": "cosface", "scale": 0.0}, r"head.scale=0.0 is not allowed"),
        ({"classifier": "cosface", "margin": 1.5}, r"head.margin=1.5 is not allowed: cosface takes 0 to 1"),
        ({"classifier": "arcface", "margin": 28.6}, r"to 1.571 radians, unlike the degrees of loss=arcface"),
        ({"margin": 0.3}, r"head.margin=0.3 does nothing with head.classifier=linear"),
    ],
)
def test_what_is_no_margin_is_refused(options: dict, words: str) -> None:
    with pytest.raises(HeadError, match=words):
        build_head({"_target_": "reid.models.heads.BNNeck", **options}, SIZE, CLASSES)
