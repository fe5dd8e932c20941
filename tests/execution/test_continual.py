"""The continual protocol: single attempts against the training core, whole decisions against De Lange et al. 2021's
Algorithm 1 written out in plain Python.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import ray
import torch

from clsearch import LogRange, Study
from clsearch.config.trial import TrialConfig
from clsearch.data.datasets import Data, read_data
from clsearch.execution import continual
from clsearch.execution.continual import _attempt, decide
from clsearch.methods.registry import configure
from clsearch.planning.plan import Plan
from clsearch.records.attempts import Attempt, Decision, attempt_metrics, decision_json
from clsearch.records.study_file import finite
from clsearch.tasks.samples import Samples
from clsearch.training.loop import DivergedError, learn_sequence, learn_task, train_task
from clsearch.training.state import TrialState
from clsearch.training.trial_setup import TrialSetup, build_trial
from tests.helpers import CPU, everything, forward, member_of, same_params

pytestmark = pytest.mark.slow

SPACES = {
    "finetuning": {},
    "lwf": {"distillation_factor": LogRange(0.1, 1000)},
    "ewc": {"penalty_factor": LogRange(0.1, 1000)},
    "lwf_ewc": {"distillation_factor": LogRange(0.1, 300), "penalty_factor": LogRange(0.1, 10000)},
}
RATES = (0.03, 0.3)
ANYTHING = -math.inf
"""A bar that every accuracy reaches."""


def plan_of(algorithm: str = "lwf", **settings: Any) -> Plan:
    own = {"hidden": (16,), "epochs": 1, "seeds": 2, "learning_rates": RATES, "space": SPACES[algorithm]}
    return Study(algorithm=algorithm, protocol="continual", **(own | settings)).plan


def data_of(plan: Plan) -> Data:
    return read_data(plan.config.source, None)


def attempt(
    plan: Plan,
    values: dict[str, float],
    before: bytes | None = None,
    plain: bool = False,
    bar: float | None = ANYTHING,
    data: Data | None = None,
) -> tuple[tuple[float, ...], bytes | None]:
    """Accuracies and the state of an attempt in this process, on one thread."""
    data = data or data_of(plan)
    (found, seconds), after = _attempt(CPU, plan.config, plan.seeds, data, before, values, plain, bar)
    assert seconds > 0
    return found, after


def unpacked(plan: Plan, packed: bytes | None) -> TrialState:
    assert packed is not None
    run = build_trial(plan.config, plan.seeds)
    return TrialState.unpacked(packed, run.fingerprint, run.device)


def config_of(plan: Plan, values: dict[str, float], algorithm: str | None = None) -> TrialConfig:
    """The configuration of plain training: every value in the configuration itself."""
    return plan.trial_config(values, algorithm)


VALUES: dict[str, dict[str, float]] = {
    "finetuning": {"learning_rate": 0.2},
    "lwf": {"learning_rate": 0.2, "distillation_factor": 3.0},
    "ewc": {"learning_rate": 0.2, "penalty_factor": 2.0},
    "lwf_ewc": {"learning_rate": 0.2, "distillation_factor": 3.0, "penalty_factor": 2.0},
}
"""Values that train without diverging."""


# One attempt


@pytest.mark.parametrize("settings", [{}, {"optimizer": "adam", "learning_rate": 0.01, "optimizer_state": "keep"}])
@pytest.mark.parametrize("algorithm", SPACES)
def test_a_plain_attempt_is_finetuning_from_the_current_model(algorithm: str, settings: dict[str, Any]) -> None:
    plan = plan_of(algorithm, **settings)
    values = VALUES[algorithm] | ({"learning_rate": 0.01} if settings else {})
    finetuning = build_trial(config_of(plan, {"learning_rate": values["learning_rate"]}, "finetuning"), plan.seeds)
    before: bytes | None = None
    for task in (1, 2, 3):
        state = finetuning.initial_state()
        if before is not None:
            current = unpacked(plan, before)
            state = replace(state, tasks_learned=task - 1, params=current.params, moments=current.moments)
        expected = learn_task(finetuning, state)
        found, after = attempt(plan, {"learning_rate": values["learning_rate"]}, before, plain=True)
        assert found == tuple(expected.accuracy[:, task, task - 1].tolist())
        assert same_params(unpacked(plan, after).params, expected.params)
        assert same_params(unpacked(plan, after).moments, expected.moments)
        _, before = attempt(plan, values, before)


@pytest.mark.parametrize("algorithm", SPACES)
def test_attempts_one_after_the_other_are_the_method_with_those_numbers(algorithm: str) -> None:
    plan, before, found = plan_of(algorithm), None, []
    for _ in plan.tasks:
        accuracies, before = attempt(plan, VALUES[algorithm], before)
        found.append(accuracies)
    expected = learn_sequence(build_trial(config_of(plan, VALUES[algorithm]), plan.seeds))
    diagonal = expected.accuracy[:, 1:].diagonal(dim1=1, dim2=2)
    assert torch.equal(torch.tensor(found, dtype=torch.float64).T, diagonal)
    state = unpacked(plan, before)
    assert state.tasks_learned == 5
    assert same_params(state.params, expected.params)
    assert same_params(state.memory, expected.memory)
    if algorithm != "finetuning":  # the regularizers do act at these values
        plain = learn_sequence(build_trial(config_of(plan, {"learning_rate": 0.2}, "finetuning"), plan.seeds))
        assert not same_params(plain.params, expected.params)


@pytest.mark.parametrize("scenario", ["domain", "class"])
def test_values_may_differ_from_task_to_task(scenario: str) -> None:
    plan, before, state = plan_of("lwf_ewc", scenario=scenario), None, None
    for task, (rate, factor, penalty) in enumerate([(0.2, 9.0, 9.0), (0.05, 4.0, 1.0), (0.1, 0.5, 7.0)], start=1):
        values = {"learning_rate": rate, "distillation_factor": factor, "penalty_factor": penalty}
        found, before = attempt(plan, values, before)
        state = learn_task(build_trial(config_of(plan, values), plan.seeds), state or unlearned(plan))
        assert found == tuple(state.accuracy[:, task, task - 1].tolist())
    assert same_params(unpacked(plan, before).params, state.params)
    assert same_params(unpacked(plan, before).memory, state.memory)


def unlearned(plan: Plan) -> TrialState:
    return build_trial(plan.config, plan.seeds).initial_state()


def test_an_attempt_tells_nothing_of_earlier_or_later_tasks() -> None:
    plan = plan_of("lwf_ewc")
    _, before = attempt(plan, VALUES["lwf_ewc"])
    _, before = attempt(plan, VALUES["lwf_ewc"], before)
    assert unpacked(plan, before).accuracy.isnan().all()


class Sealed(Samples):
    """Samples of a task that is not the current one."""

    def take(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        raise AssertionError("read samples of another task")


def with_sealed(run: TrialSetup, current: int) -> TrialSetup:
    """A run whose tasks cannot be read, but the current one."""
    tasks = [
        task
        if task.index == current
        else replace(task, train=Sealed(**vars(task.train)), validation=Sealed(**vars(task.validation)))
        for task in run.benchmark.tasks
    ]
    return replace(run, benchmark=replace(run.benchmark, tasks=tuple(tasks)))


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
@pytest.mark.parametrize("algorithm", SPACES)
def test_only_the_current_tasks_data_is_read(algorithm: str, scenario: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, before, build = plan_of(algorithm, scenario=scenario), None, continual.build_trial
    for task in (1, 2, 3):
        with monkeypatch.context() as patched:
            patched.setattr(continual, "build_trial", lambda *args, t=task: with_sealed(build(*args), t))
            for plain in (True, False):
                values = VALUES[algorithm] if not plain else {"learning_rate": 0.2}
                found, after = attempt(plan, values, before, plain)
                assert len(found) == 2
        before = after
    with pytest.raises(AssertionError, match="another task"):  # as a trial does, which measures all tasks
        learn_task(with_sealed(build(plan.config, plan.seeds), 4), unpacked(plan, before))


def test_what_other_tasks_hold_makes_no_difference() -> None:
    plan = plan_of("lwf_ewc")
    data = data_of(plan)
    noise = np.random.default_rng(0).integers(0, 17, data.inputs.shape).astype(data.inputs.dtype)
    others = ~np.isin(data.labels, [2, 3])  # the second task's classes
    changed = replace(data, inputs=np.where(others[:, None], noise, data.inputs))
    _, before = attempt(plan, VALUES["lwf_ewc"])
    (found, after), (other, other_after) = (attempt(plan, VALUES["lwf_ewc"], before, data=d) for d in (data, changed))
    assert found == other
    assert same_params(unpacked(plan, after).params, unpacked(plan, other_after).params)
    first, _ = attempt(plan, VALUES["lwf_ewc"], data=changed)
    assert first != attempt(plan, VALUES["lwf_ewc"])[0]  # the first task's own data is noise, so this one sees it


@pytest.mark.parametrize("plain", [True, False])
def test_training_that_diverges_gives_neither_accuracies_nor_a_state(plain: bool) -> None:
    plan = plan_of()
    found, after = attempt(plan, {"learning_rate": 1e30}, plain=plain)
    assert (found, after) == ((), None)


def test_the_state_is_kept_where_the_mean_reaches_the_bar() -> None:
    plan = plan_of()
    found, _ = attempt(plan, VALUES["lwf"])
    mean = math.fsum(found) / len(found)
    assert min(found) < mean
    assert attempt(plan, VALUES["lwf"], bar=mean)[1] is not None
    assert attempt(plan, VALUES["lwf"], bar=mean + 1e-9) == (found, None)
    assert attempt(plan, VALUES["lwf"], bar=None) == (found, None)


# Attempts and decisions as values


def of(task: int, phase: str, accuracies: Sequence[float], kept: bool = False, **values: float) -> Attempt:
    bar = 0.7 if phase == "method" else None
    return Attempt(task, phase, values, tuple(accuracies), bar, 2, 1.5, kept)


def test_an_attempts_accuracy_is_the_mean_over_seeds() -> None:
    assert of(1, "method", [0.5, 0.75]).accuracy == 0.625
    assert of(1, "method", []).accuracy == -math.inf


def test_a_decision_keeps_its_attempts_in_order_with_those_that_were_chosen() -> None:
    low, high = (of(1, "learning_rate", [a, a], learning_rate=r) for a, r in ((0.5, 0.01), (0.9, 0.1)))
    first, second = (of(1, "method", [a, a], learning_rate=0.1, penalty_factor=f) for a, f in ((0.6, 8.0), (0.8, 4.0)))
    decision = (
        Decision().with_attempts(low, high).with_kept(high).with_attempts(first).with_attempts(second).with_kept(second)
    )
    assert [a.kept for a in decision.attempts] == [False, True, False, True]
    assert [a.values for a in decision.attempts] == [low.values, high.values, first.values, second.values]
    assert [a.values for a in decision.kept] == [second.values]  # the method's alone
    assert decision.choice is None


def test_of_equal_attempts_the_one_that_was_meant_is_kept() -> None:
    same = [of(1, "method", [0.9, 0.9], penalty_factor=8.0) for _ in range(2)]
    decision = Decision().with_attempts(*same).with_kept(same[1])
    assert [a.kept for a in decision.attempts] == [False, True]


def test_every_attempt_costs_a_training_on_each_seed_also_one_that_diverged() -> None:
    decision = Decision().with_attempts(
        of(1, "learning_rate", [0.5, 0.5]), of(1, "learning_rate", []), of(1, "method", [1, 1])
    )
    assert (decision.cost.task_trainings, decision.cost.seconds) == (6, 4.5)


def test_the_table_has_a_row_per_attempt() -> None:
    decision = Decision().with_attempts(
        of(1, "learning_rate", [0.5, 0.7], True, learning_rate=0.1),
        of(1, "method", [], learning_rate=0.1, penalty_factor=8.0),
        of(1, "method", [0.8, 0.9], True, learning_rate=0.1, penalty_factor=4.0),
    )
    table = decision.table((3, 4))
    names = ["task", "phase", "learning_rate", "accuracy", "bar", "kept", "seconds", "penalty_factor", "when"]
    assert sorted(table.columns) == sorted([*names, "accuracy/seed_3", "accuracy/seed_4"])
    np.testing.assert_allclose(table["accuracy/seed_4"], [0.7, math.nan, 0.9])
    assert list(table.phase) == ["learning_rate", "method", "method"]
    np.testing.assert_allclose(table.accuracy, [0.6, math.nan, 0.85])
    np.testing.assert_allclose(table.bar.astype(float), [math.nan, 0.7, 0.7])
    np.testing.assert_allclose(table.penalty_factor, [math.nan, 8.0, 4.0])
    assert list(table.kept) == [True, False, True]


def test_mlflow_is_shown_what_a_task_chose_its_bar_and_how_many_attempts_it_took() -> None:
    attempts = [of(1, "method", [1, 1]), of(2, "learning_rate", [0.5, 0.5]), of(2, "method", [0.4, 0.4])]
    last = of(2, "method", [0.75, 0.85], True, learning_rate=0.1, penalty_factor=4.0)
    assert attempt_metrics(last, Decision().with_attempts(*attempts, last)) == {
        "learning_rate": 0.1,
        "penalty_factor": 4.0,
        "bar": 0.7,
        "accuracy": pytest.approx(0.8),
        "attempts": 3.0,
    }


def test_best_json_of_an_undecided_study_says_why() -> None:
    plan = plan_of()
    kept = of(1, "method", [0.9, 0.9], True, learning_rate=0.1, distillation_factor=4.0)
    content = decision_json(plan, Decision((kept,), reason="every learning rate diverged at task 2"))
    assert json.loads(json.dumps(finite(content), allow_nan=False)) == {
        "label": None,
        "reason": "every learning rate diverged at task 2",
        "values": {},
        "config": {  # what all tasks share
            name: value
            for name, value in json.loads(json.dumps(plan.config.flat())).items()
            if name not in ("learning_rate", *plan.space)
        },
        "per_task": [{"learning_rate": 0.1, "distillation_factor": 4.0}],
        "seeds": [0, 1],
        "cost": {"task_trainings": 2, "seconds": 1.5, "shared": 0, "saved": 0.0},
        "scores": {},
    }


# Whole decisions, in Ray's workers


def accuracy_of(run: TrialSetup, params: dict[str, torch.Tensor], task: int) -> tuple[float, ...]:
    """Validation accuracy on a task right after learning it, of each seed, by plain linear layers."""
    own = run.benchmark.tasks[task - 1]
    answers = torch.tensor(run.benchmark.active_outputs(task, task))
    found = []
    for m in range(len(run.seeds)):
        inputs, labels = everything(own.validation, m)
        chosen = answers[forward(member_of(params, m), inputs)[:, answers].argmax(1)]
        found.append((chosen == labels).double().mean().item())
    return tuple(found)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else -math.inf


PLAIN = set(configure("finetuning", {"epochs": 1}).flat())


def retrained(
    plan: Plan, task: int, model: TrialState | None, algorithm: str, values: dict[str, float]
) -> tuple[TrialSetup, TrialState | None]:
    """A run of its own, built from a configuration that has the numbers, and its state after a task; None where it
    diverged. model: what the task before left.
    """
    settings = {name: value for name, value in plan.config.flat().items() if value is not None} | values
    run = build_trial(
        configure(algorithm, {k: v for k, v in settings.items() if algorithm != "finetuning" or k in PLAIN}),
        plan.seeds,
    )
    state = run.initial_state()
    if model is not None:
        memory = {} if algorithm == "finetuning" else model.memory
        state = replace(state, tasks_learned=task - 1, params=model.params, moments=model.moments, memory=memory)
    try:
        return run, train_task(run, state, run.benchmark.tasks[task - 1])
    except DivergedError:
        return run, None


def replayed(plan: Plan, tops: dict[str, float]) -> list[tuple[int, str, dict[str, float], tuple[float, ...], bool]]:
    """De Lange et al. 2021, Algorithm 1, with p = 0.2 and factors that halve: (task, phase, values, accuracies, kept).
    Nothing of `continual` is used.
    """
    found, model = [], None
    for task in plan.tasks:
        coarse = []  # phase 1: maximal plasticity
        for rate in plan.rates:
            run, state = retrained(plan, task, model, "finetuning", {"learning_rate": rate})
            coarse.append((rate, () if state is None else accuracy_of(run, state.params, task)))
        best, reached = max(coarse, key=lambda entry: mean(entry[1]))
        found += [(task, "learning_rate", {"learning_rate": r}, a, r == best) for r, a in coarse]
        factors = dict(tops)  # phase 2: stability decay
        for halvings in range(11):
            values = {"learning_rate": best} | factors
            run, state = retrained(plan, task, model, plan.algorithm, values)
            got = () if state is None else accuracy_of(run, state.params, task)
            done = mean(got) >= 0.8 * mean(reached) or halvings == 10 or not factors
            found.append((task, "method", values, got, done))
            if done:
                break
            factors = {name: value / 2 for name, value in factors.items()}
        assert state is not None
        memory = state.memory
        for regularizer in run.regularizers:
            own = run.benchmark.tasks[task - 1]
            memory = regularizer.remember(run.network, run.benchmark, own, state.params, memory)
        model = replace(state, memory=memory)
    return found


def told(attempts: Sequence[Attempt]) -> list[tuple[int, str, dict[str, float], tuple[float, ...], bool]]:
    return [(a.task, a.phase, a.values, a.accuracies, a.kept) for a in attempts]


@pytest.fixture(scope="module")
def decided(ray_session: str) -> Callable[[Plan], list[Decision]]:
    """All that a plan's decisions give on the way."""

    def run(plan: Plan) -> list[Decision]:
        return list(decide(plan, ray.put(data_of(plan))))

    return run


