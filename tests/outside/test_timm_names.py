"""Networks of timm that people train for re-identification: each one forward and backward pass.

What a run would do with them: built for 128x64 pixels (or the nearest size that its patches fill) at the last
stride that it takes, with the head of Bag of Tricks, and moved by one step. The list says what each refuses.
"""

import pytest
import torch
from torch.nn.functional import cross_entropy

from reid.models import BackboneError, ReidModel, build_backbone

#: name: height, width, the last stride, or the words by which it is refused.
NAMES: dict[str, tuple[int, int, int] | str] = {
    # small convolutional networks
    **dict.fromkeys(
        (
            "mobilenetv4_conv_small_050", "mobilenetv4_conv_small", "mobilenetv4_conv_medium",
            "mobilenetv4_hybrid_medium", "mobilenetv3_small_050", "mobilenetv3_small_100",
            "mobilenetv2_050", "lcnet_050", "lcnet_100", "tinynet_e", "mnasnet_small", "ghostnet_100",
            "repghostnet_050", "mobileone_s0", "regnetx_002", "regnety_002", "tf_efficientnet_lite0",
            "tf_efficientnet_lite2", "efficientnet_lite0", "fastvit_t8", "repvit_m0_9",
            "starnet_s1", "edgenext_xx_small", "mobilevit_xxs", "mobilevitv2_050", "resnet10t",
        ),
        (128, 64, 1),
    ),
    # transformers
    **dict.fromkeys(
        ("tiny_vit_5m_224", "tiny_vit_21m_224", "deit_tiny_patch16_224"), (128, 64, 1)
    ),
    **dict.fromkeys(("vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2"), (126, 56, 1)),
    **dict.fromkeys(
        ("vit_small_patch16_dinov3", "vit_base_patch16_dinov3", "convnext_tiny.dinov3_lvd1689m"), (128, 64, 1)
    ),
    # refused
    "osnet_x1_0": r"osnet_x1_0 is no network of timm",
    "efficientformerv2_s0": r"tricks\.last_stride=1 does not fit backbone\.name=efficientformerv2_s0",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_network_takes_a_step_or_is_refused_in_words(name: str) -> None:
    expected = NAMES[name]
    height, width, stride = (128, 64, 1) if isinstance(expected, str) else expected
    torch.manual_seed(0)
    options = {"library": "timm", "image_size": [height, width], "last_stride": stride}
    if isinstance(expected, str):
        with pytest.raises(BackboneError, match=expected):
            build_backbone(name, **options)  # type: ignore[arg-type]
        return
    model = ReidModel(build_backbone(name, **options), 4)  # type: ignore[arg-type]
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    features, logits = model(torch.randn(4, 3, height, width))
    assert features.shape == (4, model.embedding_size)
    loss = cross_entropy(logits, torch.arange(4)) + features.square().mean()
    loss.backward()
    optimizer.step()
    assert loss.isfinite()
    moved = [key for key, parameter in model.named_parameters() if not torch.equal(parameter, before[key])]
    assert any(key.startswith("backbone.") for key in moved)
    assert model.eval()(torch.randn(2, 3, height, width)).isfinite().all()
