"""The import rule of the house, read from the source: what each room of reid/ may know."""

import ast
from pathlib import Path

import pytest

import reid

ROOT = Path(reid.__file__).parent
#: The rooms, the lowest row first.  A room imports rows below its own only, and no other room of its row.
ROWS = [
    {"data", "models", "losses", "retrieval"},
    {"tracking", "figures", "config"},
    {"engine"},
    {"judging"},
    {"sweeps", "gallery", "export"},
    {"inference", "jobs", "runs"},
    {"commands"},
    {"api"},
]
#: Files of the hall that any room may import.  They know each other, but no room.
BASE = {
    "distance", "errors", "formats", "home", "lazy", "limits", "locks", "normalisation", "people", "terminal",
    "trust", "words",
}  # fmt: skip
#: The commands: above every room, and each without the others.
DOORS = {
    "browse", "clean", "compare", "convert", "doctor", "evaluate", "export/__main__", "extract", "index",
    "profile", "report", "runs/__main__", "search", "sync", "threshold", "train", "ui",
}  # fmt: skip
#: Commands of the data that lie in their room: what they import to be run, in `if __name__ == "__main__":`.
COMMANDS_OF_DATA = {"data/check", "data/split", "data/stores"}
ROW_OF = {room: row for row, rooms in enumerate(ROWS) for room in rooms}
FILES = sorted(ROOT.rglob("*.py"))


def name_of(file: Path) -> str:
    """`engine/loop` for reid/engine/loop.py, `engine` for its `__init__`."""
    return file.relative_to(ROOT).with_suffix("").as_posix().removesuffix("/__init__")


def room(name: str) -> str:
    """The room of a file; a door and a base file are rooms of their own."""
    return name if name in DOORS else name.partition("/")[0]


def row(name: str) -> int:
    """-1 for the base files, the place in ROWS for a room, and the highest of all for a door."""
    if room(name) in BASE:
        return -1
    return len(ROWS) if name in DOORS else ROW_OF[room(name)]


def imports(file: Path) -> set[str]:
    """Every module that a file imports, with the names it takes of it: `reid.data`, `reid.data.Crop`, …

    Not those of a command of the data that it needs to be run: `python -m reid.data.check` is a door.
    """
    found: set[str] = set()
    tree = ast.parse(file.read_text())
    if name_of(file) in COMMANDS_OF_DATA:
        tree.body = [statement for statement in tree.body if not _is_door(statement)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _is_door(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def importers(package: str) -> set[str]:
    """The files of reid/ that import a package."""
    return {
        name_of(file) for file in FILES if any(name.partition(".")[0] == package for name in imports(file))
    }


def suite_files(file: Path) -> set[str]:
    """The files that a file imports, as `name_of` writes them; a package where it gives the name itself."""
    found = set()
    for module in imports(file):
        parts = module.split(".")
        if parts[0] == "reid" and len(parts) > 1:
            place = "/".join(parts[1:])
            while place and not ((ROOT / place).is_dir() or (ROOT / f"{place}.py").is_file()):
                place = place.rpartition("/")[0]
            if place:
                found.add(place)
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: name_of(file) or "reid")
def test_nothing_imports_a_row_that_is_not_below_its_own(file: Path) -> None:
    name = name_of(file)
    if file == ROOT / "__init__.py":
        assert not suite_files(file)
        return
    wrong = {
        other
        for other in suite_files(file)
        if room(other) != room(name) and row(other) >= row(name) and not {room(name), room(other)} <= BASE
    }
    assert not wrong, f"{name} imports {sorted(wrong)}"


def test_every_file_has_its_row() -> None:
    assert {room(name_of(file)) for file in FILES} - {"__init__"} <= ROW_OF.keys() | BASE | DOORS


def test_checks_imports_nothing_of_the_suite_but_what_is_trusted() -> None:
    assert suite_files(ROOT / "config" / "checks.py") <= {"trust", "errors"}


def test_mlflow_is_known_to_tracking_alone() -> None:
    assert {room(name) for name in importers("mlflow")} == {"tracking"}


def test_hydra_is_known_to_jobs_config_and_sweeps_alone() -> None:
    assert {room(name) for name in importers("hydra")} <= {"jobs", "config", "sweeps"}


def test_losses_retrieval_models_and_data_know_no_config() -> None:
    for file in FILES:
        if room(name_of(file)) in ("losses", "retrieval", "models", "data", "distance"):
            known = {name.partition(".")[0] for name in imports(file)}
            assert not known & {"hydra", "omegaconf", "mlflow"}, file


def test_only_the_weight_files_are_read_among_models_losses_and_retrieval() -> None:
    for file in FILES:
        if room(name_of(file)) in ("losses", "retrieval", "models") and file.stem not in (
            "weights",
            "unpickle",
        ):
            used = {
                node.id if isinstance(node, ast.Name) else node.attr
                for node in ast.walk(ast.parse(file.read_text()))
                if isinstance(node, ast.Name | ast.Attribute)
            }
            assert not used & {"open", "read_bytes", "read_text"}, file


@pytest.mark.parametrize("file", FILES, ids=lambda file: name_of(file) or "reid")
def test_a_file_says_what_it_is_for(file: Path) -> None:
    assert ast.get_docstring(ast.parse(file.read_text())), f"{file} has no docstring"
