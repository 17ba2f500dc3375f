"""reid.adapt on drawn people: rounds, stops, refusals, a kill, and what it says of labels."""

import csv
import json
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from composing import composed
from conftest import Runner, Starter

from reid.commands.adapt import AdaptationError, is_stable, name_classes, refuse_unworkable
from reid.commands.threshold import check_not_trained_on
from reid.config.checks import ConfigError
from reid.config.identity import config_hash
from reid.config.schema import AdaptConfig
from reid.config.settings import adapt_settings, with_network_of
from reid.data import load_dataset
from reid.engine.batch_norm import batch_norms, estimate_statistics
from reid.engine.card import model_card
from reid.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from reid.engine.checkpoint_meta import ADAPTATION
from reid.engine.compute import Compute
from reid.engine.describe import rebuild_model
from reid.jobs.ahead import check_ahead
from reid.models import ReidModel, build_backbone, build_head
from reid.retrieval.clusters import OUTLIER, Clusters
from reid.sweeps.cells import plan
from reid.tracking import default_store, list_runs

#: A round on the tiny set takes a second.  Its 12 people have few crops each, so clusters are small.
QUICK = (
    "batch.identities=3", "batch.instances=2", "adapt.min_samples=2", "adapt.k1=8", "adapt.k2=3",
    "adapt.eps=0.7", "epochs=1", "device=cpu", "image.padding=2",
)  # fmt: skip


def words(checkpoint: Path, data: Path, *more: str) -> list[str]:
    """The command on the people of the tiny set whom the model was not trained on."""
    return [
        f"checkpoint={checkpoint}", "dataset=synthetic", "dataset.preset=tiny", f"data.root={data}",
        *QUICK, *more,
    ]  # fmt: skip


def settings_of(checkpoint: Path, *overrides: str) -> AdaptConfig:
    return adapt_settings(composed("adapt", f"checkpoint={checkpoint}", "dataset=synthetic", *overrides))


# ---- the config