@pytest.fixture(scope="module")
def lwf(decided: Callable[[Plan], list[Decision]]) -> list[Decision]:
    return decided(plan_of())


def method(decision: Decision, task: int) -> list[Attempt]:
    return [a for a in decision.attempts if a.task == task and a.phase == "method"]


def test_every_attempt_of_lwf_is_that_of_de_langes_framework(lwf: list[Decision]) -> None:
    plan, last = plan_of(), lwf[-1]
    expected = replayed(plan, {"distillation_factor": 1000.0})
    assert told(last.attempts) == expected
    kept = [(values, accuracies) for _, phase, values, accuracies, kept in expected if kept and phase == "method"]
    assert last.choice is not None
    assert last.choice.per_task == tuple(values for values, _ in kept)
    assert last.choice.scores == {"learning_accuracy": pytest.approx(np.mean([a for _, a in kept]))}
    assert (last.choice.label, last.choice.values, last.reason) == ("continual", {}, "")


def test_every_bar_is_80_percent_of_the_best_plain_accuracy(lwf: list[Decision]) -> None:
    for task in range(1, 6):
        plain = [a for a in lwf[-1].attempts if a.task == task and a.phase == "learning_rate"]
        assert [a.bar for a in plain] == [None, None]
        best = max(np.mean(a.accuracies) for a in plain)
        assert [a.bar for a in method(lwf[-1], task)] == pytest.approx([0.8 * best] * len(method(lwf[-1], task)))


