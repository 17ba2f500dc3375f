"""A file for another program: `python -m reid.export model.pt --for boxmot -o reid.onnx`.

What that program leaves out is inside the graph, a JSON file beside it says everything that its user needs,
and a graph that would not give the program the features of the model is not kept.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from reid.config.dialects import CommandParser
from reid.data import DatasetError
from reid.data.image_folders import images_below
from reid.engine.checkpoint_source import check_checkpoint
from reid.errors import RunError, UsageError
from reid.export.target import target_names
from reid.terminal import Terminal

#: What the extra `export` brings.
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
#: Crops that an int8 graph has to be calibrated on.
FEWEST = 16


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: written; 1: the graph failed its check, or could not be written; 2: asked wrongly."""
    parser = _parser()
    options = parser.parse_args(arguments)
    output: Path = options.output
    if output.suffix != ".onnx":
        parser.error(f"-o {output}: expected a name that ends in .onnx")
    if output.is_dir():
        parser.error(f"-o {output} is a folder: expected a file")
    if not output.absolute().parent.is_dir():
        parser.error(f"-o {output}: there is no folder {output.absolute().parent}")
    if options.target == "deepstream" and options.precision == "int8":
        parser.error(
            "--int8: DeepStream builds its engine by TensorRT, which refuses the scales of such a file "
            "(zero points other than 0): take --fp16, which is what a GPU gains from"
        )
    if options.calibration is not None and options.precision != "int8":
        parser.error("--calibration: only --int8 looks at images; leave it out, or add --int8")
    try:
        check_checkpoint(options.checkpoint)
        calibration = None if options.calibration is None else _images(options.calibration)
        missing = [name for name in PACKAGES if find_spec(name) is None]
        if missing:
            parser.error(
                f"{', '.join(missing)} not installed: pip install '.[export]' brings what is missing"
            )
        return _run(options, calibration)
    except (UsageError, RunError, OSError) as error:
        Terminal(stderr=True, soft_wrap=True).print(f"reid.export: {error}", highlight=False)
        return 2 if isinstance(error, UsageError) else 1


def _run(options: argparse.Namespace, calibration: Sequence[Path] | None) -> int:
    # Here, since what was typed wrongly is refused before torch is imported.
    from reid.commands.export import run

    return run(options, calibration)


def _images(folder: Path) -> list[Path]:
    """Raises DatasetError where they are too few to calibrate on."""
    images = images_below(folder).images if folder.is_dir() else []
    if len(images) < FEWEST:
        raise DatasetError(
            f"--calibration {folder}: {len(images)} images there, {FEWEST} or more are needed. Give a folder "
            "of crops like those that the model was trained on"
        )
    return images


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m reid.export", description="Write a trained model as a file for another program."
    )
    parser.add_argument("checkpoint", help="a file, a run's folder or an MLflow run id")
    parser.add_argument(
        "--for", dest="target", choices=target_names(), required=True, help="the program that will use it"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="reid.onnx; further files lie beside it",
    )
    smaller = parser.add_mutually_exclusive_group()
    smaller.add_argument(
        "--int8", dest="precision", action="store_const", const="int8",
        help="compute in 8 bits: a quarter of the size, quicker on a CPU; calibrated on training crops",
    )  # fmt: skip
    smaller.add_argument(
        "--fp16", dest="precision", action="store_const", const="float16",
        help="compute in 16 bits: half the size, for GPUs",
    )  # fmt: skip
    parser.set_defaults(precision="float32")
    parser.add_argument(
        "--calibration", type=Path, metavar="FOLDER",
        help="with --int8: crops to calibrate on (default: the training crops of the checkpoint's dataset)",
    )  # fmt: skip
    parser.add_argument(
        "--camera", metavar="N",
        help="of a model that has learnt cameras: the one that all images are of, or mean for any other",
    )  # fmt: skip
    parser.add_argument(
        "--data-root", help="where the datasets lie (default: REID_DATA, else data/ of the project)"
    )
    parser.add_argument(
        "--judge", action=argparse.BooleanOptionalAction, default=None,
        help="score the file on the test set of the run, beside the model (default: with --int8 or --fp16)",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