def test_the_network_and_the_images_are_the_checkpoints(tiny_checkpoint: Path) -> None:
    meta = load_checkpoint(tiny_checkpoint).meta
    settings = with_network_of(settings_of(tiny_checkpoint), meta["model"], meta["preprocessing"], [])
    assert settings.backbone["name"] == "resnet18"
    assert (settings.image.height, settings.image.width) == (32, 16)
    assert settings.head["_target_"] == "reid.models.heads.BNNeck"
    assert settings.tricks.bnneck
    for word, named in (
        ("image.height=64", "image.height=64 differs from the checkpoint's 32"),
        ("tricks.last_stride=2", "tricks.last_stride=2 differs from the checkpoint's 1"),
        ("image.mean=[0.5,0.5,0.5]", "image.mean is the checkpoint's"),
        ("+backbone.stn=true", "backbone.stn is the checkpoint's"),
    ):
        with pytest.raises(ConfigError, match=named.replace(".", r"\.")):
            typed = settings_of(tiny_checkpoint, word)
            with_network_of(typed, meta["model"], meta["preprocessing"], [word])


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("init_from=a.pt", "begins with checkpoint"),
        ("teacher.checkpoint=a.pt", "begins with checkpoint"),
        ("image.sizes=[64x32]", "image.sizes does not fit"),
        ("sync_bn=true", "one process"),
        ("adapt.eps=1", "adapt.eps=1.0 is not allowed"),
        ("adapt.min_samples=1", "adapt.min_samples=1 is not allowed"),
        ("adapt.labels=some", "adapt.labels=some is not allowed"),
        ("loss.metric_weight=-1", "loss.metric_weight"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings_of(Path("model.pt"), word)


def test_a_sweep_has_a_cell_for_each_value(tiny_checkpoint: Path, own_home: None) -> None:
    planned = plan(
        "adapt",
        ["-m", f"checkpoint={tiny_checkpoint}", "dataset=synthetic", "adapt.eps=0.4,0.5", "loss=triplet"],
    )
    assert [cell.overrides[2] for cell in planned.cells] == ["adapt.eps=0.4", "adapt.eps=0.5"]
    assert len({cell.config_hash for cell in planned.cells}) == 2
    check_ahead(planned)


def test_keys_of_adaptation_enter_no_hash_of_a_training_and_only_others_than_defaults_one_of_an_adaptation(
    tiny_checkpoint: Path,
) -> None:
    plain = settings_of(tiny_checkpoint)
    assert config_hash(plain) == config_hash(settings_of(tiny_checkpoint, "adapt.rounds=20"))
    assert config_hash(plain) != config_hash(settings_of(tiny_checkpoint, "adapt.rounds=19"))
    assert config_hash(plain) != config_hash(replace(plain, checkpoint="/another.pt"))


# ---- what needs no run


def test_clusters_are_stable_where_little_has_moved() -> None:
    labels = torch.arange(400) // 10
    labels[::50] = OUTLIER
    before = Clusters(labels)
    renamed = Clusters(torch.where(labels == OUTLIER, OUTLIER, 39 - labels))
    assert is_stable(before, renamed, 0.97)
    fewer = labels.clone()
    fewer[200:] = OUTLIER
    # Those that are left agree, but half of them are gone.
    assert not is_stable(before, Clusters(fewer), 0.97)
    generator = torch.Generator().manual_seed(0)
    mixed = labels[torch.randperm(400, generator=generator)]
    assert not is_stable(before, Clusters(mixed), 0.97)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([OUTLIER] * 20, r"none of the 20 crops has 4 neighbours.*adapt\.eps=0\.5.*batch_norm_only"),
        ([0] * 15 + [OUTLIER] * 5, r"one cluster.*adapt\.eps=0\.3"),
        (
            [0, 0, 1, 1] * 5,
            r"2 clusters of 20 crops.*batch\.identities=16.*batch\.identities=2 or fewer; lower",
        ),
    ],
)
def test_clusters_that_teach_nothing_are_refused_with_the_next_step(labels: list[int], message: str) -> None:
    settings, clusters = settings_of(Path("model.pt")), Clusters(torch.tensor(labels))
    with pytest.raises(AdaptationError, match=message):
        refuse_unworkable(clusters, settings, 1, Path("last.pt"))
    with pytest.raises(AdaptationError, match=r"last\.pt holds the model after round 2"):
        refuse_unworkable(clusters, settings, 3, Path("last.pt"))


@pytest.mark.parametrize("head", ["BNNeck", "Parts", "MaxAvg"])
def test_a_classifier_begins_with_the_means_of_the_clusters(head: str) -> None:
    options = {
        "_target_": f"reid.models.heads.{head}",
        **({"stripes": 2, "reduction": 8} if head == "Parts" else {}),
    }
    backbone = build_backbone("resnet18")
    model = ReidModel(backbone, 3, head=build_head(options, backbone.channels, 3))
    means = torch.randn(3, model.embedding_size, generator=torch.Generator().manual_seed(0))
    name_classes(model, means)
    weights = [one.weight for one in (model.head.classifier if head != "BNNeck" else [model.head.classifier])]
    torch.testing.assert_close(torch.cat(weights).norm(dim=1), torch.ones(3 * len(weights)))
    parts = means.chunk(len(weights), dim=1)
    for weight, mean in zip(weights, parts, strict=True):
        assert (torch.nn.functional.normalize(mean) @ weight.t()).argmax(dim=1).tolist() == [0, 1, 2]


