"""Clusters of several nodes on loopback, in a process of their own: their token and ports are nobody else's.

As a script: `clusters.py '[{"node_name": "second", "num_cpus": 1}, ...]'` starts a head and these nodes, prints the
address and the nodes' ids, removes the node whose name it reads, as if it had died, and ends with its input.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clsearch.common.telemetry import disable_telemetry

disable_telemetry()  # before Ray is imported


@dataclass
class Nodes:
    """A cluster that runs. address: of its head. environment: of processes that join it."""

    address: str
    environment: dict[str, str]
    process: subprocess.Popen[str]

    def kill(self, name: str) -> None:
        """Have a node die with everything on it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline().strip() == f"killed {name}"


def own_environment(home: Path) -> dict[str, str]:
    """An environment whose Ray has a token of its own, and this Python first."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return inherited | {"HOME": str(home), "PATH": path, "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}


@contextmanager
def cluster(home: Path, *nodes: dict[str, Any]) -> Iterator[Nodes]:
    """A head without CPUs for trials, and nodes (arguments of `Cluster.add_node`)."""
    environment = own_environment(home)
    subprocess.run(["ray", "get-auth-token", "--generate"], env=environment, check=True, capture_output=True)
    words = [sys.executable, __file__, json.dumps(nodes)]
    with (home / "cluster.log").open("w") as log:
        process = subprocess.Popen(
            words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        assert address, (home / "cluster.log").read_text()
        yield Nodes(address, environment, process)
    finally:
        process.stdin.close()
        process.wait(timeout=60)


def main(nodes: list[dict[str, Any]]) -> None:
    """Hold a cluster until the input ends."""
    from ray.cluster_utils import Cluster

    held = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "node_name": "head"})
    own = {node["node_name"]: held.add_node(**node) for node in nodes}
    held.wait_for_nodes()
    print(held.address, flush=True)
    for line in sys.stdin:
        held.remove_node(own[line.strip()], allow_graceful=False)
        print(f"killed {line.strip()}", flush=True)
    held.shutdown()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
