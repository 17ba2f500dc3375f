"""`python -m tests.torchrun_forked module word…`: what `torchrun --standalone --nproc-per-node=2 -m` does.

The agent is torch's own: it passes a signal on, and notices that a process has died. Only its two processes
are forked, since each of them would import PyTorch and MLflow for seven seconds of a core.
"""

import sys

from running import run_module
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

if __name__ == "__main__":
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method="fork",
    )
    elastic_launch(config, run_module)(sys.argv[1:])
