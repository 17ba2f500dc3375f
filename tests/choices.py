"""The choices that reid/README.md adds, as files; and crops for its dataset to read."""

import re
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "reid" / "README.md").read_text()
SECTION = README.partition("\n## Adding a choice\n")[2].partition("\n## ")[0]


def files() -> dict[str, tuple[str, bool]]:
    """The files that the section shows: content by path, and whether it is added at the end of one."""
    found = re.findall(r"```(?:python|yaml)\n# ([\w./]+)(, at its end)?\n(.*?)```", SECTION, flags=re.DOTALL)
    return {path: (text, bool(added)) for path, added, text in found}


def own_crops(tiny_data: Path, root: Path) -> Path:
    """The tiny set under the names that the section's dataset reads."""
    for split, folder in (
        ("train", "bounding_box_train"),
        ("query", "query"),
        ("gallery", "bounding_box_test"),
    ):
        (root / split).mkdir(parents=True)
        for number, crop in enumerate(
            sorted((tiny_data / "synthetic" / "day_tiny_0" / folder).glob("[0-9]*"))
        ):
            person, camera = re.match(r"(\d+)_c(\d)", crop.name).groups()  # type: ignore[union-attr]
            shutil.copyfile(crop, root / split / f"{person}-{camera}-{number}{crop.suffix}")
    return root


def write_package(folder: Path) -> None:
    """The same as a package of the user's, `mypackage`, with its choices called `own`."""
    shown = {path: text for path, (text, _) in files().items()}
    heads = "from torch import nn\n\nfrom reid.models import Backbone, as_backbone\n\n\n"
    of_package = {
        "__init__.py": "",
        "losses.py": shown["reid/losses/mine.py"],
        "nets.py": heads + shown["reid/models/backbones.py"],
        "crops.py": shown["reid/data/datasets/mine.py"],
        "conf/loss/own.yaml": shown["conf/loss/mine.yaml"].replace("reid.losses.mine.", "mypackage.losses."),
        "conf/backbone/own.yaml": shown["conf/backbone/mine.yaml"].replace(": mine", ": mypackage.nets.mine"),
        "conf/dataset/own.yaml": shown["conf/dataset/mine.yaml"].replace(": mine", ": mypackage.crops"),
    }
    for name, text in of_package.items():
        (folder / "mypackage" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "mypackage" / name).write_text(text)
