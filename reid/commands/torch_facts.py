"""What PyTorch says of itself and of the GPUs: `python -m reid.commands.torch_facts` prints lines of JSON.

A process of its own, since a broken installation may end it and a broken driver may hang it. What was printed
before counts.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from typing import Any


def main() -> None:
    for step in (libraries, gpus, backbones):
        print(json.dumps(step()), flush=True)
    for facts in computing():
        print(json.dumps(facts), flush=True)


def libraries() -> dict[str, Any]:
    """Whether the libraries that have to fit each other can be imported."""
    broken = {}
    for name in ("torch", "torchvision", "timm"):
        try:
            __import__(name)
        except BaseException as error:  # of binaries that do not fit, anything
            broken[name] = f"{type(error).__name__}: {error}"
    return {"step": "libraries", "broken": broken}


def gpus() -> dict[str, Any]:
    """What torch was built for and the GPUs that it sees."""
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
        cards = []
        for number in range(torch.cuda.device_count() if available else 0):
            card = torch.cuda.get_device_properties(number)
            free, total = torch.cuda.mem_get_info(number)
            cards.append(
                {
                    "name": card.name, "free": free, "total": total,
                    "architecture": f"sm_{card.major}{card.minor}",
                }
            )  # fmt: skip
    return {
        "step": "gpus",
        "built_for": torch.version.cuda or torch.version.hip,
        "architectures": torch.cuda.get_arch_list() if available else [],
        "available": available,
        "cards": cards,
        "threads": torch.get_num_threads(),
        "warnings": [str(one.message).splitlines()[0] for one in caught],
    }


def backbones() -> dict[str, Any]:
    """The ImageNet file of each backbone, and whether it lies in the cache."""
    from pathlib import Path

    import torch

    from reid.models import backbone_names, build_backbone

    cached: list[str] = []
    absent: list[str] = []
    folder = Path(torch.hub.get_dir(), "checkpoints")
    for name in backbone_names():
        with torch.device("meta"):
            file = build_backbone(name).imagenet
        if file is not None:
            (cached if (folder / file.name).is_file() else absent).append(name)
    return {"step": "backbones", "cached": cached, "absent": absent, "timm": _of_timm()}


def _of_timm() -> list[str]:
    """The networks of timm whose files lie in the cache of the Hugging Face hub."""
    from pathlib import Path

    from huggingface_hub import constants

    found = Path(constants.HF_HUB_CACHE).glob("models--timm--*/snapshots/*/*.safetensors")
    return sorted({path.parts[-4].removeprefix("models--timm--") for path in found})


def computing() -> Iterator[dict[str, Any]]:
    """A sum on each GPU: the first step that needs it to work."""
    import torch

    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        try:
            right = torch.ones(1000, device=f"cuda:{number}").sum().item() == 1000
            yield {"step": "computing", "card": number, "trouble": "" if right else "1000 ones are not 1000"}
        except RuntimeError as error:
            yield {"step": "computing", "card": number, "trouble": str(error).splitlines()[0]}


if __name__ == "__main__":
    main()
