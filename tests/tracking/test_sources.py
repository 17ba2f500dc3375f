"""Code is the same where it computes the same: an edit counts, a comment and another place do not."""

from pathlib import Path

import pytest

from reid.tracking import sources

ROOT = Path(sources.__file__).parents[1]

LOSS = '''"""A loss."""

from reid.distance import euclidean
from torch import nn

WEIGHT = 0.5


class Loss(nn.Module):
    def forward(self, features, pids):
        if len(features) != len(pids):
            raise ValueError(f"{len(features)} features")
        return WEIGHT * euclidean(features).mean()
'''


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sources, "NO_NUMBERS", ("figures/", "home.py"))
    (tmp_path / "losses").mkdir()
    (tmp_path / "losses" / "mine.py").write_text(LOSS)
    (tmp_path / "distance.py").write_text("def euclidean(a):\n    return a\n")
    return tmp_path


SAME = {
    "a comment": ("WEIGHT = 0.5", "WEIGHT = 0.5  # of the mean"),
    "a docstring": ('"""A loss."""', '"""A loss of mine."""'),
    "an import": ("from reid.distance import", "from reid.elsewhere.distance import"),
    "an annotation": ("features, pids):", "features: Tensor, pids: Tensor) -> Tensor:"),
    "an error": ('f"{len(features)} features"', '"not as many pids as features"'),
    "a line break": ("forward(self, features, pids)", "forward(\n        self, features, pids\n    )"),
}
OTHER = {
    "a number": ("0.5", "0.25"),
    "an operation": (".mean()", ".sum()"),
    "a library": ("from torch import nn", "from mine import nn"),
    "a condition": ("!=", "<"),
    "another function by the same name": ("import euclidean", "import cosine as euclidean"),
    "half a line": (".mean()", ".mean("),
}


@pytest.mark.parametrize("edit", [*SAME, *OTHER])
def test_what_an_edit_means(edit: str, tree: Path) -> None:
    before, file = sources.tree_hash(tree), tree / "losses" / "mine.py"
    old, new = (SAME | OTHER)[edit]
    assert old in LOSS
    file.write_text(LOSS.replace(old, new))
    assert (sources.tree_hash(tree) == before) == (edit in SAME)


def test_it_does_not_matter_where_a_function_lies(tree: Path) -> None:
    before, file = sources.tree_hash(tree), tree / "losses" / "mine.py"
    head, weight, loss = LOSS.partition("WEIGHT = 0.5\n")
    file.unlink()
    (tree / "losses" / "terms").mkdir()
    (tree / "losses" / "terms" / "weight.py").write_text(weight)
    (tree / "distance.py").write_text((tree / "distance.py").read_text() + head + loss)
    assert sources.tree_hash(tree) == before


def test_runs_of_declared_code_are_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "NUMBERS", 3)
    monkeypatch.setattr(sources, "DECLARED", {"a": 1, "b": 2, "c": 3, "d": 3})
    monkeypatch.setattr(sources, "DIFFERS", {2: lambda config: config["epochs"] > 1, 3: lambda _: False})
    monkeypatch.setattr(sources, "code", lambda: "numbers-3")
    assert [sources.oldest_alike({"epochs": epochs}) for epochs in (1, 2)] == [1, 2]
    assert sources.codes_since(1) == {"a", "b", "c", "d", "numbers-1", "numbers-2", "numbers-3"}
    assert sources.codes_since(2) == {"b", "c", "d", "numbers-2", "numbers-3"}


def test_a_mix_and_a_start_from_a_checkpoint_are_not_taken_from_older_code() -> None:
    default = {"loss._target_": "reid.losses.RankedLoss", "init_from": None, "image.mean": None}
    begun = default | {"init_from": "model.pt"}
    assert sources.oldest_alike(default) == 1
    assert sources.oldest_alike(default | {"loss._target_": "reid.losses.Mix"}) == 3
    assert sources.oldest_alike(begun) == 3
    assert sources.oldest_alike(begun | {"image.mean": [0.5, 0.5, 0.5]}) == 1


def test_code_of_ones_own_is_like_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "code", lambda: "0123456789abcdef")
    assert sources.codes_since(1) == {"0123456789abcdef"}
    monkeypatch.setattr(sources, "code", lambda: "numbers-2+aaaa")
    assert all(name.endswith("+aaaa") for name in sources.codes_since(1))


def test_this_tree_is_declared() -> None:
    tree = sources.tree_hash(ROOT)
    assert sources.DECLARED.get(tree) == sources.NUMBERS, (
        f"this code is not declared. Where it computes what it did, add {tree!r}: {sources.NUMBERS} to "
        "DECLARED of reid/tracking/sources.py; else raise NUMBERS, and say in DIFFERS which configs differ"
    )


def test_what_computes_nothing_does_not_count_and_a_new_module_does(tree: Path) -> None:
    before = sources.tree_hash(tree)
    (tree / "figures").mkdir()
    for place in ("figures/curves.py", "home.py"):
        (tree / place).write_text("COLOUR = 1\n")
    (tree / "losses" / ".#mine.py").symlink_to("ann@desk.4711")  # Emacs's, where a file is being edited
    assert sources.tree_hash(tree) == before
    (tree / "mine.py").write_text("WEIGHT = 2\n")
    assert sources.tree_hash(tree) != before


def test_what_is_said_to_compute_nothing_is_there() -> None:
    for place in (*sources.NO_NUMBERS, *sources._NUMBERS_NONETHELESS):
        assert (ROOT / place).exists(), place
