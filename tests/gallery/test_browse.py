"""The page of `reid.browse`: who is answered, and each view in a real headless Chromium.

One server and one browser serve all tests of this file, so they leave no filter set; pictures of the views go
to tests/output/browse/.
"""

from __future__ import annotations

import asyncio
import csv
import http.client
import json
import os
import re
import shutil
import signal
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
import torch
from composing import settings_of
from conftest import TINY, Starter, with_resnet18
from PIL import Image
from running import Forked

from reid.data import silent
from reid.engine.checkpoint import Checkpoint, save_checkpoint
from reid.engine.describe import build_model, checkpoint_meta
from reid.engine.prepare import open_training_data, read_dataset
from reid.gallery import Facts, Index, Row
from reid.gallery.page import Guard
from reid.inference import load_model
from reid.judging.stored_threshold import StoredThreshold

pytestmark = pytest.mark.slow

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
PICTURES = Path(__file__).parents[1] / "output" / "browse"
PATIENCE_S = 60
#: What a name would do to a page that took it for markup.
HOSTILE = "<img src=x onerror=document.title='HACKED'>\"'&amp;"


# ---- the data, the models, the server


@dataclass
class Page:
    """A running `reid.browse`; `ask` sends one request to it, with the cookie unless told otherwise."""

    process: Forked
    port: int
    token: str
    cookie: str = ""

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str | None
    ) -> tuple[int, dict[str, str], bytes]:
        sent: dict[str, str | None] = {"Host": f"127.0.0.1:{self.port}", "Cookie": self.cookie}
        if method == "POST":
            sent["Origin"] = self.origin
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        connection.putrequest(method, path, skip_host=True)
        for name, value in sent.items():
            if value:
                connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        try:
            if body is not None:
                connection.send(body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the server has refused before it has read all
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()

    def json(self, path: str) -> Any:
        status, _, body = self.ask("GET", path)
        assert status == 200, body
        return json.loads(body)


@dataclass(frozen=True)
class Study:
    home: Path
    table: Path
    models: tuple[Path, Path]
    damaged: Path


@pytest.fixture(scope="module")
def study(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Drawn people in a table, some under names that are markup, and two networks that know nothing."""
    home = tmp_path_factory.mktemp("browse")
    drawn = tiny_data / "synthetic" / "day_tiny_0"
    rows = []
    folders = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
    for split, folder in folders.items():
        for number, source in enumerate(sorted((drawn / folder).glob("*.jpg"))):
            if source.name.startswith("-1"):
                continue
            pid, camid = int(source.name[:4]), int(source.name[6]) - 1
            if pid < 1:
                continue
            name = f"{source.stem}{HOSTILE if number % 7 == 0 else ''}.jpg"
            (home / split).mkdir(exist_ok=True)
            shutil.copy(source, home / split / name)
            rows.append((f"{split}/{name}", f"p{pid} {HOSTILE}" if pid % 5 == 0 else f"p{pid}", camid, split))
    with (home / "crops.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "pid", "camid", "split"), *rows])
    damaged = home / [path for path, *_, split in rows if split == "gallery"][-1]

    own = [word for word in with_resnet18(TINY) if not word.startswith("dataset")]
    own += ["dataset=table", f"dataset.file={home / 'crops.csv'}", f"data.store={home / 'store'}"]
    settings = settings_of(*own, f"data.root={home}")
    dataset, crops, _ = read_dataset(settings, silent)
    data = open_training_data(dataset, settings, silent, crops)
    models = []
    for seed in (0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = build_model(settings, len(data.pids))
        run = home / "outputs" / f"run{seed}"
        run.mkdir(parents=True)
        meta = checkpoint_meta(settings, data, model)
        save_checkpoint(run / "model.pt", Checkpoint(model.state_dict(), meta, {}))
        models.append(run / "model.pt")
    _store_threshold(models[0], [crop.path for crop in dataset.query[:6] + dataset.gallery[:30]])
    return Study(home, home / "crops.csv", (models[0], models[1]), damaged)


def _store_threshold(checkpoint: Path, images: list[Path]) -> None:
    """One that a dozen of the images nearest to a query are within."""
    model = load_model(checkpoint, "cpu")
    distances = model.distances(model.embed(images))
    value = float(distances.sort(dim=1).values[:, 12].median())
    threshold = StoredThreshold(
        value, "far_1e-2", protocol="cross_camera", dataset="crops", split="test", data_fingerprint="0",
        identities=9, genuine_pairs=9, impostor_pairs=9, far=0.01, far_interval=(0.0, 0.02), tar=0.5,
        tar_interval=(0.4, 0.6), **asdict(replace(model.space)),
    )  # fmt: skip
    meta = {**model.meta, "threshold": asdict(threshold)}
    save_checkpoint(checkpoint, Checkpoint(model.model.state_dict(), meta, {}))


@pytest.fixture(scope="module")
def start(study: Study, start_command: Starter) -> Iterator[Callable[..., Page]]:
    """Starts `reid.browse` with the first model against the second, and opens its address once."""
    running: list[Forked] = []

    def begin(*words: str) -> Page:
        process = start_command("reid.browse", *words, "--no-open", "--device", "cpu", home=study.home)
        running.append(process)
        printed = wait_until(
            lambda: re.search(r"http://127.0.0.1:(\d+)/\?token=(\S+)", _out(process)), "address"
        )
        page = Page(process, int(printed[1]), printed[2])
        status, headers, _ = wait_until(lambda: page.ask("GET", f"/?token={page.token}"), "an answer")
        assert (status, headers["location"]) == (303, "/")
        assert {"HttpOnly", "SameSite=strict"} <= set(headers["set-cookie"].split("; "))
        page.cookie = headers["set-cookie"].partition(";")[0]
        return page

    yield begin
    for process in running:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
            assert "the page is closed" in _out(process)


def _out(process: Forked) -> str:
    out, err = process._printed()
    assert process.poll() is None or "the page is closed" in out, out + err
    return out


@pytest.fixture(scope="module")
def page(start: Callable[..., Page], study: Study) -> Page:
    page = start(str(study.models[0]), "--against", str(study.models[1]))
    study.damaged.write_bytes(b"no picture any more")
    return page


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """The first true answer of a condition."""
    deadline, last = time.monotonic() + PATIENCE_S, None
    while time.monotonic() < deadline:
        try:
            if found := condition():
                return found
        except AssertionError:
            raise
        except Exception as error:
            last = error
        time.sleep(0.05)
    raise AssertionError(f"not within {PATIENCE_S} s: {what} ({last!r})")


# ---- who is answered


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/", {"Cookie": None}),
        ("GET", "/crop/0", {"Cookie": None}),
        ("GET", "/api/summary", {"Cookie": "reid-browse-1=x"}),
        ("GET", "/static/main.js", {"Cookie": None}),
        ("GET", "/?token=", {}),
        ("GET", "/?token=wrong", {}),
        ("GET", "/", {"Host": "evil.example"}),
        ("GET", "/", {"Host": "127.0.0.1:1"}),
        ("GET", "/", {"Host": "127.0.0.1"}),
        ("GET", "/crop/0", {"Sec_Fetch_Site": "cross-site"}),
        ("GET", "/crop/0", {"Sec_Fetch_Site": "same-site"}),
        ("POST", "/api/verdicts", {"Origin": None}),
        ("POST", "/api/verdicts", {"Origin": "null"}),
        ("POST", "/api/verdicts", {"Origin": "http://evil.example"}),
        ("POST", "/api/verdicts", {"Origin": "http://127.0.0.1:1"}),
        ("POST", "/api/verdicts", {"Sec_Fetch_Site": "same-site"}),
        ("POST", "/api/search", {"Cookie": None}),
        ("DELETE", "/crop/0", {}),
    ],
)
def test_a_stranger_is_refused(page: Page, method: str, path: str, headers: dict[str, str | None]) -> None:
    status, answered, body = page.ask(method, path, b"{}" if method == "POST" else None, **headers)
    assert status == 403
    assert answered["content-security-policy"].startswith("default-src 'self'; ")
    assert page.token.encode() not in body
    assert "set-cookie" not in answered


@pytest.mark.parametrize(
    "path",
    [
        "/static/../page.py", "/static/..%2fpage.py", "/static/%2e%2e/page.py", "/static/..\\page.py",
        "//etc/passwd", "/crop/../../../../etc/passwd", "/crop/..%2fetc%2fpasswd", "/crop/%2fetc%2fpasswd",
        "/crop/-1", "/crop/999999", "/crop/0?size=../x", "/activation/1e3", "/api/list/x", "/api/map/../x",
        "/api/suspects?where=/etc/passwd", "/docs", "/redoc", "/openapi.json", "/templates/index.html",
    ],
)  # fmt: skip
def test_no_path_of_a_request_is_opened(page: Page, path: str) -> None:
    with socket.create_connection(("127.0.0.1", page.port), timeout=PATIENCE_S) as plain:
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\nCookie: {page.cookie}\r\n"
        plain.sendall(f"{request}Connection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: plain.recv(65536), b""))
    assert answer.split(b" ", 2)[1] in (b"404", b"422"), answer
    assert b"root:" not in answer
    assert b"import" not in answer


def test_it_listens_to_this_machine_alone_and_prints_its_token_once(page: Page) -> None:
    listening = [one for one in psutil.Process(page.process.pid).net_connections() if one.status == "LISTEN"]
    assert [one.laddr.ip for one in listening] == ["127.0.0.1"]
    out, err = page.process._printed()
    assert (out + err).count(page.token) == 1
    status, headers, body = page.ask("GET", "/")
    assert status == 200
    assert page.token.encode() not in body
    assert b"<script>" not in body
    assert (headers["referrer-policy"], headers["x-content-type-options"]) == ("no-referrer", "nosniff")
    assert headers["cache-control"] == "no-store"
    assert "private" in page.ask("GET", "/crop/0")[1]["cache-control"]


def test_what_is_sent_is_capped_and_read_by_the_suites_opener(page: Page, study: Study) -> None:
    status, _, body = page.ask("POST", "/api/search", bytes(21 * 2**20))
    assert (status, b"too large" in body) == (413, True)
    assert page.ask("POST", "/api/verdicts", b" " * 2**17)[0] == 413
    status, _, body = page.ask("POST", "/api/search", b"<svg onload=alert(1)>")
    assert status == 422
    assert json.loads(body)["detail"] == "no image of a kind that PIL knows"
    assert page.ask("POST", "/api/search", b"")[0] == 422
    for wrong in (b"", b"[]", b'{"where": "x"}', b'{"where": "x", "pair": {}, "answer": 1}', b"[" * 60_000):
        assert page.ask("POST", "/api/verdicts", wrong)[0] == 400
    missing = b'{"where": "query and gallery", "pair": 100000, "answer": "confirm"}'
    assert page.ask("POST", "/api/verdicts", missing)[0] == 422


def test_a_damaged_original_is_a_placeholder_with_a_word(page: Page, study: Study) -> None:
    summary = page.json("/api/summary")
    crop = summary["queries"] + summary["gallery"] - 1
    status, headers, body = page.ask("GET", f"/crop/{crop}?size=large")
    assert (status, headers["content-type"]) == (200, "image/svg+xml")
    assert b"cannot" in body
    assert b"no image of a kind that PIL knows" in body
    assert headers["cache-control"] == "no-store"


# ---- what is answered


def test_lists_have_the_scores_of_the_evaluation(page: Page) -> None:
    summary = page.json("/api/summary")
    queries = page.json("/api/queries?count=500")["items"]
    assert len(queries) == summary["queries"]
    valid = [query["ap"] for query in queries if query["ap"] is not None]
    assert valid == sorted(valid)
    assert summary["models"][0]["scores"]["mAP"] == pytest.approx(sum(valid) / len(valid))
    for query in queries[:12]:
        first, second = page.json(f"/api/list/{query['crop']}?count=500")["lists"]
        assert first["ap"] == pytest.approx(query["ap"])
        assert second["ap"] == pytest.approx(query["other_ap"])
        assert first["first"] == query["first"]
        marks = [item["mark"] for item in first["items"]]
        assert marks.count("right") == first["matches"]
        assert {item["camera"] for item in first["items"] if item["mark"] == "junk"} <= {query["camera"]}
        distances = [item["distance"] for item in first["items"]]
        assert distances == sorted(distances)
        assert first["within"] == sum(distance <= first["threshold"] for distance in distances)


def test_training_crops_have_lists_and_doubts_too(page: Page) -> None:
    summary = page.json("/api/summary")
    assert summary["labels"] == ["query and gallery", "training crops"]
    crop = summary["queries"] + summary["gallery"]
    lists = page.json(f"/api/list/{crop}")["lists"]
    assert {item["mark"] for item in lists[0]["items"]} == {"wrong"}  # nobody is trained and tested on
    found = wait_until(
        lambda: (answer := page.json("/api/suspects?where=training%20crops"))["ready"] and answer, "doubts"
    )
    assert found["items"]
    assert all(item[side]["crop"] >= crop for item in found["items"] for side in ("first", "second"))


def test_a_ticket_counts_once() -> None:
    """The address that a browser is started with stands in the list of processes."""

    async def nothing(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("nobody was let through")

    def status(token: str) -> int:
        scope = {
            "type": "http", "method": "GET", "path": "/", "query_string": f"token={token}".encode(),
            "headers": [(b"host", b"127.0.0.1:80")],
        }  # fmt: skip
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        asyncio.run(guard(scope, None, send))  # type: ignore[arg-type]
        return int(sent[0]["status"])

    guard = Guard(nothing, 80)
    ticket = guard.ticket()
    assert [status(ticket), status(ticket), status(guard.token), status(guard.token)] == [303, 403, 303, 303]


def test_filters_leave_what_they_say(page: Page) -> None:
    everything = page.json("/api/queries?count=500")["items"]
    low = page.json("/api/queries?count=500&low=0.1&high=0.4")["items"]
    assert [one["crop"] for one in low] == [
        one["crop"] for one in everything if 0.1 <= (one["ap"] or -1) <= 0.4
    ]
    camera = page.json("/api/queries?count=500&camera=1")["items"]
    assert {one["camera"] for one in camera} == {2}
    pairs = {(pair["camera"], pair["other"]): pair for pair in page.json("/api/summary")["pairs"]}
    (own, other), pair = next(iter(pairs.items()))
    of_pair = page.json(f"/api/queries?count=500&camera={own}&other={other}")["items"]
    assert len(of_pair) == pair["queries"]
    assert sum(one["ap"] for one in of_pair) / len(of_pair) == pytest.approx(pair["ap"])
    for kind, number in page.json("/api/summary")["kinds"].items():
        found = page.json(f"/api/queries?count=500&kind={kind.replace(' ', '%20')}")["items"]
        assert len(found) == number
    name = everything[0]["pid"]
    of_person = page.json(f"/api/queries?count=500&text={quote(f'ID {name}')}")["items"]
    assert of_person
    assert {one["pid"] for one in of_person} == {name}
    change = [
        one["ap"] - one["other_ap"] for one in page.json("/api/queries?count=500&order=gained")["items"]
    ]
    assert change == sorted(change, reverse=True)
    compared = page.json("/api/summary")["comparison"]
    assert compared["better"] + compared["worse"] + compared["equal"] == len(change)
    assert compared["mean"] == pytest.approx(sum(change) / len(change))
    assert compared["winners"][0]["change"] == pytest.approx(change[0])


# ---- the views


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if not (CHROMIUM.exists() and DRIVER.exists()):
        missing = (
            f"REID.BROWSE WAS NOT LOOKED AT: no {CHROMIUM} or {DRIVER} (apt-get install chromium-driver)"
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
        f"disable-component-update disable-sync window-size=1280,940 "
        f"user-data-dir={tmp_path_factory.mktemp('profile')}"
    ).split():
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    driver.set_page_load_timeout(PATIENCE_S)
    PICTURES.mkdir(parents=True, exist_ok=True)
    yield driver
    driver.quit()


class Screen:
    """The page in the browser."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser

    def open(self, page: Page) -> None:
        self.browser.get(f"{page.origin}/?token={page.token}")
        assert self.browser.current_url.startswith(f"{page.origin}/")
        assert "token" not in self.browser.current_url
        wait_until(lambda: self.run("return document.body.dataset.ready"), "the page is ready")
        self.first(".hit")

    def run(self, script: str) -> Any:
        return self.browser.execute_script(script)

    def all(self, css: str) -> list[Any]:
        return [one for one in self.browser.find_elements("css selector", css) if one.is_displayed()]

    def first(self, css: str) -> Any:
        return wait_until(lambda: self.all(css), css)[0]

    def press(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.browser).send_keys(*keys).perform()

    def set(self, name: str, value: str) -> None:
        """Set a filter as a user's change of it does."""
        self.run(
            f"const one = document.querySelector('#queries [name={name}]'); one.value = {json.dumps(value)};"
            "one.dispatchEvent(new Event('input', {bubbles: true}))"
        )

    def total(self, number: int) -> None:
        css = "#queries .total"
        found = f"return document.querySelector('{css}').dataset.total"
        wait_until(lambda: self.run(found) == str(number), f"{number} queries")

    def shown(self) -> int:
        return int(
            self.run("return document.querySelector('#detail #query-picture').src.match(/crop.(\\d+)/)[1]")
        )

    def picture(self, name: str) -> None:
        self.browser.save_screenshot(str(PICTURES / f"{name}.png"))


@pytest.fixture
def screen(browser: Any, page: Page) -> Iterator[Screen]:
    screen = Screen(browser)
    screen.open(page)
    yield screen
    wrong = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    assert wrong == [], wrong
    assert "HACKED" not in browser.title


def test_the_worst_queries_are_walked_through_and_filtered(screen: Screen, page: Page) -> None:
    queries = page.json("/api/queries?count=500")["items"]
    assert screen.shown() == queries[0]["crop"]
    screen.press("j", "j")
    wait_until(lambda: screen.shown() == queries[2]["crop"], "the third query")
    screen.press("k")
    wait_until(lambda: screen.shown() == queries[1]["crop"], "the second query")
    screen.picture("queries")

    hostile = [query for query in queries if "HACKED" in query["name"] + query["pid"]]
    screen.press("/", "hacked")
    screen.total(len(hostile))
    assert HOSTILE in screen.first(".card").get_attribute("title")
    from selenium.webdriver.common.keys import Keys

    screen.press(Keys.ESCAPE)
    screen.set("text", "")
    screen.total(len(queries))
    for name, value, number in (
        ("camera", "1", len([one for one in queries if one["camera"] == 2])),
        ("high", "25", len([one for one in queries if (one["ap"] or 9) <= 0.25])),
        ("kind", queries[0]["kind"], len([one for one in queries if one["kind"] == queries[0]["kind"]])),
    ):
        screen.set(name, value)
        screen.total(number)
        screen.first("#clear").click()
        screen.total(len(queries))
    screen.first(".pairs summary").click()
    pair = page.json("/api/summary")["pairs"][0]
    screen.first(".pairs td button").click()
    screen.total(pair["queries"])


def test_a_list_shows_right_wrong_junk_and_the_threshold_of_two_models(screen: Screen, page: Page) -> None:
    queries = page.json("/api/queries?count=500")["items"]
    lists = {one["crop"]: page.json(f"/api/list/{one['crop']}")["lists"] for one in queries}
    crop = next(
        crop
        for crop, (first, _) in lists.items()
        if {"right", "wrong", "junk"} <= {item["mark"] for item in first["items"]}
        and 0 < first["within"] < len(first["items"])
    )
    screen.run(f"location.hash = '#queries/{crop}'")
    wait_until(lambda: screen.shown() == crop, "its list")
    assert len(screen.all(".list")) == 2
    borders = {
        mark: screen.run(
            f"const hit = document.querySelector('.hit.{mark}');"
            "const style = getComputedStyle(hit.querySelector('img'));"
            "return [style.borderTopColor, style.borderTopStyle, hit.querySelector('.sign').textContent]"
        )
        for mark in ("right", "wrong", "junk")
    }
    for part in range(3):  # by colour, by line and by sign
        assert len({border[part] for border in borders.values()}) == 3, borders
    order = [
        "threshold" if "threshold" in one.get_attribute("class") else "hit"
        for one in screen.all(".list[data-model='0'] .hits > *")
    ]
    assert order.index("threshold") == lists[crop][0]["within"]
    assert f"first right at {lists[crop][0]['first']}" in screen.first(".list .scores").text
    assert "points of mAP" in screen.first(".comparison").text
    screen.press("a")
    wait_until(
        lambda: screen.run("return document.querySelector('.activation')?.naturalWidth"), "activation map"
    )
    screen.picture("list")
    screen.press("o")
    screen.first("#original img")
    # What a dialog has covered takes the focus again from the next frame on.
    screen.run(
        "document.querySelector('#original').close();"
        "return new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )
    # Into the list by the keyboard: the second hit's own list opens.
    from selenium.webdriver.common.keys import Keys

    hits = [item["crop"] for item in lists[crop][0]["items"]]
    focused = "return document.activeElement.dataset.crop"
    screen.press(Keys.ENTER)
    wait_until(lambda: screen.run(focused) == str(hits[0]), "the focus on the first hit")
    screen.press(Keys.ARROW_RIGHT)
    wait_until(lambda: screen.run(focused) == str(hits[1]), "the focus on the second hit")
    screen.press(Keys.ENTER)
    wait_until(lambda: screen.shown() == hits[1], "the hit's own list")
    screen.press("?")
    assert "activation map" in screen.first("#keys").text
    screen.picture("keys")
    screen.press(Keys.ESCAPE)
    screen.first("#about").click()
    assert "Not meant for" in screen.first("#cards").text


def test_the_map_leads_to_the_list_and_back(screen: Screen) -> None:
    crop = screen.shown()
    screen.press("m")
    method = "return document.querySelector('#map .total').dataset.method"
    wait_until(lambda: screen.run(method) == "pca", "the map by PCA")
    screen.picture("map")
    from selenium.webdriver.common.action_chains import ActionChains

    canvas = screen.first("canvas")
    left, top = screen.run(
        "const box = document.querySelector('canvas').getBoundingClientRect();"
        "return fetch('/api/map/pca').then(one => one.json()).then(map => {"
        f"const number = map.crops.indexOf({crop}) ? 0 : 1;"
        "return [(map.x[number] - 0.5) * (box.width - 40), (map.y[number] - 0.5) * (box.height - 40)] })"
    )
    ActionChains(screen.browser).move_to_element_with_offset(
        canvas, round(left), round(top)
    ).click().perform()
    wait_until(lambda: screen.shown() != crop, "the list of the point")
    screen.first("input[value=tsne]").click()
    wait_until(lambda: screen.run(method) == "tsne", "the map by t-SNE")
    screen.picture("tsne")


def test_a_picture_that_is_dropped_in_is_searched_for(screen: Screen, study: Study, tmp_path: Path) -> None:
    screen.press("4")
    source = next(path for path in sorted((study.home / "gallery").iterdir()) if path != study.damaged)
    with Image.open(source) as image:
        image.save(tmp_path / "mine.png")
    screen.first("#picture").send_keys(str(tmp_path / "mine.png"))
    nearest = screen.first(".hit")
    assert source.name in nearest.get_attribute("title")
    assert "within the threshold" in screen.first("#search .total").text
    screen.picture("search")
    (tmp_path / "none.png").write_bytes(b"no picture")
    screen.first("#picture").send_keys(str(tmp_path / "none.png"))
    wait_until(lambda: "no image of a kind" in screen.first("#search .total").text, "the reason")
    screen.browser.get_log("browser")  # the refusal is in it


def test_verdicts_survive_a_kill(
    screen: Screen, page: Page, start: Callable[..., Page], study: Study
) -> None:
    screen.press("3")
    rows = wait_until(lambda: screen.all("#labels .row"), "doubted labels")
    assert len(rows) >= 3
    # Twice before the first is answered: it is the same pair, and the next one stays to be looked at.
    key = "document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'c', bubbles: true}));"
    screen.run(key + key)
    wait_until(lambda: screen.all("#labels .row")[0].get_attribute("data-state") == "confirmed", "confirmed")
    screen.first("#reject").click()
    wait_until(lambda: screen.all("#labels .row")[1].get_attribute("data-state") == "rejected", "rejected")
    screen.press("c")
    wait_until(lambda: screen.all("#labels .row")[2].get_attribute("data-state") == "confirmed", "confirmed")
    screen.press("k", "u")
    wait_until(lambda: screen.all("#labels .row")[2].get_attribute("data-state") == "", "undone")
    screen.picture("labels")
    (file,) = (study.home / "outputs" / "corrections").glob("*.csv")
    with file.open(newline="") as handle:
        kept = list(csv.DictReader(handle))
    assert [row["verdict"] == "labels right" for row in kept] == [False, False, True, False, False]
    assert kept[0]["path"] == kept[1]["path"]
    assert all((study.home / row["path"]).is_file() for row in kept)

    os.kill(page.process.pid, signal.SIGKILL)
    page.process.wait(30)
    again = start(str(study.models[0]))
    screen.browser.get_log("browser")
    screen.open(again)
    screen.press("3")
    wait_until(lambda: screen.all("#labels .row"), "doubted labels")
    assert [row.get_attribute("data-state") for row in screen.all("#labels .row")[:3]] == [
        "confirmed", "rejected", "",
    ]  # fmt: skip
    assert "1 confirmed, 1 rejected" in screen.first("#labels .total").text


def test_an_index_is_opened_with_and_without_its_model(start: Callable[..., Page], study: Study) -> None:
    model = load_model(study.models[0], "cpu")
    images = sorted(path for path in (study.home / "train").iterdir() if path.suffix == ".jpg")[:24]
    facts = Facts.of(model.model.state_dict(), model.model.embedding_size, model.meta, model.space, None)
    index = Index.create(study.home / "index", facts, checkpoint=str(study.models[0]))
    rows = [Row(image, pid=1 + number // 4, camid=number % 2) for number, image in enumerate(images[:16])]
    rows += [Row(image, name="somebody") for image in images[16:20]] + [Row(image) for image in images[20:]]
    index.add(model.embed(images).numpy(), rows)

    page = start("--gallery", str(study.home / "index"))
    summary = page.json("/api/summary")
    assert (summary["judged"], summary["queries"], summary["gallery"]) == (False, 24, 24)
    assert [one["name"] for one in page.json("/api/queries")["items"]] == [image.name for image in images]
    (found,) = page.json("/api/list/3?count=500")["lists"]
    marks = {item["crop"]: item["mark"] for item in found["items"]}
    assert [marks[crop] for crop in (0, 5, 17, 22)] == ["right", "wrong", "wrong", "unknown"]
    assert page.json("/api/list/17")["query"]["pid"] == "somebody"
    assert page.json("/api/queries?text=somebody")["total"] == 4
    distances = model.distances(model.embed(images))[3]
    assert [item["crop"] for item in found["items"]] == [
        crop for crop in distances.argsort(stable=True).tolist() if crop != 3
    ]
    status, _, body = page.ask("POST", "/api/search", images[5].read_bytes())
    assert (status, json.loads(body)["lists"][0]["items"][0]["crop"]) == (200, 5)
    assert page.json("/api/map/pca")["ready"] in (True, False)
    assert page.ask("GET", "/activation/2")[1]["content-type"] == "image/jpeg"
