"""Members of one cohort whose tasks differ in size: each trains as it would alone."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from clsearch.networks.mlp import trainable_copy
from clsearch.tasks.samples import Batch, Samples, stack_rows
from clsearch.training.learning_curve import curve_rows as told_by
from clsearch.training.loop import learn_sequence, learn_task, train_step
from clsearch.training.state import TrialState
from clsearch.training.task_setup import plan_epochs, prepare_task
from clsearch.training.trial_setup import TrialSetup, build_trial
from tests.helpers import in_double, pairs, small_config, small_run

pytestmark = pytest.mark.slow

EVERY = {3: 6, 0: 17, 11: 10}
"""Seed -> of how many of its samples one is kept: about 36, 13 and 22 of two digits."""
SEEDS = tuple(EVERY)
SIZE = 8


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    """So that what is compared is not rounding, which Adam makes visible."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def fewer(samples: Samples, seeds: Sequence[int]) -> Samples:
    rows = [own[: n : EVERY[s]] for own, n, s in zip(samples.rows, samples.sizes, seeds, strict=True)]
    return replace(samples, rows=stack_rows(rows), sizes=tuple(map(len, rows)))


def run_of(algorithm: str, seeds: Sequence[int] = SEEDS, **settings: object) -> TrialSetup:
    counts = (2, 2, 2) if settings.get("scenario") == "domain" else (2, 3, 5)
    common = {"class_order": "shuffled", "classes_per_task": counts, "hidden": (6,), "batch_size": SIZE, "tasks": 3}
    run = build_trial(small_config(algorithm, **common | settings), seeds)
    tasks = [replace(task, train=fewer(task.train, seeds)) for task in run.benchmark.tasks]
    return replace(run, benchmark=in_double(replace(run.benchmark, tasks=tuple(tasks))))


def valid_of(batch: Batch) -> Tensor:
    return torch.ones_like(batch.positions, dtype=torch.bool) if batch.valid is None else batch.valid


def rows_of(state: TrialState, m: int, task: int) -> Tensor:
    """The learning curve of one member in one task, up to where it ends."""
    curve = state.curve[state.epochs[:, 0] == task, m]
    over = curve.isnan().any(1)
    assert torch.equal(over, curve.isnan().all(1))
    assert over.tolist() == sorted(over.tolist())  # once over, never again
    return curve[~over]


OPTIMIZERS = [
    {"momentum": 0.7},
    {"optimizer": "adam", "learning_rate": 0.005},
]
METHODS = [
    ("finetuning", {}),
    ("joint", {}),
    ("lwf", {}),
    ("lwf", {"distance": "mse", "train_head": True}),
    ("ewc", {"penalty_factor": 5.0}),
    ("ewc", {"penalty_factor": 2.0, "penalty_p_norm": 1.5, "fisher": "sampled", "fisher_samples": 15}),
    ("ewc", {"penalty_factor": 20.0, "fisher": "batch", "anchors": "online", "gamma": 0.5}),
    ("lwf_ewc", {"fisher": "exact", "fisher_scale": "unit_trace"}),
]


