"""Weight files in every form that is taken, and the refusals."""

import hashlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from reid.models import Backbone, ImagenetFile, ReidModel, WeightsError, build_backbone, load_weights, weights

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def stored() -> State:
    """A MobileNetV2 file as published: features and classifier."""
    state = build_backbone("mobilenet_v2").state_dict()
    return {**state, "classifier.1.weight": torch.zeros(10, 1280), "classifier.1.bias": torch.zeros(10)}


@pytest.fixture
def net() -> Backbone:
    return build_backbone("mobilenet_v2")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch hub folder of the test's own."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request._opener", None)  # urllib reads the proxy variables only once
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def save(content: object, path: Path) -> str:
    torch.save(content, path)
    return str(path)


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def hollow(name: str) -> State:
    """Names and shapes of a backbone's tensors, each stored as a single number: a file of kilobytes."""
    with torch.device("meta"):
        state = build_backbone(name).state_dict()
    return {key: torch.zeros(()).expand(tensor.shape) for key, tensor in state.items()}


def assert_loaded(net: nn.Module, state: State) -> None:
    for name, tensor in net.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, state[name]), name


FORMS: dict[str, Callable[[State], object]] = {
    "bare": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "model": lambda s: {"model": s, "spec": {"name": "mobilenet_v2"}},
    "nested": lambda s: {"model": {"state_dict": s}},
    "module": lambda s: {"state_dict": prefixed("module.", s)},
    "base": lambda s: {
        **prefixed("base.", s),
        "bottleneck.weight": torch.ones(9),
        "fc_loc.0.bias": torch.ones(9),
    },
    "module.backbone": lambda s: prefixed("module.backbone.", s),
    "fc": lambda s: {**s, "fc.weight": torch.zeros(2, 2), "last_linear.bias": torch.zeros(2)},
    "no counters": lambda s: {k: v for k, v in s.items() if not k.endswith("num_batches_tracked")},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_loads_whole(form: str, stored: State, net: Backbone, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    report = load_weights(net, save(FORMS[form](stored), path))
    assert_loaded(net, stored)
    assert (report.matched, report.total, report.fraction) == (260, 260, 1.0)
    assert report.missing == report.unexpected == report.mismatched == ()
    assert any("classifier" in name for name in report.dropped)
    assert report.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert report.source == str(path)
    assert net.weight_report is report


def test_a_checkpoint_of_the_whole_model_loads(net: Backbone, tmp_path: Path) -> None:
    model = ReidModel(build_backbone("mobilenet_v2"), num_classes=7)
    report = load_weights(net, save({"model": model.state_dict()}, tmp_path / "run.pt"))
    assert_loaded(net, model.backbone.state_dict())
    assert "bottleneck.weight" in report.dropped


def test_safetensors_load(stored: State, net: Backbone, tmp_path: Path) -> None:
    save_file(stored, tmp_path / "weights.safetensors")
    assert load_weights(net, str(tmp_path / "weights.safetensors")).fraction == 1.0
    assert_loaded(net, stored)


def test_none_leaves_the_network_as_it_is(net: Backbone) -> None:
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    report = load_weights(net, "none")
    assert_loaded(net, before)
    assert (report.source, report.fraction, report.total) == ("none", 0.0, 260)
    assert "random weights" in report.describe()


def test_a_partial_file_is_described_in_words(stored: State, net: Backbone, tmp_path: Path) -> None:
    state = dict(stored)
    del state["features.0.0.weight"]
    state["features.0.1.weight"] = torch.zeros(5)
    state["extra.weight"] = torch.zeros(5)
    report = load_weights(net, save(state, tmp_path / "part.pth"))
    assert report.matched == 258
    assert report.missing == ("features.0.0.weight",)
    assert report.unexpected == ("extra.weight",)
    assert report.mismatched == ("features.0.1.weight (file (5,), backbone (32,))",)
    for words in (
        "258 of 260",
        "99.2%",
        "1 missing: features.0.0.weight",
        "1 unexpected: extra.weight",
        "part.pth",
    ):
        assert words in report.describe()


@pytest.mark.parametrize(
    ("file", "backbone", "words"),
    [
        (
            "resnet50",
            "resnet50_ibn_a",
            r"213 of .* 291 .*file holds a plain ResNet .*ibn_a is an IBN-a ResNet",
        ),
        (
            "resnet50_ibn_a",
            "resnet50",
            r"213 of .* 265 .*file holds an IBN-a ResNet .*resnet50 is a plain ResNet",
        ),
        ("resnet34", "resnet18", r"100 of .* 100 .* file's 180 .*3-4-6-3 basic .*2-2-2-2 basic"),
        ("resnet18", "resnet34", r"2-2-2-2 basic .*3-4-6-3 basic"),
        ("resnet34", "resnet50", r"3-4-6-3 basic blocks; resnet50 .*3-4-6-3 bottleneck"),
        ("se_resnet50", "resnet50", r"260 of .* 265 .*file holds an SE-ResNet .*plain ResNet"),
        ("se_resnet50", "se_resnext50", r"Both .*layer1\.0\.conv1\.weight \(file \(64, .*backbone \(128,"),
        ("mobilenet_v2", "resnet18", r"0 of .*19 `features` steps"),
    ],
)
def test_files_of_other_networks_are_refused(file: str, backbone: str, words: str, tmp_path: Path) -> None:
    path = save(prefixed("module.", hollow(file)), tmp_path / "other.pth")
    with torch.device("meta"):
        net = build_backbone(backbone)
    with pytest.raises(WeightsError, match=words) as caught:
        load_weights(net, path)
    assert f"backbone.weights={path}" in str(caught.value)
    assert f"backbone.name={backbone}" in str(caught.value)


def test_refused_weights_change_nothing(stored: State, net: Backbone, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    half = dict(list(stored.items())[: len(stored) // 2])
    with pytest.raises(WeightsError, match="90% of both"):
        load_weights(net, save(half, tmp_path / "half.pth"))
    assert_loaded(net, before)


class _Hostile:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.victim),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_hostile_pickle_is_refused_and_not_run(legacy: bool, net: Backbone, tmp_path: Path) -> None:
    path, victim = tmp_path / "hostile.pth", tmp_path / "victim"
    content = {"state_dict": {}, "surprise": _Hostile(victim)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match=r"was refused: reading it would call \w+\.mkdir"):
        load_weights(net, str(path))
    assert not victim.exists()
    torch.load(path, weights_only=False)  # the file is armed
    assert victim.exists()


def test_a_whole_pickled_network_is_refused(net: Backbone, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"reading it would call torch\.nn\.modules.*state_dict\(\) alone"):
        load_weights(net, save(nn.Linear(2, 2), tmp_path / "whole.pth"))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_files_are_named(suffix: str, net: Backbone, tmp_path: Path) -> None:
    path = tmp_path / f"damaged{suffix}"
    for content in (b"", b"<html>404</html>", b"PK\x03\x04" + bytes(100)):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match="cannot be read as a weight file"):
            load_weights(net, str(path))


@pytest.mark.slow
def test_files_without_named_tensors_are_refused(net: Backbone, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="holds a list; expected a dict"):
        load_weights(net, save([torch.zeros(2)], tmp_path / "list.pth"))
    with pytest.raises(WeightsError, match=r"no named tensor .*epoch"):
        load_weights(net, save({"epoch": 3, 0: torch.zeros(2)}, tmp_path / "empty.pth"))


def test_a_missing_file_is_named_absolutely(
    net: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=r"no such file.*`imagenet` or `none`") as caught:
        load_weights(net, "imagnet")
    assert str(tmp_path / "imagnet") in str(caught.value)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("resnet18", "resnet18-f37072fd.pth"),
        ("se_resnet50", "se_resnet50-ce0d4300.pth"),
        ("resnet50_ibn_a", "resnet50_ibn_a-d9d0bb7b.pth"),
    ],
)
def test_offline_says_what_to_do_at_once(
    name: str, file: str, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # never listens, so that a machine with a network is cut off too
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with torch.device("meta"):
            net = build_backbone(name)
        start = time.monotonic()
        with pytest.raises(WeightsError) as caught:
            load_weights(net, "imagenet")
    assert time.monotonic() - start < 5
    message = str(caught.value)
    for words in (
        str(hub / file),
        "backbone.weights=/path/to/file",
        "backbone.weights=none",
        "could not be downloaded",
    ):
        assert words in " ".join(message.split()) or words in message
    assert list(hub.iterdir()) == []
    assert caught.value.__suppress_context__


@pytest.fixture
def silent_proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A proxy that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield


@pytest.mark.usefixtures("silent_proxy", "hub")
def test_a_network_that_never_answers_is_given_up(net: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_NETWORK_TIMEOUT", 0.2)
    with pytest.raises(WeightsError, match="timed out"):
        load_weights(net, "imagenet")
    assert socket.getdefaulttimeout() is None


def test_imagenet_downloads_once_and_checks_the_hash(
    stored: State, net: Backbone, hub: Path, tmp_path: Path
) -> None:
    served = tmp_path / "published.pth"
    save(stored, served)
    digest = hashlib.sha256(served.read_bytes()).hexdigest()
    net.imagenet = ImagenetFile(served.as_uri(), sha256="0" * 8)
    with pytest.raises(WeightsError, match="invalid hash"):
        load_weights(net, "imagenet")

    net.imagenet = ImagenetFile(served.as_uri(), sha256=digest)
    report = load_weights(net, "imagenet")
    assert (report.source, report.sha256) == (served.as_uri(), digest)
    assert_loaded(net, stored)
    served.unlink()
    assert load_weights(net, "imagenet").fraction == 1.0


def test_a_wrong_file_in_the_hub_folder_is_not_taken(stored: State, net: Backbone, hub: Path) -> None:
    save(stored, hub / "mobilenet_v2-b0353104.pth")
    with pytest.raises(WeightsError, match=r"not the published file.*expected b0353104…\. Delete it"):
        load_weights(net, "imagenet")


def test_a_backbone_without_imagenet_file_says_so(net: Backbone) -> None:
    net.imagenet = None
    with pytest.raises(
        WeightsError, match=r"No ImageNet weight file is known for backbone\.name=mobilenet_v2"
    ):
        load_weights(net, "imagenet")
