"""ReidModel: which feature goes where, and in what precision."""

import pytest
import torch
from torch import Tensor, nn

from reid.models import Backbone, ReidModel, as_backbone


def tiny_backbone() -> Backbone:
    return as_backbone(nn.Conv2d(3, 6, 3, padding=1), "tiny", 6)


def pooled(model: ReidModel, images: Tensor) -> Tensor:
    return model.backbone(images).mean(dim=(2, 3))


@pytest.fixture
def images() -> Tensor:
    return torch.randn(8, 3, 8, 4, generator=torch.Generator().manual_seed(0))


def test_training_returns_the_normalised_feature_and_its_logits(images: Tensor) -> None:
    model = ReidModel(tiny_backbone(), num_classes=5).train()
    features, logits = model(images)
    before = pooled(model, images)
    expected = (before - before.mean(0)) / (before.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(features, expected)
    torch.testing.assert_close(logits, expected @ model.head.classifier.weight.T)


def test_before_feeds_the_metric_loss_but_not_the_classifier(images: Tensor) -> None:
    model = ReidModel(tiny_backbone(), num_classes=5, train_feature="before").train()
    features, logits = model(images)
    torch.testing.assert_close(features, pooled(model, images))
    model.head.train_feature = "after"
    after, same_logits = model(images)
    torch.testing.assert_close(logits, same_logits)
    assert not torch.allclose(features, after)


@pytest.mark.parametrize("eval_feature", ["after", "before"])
def test_evaluation_returns_one_feature(eval_feature: str, images: Tensor) -> None:
    model = ReidModel(tiny_backbone(), num_classes=5, eval_feature=eval_feature)
    model.train()(images)  # moves the running statistics away from 0 and 1
    features = model.eval()(images)
    before = pooled(model, images)
    after = model.head.bottleneck(before)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(features, after if eval_feature == "after" else before)


def test_without_neck_every_feature_is_the_pooled_one(images: Tensor) -> None:
    model = ReidModel(tiny_backbone(), num_classes=5, neck="none")
    features, logits = model.train()(images)
    torch.testing.assert_close(features, pooled(model, images))
    torch.testing.assert_close(logits, features @ model.head.classifier.weight.T)
    torch.testing.assert_close(model.eval()(images), features)
    assert not any(name.startswith("bottleneck") for name in model.state_dict())


def test_start_values_and_frozen_bias(images: Tensor) -> None:
    model = ReidModel(tiny_backbone(), num_classes=2000)
    assert isinstance(model.head.bottleneck, nn.BatchNorm1d)
    assert torch.equal(model.head.bottleneck.weight, torch.ones(6))
    assert torch.equal(model.head.bottleneck.bias, torch.zeros(6))
    assert model.head.classifier.bias is None
    assert model.head.classifier.weight.std().item() == pytest.approx(0.001, rel=0.05)

    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.1)
    features, logits = model.train()(images)
    (features.pow(2).sum() + logits.logsumexp(1).sum()).backward()
    optimizer.step()
    assert model.head.bottleneck.bias.grad is None
    assert torch.equal(model.head.bottleneck.bias, torch.zeros(6))
    assert not torch.equal(model.head.bottleneck.weight, torch.ones(6))


def test_state_dict_names() -> None:
    names = {name.split(".")[0] for name in ReidModel(tiny_backbone(), num_classes=5).state_dict()}
    assert names == {"backbone", "bottleneck", "classifier"}


def test_autocast_ends_at_the_feature_map(images: Tensor) -> None:
    model = ReidModel(tiny_backbone(), num_classes=5).train()
    with torch.autocast("cpu", torch.bfloat16):
        feature_map = model.backbone(images)
        features, logits = model(images)
    assert feature_map.dtype == torch.bfloat16
    assert features.dtype == logits.dtype == torch.float32
    torch.testing.assert_close(features, model.head.bottleneck(feature_map.float().mean(dim=(2, 3))))


def test_float64_stays_float64(images: Tensor) -> None:
    model = ReidModel(tiny_backbone(), num_classes=5).double().train()
    features, logits = model(images.double())
    assert features.dtype == logits.dtype == torch.float64


@pytest.mark.parametrize(
    "arguments", [{"neck": "bn"}, {"train_feature": "pooled"}, {"eval_feature": "both"}, {"num_classes": 0}]
)
def test_wrong_choices_are_named(arguments: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        ReidModel(tiny_backbone(), **{"num_classes": 5, **arguments})


def test_frozen_batch_norms_of_the_backbone_keep_their_statistics_and_train_their_weights(
    images: Tensor,
) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6))
    model = ReidModel(as_backbone(layers, "tiny", 6), num_classes=3, freeze_bn=True).train()
    features, logits = model(images)
    (features.square().sum() + logits.square().sum()).backward()
    buffers = dict(model.named_buffers())
    assert torch.equal(buffers["backbone.1.running_mean"], torch.zeros(6))
    assert torch.equal(buffers["backbone.1.running_var"], torch.ones(6))
    assert layers[1].weight.grad is not None
    torch.testing.assert_close(pooled(model, images[:1]), pooled(model, images)[:1])  # none of the batch's


def test_frozen_batch_norms_leave_the_neck_to_learn_its_statistics(images: Tensor) -> None:
    """They begin at 0 and 1, which say nothing of the features."""
    torch.manual_seed(0)
    model = ReidModel(tiny_backbone(), num_classes=3, freeze_bn=True).train()
    features, _ = model(images)
    before = pooled(model, images)
    torch.testing.assert_close(features.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(model.head.bottleneck.running_mean, 0.1 * before.mean(0))
    torch.testing.assert_close(model.head.bottleneck.running_var, 0.9 + 0.1 * before.var(0))
    model.eval().train()  # as a judgement between two epochs does
    assert model.head.bottleneck.training


def test_frozen_norms_that_are_no_batch_norm_of_torch_keep_their_statistics_too(images: Tensor) -> None:
    from timm.layers import BatchNormAct2d, EvoNorm2dB0

    for norm in (BatchNormAct2d(6), EvoNorm2dB0(6), nn.InstanceNorm2d(6), nn.GroupNorm(2, 6)):
        layers = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), norm, nn.Dropout(0.1))
        model = ReidModel(as_backbone(layers, "tiny", 6), num_classes=3, freeze_bn=True).train()
        before = {name: buffer.clone() for name, buffer in layers.named_buffers()}
        model(images)
        assert all(torch.equal(buffer, before[name]) for name, buffer in layers.named_buffers())
        assert layers[2].training


def test_a_frozen_backbone_gives_what_it_gives_in_a_test_and_learns_again_afterwards(images: Tensor) -> None:
    layers = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.Dropout(0.5), nn.Conv2d(6, 6, 1))
    layers[3].bias.requires_grad_(False)  # as timm's position embeddings that are sines
    model = ReidModel(as_backbone(layers, "tiny", 6), num_classes=5, train_feature="before")
    layers[1].running_mean = torch.full((6,), 0.5)
    tested = pooled(model.eval(), images)
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    for _ in range(2):  # freezing twice is as once
        model.freeze_backbone(True)
    features, logits = model.train()(images)
    logits.sum().backward()
    assert torch.equal(features, tested)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.backbone.state_dict().items())
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
    assert model.head.classifier.weight.grad is not None

    model.freeze_backbone(False)
    features, logits = model.train()(images)
    (features.sum() + logits.sum()).backward()
    assert not torch.equal(features, tested)
    assert layers[0].weight.grad is not None
    assert layers[3].bias.grad is None
