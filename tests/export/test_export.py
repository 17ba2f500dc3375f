"""Files for other programs: parity, what is inside, what lies beside, and what is refused."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from conftest import ROOT, Runner
from least_meta import least_meta
from PIL import Image
from timm.models.senet import SENet, SEResNetBottleneck

from reid.commands.export import read_some
from reid.distance import normalise
from reid.engine.checkpoint import Checkpoint, save_checkpoint
from reid.export import __main__ as door
from reid.export import exporter
from reid.export.check import ExportError, check_graph, suite_features
from reid.export.drawn import drawn_crops
from reid.export.exporter import Origin, Report, export
from reid.export.graph import Graph
from reid.export.pixels import given, suite_images
from reid.export.target import target_named
from reid.inference import load_model
from reid.judging.stored_threshold import FeatureSpace, StoredThreshold
from reid.models import Backbone, ReidModel, as_backbone, build_backbone
from reid.models.backbones import _ibn_a
from reid.models.heads import BNNeck, GeM, Head, MaxAvg, Parts
from reid.models.spatial import add_spatial_transformer

SIZE = (64, 32)
PLAIN = FeatureSpace("euclidean", True, "after")
CROPS = drawn_crops(24)
ORIGIN = Origin("ab" * 32, {"backbone": {"name": "resnet18"}}, "c0ffee", card="# A card\n")


def short_ibn() -> Backbone:
    """IBN-ResNet-50 with one block a stage, behind a spatial transformer."""
    backbone = as_backbone(_ibn_a((1, 1, 1, 1), 1), "short_ibn", 2048)
    add_spatial_transformer(backbone)
    return backbone


def short_se() -> Backbone:
    """SE-ResNet-50 with one block a stage."""
    net = SENet(SEResNetBottleneck, (1, 1, 1, 1), groups=1, reduction=16, inplanes=64, input_3x3=False,
                num_classes=0, global_pool="")  # fmt: skip
    backbone = as_backbone(net, "short_se", 2048)
    backbone.pixel_mean, backbone.pixel_std = (0.5, 0.4, 0.3), (0.5, 0.25, 0.2)
    return backbone


def resnet18() -> Backbone:
    return build_backbone("resnet18")


def network(build: Callable[[], Backbone] = resnet18, head: Callable[..., Head] = BNNeck) -> ReidModel:
    """A model with random weights, and statistics of its norms as they come from images."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = build()
        model = ReidModel(backbone, 4, head=head(backbone.channels, 4))
        images = suite_images(CROPS, *SIZE)
        with torch.no_grad():
            for _ in range(3):
                model((images.float() - 120) / 60)
    return model.eval()


@pytest.fixture(scope="module")
def resnet() -> ReidModel:
    return network()


@pytest.fixture(scope="module")
def for_boxmot(resnet: ReidModel, tmp_path_factory: pytest.TempPathFactory) -> Report:
    path = tmp_path_factory.mktemp("export") / "reid.onnx"
    return export(resnet, PLAIN, SIZE, target_named("boxmot"), path, CROPS, origin=ORIGIN)


# ---- parity: an export checks itself, so that one which succeeds is equal to 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "head", "space", "target"),
    [
        (resnet18, partial(GeM, embedding=32, norm="layer", classifier="circle"), replace(PLAIN, flip=True),
         "onnxruntime"),
        (short_ibn, partial(Parts, stripes=2, reduction=8), FeatureSpace("euclidean", False, "before"),
         "deepstream"),
        (short_se, partial(MaxAvg, separate=True), PLAIN, "onnxruntime"),
        (partial(build_backbone, "test_vit", library="timm", image_size=SIZE), BNNeck, PLAIN, "ultralytics"),
    ],
    ids=["resnet18_gem_flip", "stn_ibn_parts_raw_before", "se", "vit"],
)  # fmt: skip
def test_a_graph_is_its_model(
    build: Callable[[], Backbone],
    head: Callable[..., Head],
    space: FeatureSpace,
    target: str,
    tmp_path: Path,
) -> None:
    model = network(build, head)
    report = export(model, space, SIZE, target_named(target), tmp_path / "a.onnx", CROPS, origin=ORIGIN)
    assert report.check.difference <= 1e-5
    assert report.check.same_pixels == pytest.approx(1, abs=1e-6)
    images = suite_images(CROPS[:3], *SIZE)
    found = torch.from_numpy(Graph(report.path)(given(images, report.target)))
    expected = suite_features(model, images, space)
    if space.feature_norm and report.target.normalises:
        assert not torch.allclose(found, expected)  # left to the program
        found = normalise(found)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


