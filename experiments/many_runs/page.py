"""How long the MLflow UI takes to show an experiment: in a headless Chromium, as a user sees it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
_PATIENCE_S = 180.0
#: A row of the table of runs.
_ROW = ".ag-row"


def can_look() -> bool:
    """Whether there is a browser here."""
    return CHROMIUM.exists() and DRIVER.exists()


def seconds_to_rows(
    uri: str, name: str, password: str, experiment: str, profile: Path
) -> tuple[float, float]:
    """Seconds until the table of an experiment has rows: at the first visit, and at the next one.

    experiment: its id. Raises TimeoutError where none come.
    """
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (
        "headless=new no-sandbox disable-gpu no-first-run disable-background-networking "
        f"disable-component-update disable-sync window-size=1700,1100 user-data-dir={profile}"
    ).split():
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    try:
        driver.set_page_load_timeout(_PATIENCE_S)
        parts = urlsplit(uri)
        # Asked for them Chromium remembers both; a page whose own address holds them could fetch nothing.
        driver.get(f"{parts.scheme}://{name}:{password}@{parts.netloc}/")
        driver.get("about:blank")
        address = f"{uri}/#/experiments/{experiment}/runs?workflowType=machine_learning"
        first = _until_rows(driver, address)
        driver.get("about:blank")
        return first, _until_rows(driver, address)
    finally:
        driver.quit()


def _until_rows(driver: Any, address: str) -> float:
    started = time.monotonic()
    driver.get(address)
    while not driver.find_elements("css selector", _ROW):
        if time.monotonic() - started > _PATIENCE_S:
            raise TimeoutError(f"{address} shows no run within {_PATIENCE_S:.0f} s")
        time.sleep(0.05)
    return time.monotonic() - started