def test_batch_norms_get_the_statistics_of_the_images_and_nothing_else_changes(tiny_checkpoint: Path) -> None:
    compute = Compute.set_up("cpu")
    model = rebuild_model(load_checkpoint(tiny_checkpoint)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = 2 + 3 * torch.randn(3, 8, 3, 32, 16, generator=torch.Generator().manual_seed(0))
    assert estimate_statistics(model, [*images, images[0, :1]], compute) == 3  # one image has no variance
    after = model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all(name.endswith(("running_mean", "running_var", "num_batches_tracked")) for name in moved)
    first = batch_norms(model)[0]
    maps = model.backbone.state_dict()
    weight = next(value for name, value in maps.items() if name.endswith("conv1.weight"))
    seen = [torch.nn.functional.conv2d(one, weight, stride=2, padding=3) for one in images]
    expected = torch.stack([one.mean(dim=(0, 2, 3)) for one in seen]).mean(0)
    torch.testing.assert_close(first.running_mean, expected, atol=1e-4, rtol=1e-4)
    assert not any(module.training for module in model.modules())
    assert first.momentum == 0.1


def test_batch_norms_are_left_as_they_were_without_a_batch_of_two(tiny_checkpoint: Path) -> None:
    model = rebuild_model(load_checkpoint(tiny_checkpoint))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="no batch of two images"):
        estimate_statistics(model, [torch.zeros(1, 3, 32, 16)], Compute.set_up("cpu"))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training


# ---- whole runs


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, template_db: Path) -> Path:
    folder = tmp_path_factory.mktemp("home")
    shutil.copy(template_db, folder)
    return folder


@pytest.fixture(scope="module")
def parent(tiny_checkpoint: Path, home: Path) -> Path:
    """The tiny model with a threshold, which must not outlive an adaptation."""
    checkpoint = load_checkpoint(tiny_checkpoint)
    path = home / "parent.pt"
    save_checkpoint(path, Checkpoint(checkpoint.model, {**checkpoint.meta, "threshold": {"value": 0.5}}, {}))
    return path


@pytest.fixture(scope="module")
def adapted(parent: Path, home: Path, tiny_data: Path, run_command: Runner) -> tuple[str, Path]:
    """What three rounds on the drawn night printed, and their folder."""
    folder = home / "outputs" / "adapted"
    line = words(parent, tiny_data, "dataset.domain=night", "adapt.rounds=3", f"hydra.run.dir={folder}")
    done = run_command("reid.adapt", *line, home=home)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr, folder


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_an_adaptation_trains_in_rounds_and_judges_each(adapted: tuple[str, Path]) -> None:
    printed, folder = adapted
    rows = rows_of(folder)
    assert [float(row["round"]) for row in rows] == [0, 1, 2, 3]
    assert all(0 < float(row["test/mAP"]) < 1 for row in rows)
    assert all(int(float(row["clusters/count"])) >= 3 for row in rows[1:])
    assert rows[1]["clusters/agreement"] == ""
    assert 0 <= float(rows[2]["clusters/agreement"]) <= 1
    assert "used for judging alone" in printed
    assert "as the model came" in printed
    assert json.loads((folder / "status.json").read_text())["status"] == "FINISHED"
    assert (folder / "figures" / "rounds.png").is_file()
    assert not list(folder.glob("round_*/last.pt"))
    with (folder / "round_01" / "clusters.csv").open(newline="") as file:
        named = list(csv.DictReader(file))
    counted = {row["cluster"] for row in named} - {""}
    assert len(counted) == float(rows[1]["clusters/count"])


def test_the_adapted_model_says_where_it_comes_from(adapted: tuple[str, Path], parent: Path) -> None:
    from reid.models.weights import file_sha256

    _, folder = adapted
    meta = load_checkpoint(folder / "model.pt").meta
    assert meta[ADAPTATION]["parent_sha256"] == file_sha256(parent)
    assert meta[ADAPTATION]["pids"] == "pseudo-labels"
    assert meta[ADAPTATION]["labels"] == "judging alone"
    assert meta["dataset"]["domain"] == "night"
    assert meta["pids"] == list(range(1, meta["model"]["num_classes"] + 1))
    assert "threshold" not in meta
    card = (folder / "model_card.md").read_text()
    assert card == model_card(meta)
    for words_of_card in (
        "adapted without labels to synthetic", "pseudo-labels, not people", "judging alone",
        "began with a model trained on synthetic",
    ):  # fmt: skip
        assert words_of_card in card
    assert "people were trained on" not in card


