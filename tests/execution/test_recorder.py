"""What trials are handed over, and when room is for another."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from clsearch import LogRange
from clsearch.records.trials import Results
from tests.builders import (
    record_of,
    study_of,
)
from tests.study.shared import tiny


@pytest.mark.slow
def test_a_trial_is_handed_the_factory_and_its_record_has_the_name(tmp_path):
    from clsearch.execution.recorder import Watcher

    plan = study_of(backbone=tiny, hidden=None, results=tmp_path).plan
    watcher = Watcher(plan, Results(plan), None, None)
    values = {name: r.low for name, r in plan.space.items()}
    for label, algorithm in (("trial_00000", None), ("reference_finetuning", "finetuning")):
        assert watcher.configure({label: values}, algorithm)["backbone"] is tiny
        assert watcher.records[label].settings["backbone"] == f"{tiny.__module__}.tiny"


@pytest.mark.parametrize(
    ("waiting", "running", "slots", "room"),
    [
        (0, 0, 8, True),  # one trial for each worker that is not there, so that they start at the same time
        (7, 0, 8, True),
        (8, 0, 8, False),
        (5, 2, 8, True),
        (6, 2, 8, False),
        (0, 8, 8, True),  # one while all are busy
        (1, 8, 8, False),
        (0, 9, 4, True),  # more joined the cluster
        (1, 9, 4, False),
        (0, 1, 1, True),
        (1, 1, 1, False),
    ],
)
def test_trials_wait_for_workers_that_are_not_there_yet_and_for_those_that_will_be_free(
    tmp_path, waiting, running, slots, room
):
    from clsearch.execution.recorder import Watcher

    plan = study_of(results=tmp_path).plan
    watcher = Watcher(plan, Results(plan), None, None, slots)
    states = ["waiting"] * waiting + ["running"] * running + ["finished", "failed"]
    watcher.records = {str(i): replace(record_of(plan, i, [0.5]), state=state) for i, state in enumerate(states)}
    watcher.groups = [[label] for label in watcher.records]
    assert watcher.room() is room
    # Of configurations that train together, some may have ended before the others.
    watcher.records |= {f"{i}, ended": replace(record_of(plan, i, [0.5]), state="pruned") for i in range(len(states))}
    watcher.groups = [[str(i), f"{i}, ended"] for i in range(len(states))]
    assert watcher.room() is room


def test_configurations_that_train_together_are_handed_over_with_what_they_differ_in(tmp_path):
    from ray.tune.experiment import Trial

    from clsearch.execution.recorder import Watcher

    plan = study_of(results=tmp_path, space={"distillation_factor": LogRange(0.1, 10)}, cohort=2).plan
    watcher = Watcher(plan, Results(plan), None, None)
    asked = {f"trial_0000{n}": {"distillation_factor": 1.0 + n} for n in range(2)}
    config = watcher.configure(asked, None)
    assert config["label"] == "trial_00000+1"
    assert "state_file" not in config
    assert config["cohort"] == [
        {"label": label, "values": values, "state_file": str(tmp_path / "mine" / "trials" / label / "state.pt")}
        for label, values in asked.items()
    ]
    assert watcher.groups == [["trial_00000", "trial_00001"]]
    for number, (label, values) in enumerate(asked.items()):
        record = watcher.records[label]
        assert (record.number, record.values, record.cohort, record.state) == (number, values, 2, "waiting")
        assert record.settings["distillation_factor"] == values["distillation_factor"]
    trial = Trial("EWCTrainable", config=config, stub=True)
    watcher.records["trial_00000"] = replace(watcher.records["trial_00000"], state="failed")
    watcher.tracker = watcher.line = SimpleNamespace(update=lambda record: None)
    watcher.on_trial_recover(1, [trial], trial)  # whose next worker is not to begin the failed one anew
    assert [own["label"] for own in trial.config["cohort"]] == ["trial_00001"]
    assert [watcher.records[label].restarts for label in asked] == [0, 1]
    assert "cohort" not in watcher.configure({"trial_00002": {"distillation_factor": 3.0}}, None)
