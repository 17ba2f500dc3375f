"""Every fixture of an older version, read by every command that takes what lies in it.

What goes on from the fixture of d063546 stands in `test_older_runs.py`; one that `fixtures/older_runs.py`
made says itself how its killed runs are gone on with.
"""

import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

Run = Callable[..., "subprocess.CompletedProcess[str]"]

FIXTURES = sorted(path.parent for path in (Path(__file__).parent / "fixtures").glob("*/expected.json"))
EXPECTED: dict[str, dict[str, Any]] = {
    place.name: json.loads((place / "expected.json").read_text()) for place in FIXTURES
}
WITH_INDEX = [name for name, expected in EXPECTED.items() if "index" in expected]
WITH_WORDS = [name for name, expected in EXPECTED.items() if "words" in expected]
#: What is typed; {run}, {id}, {sweep}, {crops}, {a}, {b}, {out} are filled in.
COMMANDS = {
    "evaluate a folder": "reid.evaluate checkpoint={run} device=cpu hydra.run.dir={out}/judged",
    "evaluate a tracked run": "reid.evaluate checkpoint={id} device=cpu hydra.run.dir={out}/judged_id",
    "threshold": "reid.threshold checkpoint={run} device=cpu replicates=20 output={out}/with.pt "
    "hydra.run.dir={out}/measured",
    "compare": "reid.compare {a} {b} --checkpoint {run} --device cpu",
    "extract": "reid.extract {crops} -o {out}/features.csv --checkpoint {run} --device cpu",
    "index": "reid.index {crops} -o {out}/gallery --checkpoint {id} --device cpu",
    "profile": "reid.profile {run} --batch 1 --device cpu",
    "list runs": "reid.runs list --json",
    "show a run": "reid.runs show {id} --json",
    "report": "reid.report runs={sweep}",
    "list stores": "reid.data.stores list --store {home}/data/.store --json",
    "its config": "reid.train --config-path {run} --config-name config_resolved --cfg job",
}  # fmt: skip


@pytest.fixture(autouse=True)
def old_place() -> Iterator[None]:
    """No command makes an old home again."""
    for expected in EXPECTED.values():
        assert not Path(expected["home"]).exists(), "left by a test that failed here: delete it"
    yield
    for expected in EXPECTED.values():
        assert not Path(expected["home"]).exists()


def unpack(name: str, home: Path) -> Path:
    with tarfile.open(Path(__file__).parent / "fixtures" / name / "home.tar.xz") as archive:
        archive.extractall(home, filter="data")
    return home


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each home at a place where it was not before."""
    return {name: unpack(name, tmp_path_factory.mktemp("moved") / name) for name in EXPECTED}


@pytest.mark.parametrize("what", COMMANDS)
@pytest.mark.parametrize("name", EXPECTED)
def test_a_command_reads_it(
    name: str, what: str, homes: dict[str, Path], run_command: Run, tmp_path: Path
) -> None:
    home, expected = homes[name], EXPECTED[name]
    query = next(path for path in sorted((home / "data").rglob("query")) if path.is_dir())
    first, second = sorted(query.glob("*.jpg"))[:2]
    places = {
        "run": home / expected["finished"]["folder"], "id": expected["finished"]["run_id"], "home": home,
        "sweep": home / expected["sweep"]["folder"], "crops": query, "a": first, "b": second, "out": tmp_path,
    }  # fmt: skip
    done = run_command(*(word.format(**places) for word in COMMANDS[what].split()), home=home)
    # A cell of its sweep was killed, which the report says with its exit code.
    assert done.returncode == (1 if what == "report" else 0), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    scores = expected["finished"]["scores"]
    if what.startswith("evaluate"):
        (judged,) = tmp_path.glob("judged*/scores.json")
        found = json.loads(judged.read_text())["scores"]
        assert found["test/mAP"] == pytest.approx(scores["test/mAP"], abs=0.01)
    if what == "list runs":
        rows = {row["run_id"]: row for row in json.loads(done.stdout)}
        assert rows[expected["finished"]["run_id"]]["mAP"] == pytest.approx(scores["test/mAP"])
    if what == "report":
        assert f"{100 * expected['cell_0']['scores']['test/mAP']:.1f}" in done.stdout


@pytest.mark.parametrize("name", WITH_INDEX)
def test_its_index_finds_what_it_found(name: str, homes: dict[str, Path], run_command: Run) -> None:
    home, index = homes[name], EXPECTED[name]["index"]
    folder = home / index["folder"]
    words = [str(home / index["query"]), "--gallery", str(folder), "--json", "--device", "cpu"]
    done = run_command("reid.search", *words, home=home)
    assert done.returncode == 0, done.stdout + done.stderr
    assert hits(json.loads(done.stdout)) == hits(index["found"])


def hits(found: Any) -> list[tuple[str, float]]:
    """The names of the images found, nearest first, with their distances to two digits."""
    return [(Path(hit["path"]).name, round(hit["distance"], 2)) for hit in found["queries"][0]["hits"]]


@pytest.mark.parametrize("what", ["killed", "sweep"])
@pytest.mark.parametrize("name", WITH_WORDS)
def test_what_was_killed_goes_on(name: str, what: str, run_command: Run, tmp_path: Path) -> None:
    home, expected = unpack(name, tmp_path / "home"), EXPECTED[name]
    more = ["resume=auto"] if what == "killed" else ["sweep.take=any_code"]
    done = run_command("reid.train", *expected["words"][what], *more, home=home)
    assert done.returncode == 0, done.stdout + done.stderr
    run = expected["killed" if what == "killed" else "cell_1"]
    told = json.loads((home / run["folder"] / "status.json").read_text())
    assert told["status"] == "FINISHED"
    assert (told["run_id"], told["config_hash"]) == (run["run_id"], run["config_hash"])
    assert told["scores"]["test/mAP"] == pytest.approx(run["scores"]["test/mAP"], abs=0.03)
    if what == "sweep":
        assert "loss.margin=1.1: finished already" in done.stdout
    shutil.rmtree(home)
