"""The process that `memory.in_child` starts: `python -m experiments.benchmark.child MODULE FUNCTION JSON`."""

import importlib
import json
import sys

from experiments.benchmark.memory import peak_mib

module, function, arguments = sys.argv[1:]
value = getattr(importlib.import_module(module), function)(**json.loads(arguments))
print(json.dumps({"value": value, "peak_mib": peak_mib()}))