@pytest.mark.parametrize(
    ("algorithm", "settings", "optimizer", "length", "kept"),
    [
        (*method, *others)
        for method, *others in pairs(METHODS, OPTIMIZERS, [{"epochs": 2}, {"iterations": 7}], ["reset", "keep"])
    ],
)
def test_members_of_different_sizes_train_as_they_would_alone(algorithm, settings, optimizer, length, kept):
    scenario = ("task", "class", "domain")[(METHODS.index((algorithm, settings)) + len(kept)) % 3]
    settings = {"scenario": scenario, "optimizer_state": kept, **settings, **optimizer, **length}
    run = run_of(algorithm, **settings)
    for task in run.benchmark.tasks:
        assert len({-(-n // SIZE) for n in task.train.sizes}) == 3
    together = learn_sequence(run)
    ends = set()
    for m, seed in enumerate(SEEDS):
        alone = learn_sequence(run_of(algorithm, (seed,), **settings))
        for kind in ("params", "moments", "memory"):
            ours, theirs = getattr(together, kind), getattr(alone, kind)
            assert ours.keys() == theirs.keys()
            for name, value in theirs.items():
                # A teacher's or an anchor's entries are [M, ...], too.
                torch.testing.assert_close(ours[name][m], value[0], rtol=1e-6, atol=1e-8)
        assert torch.equal(together.accuracy[m].nan_to_num(-1), alone.accuracy[0].nan_to_num(-1))
        for task in (1, 2, 3):
            ours, theirs = rows_of(together, m, task), rows_of(alone, 0, task)
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)
            ends.add((task, len(ours)))
    # By epochs all end together, by steps each in an epoch of its own.
    assert (len(ends) > 3) == ("iterations" in length)
    for task in (1, 2, 3):
        longest = max(rows for t, rows in ends if t == task)
        assert (together.epochs[:, 0] == task).sum() == longest


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_single_precision_agrees_as_far_as_it_reaches(optimizer):
    torch.set_default_dtype(torch.float32)
    for algorithm in ("finetuning", "lwf"):
        settings = {"class_order": "shuffled", "classes_per_task": (2, 3, 5), "epochs": 1, "batch_size": 16}
        together = learn_sequence(small_run(algorithm, (3, 0), **settings, momentum=0.5))
        for m, seed in enumerate((3, 0)):
            alone = learn_sequence(small_run(algorithm, (seed,), **settings, momentum=0.5))
            for name, value in alone.params.items():
                torch.testing.assert_close(together.params[name][m], value[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kept", ["reset", "keep"])
@pytest.mark.parametrize("length", [{"epochs": 2}, {"iterations": 7}])
def test_adam_counts_each_members_own_steps(length, kept):
    run = run_of("finetuning", optimizer="adam", optimizer_state=kept, **length)
    steps = learn_sequence(run).moments["steps"].tolist()
    for m in range(3):
        sizes = [task.train.sizes[m] for task in run.benchmark.tasks]
        own = [7 if "iterations" in length else 2 * -(-n // SIZE) for n in sizes]
        assert steps[m] == (sum(own) if kept == "keep" else own[-1])


@pytest.mark.parametrize("length", [{"epochs": 3}, {"iterations": 7}])
@pytest.mark.parametrize("algorithm", ["finetuning", "joint"])
def test_every_member_sees_each_of_its_own_samples_once_an_epoch(algorithm, length):
    run = run_of(algorithm, **length)
    for t, task in enumerate(run.benchmark.tasks, start=1):
        setup = prepare_task(run, run.initial_state(), task)
        epochs = list(plan_epochs(run, setup))
        for m, n in enumerate(setup.samples.sizes):
            assert n == sum(
                each.train.sizes[m] for each in run.benchmark.tasks[t - 1 if algorithm != "joint" else 0 : t]
            )
            taken, whole = [], -(-n // SIZE)
            for steps in epochs:
                order = [step.batch.positions[m][valid_of(step.batch)[m]].tolist() for step in steps]
                taken += [len(own) for own in order if own]
                seen = [position for own in order for position in own]
                assert len(set(seen)) == len(seen)
                if len([own for own in order if own]) == whole:
                    assert sorted(seen) == list(range(n))
                # Full batches first, then one smaller, then none.
                assert all(len(own) == SIZE for own in order[: len(seen) // SIZE])
                assert all(not own for own in order[-(-len(seen) // SIZE) :])
            whole_lesson = 3 * whole if "epochs" in length else 7 * (t if algorithm == "joint" else 1)
            assert len(taken) == whole_lesson


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS, {"optimizer": "adamw", "weight_decay": 0.1}, {"weight_decay": 0.1}])
@pytest.mark.parametrize(("algorithm", "settings"), [METHODS[0], *METHODS[2:]])
def test_a_member_without_a_sample_in_a_batch_stands_still_bit_for_bit(algorithm, settings, optimizer):
    run = run_of(algorithm, scenario="task", optimizer_state="keep", **settings, **optimizer)
    state = learn_task(run, run.initial_state())
    setup = prepare_task(run, state, run.benchmark.tasks[1])
    valid = torch.tensor([[True, True, True], [False] * 3, [True, False, False]])
    batch = Batch(torch.tensor([[0, 1, 2], [0, 0, 0], [4, 0, 0]]), valid)
    params, moments = trainable_copy(state.params), {name: value.clone() for name, value in state.moments.items()}
    log = train_step(run, setup, params, moments, batch)
    logged = told_by(run.columns, [log])
    for new, old in ((params, state.params), (moments, state.moments)):
        assert new.keys() == old.keys()
        for name, value in new.items():
            assert torch.equal(value[1], old[name][1])
            assert value[1].dtype == old[name][1].dtype
    assert params["backbone.0.weight"].ne(state.params["backbone.0.weight"]).flatten(1).any(1).tolist() == [
        True,
        False,
        True,
    ]
    assert logged.isfinite().all()


def test_what_is_in_the_places_that_do_not_count_changes_nothing():
    run = run_of("lwf_ewc", scenario="class")
    state = learn_task(run, run.initial_state())
    setup = prepare_task(run, state, run.benchmark.tasks[1])
    valid = torch.tensor([[True] * 4, [True, True, False, False], [True, False, False, False]])
    results = []
    for filler in (0, 7):
        positions = torch.where(valid, torch.tensor([[1, 2, 3, 4]]), filler)
        params = trainable_copy(state.params)
        results.append((params, train_step(run, setup, params, {}, Batch(positions, valid))))
    for name in results[0][0]:
        assert torch.equal(results[0][0][name], results[1][0][name])
    assert torch.equal(*(told_by(run.columns, [log]) for _, log in results))


def test_an_epochs_row_weighs_each_step_by_the_members_own_samples():
    run = run_of("finetuning", epochs=1, learning_rate=1e-12)
    state = learn_task(run, run.initial_state())
    setup = prepare_task(run, run.initial_state(), run.benchmark.tasks[0])
    for m, n in enumerate(setup.samples.sizes):
        assert n % SIZE
        inputs, labels = setup.samples.take(torch.arange(n).expand(3, -1) % torch.tensor(setup.samples.sizes)[:, None])
        params = run.initial_state().params
        logits = run.network.logits(params, run.network.features(params, inputs))
        loss = torch.nn.functional.cross_entropy(logits[m, :, :2], labels[m])
        assert state.curve[0, m, run.columns.index("loss")].item() == pytest.approx(loss.item(), rel=1e-9)


def test_members_of_equal_sizes_have_no_places_that_do_not_count():
    torch.set_default_dtype(torch.float32)
    run = small_run(seeds=(0, 1))
    setup = prepare_task(run, run.initial_state(), run.benchmark.tasks[0])
    assert all(step.batch.valid is None for step in itertools.chain(*plan_epochs(run, setup)))
