"""`dataset.corrections` from the command line to the bits: what is trained on, found again, and judged."""

import csv
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from composing import settings_of
from conftest import TINY

from reid.config.checks import ConfigError
from reid.config.identity import config_hash, resume_hash
from reid.data import load_dataset, silent
from reid.data.corrections import COLUMNS, DIFFERENT, RIGHT, SAME, WRONG_NAME
from reid.engine.prepare import data_fingerprint, open_training_data, read_dataset
from reid.jobs.data_commands import check

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def verdicts(file: Path, *lines: tuple[Path | str, Path | str, str]) -> Path:
    with file.open("w", newline="") as handle:
        csv.writer(handle).writerows([COLUMNS, *((*line, "") for line in lines)])
    return file


@pytest.fixture(scope="module")
def crops(tiny_data: Path) -> dict[int, list[Path]]:
    """The training crops of the tiny set by pid."""
    drawn = load_dataset("synthetic", tiny_data / "synthetic" / "day_tiny_0", preset="tiny")
    found: dict[int, list[Path]] = {}
    for crop in drawn.train:
        found.setdefault(crop.pid, []).append(crop.path)
    return found


@pytest.mark.slow
def test_the_key_names_a_file_and_its_default_is_no_key(tmp_path: Path) -> None:
    plain = settings_of(*TINY)
    assert "corrections" not in plain.dataset
    named = settings_of(*TINY, f"dataset.corrections={tmp_path}/a.csv")
    assert named.dataset["corrections"] == f"{tmp_path}/a.csv"
    assert config_hash(named) != config_hash(plain)
    assert resume_hash(named) == resume_hash(plain)  # the fingerprint of the data tells these apart
    elsewhere = settings_of(*TINY, "dataset.corrections=/elsewhere/a.csv")
    assert config_hash(elsewhere) == config_hash(named)
    with pytest.raises(ConfigError, match=r"expected a file of verdicts, such as verdicts\.csv, or null"):
        settings_of(*TINY, "dataset.corrections=[a.csv]")


@pytest.mark.slow
def test_what_the_corrections_change_counts_and_the_store_stays(
    tiny_data: Path, tmp_path: Path, crops: dict[int, list[Path]]
) -> None:
    file = tmp_path / "verdicts.csv"
    keys = (*TINY, f"data.root={tiny_data}", f"data.store={tmp_path}/store")

    def prepared(*words: str) -> tuple[str, int, int, set[str]]:
        settings = settings_of(*keys, *words)
        dataset, stored, _ = read_dataset(settings, silent)
        data = open_training_data(dataset, settings, silent, stored)
        assert len(data.store) == len(data.labels) == len(dataset.train)
        stores = {path.name for path in (tmp_path / "store").glob("*.npy")}
        return data.fingerprint, len(data.store), len(data.pids), stores

    fingerprint, images, people, stores = prepared()
    first, second, third = sorted(crops)[:3]
    fingerprints = {fingerprint}
    for lines, left_out, merged in (
        ([(crops[first][0], crops[first][1], WRONG_NAME)], 1, 0),
        ([(crops[first][1], crops[first][0], DIFFERENT)], 1, 0),
        ([(crops[first][1], crops[first][0], RIGHT)], 0, 0),
        ([(crops[first][0], crops[second][0], SAME), (crops[third][0], crops[second][1], SAME)], 0, 2),
    ):
        verdicts(file, *lines)
        now = prepared(f"dataset.corrections={file}")
        assert now[1:] == (images - left_out, people - merged, stores)
        fingerprints.add(now[0])
    assert len(fingerprints) == 5
    verdicts(file, *lines, (crops[second][0], crops[second][1], RIGHT))
    assert prepared(f"dataset.corrections={file}")[0] == now[0]  # it changes nothing
    settings = settings_of(*keys, f"dataset.corrections={file}")
    assert data_fingerprint(settings, silent) != data_fingerprint(settings_of(*keys), silent)


def test_corrections_of_a_part_and_of_the_whole(
    tiny_data: Path, tmp_path: Path, crops: dict[int, list[Path]]
) -> None:
    root = tiny_data / "synthetic" / "day_tiny_0"
    first, second = sorted(crops)[:2]
    own = verdicts(tmp_path / "own.csv", (crops[first][0], crops[second][0], SAME))
    table = tmp_path / "crops.csv"
    parts = [
        {"name": "synthetic", "root": str(root), "preset": "tiny", "corrections": str(own)},
        {"name": "table", "root": str(tmp_path), "file": str(table)},
    ]
    other = tmp_path / "other.png"
    other.write_bytes(crops[first][0].read_bytes())
    table.write_text(f"path,pid,split\n{other},7,train\n")
    across = verdicts(tmp_path / "across.csv", ("../" * 40 + str(other)[1:], crops[first][1], SAME))
    found = load_dataset("joint", tmp_path, parts=parts, corrections=across)
    assert found.corrections[0].merged == ((first, second),)
    assert len(found.corrections) == 2
    assert {crop.pid for crop in found.train if crop.path in (other, *crops[second])} == {first}
    assert len(found.uncorrected) == sum(map(len, crops.values())) + 1
    plain = load_dataset("joint", tmp_path, parts=[{**parts[0], "corrections": None}, parts[1]])
    assert found.uncorrected == plain.train  # by the same pids, also of the other part


@pytest.mark.slow
def test_the_check_says_what_is_corrected(
    tiny_data: Path, tmp_path: Path, crops: dict[int, list[Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    root = tiny_data / "synthetic" / "day_tiny_0"
    paths = next(iter(crops.values()))
    file = verdicts(tmp_path / "v.csv", (paths[0].relative_to(root), paths[1].relative_to(root), WRONG_NAME))
    words = ["synthetic", "--root", str(root), "--option", "preset=tiny", "--option"]
    assert check([*words, f"corrections={file}"]) == 0
    assert "corrections: 0 identities merged, 1 crop left out" in capsys.readouterr().out
    assert check([*words, f"corrections={file}", "--json"]) == 0
    (applied,) = json.loads(capsys.readouterr().out)["corrections"]
    assert applied["left_out"][0][0] == str(paths[0])
    assert check([*words, f"corrections={tmp_path}/none.csv"]) == 2
    assert "No such file" in capsys.readouterr().err


@pytest.mark.usefixtures("tables")
def test_a_run_says_what_was_corrected_and_is_judged_without_the_file(
    run_command: Run, tiny_data: Path, tmp_path: Path, crops: dict[int, list[Path]]
) -> None:
    first, second, third = sorted(crops)[:3]
    file = verdicts(
        tmp_path / "verdicts.csv",
        (crops[first][0], crops[second][0], SAME),
        (crops[third][0], crops[third][1], DIFFERENT),
    )
    words = (*TINY, f"data.root={tiny_data}", f"data.store={tmp_path}/store", "epochs=1")
    trained = run_command("reid.train", *words, f"dataset.corrections={file}", home=tmp_path)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert "corrections: 2 identities merged into 1, 1 crop left out" in trained.stdout
    file.unlink()
    (model,) = tmp_path.glob("outputs/*/model.pt")
    judged = run_command("reid.evaluate", f"checkpoint={model}", "device=cpu", home=tmp_path)
    assert judged.returncode == 0, judged.stdout + judged.stderr
