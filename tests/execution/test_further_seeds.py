"""Training on further seeds in a worker: what a training on these seeds gives, broken off or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clsearch.data.datasets import SOURCES, Data, read_data
from clsearch.execution.further_seeds import train_in_worker
from clsearch.execution.messages import TrialReport
from clsearch.training.loop import learn_sequence, learn_task
from clsearch.training.trial_setup import build_trial
from tests.helpers import small_config

CPU, SEEDS, TASKS = torch.device("cpu"), (3, 4), (1, 2, 3)


@pytest.fixture(scope="module")
def digits() -> Data:
    return read_data(SOURCES["digits"], None)


def train(path: Path, digits: Data, **settings: Any) -> TrialReport:
    return train_in_worker(CPU, "t", small_config("lwf", **settings), SEEDS, TASKS, path, None, digits, None)


def test_a_worker_measures_what_a_training_on_the_seeds_gives(tmp_path: Path, digits: Data) -> None:
    report = train(tmp_path / "state.pt", digits)
    whole = learn_sequence(build_trial(small_config("lwf"), SEEDS))
    assert (report.failed, report.tasks_learned) == ("", 3)
    assert np.array_equal(report.accuracy, whole.accuracy.numpy(), equal_nan=True)
    assert np.array_equal(report.curve, whole.curve.numpy(), equal_nan=True)


def test_a_worker_goes_on_from_its_checkpoint_and_from_no_other(tmp_path: Path, digits: Data) -> None:
    trial, path = build_trial(small_config("lwf"), SEEDS), tmp_path / "state.pt"
    state = learn_task(trial, trial.initial_state())
    state.save(path)
    whole = train(tmp_path / "other.pt", digits)
    assert np.array_equal(train(path, digits).accuracy, whole.accuracy, equal_nan=True)
    other = build_trial(small_config("lwf"), (0, 1))
    learn_task(other, other.initial_state()).save(path)
    assert np.array_equal(train(path, digits).accuracy, whole.accuracy, equal_nan=True)


def test_a_training_that_diverges_says_why(tmp_path: Path, digits: Data) -> None:
    report = train(tmp_path / "state.pt", digits, distillation_factor=1e30)
    assert report.failed.startswith("training diverged in ")
    assert report.tasks_learned < 3
