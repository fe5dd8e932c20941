"""Refuse everything that can be refused before Ray starts, cheapest checks first.

Messages have the field, the rule and the value; they say what to do if that is not obvious.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clsearch.common.errors import ConfigError, Refusal
from clsearch.common.files import temporary_folders
from clsearch.config.trial import TrialConfig
from clsearch.data.datasets import ImageFolder
from clsearch.data.image_folder import Part, list_images
from clsearch.planning.plan import Plan, tracking_uri
from clsearch.planning.spaces import pick_with
from clsearch.ray_runtime.address import check_address, check_outlives_job, connected, joins
from clsearch.records.mirror import check_mirror
from clsearch.tracking.registration import check_registered_once
from clsearch.tracking.store_check import check_tracking

RESERVED = ("mlartifacts", "mlflow.db", "test_openings.jsonl", "test_openings.lock")
"""Names in a results folder that are not studies: MLflow's artifacts and store, and the ledger of test data."""


def check(plan: Plan) -> None:
    """Refuse a plan that cannot run, in under 5 s, or 10 s for each server that does not answer. Raises ConfigError."""
    check_name(plan)
    check_outlives_job(plan)
    check_data(plan)
    check_address(plan)
    check_device(plan)
    if connected():
        check_resources(plan, cluster_nodes())
    elif not joins(plan):
        check_resources(plan, [this_node(plan)])
    check_places(plan)
    check_backbone(plan)


def check_places(plan: Plan) -> None:
    """Check that the outputs of a study can be written. Raises ConfigError."""
    check_tracking(tracking_uri(plan))
    check_registered_once(plan.folder, None if plan.options.fresh else tracking_uri(plan))
    check_writable(plan.options.results)
    check_mirror(plan.folder, plan.options.mirror)


def check_name(plan: Plan) -> None:
    """Check that the name of a study is not reserved."""
    if plan.options.name in RESERVED:
        text = f"name: must not be one of {', '.join(RESERVED)}, which the results folder uses; got {plan.options.name}"
        raise ConfigError([Refusal("name-not-reserved", text)])


def check_writable(results: Path) -> None:
    """Check that the results folder can be created and written; a folder that is not there is not left behind."""
    folder = results.resolve()
    if any(mark in str(folder) for mark in "?#%"):
        text = f"results: must not contain ?, # or %, which have a meaning in MLflow's addresses; got {folder}"
        raise ConfigError([Refusal("results-address", text)])
    try:
        for last in (False, False, True):
            try:
                with temporary_folders(folder), tempfile.TemporaryFile(dir=folder):
                    return
            except FileNotFoundError:  # the check of another study removed the empty folder
                if last:
                    raise
    except OSError as error:
        text = f"results: must be a writable folder; got {folder} ({error.strerror})"
        raise ConfigError([Refusal("results-writable", text)]) from None


def check_data(plan: Plan) -> None:
    """Check that the files for the search and the final evaluation exist or will be downloaded; open none."""
    check_files(plan, plan.config, "train")
    if plan.options.final:
        check_files(plan, plan.config, "test")
        if plan.report is not None:
            check_files(plan, plan.report, "train")
            check_files(plan, plan.report, "test")


def check_files(plan: Plan, config: TrialConfig, part: Part) -> None:
    """Check the files of one part of a configuration's source."""
    source, download = config.source, plan.options.download
    without = ", or leave the final evaluation out (--no-final)" if part == "test" else ""
    if isinstance(source.read, ImageFolder):
        try:
            list_images(source.read.folder, part, source.read.only)
        except ConfigError as error:
            raise ConfigError(Refusal(problem.rule, f"{problem}{without}") for problem in error.problems) from None
    missing = source.missing_files(config.data_root, part)
    if missing and config.data_root is None:
        text = (
            f"data_root: {config.benchmark} needs the folder of its files; got none. Give --data-root DIR, "
            f"with --download if the files are not there yet"
        )
        raise ConfigError([Refusal("data-root-given", text)])
    if missing and not download:
        text = (
            f"data_root: must hold {', '.join(missing)} for {config.benchmark}; got {config.data_root}. "
            f"Add --download to fetch them into it{without}"
        )
        raise ConfigError([Refusal("data-root-complete", text)])


