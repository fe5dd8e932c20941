"""Worker resources and out-of-memory messages."""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from typing import Any

import ray
import torch


@dataclass(frozen=True)
class WorkerResources:
    """The resources of a worker.

    Attributes:
        cpus: Number of CPU cores.
        gpus: Number of GPUs; a fraction is a share of one.
    """

    cpus: int
    gpus: float

    def apply(self, device_type: str) -> torch.device:
        """Limit this process to these resources, and return the device.

        If several workers share a GPU, each is limited to its share of the memory, so that one cannot exhaust the
        memory of the others.

        Args:
            device_type: `cpu`, or `cuda` for the GPU that Ray assigned.
        """
        torch.set_num_threads(max(1, self.cpus))
        tune_malloc()
        if device_type == "cpu":
            return torch.device(device_type)
        device = choose_gpu(assigned_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))
        if 0 < self.gpus < 1:
            torch.cuda.set_per_process_memory_fraction(self.gpus, device)
        return device


def assigned_gpus() -> list[str]:
    """Return Ray's names of the GPUs that it assigned to this worker; none outside Ray."""
    return [str(name) for name in ray.get_gpu_ids()] if ray.is_initialized() else []


def choose_gpu(given: list[str], visible: str | None) -> torch.device:
    """Return the first of the given GPUs as torch numbers them: by position among the visible GPUs.

    Args:
        given: Ray's names of the assigned GPUs.
        visible: CUDA_VISIBLE_DEVICES, which Ray sets to the assigned GPUs unless configured otherwise.
    """
    if not given:
        return torch.device("cuda", 0)
    seen = visible.split(",") if visible else []
    if given[0] in seen:
        return torch.device("cuda", seen.index(given[0]))
    return torch.device("cuda", int(given[0]) if given[0].isdecimal() and not seen else 0)


def worker_location() -> str:
    """Return the location of this worker for display: `<node>` or `<node>, GPU 2`; "" outside Ray."""
    if not ray.is_initialized():
        return ""
    own = ray.get_runtime_context().get_node_id()
    nodes = [node_name(node) for node in ray.nodes() if node["NodeID"] == own]
    return ", ".join([*nodes, *(f"GPU {name}" for name in assigned_gpus())])


def node_name(node: dict[str, Any]) -> str:
    """Return the name that a node of `ray.nodes()` was started with (`ray start --node-name`), or its host name."""
    named, address = node.get("NodeName", ""), node["NodeManagerAddress"]
    return str(node["NodeManagerHostname"] if named in ("", address) else named)


def is_out_of_memory(error: Exception) -> bool:
    """Return True if an error says that the device or the machine is out of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    words = ("can't allocate memory", "not enough memory", "CUDA error: out of memory", "ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def memory_advice(kind: str, gpus: float, together: int = 1) -> str:
    """Advise what to do if a trial runs out of memory, in terms of the options.

    Args:
        kind: `cpu` or `cuda`.
        gpus: GPUs per trial.
        together: Number of configurations that it trained.
    """
    smaller = f"a smaller --cohort (now {together}), " * (together > 1) + "a smaller --batch-size or fewer --seeds"
    if kind == "cpu":
        return f"out of memory on its node: use fewer trials at a time (--max-concurrent), {smaller}"
    more = f"a larger share for each trial (--gpus-per-trial, now {gpus:g}), " if 0 < gpus < 1 else ""
    return f"out of GPU memory: use {more}{smaller}"


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt, by their numbers in malloc.h."""


def tune_malloc() -> None:
    """Let glibc keep up to 256 MiB of freed memory, in blocks of up to 32 MiB.

    By default it returns the memory to the system and requests it again, page by page, at each training step: a tenth
    of a small network's step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # other C libraries do not have it
        mallopt(_TRIM_THRESHOLD, 256 * 2**20)
        mallopt(_MMAP_THRESHOLD, 32 * 2**20)
