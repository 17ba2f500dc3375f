"""Loading and using a model from Python changes nothing in the process that does it."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image

HOME = Path(__file__).parent / "fixtures" / "d063546" / "home.tar.xz"

#: Prints what a process is like before and after it has used a model; with "gpu", on a pretended one.
LOOK = '''
import ctypes, json, os, random, signal, sys, warnings
import numpy as np, torch
from reid.inference import load_model

gpu, checkpoint, image = sys.argv[1] == "gpu", sys.argv[2], sys.argv[3]
calls = []
if gpu:
    torch.cuda.is_available, torch.cuda.device_count = lambda: True, lambda: 2
    torch._C._cuda_setDevice = lambda number: calls.append(f"set device {number}")

class Blocks(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks a b c d e f".split()]

def large_blocks_are_mapped():
    """What the C library does by itself; None where it does not tell."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2"):
        return None
    library.mallinfo2.restype = Blocks
    library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    before = library.mallinfo2().hblks
    block = library.malloc(ctypes.c_size_t(2**26))
    mapped = library.mallinfo2().hblks > before
    library.free(block)
    return mapped

def state():
    def read(module, name):
        try:
            return repr(getattr(module, name))
        except (RuntimeError, AttributeError) as error:
            return str(error)
    cuda, cudnn, mkldnn = torch.backends.cuda.matmul, torch.backends.cudnn, torch.backends.mkldnn
    of_cudnn = ("enabled", "benchmark", "deterministic", "allow_tf32", "benchmark_limit")
    products = [cuda, *filter(None, [getattr(mkldnn, "matmul", None)])]
    return {
        "denormals": float(torch.full((4,), 1e-39).mul(1.0).sum()) > 0,
        "threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "cudnn": [read(cudnn, name) for name in of_cudnn],
        "products": [read(part, name) for part in products for name in ("allow_tf32", "fp32_precision")],
        "precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.get_deterministic_debug_mode(),
        "autocast": [torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")],
        "grad": [torch.is_grad_enabled(), torch.is_inference_mode_enabled()],
        "default": [str(torch.get_default_dtype()), str(torch.get_default_device())],
        "random": [torch.get_rng_state().tolist(), str(np.random.get_state()), hash(random.getstate())],
        "environment": dict(os.environ),
        "warnings": len(warnings.filters),
        "signals": str([signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]),
        "folder": os.getcwd(),
        "malloc": large_blocks_are_mapped(),
        "cuda": calls,
    }

torch.backends.cuda.matmul.allow_tf32 = True
before = json.dumps(state())
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
print(json.dumps([json.loads(before), json.loads(json.dumps(state()))]))
'''


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint of a small network and an image."""
    folder = tmp_path_factory.mktemp("library")
    with tarfile.open(HOME) as archive:
        member = next(member for member in archive if member.name.endswith("/model.pt"))
        member.name = "model.pt"
        archive.extract(member, folder, filter="data")
    Image.new("RGB", (16, 32), (90, 120, 150)).save(folder / "crop.png")
    return folder / "model.pt", folder / "crop.png"


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_the_process_is_as_it_was(files: tuple[Path, Path], device: str) -> None:
    words = [sys.executable, "-c", LOOK, device, *map(str, files)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    before, after = json.loads(done.stdout)
    assert before["denormals"]
    assert after == before
