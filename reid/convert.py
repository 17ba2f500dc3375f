"""Make a checkpoint of this suite from a trained one of another project.

`python -m reid.convert FILE -o OUT` reads those of Ranked_Person_ReID and reid-strong-baseline, and the
transformers of PersonViT, TransReID-SSL, SOLIDER-REID and CLIP-ReID: state dicts with `base.*` (CLIP-ReID:
`image_encoder.*`), `bottleneck.*` and `classifier.*`, bare or under `state_dict` or `model`, with or without
`module.` or `_orig_mod.`; `--ema` takes the moving average beside it, `--trust` also pickled networks.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from reid.config.dialects import CommandParser
from reid.errors import UsageError
from reid.models import WeightsError


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: written; 1: it could not be written; 2: asked wrongly, or a file of another kind."""
    options = _parser().parse_args(arguments)
    source, target = options.file.expanduser(), options.output.expanduser()
    try:
        _check_paths(source, target)
        # Here, since what was typed wrongly is refused before torch is imported.
        from reid.commands.convert import run

        return run(options, source, target)
    except (UsageError, OSError) as error:  # OSError: such as a file that this user may not read
        print(f"reid.convert: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


def _check_paths(source: Path, target: Path) -> None:
    if not source.is_file():
        raise WeightsError(f"{source.absolute()}: there is no such file")
    if target.exists():
        raise WeightsError(f"{target} is there already: give another --output, or remove it")
    if not target.absolute().parent.is_dir():
        raise WeightsError(f"{target.absolute().parent} is no folder: make it first")


def _size(text: str) -> int:
    if not text.isdigit() or int(text) < 16:
        raise argparse.ArgumentTypeError(f"{text} is not allowed: expected 16 or more pixels")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m reid.convert",
        description="Make a checkpoint of this suite from a trained one of Ranked_Person_ReID, "
        "reid-strong-baseline, PersonViT, TransReID-SSL, SOLIDER-REID or CLIP-ReID. Tensors are kept as "
        "they are; nothing is trained or downloaded.",
    )
    parser.add_argument("file", type=Path, help="the trained checkpoint (.pth, .pt, .safetensors)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the checkpoint to write")
    parser.add_argument("--backbone", help="the network, where its tensors do not tell it")
    parser.add_argument(
        "--stem-relu",
        action=argparse.BooleanOptionalAction,
        help="whether a plain ResNet has a ReLU after its first batch norm (default: it has none, as in both "
        "projects)",
    )
    parser.add_argument(
        "--stn",
        action="store_true",
        help="the spatial transformer in the file (localization, fc_loc) was part of the network",
    )
    parser.add_argument(
        "--last-stride", type=int, choices=(1, 2), default=1, help="of the last stage (default: 1)"
    )
    parser.add_argument(
        "--neck-feature",
        choices=("before", "after"),
        help="the feature that is compared (default: before the neck for the transformers of other "
        "projects, as they do, after it for others)",
    )
    parser.add_argument(
        "--camera-weight",
        type=float,
        help="of a file with camera embeddings: what they are multiplied by (default: 3 as in TransReID, "
        "1 for CLIP-ReID)",
    )
    parser.add_argument("--height", type=_size, default=256, help="of the images, in pixels (default: 256)")
    parser.add_argument("--width", type=_size, default=128, help="of the images, in pixels (default: 128)")
    for name, what in (("mean", "mean"), ("std", "standard deviation")):
        parser.add_argument(
            f"--{name}", type=float, nargs=3, metavar=("R", "G", "B"),
            help=f"the {what} that images were normalised by, of pixels from 0 to 1 (default: that of the "
            "network's published weights, else ImageNet's)",
        )  # fmt: skip
    parser.add_argument(
        "--ema",
        action="store_true",
        help="of a file that holds trained weights and their moving average (state_dict_ema, model_ema), "
        "take the average",
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="read a file that pickles a whole network too: in a process of its own, which takes the tensors "
        "and runs none of the file's code",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
