"""Unlearning: what is subtracted, what is dropped, and that it then is as if it had never been learned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from clsearch import metrics
from clsearch.config.trial import TrialConfig
from clsearch.config.unlearning import count_retraining, unlearned_by
from clsearch.methods.registry import configure
from clsearch.networks.mlp import Params
from clsearch.training import loop
from clsearch.training.evaluation import measure_accuracy
from clsearch.training.loop import learn_sequence, learn_task, train_step, train_task
from clsearch.training.retraining import retrain
from clsearch.training.state import TrialState
from clsearch.training.trial_setup import TrialSetup, build_trial
from clsearch.training.unlearning import feature_distance, unlearn
from tests.helpers import in_turn, pairs
from tests.refusals import broken

pytestmark = pytest.mark.slow

ALGORITHMS = ("amnesiac_finetuning", "amnesiac_lwf", "amnesiac_ewc")
SCENARIOS = ("task", "domain", "class")
COHORTS = ((4,), (0, 1, 2))
NUMBERS = {"amnesiac_lwf": {"distillation_factor": 2.0}, "amnesiac_ewc": {"penalty_factor": 1.0}}

everywhere = pytest.mark.parametrize(
    ("algorithm", "scenario", "seeds"),
    pairs(ALGORITHMS, SCENARIOS, COHORTS),
    ids=lambda value: str(len(value)) if isinstance(value, tuple) else value,
)


def config_of(algorithm: str, scenario: str = "task", **settings: object) -> TrialConfig:
    own = {"epochs": 2, "batch_size": 128, "hidden": (12,), "tasks": 4, "scenario": scenario} | NUMBERS.get(
        algorithm, {}
    )
    if scenario == "domain":
        own |= {"tasks": 5}
    return configure(algorithm, own | settings)


def run_of(algorithm: str, scenario: str, seeds: tuple[int, ...], **settings: object) -> TrialSetup:
    return build_trial(config_of(algorithm, scenario, **settings), seeds)


def after(run: TrialSetup, tasks: int, state: TrialState | None = None) -> TrialState:
    state = state or run.initial_state()
    while state.tasks_learned < tasks:
        state = learn_task(run, state)
    return state


def assert_near(params: Params, others: Params, most: float) -> None:
    assert params.keys() == others.keys()
    for name, value in params.items():
        assert (value - others[name]).abs().max() <= most, name


def differ(params: Params, others: Params) -> bool:
    return any((value - others[name]).abs().max() > 1e-3 for name, value in params.items())


# What is subtracted


@everywhere
def test_unlearning_the_last_task_restores_the_earlier_parameters(algorithm, scenario, seeds) -> None:
    run = run_of(algorithm, scenario, seeds)
    earlier = after(run, 2)
    later = after(run, 3, earlier)
    assert differ(later.params, earlier.params)
    restored = unlearn(run, later, [3])
    assert_near(restored.params, earlier.params, 0)
    assert restored.memory.keys() == earlier.memory.keys()
    assert all(torch.equal(value, earlier.memory[name]) for name, value in restored.memory.items())
    assert restored.unlearned == (3,)


@everywhere
def test_unlearning_all_tasks_returns_to_the_initial_parameters(algorithm, scenario, seeds) -> None:
    run = run_of(algorithm, scenario, seeds)
    learned = after(run, 3)
    at_once = unlearn(run, learned, [1, 2, 3])
    assert_near(at_once.params, run.initial_state().params, 1e-6)
    assert at_once.memory == {}
    assert at_once.updates == {}
    one_by_one = unlearn(run, unlearn(run, unlearn(run, learned, [2]), [1]), [3])
    assert_near(one_by_one.params, run.initial_state().params, 1e-6)
    assert one_by_one.unlearned == at_once.unlearned == (1, 2, 3)


@everywhere
def test_an_earlier_task_takes_its_own_update_with_it(algorithm, scenario, seeds) -> None:
    run = run_of(algorithm, scenario, seeds)
    states = [after(run, n) for n in range(4)]
    found = unlearn(run, states[3], [2]).params
    for name, value in found.items():
        expected = states[3].params[name] - (states[2].params[name] - states[1].params[name])
        if scenario == "task" and name.startswith("head"):
            rows = list(run.benchmark.tasks[1].classes)
            expected[..., rows] = states[0].params[name][..., rows]
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("algorithm", "scenario", "seeds"), pairs(["amnesiac_lwf", "amnesiac_ewc"], SCENARIOS, COHORTS)
)
def test_shift_and_as_is_differ_only_in_what_is_held_of_later_tasks(algorithm, scenario, seeds) -> None:
    held = {"teachers": "per_task"} if algorithm == "amnesiac_lwf" else {}
    as_is = run_of(algorithm, scenario, seeds, **held)
    shift = run_of(algorithm, scenario, seeds, unlearn_memories="shift", **held)
    learned = after(as_is, 3)
    for tasks in ([3], [2], [1], [1, 2]):
        one, other = unlearn(as_is, learned, tasks), unlearn(shift, learned, tasks)
        assert one.memory.keys() == other.memory.keys()
        assert all(torch.equal(one.params[name], other.params[name]) for name in one.params)
        for name, value in one.memory.items():
            kind, number, of = name.split("/", 2)
            earlier = [task for task in tasks if task < int(number)] if kind != "importance" else []
            update = sum((learned.updates[f"{task}/{of}"].float() for task in earlier), torch.zeros_like(value))
            torch.testing.assert_close(other.memory[name], value - update, atol=1e-6, rtol=0)
            assert torch.equal(value, learned.memory[name])
            assert torch.equal(other.memory[name], value) or earlier


# As if it had never been learned


UNLEARNERS = [
    ("amnesiac_finetuning", {}),
    ("amnesiac_lwf", {"teachers": "per_task"}),
    ("amnesiac_lwf", {"teachers": "last"}),
    ("amnesiac_lwf", {"teachers": "last", "distance": "mse", "train_head": True}),
    ("amnesiac_ewc", {}),
    ("amnesiac_ewc", {"average_over_tasks": True, "penalty_p_norm": 1.5}),
]


@pytest.mark.parametrize(("unlearner", "scenario", "seeds"), pairs(UNLEARNERS, SCENARIOS, COHORTS))
def test_a_task_unlearned_at_once_leaves_the_training_of_a_sequence_without_it(unlearner, scenario, seeds) -> None:
    algorithm, settings = unlearner
    plain = algorithm.removeprefix("amnesiac_")
    config = config_of(algorithm, scenario, unlearn={2: 2}, **settings)
    found = learn_sequence(build_trial(config, seeds))
    without = {k: v for k, v in config.flat().items() if k in configure(plain, {"epochs": 1}).flat()}
    kept = [task for task in range(1, config.tasks + 1) if task != 2]
    expected = learn_sequence(build_trial(configure(plain, without), seeds, sequence=kept))
    assert_near(found.params, expected.params, 2e-4)
    for place, task in enumerate(kept, start=1):
        here, there = found.accuracy[:, -1, task - 1], expected.accuracy[:, -1, place - 1]
        torch.testing.assert_close(here, there, atol=0.03, rtol=0)


@everywhere
def test_without_a_request_it_is_the_algorithm_that_it_is_named_after(algorithm, scenario, seeds) -> None:
    found = learn_sequence(run_of(algorithm, scenario, seeds))
    expected = learn_sequence(
        run_of(algorithm.removeprefix("amnesiac_"), scenario, seeds, **NUMBERS.get(algorithm, {}))
    )
    assert all(torch.equal(value, expected.params[name]) for name, value in found.params.items())
    assert torch.equal(found.accuracy.nan_to_num(-1), expected.accuracy.nan_to_num(-1))
    assert found.unlearning == {}


@pytest.mark.parametrize(("scenario", "seeds"), in_turn(SCENARIOS, COHORTS))
def test_finetuning_of_which_the_last_task_is_unlearned_is_the_reference(scenario, seeds) -> None:
    config = config_of("amnesiac_finetuning", scenario, unlearn={3: 3})
    references = retrain(config, seeds)
    assert sorted(references) == sorted({3, config.tasks})
    found = learn_sequence(replace(build_trial(config, seeds), references=references))
    assert found.unlearning["distance"][:, 3, :3].max() < 1e-5
    assert found.unlearning["distance"][:, -1].max() < 1e-3


@pytest.mark.parametrize(("scenario", "seeds"), in_turn(SCENARIOS, COHORTS))
def test_retained_tasks_of_the_reference_and_of_a_trial_see_the_same_batches(scenario, seeds, monkeypatch) -> None:
    """As both really train; the trial goes on learning after its request."""
    seen: dict[int, list[torch.Tensor]] = {}

    def recorded(run, setup, params, moments, batch, rate, taken):
        seen.setdefault(setup.origin, []).extend(taken)
        return train_step(run, setup, params, moments, batch, rate, taken)

    monkeypatch.setattr(loop, "train_step", recorded)
    config = config_of("amnesiac_lwf", scenario, unlearn={3: 2})
    learn_sequence(build_trial(config, seeds))
    trial = dict(seen)
    seen.clear()
    retrain(config, seeds)
    reference = dict(seen)
    assert sorted(reference) == [task for task in range(1, config.tasks + 1) if task != 2]
    assert sorted(trial) == list(range(1, config.tasks + 1))
    for origin, batches in reference.items():
        assert len(batches) == len(trial[origin])
        assert all(torch.equal(own, other) for own, other in zip(batches, trial[origin], strict=True))


# State


@everywhere
def test_a_state_goes_on_bit_for_bit_across_a_request(algorithm, scenario, seeds) -> None:
    run = run_of(algorithm, scenario, seeds, unlearn=("2:1", "3:3"))
    run = replace(run, references=retrain(run.config, seeds))
    unbroken = learn_sequence(run)
    state = None
    for tasks in range(1, run.config.tasks + 1):
        state = after(run, tasks, state)
        state = TrialState.unpacked(state.packed(), run.fingerprint, torch.device("cpu"))
    for kind in ("params", "moments", "memory", "updates", "unlearning"):
        own, other = getattr(state, kind), getattr(unbroken, kind)
        assert own.keys() == other.keys()
        assert all(torch.equal(own[name].nan_to_num(-1), other[name].nan_to_num(-1)) for name in own)
    assert state.unlearned == unbroken.unlearned == (1, 3)
    assert torch.equal(state.accuracy.nan_to_num(-1), unbroken.accuracy.nan_to_num(-1))


@pytest.mark.parametrize(("algorithm", "scenario"), in_turn(ALGORITHMS, SCENARIOS))
def test_a_cohort_is_its_members_one_by_one(algorithm, scenario) -> None:
    def learned(seeds: tuple[int, ...]) -> TrialState:
        run = run_of(algorithm, scenario, seeds, unlearn={2: 1, 3: 2})
        return learn_sequence(replace(run, references=retrain(run.config, seeds)))

    together = learned((0, 1, 2))
    for m in range(3):
        alone = learned((m,))
        assert_near({k: v[m : m + 1] for k, v in together.params.items()}, alone.params, 1e-4)
        for name, value in alone.unlearning.items():
            torch.testing.assert_close(
                together.unlearning[name][m : m + 1], value, atol=0.02, rtol=0, equal_nan=True, msg=name
            )


# What is measured


@everywhere
def test_matrices_hold_what_the_model_answers_before_and_after_a_request(algorithm, scenario, seeds) -> None:
    run = run_of(algorithm, scenario, seeds, unlearn={2: 1, 3: 2})
    first = after(run, 1)
    assert (first.unlearned, first.unlearning["chance"].isnan().all()) == ((), True)
    final = learn_sequence(run)
    T, forgotten = run.config.tasks, {2: {1}, 3: {1, 2}, 4: {1, 2}, 5: {1, 2}}
    undefined = final.accuracy[0].isnan()
    for t in range(1, T + 1):
        gone = {task - 1 for task in forgotten.get(t, ())}
        later = set(range(t, T)) if scenario == "class" else set()
        assert {int(k) for k in undefined[t].nonzero()} == gone | later
    for name in ("before", "after"):
        assert not final.unlearning[name][:, T, :].isnan().any()
    learned = [final.unlearning[name][:, 1].nan_to_num(-1) for name in ("before", "after")]
    assert torch.equal(*learned)
    assert not torch.equal(final.unlearning["before"][:, 2, :2], final.unlearning["after"][:, 2, :2])
    # the last row by hand
    answers = {
        "task": lambda k: run.benchmark.tasks[k - 1].classes,
        "domain": lambda k: tuple(range(run.benchmark.outputs)),
        "class": lambda k: tuple(
            sorted({c for j in {*range(3, T + 1), k} for c in run.benchmark.tasks[j - 1].classes})
        ),
    }[scenario]
    for k in range(1, T + 1):
        expected = measure_accuracy(run, final.params, answers(k), run.benchmark.tasks[k - 1].validation)
        assert torch.equal(final.unlearning["after"][:, T, k - 1], expected)
        if k in (1, 2):
            assert (final.unlearning["chance"][:, T, k - 1] == 1 / len(answers(k))).all()
        else:
            assert torch.equal(final.accuracy[:, T, k - 1], expected)


def test_the_twin_is_the_unrequested_training_measured_on_the_retained_tasks() -> None:
    requests = {"unlearn": {2: 1}}
    twin = learn_sequence(run_of("amnesiac_lwf", "task", (0, 1), disable_unlearning=True, **requests))
    plain = learn_sequence(run_of("amnesiac_lwf", "task", (0, 1)))
    trial = learn_sequence(run_of("amnesiac_lwf", "task", (0, 1), **requests))
    assert all(torch.equal(value, plain.params[name]) for name, value in twin.params.items())
    assert torch.equal(twin.unlearning["after"], plain.accuracy)
    assert torch.equal(twin.accuracy.isnan(), trial.accuracy.isnan())
    values = metrics.unlearning(twin.unlearning, 4)
    torch.testing.assert_close(values["unlearning/unlearned_accuracy"], plain.accuracy[:, 4, 0])
    assert twin.unlearned == ()


@pytest.mark.parametrize("kind", ["euclidean", "cosine", "manhattan"])
def test_the_distance_of_features_is_the_mean_over_images(kind: str) -> None:
    run = run_of("amnesiac_finetuning", "task", (0, 5), unlearning_distance=kind)
    one, other = after(run, 1).params, after(run, 2).params
    samples = run.benchmark.tasks[0].validation
    found = feature_distance(run, one, other, samples)
    for m in range(2):
        distances = []
        for place in range(samples.sizes[m]):
            image, _ = samples.take(torch.full((2, 1), place))
            u, v = (run.network.features(params, image)[m, 0].numpy() for params in (one, other))
            distances.append(
                {
                    "euclidean": lambda u, v: np.sqrt(((u - v) ** 2).sum()),
                    "cosine": lambda u, v: 1 - (u @ v) / np.sqrt((u @ u) * (v @ v)),
                    "manhattan": lambda u, v: np.abs(u - v).sum(),
                }[kind](u, v)
            )
        assert found[m].item() == pytest.approx(np.mean(distances), rel=1e-4, abs=1e-6)


def test_averages_are_over_the_retained_tasks() -> None:
    """Worked out by hand: three tasks, of which the second is unlearned after the third."""
    nan = float("nan")
    R = torch.tensor([[0.5, 0.4, 0.3], [0.9, 0.5, 0.4], [0.8, 0.9, 0.5], [0.6, nan, 0.7]], dtype=torch.float64)
    found = {name: round(value.item(), 6) for name, value in metrics.summary(R, 3).items()}
    assert found == {
        "average_accuracy": 0.65,
        "average_incremental_accuracy": round((0.9 + 0.85 + 0.65) / 3, 6),
        "learning_accuracy": 0.8,
        "accuracy/task_01": 0.6,
        "accuracy/task_03": 0.7,
        "average_forgetting": 0.3,
        "forgetting/task_01": 0.3,
        "backward_transfer": -0.3,
        "forward_transfer": 0.2,
    }
    measured = {"before": R, "after": R.clone(), "chance": torch.full_like(R, nan), "distance": torch.full_like(R, nan)}
    assert metrics.unlearning(measured, 3) == {}
    measured["after"][3, 1], measured["chance"][3, 1] = 0.35, 0.5
    measured["distance"][3] = torch.tensor([1.0, 2.0, 6.0])
    found = {name: round(value.item(), 6) for name, value in metrics.unlearning(measured, 3).items()}
    assert found == {
        "unlearning/unlearned_accuracy": 0.35,
        "unlearning/gap_to_chance": 0.15,
        "unlearning/accuracy/task_02": 0.35,
        "unlearning/distance": 3.0,
        "unlearning/distance/task_01": 1.0,
        "unlearning/distance/task_02": 2.0,
        "unlearning/distance/task_03": 6.0,
    }
    assert metrics.unlearning(measured, 2) == {}
    assert metrics.unlearning({}, 3) == {}


# Requests


def test_requests_have_one_way_to_be_written() -> None:
    for written in (("4:2", "3:1"), {4: 2, 3: [1]}, {4: np.int64(2), 3: {1}}, ("3:1", "4:2")):
        config = config_of("amnesiac_lwf", unlearn=written)
        assert config.unlearn == ("3:1", "4:2")
        assert config.requests == {3: (1,), 4: (2,)}
    both = config_of("amnesiac_lwf", unlearn=("4:2", "4:1"))
    assert (both.unlearn, both.requests) == (("4:1,2",), {4: (1, 2)})
    assert configure("amnesiac_lwf", both.flat()) == both
    assert [unlearned_by(both.requests, t) for t in (3, 4)] == [frozenset(), {1, 2}]


@pytest.mark.parametrize(
    ("requests", "rule"),
    [
        ({3: 1.0}, "unlearn-form"),
        ({3: None}, "unlearn-form"),
        (("3",), "unlearn-form"),
        (("a:1",), "unlearn-form"),
        (("3:-1",), "unlearn-form"),
        (("5:1",), "unlearn-after-a-task"),
        (("0:1",), "unlearn-after-a-task"),
        (("2:3",), "unlearn-learned-task"),
        (("3:0",), "unlearn-learned-task"),
        (("3:1", "4:1"), "unlearn-once"),
        (("3:1,1",), "unlearn-once"),
        (("1:1",), "unlearn-keeps-a-task"),
        (("3:1,2,3",), "unlearn-keeps-a-task"),
    ],
)
def test_bad_requests_are_refused(requests: tuple[str, ...], rule: str) -> None:
    assert broken(config_of, "amnesiac_ewc", unlearn=requests)[0] == ("unlearn", rule)


def test_updates_are_kept_of_tasks_that_may_go() -> None:
    def kept(**settings: object) -> set[str]:
        found = after(run_of("amnesiac_finetuning", "task", (0,), **settings), 3)
        return {name.partition("/")[0] for name in found.updates}

    assert kept() == {"1", "2", "3"}
    assert kept(unlearn={4: (1, 3)}) == {"1", "3"}
    assert kept(unlearn={2: 1}) == set()
    assert kept(unlearn={4: (1, 3)}, disable_unlearning=True) == set()
    run = run_of("amnesiac_finetuning", "task", (0,), unlearn={4: 1})
    with pytest.raises(ValueError, match="must be tasks that the configuration's requests name; got 2"):
        unlearn(run, after(run, 3), [2])


def test_of_the_newest_teacher_alone_others_are_kept_where_it_may_go() -> None:
    def teachers(**settings: object) -> set[str]:
        found = after(run_of("amnesiac_lwf", "class", (0,), **settings), 3)
        return {name.split("/")[1] for name in found.memory}

    assert teachers(unlearn={4: 2}) == {"3"}
    assert teachers(unlearn={3: 3}) == {"1", "2"}
    assert teachers(unlearn={3: 3}, disable_unlearning=True) == {"3"}


def test_a_state_of_before_there_were_requests_is_gone_on_with(tmp_path) -> None:
    run = run_of("lwf", "task", (0,))
    content = dict(vars(after(run, 2)))
    for name in ("updates", "unlearned", "unlearning"):
        del content[name]
    torch.save(content, tmp_path / "state.pt")
    found = TrialState.load(tmp_path / "state.pt", run.fingerprint, torch.device("cpu"))
    assert learn_task(run, found).tasks_learned == 3


def test_models_to_compare_with_are_counted_as_they_are_trained(monkeypatch) -> None:
    trained: list[int] = []

    def counted(run, state, task):
        trained.append(len(run.seeds))
        return train_task(run, state, task)

    monkeypatch.setattr(loop, "train_task", counted)
    for requests in ({}, {4: 1}, {2: 1}, {3: 1, 4: 2}, {2: 1, 3: (2,)}):
        trained.clear()
        config = config_of("amnesiac_finetuning", unlearn=requests)
        retrain(config, (0, 1))
        assert sum(trained) == count_retraining(config.requests, config.tasks, 2), requests


def test_online_anchors_are_refused() -> None:
    problems = broken(config_of, "amnesiac_ewc", unlearn={3: 1}, anchors="online")
    assert problems == [("anchors", "unlearning-needs-separate-anchors")]


@pytest.mark.parametrize(("tasks", "problem"), [([4], "must have been learned"), ([2, 2], "once"), ([1], "once")])
def test_a_task_that_is_not_there_cannot_be_unlearned(tasks: list[int], problem: str) -> None:
    run = run_of("amnesiac_finetuning", "task", (0,))
    state = unlearn(run, after(run, 3), [1])
    with pytest.raises(ValueError, match=problem):
        unlearn(run, state, tasks)
