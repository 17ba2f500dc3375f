"""The plan of imports on a small tree drawn by hand, and what `same_bits` tells apart."""

from pathlib import Path

import pytest
import torch

from experiments.house.plan import figures, floors, main, read_plan
from experiments.house.same_bits import differences, history_hashes, lines_of, model_hashes

FILES = {
    "__init__.py": "",
    "train.py": "from reid.engine.loop import step\n\nif __name__ == '__main__':\n    import reid.words\n",
    "words.py": "",
    "engine/__init__.py": "from reid.engine.loop import step\n",
    "engine/loop.py": "from reid import words\nfrom reid.data import Crop\n",
    "engine/long.py": 60 * "\n",
    "data/__init__.py": "",
    "data/check.py": "if __name__ == '__main__':\n    from reid import train\n",
    "data/store.py": "def open_store():\n    import reid.words\n    from reid.engine import step\n",
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "reid" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_rooms_arrows_and_circles(source: Path) -> None:
    plan = read_plan(source)
    assert plan.arrows == {
        ("train", "engine"): 1, ("engine", "words"): 1, ("engine", "data"): 1, ("data", "words"): 1,
        ("data", "engine"): 1,
    }  # fmt: skip
    assert plan.floors == {"__init__": 1, "words": 1, "data": 2, "engine": 2, "train": 3}
    assert plan.circular == [("data", "engine"), ("engine", "data")]
    assert plan.doors == {"train.py"}
    assert plan.when_run == {("train.py", "words.py"), ("data/check.py", "train.py")}
    numbers = figures(plan)
    assert (numbers["files"], numbers["files in the hall"], numbers["files under 60 lines"]) == (9, 2, 8)


def test_a_room_stands_above_all_that_it_imports() -> None:
    arrows = [("a", "b"), ("b", "c"), ("a", "c"), ("d", "c")]
    assert floors("abcd", arrows) == {"a": 3, "b": 2, "c": 1, "d": 2}


def test_rooms_above_a_circle_stand_higher_than_it() -> None:
    arrows = [("a", "b"), ("b", "c"), ("c", "b"), ("c", "d")]
    assert floors("abcd", arrows) == {"a": 3, "b": 2, "c": 2, "d": 1}


def test_the_plan_is_printed(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(source)]) == 0
    printed = capsys.readouterr().out
    assert "    2  engine                 3      63  data 1, words 1" in printed
    assert "  data -> engine: data/store.py imports engine/__init__.py" in printed


def test_an_unknown_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="neither a folder that holds reid/ nor a commit"):
        main([str(tmp_path / "nowhere")])


def save(model: dict[str, torch.Tensor], folder: Path) -> Path:
    torch.save({"model": model}, folder / "model.pt")
    return folder / "model.pt"


def test_a_model_is_told_apart_by_one_bit(tmp_path: Path) -> None:
    weight = torch.rand(3, 4)
    hashes = model_hashes(save({"a": weight, "b": torch.tensor(1)}, tmp_path))
    assert model_hashes(save({"b": torch.tensor(1), "a": weight}, tmp_path)) == hashes
    renamed = model_hashes(save({"c": weight, "b": torch.tensor(1)}, tmp_path))
    assert renamed["tensors"] == hashes["tensors"]
    assert renamed["tensors with names"] != hashes["tensors with names"]
    moved = model_hashes(save({"a": weight.nextafter(torch.tensor(2.0)), "b": torch.tensor(1)}, tmp_path))
    assert moved["tensors"] != hashes["tensors"]


def test_the_clock_is_left_out_of_a_history(tmp_path: Path) -> None:
    file = tmp_path / "history.csv"
    file.write_text("epoch,train/loss,train/images_per_second\n1,0.5,100\n")
    before = history_hashes(file)
    assert list(before) == ["history epoch", "history train/loss"]
    file.write_text("train/images_per_second,epoch,train/loss\n90,1,0.5\n")
    assert history_hashes(file) == before


def test_an_earlier_output_is_read_back(tmp_path: Path) -> None:
    file = tmp_path / "before.txt"
    file.write_text("# 1e3f991\nsweep 0: config hash   ab\nresumed: tensors       cd\n")
    before = lines_of(str(file))
    assert before == {"sweep 0: config hash": "ab", "resumed: tensors": "cd"}
    assert differences(before, before) == []
    assert differences(before, {"sweep 0: config hash": "ef"}) == ["resumed: tensors", "sweep 0: config hash"]
