"""Whole trainings, step by step, against a second implementation (tests/textbook.py).

Both in double precision, so that a difference is one of method and not of rounding; some in single precision, too.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from clsearch.common.seeding import derive_generator
from clsearch.methods.penalties.fisher import draw_labels
from clsearch.networks.mlp import Params, mask_logits, output_mask, trainable_copy
from clsearch.tasks.benchmark import Task, classes_of, shrink
from clsearch.tasks.samples import Batch, Samples, stack_rows
from clsearch.tasks.transforms import PixelOrder
from clsearch.training.learning_curve import curve_rows
from clsearch.training.loop import learn_sequence, train_step
from clsearch.training.task_setup import plan_epochs, prepare_task
from clsearch.training.trial_setup import TrialSetup, build_trial
from tests import textbook
from tests.helpers import in_double, in_turn, pairs, small_config

pytestmark = pytest.mark.slow

SEEDS = (3, 8)
SCENARIOS = ("task", "domain", "class")
NEAR = {torch.float64: {"rtol": 1e-8, "atol": 1e-11}, torch.float32: {"rtol": 1e-4, "atol": 2e-6}}


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def uneven(samples: Samples) -> Samples:
    """The second member loses its second and fourth sample, and so has fewer batches than the first."""
    first, second = samples.rows
    rows = [first, second[[0, 2, *range(4, samples.sizes[1])]]]
    return replace(samples, rows=stack_rows(rows), sizes=tuple(map(len, rows)))


def run_of(algorithm: str, scenario: str, **settings: object) -> TrialSetup:
    """Three tasks of at most seven digits each, other classes and other numbers of samples for each member."""
    counts = (2, 2, 2) if scenario == "domain" else (2, 3, 2)
    split = {} if "benchmark" in settings else {"class_order": "shuffled", "classes_per_task": counts}
    common = {"scenario": scenario, "tasks": 3, "hidden": (7,), "batch_size": 3, "epochs": 1, "learning_rate": 0.2}
    run = build_trial(small_config(algorithm, **common | split | settings), SEEDS)
    benchmark = shrink(run.benchmark, 3, 7)
    tasks = [replace(task, train=uneven(task.train)) for task in benchmark.tasks]
    assert tasks[0].train.sizes == (7, 5)
    benchmark = replace(benchmark, tasks=tuple(tasks))
    return replace(run, benchmark=benchmark if torch.get_default_dtype() == torch.float32 else in_double(benchmark))


def samples_of(samples: Samples, m: int) -> list[textbook.Sample]:
    """Return one member's samples, from the source and its rows alone."""
    found = []
    for row in samples.rows[m, : samples.sizes[m]].tolist():
        pixels = samples.inputs[row].double() / 16
        if isinstance(samples.view, PixelOrder):
            pixels = pixels[samples.view.order[m]]
        elif samples.view is not None:  # turned in single precision, see test_views
            pixels = samples.view((samples.inputs[row].float() / 16).expand(len(SEEDS), 1, -1))[m, 0].double()
        found.append((pixels, int(samples.labels[row])))
    return found


def shown(sample: textbook.Sample, batch: Batch, m: int, place: int) -> textbook.Sample:
    """Augment a sample as this place of a batch does."""
    if batch.crops is None:
        return sample
    down, right, mirrored = batch.crops[m, place].tolist()
    return textbook.seen_through(sample[0], (1, 8, 8), down, right, bool(mirrored)), sample[1]


def schedule_of(run: TrialSetup) -> textbook.Schedule:
    config = run.config
    return textbook.Schedule(config.learning_rate, config.schedule, config.warmup, config.milestones, config.decay)


def plain(params: Params, m: int) -> textbook.Theta:
    return {name: (v[m, 0] if name.endswith("bias") else v[m]).double() for name, v in params.items()}


