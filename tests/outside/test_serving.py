"""The model of a run served by MLflow itself on loopback: `mlflow models serve --env-manager local`."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, TINY, Runner, environment

from reid.data import load_dataset
from reid.inference import load_model

#: Seconds for the server to answer.
STARTED = 180


@pytest.fixture(scope="module")
def home(tiny_data: Path, run_command: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one finished run."""
    home = tmp_path_factory.mktemp("served")
    done = run_command("reid.train", *TINY, f"data.root={tiny_data}", "epochs=1", home=home)
    assert done.returncode == 0, done.stderr
    return home


@pytest.fixture(scope="module")
def address(home: Path) -> Iterator[str]:
    """Where the run's LoggedModel is served, by the environment of these tests."""
    (description,) = (home / "mlartifacts").rglob("MLmodel")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["models", "serve", "--env-manager", "local", "-m", str(description.parent)]
    variables = {**environment(home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with (home / "serve.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words, "--host", "127.0.0.1", "--port", str(port)],
            env={**variables, "PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true"},
            cwd=home,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    address, end = f"http://127.0.0.1:{port}", time.monotonic() + STARTED
    try:
        while not _answers(f"{address}/ping"):
            assert server.poll() is None, (home / "serve.log").read_text()[-2000:]
            assert time.monotonic() < end, "the server does not answer"
            time.sleep(0.5)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return int(answer.status) == 200
    except (urllib.error.URLError, OSError):
        return False


def test_a_served_model_answers_with_the_features_of_embed(home: Path, address: str, tiny_data: Path) -> None:
    dataset = load_dataset("synthetic", tiny_data / "synthetic" / "day_tiny_0", preset="tiny")
    crops = [crop.path for crop in dataset.query[:3]]
    images = [[base64.b64encode(crop.read_bytes()).decode()] for crop in crops]
    body = json.dumps({"dataframe_split": {"columns": ["image"], "data": images}}).encode()
    request = urllib.request.Request(
        f"{address}/invocations", body, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        features = np.array(json.load(answer)["predictions"], dtype=np.float32)
    (checkpoint,) = (home / "outputs").glob("*/model.pt")
    # The server has one thread, this process perhaps more, and each rounds sums in its own order.
    expected = load_model(checkpoint, "cpu").embed(crops).numpy()
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-6)


def test_what_is_no_picture_is_refused_in_words(address: str) -> None:
    body = json.dumps({"dataframe_split": {"columns": ["image"], "data": [["bm8gcGljdHVyZQ=="]]}}).encode()
    request = urllib.request.Request(
        f"{address}/invocations", body, headers={"Content-Type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(request, timeout=120)
    assert refusal.value.code == 400
    assert "image 0" in refusal.value.read().decode()
