"""Checkpoints of the published projects, made by their key names, become ours; nothing of theirs is run."""

import importlib
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import published_networks
import pytest
import torch
from torch import Tensor, nn

from reid.commands.convert import join_heads
from reid.convert import main
from reid.engine.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from reid.engine.checkpoint_source import trained_dataset
from reid.engine.describe import rebuild_model
from reid.inference import load_model
from reid.models import ReidModel, WeightsError, build_backbone, load_weights, unpickle
from reid.models.unpickle import gather
from reid.models.weights import read_weights
from reid.normalisation import IMAGENET, Normalisation

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def source() -> ReidModel:
    """A trained model: no tensor has the value that it is built with."""
    generator = torch.Generator().manual_seed(0)
    model = ReidModel(build_backbone("resnet18"), num_classes=751)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.1 + 0.1)
    return model.eval()


def published(model: ReidModel) -> State:
    """Its state dict as both projects save it, the spatial transformer that never ran included."""
    state = {name.replace("backbone.", "base.", 1): tensor for name, tensor in model.state_dict().items()}
    spatial = {"localization.0.weight": (8, 3, 7, 7), "localization.0.bias": (8,), "fc_loc.0.bias": (32,)}
    return state | {name: torch.zeros(shape) for name, shape in spatial.items()}


def features(model: nn.Module) -> Tensor:
    with torch.inference_mode():
        return model.eval()(torch.rand(2, 3, 64, 32, generator=torch.Generator().manual_seed(1)))