# ---- the file and what lies beside it


@pytest.mark.slow
def test_names_and_shapes_are_those_that_programs_ask_for(for_boxmot: Report) -> None:
    graph = onnx.load(for_boxmot.path)
    shapes = {
        value.name: [one.dim_param or one.dim_value for one in value.type.tensor_type.shape.dim]
        for value in (*graph.graph.input, *graph.graph.output)
    }
    assert shapes == {"images": ["batch", 3, 64, 32], "output0": ["batch", 512]}
    assert {one.domain: one.version for one in graph.opset_import}[""] == 18
    facts = {entry.key: entry.value for entry in graph.metadata_props}
    assert facts["made_for"] == "boxmot"
    assert facts["model_sha256"] == ORIGIN.model_hash
    assert "neck_feature=after" in facts["feature_space"]


@pytest.mark.slow
def test_the_json_says_all_and_nothing_of_this_machine(for_boxmot: Report) -> None:
    files = {for_boxmot.path, *for_boxmot.beside}
    assert {file.name for file in files} == {"reid.onnx", "reid.onnx.json", "reid.onnx.metadata.json"}
    assert set(for_boxmot.path.parent.iterdir()) == files  # no partial file stays
    facts = json.loads((for_boxmot.path.parent / "reid.onnx.json").read_text())
    assert facts["input"]["shape"] == ["batch", 3, 64, 32]
    assert facts["output"] == {"name": "output0", "shape": ["batch", 512], "size": 512, "type": "float32"}
    assert facts["feature_space"]["metric"] == "euclidean"
    assert facts["threshold"] is None
    assert facts["card"] == ORIGIN.card
    assert facts["self_check"]["cosine_mean"] == pytest.approx(for_boxmot.check.cosine_mean)
    for file in files:
        assert str(ROOT).encode() not in file.read_bytes(), file
        assert str(for_boxmot.path.parent).encode() not in file.read_bytes(), file


@pytest.mark.slow
def test_a_threshold_is_told_where_it_holds(for_boxmot: Report, resnet: ReidModel) -> None:
    stored = StoredThreshold(
        0.8, "eer", "euclidean", True, "after", False, "cross_camera", "folder mallory", "test", "f", 2, 3, 4,
        0.1, (0.0, 0.2), 0.9, (0.8, 1.0),
    )  # fmt: skip
    arguments = (SIZE, 512, "float32", replace(ORIGIN, threshold=stored), for_boxmot.check)
    target = target_named("boxmot")
    facts = exporter.facts_of("a.onnx", target, PLAIN, *arguments)
    assert facts["threshold"]["value"] == 0.8
    assert facts["threshold"]["dataset"] == "folder"
    assert facts["threshold"]["as_cosine_distance"] == pytest.approx(0.32)  # d^2 / 2
    raw = exporter.facts_of("a.onnx", target, replace(PLAIN, feature_norm=False), *arguments)
    assert raw["threshold"] is None
    assert "no threshold of it holds" in raw["compare_by"]


@pytest.mark.slow
def test_the_yaml_for_deepstream_is_its_section(for_boxmot: Report) -> None:
    facts = {**for_boxmot.facts, "precision": "float16"}
    found = yaml.safe_load(target_named("deepstream").files(facts)[".yaml"])["ReID"]
    assert found["onnxFile"] == "reid.onnx"
    assert (found["offsets"], found["netScaleFactor"]) == ([0.0, 0.0, 0.0], 1.0)
    assert (found["inferDims"], found["reidFeatureSize"], found["networkMode"]) == ([3, 64, 32], 512, 1)


# ---- the self-check


