"""A few of the files that `experiments.mutations` mutates, the same ones at every run, in this process."""

import shutil
from pathlib import Path

import pytest

from experiments.mutations.__main__ import mutated
from experiments.mutations.outcome import CODE, FAULTS, READ, REFUSED, TRACEBACK, Outcome, Watch, read_once
from experiments.mutations.specimens import SPECIMENS, Specimen

pytestmark = pytest.mark.slow

FILES = 8


@pytest.fixture(scope="module")
def watch() -> Watch:
    return Watch()


@pytest.mark.parametrize("specimen", SPECIMENS, ids=[specimen.name for specimen in SPECIMENS])
def test_a_mutated_file_is_read_or_refused(
    specimen: Specimen, watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "place"
    place.mkdir()
    specimen.make(place)
    whole = shutil.copytree(place, tmp_path / "whole")
    (file,) = list(place.glob(specimen.file))[:1]
    content = file.read_bytes()
    read_once(specimen, place, watch)  # what is imported late may start a program, such as `uname`
    for number in range(FILES):
        shutil.copytree(
            whole, place, dirs_exist_ok=True, ignore=lambda _, names: set(names) & set(specimen.stays)
        )
        file.write_bytes(mutated(specimen, content, seed=1, number=number))
        outcome = read_once(specimen, place, watch)
        assert outcome.kind in (READ, REFUSED), f"file {number}: {outcome.says}"
        assert outcome.says


def test_what_runs_code_is_noticed(watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    from experiments.mutations.mutate import CANARY

    monkeypatch.chdir(tmp_path)

    def outcome(read: object) -> Outcome:
        return read_once(Specimen("x", "x", lambda _: None, read, ()), tmp_path, watch)  # type: ignore[arg-type]

    assert outcome(lambda _: "content").kind == READ
    assert outcome(lambda _: subprocess.run(["true"], check=True)).kind == CODE
    assert outcome(lambda _: Path(CANARY).touch()).kind == CODE
    assert not Path(CANARY).exists()
    assert outcome(lambda _: [][0]).kind == TRACEBACK
    assert {CODE, TRACEBACK} < set(FAULTS)
