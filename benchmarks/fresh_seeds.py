"""Test the best configuration of a study, and the ends of its ranges, on fresh seeds.

    python benchmarks/fresh_seeds.py results/lwf_temperature_sweep

Trains, on fresh seeds, finetuning, the best configuration, and the best with one hyperparameter at each end of its
range. Prints validation average accuracy with 95 % intervals (Student t over seeds), and the paired difference to
finetuning.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from clsearch.common.errors import ConfigError
from clsearch.common.statistics import interval, paired_difference
from clsearch.config.sections import BACKBONES
from clsearch.methods.registry import configure, fields_of
from clsearch.metrics import average_accuracy, forgetting
from clsearch.records.study_record import StudyRecord, read_study
from clsearch.training.loop import DivergedError, learn_sequence
from clsearch.training.trial_setup import build_trial


@dataclass
class Options:
    study: Annotated[Path, tyro.conf.Positional]
    """Folder of a finished study."""
    seeds: int = 10
    """Number of fresh seeds."""
    first_seed: int = 1000
    """The first fresh seed."""


def trained(algorithm: str, config: dict[str, Any], seeds: list[int]) -> tuple[list[float], list[float]] | None:
    """Return average accuracy and forgetting of each seed in percent, or None if training diverged."""
    settings = {k: v for k, v in config.items() if k in fields_of(algorithm)}
    try:
        state = learn_sequence(build_trial(configure(algorithm, settings), seeds))
    except DivergedError:
        return None
    t = state.tasks_learned
    return (100 * average_accuracy(state.accuracy, t)).tolist(), (100 * forgetting(state.accuracy, t).mean(-1)).tolist()


def problem_of(study: StudyRecord, seeds: list[int]) -> str:
    """Explain why a study cannot be tested on these seeds; "" if it can."""
    if set(seeds) & set(study.study["seeds"]):
        return f"first-seed: fresh seeds must not be the search's, {study.study['seeds']}; got {seeds}"
    if study.best.get("per_task"):
        return "protocol: must have one configuration for all tasks; got continual. See its final.json"
    if not study.best.get("config"):
        return f"study: must have a finished trial; got {study.name}"
    if study.requests:
        return f"study: must unlearn nothing; got {study.name}, whose final evaluation has fresh seeds"
    if study.best["config"]["backbone"] not in BACKBONES:
        backbone = study.best["config"]["backbone"]
        return f"backbone: must be one of {', '.join(BACKBONES)}; got {backbone}, which a script defines"
    return ""


def main(options: Options) -> None:
    torch.set_num_threads(1)
    found = read_study(options.study)
    study, best = found.study, found.best
    seeds = list(range(options.first_seed, options.first_seed + options.seeds))
    if problem := problem_of(found, seeds):
        raise ConfigError([problem])
    config, algorithm = best["config"], study["algorithm"]
    base = trained("finetuning", config, seeds)
    rows = [("finetuning", base), ("best", trained(algorithm, config, seeds))]
    for name, ends in study["space"].items():
        rows += [
            (f"best, {name} = {ends[end]:g}", trained(algorithm, config | {name: ends[end]}, seeds))
            for end in ("low", "high")
        ]
    table = Table(
        title=f"{algorithm}, {options.seeds} fresh seeds, validation", title_justify="left", box=box.SIMPLE_HEAD
    )
    for column in ("configuration", "average accuracy (%)", "95 % interval", "minus finetuning", "forgetting"):
        table.add_column(column, justify="left" if column == "configuration" else "right", no_wrap=True)
    for label, scores in rows:
        if scores is None or base is None:
            table.add_row(label, "diverged", "", "", "")
            continue
        i, d = interval(scores[0]), paired_difference(scores[0], base[0])
        table.add_row(
            label,
            f"{i.mean:.2f}",
            f"{i.low:.2f} to {i.high:.2f}",
            f"{d.mean:+.2f} ({d.low:+.2f} to {d.high:+.2f})" if label != "finetuning" else "",
            f"{interval(scores[1]).mean:.2f}",
        )
    Console(width=140).print(table)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
