"""What a worker was given to compute with, and what is said where that does not suffice."""

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
    """CPU cores of a worker, and GPUs: a fraction is a share of one."""

    cpus: int
    gpus: float

    def apply(self, device_type: str) -> torch.device:
        """Compute with this share from now on; gives the device. device_type: cpu, or cuda for the GPU that Ray gave.

        Where several workers share a GPU, each gets its part of the memory and no more, so that one that asks for too
        much does not take it from the others.
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
    """The GPUs that Ray gave to this worker, by the names that Ray has for them; none outside Ray."""
    return [str(name) for name in ray.get_gpu_ids()] if ray.is_initialized() else []


def choose_gpu(given: list[str], visible: str | None) -> torch.device:
    """The first of the given GPUs as torch counts them: by their place among the visible ones. visible:
    CUDA_VISIBLE_DEVICES, which Ray sets to what it gives, unless it is told not to.
    """
    if not given:
        return torch.device("cuda", 0)
    seen = visible.split(",") if visible else []
    if given[0] in seen:
        return torch.device("cuda", seen.index(given[0]))
    return torch.device("cuda", int(given[0]) if given[0].isdecimal() and not seen else 0)


def worker_location() -> str:
    """Where this worker is, for people: `<node>`, or `<node>, GPU 2`; empty outside Ray."""
    if not ray.is_initialized():
        return ""
    own = ray.get_runtime_context().get_node_id()
    nodes = [node_name(node) for node in ray.nodes() if node["NodeID"] == own]
    return ", ".join([*nodes, *(f"GPU {name}" for name in assigned_gpus())])


def node_name(node: dict[str, Any]) -> str:
    """The name that a node was started with (`ray start --node-name`), or its host's. node: of `ray.nodes()`."""
    named, address = node.get("NodeName", ""), node["NodeManagerAddress"]
    return str(node["NodeManagerHostname"] if named in ("", address) else named)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that the device, or the machine, has no more memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    words = ("can't allocate memory", "not enough memory", "CUDA error: out of memory", "ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def memory_advice(kind: str, gpus: float, together: int = 1) -> str:
    """What to do where a trial's memory does not suffice, by the names of the options. together: how many
    configurations it trained.
    """
    smaller = f"a smaller --cohort (now {together}), " * (together > 1) + "a smaller --batch-size or fewer --seeds"
    if kind == "cpu":
        return f"out of memory on its node: take fewer trials at a time (--max-concurrent), {smaller}"
    more = f"a larger share for each trial (--gpus-per-trial, now {gpus:g}), " if 0 < gpus < 1 else ""
    return f"out of GPU memory: take {more}{smaller}"


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt, by their numbers in malloc.h."""


def tune_malloc() -> None:
    """Have glibc keep up to 256 MiB that this process has freed, blocks of up to 32 MiB among it. It would give them
    back to the system and ask again at each training step, page by page: a tenth of a small network's step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # other C libraries have none
        mallopt(_TRIM_THRESHOLD, 256 * 2**20)
        mallopt(_MMAP_THRESHOLD, 32 * 2**20)
