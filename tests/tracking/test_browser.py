"""The MLflow UI as a user sees it, in a real headless Chromium; pictures go to tests/output/ui/."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from reid.tracking import Store, Tracker, all_runs, default_store, figure_markdown, open_parent, prepare_views
from reid.tracking.ui_view import view_state

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "tests" / "output" / "ui"
ALPHAS = (1.0, 1.2, 1.4, 2.0)
#: For a condition on a page; a busy machine takes tens of seconds to load one.
PATIENCE_S = 180


@dataclass(frozen=True)
class Study:
    home: Path
    store: Store
    parent: str


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, template_db: Path) -> Study:
    """A sweep of four jobs with curves, a table and a figure."""
    home = tmp_path_factory.mktemp("home")
    shutil.copy(template_db, home / "mlflow.db")
    store = default_store(home, f"sqlite:///{home / 'mlflow.db'}")
    sweep, split = home / "multirun" / "s", {"reid.score_split": "val"}
    tags = {**split, "reid.swept": "loss.alpha"}
    with open_parent(store, "tune_alpha", sweep, "sweep of loss.alpha", tags=tags) as parent:
        for job, alpha in enumerate(ALPHAS):
            params = {"loss.alpha": alpha, "loss.margin": 1.3, "backbone.name": "resnet18", "epochs": 3}
            name = f"loss.alpha={alpha}"
            with Tracker.start(
                store, "tune_alpha", sweep / str(job), name, tags=split, params=params, parent=sweep
            ) as run:
                for epoch in (1, 2, 3):
                    scores = {"val/mAP": epoch / 10 + alpha / 50, "val/rank-1": epoch / 8 + alpha / 50}
                    run.metrics({"train/loss": 2 / epoch + alpha / 10, **scores}, epoch)
        figure = Figure(figsize=(4, 2))
        figure.add_subplot().plot(ALPHAS, ALPHAS)
        figure.savefig(sweep / "sweep.png")
        parent.artifact(sweep / "sweep.png", "figures")
        table = "| loss.alpha | mAP on val |\n|---|---|\n| 2.0 | 34.0 |"
        drawn = figure_markdown(str(parent.run_id), "figures/sweep.png", "mAP by alpha")
        parent.description(f"{table}\n\n{drawn}")
    return Study(home, store, str(parent.run_id))


@pytest.mark.slow
def test_columns_and_charts_name_what_was_swept_and_scored(study: Study) -> None:
    state = view_state(all_runs(study.store))
    assert state["selectedColumns"] == [
        "params.`loss.alpha`",
        "metrics.`val/mAP`",
        "metrics.`val/rank-1`",
    ]
    assert [(chart["type"], chart.get("metricKey")) for chart in state["compareRunCharts"]] == [
        ("PARALLEL", None),
        ("LINE", "val/mAP"),
        ("LINE", "val/rank-1"),
        ("LINE", "train/loss"),
    ]


def test_a_figures_address_is_quoted() -> None:
    drawn = figure_markdown("f" * 32, "figures/a b&c.png", "t")
    assert drawn == f"![t](get-artifact?path=figures%2Fa%20b%26c.png&run_uuid={'f' * 32})"


@pytest.mark.slow
def test_the_experiment_says_how_to_read_it_unless_somebody_wrote_there(study: Study) -> None:
    def noted() -> Any:
        experiment = study.store.client.get_experiment_by_name("tune_alpha")
        assert experiment is not None
        return experiment.tags["mlflow.note.content"], experiment.experiment_id

    prepare_views(study.store)
    note, experiment_id = noted()
    assert "Compare" in note
    study.store.client.set_experiment_tag(experiment_id, "mlflow.note.content", "our study of alpha")
    prepare_views(study.store)
    assert noted()[0] == "our study of alpha"


@pytest.fixture(scope="module")
def address(study: Study) -> Iterator[str]:
    """The UI on the study's store, started by the project's own command."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "reid.ui", "--port", str(port)]
    own = {"REID_HOME": str(study.home), "PYTHONPATH": str(ROOT)}
    environment = {**{k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}, **own}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(url) or server.poll() is not None, "the UI answers")
        assert server.poll() is None, "reid.ui ended at once"
        yield url
    finally:
        server.terminate()
        printed, _ = server.communicate(timeout=60)
    assert f"tune_alpha: {url}/#/experiments/" in printed


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if not (CHROMIUM.exists() and DRIVER.exists()):
        missing = (
            f"THE MLFLOW UI WAS NOT LOOKED AT: no {CHROMIUM} or {DRIVER} (apt-get install chromium-driver)"
        )
        if os.environ.get("REID_NEEDS_BROWSER") == "1":
            pytest.fail(missing)
        warnings.warn(missing, stacklevel=1)  # stands in the summary, which a reason for skipping does not
        pytest.skip(missing)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (
        "headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
        f"disable-component-update disable-sync window-size=1700,1100 "
        f"user-data-dir={tmp_path_factory.mktemp('profile')}"
    ).split():
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    driver.set_page_load_timeout(PATIENCE_S)
    PICTURES.mkdir(parents=True, exist_ok=True)
    yield driver
    driver.quit()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """The first true answer of a condition; elements of a page that is still changing may vanish under it."""
    deadline, last = time.monotonic() + PATIENCE_S, None
    while time.monotonic() < deadline:
        try:
            if found := condition():
                return found
        except Exception as error:
            last = error
        time.sleep(0.2)
    raise AssertionError(f"not within {PATIENCE_S} s: {what} ({last})")