def learner_of(run: TrialSetup, m: int) -> textbook.Learner:
    config = run.config
    course = textbook.Course(
        str(config.scenario), [classes_of(config, task.index, run.seeds[m]) for task in run.benchmark.tasks]
    )
    if config.optimizer == "sgd":
        optimizer = textbook.SGD(config.learning_rate, config.momentum, config.weight_decay)
    else:
        optimizer = textbook.Adam(config.learning_rate, config.weight_decay, decoupled=config.optimizer == "adamw")
    methods: list[object] = []
    if config.algorithm in ("lwf", "lwf_ewc"):
        methods.append(
            textbook.LwF(
                config.distillation_factor,
                config.distillation_temperature,
                config.teachers,
                config.train_head,
                config.distance,
                config.temperature_scaling,
            )
        )
    if config.algorithm in ("ewc", "lwf_ewc"):
        methods.append(
            textbook.EWC(
                config.penalty_factor,
                config.penalty_p_norm,
                config.fisher,
                config.fisher_scale,
                config.batch_size,
                config.average_over_tasks,
                config.anchors,
                config.gamma,
            )
        )
    keep = config.optimizer_state == "keep"
    return textbook.Learner(course, plain(run.initial_state().params, m), optimizer, methods, keep)


def tell_what_was_drawn(run: TrialSetup, task: Task, params: Params, learners: list[textbook.Learner]) -> None:
    """Give the textbook the samples that our Fisher information is measured on, and the labels that it draws."""
    if "ewc" not in run.config.algorithm:
        return
    allowed = output_mask(run.benchmark.active_outputs(task.index, task.index), run.benchmark.outputs, run.device)
    for m, (seed, learner) in enumerate(zip(run.seeds, learners, strict=True)):
        order = torch.randperm(task.train.sizes[m], generator=derive_generator(seed, task.index, 0, "fisher samples"))
        order = order[: run.config.fisher_samples]
        inputs, _ = task.train.take(order.expand(len(run.seeds), -1))
        logits = mask_logits(run.network.logits(params, run.network.features(params, inputs)), allowed)
        generator = derive_generator(seed, task.index, 0, "fisher labels")
        uniform = torch.rand(len(order), generator=generator, dtype=torch.float64)
        for method in learner.methods:
            if isinstance(method, textbook.EWC):
                method.measured_on[task.index] = order.tolist()
                method.labels[task.index] = draw_labels(logits.softmax(-1)[m : m + 1], uniform[None])[0].tolist()


def assert_training_is_the_textbooks(run: TrialSetup) -> Params:
    """Compare every step of every task of every member; return the last parameters."""
    learners = [learner_of(run, m) for m in range(len(run.seeds))]
    state, columns = run.initial_state(), run.columns
    near = NEAR[state.params["head.bias"].dtype]
    whole = learn_sequence(run)
    for task in run.benchmark.tasks:
        setup, params = prepare_task(run, state, task), trainable_copy(state.params)
        moments = state.moments if run.config.optimizer_state == "keep" else run.optimizer.initial(state.params)
        samples = [samples_of(task.train, m) for m in range(len(run.seeds))]
        left = [run.config.iterations or run.config.epochs * math.ceil(len(own) / 3) for own in samples]
        steps, schedule = list(left), schedule_of(run)
        for learner in learners:
            learner.begin()
        for step in itertools.chain(*plan_epochs(run, setup)):
            batch = step.batch
            log = train_step(run, setup, params, moments, batch, step.rate)
            (logged,) = curve_rows(run.columns, [log])
            for m, learner in enumerate(learners):
                counts = (
                    torch.ones(batch.positions.shape[1], dtype=torch.bool) if batch.valid is None else batch.valid[m]
                )
                if not counts.any():
                    continue
                if step.rate is not None:  # which reaches a step in single precision
                    rate = torch.tensor(schedule.at(steps[m] - left[m], steps[m]), dtype=step.rate.dtype)
                    learner.optimizer.rate = rate.item()
                left[m] -= 1
                places = counts.nonzero().flatten().tolist()
                found = learner.step([shown(samples[m][batch.positions[m, i]], batch, m, i) for i in places])
                losses = [logged[m, columns.index(name)].item() for name in ("loss_classification", "penalty")]
                assert losses == pytest.approx(found, rel=near["rtol"], abs=near["atol"])
                ours, theirs = (
                    torch.cat([own[n].flatten() for n in params]) for own in (plain(params, m), learner.theta)
                )
                torch.testing.assert_close(ours, theirs, **near)
        assert left == [0, 0]
        params = {name: value.detach() for name, value in params.items()}
        tell_what_was_drawn(run, task, params, learners)
        memory = state.memory
        for regularizer in run.regularizers:
            memory = regularizer.remember(run.network, run.benchmark, task, params, memory)
        state = replace(state, params=params, moments=moments, memory=memory)
        for m, learner in enumerate(learners):
            learner.end(samples[m])
            for other in run.benchmark.tasks:
                if run.benchmark.is_defined(task.index, other.index):
                    expected = learner.accuracy(task.index, other.index, samples_of(other.validation, m))
                    assert whole.accuracy[m, task.index, other.index - 1].item() == pytest.approx(expected)
    # What was compared is what learning a sequence does.
    assert all(torch.equal(value, whole.params[name]) for name, value in state.params.items())
    return state.params


