"""Ray Tune's workers during a search."""

from __future__ import annotations

import os
import uuid
from collections import Counter
from pathlib import Path

import torch

from clsearch import LogRange, Study


def test_trials_that_are_shorter_than_a_workers_start_run_in_every_worker(ray_session: str, tmp_path: Path) -> None:
    """Ray Tune ends the start of a worker whose trial another one takes over: a second might never come to be."""

    def noted(shape: tuple[int, ...]) -> torch.nn.Module:
        (tmp_path / f"{os.getpid()}-{uuid.uuid4()}").touch()  # once a trial
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))

    study = Study(
        algorithm="lwf",
        space={"distillation_factor": LogRange(0.1, 10)},
        name="short",
        results=tmp_path / "results",
        backbone=noted,
        tasks=2,
        epochs=8,
        seeds=1,
        trials=16,
        sampler="random",
        references=(),
        final=False,
    )
    assert len(study.run().trials) == 16
    made = Counter(int(path.name.partition("-")[0]) for path in tmp_path.glob("*-*"))
    del made[os.getpid()]  # what the driver looked at before the search
    trained = sorted(made.values())  # a few times a trial
    assert trained[-1] <= 0.75 * sum(trained)