def test_halving_stops_at_the_first_attempt_that_reaches_the_bar(lwf: list[Decision]) -> None:
    halved = 0
    for task in range(1, 6):
        own = method(lwf[-1], task)
        assert [np.mean(a.accuracies) >= a.bar for a in own] == [False] * (len(own) - 1) + [True]
        assert [a.kept for a in own] == [False] * (len(own) - 1) + [True]
        halved += len(own) > 1
    assert halved >= 2  # some tasks need less stability than the top gives


def test_every_task_begins_at_the_top_again(lwf: list[Decision]) -> None:
    for task in range(1, 6):
        own = [a.values["distillation_factor"] for a in method(lwf[-1], task)]
        assert own == [1000 / 2**n for n in range(len(own))]


def test_the_method_trains_at_the_best_rate(lwf: list[Decision]) -> None:
    for task in range(1, 6):
        plain = {a.values["learning_rate"]: a for a in lwf[-1].attempts if a.task == task and a.bar is None}
        best = max(plain, key=lambda rate: np.mean(plain[rate].accuracies))
        assert {a.values["learning_rate"] for a in method(lwf[-1], task)} == {best}
        assert plain[best].kept
        assert sum(a.kept for a in plain.values()) == 1


def test_the_cost_is_every_attempt_on_every_seed(lwf: list[Decision]) -> None:
    last = lwf[-1]
    assert len(last.attempts) > 5 * (2 + 1)
    assert last.cost.task_trainings == 2 * len(last.attempts)
    assert last.cost.seconds == pytest.approx(sum(a.seconds for a in last.attempts))
    assert min(a.seconds for a in last.attempts) > 0


