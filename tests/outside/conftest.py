"""What is tested against other programs, or takes minutes: `make test-outside` alone runs it.

Every test of this folder carries the mark `outside`, and is left out unless `-m outside` asks for it. A test
that cannot run, such as one without the trackers' wheels, says so and is skipped; `--skips-fail`, which the
make target gives, calls that a failure. What was seen goes to `results/log.txt` there, without a path of the
machine.
"""

import platform
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from outside.slurm import Slurm, missing, slurm

if TYPE_CHECKING:
    from outside.sweeps_on_slurm import Note

    from experiments.faults.verdict import Numbers
    from reid.sweeps.slurm import Submission

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LOG = HERE / "results" / "log.txt"
STARTED = pytest.StashKey[float]()
#: The versions of these are part of what was seen.
PACKAGES = ("torch", "torchvision", "timm", "onnx", "onnxruntime", "mlflow", "numpy", "pillow")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--skips-fail", action="store_true", help="tests/outside: a skipped test has failed")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[STARTED] = time.time()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what lies in this folder, and leave it out where the marks asked for do not name it."""
    ours = [item for item in items if item.path.is_relative_to(HERE)]
    for item in ours:
        item.add_marker(pytest.mark.outside)
        item.add_marker(pytest.mark.slow)  # or each would be named at the end
    if ours and "outside" not in config.option.markexpr:
        config.hook.pytest_deselected(items=ours)
        items[:] = [item for item in items if not item.path.is_relative_to(HERE)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and item.config.getoption("skips_fail", False):
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{why}: in make test-outside a skip is a failure"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Write the log of a whole run, which `make test-outside` asks for."""
    if not config.getoption("skips_fail", False):
        return
    lines = [
        f"make test-outside, {datetime.now(UTC):%Y-%m-%d}: {_counts(terminalreporter)} in "
        f"{time.time() - config.stash[STARTED]:.0f} s",
        f"Python {platform.python_version()} on {platform.system()} {platform.machine()}; "
        + ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        "",
    ]
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            if report.when == "call" or outcome == "error" or report.failed:
                seen = "; ".join(f"{name} {value}" for name, value in report.user_properties)
                lines.append(
                    f"{outcome} {report.duration:6.1f} s  {report.nodeid}{': ' if seen else ''}{seen}"
                )
                if report.failed:
                    lines += [f"    {line}" for line in _last_lines(report)]
    LOG.parent.mkdir(exist_ok=True)
    LOG.write_text("\n".join(lines) + "\n")


def _counts(reporter: pytest.TerminalReporter) -> str:
    found = {name: len(reporter.stats.get(name, [])) for name in ("passed", "failed", "error", "xfailed")}
    return ", ".join(f"{count} {name}" for name, count in found.items() if count)


def _last_lines(report: pytest.TestReport) -> list[str]:
    """Why a test failed, in a few lines that name no place of this machine."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = str(crash.message if crash else report.longrepr)
    for place, name in ((ROOT, "."), (Path.home(), "~")):
        text = text.replace(str(place), name)
    return text.splitlines()[-6:]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Slurm]:
    """A Slurm of one node."""
    if absent := missing():
        pytest.skip(f"SLURM IS NOT TESTED: {', '.join(absent)} not found (apt install slurm-wlm munge)")
    with slurm() as own:
        yield own


@pytest.fixture(scope="session")
def local(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> "dict[str, Numbers]":
    """The numbers of six cells as a sweep on this machine gives them."""
    from outside.sweeps_on_slurm import Command, six  # brings MLflow, which collecting has no use for

    command = Command(tmp_path_factory.mktemp("local"), six(tiny_data), None)
    assert command.run() == 0, command.printed
    numbers = command.numbers()
    assert len(numbers) == 6
    return numbers


@pytest.fixture
def noted(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> "Note":
    """Notes jobs of Slurm's for the log of `make test-outside`, and for the page for a cluster."""
    from outside.sweeps_on_slurm import write_table

    def note(scene: str, cluster: Slurm, jobs: "Sequence[Submission]", counts: tuple[int, int]) -> None:
        record_property("jobs", " ".join(f"{one.job} {one.state}" for one in jobs))
        record_property("finished", f"{counts[0]} of {counts[1]}")
        if request.config.getoption("skips_fail", False):
            write_table(scene, cluster, jobs, counts)

    return note