FORMS: dict[str, Callable[[State], object]] = {
    "bare": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, "epoch": 120},
    "model and module": lambda s: {"model": {f"module.{name}": tensor for name, tensor in s.items()}},
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_every_form_becomes_a_checkpoint_with_the_same_features(
    form: str, source: ReidModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "resnet18_model_120.pth", tmp_path / "out.pt"
    torch.save(FORMS[form](published(source)), file)
    known = [] if form == "bare" else ["--backbone", "resnet18"]  # telling it takes seconds
    assert main([str(file), "-o", str(out), *known]) == 0
    printed = capsys.readouterr().out
    for words in (
        f"network: resnet18, {'as given' if known else 'told by names and shapes'}; 100 of 100 tensors",
        "neck: batch norm (bottleneck) kept",
        "classifier: 751 identities kept",
        "left out: 3 tensors of a spatial transformer that was not used",
        "assumed, since no such file says it: stem_relu=false, last stride 1, images of 256 x 128",
        f"python -m reid.evaluate checkpoint={out} dataset=market",
    ):
        assert words in printed

    checkpoint = load_checkpoint(out)
    model = rebuild_model(checkpoint)
    assert torch.equal(features(model), features(source))
    assert torch.equal(model.head.classifier.weight, source.head.classifier.weight)
    assert (checkpoint.meta["preprocessing"]["height"], checkpoint.meta["preprocessing"]["width"]) == (
        256,
        128,
    )
    with pytest.raises(CheckpointError, match="dataset=market"):
        trained_dataset(checkpoint)
    assert load_weights(build_backbone("resnet18"), str(out)).fraction == 1


@pytest.mark.slow
def test_what_the_file_does_not_say_is_an_option(source: ReidModel, tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in published(source).items() if "classifier" not in name}
    torch.save(state, tmp_path / "in.pth")
    words = [
        "--stem-relu",
        "--last-stride",
        "2",
        "--height",
        "128",
        "--width",
        "64",
        "--backbone",
        "resnet18",
        *("--mean", "0.5", "0.5", "0.4"),
    ]
    assert main([str(tmp_path / "in.pth"), "-o", str(tmp_path / "out.pt"), *words]) == 0
    checkpoint = load_checkpoint(tmp_path / "out.pt")
    assert checkpoint.meta["model"]["backbone"] == {"name": "resnet18", "weights": "none", "stem_relu": True}
    assert (checkpoint.meta["model"]["last_stride"], checkpoint.meta["preprocessing"]["height"]) == (2, 128)
    model = rebuild_model(checkpoint)
    assert model.normalisation == Normalisation((0.5, 0.5, 0.4), IMAGENET.std)
    assert not model.head.classifier.weight.any()
    expected = ReidModel(build_backbone("resnet18", last_stride=2, stem_relu=True), 1)
    expected.load_state_dict({**source.state_dict(), "classifier.weight": torch.zeros(1, 512)})
    assert torch.equal(features(model), features(expected))


@pytest.mark.slow
def test_a_spatial_transformer_that_was_used_is_kept(source: ReidModel, tmp_path: Path) -> None:
    with_one = build_backbone("resnet18", stn=True)
    spatial = {
        name: torch.full(tensor.shape, 0.01)
        for name, tensor in with_one.state_dict().items()
        if name.startswith(("localization.", "fc_loc."))
    }
    torch.save(published(source) | spatial, tmp_path / "in.pth")
    assert main([str(tmp_path / "in.pth"), "-o", str(tmp_path / "out.pt"), "--stn"]) == 0
    expected = ReidModel(with_one, 751)
    stored = {f"backbone.{name}": tensor for name, tensor in spatial.items()}
    expected.load_state_dict({**source.state_dict(), **stored})
    model = rebuild_model(load_checkpoint(tmp_path / "out.pt"))
    assert torch.equal(features(model), features(expected))
    assert not torch.equal(features(model), features(source))


def without(*names: str) -> Callable[[State], State]:
    return lambda state: {key: tensor for key, tensor in state.items() if key not in names}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words", "expected"),
    [
        (without("base.conv1.weight"), "", ["of no network known", "nearest is resnet18", "conv1.weight"]),
        (without(), "--backbone resnet34", ["the file is no resnet34", "100 of 180", "missing"]),
        (without(), "--backbone resnet81", ["backbone.name=resnet81", "Did you mean resnet18?"]),
        (without("bottleneck.weight"), "", ["does not fit a resnet18", "1 missing: bottleneck.weight"]),
        (lambda s: s | {"classifier.weight": torch.zeros(7, 9)}, "", ["classifier.weight (file (7, 9)"]),
        (lambda s: {"epoch": 3}, "", ["no named tensor"]),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_refused_in_words(
    change: Callable[[State], State],
    words: str,
    expected: list[str],
    source: ReidModel,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.save(change(published(source)), tmp_path / "in.pth")
    assert main([str(tmp_path / "in.pth"), "-o", str(tmp_path / "out.pt"), *words.split()]) == 2
    printed = capsys.readouterr().err
    for fragment in expected:
        assert fragment in printed
    assert not (tmp_path / "out.pt").exists()


def test_wrong_paths_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "in.pth"
    file.write_bytes(b"damaged")
    own = tmp_path / "own.pt"
    save_checkpoint(own, Checkpoint({"backbone.conv1.weight": torch.zeros(1)}, {}, {}))
    for source, target, words in (
        (tmp_path / "none.pth", "out.pt", f"{tmp_path}/none.pth: there is no such file"),
        (file, "in.pth", "is there already"),
        (file, "no/out.pt", f"{tmp_path}/no is no folder"),
        (file, "out.pt", "cannot be read as a weight file"),
        (own, "out.pt", "is a checkpoint of this suite already"),
    ):
        assert main([str(source), "-o", str(tmp_path / target)]) == 2
        assert words in capsys.readouterr().err
    with pytest.raises(SystemExit) as exit_:
        main([str(file), "-o", "out.pt", "--height", "8"])
    assert exit_.value.code == 2


# ---- files that pickle a whole network

BASELINE = """
from pathlib import Path
from torch import nn

class Baseline(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.base = model.backbone
        self.bottleneck, self.classifier = model.head.bottleneck, model.head.classifier
        self.localization = nn.Sequential(nn.Conv2d(3, 8, 7), nn.ReLU(True))
        self.register_buffer("scratch", self.classifier.weight.detach().clone(), persistent=False)

    def __setstate__(self, state):
        (Path(__file__).parent / "ran").touch()
        super().__setstate__(state)
"""


@pytest.fixture
def pickled(
    source: ReidModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[object], nn.Module]:
    """Makes the published model class in a module that exists only while it is called."""

    def make(wrap: Callable[[nn.Module], object], path: Path, **options: bool) -> None:
        home = tmp_path / "theirs"
        home.mkdir()
        (home / "baseline_of_a_test.py").write_text(BASELINE)
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(home))
            module = importlib.import_module("baseline_of_a_test")
            torch.save(wrap(module.Baseline(source)), path, **options)
        del sys.modules["baseline_of_a_test"]
        (home / "baseline_of_a_test.py").unlink()

    return make  # type: ignore[return-value]


@pytest.mark.slow
def test_a_pickled_network_needs_trust_and_its_class_is_neither_needed_nor_run(
    pickled: Callable, source: ReidModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "whole.pth", tmp_path / "out.pt"
    pickled(lambda network: network, file)
    assert main([str(file), "-o", str(out)]) == 2
    printed = capsys.readouterr().err
    assert "was refused: reading it would call baseline_of_a_test.Baseline" in printed
    assert "--trust" in printed
    assert not out.exists()

    assert main([str(file), "-o", str(out), "--trust"]) == 0
    assert "left out: 2 tensors of a spatial transformer that was not used" in capsys.readouterr().out
    assert torch.equal(features(rebuild_model(load_checkpoint(out))), features(source))
    assert not (tmp_path / "theirs" / "ran").exists()


def test_a_network_in_the_format_of_the_published_days_is_read(
    pickled: Callable, source: ReidModel, tmp_path: Path
) -> None:
    file = tmp_path / "whole.pth"  # torch before 1.6 put the source of each class into the file too
    pickled(lambda network: network, file, _use_new_zipfile_serialization=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this source is not that of the class read with
        tensors = gather(file)
    assert torch.equal(tensors["classifier.weight"], source.head.classifier.weight)
    assert not (tmp_path / "theirs" / "ran").exists()


@pytest.mark.slow
def test_a_classifier_that_is_one_number_is_refused_in_words(
    source: ReidModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "odd.pth"
    torch.save({**published(source), "classifier.weight": torch.tensor(1.0)}, file)
    assert main([str(file), "-o", str(tmp_path / "out.pt"), "--backbone", "resnet18"]) == 2
    assert "does not fit a resnet18" in capsys.readouterr().err


def test_the_tensors_are_those_of_the_state_dict(
    pickled: Callable, source: ReidModel, tmp_path: Path
) -> None:
    names: list[str] = []

    def wrap(network: nn.Module) -> object:
        whole = nn.DataParallel(network)
        names.extend(whole.state_dict())
        return {"model": whole, "epoch": 3}

    pickled(wrap, tmp_path / "whole.pth")
    tensors = gather(tmp_path / "whole.pth")
    assert sorted(tensors) == sorted(names)
    assert torch.equal(tensors["module.classifier.weight"], source.head.classifier.weight)


class _Hostile:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.victim),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_hostile_file_runs_nothing_trusted_or_not(
    legacy: bool, source: ReidModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, victim = tmp_path / "hostile.pth", tmp_path / "victim"
    content = {"state_dict": published(source), "surprise": _Hostile(victim)}
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    assert main([str(file), "-o", str(tmp_path / "out.pt")]) == 2
    assert "mkdir" in capsys.readouterr().err
    assert gather(file).keys() == published(source).keys()
    assert not victim.exists()
    torch.load(file, weights_only=False)  # the file is armed
    assert victim.exists()


def test_what_the_process_cannot_read_it_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"surprise": _Hostile(tmp_path / "victim")}, tmp_path / "in.pth")
    assert unpickle.main([str(tmp_path / "in.pth"), str(tmp_path / "out.safetensors")]) == 1
    assert "no named tensor (it holds surprise)" in capsys.readouterr().err
    assert not (tmp_path / "victim").exists()


# ---- transformers of other projects


@pytest.mark.slow
def test_a_trained_vit_becomes_a_checkpoint_that_compares_before_the_neck(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = published_networks.draw(published_networks.vit_shapes(384, 12, 128))
    neck = published_networks.draw(dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (384,)))
    trained = {
        **{f"base.{name}": tensor for name, tensor in state.items()},
        **{f"base.fc.{name}": torch.zeros(2, 2) for name in ("weight", "bias")},
        **{f"bottleneck.{name}": tensor for name, tensor in neck.items()},
        "classifier.weight": torch.zeros(751, 384),
    }
    file, out = tmp_path / "transformer_120.pth", tmp_path / "out.pt"
    torch.save(trained, file)
    assert main([str(file), "-o", str(out), "--backbone", "personvit_small", "--height", "384"]) == 0
    printed = capsys.readouterr().out
    assert "position embeddings resized from 16x8 to 24x8 patches" in printed
    assert "left out: 2 other tensors: fc.weight, fc.bias" in printed
    assert "images of 384 x 128, features compared before the neck" in printed
    checkpoint = load_checkpoint(out)
    assert checkpoint.meta["preprocessing"]["mean"] == [0.5, 0.5, 0.5]
    loaded = load_model(out, "cpu")
    assert loaded.space.neck_feature == "before"
    model = loaded.model
    assert model.normalisation == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    images = torch.rand(1, 3, 384, 128, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = published_networks.vit(state, images, 6, grid=(16, 8))[:, 0]
        assert (model(images) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_model_with_the_jigsaw_branch_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(
        {"base.cls_token": torch.zeros(1, 1, 8), "b1.0.norm1.weight": torch.ones(8)}, tmp_path / "jpm.pth"
    )
    assert main([str(tmp_path / "jpm.pth"), "-o", str(tmp_path / "out.pt")]) == 2
    assert "jigsaw branch (b1, b2)" in capsys.readouterr().err


def test_the_two_heads_of_clip_reid_are_one() -> None:
    generator = torch.Generator().manual_seed(0)
    necks = {"bottleneck": nn.BatchNorm1d(6).eval(), "bottleneck_proj": nn.BatchNorm1d(4).eval()}
    classifiers = {
        "classifier": nn.Linear(6, 3, bias=False),
        "classifier_proj": nn.Linear(4, 3, bias=False),
    }
    rest = {}
    for name, module in {**necks, **classifiers}.items():
        for key, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
                rest[f"{name}.{key}"] = tensor
    joined, lines = join_heads(rest)
    assert len(lines) == 1
    neck, features = nn.BatchNorm1d(10).eval(), torch.rand(5, 10, generator=generator)
    neck.load_state_dict(
        {key.removeprefix("bottleneck."): t for key, t in joined.items() if "neck" in key}, strict=False
    )
    both = [module(part) for module, part in zip(necks.values(), features.split((6, 4), 1), strict=True)]
    torch.testing.assert_close(neck(features), torch.cat(both, 1))
    logits = sum(module(part) for module, part in zip(classifiers.values(), both, strict=True))
    torch.testing.assert_close(torch.cat(both, 1) @ joined["classifier.weight"].T, logits)
    assert set(joined) == {
        "classifier.weight",
        *(f"bottleneck.{key}" for key in ("weight", "bias", "running_mean", "running_var")),
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_the_tensors_of_a_torchscript_archive_are_read_without_its_program(tmp_path: Path) -> None:
    class Tower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.proj = nn.Parameter(torch.rand(3).half())
            self.conv1 = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))

        def forward(self, images: Tensor) -> Tensor:
            return self.conv1(images) * self.proj.sum()

    tower, file = Tower().eval(), tmp_path / "ViT-B-16.pt"
    torch.jit.save(torch.jit.trace(tower, torch.zeros(1, 3, 4, 4)), str(file))
    with pytest.raises(WeightsError, match=r"TorchScript archive, .*reid\.convert .* --trust"):
        read_weights(file)
    tensors, expected = gather(file), tower.state_dict()
    assert {name for name in expected if "num_batches" not in name} <= set(tensors) <= set(expected)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors.items())