def test_decisions_grow_and_only_the_last_has_a_choice(lwf: list[Decision]) -> None:
    for earlier, later in pairwise(lwf):
        n = len(earlier.attempts)
        assert [replace(a, kept=False) for a in earlier.attempts] == [
            replace(a, kept=False) for a in later.attempts[:n]
        ]
        assert (earlier.choice, earlier.reason) == (None, "interrupted")
    told_at = {len(d.attempts) for d in lwf}
    ends = {n for n, a in enumerate(lwf[-1].attempts, start=1) if a.phase == "method"}
    assert ends <= told_at  # every attempt of the method is told as it ends


def test_two_factors_are_halved_together(decided: Callable[[Plan], list[Decision]]) -> None:
    plan = plan_of("lwf_ewc", tasks=3, classes_per_task=(2, 2, 2))
    last = decided(plan)[-1]
    assert told(last.attempts) == replayed(plan, {"distillation_factor": 300.0, "penalty_factor": 10000.0})
    assert max(len(method(last, task)) for task in (1, 2, 3)) > 1
    for task in (1, 2, 3):
        pairs = [(a.values["distillation_factor"], a.values["penalty_factor"]) for a in method(last, task)]
        assert pairs == [(300 / 2**n, 10000 / 2**n) for n in range(len(pairs))]