def assert_something_acts(run: TrialSetup, params: Params) -> None:
    """The penalty moved every member far more than the comparison forgives."""
    finetuned = learn_sequence(replace(run, regularizers=())).params
    for m in range(len(run.seeds)):
        assert max((params[name][m] - finetuned[name][m]).abs().max().item() for name in params) > 2e-5


# --- finetuning and the optimizers ---

OPTIMIZERS = [
    {},
    {"momentum": 0.6, "weight_decay": 0.02},
    {"optimizer": "adam", "learning_rate": 0.002},
    {"optimizer": "adam", "learning_rate": 0.002, "weight_decay": 0.05},
    {"optimizer": "adamw", "learning_rate": 0.002, "weight_decay": 0.5},
]
METHODS = [
    ("finetuning", {}),
    ("lwf", {"train_head": True}),
    ("lwf", {"train_head": False}),
    ("ewc", {"penalty_factor": 5.0}),
    ("lwf_ewc", {"penalty_factor": 5.0}),
]


@pytest.mark.parametrize(("scenario", "optimizer", "kept"), pairs(SCENARIOS, OPTIMIZERS, ["reset", "keep"]))
def test_every_optimizer(scenario, optimizer, kept):
    # Which method is trained goes round, so that every method meets every optimizer.
    place = 3 * OPTIMIZERS.index(optimizer) + SCENARIOS.index(scenario) + 2 * (kept == "keep")
    for algorithm, settings in (METHODS[place % 5], METHODS[(place + 1) % 5]):
        run = run_of(algorithm, scenario, optimizer_state=kept, **optimizer, **settings)
        assert_training_is_the_textbooks(run)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_steps_instead_of_epochs_where_members_have_different_numbers_of_samples(scenario):
    run = run_of("lwf", scenario, epochs=None, iterations=7, momentum=0.5)
    assert_training_is_the_textbooks(run)


@pytest.mark.parametrize(("algorithm", "settings"), METHODS)
def test_permuted_pixels(algorithm, settings):
    for scenario in SCENARIOS if algorithm == "finetuning" else ("domain",):
        run = run_of(algorithm, scenario, benchmark="permuted-digits", **settings)
        assert_training_is_the_textbooks(run)


@pytest.mark.parametrize(("algorithm", "settings"), METHODS)
def test_turned_images(algorithm, settings):
    for scenario in SCENARIOS if algorithm == "finetuning" else ("domain",):
        run = run_of(algorithm, scenario, benchmark="rotated-digits", **settings)
        assert_training_is_the_textbooks(run)


# --- learning rates that change, training images that move ---

