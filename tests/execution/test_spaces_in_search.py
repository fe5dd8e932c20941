"""Spaces of numbers, names and conditions in a search: groups, refusals, references, and what a killed process left."""

from __future__ import annotations

from dataclasses import replace

import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from clsearch import Choice, IntRange, LogRange, Method, Range, When, register
from clsearch.common.errors import Refusal
from clsearch.config.plain_values import to_plain
from clsearch.execution.searcher import OptunaSearcher
from clsearch.records.study_file import JOURNAL
from clsearch.records.trial_metrics import metrics_after
from clsearch.records.trials import trial_label
from clsearch.records.writer import StudyWriter
from clsearch.sampling.journal import find_difference, open_storage, read_numbered
from clsearch.sampling.samplers import sampler_for
from clsearch.sampling.study import next_number, suggest_value, values_of
from tests.builders import plan_of, record_of
from tests.execution.reports import report_of, result_of
from tests.execution.test_searcher import Host, reopened

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

SPACE = [
    {
        "learning_rate": LogRange(1e-3, 1),
        "optimizer": Choice("sgd", "adam"),
        "epochs": IntRange(1, 4),
        "hidden": Choice((8,), (12, 6)),
        "distillation_factor": LogRange(1e-2, 10),
    },
    When("optimizer", "sgd", {"momentum": Range(0.1, 0.9)}),
]


FLAT = {name: SPACE[0][name] for name in ("learning_rate", "epochs", "distillation_factor")}

COARSE = [
    {"optimizer": Choice("sgd", "adam"), "epochs": IntRange(1, 2), "distillation_factor": LogRange(1e-2, 10)},
    When("optimizer", "sgd", {"momentum": Range(0.1, 0.9)}),
]
"""With four structures."""


def begin(folder, ended=None, **settings):
    plan = plan_of(folder, **({"space": SPACE, "trials": 20, "references": ()} | settings))
    return OptunaSearcher(plan, open_storage(plan), Host(), ended)


def asked_in(config):
    """Label -> values, of a trial of Ray Tune."""
    return {each["label"]: each["values"] for each in config.get("cohort", [config])}


def score_of(values):
    return 0.9 - 0.1 * abs(values["distillation_factor"] - 1) / 10 - 0.01 * values["epochs"]


def play(searcher, count):
    """Ask for so many trials of Ray Tune and end each; return label -> values."""
    found = {}
    for _ in range(count):
        trial_id = f"t{len(searcher.study.trials)}-{len(found)}"
        asked = asked_in(searcher.suggest(trial_id))
        reports = [report_of(label, 3, score_of(values), 0.1, done=True) for label, values in asked.items()]
        searcher.on_trial_complete(trial_id, result_of(*reports, done=True))
        found |= asked
    return found


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "nsga2"])
@pytest.mark.parametrize(("before", "written"), [(0, 2), (1, 0), (2, 2), (5, 2), (13, 0), (13, 2)])
def test_a_suggestion_that_a_killed_process_did_not_finish_is_that_of_an_unbroken_one(
    tmp_path, sampler, before, written
):
    settings = {"sampler": sampler, "sampler_seed": 3}
    settings |= {"objectives": ("average_accuracy", "average_forgetting")} if sampler == "nsga2" else {}
    settings |= {"space": FLAT} if sampler in ("qmc", "nsga2") else {}
    whole = [*play(begin(tmp_path / "whole", **settings), before + 3).values()]
    broken = begin(tmp_path / "broken", **settings)
    ended = play(broken, before)
    broken.study.sampler = sampler_for(broken.plan, next_number(broken.study))
    trial, values = broken.study.ask(), {}
    for part in broken.plan.space.parts:
        if part.applies(values) and len(values) < written:
            values[part.name] = suggest_value(trial, part.key, part.domain)
    again = begin(tmp_path / "broken", ended, **settings)
    assert len(reopened(again).trials[before].params) == written
    assert [*ended.values(), *play(again, 3).values()] == whole


def test_a_cohort_that_a_killed_process_did_not_finish_asking_for_is_completed(tmp_path):
    whole = play(begin(tmp_path / "whole", cohort=4), 8)
    broken = begin(tmp_path / "broken", cohort=4)
    for _ in range(2):
        broken.study.sampler = sampler_for(broken.plan, next_number(broken.study))
        trial, values = broken.study.ask(), {}
        for part in broken.plan.space.parts:
            if part.applies(values):
                values[part.name] = suggest_value(trial, part.key, part.domain)
    again = play(begin(tmp_path / "broken", cohort=4), 8)
    assert [again[label] for label in sorted(again)[:8]] == [whole[label] for label in sorted(whole)[:8]]


def test_what_is_asked_for_together_trains_in_groups_of_one_structure(tmp_path):
    searcher = begin(tmp_path, cohort=8, trials=10, space=COARSE)
    asked = []
    while (config := searcher.suggest(f"t{len(asked)}")) != Searcher.FINISHED:
        asked.append(asked_in(config))
    assert sum(map(len, asked)) == 10
    assert max(map(len, asked)) > 1
    for group in asked:
        assert len({(values["optimizer"], values["epochs"]) for values in group.values()}) == 1
    # The groups of eight come before anything else is asked for.
    labels = [label for group in asked for label in group]
    assert {*labels[:8]} == {trial_label(number) for number in range(8)}
    # One group that ends leaves the others as they are.
    first = next(iter(asked[0]))
    searcher.on_trial_complete("t0", error=True)
    states = {trial_label(t.number): t.state for t in reopened(searcher).trials}
    assert states.pop(first) is TrialState.FAIL
    gone = {*asked[0]}
    assert {state for label, state in states.items() if label not in gone} == {TrialState.RUNNING}


