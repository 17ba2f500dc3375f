"""No door imports what is heavy before it has refused: help, a slip of the keyboard, a missing folder.

One process a command goes through all of its refusals. What a process has imported only grows, so that one
which ends without torch never had it.
"""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT, environment
from PIL import Image

#: A second each, or more.
HEAVY = ("torch", "torchvision", "timm", "mlflow", "pandas", "matplotlib", "fastapi")

#: What is typed wrongly to each command, by what its script calls.  {} is a folder with an image, a.png, and
#: an empty file, empty.pt.
REFUSED = {
    "reid.train:main": [
        "los=ranked", "loss=rankd", "loss.alpa=1", "epochs=0", "epochs=many", "optimizer.lr=-1", "--epochs 3",
        "data.root=/nowhere", "dataset=folder", "dataset=folder dataset.root=/nowhere", "dataset=folders",
        "dataset=synthetic backbone.weights=/nowhere.pth", "init_from=/nowhere", "loss.alpha=1,2",
        "dataset=synthetic teacher.checkpoint=/nowhere",
        "-m seed=0,1 epochs=0", "-m dataset=folder dataset.root=/nowhere seed=0,1", "--config-dir /nowhere",
        "eval.datasets=[market]", "dataset=joint dataset.parts=[markt]", "batch.size=0", "image.height=8",
        "schedule.milestones=[70,40]", "tracking.uri=ftp://there",
        "dataset=synthetic dataset.corrections={}/a.png",
        "-m dataset=synthetic dataset.corrections=null,/nowhere/v.csv",
    ],
    "reid.evaluate:main": [
        "", "chekpoint=a.pt", "checkpoint=/nowhere", "checkpoint={} ", "checkpoint={}/empty.pt dataset=markt",
        "checkpoint={}/empty.pt dataset=folder dataset.root=/nowhere",
        "checkpoint={}/empty.pt eval.metric=l1",
        "checkpoint={}/empty.pt eval.datasets=[markt]", "--checkpoint a.pt",
    ],
    "reid.threshold:main": [
        "", "checkpoint=/nowhere", "checkpoint={}/empty.pt target=far", "checkpoint={}/empty.pt replicates=0",
        "checkpoint={}/empty.pt output=/nowhere/a.pt",
        "checkpoint={}/empty.pt dataset=market data.root=/nowhere",
    ],
    "experiments.tune.__main__:main": [
        "", "study=alpha", "study=alpha_margin study.trials=0", "study=alpha_margin eval.split=test",
        "study=alpha_margin study.space.alpha.low=9", "study=alpha_margin data.root=/nowhere",
        "study=alpha_margin study.storage=postgresql://ann:s3cret@there/optuna",
    ],
    "reid.compare:main": [
        "", "{}/a.png", "{}/a.png {}/b.png", "{}/a.png {}/a.png -o a.jpg", "{}/a.png {}/a.png --metric l1",
        "{}/a.png {}/a.png --checkpoint /nowhere", "{}/a.png {}/empty.pt", "{}/a.png {}/a.png metric=l1",
        "{}/a.png {}/a.png",
    ],
    "reid.extract:main": [
        "", "/nowhere -o {}/f.csv", "{} -o {}/f.txt", "{} -o /nowhere/f.csv", "{} -o {}/f.csv --batch 0",
        "{} -o {}/f.csv --checkpoint /nowhere", "{} -o {}/f.csv --on-bad-image no", "{}",
    ],
    "reid.browse:main": [
        "", "/nowhere", "checkpoint=/nowhere", "{}/empty.pt --against /nowhere", "{}/empty.pt --port 70000",
        "{}/empty.pt --root {}", "{}/empty.pt --dataset markt", "{}/empty.pt --dataset /nowhere/a.csv",
        "--gallery /nowhere", "--gallery {}", "--gallery {} --dataset market", "{}/empty.pt dataset=market",
    ],
    "reid.export.__main__:main": [
        "", "{}/empty.pt", "{}/empty.pt --for botsort -o {}/a.onnx", "{}/empty.pt --for boxmot",
        "{}/empty.pt --for boxmot -o {}/a.pt", "{}/empty.pt --for boxmot -o /nowhere/a.onnx",
        "/nowhere --for boxmot -o {}/a.onnx", "{}/empty.pt --for boxmot -o {}/a.onnx --int8 --fp16",
        "{}/empty.pt --for boxmot -o {}/a.onnx --calibration {}",
        "{}/empty.pt --for boxmot -o {}/a.onnx --int8 --calibration {}",
        "{}/empty.pt --for boxmot -o {}/a.onnx precision=int8", "for=boxmot",
        "{}/empty.pt --for deepstream -o {}/a.onnx --int8",
    ],
    "reid.index:main": [
        "", "{}", "-o {}/g", "-o {}/g --check", "-o {} --remove-person 7", "{} -o {}/g --check",
        "-o {}/g --check --remove-gone", "/nowhere/there -o {}/g", "{}/a.csv -o {}/g",
        "{} -o {}/g --checkpoint /nowhere", "{} -o {}/g --split val", "{} -o {}/g --batch 0",
        "market --root /nowhere -o {}/g", "dataset=market -o {}/g", "{} -o {}/g checkpoint=a.pt",
        "{} -o {}/g",
    ],
    "reid.search:main": [
        "", "{}/a.png", "{}/a.png --gallery /nowhere", "{}/a.png --gallery {}", "{}/a.png --top 0",
        "{}/a.png -o {}/a.jpg", "{}/a.png -o /nowhere/a.png", "{}/a.png --expand -1",
        "{}/a.png --combine all", "{}/a.png --since noon", "{}/a.png --camid first", "{}/a.png top=3",
    ],
    "reid.convert:main": [
        "", "/nowhere -o {}/a.pt", "{}/empty.pt -o {}/empty.pt", "{}/empty.pt -o /nowhere/a.pt",
        "{}/empty.pt -o {}/a.pt --height 8",
    ],
    "reid.profile:main": [
        "", "/nowhere", "checkpoint=/nowhere", "backbone=resnet5", "backbone=resnet18 image.hight=9",
        "backbone=resnet18 image.height=8", "backbone=resnet18 --batch 0", "backbone=resnet18 batch=8",
        "backbone=resnet18 --threads 0", "backbone=resnet18 --seconds 0", "backbone=resnet18 -o a.csv",
        "--runs mine --uri ftp://there", "backbone=resnet18,resnet50 loss=rankd",
    ],
    "reid.report:main": ["", "runs=", "runs=/nowhere", "runs={}", "runs={} --uri ftp://there"],
    "reid.doctor:main": [
        "/nowhere", "checkpoint=/nowhere", "--uri ftp://there", "--seconds 0", "--seconds many", "{}",
    ],
    "reid.clean:main": ["--only", "--only all", "--only last,all", "--uri ftp://there", "now"],
    "reid.sync:main": ["/nowhere", "--uri ftp://there", "--agian"],
    "reid.ui:main": ["--uri ftp://there", "--port many", "--uri http://there", "--upgrade --uri http://there"],
    "reid.runs.__main__:main": [
        "", "lst", "list --uri ftp://there", "show", "list --status well", "delete --older-than x",
    ],
    "reid.jobs.data_commands:check": [
        "", "nowhere", "/nowhere/there", "{}/a.csv", "market --root /nowhere", "market --option x",
    ],
    "reid.jobs.data_commands:split": ["", "/nowhere/there -o {}/a.csv", "market --root /nowhere -o {}/a.csv"],
    "reid.jobs.data_commands:stores": ["--delet"],
}  # fmt: skip