@pytest.mark.slow
@pytest.mark.parametrize("other", ["ultralytics", "onnxruntime"])
def test_the_wrong_pairing_is_caught_in_words(for_boxmot: Report, resnet: ReidModel, other: str) -> None:
    words = (
        r"would get features with a mean cosine of .*likely cause: the graph was made for another program\. "
        rf"It expects \(RGB / 255 - mean\) / std, .* as BoxMOT gives them.* with --for {other}"
    )
    with pytest.raises(ExportError, match=words):
        check_graph(Graph(for_boxmot.path), resnet, PLAIN, target_named(other), CROPS, SIZE)


@pytest.mark.slow
def test_a_resize_that_shows_another_person_is_named(for_boxmot: Report, resnet: ReidModel) -> None:
    crops = [np.kron(suite_images([crop], *SIZE)[0].permute(1, 2, 0), np.ones((8, 8, 1))).astype(np.uint8)
             for crop in CROPS[:5]]  # fmt: skip
    for crop in crops:  # the negative, in the two of eight rows that a plain bilinear resize looks at
        crop[3::8] = 255 - crop[3::8]
        crop[4::8] = 255 - crop[4::8]
    with pytest.raises(ExportError, match=r"likely cause: the resize.*512 x 256 pixels into 64 x 32 without"):
        check_graph(Graph(for_boxmot.path), resnet, PLAIN, target_named("boxmot"), crops, SIZE)


@pytest.mark.slow
def test_another_model_is_noticed(for_boxmot: Report) -> None:
    graph = Graph(for_boxmot.path)
    with pytest.raises(ExportError, match=r"likely cause: the graph itself, since the mean cosine is"):
        check_graph(
            graph,
            network(partial(build_backbone, "resnet18", stem_relu=True)),
            PLAIN,
            target_named("boxmot"),
            CROPS,
            SIZE,
        )


