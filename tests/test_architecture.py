"""The import rule of the house, read from the source: what each room of reid/ may know."""

import ast
from pathlib import Path

import pytest

import reid

ROOT = Path(reid.__file__).parent
#: Rooms of one row do not import each other; a room imports rows below its own only.
ROWS = [
    {"locks", "trust"},
    {"checks", "home", "limits", "plain_warnings", "words"},
    {"distance", "people"},
    {"data", "models", "losses", "retrieval"},
    {"search_path"},
    {"config"},
    {"dataset_config"},
    {"tracking", "figures", "settings", "identity"},
    {"engine"},
]
ROW_OF = {room: row for row, rooms in enumerate(ROWS) for room in rooms}
COMMANDS = len(ROWS)
#: `python -m reid.data.check` reads conf/ as every command may, though it is called by the name of its room.
COMMANDS_IN_FOLDERS = ("data/check", "data/split", "data/stores")
FILES = sorted(ROOT.rglob("*.py"))


def room(file: Path) -> str:
    """The first name below reid: a folder, or a module at the top; a command in a folder is its own."""
    name = file.relative_to(ROOT).with_suffix("").as_posix()
    return name if name in COMMANDS_IN_FOLDERS else name.partition("/")[0]


def imports(file: Path) -> set[str]:
    """Every module that a file imports, with the names it takes of it: `reid.data`, `reid.data.Crop`, …"""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def importers(package: str) -> set[Path]:
    """The files of reid/ that import a package, relative to reid/."""
    return {
        file.relative_to(ROOT)
        for file in FILES
        if any(name.partition(".")[0] == package for name in imports(file))
    }


def suite_rooms(file: Path) -> set[str]:
    """The other rooms of reid that a file imports."""
    parts = [name.split(".") for name in imports(file)]
    return {name[1] for name in parts if name[0] == "reid" and len(name) > 1} - {room(file)}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_nothing_imports_a_row_that_is_not_below_its_own(file: Path) -> None:
    row = ROW_OF.get(room(file), COMMANDS)
    # Commands stand in one row and share their helpers: command, console, run_figures, …
    wrong = {other for other in suite_rooms(file) if ROW_OF.get(other, COMMANDS) >= row and row != COMMANDS}
    assert not wrong, f"{file.relative_to(ROOT)} is of row {row} and imports {sorted(wrong)}"


def test_every_folder_has_its_row() -> None:
    assert {file.parent.name for file in ROOT.glob("*/__init__.py")} <= set(ROW_OF)


def test_checks_imports_nothing_of_the_suite_but_what_is_trusted() -> None:
    assert suite_rooms(ROOT / "checks.py") <= {"trust"}


def test_mlflow_is_known_to_tracking_alone() -> None:
    assert {file.parts[0] for file in importers("mlflow")} == {"tracking"}


def test_hydra_is_known_to_commands_config_and_the_sweep_callback_alone() -> None:
    others = {
        file
        for file in importers("hydra")
        if ROW_OF.get(room(ROOT / file), COMMANDS) != COMMANDS
        and file not in (Path("config.py"), Path("search_path.py"), Path("engine/sweep.py"))
    }
    assert not others


def test_losses_retrieval_and_models_know_no_config() -> None:
    for file in FILES:
        if room(file) in ("losses", "retrieval", "models", "data", "distance"):
            known = {name.partition(".")[0] for name in imports(file)}
            assert not known & {"hydra", "omegaconf", "mlflow"}, file
            assert "checks" not in suite_rooms(file), file


def test_only_weights_reads_files_among_models_losses_and_retrieval() -> None:
    for file in FILES:
        if room(file) in ("losses", "retrieval", "models") and file.name != "weights.py":
            used = {
                node.id if isinstance(node, ast.Name) else node.attr
                for node in ast.walk(ast.parse(file.read_text()))
                if isinstance(node, ast.Name | ast.Attribute)
            }
            assert not used & {"open", "read_bytes", "read_text"}, file


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_is_short_and_says_what_it_is_for(file: Path) -> None:
    text = file.read_text()
    assert len(text.splitlines()) <= 300
    assert ast.get_docstring(ast.parse(text)), f"{file} has no docstring"
