"""The files that are mutated: how a small real one is made, and how the suite reads it."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save_file
from torch import nn

from experiments.mutations.mutate import ARCHIVE, BLIND, JSON, TEXT, Mutation
from reid.commands.gallery_source import _of_table as read_gallery_table
from reid.config.schema import EvalConfig
from reid.data import Crop, load_dataset
from reid.data.corrections import SAME, append_verdict, read_verdicts
from reid.data.datasets.msmt17 import read_list
from reid.data.image_store import open_store
from reid.data.pictures import read_picture
from reid.data.stores import list_leftovers, list_stores
from reid.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from reid.engine.compute import Compute
from reid.engine.describe import rebuild_model
from reid.engine.optimizers import Optimizers
from reid.engine.rundir import RunStatus, find_finished, find_unfinished, read_status
from reid.engine.session import Session
from reid.gallery import Facts, Index, Row
from reid.jobs.resolved import primary_config
from reid.judging.stored_threshold import FeatureSpace, stored_threshold
from reid.models import ReidModel, described_model
from reid.models.trunk import as_backbone
from reid.models.weights import read_weights
from reid.sweeps.sweep_file import SweepFile, failed_jobs, find_sweep, job_statuses, read_sweep
from reid.tracking import default_store, send_late, store_of
from reid.tracking.journal import Journal

Content = str


class Refused(Exception):
    """The suite's answer, which is no exception, refuses the file."""


@dataclass(frozen=True)
class Specimen:
    """make: writes `file` (a pattern), and what lies beside it, into a folder.  read: as a command does.

    read returns a text that is the same for the same content.  It refuses by an error of the suite, or by
    `Refused` where the suite's answer is no exception.  stays: what is not put back between two readings,
    since it is open all the time.
    """

    name: str
    file: str
    make: Callable[[Path], None]
    read: Callable[[Path], Content]
    mutations: Sequence[Mutation]
    stays: tuple[str, ...] = ()


def _digest(*parts: object) -> Content:
    return hashlib.sha256(repr(parts).encode(errors="surrogatepass")).hexdigest()


def _tensors(state: Any) -> Content:
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(errors="surrogatepass"))
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


# ---- checkpoints and weight files

CLASSES = 4
DESCRIPTION = {
    "backbone": {"name": "mobilenet_v2", "weights": "none"}, "last_stride": 1, "num_classes": CLASSES,
    "head": {"_target_": "reid.models.heads.BNNeck", "neck": True, "eval_feature": "after"},
}  # fmt: skip


def _meta(**changes: object) -> dict[str, Any]:
    return {
        "model": DESCRIPTION, "preprocessing": {"height": 32, "width": 16},
        "dataset": {"name": "market", "root": "x"}, "pids": list(range(1, CLASSES + 1)),
        "eval": asdict(EvalConfig()), "config": {"epochs": 2, "data.root": "x"},
        "config_hash": "c", "resume_hash": "r", "train_fingerprint": "t", "run_id": None, "run_key": "k",
        "progress": {"epoch": 1, "judged": False, "history": [{"epoch": 1, "train/loss": 2.0}]}, **changes,
    }  # fmt: skip