SCHEDULES = [
    {"warmup": 0.4},
    {"schedule": "cosine"},
    {"schedule": "cosine", "warmup": 0.3, "optimizer": "adamw", "learning_rate": 0.002, "weight_decay": 0.05},
    {"schedule": "step", "milestones": (0.3, 0.6), "decay": 0.4, "momentum": 0.6, "optimizer_state": "keep"},
    {"schedule": "step", "warmup": 0.25, "weight_decay": 0.02},
]
MOVED = {"random_crop": 2, "horizontal_flip": True}


@pytest.mark.parametrize(
    ("scenario", "schedule", "length"),
    [
        (SCENARIOS[i % 3], *row)
        for i, row in enumerate(pairs(SCHEDULES, [{"epochs": 2}, {"epochs": None, "iterations": 7}]))
    ],
)
def test_every_schedule(scenario, schedule, length):
    place = 3 * SCHEDULES.index(schedule) + SCENARIOS.index(scenario) + 2 * ("iterations" in length)
    algorithm, settings = METHODS[place % 5]
    run = run_of(algorithm, scenario, **length, **schedule, **settings)
    assert run.scheduled
    assert_training_is_the_textbooks(run)


@pytest.mark.parametrize(
    ("scenario", "method", "moves"), in_turn(SCENARIOS, METHODS, [{"random_crop": 2}, {"horizontal_flip": True}, MOVED])
)
def test_augmented_images(scenario, method, moves):
    algorithm, settings = method
    assert_training_is_the_textbooks(run_of(algorithm, scenario, momentum=0.3, **moves, **settings))


@pytest.mark.parametrize(("algorithm", "settings"), METHODS)
def test_turned_and_augmented_images(algorithm, settings):
    run = run_of(algorithm, "domain", benchmark="rotated-digits", schedule="cosine", **MOVED, **settings)
    assert_training_is_the_textbooks(run)


# --- LwF ---

DISTANCES = [
    ("cross_entropy", "none"),
    ("cross_entropy", "squared"),
    ("kl", "none"),
    ("kl", "squared"),
    ("mse", "none"),
]


@pytest.mark.parametrize(
    ("scenario", "teachers", "train_head", "of"), pairs(SCENARIOS, ["per_task", "last"], [False, True], DISTANCES)
)
def test_lwf(scenario, teachers, train_head, of):
    distance, temperature_scaling = of
    run = run_of(
        "lwf",
        scenario,
        teachers=teachers,
        train_head=train_head,
        distance=distance,
        temperature_scaling=temperature_scaling,
        distillation_factor=2.5,
        distillation_temperature=1.7,
        momentum=0.3,
    )
    assert_something_acts(run, assert_training_is_the_textbooks(run))


@pytest.mark.parametrize(("scenario", "teachers", "of"), in_turn(SCENARIOS, ["per_task", "last"], DISTANCES))
def test_teachers_are_asked_about_the_images_as_the_student_sees_them(scenario, teachers, of):
    distance, temperature_scaling = of
    run = run_of(
        "lwf",
        scenario,
        teachers=teachers,
        distance=distance,
        temperature_scaling=temperature_scaling,
        distillation_factor=2.5,
        **MOVED,
    )
    assert_something_acts(run, assert_training_is_the_textbooks(run))
    about_the_images_as_they_are = replace(run, regularizers=(replace(run.regularizers[0], augmented=False),))
    with pytest.raises(AssertionError):
        assert_training_is_the_textbooks(about_the_images_as_they_are)


# --- EWC ---

FISHERS = {"empirical": 1.0, "sampled": 1.0, "exact": 1.0, "batch": 3.0}
SCALES = {"none": 1.0, "per_parameter": 455.0, "unit_trace": 10.0}
POWERS = {1.0: 1.0, 1.5: 3.0, 2.0: 8.0, 3.0: 25.0}
"""Factors under which the penalty acts, and training does not diverge."""
ANCHORS = [{}, {"anchors": "online"}, {"anchors": "online", "gamma": 0.4}]
CHANGES = pairs(SCENARIOS, POWERS, ANCHORS, (False, True), FISHERS, SCALES, (None, 5))