def test_an_attempt_that_diverges_is_halved_like_one_that_learns_too_little(
    decided: Callable[[Plan], list[Decision]],
) -> None:
    plan = plan_of("ewc", scenario="domain", epochs=5, tasks=5)
    last = decided(plan)[-1]
    expected = replayed(plan, {"penalty_factor": 1000.0})
    assert told(last.attempts) == expected
    assert any(not accuracies for *_, accuracies, _ in expected)
    assert last.choice is not None


def test_of_eleven_attempts_that_all_learn_too_little_the_last_is_kept_and_gone_on_from(
    decided: Callable[[Plan], list[Decision]],
) -> None:
    """A penalty so strong that the model stays where it is; Adam's steps are bounded, so nothing diverges."""
    adam = {"optimizer": "adam", "learning_rate": 0.01, "learning_rates": (0.03,)}
    plan = plan_of("ewc", scenario="domain", space={"penalty_factor": LogRange(0.1, 1e9)}, **adam)
    last = decided(plan)[-1]
    assert told(last.attempts) == replayed(plan, {"penalty_factor": 1e9})
    for task in (2, 3):
        own = method(last, task)
        assert len(own) == 11
        assert all(np.mean(a.accuracies) < a.bar for a in own)
        assert [a.kept for a in own] == [False] * 10 + [True]
    assert last.choice is not None
    assert last.choice.per_task[1]["penalty_factor"] == 1e9 / 2**10