def make_model(folder: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = described_model(DESCRIPTION)
    threshold = {
        "value": 0.5, "target": "far=0.01", "metric": "euclidean", "feature_norm": True,
        "neck_feature": "after", "flip": False, "precision": "float32", "protocol": "cross_camera",
        "dataset": "market", "split": "test", "data_fingerprint": "f", "identities": 4,
        "genuine_pairs": 10, "impostor_pairs": 100, "far": 0.01, "tar": 0.9,
        "far_interval": [0.0, 0.1], "tar_interval": [0.8, 1.0],
    }  # fmt: skip
    save_checkpoint(folder / "model.pt", Checkpoint(model.state_dict(), _meta(threshold=threshold), {}))


def read_model(folder: Path) -> Content:
    """What `load_model` reads of a file; the network is built where all that comes before it is passed."""
    checkpoint = load_checkpoint(folder / "model.pt")
    stored_threshold(checkpoint.meta)
    rebuild_model(checkpoint)
    return _digest(_tensors(checkpoint.model), checkpoint.meta)


def _session(folder: Path) -> Session:
    net = nn.Sequential(nn.Conv2d(3, 8, (8, 4)), nn.ReLU())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ReidModel(as_backbone(net, "tiny", channels=8), CLASSES)
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    meta = _meta(model={**DESCRIPTION, "backbone": {"name": "tiny"}})
    return Session(folder, model, Optimizers(optimizer), Compute(torch.device("cpu")), meta)


def make_last(folder: Path) -> None:
    session = _session(folder)
    session.start()
    session.end_epoch({"train/loss": 2.0})


def read_last(folder: Path) -> Content:
    session = _session(folder)
    with torch.random.fork_rng():
        session.resume(2)
        state = session.optimizers.network.state_dict()
        return _digest(
            _tensors(session.model.state_dict()), session.epoch, session.history,
            torch.get_rng_state().tolist(),
            [(key, _tensors({k: v for k, v in one.items() if isinstance(v, torch.Tensor)}))
             for key, one in state["state"].items()], state["param_groups"],
        )  # fmt: skip


def _weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {f"layer{n}.weight": torch.randn(4, 3, generator=generator) for n in range(4)}


def make_weights(folder: Path) -> None:
    torch.save({"state_dict": _weights(), "state_dict_ema": _weights(), "epoch": 3}, folder / "weights.pth")


def make_old_weights(folder: Path) -> None:
    torch.save(_weights(), folder / "weights.pth", _use_new_zipfile_serialization=False)


def make_safetensors(folder: Path) -> None:
    save_file(_weights(), folder / "weights.safetensors")


def read_pth(folder: Path) -> Content:
    return _tensors(read_weights(folder / "weights.pth")[0])


def read_safetensors(folder: Path) -> Content:
    return _tensors(read_weights(folder / "weights.safetensors")[0])


# ---- tables, lists, verdicts


def _make_crops(folder: Path) -> pd.DataFrame:
    (folder / "crops").mkdir()
    generator = np.random.default_rng(0)
    rows = []
    for number in range(24):
        pixels = generator.integers(0, 255, (16, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "crops" / f"{number:03}.png")
        split = "train" if number < 12 else "query" if number % 2 else "gallery"
        rows.append(
            {"path": f"crops/{number:03}.png", "pid": number // 4, "camid": number % 4 // 2, "split": split}
        )
    frame = pd.DataFrame(rows)
    frame["pid"] += 1
    return frame


def make_csv(folder: Path) -> None:
    _make_crops(folder).to_csv(folder / "crops.csv", index=False)


def make_parquet(folder: Path) -> None:
    _make_crops(folder).to_parquet(folder / "crops.parquet")


def _read_table(name: str) -> Callable[[Path], Content]:
    def read(folder: Path) -> Content:
        dataset = load_dataset("table", folder, file=str(folder / name))
        crops = (dataset.train, dataset.val, dataset.query, dataset.gallery)
        for some in crops:
            torch.tensor([(crop.pid, crop.camid) for crop in some], dtype=torch.int64)
        return _digest(crops, dataset.names, dataset.cameras)

    return read


def make_gallery_csv(folder: Path) -> None:
    frame = _make_crops(folder)
    frame["time"] = [f"2026-05-01T08:{number:02}" for number in range(len(frame))]
    frame.to_csv(folder / "gallery.csv", index=False)


def make_gallery_parquet(folder: Path) -> None:
    frame = _make_crops(folder)
    frame["time"] = pd.date_range("2026-05-01", periods=len(frame), freq="h")
    frame.to_parquet(folder / "gallery.parquet")


def _read_gallery(name: str) -> Callable[[Path], Content]:
    return lambda folder: _digest(read_gallery_table(folder / name, folder, None).rows)


def make_list(folder: Path) -> None:
    lines = [
        f"{n:04}/{n:04}_{k:03}_{k + 1:02}_0303morning_0015_{k}.jpg {n}" for n in range(6) for k in range(3)
    ]
    (folder / "list_train.txt").write_text("\n".join(lines) + "\n")


def read_msmt(folder: Path) -> Content:
    crops = read_list(folder / "list_train.txt", folder / "train", 1)
    torch.tensor([(crop.pid, crop.camid) for crop in crops], dtype=torch.int64)
    return _digest(crops)


def make_verdicts(folder: Path) -> None:
    for number in range(6):
        append_verdict(folder / "verdicts.csv", f"a/{number}.jpg", f"b,{number}.jpg", SAME, Path())


def read_verdict_file(folder: Path) -> Content:
    file = folder / "verdicts.csv"
    found = read_verdicts(file)
    append_verdict(file, "x.jpg", "y.jpg", SAME, Path())
    if len(read_verdicts(file)) not in (len(found), len(found) + 1):
        raise AssertionError("a verdict that was added took others away")
    return _digest(found)


# ---- pictures


def _pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (48, 24, 3), dtype=np.uint8)


def _make_picture(name: str, kind: str = "RGB", **options: Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        image = Image.fromarray(_pixels())
        if kind == "turned":
            exif = Image.Exif()
            exif[0x0112] = 6
            options["exif"] = exif
        elif kind == "16 bits":
            grey = np.random.default_rng(0).integers(0, 2**16, (48, 24), dtype=np.uint16)
            image = Image.fromarray(grey)
        elif kind == "text":
            text = PngImagePlugin.PngInfo()
            text.add_text("Raw profile type exif", "\nexif\n 10\n" + "45786966" * 20, zip=True)
            options["pnginfo"] = text
        elif kind != "RGB":
            image = image.convert(kind)
        image.save(folder / name, **options)

    return make


def _read_picture(name: str) -> Callable[[Path], Content]:
    def read(folder: Path) -> Content:
        found = read_picture(folder / name)
        if found.picture is None:
            assert found.reason, "an image is refused without a reason"
            raise Refused(found.reason)
        return _digest(found.picture.resized(32, 16).tobytes())

    return read


# ---- runs and sweeps


def make_journal(folder: Path) -> None:
    store = default_store(folder, f"sqlite:///{folder / 'mlflow.db'}")
    run = folder / "run"
    run.mkdir()
    (run / "note.txt").write_text("a note")
    operations: list[dict[str, Any]] = [
        {"op": "create", "time": 1, "run_key": "k", "name": "run", "experiment": "e", "tags": {"a": "b"},
         "store": store.uri, "artifact_root": str(store.artifact_root), "parent": None},
        {"op": "status", "time": 2, "status": "RUNNING", "host": "elsewhere"},
        {"op": "params", "values": {"alpha": "2.0", "seed": "0"}},
        {"op": "metrics", "time": 3, "step": 1, "values": {"loss": 1.5, "mAP": 0.5}},
        {"op": "tags", "values": {"note": "x"}},
        {"op": "artifact", "path": "note.txt", "folder": ""},
        {"op": "status", "time": 4, "status": "FINISHED", "host": "elsewhere"},
    ]  # fmt: skip
    journal = Journal(run)
    for operation in operations:
        journal.append(operation)
    store.prepare("e")
    send_late(run, store)
    journal.forget_sent()


def _read_journal(folder: Path) -> Content:
    """What `reid.sync` does with a run."""
    run = folder / "run"
    late = send_late(run, store_of(run), budget_s=10)
    error = late.delivery.error
    if isinstance(error, LookupError | TypeError | AttributeError | ValueError | RecursionError):
        raise error  # `reid.sync` would print a word of it, which says nothing
    if error is not None:
        raise Refused(str(error))
    if late.delivery.refused:
        raise Refused(late.delivery.refused[0])
    return _digest([operation for operation, _ in Journal(run).read()])


def make_sent(folder: Path) -> None:
    make_journal(folder)
    send_late(folder / "run", store_of(folder / "run"))


def make_status(folder: Path) -> None:
    run = folder / "outputs" / "run"
    run.mkdir(parents=True)
    status = RunStatus(
        "FINISHED",
        "hash",
        ["loss.alpha=1.2"],
        "name",
        "a" * 32,
        str(run),
        "data",
        {"test/mAP": 0.5},
        "",
        "f",
        "code",
    )
    status.write(run)
    (run / "last.pt").write_bytes(b"")
    (run / "journal.jsonl").write_text("")


def read_status_file(folder: Path) -> Content:
    run = folder / "outputs" / "run"
    found = read_status(run)
    for roots in (None, [folder / "outputs"]):
        find_finished("hash", "data", run, roots)
        find_unfinished("hash", "data", run, roots, fingerprint=lambda: "f")
    if found is None:
        raise Refused("no status that can be read")
    return _digest(json.dumps(asdict(found)))


def make_sweep(folder: Path) -> None:
    sweep = folder / "multirun" / "sweep"
    for number in range(2):
        job = sweep / str(number)
        job.mkdir(parents=True)
        RunStatus("FINISHED", f"h{number}", [f"seed={number}"], run_dir=str(job), data_root="data").write(job)
    SweepFile("e", "code", [["h0", "data"], ["h1", "data"]], [["seed=0"], ["seed=1"]]).write(sweep)


def read_sweep_file(folder: Path) -> Content:
    root = folder / "multirun"
    found = read_sweep(root / "sweep")
    jobs = job_statuses(root / "sweep")
    failed_jobs(root / "sweep")
    find_sweep(SweepFile("e", "code", [["h0", "data"]]), root, ["code"])
    if found is None:
        raise Refused("no sweep that can be read")
    return _digest(json.dumps(asdict(found)), [asdict(job) for job in jobs])


def make_config(folder: Path) -> None:
    lines = [
        "epochs: 2", "seed: 0", "loss:", "  _target_: reid.losses.RankedListLoss", "  alpha: 1.2", "image:",
        "  height: 32", "  width: 16", "dataset:", "  name: market", "  root: data/market", "resume: null",
    ]  # fmt: skip
    (folder / "config_resolved.yaml").write_text("\n".join(lines) + "\n")


def read_config(folder: Path) -> Content:
    words = ["--config-path", str(folder), "--config-name", "config_resolved"]
    return _digest(str(primary_config("train", words)))


# ---- image stores and indexes


def _crops(folder: Path) -> list[Crop]:
    return [Crop(path, 1, 0) for path in sorted((folder / "crops").glob("*.png"))]


def make_store(folder: Path) -> None:
    _make_crops(folder)
    for crop in _crops(folder):  # older than what a file system could mistake
        os.utime(crop.path, (1, 1))
    open_store(_crops(folder), 16, 8, folder / "stores")


def read_store(folder: Path) -> Content:
    store = open_store(_crops(folder), 16, 8, folder / "stores")
    images = store.read(torch.arange(len(store)))
    list_stores(folder / "stores")
    list_leftovers(folder / "stores")
    return _digest(images.numpy().tobytes(), store.bad, store.content)


def make_index(folder: Path) -> None:
    _make_index(folder, 64)


def make_coded_index(folder: Path) -> None:
    index = _make_index(folder, 4200)  # up to 4096 rows codes are not asked
    index.arrange("codes")


def _make_index(folder: Path, count: int) -> Index:
    facts = Facts(
        "a" * 64, 8, FeatureSpace("euclidean", True, "after"), {"height": 32, "width": 16, "mean": [0.5] * 3}
    )
    features = np.random.default_rng(0).normal(size=(count, 8)).astype(np.float32)
    rows = [
        Row(f"/crops/{n}.jpg", n // 4, n % 3, float(n), f"name {n // 4}", 100, n, "d" * 64)
        for n in range(count)
    ]
    index = Index.create(folder / "gallery", facts, checkpoint="model.pt")
    cut = count * 2 // 3
    index.add(features[:cut], rows[:cut])
    index.add(features[cut:], rows[cut:])
    return index


def read_index(folder: Path) -> Content:
    index = Index.open(folder / "gallery")
    facts = index.facts
    queries = np.eye(8, dtype=np.float32)[:2]
    hits = index.search(queries, 5)
    some = index.search(queries, 5, cameras=[0], since=3.0)
    index.damaged_files()
    rows = [index.row(int(number)) for number in hits.rows[hits.rows >= 0]]
    table = index.table
    index.check(facts)
    index.add(np.ones((1, 8), np.float32), [Row("/new.jpg", name="somebody new")], facts)
    index.remove(["/new.jpg"])
    return _digest(
        hits.rows.tolist(), some.rows.tolist(), rows, table.to_csv(), facts.as_json(), index.checkpoint
    )


STORE = ("mlflow.db", "mlartifacts")

SPECIMENS = (
    Specimen("model.pt", "model.pt", make_model, read_model, ARCHIVE),
    Specimen("last.pt", "last.pt", make_last, read_last, ARCHIVE),
    Specimen("weight file (zip)", "weights.pth", make_weights, read_pth, ARCHIVE),
    Specimen("weight file (old)", "weights.pth", make_old_weights, read_pth, BLIND),
    Specimen("weight file (safetensors)", "weights.safetensors", make_safetensors, read_safetensors, TEXT),
    Specimen("table (CSV)", "crops.csv", make_csv, _read_table("crops.csv"), TEXT),
    Specimen("table (Parquet)", "crops.parquet", make_parquet, _read_table("crops.parquet"), BLIND),
    Specimen("gallery (CSV)", "gallery.csv", make_gallery_csv, _read_gallery("gallery.csv"), TEXT),
    Specimen(
        "gallery (Parquet)", "gallery.parquet", make_gallery_parquet, _read_gallery("gallery.parquet"), BLIND
    ),
    Specimen("list of MSMT17", "list_train.txt", make_list, read_msmt, TEXT),
    Specimen("verdicts", "verdicts.csv", make_verdicts, read_verdict_file, TEXT),
    Specimen("JPEG", "a.jpg", _make_picture("a.jpg"), _read_picture("a.jpg"), BLIND),
    Specimen("JPEG, turned", "a.jpg", _make_picture("a.jpg", "turned"), _read_picture("a.jpg"), BLIND),
    Specimen("PNG", "a.png", _make_picture("a.png", "RGBA"), _read_picture("a.png"), BLIND),
    Specimen("PNG, 16 bits", "a.png", _make_picture("a.png", "16 bits"), _read_picture("a.png"), BLIND),
    Specimen("PNG, EXIF as text", "a.png", _make_picture("a.png", "text"), _read_picture("a.png"), BLIND),
    Specimen("WebP", "a.webp", _make_picture("a.webp"), _read_picture("a.webp"), BLIND),
    Specimen("BMP", "a.bmp", _make_picture("a.bmp"), _read_picture("a.bmp"), BLIND),
    Specimen("TIFF", "a.jpg", _make_picture("a.jpg", format="TIFF"), _read_picture("a.jpg"), BLIND),
    Specimen("journal.jsonl", "run/journal.jsonl", make_journal, _read_journal, JSON, STORE),
    Specimen("journal.sent", "run/journal.sent", make_sent, _read_journal, JSON, STORE),
    Specimen("status.json", "outputs/run/status.json", make_status, read_status_file, JSON),
    Specimen("sweep.json", "multirun/sweep/sweep.json", make_sweep, read_sweep_file, JSON),
    Specimen("status.json of a job", "multirun/sweep/0/status.json", make_sweep, read_sweep_file, JSON),
    Specimen("config_resolved.yaml", "config_resolved.yaml", make_config, read_config, TEXT),
    Specimen("image store, pixels", "stores/*.npy", make_store, read_store, BLIND),
    Specimen("image store, facts", "stores/*.json", make_store, read_store, JSON),
    Specimen("image store, hashes", "stores/*.files.npz", make_store, read_store, ARCHIVE),
    Specimen("index, table", "gallery/table.parquet", make_index, read_index, BLIND),
    Specimen("index, features", "gallery/features-*.npy", make_index, read_index, BLIND),
    Specimen("index, codes", "gallery/codes-*.codes", make_coded_index, read_index, BLIND),
    Specimen("index, rows of codes", "gallery/codes-*.f16", make_coded_index, read_index, BLIND),
)