def test_the_adapted_model_is_an_ordinary_checkpoint(
    adapted: tuple[str, Path], home: Path, tiny_data: Path, run_command: Runner
) -> None:
    _, folder = adapted
    done = run_command(
        "reid.evaluate", f"checkpoint={folder}", f"data.root={tiny_data}", "device=cpu", home=home
    )
    assert done.returncode == 0, done.stderr
    scores = json.loads((next(home.glob("outputs/*/scores.json"))).read_text())["scores"]
    assert scores["test/mAP"] == pytest.approx(float(rows_of(folder)[-1]["test/mAP"]))
    # Clusters are numbered as people are, and no person of the test is refused for it.
    measured = run_command(
        "reid.threshold", f"checkpoint={folder}", f"data.root={tiny_data}", "device=cpu", "target=eer",
        f"output={home / 'measured.pt'}", "replicates=5", "batches=2", "batch.identities=3", home=home,
    )  # fmt: skip
    assert measured.returncode == 0, measured.stderr


def test_a_threshold_is_refused_on_crops_that_the_model_was_adapted_to(adapted: tuple[str, Path]) -> None:
    _, folder = adapted
    meta = load_checkpoint(folder / "model.pt").meta
    dataset = load_dataset(**meta["dataset"])
    check_not_trained_on(dataset, meta["dataset"], meta)
    with pytest.raises(ConfigError, match="that the model was adapted to"):
        check_not_trained_on(replace(dataset, query=dataset.train), meta["dataset"], meta)


def test_each_round_is_a_child_run(adapted: tuple[str, Path], home: Path) -> None:
    runs = list_runs(default_store(home), "adaptation")
    (head,) = [run for run in runs if run.tags["reid.kind"] == "adaptation"]
    kin = [run for run in runs if run.parent == head.run_id]
    assert [run.name for run in kin] == ["round 1", "round 2", "round 3"]
    assert {run.tags["reid.kind"] for run in kin} == {"round"}
    assert {run.status for run in (head, *kin)} == {"FINISHED"}
    assert all("train/loss" in run.metrics and "test/mAP" in run.metrics for run in kin)
    assert head.metrics["clusters/count"] == kin[-1].metrics["clusters/count"]
    assert head.tags["reid.data.labels"] == "judging alone"