def elements(browser: Any, css: str, text: str = "") -> list[Any]:
    return [each for each in browser.find_elements("css selector", css) if text in each.text]


def see(browser: Any, css: str, text: str = "") -> Any:
    return wait_until(lambda: elements(browser, css, text), f"{css} with {text!r}")[0]


def click(browser: Any, css: str, text: str = "") -> None:
    def once() -> bool:
        elements(browser, css, text)[0].click()
        return True

    wait_until(once, f"a click on {css} with {text!r}")


@pytest.mark.slow
def test_a_user_finds_sweep_children_comparison_and_curves(study: Study, browser: Any, address: str) -> None:
    view = prepare_views(study.store)[0]
    assert view.experiment == "tune_alpha"
    browser.get(f"{address}{view.path}")

    # The sweep stands for its four jobs, and opens.
    see(browser, ".ag-row", "sweep of loss.alpha")
    headers = [each.text for each in elements(browser, ".ag-header-cell")]
    order = [headers.index(name) for name in ("Run Name", "loss.alpha", "val/mAP", "val/rank-1")]
    assert order == sorted(order)
    assert not elements(browser, ".ag-row", "loss.alpha=")
    click(browser, "[data-component-id*=runnamecellrenderer]")
    names = [f"loss.alpha={alpha}" for alpha in ALPHAS]
    for name in names:
        see(browser, ".ag-row", name)
    browser.save_screenshot(str(PICTURES / "experiment.png"))

    # Its jobs side by side: the classic comparison.
    for name in names:
        row = see(browser, ".ag-row", name).get_attribute("row-id")
        click(browser, f".ag-row[row-id='{row}'] .ag-checkbox-input")
    click(browser, "[data-testid=runs-compare-button]")
    see(browser, "body", "Comparing 4 Runs")
    wait_until(lambda: "loss.alpha" in see(browser, ".parcoords").text, "parallel coordinates with the key")
    browser.save_screenshot(str(PICTURES / "compare.png"))

    # The charts that the view registers: parallel coordinates, and a curve for each job.
    browser.get(f"{address}{view.path}&compareRunsMode=CHART")
    click(browser, "[data-component-id*=runnamecellrenderer]")  # charts show the runs that the list shows
    wait_until(lambda: len(elements(browser, ".scatterlayer .trace")) >= len(ALPHAS), "metric curves")
    # Ours are open; MLflow's own charts, one a metric, are closed.
    sections = wait_until(
        lambda: {
            each.text.split("(")[0].strip(): each.get_attribute("aria-expanded")
            for each in elements(
                browser, "[data-testid=experiment-view-compare-runs-chart-area] [aria-expanded]"
            )
            if each.text.strip()
        },
        "sections of charts",
    )
    assert {name: opened for name, opened in sections.items() if name in ("reid", "train", "val")} == {
        "reid": "true", "train": "false", "val": "false",
    }  # fmt: skip
    browser.save_screenshot(str(PICTURES / "charts.png"))

    # The description of the sweep, with its table and its figure.
    experiment = view.path.partition("/runs")[0]
    browser.get(f"{address}{experiment}/runs/{study.parent}")
    see(browser, "table td", "34.0")
    click(browser, "button", "Show more")
    # MLflow drops the text that stands for a picture.
    width = "return document.querySelector('img[src*=\"sweep.png\"]').naturalWidth"
    assert wait_until(lambda: browser.execute_script(width), "the figure is loaded") == 400
    browser.save_screenshot(str(PICTURES / "sweep.png"))


@pytest.mark.slow
def test_the_page_learns_that_no_usage_data_are_collected(browser: Any, address: str) -> None:
    """Its banner on usage data comes all the same: it stands in the page itself."""
    with urllib.request.urlopen(f"{address}/ajax-api/3.0/mlflow/ui-telemetry", timeout=60) as answer:
        assert json.load(answer)["disable_ui_telemetry"] is True
