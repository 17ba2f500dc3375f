"""Loading and using a model from Python changes nothing in the process that does it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from reid.engine.checkpoint import Checkpoint, save_checkpoint
from reid.models import ReidModel, build_backbone

#: Prints what a process is like before and after it has used a model; with "gpu", on a pretended one.
LOOK = '''
import ctypes, json, os, random, signal, sys, threading, warnings
import numpy as np, torch
from reid.inference import load_model

gpu, checkpoint, image = sys.argv[1] == "gpu", sys.argv[2], sys.argv[3]
calls = []
if gpu:
    torch.cuda.is_available, torch.cuda.device_count = lambda: True, lambda: 2
    torch._C._cuda_setDevice = lambda number: calls.append(f"set device {number}")
mallopt = ctypes.CDLL(None).mallopt

def state():
    def read(module, name):
        try:
            return repr(getattr(module, name))
        except RuntimeError as error:
            return str(error)
    cuda, cudnn, mkldnn = torch.backends.cuda.matmul, torch.backends.cudnn, torch.backends.mkldnn
    return {
        "denormals": float(torch.full((4,), 1e-39).mul(1.0).sum()) > 0,
        "threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "cudnn": [read(cudnn, n) for n in ("enabled", "benchmark", "deterministic", "allow_tf32", "benchmark_limit")],
        "matmul": [read(m, n) for m in (cuda, getattr(mkldnn, "matmul", mkldnn)) for n in ("allow_tf32", "fp32_precision") if hasattr(m, n)],
        "precision": read(torch, "get_float32_matmul_precision") and torch.get_float32_matmul_precision(),
        "deterministic": [torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()],
        "autocast": [torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")],
        "grad": [torch.is_grad_enabled(), torch.is_inference_mode_enabled()],
        "default": [str(torch.get_default_dtype()), str(torch.get_default_device())],
        "random": [torch.get_rng_state().sum().item(), str(np.random.get_state()[1][:9]), hash(random.getstate())],
        "environment": dict(os.environ),
        "warnings": len(warnings.filters),
        "signals": str([signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]),
        "folder": os.getcwd(),
        "cuda": calls,
    }

torch.backends.cuda.matmul.allow_tf32 = True
before = json.dumps(state())
# The C library is asked for nothing: a call of mallopt would show in the block's own copy.
if gpu:
    try:
        load_model(checkpoint, "cuda:1")
    except Exception as error:  # moving the weights there is the first thing that needs the driver
        assert "NVIDIA" in str(error) or "CUDA" in str(error), error
else:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        within = load_model(checkpoint, "cpu").embed([image])
    plain = load_model(checkpoint, "cpu").embed([image])
    assert torch.equal(within, plain)
assert [thread.name for thread in threading.enumerate() if not thread.daemon] == ["MainThread"]
print(json.dumps([json.loads(before), json.loads(json.dumps(state()))]))
'''


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint of a small network and an image."""
    folder = tmp_path_factory.mktemp("library")
    Image.new("RGB", (32, 64), (90, 120, 150)).save(folder / "crop.png")
    torch.manual_seed(0)
    model = ReidModel(build_backbone("resnet18"), 4)
    meta = {
        "model": {
            "backbone": {"name": "resnet18"}, "num_classes": 4, "last_stride": 1, "neck": "bnneck",
            "train_feature": "after",
        },
        "preprocessing": {"height": 64, "width": 32},
        "eval": {"feature_norm": True, "metric": "euclidean", "neck_feature": "after", "flip": False},
    }  # fmt: skip
    save_checkpoint(folder / "model.pt", Checkpoint(model.state_dict(), meta, {}))
    return folder / "model.pt", folder / "crop.png"


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_the_process_is_as_it_was(files: tuple[Path, Path], device: str) -> None:
    words = [sys.executable, "-c", LOOK, device, *map(str, files)]
    told = subprocess.run(words, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    before, after = json.loads(told.stdout)
    assert before["denormals"]
    assert after == before