@pytest.mark.parametrize("moment", ["round_01/last.pt", "round_02/journal.jsonl"])
def test_a_killed_adaptation_goes_on_to_the_same_bits(
    moment: str, adapted: tuple[str, Path], parent: Path, tiny_data: Path, template_db: Path, tmp_path: Path,
    start_command: Starter, run_command: Runner,
) -> None:  # fmt: skip
    _, whole = adapted
    shutil.copy(template_db, tmp_path)
    line = words(parent, tiny_data, "dataset.domain=night", "adapt.rounds=3")
    process = start_command("reid.adapt", *line, home=tmp_path)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(f"outputs/*/{moment}")) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()
    os.kill(process.pid, signal.SIGKILL)
    process.wait(30)
    done = run_command("reid.adapt", *line, home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "resumed after round" in done.stdout
    (folder,) = (path.parent for path in tmp_path.glob("outputs/*/model.pt"))
    ours, theirs = (load_checkpoint(place / "model.pt").model for place in (folder, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in {**ours, **theirs})
    assert rows_of(folder) == rows_of(whole)
    runs = list_runs(default_store(tmp_path), "adaptation")
    named = sorted(run.name for run in runs if run.tags["reid.kind"] == "round")
    assert named == ["round 1", "round 2", "round 3"]


def test_the_labels_of_a_target_change_no_bit_of_the_model(
    adapted: tuple[str, Path], parent: Path, home: Path, tiny_data: Path, run_command: Runner
) -> None:
    """The same crops as a table of paths and cameras alone give the same model."""
    _, whole = adapted
    target = load_dataset(**load_checkpoint(whole / "model.pt").meta["dataset"])
    table = home / "unlabelled.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "camid"])
        writer.writerows((crop.path, crop.camid) for crop in target.train)
    folder = home / "outputs" / "unlabelled"
    done = run_command(
        "reid.adapt", f"checkpoint={parent}", "dataset=table", f"dataset.file={table}",
        f"data.root={tiny_data}", *QUICK, "adapt.rounds=3", f"hydra.run.dir={folder}", home=home,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "labels: none, so nothing is judged" in done.stdout
    ours, theirs = (load_checkpoint(place / "model.pt") for place in (folder, whole))
    assert all(torch.equal(ours.model[name], value) for name, value in theirs.model.items())
    assert (ours.meta[ADAPTATION]["labels"], "scores" in ours.meta) == ("none", False)
    assert "The target has no labels, so nothing was judged" in (folder / "model_card.md").read_text()


def test_batch_norms_alone_keep_the_weights_and_the_people(
    parent: Path, home: Path, tiny_data: Path, run_command: Runner
) -> None:
    folder = home / "outputs" / "norms"
    line = words(
        parent, tiny_data, "dataset.domain=night", "adapt.batch_norm_only=true", f"hydra.run.dir={folder}"
    )
    done = run_command("reid.adapt", *line, home=home)
    assert done.returncode == 0, done.stderr
    before, after = load_checkpoint(parent), load_checkpoint(folder / "model.pt")
    moved = {name for name, value in after.model.items() if not torch.equal(before.model[name], value)}
    assert moved
    assert all("running_" in name or "num_batches" in name for name in moved)
    assert after.meta["pids"] == before.meta["pids"]
    assert "threshold" not in after.meta
    assert after.meta[ADAPTATION]["pids"] == "of the parent"
    assert [row["round"] for row in rows_of(folder)] == ["0.0", "1.0"]
    assert "The statistics of its batch norms" in (folder / "model_card.md").read_text()


def test_people_who_were_trained_on_are_warned_of(
    parent: Path, home: Path, tiny_data: Path, run_command: Runner
) -> None:
    done = run_command(
        "reid.adapt",
        *words(parent, tiny_data, "adapt.batch_norm_only=true", "tracking.checkpoint=false"),
        home=home,
    )
    assert done.returncode == 0, done.stderr
    assert "were trained on with their labels" in done.stdout + done.stderr


def test_a_clustering_that_cannot_work_ends_with_the_next_step(
    parent: Path, home: Path, tiny_data: Path, run_command: Runner
) -> None:
    line = words(parent, tiny_data, "dataset.domain=night", "adapt.eps=0.01", "adapt.min_samples=9")
    done = run_command("reid.adapt", *line, home=home)
    assert done.returncode == 1
    assert "all are outliers" in done.stderr
    assert "Raise adapt.eps" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_sweep_has_a_report_and_its_jobs_have_rounds(
    parent: Path, tiny_data: Path, template_db: Path, tmp_path: Path, run_command: Runner
) -> None:
    shutil.copy(template_db, tmp_path)
    line = words(parent, tiny_data, "dataset.domain=night", "adapt.rounds=1", "loss.alpha=1.2,2.0")
    done = run_command("reid.adapt", "-m", *line, home=tmp_path)
    assert done.returncode == 0, done.stderr
    runs = list_runs(default_store(tmp_path), "adaptation")
    (head,) = [run for run in runs if run.tags["reid.kind"] == "sweep"]
    jobs = [run for run in runs if run.parent == head.run_id]
    assert [run.tags["reid.kind"] for run in jobs] == ["adaptation"] * 2
    rounds = [run for run in runs if run.tags["reid.kind"] == "round"]
    assert {run.parent for run in rounds} == {run.run_id for run in jobs}
    assert "2.0" in done.stdout
    (report,) = tmp_path.glob("multirun/*/report.md")
    assert "loss.alpha" in report.read_text()