def not_in_the_middle(config):
    """A rule that no example of a space shows: ends are fine."""
    middle = 0.3 < config.momentum < 0.6
    return [Refusal("ends-only", f"momentum: must not be in the middle; got {config.momentum:g}")] if middle else []


@pytest.fixture
def _picky():
    register(Method("picky", "Picky", rules=(not_in_the_middle,)))


@pytest.mark.usefixtures("_picky")
@pytest.mark.parametrize("cohort", [1, 5])
def test_a_refused_suggestion_is_a_failed_trial_and_the_search_goes_on(tmp_path, cohort):
    settings = {"algorithm": "picky", "cohort": cohort, "trials": 20, "sampler": "qmc"}
    settings["space"] = {"momentum": Range(0.1, 0.9), "learning_rate": LogRange(1e-3, 1)}
    searcher, asked = begin(tmp_path, **settings), {}
    while (config := searcher.suggest(f"t{len(asked)}")) != Searcher.FINISHED:
        asked |= asked_in(config)
    refused = searcher.host.refused
    assert 3 <= len(refused) <= 12
    assert {*asked, *refused} == {trial_label(number) for number in range(20)}
    assert not {*asked} & {*refused}
    for trial in reopened(searcher).trials:
        label = trial_label(trial.number)
        assert (0.3 < trial.params["momentum"] < 0.6) is (label in refused)
        assert trial.state is (TrialState.PRUNED if label in refused else TrialState.RUNNING)
    reason = next(iter(refused.values()))
    assert reason.startswith("the configuration is refused: momentum: must not be in the middle; got 0.")
    # One that Optuna knows to be refused and whose record was not written is recorded, and not told again.
    again = begin(tmp_path, **settings)
    while again.unfinished:
        again.suggest(f"u{len(again.unfinished)}")
    assert again.host.refused == refused


def test_references_take_what_they_share_with_the_best_trial_and_applies_to_it(tmp_path):
    space = [
        {"distance": Choice("kl", "mse"), "optimizer": Choice("sgd", "adam"), "epochs": IntRange(1, 3)},
        When("distance", "kl", {"hidden": Choice((8,), (12,)), "distillation_temperature": Range(1, 4)}),
        When("distance", "mse", {"hidden": Choice((20,), (30,))}),
        When("optimizer", "sgd", {"momentum": Range(0.1, 0.9)}),
    ]
    for optimizer, distance in (("adam", "kl"), ("sgd", "mse"), ("sgd", "kl")):
        searcher = begin(tmp_path / optimizer / distance, space=space, references=("finetuning", "joint"), trials=24)
        best = None
        for number in range(24):
            ((label, values),) = asked_in(searcher.suggest(f"t{number}")).items()
            wanted = (values["optimizer"], values["distance"]) == (optimizer, distance) and best is None
            best = values if wanted else best
            report = report_of(label, 3, 0.9 if wanted else 0.5, done=True)
            searcher.on_trial_complete(f"t{number}", result_of(report, done=True))
        assert best is not None
        shared = {key: value for key, value in best.items() if not key.startswith("dist")}
        assert ("momentum" in shared) == (optimizer == "sgd")
        assert asked_in(searcher.suggest("r")) == {"reference_finetuning": shared}
        config = searcher.plan.trial_config(best, "finetuning")
        assert to_plain(config.hidden) == shared["hidden"]
        assert asked_in(searcher.suggest("s")) == {"reference_joint": shared}


def test_the_journal_of_such_a_space_is_made_again_from_the_records(tmp_path):
    searcher = begin(tmp_path)
    plan, writer = searcher.plan, StudyWriter(searcher.plan)
    reasons = {3: "training diverged in epoch 1 of task 2", 4: "the configuration is refused: why", 5: "out of memory"}
    for number in range(8):
        ((label, values),) = asked_in(searcher.suggest(f"t{number}")).items()
        state = "failed" if number in reasons else "running" if number == 7 else "finished"
        learned = {"failed": 0, "running": 2}.get(state, 3)
        record = record_of(plan, number, [score_of(values)] * 3, values, state=state, learned=learned)
        record = writer.write_trial(replace(record, reason=reasons.get(number, "")))
        report = report_of(label, learned, record.metrics.get("average_accuracy"), failed=record.reason, done=True)
        for task in range(1, learned):
            earlier = metrics_after(record, task)["average_accuracy"]
            searcher.on_trial_result(f"t{number}", result_of(report_of(label, task, earlier)))
        if state == "running":
            searcher.on_trial_result(f"t{number}", result_of(report_of(label, 2, record.metrics["average_accuracy"])))
        elif number == 5:
            searcher.on_trial_complete(f"t{number}", error=True)
        else:
            searcher.on_trial_complete(f"t{number}", result_of(report, done=True))
    before, journal = reopened(searcher).trials, plan.folder / JOURNAL
    journal.unlink()
    said = []
    study = open_storage(plan, said.append)
    assert "made again" in said[0]
    assert not find_difference(study, plan, read_numbered(plan))
    for old, new in zip(before, study.trials, strict=True):
        for part in ("number", "state", "params", "distributions", "values", "intermediate_values", "user_attrs"):
            assert getattr(new, part) == getattr(old, part), (old.number, part)
    ended = {trial_label(number): {} for number in range(7)}
    again = OptunaSearcher(plan, study, Host(), ended)
    assert asked_in(again.suggest("u")) == {"trial_00007": values_of(plan.space, before[7].params)}
