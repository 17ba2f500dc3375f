"""What is printed is kept in the job's log, once and uncoloured, and follows the run into its folder."""

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.text import Text

from reid.jobs.console import ConsoleProgress
from reid.terminal import Table, Terminal, job_logs, log_sizes, move_logs


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    """The log of a job as Hydra opens it."""
    before = list(logging.getLogger().handlers)
    (tmp_path / "job").mkdir()
    handler = logging.FileHandler(tmp_path / "job" / "train.log")
    handler.setFormatter(logging.Formatter("[%(levelname)s] %(message)s"))
    logging.getLogger().addHandler(handler)
    yield Path(handler.baseFilename)
    for added in [one for one in logging.getLogger().handlers if one not in before]:
        logging.getLogger().removeHandler(added)
        added.close()


def terminal(**options: object) -> Terminal:
    return Terminal(file=io.StringIO(), width=60, **options)


def test_lines_and_tables_are_kept_as_they_are_read(log: Path) -> None:
    console = terminal(force_terminal=True, color_system="truecolor")
    table = Table("a title")
    table.add_column("name")
    table.add_row("[x] ± 1")
    console.print("epoch 1  12.5 %")
    logging.getLogger("reid.test").warning("beware")
    console.print(Text("bold", style="bold red"))
    console.print(table)
    plain = terminal()
    plain.print(table)
    assert isinstance(plain.file, io.StringIO)
    assert isinstance(console.file, io.StringIO)
    assert "\x1b[" in console.file.getvalue()
    shown = plain.file.getvalue()
    assert "[x] ± 1" in shown
    assert log.read_text(encoding="utf-8") == f"epoch 1  12.5 %\n[WARNING] beware\nbold\n{shown}{shown}"


@pytest.mark.parametrize("soft_wrap", [False, True])
def test_lines_are_cut_as_on_the_terminal(log: Path, soft_wrap: bool) -> None:
    console = terminal(soft_wrap=soft_wrap)
    console.print("a word " * 20)
    console.print("a word " * 20, soft_wrap=True)
    assert isinstance(console.file, io.StringIO)
    assert log.read_text() == console.file.getvalue()
    assert len(log.read_text().splitlines()) == (2 if soft_wrap else 4)


def test_neither_a_bar_nor_another_process_writes_there(log: Path) -> None:
    list(ConsoleProgress(terminal(force_terminal=True))([1, 2], 2, "query"))
    terminal(quiet=True).print("the second of two processes")
    assert log.read_text() == ""
    list(ConsoleProgress(terminal())([1, 2], 2, "query"))
    assert log.read_text() == "query: 2\n"


def test_a_log_on_a_full_disk_stops_nothing() -> None:
    full = logging.FileHandler("/dev/full")
    logging.getLogger().addHandler(full)
    try:
        terminal().print("goes on")
    finally:
        logging.getLogger().removeHandler(full)
        full.close()


def test_a_resumed_run_goes_on_in_its_own_log(log: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    run = tmp_path / "run" / "train.log"
    run.write_text("epoch 1\n")
    log.write_text("an earlier job\n")
    sizes = log_sizes(log.parent)
    console = terminal(soft_wrap=True)
    console.print("resumed after epoch 1")
    move_logs(sizes, log.parent)  # it stays where it is
    assert log.read_text() == "an earlier job\nresumed after epoch 1\n"
    move_logs(sizes, run.parent)
    console.print("epoch 2")
    logging.getLogger("reid.test").warning("beware")
    assert run.read_text() == "epoch 1\nresumed after epoch 1\nepoch 2\n[WARNING] beware\n"
    assert log.read_text() == f"an earlier job\ngoes on in {run}\n"
    assert [Path(one.baseFilename) for one in job_logs()].count(log) == 0


def test_the_log_of_another_folder_is_left_alone(log: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    sizes = log_sizes(tmp_path / "other")
    terminal().print("a line")
    move_logs(sizes, tmp_path / "run")
    assert log.read_text() == "a line\n"
    assert list((tmp_path / "run").iterdir()) == []