def test_finetuning_has_one_attempt_per_task(decided: Callable[[Plan], list[Decision]]) -> None:
    plan = plan_of("finetuning", tasks=3)
    last = decided(plan)[-1]
    assert told(last.attempts) == replayed(plan, {})
    assert [len(method(last, task)) for task in (1, 2, 3)] == [1, 1, 1]
    assert last.cost.task_trainings == 2 * 3 * (2 + 1)
    plain = [a.accuracies for a in last.attempts if a.kept and a.phase == "learning_rate"]
    assert [a.accuracies for a in last.kept] == plain  # the same training again


def test_where_every_rate_diverges_nothing_is_chosen(decided: Callable[[Plan], list[Decision]]) -> None:
    last = decided(plan_of(learning_rates=(1e29, 1e30)))[-1]
    assert (last.choice, last.reason) == (None, "every learning rate diverged at task 1")
    assert [a.accuracies for a in last.attempts] == [(), ()]
    assert last.cost.task_trainings == 4


def test_where_every_factor_diverges_nothing_is_chosen(decided: Callable[[Plan], list[Decision]]) -> None:
    space = {"distillation_factor": LogRange(0.1, 1e30)}
    last = decided(plan_of(scenario="domain", space=space, learning_rates=(0.3,)))[-1]
    assert (last.choice, last.reason) == (None, "the last factor tried diverged at task 2")
    assert [len(a.accuracies) for a in method(last, 2)] == [0] * 11
    assert [a.kept for a in method(last, 2)] == [False] * 11
    assert len(last.kept) == 1
