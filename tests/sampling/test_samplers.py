"""Samplers by name and as objects, over spaces of every kind; constraints as Optuna learns of them."""

from collections import Counter

import optuna
import pytest
from optuna.trial import TrialState

from clsearch import Choice, IntRange, LogRange, Range, When
from clsearch.execution.searcher import trial_label
from clsearch.records.study_file import JOURNAL, description
from clsearch.sampling.journal import open_storage
from clsearch.sampling.samplers import CONSTRAINTS, sampler_for
from tests.builders import plan_of
from tests.execution.reports import FlatSearcher
from tests.execution.test_searcher import TWO, Host, ask, begin, continued, played, reopened, result
from tests.sampling import test_journal

__all__ = ["begin"]

NUMBERS = {"learning_rate": LogRange(1e-3, 1), "epochs": IntRange(1, 8)}
MIXED = NUMBERS | {"optimizer": Choice("sgd", "adam", "adamw")}
CONDITIONAL = [MIXED, When("optimizer", "sgd", {"momentum": Range(0, 0.9)})]
SPACES = {
    "tpe": CONDITIONAL,
    "random": CONDITIONAL,
    "qmc": CONDITIONAL,
    "gp": MIXED,
    "nsga2": MIXED,
    "nsga3": MIXED,
    "cmaes": NUMBERS,
}
"""Sampler -> the richest space that it serves; a grid is asked point by point (test_searcher)."""


def settings_of(sampler, **more):
    aims = {"objectives": TWO} if sampler.startswith("nsga") else {}
    return {"algorithm": "finetuning", "sampler": sampler, "epochs": None, "trials": 14} | aims | more


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SPACES)
def test_a_search_of_numbers_choices_and_conditions_goes_on_as_an_unbroken_one(begin, sampler):
    straight, broken = (begin(folder, **settings_of(sampler, space=SPACES[sampler])) for folder in "ab")
    expected, first = played(straight, 14), played(broken, 12)
    again = continued(broken, {trial_label(i): values for i, values in enumerate(first)})
    assert first + played(again, 2) == expected
    assert all(straight.plan.space.has(values) for values in expected)
    if sampler not in ("nsga2", "nsga3"):  # whose children can be like a parent
        assert len({tuple(values.values()) for values in expected}) == 14


def test_qmc_spreads_over_choices_and_conditional_parts(begin):
    searcher = begin(**settings_of("qmc", space=CONDITIONAL, trials=49))
    found = ask(searcher, 49)[1:]
    counts = Counter(values["optimizer"] for values in found)
    assert {name: round(count / 16, 1) for name, count in counts.items()} == {"sgd": 1.0, "adam": 1.0, "adamw": 1.0}
    halves = Counter(values["momentum"] < 0.45 for values in found if "momentum" in values)
    assert abs(halves[True] - halves[False]) <= 4  # chance would be that even in half of all searches


@pytest.mark.slow
def test_what_cmaes_remembers_is_derived_again_from_the_records(tmp_path):
    plan, other = (
        test_journal.begin(tmp_path / name, "cmaes", ("finished",) * 14 + ("running",), trials=20) for name in "ab"
    )
    before = [{*trial.system_attrs} for trial in open_storage(plan).trials]
    assert sum(any("optimizer" in name for name in known) for known in before) == 2  # two generations
    (plan.folder / JOURNAL).unlink()
    assert [{*trial.system_attrs} for trial in open_storage(plan).trials] == before
    assert test_journal.proposals(plan) == test_journal.proposals(other)


def test_a_sampler_of_the_script_is_used_as_it_is(begin):
    own = optuna.samplers.TPESampler(n_startup_trials=5, seed=3)
    searcher = begin(sampler=own)
    assert sampler_for(searcher.plan, 0) is own
    ask(searcher, 1)
    assert searcher.study.sampler is own
    assert description(searcher.plan)["sampler"] == "TPESampler(n_startup_trials=5)"


def test_a_pruner_of_the_script_decides(begin):
    own = optuna.pruners.ThresholdPruner(lower=0.5)
    searcher = begin(pruner=own, trials=2)
    ask(searcher, 2)
    assert searcher.should_stop("t0", result(1, 0.4))
    assert not searcher.should_stop("t1", result(1, 0.6))
    assert reopened(searcher).trials[0].state is TrialState.PRUNED
    assert description(searcher.plan)["pruner"].startswith("ThresholdPruner(lower=0.5")


LIMITS = {"average_forgetting": 0.25, "average_accuracy": 0.5}


def test_optuna_learns_how_far_a_finished_trial_is_from_its_constraints(begin):
    searcher = begin(constraints=LIMITS, sampler="tpe")
    ask(searcher, 2)
    searcher.on_trial_complete("t0", result(3, 0.75, 0.5))
    searcher.on_trial_complete("t1", result(1, 0.1, 0.5) | {"failed": "diverged"})
    found = reopened(searcher).trials
    assert found[0].system_attrs[CONSTRAINTS] == [0.25, -0.25]
    assert CONSTRAINTS not in found[1].system_attrs or list(found[1].system_attrs[CONSTRAINTS]) == []


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsga2"])
def test_samplers_learn_from_constraints(begin, sampler):
    """Accuracy grows with the factor, and so does forgetting, which must stay below that of factor 1."""
    more = {"objectives": TWO} if sampler == "nsga2" else {}
    searcher = begin(sampler=sampler, constraints={"average_forgetting": 0.5}, trials=32, **more)
    feasible = []
    for i in range(32):
        (values,) = ask(searcher, 1)
        share = values["distillation_factor"] / (1 + values["distillation_factor"])
        feasible.append(share < 0.6)  # the best of what is allowed is at its edge
        searcher.on_trial_complete(f"t{i}", result(3, share, share))
    assert sum(feasible[16:]) >= 10  # at random 8, without the constraint none


def test_a_journal_made_again_has_the_constraints(tmp_path):
    more = {"constraints": {"average_forgetting": 0.0}}
    plan = test_journal.begin(tmp_path, "tpe", ("finished", "pruned"), **more)
    before = [trial.system_attrs.get(CONSTRAINTS) for trial in open_storage(plan).trials]
    assert before[0] is not None
    (plan.folder / JOURNAL).unlink()
    again = [trial.system_attrs.get(CONSTRAINTS) for trial in open_storage(plan).trials]
    assert again[0] == before[0]
    assert not again[1]


def test_a_plan_with_a_sampler_of_its_own_is_searched_by_no_other(tmp_path):
    plan = plan_of(tmp_path, sampler=optuna.samplers.RandomSampler(seed=1), trials=3, references=())
    other = FlatSearcher(plan, open_storage(plan), Host())
    expected = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1)).ask()
    value = expected.suggest_float("distillation_factor", 0.01, 100, log=True)
    assert ask(other, 1)[0]["distillation_factor"] == value