@pytest.mark.slow
def test_a_failed_export_leaves_what_was_there(
    resnet: ReidModel, for_boxmot: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = for_boxmot.path.read_bytes()
    monkeypatch.setattr(exporter, "write_graph", lambda *arguments: arguments[-1].write_bytes(wrong))
    old = tmp_path / "a.onnx"
    old.write_text("of yesterday")
    with pytest.raises(ExportError, match="made for another program"):
        export(resnet, PLAIN, SIZE, target_named("ultralytics"), old, CROPS, origin=ORIGIN)
    assert [file.name for file in tmp_path.iterdir()] == ["a.onnx"]
    assert old.read_text() == "of yesterday"


@pytest.mark.slow
def test_what_lay_beside_a_file_for_another_program_goes(
    resnet: ReidModel, for_boxmot: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = for_boxmot.path.read_bytes()
    monkeypatch.setattr(exporter, "write_graph", lambda *arguments: arguments[-1].write_bytes(graph))
    for name in ("reid.onnx.yaml", "reid.onnx.txt"):  # offsets and scale for DeepStream, and a user's file
        (tmp_path / name).touch()
    export(resnet, PLAIN, SIZE, target_named("boxmot"), tmp_path / "reid.onnx", CROPS, origin=ORIGIN)
    assert {file.name for file in tmp_path.iterdir()} == {
        "reid.onnx", "reid.onnx.json", "reid.onnx.metadata.json", "reid.onnx.txt",
    }  # fmt: skip


# ---- fewer bits


@pytest.mark.slow
def test_fewer_bits_are_smaller_and_nearly_the_same(
    resnet: ReidModel, for_boxmot: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = for_boxmot.path.read_bytes()
    monkeypatch.setattr(exporter, "write_graph", lambda *arguments: arguments[-1].write_bytes(plain))
    target = target_named("boxmot")
    half, small = (
        export(
            resnet, PLAIN, SIZE, target, tmp_path / f"{precision}.onnx", CROPS, origin=ORIGIN,
            precision=precision, calibration=CROPS,
        )
        for precision in ("float16", "int8")
    )  # fmt: skip
    assert half.bytes < 0.55 * for_boxmot.bytes
    assert half.check.same_pixels > 0.9999
    assert small.bytes < 0.3 * for_boxmot.bytes
    assert small.check.same_pixels > 0.99
    assert small.facts["calibrated_on"] == len(CROPS)
    for report in (half, small):
        graph = onnx.load(report.path).graph
        assert [value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)] == [1, 1]


# ---- nothing leaves the machine


@pytest.mark.slow
def test_a_session_writes_nothing_into_the_home_folder(for_boxmot: Report, tmp_path: Path) -> None:
    """onnxruntime 1.32 leaves a device id there, which is why its version is bounded."""
    home = tmp_path / "home"
    home.mkdir()
    variables = {key: value for key, value in os.environ.items() if not key.startswith("XDG_")}
    code = (
        "import sys, numpy, onnxruntime\n"
        "session = onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])\n"
        "session.run(None, {'images': numpy.zeros((1, 3, 64, 32), numpy.float32)})\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(for_boxmot.path)],
        env={**variables, "HOME": str(home), "OMP_NUM_THREADS": "1"}, check=True,
    )  # fmt: skip
    assert list(home.rglob("*")) == []


# ---- the command


def test_what_is_no_picture_is_left_out(tmp_path: Path) -> None:
    pictures = [tmp_path / f"{number}.png" for number in range(4)]
    for picture in pictures:
        Image.fromarray(CROPS[0]).save(picture)
    pictures[2].write_bytes(b"no picture")
    assert [crop.shape for crop in read_some(pictures, 9)] == [CROPS[0].shape] * 3


def test_missing_packages_are_named_with_what_brings_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.pt").touch()
    monkeypatch.setattr(door, "PACKAGES", ("onnx", "onnx_of_nobody"))
    words = f"{tmp_path}/model.pt --for boxmot -o {tmp_path}/a.onnx".split()
    with pytest.raises(SystemExit) as end:
        door.main(words)
    assert end.value.code == 2
    assert "onnx_of_nobody not installed: pip install '.[export]'" in capsys.readouterr().err


@pytest.mark.slow
def test_the_lines_of_the_readme_give_the_features_of_the_model(
    tmp_path: Path, tiny_data: Path, run_command: Runner
) -> None:
    """The whole way: a checkpoint, the command, and the lines for onnxruntime."""
    model = network(partial(build_backbone, "mobilenet_v2"))
    save_checkpoint(tmp_path / "model.pt", Checkpoint(model.state_dict(), meta_of(tiny_data), {}))
    words = "model.pt --for onnxruntime -o reid.onnx --int8"
    done = run_command("reid.export", *words.split(), home=tmp_path)
    assert done.returncode == 0, done.stderr
    for words in (
        r"inside: normalisation of the pixels, division by the L2 norm",
        r"cosine min [01]\.\d+",
        r"speed: [\d,.]+ images a second of one core, PyTorch in float32",
        r"judged: mAP \d+",
    ):
        assert re.search(words, done.stdout), done.stdout
    section = (ROOT / "reid" / "commands" / "README.md").read_text().partition("## A file for a tracker")[2]
    lines = section.partition("```py\n")[2].partition("```")[0]
    crops = sorted((tiny_data / "synthetic" / "day_tiny_0" / "query").glob("[0-9]*"))[:3]
    scope: dict[str, Any] = {"files": crops}
    exec(lines.replace('"reid.onnx"', repr(str(tmp_path / "reid.onnx"))).replace("128, 256", "32, 64"), scope)
    expected = load_model(tmp_path / "model.pt", "cpu").embed(crops).numpy()
    assert (scope["features"] * expected).sum(1).min() > 0.95


def meta_of(data: Path) -> dict[str, Any]:
    """What a checkpoint says of `network("mobilenet_v2")`, trained on the tiny drawn set."""
    head = {"_target_": "reid.models.heads.BNNeck", "neck": True, "train_feature": "after",
            "eval_feature": "after"}  # fmt: skip
    return {
        **least_meta(4),
        "model": {"backbone": {"name": "mobilenet_v2", "weights": "none"}, "last_stride": 1, "num_classes": 4,
                  "head": head},
        "preprocessing": {"height": 64, "width": 32},
        "dataset": {"name": "synthetic", "root": str(data / "synthetic" / "day_tiny_0"), "preset": "tiny"},
    }  # fmt: skip
