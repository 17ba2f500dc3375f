"""A transformer of timm through the real commands: trained, its file rebuilt and judged to the same score."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from reid.inference import load_model

pytestmark = pytest.mark.slow


@pytest.mark.usefixtures("tables")
def test_a_vit_trains_with_layer_decay_and_cameras_and_its_checkpoint_is_judged_the_same(
    run_command: Callable[..., CompletedProcess[str]], tiny: list[str], tiny_data: Path, tmp_path: Path
) -> None:
    others = [override for override in tiny if not override.startswith("backbone=")]
    trained = run_command(
        "reid.train", *others, "backbone=timm", "backbone.name=vit_tiny_patch16_224", "backbone.pooling=cls",
        "backbone.cameras=true", "optimizer=adamw", "optimizer.layer_decay=0.75", "epochs=1",
        f"hydra.run.dir={tmp_path}/run", home=tmp_path,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert "tricks.last_stride has no meaning for this network" in trained.stdout
    judged = run_command(
        "reid.evaluate", f"checkpoint={tmp_path}/run", "device=cpu", f"data.root={tiny_data}",
        f"hydra.run.dir={tmp_path}/judged", home=tmp_path,
    )  # fmt: skip
    assert judged.returncode == 0, judged.stdout + judged.stderr
    scores = json.loads((tmp_path / "judged" / "scores.json").read_text())["scores"]
    of_run = json.loads((tmp_path / "run" / "status.json").read_text())["scores"]
    without = {name: of_run.pop(name) for name in [*of_run] if name.startswith("test/without_camids/")}
    assert scores == of_run

    # The run has measured what its camera embeddings are worth, and who embeds without camids is told so.
    model = load_model(tmp_path / "run", "cpu")
    assert model.cameras == (0, 1, 2)
    measured = {"mAP": scores["test/mAP"], "mAP_without": without["test/without_camids/mAP"], "split": "test"}
    assert model.meta["without_camids"] == measured
