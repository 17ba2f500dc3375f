"""The process that `memory.in_child` starts: `python -m experiments.benchmark.child MODULE FUNCTION JSON`."""

import importlib
import json
import sys

import torch

from experiments.benchmark.memory import peak_mib
from reid.engine.runtime import set_up_backend

module, function, arguments = sys.argv[1:]
set_up_backend(torch.device("cpu"))  # as the commands have it
value = getattr(importlib.import_module(module), function)(**json.loads(arguments))
print(json.dumps({"value": value, "peak_mib": peak_mib()}))