def check_backbone(plan: Plan) -> None:
    """Check that each backbone can be built for the benchmarks' images and can be trained."""
    searched = [
        plan.trial_config(pick_with(plan.space, {part.key: end}), on=on)
        for part in plan.space.parts
        if part.name == "backbone"
        for end in part.domain.ends
        for on in (plan.config, plan.report)
        if on is not None
    ]
    for config in (plan.config, plan.report, *searched):
        if config is not None and config.backbone != "mlp":
            import torch

            from clsearch.networks.validation import build_network

            device = torch.device(plan.device if torch.cuda.is_available() else "cpu")
            build_network(config, config.source.shape, 2, device)


def check_device(plan: Plan) -> None:
    """Check that a CUDA device exists if the plan needs one."""
    options = plan.options
    if options.device == "cuda" and options.gpus_per_trial == 0:
        text = "device: cuda needs a share of a GPU for each trial (--gpus-per-trial 1, or a fraction); got 0"
        raise ConfigError([Refusal("cuda-needs-gpu-share", text)])
    if options.device == "cuda" and not joins(plan):
        import torch

        if not torch.cuda.is_available():
            text = "device: cuda needs a GPU that torch sees; got none on this machine"
            raise ConfigError([Refusal("cuda-needs-gpu", text)])


@dataclass(frozen=True)
class Node:
    """The resources that a node of a cluster offers to trials."""

    name: str
    cpus: float
    gpus: float


def this_node(plan: Plan) -> Node:
    """Return this machine as a local Ray would see it; look for GPUs only if trials use them."""
    gpus = 0
    if plan.options.gpus_per_trial > 0:
        import torch

        gpus = torch.cuda.device_count()
    return Node("this machine", len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else _cores(), gpus)


def cluster_nodes() -> list[Node]:
    """Return the nodes of the Ray that this process is connected to."""
    import ray

    return [offer(node) for node in ray.nodes() if node["Alive"]]


def offer(node: dict[str, Any]) -> Node:
    """Return the resources of a node of `ray.nodes()`."""
    from clsearch.execution.resources import node_name

    return Node(node_name(node), node["Resources"].get("CPU", 0), node["Resources"].get("GPU", 0))


def _cores() -> int:
    return os.cpu_count() or 1


def check_resources(plan: Plan, nodes: Sequence[Node]) -> None:
    """Check that some node can hold a trial; the refusal names the largest node."""
    cpus, gpus = plan.options.cpus_per_trial, plan.options.gpus_per_trial
    if gpus > 1 and not math.isclose(gpus, round(gpus)):
        text = f"gpus_per_trial: must be a whole number above 1 (a fraction shares one); got {gpus:g}"
        raise ConfigError([Refusal("whole-gpus", text)])
    if any(node.cpus >= cpus and node.gpus >= gpus for node in nodes):
        return
    most_gpus = max(nodes, key=lambda node: node.gpus)
    if most_gpus.gpus < gpus:
        rule = f"gpus_per_trial: must be at most what one node has, {most_gpus.gpus:g} ({most_gpus.name}); got {gpus:g}"
        text = rule if most_gpus.gpus else f"{rule}. Leave it out to train on the CPU"
        raise ConfigError([Refusal("gpus-of-a-node", text)])
    most_cpus = max((n for n in nodes if n.gpus >= gpus), key=lambda node: node.cpus)
    text = f"cpus_per_trial: must be at most what one node has, {most_cpus.cpus:g} ({most_cpus.name}); got {cpus}"
    raise ConfigError([Refusal("cpus-of-a-node", text)])
