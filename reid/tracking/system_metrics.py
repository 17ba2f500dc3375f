"""What the machine did while a run trained, under the names that MLflow's page "System metrics" shows.

One point an epoch: means since the last point of what is used over time, sums of what is counted, and what is
held at the moment.  There is no thread; it ends with the run.
"""

from __future__ import annotations

from typing import Any

_MB = 1e6


class SystemMetrics:
    """Counts from its creation on; `since_last` gives one point and begins the next."""

    def __init__(self) -> None:
        import psutil

        self._process = psutil.Process()
        self._cpu = psutil.cpu_percent
        self._cpu()
        self._process.cpu_percent()
        self._memory, self._disk = psutil.virtual_memory, psutil.disk_usage
        self._network = psutil.net_io_counters
        self._before = self._network()

    def since_last(self) -> dict[str, float]:
        """The next point: percent and megabytes (10^6 bytes) by tracked name."""
        memory, network = self._memory(), self._network()
        values = {
            "cpu_utilization_percentage": self._cpu(),
            "process_cpu_utilization_percentage": self._process.cpu_percent(),  # 100 is one core
            "process_memory_megabytes": self._process.memory_info().rss / _MB,
            "system_memory_usage_megabytes": memory.used / _MB,
            "system_memory_usage_percentage": memory.percent,
            "disk_usage_percentage": self._disk("/").percent,
            **_gpus(),
        }
        if network is not None and self._before is not None:  # a container may have none
            values["network_receive_megabytes"] = (network.bytes_recv - self._before.bytes_recv) / _MB
            values["network_transmit_megabytes"] = (network.bytes_sent - self._before.bytes_sent) / _MB
        self._before = network
        return {f"system/{name}": float(value) for name, value in values.items()}


def _gpus() -> dict[str, float]:
    """Memory of each GPU that this process sees, and its load where NVIDIA's library can be asked for it."""
    import torch

    found: dict[str, float] = {}
    for number in range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0):
        free, total = torch.cuda.mem_get_info(number)
        found[f"gpu_{number}_memory_usage_megabytes"] = (total - free) / _MB
        found[f"gpu_{number}_memory_usage_percentage"] = 100 * (total - free) / total
        load = _load(number)
        if load is not None:
            found[f"gpu_{number}_utilization_percentage"] = load
    return found


def _load(number: int) -> Any:
    import torch

    try:
        return torch.cuda.utilization(number)
    except Exception:  # without NVML, or where it refuses (a part of a GPU): its errors are its own
        return None
