"""What a run takes from the checkpoint that `init_from` names, and what it refuses."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from composing import settings_of

from reid.config.schema import TrainConfig
from reid.engine.checkpoint import Checkpoint, CheckpointError, save_checkpoint
from reid.engine.describe import build_model, model_description, preprocessing
from reid.engine.start import begin, open_start
from reid.models import ReidModel, build_backbone
from reid.models.weights import file_sha256

NET = ("backbone=resnet18", "backbone.weights=none")


def saved(path: Path, settings: TrainConfig, identities: int, **meta: Any) -> ReidModel:
    model = build_model(settings, identities)
    meta = {
        "model": model_description(settings, identities),
        "preprocessing": preprocessing(settings.image, model),
        "dataset": {"name": "market"},
        "pids": list(range(1, identities + 1)),
        "eval": asdict(settings.eval),
        "config": {},
        "config_hash": "0" * 16,
        **meta,
    }
    save_checkpoint(path, Checkpoint(model.state_dict(), meta, {"optimizer": {}}))
    return model


@pytest.mark.slow
def test_everything_but_the_classifier_is_taken_into_any_number_of_identities(tmp_path: Path) -> None:
    settings = settings_of(*NET)
    joint = {"name": "joint", "parts": [{"name": "market", "root": "/a"}, {"name": "duke", "root": "/a"}]}
    begun = {"reid.init_from.trained_on": "msmt17, market"}
    source = saved(tmp_path / "model.pt", settings, 7, run_id="0" * 32, dataset=joint, begun=begun)
    model = build_model(settings, 5)
    classifier = model.head.classifier.weight.clone()
    message, facts = begin(model, open_start(tmp_path / "model.pt", settings))

    assert model.head.classifier.weight.shape == (5, 512)
    assert torch.equal(model.head.classifier.weight, classifier)
    images = torch.rand(2, 3, 32, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.eval()(images), source.eval()(images))
    for words in ("104 of 104 model tensors loaded (100.0%)", "1 dropped: classifier.weight", "not needed"):
        assert words in message
    assert facts == {
        "reid.init_from": f"{tmp_path.name}/model.pt",
        "reid.init_from.sha256": file_sha256(tmp_path / "model.pt"),
        "reid.init_from.matched_percent": "100.0",
        "reid.init_from.trained_on": "market, duke, msmt17",
        "reid.init_from.run_id": "0" * 32,
    }


def test_without_one_the_backbones_own_weights_are_named() -> None:
    message, facts = begin(build_model(settings_of(*NET), 5), None)
    assert message.startswith("weights: random weights")
    assert facts == {
        "reid.weights.source": "none", "reid.weights.matched_percent": "0.0", "reid.weights.sha256": "",
    }  # fmt: skip


@pytest.mark.slow
def test_how_much_of_a_weight_file_fitted_is_printed_and_tracked(tmp_path: Path) -> None:
    state = build_backbone("resnet18").state_dict()
    del state["layer4.1.bn2.weight"], state["layer4.1.bn2.bias"]
    torch.save(state, tmp_path / "net.pth")
    message, facts = begin(
        build_model(settings_of("backbone=resnet18", f"backbone.weights={tmp_path}/net.pth"), 5), None
    )
    # 20 convolutions and 20 batch norms of four tensors each.
    assert "98 of 100 backbone tensors loaded (98.0%)" in message
    assert facts == {
        "reid.weights.source": "net.pth",
        "reid.weights.matched_percent": "98.0",
        "reid.weights.sha256": file_sha256(tmp_path / "net.pth"),
    }


@pytest.mark.slow
@pytest.mark.parametrize(("there", "here"), [("bag_of_tricks", "no_bnneck"), ("no_bnneck", "bag_of_tricks")])
def test_a_neck_that_only_one_side_has_is_reported(there: str, here: str, tmp_path: Path) -> None:
    saved(tmp_path / "model.pt", settings_of(*NET, f"tricks={there}"), 7)
    settings = settings_of(*NET, f"tricks={here}")
    message, _ = begin(build_model(settings, 5), open_start(tmp_path / "model.pt", settings))
    kind = "unexpected" if here == "no_bnneck" else "missing"
    assert f"4 {kind}: bottleneck.weight, bottleneck.bias" in message


@pytest.mark.slow
def test_another_backbone_is_refused_in_words(tmp_path: Path) -> None:
    saved(tmp_path / "model.pt", settings_of(*NET), 7)
    with pytest.raises(CheckpointError, match=r"holds a resnet18, .* a resnet34\. Choose backbone=resnet18"):
        open_start(tmp_path / "model.pt", settings_of("backbone=resnet34"))


@pytest.mark.slow
def test_a_checkpoint_whose_tensors_differ_changes_nothing(tmp_path: Path) -> None:
    settings = settings_of(*NET)
    saved(tmp_path / "model.pt", settings, 7)
    start = open_start(tmp_path / "model.pt", settings)
    state = dict(start.checkpoint.model)
    state["backbone.conv1.weight"] = torch.zeros(64, 1, 7, 7)
    del state["backbone.bn1.weight"]
    model = build_model(settings, 5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(
        CheckpointError, match=r"2 tensors differ, first backbone\.conv1\.weight \(file \(64, 1"
    ):
        type(start)(start.path, start.sha256, Checkpoint(state, start.checkpoint.meta, {})).load_into(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.slow
def test_what_changes_the_features_without_a_tensor_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved(tmp_path / "model.pt", settings_of(*NET), 7)
    with caplog.at_level(logging.WARNING):
        open_start(tmp_path / "model.pt", settings_of(*NET))
        open_start(tmp_path / "model.pt", settings_of(*NET, "backbone.stem_relu=null"))
        assert not caplog.messages
        open_start(
            tmp_path / "model.pt", settings_of(*NET, "backbone.stem_relu=true", "tricks=no_last_stride")
        )
    assert ["backbone.stem_relu=False, this run has True" in text for text in caplog.messages] == [
        True,
        False,
    ]
    assert "tricks.last_stride=1, this run has 2" in caplog.messages[1]


def test_the_weights_of_the_backbone_are_not_fetched(tmp_path: Path) -> None:
    settings = settings_of("backbone=resnet18", "init_from=runs/a")
    assert settings.backbone["weights"] == "none"
    assert settings.init_from == str(Path("runs/a").absolute())
    assert settings_of("init_from=" + "0af3" * 8).init_from == "0af3" * 8


def test_a_resumed_run_fetches_no_weights_either() -> None:
    model = build_model(settings_of("backbone=resnet18", "backbone.weights=nowhere.pth"), 5, resuming=True)
    assert model.backbone.weight_report.source == "none"
