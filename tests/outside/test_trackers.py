"""An export in the tracker that it is for: it gets the features of `embed`; the wrong file is noticed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from conftest import Runner
from outside.drawn_frame import Boxes, before_ultralytics, draw_frame
from outside.trackers import KEPT, Answer, NotInstalledError, ask, installed
from PIL import Image

from reid.data import load_dataset
from reid.export.check import ExportError, check_graph
from reid.export.graph import Graph
from reid.export.target import target_named
from reid.inference import load_model

TRACKERS = ("boxmot", "ultralytics")
#: The height of the images that a model sees. Crops are 128 x 64, so that one of them is made smaller.
HEIGHTS = (64, 128)
#: A tracker resizes without antialiasing, the suite with it: on crops of twice the size this is what is left.
MEAN = 0.99
#: Below this the export's own check speaks of a wrong pairing.
SUSPICIOUS = 0.98

Features = npt.NDArray[np.float32]


@pytest.fixture(scope="session")
def trackers_python() -> Path:
    try:
        return installed(KEPT)
    except NotInstalledError as error:
        pytest.skip(f"BOXMOT AND ULTRALYTICS ARE NOT TESTED: they cannot be installed here: {error}")


@pytest.fixture(scope="session")
def drawn() -> Path:
    """A `data.root` with the quickstart's drawn people, which take twenty seconds."""
    root = KEPT / "data"
    load_dataset("synthetic", root / "synthetic" / "day_small_0", preset="small")
    return root


@pytest.fixture(scope="session")
def crops(drawn: Path) -> list[Path]:
    """Crops of people whom no model here was trained on."""
    return [crop.path for crop in load_dataset("synthetic", drawn / "synthetic" / "day_small_0").query[:60]]


@pytest.fixture(scope="session")
def models(
    drawn: Path, tiny_data: Path, run_command: Runner, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Path]:
    """Trained models by their height: the quickstart's, after five epochs; one of few people, of full size.

    A network that has seen few people takes sharp edges for more than one that has seen many.
    """
    sizes = {
        64: ["dataset.preset=small", f"data.root={drawn}", "epochs=5", "schedule.milestones=[4]"],
        128: ["dataset.preset=tiny", f"data.root={tiny_data}", "epochs=12", "batch.identities=6",
              "image.height=128", "image.width=64"],
    }  # fmt: skip
    found = {}
    for height, overrides in sizes.items():
        home = tmp_path_factory.mktemp(f"trained_{height}")
        done = run_command(
            "reid.train", "experiment=quickstart", *overrides, "eval.period=0", "eval.at_start=false",
            "device=cpu", home=home, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (found[height],) = (home / "outputs").glob("*/model.pt")
    return found


@pytest.fixture(scope="session")
def exported(
    models: dict[int, Path], run_command: Runner, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int, str], Path]:
    """The file that `python -m reid.export` writes of a model for a tracker, made once."""
    folder = tmp_path_factory.mktemp("exported")

    def export(height: int, tracker: str) -> Path:
        file = folder / f"{tracker}_{height}.onnx"
        if not file.exists():
            done = run_command(
                "reid.export", str(models[height]), "--for", tracker, "-o", str(file), home=folder
            )
            assert done.returncode == 0, done.stderr
        return file

    return export


@pytest.fixture
def answer(trackers_python: Path, crops: list[Path], tmp_path: Path) -> Callable[[str, Path], Answer]:
    """What a tracker makes of a file on a frame that shows the crops."""
    frame = tmp_path / "frame.png"
    boxes = draw_frame(crops, frame)

    def asked(tracker: str, model: Path, exact: bool = True) -> Answer:
        given: Boxes = before_ultralytics(boxes) if tracker == "ultralytics" and exact else boxes
        return ask(trackers_python, tracker, model, frame, given, tmp_path / f"{tracker}_{exact}")

    return asked


