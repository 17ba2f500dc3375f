"""Weight files of training programs: a moving average beside the weights, and names that wrappers give."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from composing import settings_of
from torch import Tensor

from reid.config.identity import config_hash, resume_hash
from reid.convert import main as convert
from reid.engine.checkpoint import load_checkpoint
from reid.engine.describe import model_description
from reid.models import WeightsError, build_backbone, load_weights, unpickle

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def trained() -> State:
    return build_backbone("resnet18").state_dict()


@pytest.fixture(scope="module")
def average(trained: State) -> State:
    return {name: tensor / 2 if tensor.is_floating_point() else tensor for name, tensor in trained.items()}


def loaded(path: Path, ema: bool = False) -> tuple[State, str]:
    """The tensors of a network that loaded the file, and its weight report in words."""
    net = build_backbone("resnet18")
    report = load_weights(net, str(path), ema)
    assert report.fraction == 1
    return net.state_dict(), report.describe()


def is_of(state: State, other: State) -> bool:
    return torch.equal(state["layer4.1.conv2.weight"], other["layer4.1.conv2.weight"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("state_dict", "state_dict_ema"),
        ("model", "model_ema"),
        ("state_dict", "ema_state_dict"),
        ("student", "teacher"),
    ],
)
def test_the_part_that_was_taken_is_named_and_the_key_chooses(
    one: str, other: str, trained: State, average: State, tmp_path: Path
) -> None:
    file = tmp_path / "both.pth"
    torch.save({other: average, one: trained, "epoch": 3}, file)
    state, report = loaded(file)
    assert is_of(state, trained)
    assert f"taken: {one}, not {other} (backbone.ema=true takes that)" in report
    state, report = loaded(file, ema=True)
    assert is_of(state, average)
    assert f"taken: {other}, not {one}" in report
    assert "takes that" not in report


def test_an_average_alone_is_taken_and_named(average: State, tmp_path: Path) -> None:
    torch.save({"model": {"state_dict_ema": average}}, tmp_path / "ema.pth")
    state, report = loaded(tmp_path / "ema.pth")
    assert is_of(state, average)
    assert "taken: state_dict_ema" in report


@pytest.mark.slow
def test_a_file_of_one_state_dict_has_no_average_to_choose(trained: State, tmp_path: Path) -> None:
    torch.save({"state_dict": trained}, tmp_path / "one.pth")
    assert "taken" not in loaded(tmp_path / "one.pth")[1]
    with pytest.raises(WeightsError, match=r"one\.pth holds no moving average .*state_dict_ema"):
        load_weights(build_backbone("resnet18"), str(tmp_path / "one.pth"), ema=True)


FORMS: dict[str, Callable[[str], str]] = {
    "torch.compile": "_orig_mod.{}".format,
    "compiled, in parallel": "module._orig_mod.{}".format,
    "a compiled part": "backbone._orig_mod.{}".format,
    "MoCo": "module.encoder_q.{}".format,
    "MoCo v3": "module.base_encoder.{}".format,
}


@pytest.mark.parametrize("form", FORMS)
def test_names_that_wrappers_give_are_read(form: str, trained: State, tmp_path: Path) -> None:
    name = FORMS[form]
    state = {name(key): tensor for key, tensor in trained.items()}
    if form.startswith("MoCo"):
        state |= {key.replace("encoder", "momentum"): torch.zeros(()) for key in state}
        state |= {name("fc.0.weight"): torch.zeros(2, 2), "module.queue": torch.zeros(2, 3)}
    torch.save({"state_dict": state}, tmp_path / "wrapped.pth")
    assert is_of(loaded(tmp_path / "wrapped.pth")[0], trained)


@pytest.mark.slow
def test_convert_says_which_it_took_and_ema_chooses(
    trained: State, average: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "both.pth"
    named = [
        {f"_orig_mod.base.{key}": tensor for key, tensor in state.items()} for state in (trained, average)
    ]
    torch.save(dict(zip(("model", "model_ema"), named, strict=True)), file)
    for flags, first_line, expected in (
        ([], "taken: model, not model_ema (--ema takes that)\n", trained),
        (["--ema"], "taken: model_ema, not model\n", average),
    ):
        out = tmp_path / f"out{len(flags)}.pt"
        assert convert([str(file), "-o", str(out), "--backbone", "resnet18", *flags]) == 0
        assert capsys.readouterr().out.startswith(first_line)
        kept = {key.removeprefix("backbone."): tensor for key, tensor in load_checkpoint(out).model.items()}
        assert is_of(kept, expected)
    torch.save({"model": named[0]}, file)
    assert convert([str(file), "-o", str(tmp_path / "no.pt"), "--backbone", "resnet18", "--ema"]) == 2
    assert "holds no moving average" in capsys.readouterr().err


@pytest.mark.slow
def test_the_process_of_a_pickled_file_tells_it_too(
    trained: State, average: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"state_dict": trained, "state_dict_ema": average}, tmp_path / "in.pth")
    assert unpickle.main([str(tmp_path / "in.pth"), str(tmp_path / "out.safetensors"), "ema"]) == 0
    assert json.loads(capsys.readouterr().out) == ["state_dict_ema", "state_dict"]
    assert is_of(loaded(tmp_path / "out.safetensors")[0], average)


def test_the_key_tells_experiments_apart_and_is_no_part_of_the_network(own_home: None) -> None:
    plain, ema = settings_of(), settings_of("backbone.ema=true")
    assert config_hash(plain) != config_hash(ema)
    assert resume_hash(plain) == resume_hash(ema)
    assert model_description(plain, 7) == model_description(ema, 7)