WALK = """
import contextlib, importlib, io, json, os, sys
module, _, function = sys.argv[1].partition(":")
main = getattr(importlib.import_module(module), function)
found = []
for line in json.loads(sys.argv.pop()):
    os.environ.pop("HYDRA_FULL_ERROR", None)  # of the launch before
    sys.argv = [sys.argv[0], *line.split()]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main()
        except SystemExit as end:
            code = end.code
    loaded = [name for name in json.loads(sys.argv0) if name in sys.modules]
    found.append([line, code, out.getvalue(), err.getvalue(), loaded])
print(json.dumps(found))
"""


def scripts() -> set[str]:
    """What the scripts of the wheel call: `module:function`."""
    return set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"].values())


def test_every_command_is_walked_through() -> None:
    assert scripts() | {"experiments.tune.__main__:main"} == set(REFUSED)


@pytest.mark.slow
@pytest.mark.parametrize("door", REFUSED)
def test_a_door_refuses_before_anything_heavy_is_imported(door: str, tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    Image.new("RGB", (16, 32)).save(files / "a.png")
    (files / "empty.pt").touch()
    lines = ["--help", *(line.replace("{}", str(files)) for line in REFUSED[door])]
    walk = WALK.replace("json.loads(sys.argv0)", repr(HEAVY))
    done = subprocess.run(
        [sys.executable, "-c", walk, door, json.dumps(lines)],
        env=environment(tmp_path / "home"), cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for line, code, out, err, loaded in json.loads(done.stdout):
        message = f"{door} {line}: {code}\n{out}{err}"
        assert loaded == [], f"{loaded} imported by {message}"
        assert code == (0 if line == "--help" else 2), message
        assert (out if line == "--help" else err).strip(), message
        assert "Traceback" not in err, message
    assert not (tmp_path / "home").exists() or not list((tmp_path / "home").iterdir())
