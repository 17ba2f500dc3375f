"""`reid.profile`: its counts against what one computes by hand, and the command from words to table."""

import json
from pathlib import Path

import pytest
import torch
from conftest import Runner
from PIL import Image
from torch import nn

from reid.commands.network_cost import count_multiply_adds, measure, used_parameters
from reid.figures import Point
from reid.figures.tradeoff import accuracy_latency, unbeaten
from reid.jobs.networks import named_networks
from reid.models import ReidModel, build_backbone
from reid.profile import main
from reid.tracking import Tracker, default_store

#: Of torchvision's networks at 224x224: all that stands in their papers less the classifier, which is
#: 512 x 1000 and 2048 x 1000 multiply-adds and as many weights with 1000 biases.
KNOWN = {
    "resnet18": (1_814_073_344 - 512_000, 11_689_512 - 513_000),
    "resnet50": (4_089_184_256 - 2_048_000, 25_557_032 - 2_049_000),
}


def model_of(name: str, last_stride: int = 2) -> ReidModel:
    with torch.random.fork_rng():
        return ReidModel(build_backbone(name, last_stride), 7).eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", KNOWN)
def test_the_counts_of_resnets_are_the_known_ones(name: str) -> None:
    model, image = model_of(name), torch.zeros(1, 3, 224, 224)
    multiply_adds, parameters = KNOWN[name]
    with torch.no_grad():
        assert count_multiply_adds(model, image) == multiply_adds
    # The neck's batch norm has a weight and a bias a channel.
    assert used_parameters(model, image) == parameters + 2 * model.embedding_size
    assert all(p.requires_grad == q.requires_grad for p, q in zip(
        model.parameters(), model_of(name).parameters(), strict=True))  # fmt: skip


def test_attention_is_counted_by_hand_too() -> None:
    class Attention(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            heads = image.view(1, 4, 32, 6)
            return nn.functional.scaled_dot_product_attention(heads, heads, heads)

    with torch.no_grad():
        # 4 heads of 32 tokens: each token by each, of 6 numbers, and as many to mix the values.
        found = count_multiply_adds(Attention(), torch.zeros(1, 3, 16, 16))  # type: ignore[arg-type]
    assert found == 2 * 4 * 32 * 32 * 6


def test_a_network_of_two_layers_is_counted_by_hand() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False), nn.Conv2d(4, 5, 1))
    net.channels, net.name = 5, "two"  # type: ignore[assignment]
    model = ReidModel(net, 3, neck="none").eval()  # type: ignore[arg-type]
    image = torch.zeros(1, 3, 16, 8)
    with torch.no_grad():
        # Maps of 8 x 4: 4 channels of 3 x 9 products, 5 of 4.
        assert count_multiply_adds(model, image) == 8 * 4 * (4 * 3 * 9 + 5 * 4)
    assert used_parameters(model, image) == 4 * 3 * 9 + 5 * 4 + 5
    cost = measure(model, torch.device("cpu"), 16, 8, [1, 6], seconds=0.001)
    one, six = cost.timed
    assert (one.batch, six.batch) == (1, 6)
    # Both maps are alive while the second is made.
    assert one.activations == 8 * 4 * (4 + 5) * 4
    assert six.activations == 6 * one.activations
    assert 0 < one.latency <= one.p90
    assert six.throughput == pytest.approx(6 / six.latency)
    assert cost.weights == 4 * sum(tensor.numel() for tensor in model.state_dict().values())


def test_keys_stand_for_networks_and_lists_for_many() -> None:
    settings = named_networks(["backbone=resnet18,mobilenet_v2", "image.height=64,128", "image.width=32"])
    found = [(one.backbone["name"], one.image.height, one.backbone["weights"]) for one in settings]
    assert found == [(name, height, "none") for name in ("resnet18", "mobilenet_v2") for height in (64, 128)]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("backbone=resnet5", "Did you mean 'resnet50'?"),
        ("backbone=resnet18 image.hight=9", "Did you mean 'image.height'?"),
        ("", "no network is named"),
        ("backbone=resnet18 --batch 0", "--batch"),
        ("backbone=resnet18 batch=8", "Type --batch 8"),
        ("backbone=resnet18 -o table.csv", "--csv"),
        ("checkpoint=/nowhere", "/nowhere"),
    ],
)
def test_what_is_wrong_is_refused(
    words: str, expected: str, capsys: pytest.CaptureFixture[str], own_home: None
) -> None:
    try:
        code = main(words.split())
    except SystemExit as end:
        code = int(str(end.code))
    assert code == 2
    assert expected in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_tracked_runs_become_a_table_and_a_picture(
    run_command: Runner, tiny: list[str], tmp_path: Path
) -> None:
    train = ["reid.train", *tiny, "epochs=1", "tracking.experiment=mine"]
    done = run_command(*train, home=tmp_path)
    assert done.returncode == 0, done.stderr
    (checkpoint,) = (tmp_path / "outputs").glob("*/model.pt")
    store = default_store(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}")
    with Tracker.start(store, "mine", tmp_path / "none", "without a model",
                       tags={"reid.score_split": "test"}) as tracker:  # fmt: skip
        tracker.metrics({"test/mAP": 0.5}, 1)
    picture = tmp_path / "tradeoff.png"
    words = ["backbone=resnet18", "image.height=32", "image.width=16", "--runs", "mine", "--batch", "1,2",
             "--seconds", "0.01", "--threads", "1", "--device", "cpu"]  # fmt: skip
    done = run_command("reid.profile", str(checkpoint), *words, "--json", "-o", str(picture), home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "left out: without a model: run " in done.stderr
    found = json.loads(done.stdout)
    assert found["machine"]["threads"] == "1"
    resnet, ours = found["networks"]  # keys come first
    assert (resnet["network"], ours["network"]) == ("resnet18, 32x16", "mobilenet_v2, 32x16")
    assert [one["batch"] for one in ours["timed"]] == [1, 2]
    assert resnet["models"] == []
    # The checkpoint of the run says what the run says; a network is measured once for all models of it.
    assert [one["data"] for one in ours["models"]] == ["synthetic, test split"] * 2
    first, second = (one["mAP"] for one in ours["models"])
    assert 0 < first < 1
    assert first == pytest.approx(second)
    assert Image.open(picture).size[0] == 1080
    done = run_command("reid.profile", *words[:3], *words[5:], "-o", str(picture), home=tmp_path)
    assert done.returncode == 2
    assert "no score is known" in done.stderr
    assert "resnet18, 32x16" in run_command("reid.profile", *words[:3], *words[5:], home=tmp_path).stdout


def test_a_point_is_unbeaten_where_nothing_is_both_faster_and_better() -> None:
    points = [Point("slow", 3, 0.9, "a"), Point("worse", 2, 0.5, "a"), Point("fast", 1, 0.6, "a"),
              Point("twin", 1, 0.4, "a")]  # fmt: skip
    assert [point.name for point in unbeaten(points)] == ["fast", "slow"]
    with pytest.raises(ValueError, match="no network has a score"):
        accuracy_latency([], 1, "a machine")