def ewc_run(algorithm, scenario, p, anchors, average, kind, scale, most, **settings) -> TrialSetup:
    return run_of(
        algorithm,
        scenario,
        penalty_p_norm=p,
        average_over_tasks=average,
        fisher=kind,
        fisher_scale=scale,
        fisher_samples=most,
        penalty_factor=FISHERS[kind] * SCALES[scale] * POWERS[p],
        **anchors,
        **settings,
    )


@pytest.mark.parametrize(("scenario", "p", "anchors", "average", "kind", "scale", "most"), CHANGES)
def test_ewc(scenario, p, anchors, average, kind, scale, most):
    run = ewc_run("ewc", scenario, p, anchors, average, kind, scale, most)
    assert_something_acts(run, assert_training_is_the_textbooks(run))


# --- both ---


TOGETHER = [
    (1.0, ANCHORS[0], False, "empirical", "none", None),
    (1.0, ANCHORS[2], True, "sampled", "per_parameter", None),
    (1.5, ANCHORS[2], False, "exact", "unit_trace", None),
    (2.0, ANCHORS[1], True, "batch", "none", 5),
    (3.0, ANCHORS[1], False, "empirical", "unit_trace", 5),
]


@pytest.mark.parametrize(("place", "scenario"), in_turn(range(5), SCENARIOS))
def test_lwf_and_ewc_together(scenario, place):
    distance, scaling = DISTANCES[place]
    run = ewc_run(
        "lwf_ewc",
        scenario,
        *TOGETHER[place],
        distance=distance,
        temperature_scaling=scaling,
        teachers=("per_task", "last")[place % 2],
        train_head=place % 3 > 0,
        momentum=0.3,
    )
    params = assert_training_is_the_textbooks(run)
    assert_something_acts(run, params)
    # Each of the two acts beside the other.
    for regularizer in run.regularizers:
        alone = learn_sequence(replace(run, regularizers=(regularizer,))).params
        assert max((params[name] - alone[name]).abs().max().item() for name in params) > 2e-5


# --- single precision, as everything is trained ---


@pytest.mark.parametrize(
    ("scenario", "method", "others"),
    [
        (SCENARIOS[i % 3], *row)
        for i, row in enumerate(
            pairs(METHODS, [{"momentum": 0.6, "weight_decay": 0.02}, {"schedule": "cosine", "warmup": 0.3, **MOVED}])
        )
    ],
)
def test_single_precision(scenario, method, others):
    algorithm, settings = method
    torch.set_default_dtype(torch.float32)
    assert_training_is_the_textbooks(run_of(algorithm, scenario, **others, **settings))


# --- that the comparison can fail ---

WRONG = [
    ("lwf", {}, {"teachers": "last"}),
    ("lwf", {}, {"train_head": True}),
    ("lwf", {}, {"distance": "mse"}),
    ("lwf", {}, {"temperature": 2.2}),
    ("lwf", {}, {"temperature_scaling": "squared"}),
    ("ewc", {}, {"p": 2.2}),
    ("ewc", {}, {"fisher": "exact"}),
    ("ewc", {}, {"fisher": "batch"}),
    ("ewc", {}, {"fisher_scale": "per_parameter"}),
    ("ewc", {}, {"average_over_tasks": True}),
    ("ewc", {}, {"anchors": "online"}),
    ("ewc", {"anchors": "online", "gamma": 0.4}, {"gamma": 0.6}),
]


@pytest.mark.parametrize(("algorithm", "settings", "wrong"), WRONG)
def test_another_method_would_not_pass(algorithm, settings, wrong, monkeypatch):
    run = run_of(algorithm, "task", **settings, **({"penalty_factor": 10.0} if algorithm == "ewc" else {}))
    right = learner_of

    def mistaken(run: TrialSetup, m: int) -> textbook.Learner:
        learner = right(run, m)
        learner.methods = [replace(method, **wrong) for method in learner.methods]
        return learner

    monkeypatch.setitem(globals(), "learner_of", mistaken)
    with pytest.raises(AssertionError):
        assert_training_is_the_textbooks(run)
