"""A trial trained again."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from clsearch.cli.main import main
from clsearch.common.checked_files import seal
from clsearch.execution.rerun import rerun
from clsearch.planning.plan import Plan
from clsearch.records.trials import TrialRecord
from clsearch.training.loop import DivergedError, learn_task
from clsearch.training.trial_setup import build_trial
from tests.builders import plan_of, record_of
from tests.study_folders import written

VALUES = {"distillation_factor": 0.5, "distillation_temperature": 2.0}


def trained(plan: Plan, number: int | None, tasks: int = 3, **settings: object) -> TrialRecord:
    """The record of a real, small trial."""
    algorithm = "finetuning" if number is None else plan.algorithm
    config = plan.trial_config({} if number is None else VALUES | settings, algorithm)
    run = build_trial(config, plan.seeds, "cpu", None, plan.tasks)
    state, reason = run.initial_state(), ""
    while state.tasks_learned < tasks and not reason:
        try:
            state = learn_task(run, state)
        except DivergedError as error:
            reason = str(error)
    record = record_of(plan, number, [0.5] * len(plan.seeds), algorithm=algorithm, learned=state.tasks_learned)
    values = {} if number is None else VALUES
    ended = {"state": "failed" if reason else "finished" if tasks == 3 else "pruned", "reason": reason}
    return replace(record, values=values, settings=config.flat(), accuracy=state.accuracy.tolist(), **ended)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plan = plan_of(tmp_path_factory.mktemp("results"), seeds=2, trials=4)
    records = [trained(plan, 0), trained(plan, 1, tasks=2), trained(plan, 2, learning_rate=1e20), trained(plan, None)]
    other = trained(plan, 3)
    first = torch.tensor(other.accuracy)
    first[1, 2, 0] += 0.25
    return written(plan, [*records, replace(other, accuracy=first.tolist(), place="some node")])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trial", "said"),
    [
        ("0", "trial 0: equal, bit for bit (2 seeds, 3 tasks)"),
        ("1", "trial 1: equal, bit for bit (2 seeds, 2 tasks)"),  # stopped early
        ("finetuning", "reference finetuning: equal, bit for bit (2 seeds, 3 tasks)"),
    ],
)
def test_a_trial_comes_out_the_same(folder: Path, capsys, trial: str, said: str) -> None:
    assert main(["rerun", str(folder), "--trial", trial]) == 0
    output = capsys.readouterr()
    assert output.out.splitlines() == [said]
    assert output.err.splitlines()[0].startswith("task 1/")


def test_a_trial_that_diverged_diverges_again(folder: Path, capsys) -> None:
    assert main(["rerun", str(folder), "--trial", "2"]) == 0
    said = capsys.readouterr().out.splitlines()[1]
    then, _, now = said.removeprefix("then: ").partition("; now: ")
    assert then == now
    assert then.startswith("training diverged in epoch 1 of task 1")


def test_a_trial_that_comes_out_otherwise_is_told_by_how_much_and_exits_with_1(folder: Path, capsys) -> None:
    assert main(["rerun", str(folder), "--trial", "3"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "trial 3: not equal (2 seeds, 3 tasks)",
        "accuracies differ by up to 25.00 points",
        "it was trained on some node; floating-point summation order differs on other devices and with other numbers "
        "of threads (set --cpus to the study's --cpus-per-trial)",
    ]


def test_other_software_is_named(folder: Path) -> None:
    path = folder / "study.json"
    text = path.read_text()
    content = json.loads(text)
    path.write_text(json.dumps(seal(content | {"versions": content["versions"] | {"torch": "1.0"}})))
    try:
        found = rerun(folder, "0", None, "cpu", 1, lambda said: None)
    finally:
        path.write_text(text)
    assert found.differences == {"torch": ("1.0", version("torch"))}
    assert found.equal


def test_digits_need_no_data_root(folder: Path) -> None:
    assert main(["rerun", str(folder), "--trial", "0", "--data-root", "/nowhere"]) == 0


def test_what_cannot_be_repeated_is_refused(tmp_path: Path, capsys) -> None:
    plan = plan_of(tmp_path, seeds=2, trials=4)
    dead = replace(record_of(plan, 0, [0.5, 0.5], state="failed", learned=0, reason="the worker died"), accuracy=[])
    folder = written(plan, [dead, trained(plan, 1)])
    assert main(["rerun", str(folder), "--trial", "99"]) == 2
    assert main(["rerun", str(folder), "--trial", "0"]) == 2
    assert main(["rerun", str(folder), "--trial", "1", "--device", "cuda"]) == (0 if torch.cuda.is_available() else 2)
    errors = capsys.readouterr().err
    for rule in (
        "trial: must be one of ",
        "trial: must have an accuracy matrix to compare with; got 0, failed: the worker died",
    ):
        assert f"error: {rule}" in errors
