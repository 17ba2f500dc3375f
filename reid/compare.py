"""The same person or another? `python -m reid.compare a.jpg b.jpg … [--checkpoint model.pt] [-o pairs.png]`.

Prints the distances of all pairs and, where the checkpoint carries a threshold (`python -m reid.threshold`)
or a calibration (`python -m reid.calibrate`), what they mean.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from reid.config.dialects import CommandParser
from reid.data import DatasetError
from reid.data.pictures import name_unreadable, unreadable
from reid.engine.checkpoint_source import check_checkpoint, newest_model
from reid.errors import UsageError
from reid.terminal import Terminal


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: compared; 1: something failed; 2: asked wrongly."""
    parser = _parser()
    options = parser.parse_args(arguments)
    images: list[Path] = options.images
    if len(images) < 2:
        parser.error("one image has nothing to be compared with: give two or more")
    if options.output is not None and options.output.suffix.lower() != ".png":
        parser.error(f"-o {options.output}: expected a name that ends in .png")
    if options.prior is not None and not 0 < options.prior < 1:
        parser.error(f"--prior {options.prior:g}: expected a number above 0 and below 1")
    try:
        if bad := unreadable(images):
            raise DatasetError(name_unreadable(bad))
        options.checkpoint = options.checkpoint or str(newest_model())
        check_checkpoint(options.checkpoint)
        # Here, since what was typed wrongly is refused before torch is imported.
        from reid.commands.compare import run

        return run(options)
    except (UsageError, OSError) as error:
        Terminal(stderr=True, soft_wrap=True).print(f"reid.compare: {error}", highlight=False)
        return 2 if isinstance(error, UsageError) else 1


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m reid.compare", description="Tell whether images show the same person or another."
    )
    parser.add_argument("images", nargs="+", type=Path, help="two or more crops of one person each")
    parser.add_argument(
        "--checkpoint",
        help="a file, a run's folder, an MLflow run id or models:/<name>@<alias> (default: the newest "
        "model.pt under outputs/)",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("-o", "--output", type=Path, metavar="PICTURE.png", help="draw the pairs")
    parser.add_argument(
        "--metric", choices=("euclidean", "cosine"), help="default: that of the checkpoint's evaluation"
    )
    parser.add_argument(
        "--feature-norm",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="divide features by their L2 norm (default: as the checkpoint was evaluated)",
    )
    parser.add_argument(
        "--neck-feature", choices=("after", "before"), help="default: that of the checkpoint's evaluation"
    )
    parser.add_argument(
        "--camera", metavar="N",
        help="of a model that has learnt cameras: the one that all images are of, or mean for any other",
    )  # fmt: skip
    parser.add_argument(
        "--prior", type=float, metavar="P",
        help="share of the pairs that show one person, which a probability needs (default: the one that "
        "reid.calibrate stored)",
    )  # fmt: skip
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return parser


if __name__ == "__main__":
    sys.exit(main())
