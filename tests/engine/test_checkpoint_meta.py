"""What a checkpoint says of itself is compared as a whole, once, when it is read: each key of a real one."""

import copy
import json
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from reid import convert
from reid.engine.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    read_checkpoint,
    save_checkpoint,
)
from reid.engine.checkpoint_meta import TABLE, MetaError, check_meta
from reid.engine.checkpoint_source import trained_dataset
from reid.engine.describe import how_far, rebuild_model
from reid.inference import load_model
from reid.judging.stored_threshold import StoredThreshold, feature_space, stored_threshold
from reid.models import build_backbone
from reid.models.weights import WeightsError, read_tensors

Run = Callable[..., "subprocess.CompletedProcess[str]"]

FIXTURE = Path(__file__).parents[1] / "fixtures" / "d063546" / "home.tar.xz"
STORED = StoredThreshold(
    0.9, "far_1e-2", "euclidean", True, "after", False, "cross_camera", "market", "test", "0" * 16, 200, 1000,
    90000, 0.0099, (0.008, 0.012), 0.85, (0.8, 0.9),
)  # fmt: skip
#: Of another type, or out of every bound.
WRONG: tuple[Any, ...] = (
    None,
    True,
    -7,
    10**7 + 0.5,
    10**30,
    "befor",
    "",
    [],
    ["x"],
    {},
    {"a": {}},
    [1, 2, 3],
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real model.pt, of timm's smallest network, with a threshold."""
    folder = tmp_path_factory.mktemp("model")
    with tarfile.open(FIXTURE) as archive:
        name = next(
            name for name in archive.getnames() if name.startswith("outputs") and name.endswith("model.pt")
        )
        archive.extract(name, folder, filter="data")
    found = load_checkpoint(folder / name)
    save_checkpoint(folder / "model.pt", replace(found, meta={**found.meta, "threshold": asdict(STORED)}))
    return folder / "model.pt"


@pytest.fixture(scope="module")
def whole(model: Path) -> Checkpoint:
    return load_checkpoint(model)


def use(meta: dict[str, Any]) -> None:
    """What the commands do with it, but for the tensors."""
    check_meta(meta)
    feature_space(meta["eval"])
    stored_threshold(meta)
    how_far(meta)
    trained_dataset(Checkpoint({}, meta, {}))


def keys_of(meta: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Every key, dotted, but for the copy of the config that is only shown."""
    for key, value in meta.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict) and key not in ("config", "begun"):
            yield from keys_of(value, f"{prefix}{key}.")


def changed(meta: dict[str, Any], key: str, value: Any = ...) -> dict[str, Any]:
    """A copy in which one key has another value, or (...) is missing."""
    other = copy.deepcopy(meta)
    *parents, name = key.split(".")
    node = other
    for parent in parents:
        node = node[parent]
    if value is ...:
        del node[name]
    else:
        node[name] = value
    return other


def refusal(meta: dict[str, Any]) -> str | None:
    """Why it is refused, None where it can be used."""
    try:
        use(meta)
    except MetaError as error:
        return str(error)
    except CheckpointError:
        return ""
    return None


def test_every_key_of_a_real_one_may_lack_or_be_of_another_type_and_is_named(whole: Checkpoint) -> None:
    assert refusal(whole.meta) is None
    for key in keys_of(whole.meta):
        refusals = [refusal(changed(whole.meta, key, value)) for value in (..., *WRONG)]
        # A key that is not in the table is one that no command reads, or that the reader of the data checks.
        assert any(word is not None for word in refusals) or key not in TABLE, key
        # A mapping of something else lacks what belongs into it.
        assert all(not word or word.startswith(key) for word in refusals), (key, refusals)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("model", ..., "model is missing, expected a mapping"),
        ("eval.neck_feature", "befor", "eval.neck_feature is 'befor', expected one of after, before"),
        ("preprocessing.height", 10**7, "preprocessing.height is 10000000, expected a whole number from 16"),
        ("preprocessing.std", [0.5, 0, 0.5], "expected three finite numbers above 0"),
        ("model.num_classes", 10**9, "model.num_classes is 1000000000, expected 12, the rows"),
        ("model.backbone.weights", "/etc/passwd", "expected one of none"),
        ("threshold.value", float("nan"), "threshold.value is nan, expected a finite number"),
        ("progress.epoch", -1, "progress.epoch is -1"),
    ],
)
def test_the_reader_names_key_value_and_what_is_expected(
    whole: Checkpoint, tmp_path: Path, key: str, value: Any, words: str
) -> None:
    path = tmp_path / "model.pt"
    save_checkpoint(path, replace(whole, meta=changed(whole.meta, key, value)))
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(path)


@pytest.mark.parametrize("key", ["name", "library", "pooling", "image_size", "stem_relu"])
def test_a_network_that_cannot_be_built_is_a_checkpoint_error(whole: Checkpoint, key: str) -> None:
    for value in (*WRONG, "resnet18"):
        if (key, value) == ("name", ""):
            continue  # refused before
        meta = changed(whole.meta, f"model.backbone.{key}", value)
        try:
            check_meta(meta)
        except MetaError:
            continue
        try:
            rebuild_model(replace(whole, meta=meta))
        except CheckpointError:
            continue
        assert value is None or (key, value) == ("pooling", False)


HEAD = {"_target_": "reid.models.heads.GeM", "neck": True, "p": 3.0, "eps": 1e-6}
PARTS = {"_target_": "reid.models.heads.Parts"}


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ("GeM", "model.head is 'GeM', expected a mapping"),
        ({"neck": True}, "model.head._target_ is missing"),
        (HEAD | {"neck": "yes"}, "model.head.neck is 'yes', expected true or false"),
        (HEAD | {"eval_feature": "both"}, "model.head.eval_feature is 'both', expected one of after, before"),
    ],
)
def test_a_head_that_is_none_is_named(whole: Checkpoint, head: Any, words: str) -> None:
    model = {key: whole.meta["model"][key] for key in ("backbone", "last_stride", "num_classes")}
    check_meta({**whole.meta, "model": {**model, "head": HEAD}})
    with pytest.raises(MetaError, match=words):
        check_meta({**whole.meta, "model": {**model, "head": head}})
    with pytest.raises(MetaError, match=r"model\.head is missing"):
        check_meta({**whole.meta, "model": model})


@pytest.mark.parametrize(
    "head",
    [
        {"_target_": "os.system"}, {"_target_": "reid.models.build_backbone"},
        {"_target_": "reid.models.heads.No"}, {"_target_": "reid.models.heads.Head"},
        HEAD | {"command": "ls"}, HEAD | {"p": "x"}, HEAD | {"p": -1},
        PARTS | {"stripes": 10**9}, PARTS | {"stripes": None}, PARTS | {"reduction": 0.5}, HEAD | {"p": 1},
    ],
)  # fmt: skip
def test_a_head_that_cannot_be_built_is_a_checkpoint_error(whole: Checkpoint, head: dict[str, Any]) -> None:
    """The last one can: the file holds the tensors of another head."""
    model = {key: whole.meta["model"][key] for key in ("backbone", "last_stride", "num_classes")}
    meta = {**whole.meta, "model": {**model, "head": head}}
    with pytest.raises(CheckpointError, match="does not fit the model that it names"):
        rebuild_model(replace(whole, meta=meta))


def test_older_and_converted_files_say_less(whole: Checkpoint) -> None:
    needed = {"model.neck", "model.eval_feature"}  # of a file that has no model.head
    optional = [key for key, entry in TABLE.items() if not entry.required and key not in needed]
    least = whole.meta
    for key in optional:
        if key in set(keys_of(least)):
            least = changed(least, key)
    check_meta(least)
    assert set(keys_of(least)) - set(TABLE) <= {
        f"model.backbone.{key}" for key in ("pooling", "image_size")
    } | {f"dataset.{key}" for key in ("preset", "domain", "seed")}


def flip(path: Path, offset: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ (1 << bit)]))


def data_of(path: Path) -> list[tuple[str, int, int]]:
    """Name, offset and size of every member of a zip file."""
    found = []
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            with archive.open(info) as member:
                found.append((info.filename, member._orig_compress_start, info.file_size))  # type: ignore[attr-defined]
    return found


def test_one_flipped_bit_is_refused_wherever_it_lies(model: Path, tmp_path: Path) -> None:
    members = [entry for entry in data_of(model) if entry[2] > 0]
    assert len(members) > 70
    for number, (name, offset, size) in enumerate(members):
        path = Path(shutil.copy(model, tmp_path / "flipped.pt"))
        flip(path, offset + (number * 7919) % size, number % 8)
        with pytest.raises(CheckpointError, match=f"is damaged: the checksum of its part {name}"):
            load_checkpoint(path)


@pytest.mark.slow
def test_a_flipped_bit_in_the_end_of_the_file_is_refused_or_changes_nothing(
    model: Path, whole: Checkpoint, tmp_path: Path
) -> None:
    size = model.stat().st_size
    refused = 0
    for offset in range(size - 22, size):  # the zip's end record: disks, counts, offsets, a comment's length
        for bit in range(8):
            path = Path(shutil.copy(model, tmp_path / "flipped.pt"))
            flip(path, offset, bit)
            try:
                found = load_checkpoint(path)
            except CheckpointError:
                refused += 1
            else:
                assert found.meta == whole.meta
                assert all(torch.equal(found.model[name], whole.model[name]) for name in whole.model)
    assert refused > 20


@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: tensor.to(torch.complex64),
        lambda tensor: (100 * tensor).to(torch.int8),
        lambda tensor: tensor.to_sparse(),
        lambda tensor: tensor.to("meta"),
    ],
    ids=["complex", "int8", "sparse", "meta"],
)
def test_tensors_that_are_no_plain_weights_are_refused(
    whole: Checkpoint, tmp_path: Path, change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    name = "backbone.conv_stem.weight"
    state = {**whole.model, name: change(whole.model[name])}
    save_checkpoint(tmp_path / "model.pt", replace(whole, model=state))
    with pytest.raises(CheckpointError, match=f"{name} is torch.* expected dense floats"):
        load_checkpoint(tmp_path / "model.pt")


def test_a_tensor_that_is_larger_than_the_file_is_refused(whole: Checkpoint, tmp_path: Path) -> None:
    # One number stands for all of 512 MiB, which a copy of it would take.
    state = {**whole.model, "classifier.weight": torch.zeros(1).expand(2**17, 2**10)}
    save_checkpoint(tmp_path / "model.pt", replace(whole, model=state))
    with pytest.raises(CheckpointError, match=r"classifier\.weight has the shape .* share one place"):
        load_checkpoint(tmp_path / "model.pt")


def test_a_file_that_unpacks_to_far_more_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data/0", bytes(2**24))
    with pytest.raises(CheckpointError, match="would unpack to 16,777,216 bytes"):
        load_checkpoint(path)
    with pytest.raises(WeightsError, match="would unpack to 16,777,216 bytes"):
        read_tensors(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_takes_any_amount_of_memory_is_refused(zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    # torch's safe reader makes it, zeros and all.
    torch.save({"model": bytearray(3)}, path, _use_new_zipfile_serialization=zipped, pickle_protocol=2)
    with pytest.raises(CheckpointError, match="would make an array of any size"):
        load_checkpoint(path)
    with pytest.raises(WeightsError, match="would make an array of any size"):
        read_tensors(path)


@pytest.mark.parametrize("version", ["1", True, torch.tensor([1, 1])])
def test_the_format_is_a_number(model: Path, tmp_path: Path, version: object) -> None:
    content = torch.load(model, weights_only=True)
    torch.save({**content, "format": version}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"has format .*, this version reads 1"):
        load_checkpoint(tmp_path / "model.pt")


def test_a_flipped_bit_of_a_weight_file_is_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"conv1.weight": torch.zeros(100)}, path)
    offset = next(offset for name, offset, _ in data_of(path) if name.endswith("data/0"))
    flip(path, offset + 7)
    with pytest.raises(
        WeightsError, match="is damaged: the checksum of its part weights/data/0 does not fit"
    ):
        read_tensors(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_refused(whole: Checkpoint, tmp_path: Path, value: float) -> None:
    state = {name: tensor.clone() for name, tensor in whole.model.items()}
    state["backbone.conv_stem.weight"][0, 0, 0, 0] = value
    save_checkpoint(tmp_path / "model.pt", replace(whole, model=state))
    with pytest.raises(
        CheckpointError, match=r"1 of its \d+ tensors hold NaN or infinity \(backbone.conv_stem"
    ):
        load_checkpoint(tmp_path / "model.pt")
    assert read_checkpoint(tmp_path / "model.pt").meta == json.loads(json.dumps(whole.meta))


@pytest.mark.slow
def test_weight_files_hold_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = build_backbone("resnet18").state_dict()
    state["layer1.0.conv1.weight"][0, 0, 0, 0] = float("nan")
    torch.save(state, tmp_path / "weights.pth")
    words = r"weights.pth: 1 of \d+ tensors hold NaN or infinity \(layer1.0.conv1.weight\)"
    with pytest.raises(WeightsError, match=words):
        build_backbone("resnet18", weights=str(tmp_path / "weights.pth"))
    assert convert.main([str(tmp_path / "weights.pth"), "-o", str(tmp_path / "out.pt")]) == 2
    assert "hold NaN or infinity" in capsys.readouterr().err
    assert not (tmp_path / "out.pt").exists()


def test_large_weights_are_numbers(whole: Checkpoint, tmp_path: Path) -> None:
    state = {**whole.model, "classifier.weight": torch.full_like(whole.model["classifier.weight"], 3e38)}
    save_checkpoint(tmp_path / "model.pt", replace(whole, model=state))
    load_checkpoint(tmp_path / "model.pt")


@pytest.mark.slow
@pytest.mark.parametrize("module", ["evaluate", "threshold", "extract", "compare"])
def test_every_command_refuses_in_words(
    run_command: Run, whole: Checkpoint, tmp_path: Path, module: str
) -> None:
    path = tmp_path / "model.pt"
    save_checkpoint(path, replace(whole, meta=changed(whole.meta, "eval.neck_feature", "befor")))
    (tmp_path / "images").mkdir()
    images = [tmp_path / "images" / name for name in ("a.png", "b.png")]
    for image in images:
        Image.new("RGB", (16, 32)).save(image)
    words = {
        "extract": [str(tmp_path / "images"), "-o", str(tmp_path / "f.npz"), "--checkpoint", str(path)],
        "compare": [*map(str, images), "--checkpoint", str(path)],
    }
    done = run_command(f"reid.{module}", *words.get(module, [f"checkpoint={path}"]), home=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "eval.neck_feature is 'befor', expected one of after, before" in done.stderr
    assert "Traceback" not in done.stderr


def test_features_that_are_no_numbers_are_refused(whole: Checkpoint, tmp_path: Path) -> None:
    # Each weight is a number; what comes of them is none.
    state = {
        **whole.model,
        "bottleneck.running_var": torch.full_like(whole.model["bottleneck.running_var"], -1),
    }
    save_checkpoint(tmp_path / "model.pt", replace(whole, model=state))
    Image.new("RGB", (16, 32)).save(tmp_path / "a.png")
    model = load_model(tmp_path / "model.pt", "cpu")
    with pytest.raises(CheckpointError, match=r"NaN or infinity for 1 of 1 images, first .*a\.png"):
        model.embed([tmp_path / "a.png"])
