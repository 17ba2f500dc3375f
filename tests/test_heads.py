"""A run with each head, from training to the ten lines of Python; what lies between knows none by name."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Runner

from reid.engine.checkpoint import load_checkpoint
from reid.engine.describe import rebuild_model
from reid.inference import load_model

pytestmark = pytest.mark.slow

#: A map of 2 rows: a stripe each.
HEADS = {
    "gem": ["head=gem", "head.classifier=circle", "head.scale=16"],
    "parts": [
        "head=parts",
        "head.stripes=2",
        "head.reduction=8",
        "loss=mix",
        "loss@loss.second=triplet_center",
    ],
}
#: Numbers of a feature.
SIZE = {"gem": 1280, "parts": 16}

Trained = Callable[[str], Path]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def run(run_command: Runner, home: Path) -> Callable[..., str]:
    def run(module: str, *words: str) -> str:
        done = run_command(module, *words, home=home)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture(scope="module")
def trained(run: Callable[..., str], tiny: list[str], home: Path) -> Trained:
    """The folder of a run of one epoch, made once for each head."""

    def train(head: str) -> Path:
        folder = home / head
        if not folder.exists():
            words = [*HEADS[head], "tricks=no_bnneck"] if head == "gem" else HEADS[head]
            run("reid.train", *tiny, *words, "tricks.warmup=0", "epochs=1", f"hydra.run.dir={folder}")
        return folder

    return train


@pytest.mark.parametrize("head", HEADS)
def test_what_was_trained_is_judged_and_embedded(
    head: str, trained: Trained, run: Callable[..., str], tiny_data: Path
) -> None:
    folder = trained(head)
    described = load_checkpoint(folder / "model.pt").meta["model"]["head"]
    assert described["_target_"].casefold() == f"reid.models.heads.{head}"
    assert described["neck"] == (head == "parts")

    scores = run("reid.evaluate", f"checkpoint={folder}", "device=cpu", f"data.root={tiny_data}")
    assert "mAP" in scores
    run("reid.threshold", f"checkpoint={folder}", "device=cpu", f"data.root={tiny_data}", "replicates=20")

    crops = sorted((tiny_data / "synthetic" / "day_tiny_0" / "query").glob("*.jpg"))[:2]
    loaded = load_model(folder, "cpu")
    features = loaded.embed(crops)
    assert features.shape == (2, SIZE[head])
    assert loaded.threshold is not None
    run("reid.extract", str(crops[0].parent), "-o", f"{folder}/features.npz", "--checkpoint", str(folder))
    with np.load(folder / "features.npz") as extracted:
        (stored,) = [array for array in extracted.values() if array.ndim == 2]
    torch.testing.assert_close(torch.from_numpy(stored[:2]), features.cpu(), rtol=1e-4, atol=1e-5)
    assert "distance" in run("reid.compare", *map(str, crops), "--checkpoint", str(folder))


def test_a_run_is_resumed_and_another_starts_from_its_model(
    trained: Trained, run: Callable[..., str], tiny: list[str], home: Path
) -> None:
    first_run = trained("parts")
    longer = run(
        "reid.train", *tiny, *HEADS["parts"], "tricks.warmup=0", "epochs=2", f"resume={first_run}",
        f"hydra.run.dir={home}/longer",
    )  # fmt: skip
    assert "resumed after epoch 1" in longer

    words = [*tiny, *HEADS["gem"], "epochs=1", f"init_from={first_run}", f"hydra.run.dir={home}/from_parts"]
    output = run("reid.train", *words, "freeze_bn=true")
    assert "trained with head._target_=reid.models.heads.Parts, this run has reid.models.heads.GeM" in output
    first, second = (load_checkpoint(folder / "model.pt") for folder in (first_run, home / "from_parts"))
    assert rebuild_model(second).embedding_size == 1280
    name = "backbone.features.0.1.running_mean"  # frozen, so it is still what it began with
    assert torch.equal(first.model[name], second.model[name])