def embedded(model: Path, crops: list[Path]) -> Features:
    features = load_model(model, "cpu").embed(crops).numpy()
    unit: Features = features / np.linalg.norm(features, axis=1, keepdims=True)
    return unit


@pytest.mark.parametrize("tracker", TRACKERS)
@pytest.mark.parametrize("height", HEIGHTS)
def test_a_tracker_takes_the_features_that_embed_gives(
    tracker: str,
    height: int,
    models: dict[int, Path],
    exported: Callable[[int, str], Path],
    crops: list[Path],
    answer: Callable[..., Answer],
    record_property: Callable[[str, object], None],
    tmp_path: Path,
) -> None:
    found = answer(tracker, exported(height, tracker))
    ours = embedded(models[height], crops)
    assert found.features.shape == ours.shape
    all_pairs = found.features @ ours.T
    own = np.diag(all_pairs)
    others = all_pairs[~np.eye(len(own), dtype=bool)]
    record_property("versions", ", ".join(f"{name} {number}" for name, number in found.versions.items()))
    record_property("crops", len(own))
    record_property("mean cosine", f"{own.mean():.4f}")
    record_property("least", f"{own.min():.4f}")
    record_property("mean of two crops", f"{others.mean():.4f}")
    assert own.mean() >= MEAN
    # Otherwise a network that gives all crops one feature would pass.
    assert others.mean() < 0.9
    assert (all_pairs.argmax(axis=1) == np.arange(len(own))).mean() > 0.95
    assert found.refused == [], "it reached for the network, or for an installer"
    home = {path.name for path in (tmp_path / f"{tracker}_True" / "home").rglob("*") if path.is_file()}
    assert home <= {"settings.json"}, "settings.json is that of Ultralytics"


@pytest.mark.parametrize("tracker", TRACKERS)
def test_the_file_of_the_other_tracker_shows_in_the_cosine(
    tracker: str,
    models: dict[int, Path],
    exported: Callable[[int, str], Path],
    crops: list[Path],
    answer: Callable[..., Answer],
    record_property: Callable[[str, object], None],
) -> None:
    (other,) = set(TRACKERS) - {tracker}
    found = answer(tracker, exported(128, other))
    own = (found.features * embedded(models[128], crops)).sum(axis=1)
    record_property("mean cosine", f"{own.mean():.4f}")
    record_property("least", f"{own.min():.4f}")
    assert own.mean() < SUSPICIOUS


@pytest.mark.parametrize("tracker", TRACKERS)
def test_the_check_of_an_export_refuses_the_file_of_the_other_tracker(
    tracker: str,
    models: dict[int, Path],
    exported: Callable[[int, str], Path],
    crops: list[Path],
    record_property: Callable[[str, object], None],
) -> None:
    (other,) = set(TRACKERS) - {tracker}
    model = load_model(models[128], "cpu")
    images = [np.asarray(Image.open(crop).convert("RGB")) for crop in crops]
    size = (model.height, model.width)
    target = target_named(tracker)
    check_graph(Graph(exported(128, tracker)), model.model, model.space, target, images, size)
    with pytest.raises(ExportError) as refusal:
        check_graph(Graph(exported(128, other)), model.model, model.space, target, images, size)
    record_property("said", str(refusal.value))
    assert f"Export the model again with --for {tracker}" in str(refusal.value)


def test_a_box_that_ultralytics_enlarges_shows_a_little_more(
    models: dict[int, Path],
    exported: Callable[[int, str], Path],
    crops: list[Path],
    answer: Callable[..., Answer],
    record_property: Callable[[str, object], None],
) -> None:
    """Not a fault of the file: it cuts more than the box, and the feature is that of what it cut."""
    found = answer("ultralytics", exported(128, "ultralytics"), exact=False)
    own = (found.features * embedded(models[128], crops)).sum(axis=1)
    record_property("mean cosine", f"{own.mean():.4f}")
    assert 0.5 < own.mean() < 1
