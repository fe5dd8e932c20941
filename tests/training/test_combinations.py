"""Every combination of options trains to finite numbers, or is refused with its reason."""

import itertools
import random
from dataclasses import replace
from functools import cache

import pytest
import torch

from clsearch.common.errors import ConfigError
from clsearch.config.unlearning import UnlearningConfig
from clsearch.methods.registry import BUILT_IN, configure
from clsearch.networks.mlp import is_head
from clsearch.tasks.benchmark import Benchmark, build_benchmark, miniature
from clsearch.training.loop import learn_sequence
from clsearch.training.optimizers import build_optimizer
from clsearch.training.state import TrialState
from clsearch.training.trial_setup import Run, build_run
from tests.helpers import CPU

SCENARIOS = ("task", "domain", "class")
SEEDS = (1, 6)

BENCHMARKS = [
    {"tasks": 2},
    {"tasks": 2, "class_order": "shuffled"},
    {"classes_per_task": (2, 2)},
    {"classes_per_task": (2, 2), "class_order": "shuffled"},
    {"classes_per_task": (2, 3), "class_order": "shuffled"},
    {"benchmark": "permuted-digits", "tasks": 2},
    {"benchmark": "rotated-digits", "tasks": 2},
]
PERMUTED = 5
OPTIMIZERS = [
    {"momentum": 0.5},
    {"weight_decay": 0.1},
    {"optimizer": "adam", "learning_rate": 0.01},
    {"optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.1},
]
KEPT = [{"optimizer_state": "reset"}, {"optimizer_state": "keep"}]
LENGTHS = [{"iterations": 2}, {"epochs": 1}]
SCHEDULES = [
    {},
    {"schedule": "cosine"},
    {"schedule": "step", "milestones": (0.4,), "decay": 0.5},
    {"warmup": 0.5},
    {"schedule": "cosine", "warmup": 0.3},
]
AUGMENTED = [{}, {"random_crop": 2}, {"horizontal_flip": True}, {"random_crop": 1, "horizontal_flip": True}]
BACKBONES = [{"backbone": "mlp"}, {"backbone": "cnn"}]

DISTILLATION = {
    "teachers": ("per_task", "last"),
    "train_head": (False, True),
    "distance": ("cross_entropy", "kl", "mse"),
    "temperature_scaling": ("none", "squared"),
}
PARAMETER_CHANGE = {
    "fisher": ("empirical", "sampled", "exact", "batch"),
    "fisher_scale": ("none", "per_parameter", "unit_trace"),
    "fisher_samples": (None, 3),
    "average_over_tasks": (False, True),
    "anchors": ("separate", "online"),
    "gamma": (1.0, 0.5, 0.0),
    "penalty_p_norm": (1.0, 1.5, 2.0, 3.0),
}


STEPS = {
    "schedule": ("constant", "cosine", "step"),
    "warmup": (0.0, 0.4),
    "random_crop": (0, 2),
    "horizontal_flip": (False, True),
    "backbone": ("mlp", "mlp", "mlp", "cnn"),
}


def product(options: dict) -> list[dict]:
    return [dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())]


def refusals(algorithm: str, settings: dict) -> list[str]:
    """What must be said of these settings: each rule, and the value."""
    expected = []
    counts = settings.get("classes_per_task")
    if settings["scenario"] == "domain" and counts and len(set(counts)) > 1:
        shown = " ".join(map(str, counts))
        expected.append(f"classes_per_task: domain-incremental tasks must have equal class counts; got {shown}")
    if settings.get("benchmark") == "permuted-digits" and (
        settings.get("random_crop") or settings.get("horizontal_flip")
    ):
        expected.append(
            "random_crop, horizontal_flip: act on images, and permuted pixels are none; got "
            f"{settings.get('random_crop', 0)}, {settings.get('horizontal_flip', False)} with permuted-digits"
        )
    if settings.get("distance") == "mse" and settings.get("temperature_scaling") == "squared":
        expected.append("temperature_scaling: must be none if distance is mse, which has no temperature; got squared")
    if settings.get("gamma", 1.0) != 1 and settings.get("anchors") == "separate":
        expected.append(f"gamma: acts with anchors = online only; got {settings['gamma']:g} with separate")
    if algorithm == "independent" and settings["scenario"] == "class":
        expected.append(
            "scenario: must be task or domain for independent networks, because class-incremental learning does not "
            "give the task that selects the network; got class"
        )
    return expected


@cache
def benchmark_of(scenario: str, place: int) -> Benchmark:
    """Two tasks of about four samples: building them takes longer than training on them."""
    config = configure("finetuning", {"epochs": 1, "scenario": scenario, **BENCHMARKS[place]})
    return miniature(build_benchmark(config, SEEDS, CPU), 2, 4)


@cache
def template_of(scenario: str, place: int, backbone: str) -> Run:
    settings = {"epochs": 1, "scenario": scenario, "backbone": backbone, "hidden": (8,), **BENCHMARKS[place]}
    run = build_run(configure("finetuning", settings), SEEDS)
    return replace(run, benchmark=benchmark_of(scenario, place))


def trained(algorithm: str, settings: dict, place: int) -> tuple[Run, TrialState] | None:
    """The run and its last state; None where the settings are refused, for the reasons they must be."""
    settings = {"hidden": (8,), "batch_size": 4, **BENCHMARKS[place], **settings}
    expected = refusals(algorithm, settings)
    if expected:
        with pytest.raises(ConfigError) as caught:
            configure(algorithm, settings)
        assert caught.value.problems == expected, settings
        return None
    config = configure(algorithm, settings)
    template = template_of(settings["scenario"], place, config.backbone)
    run = replace(
        template,
        config=config,
        optimizer=build_optimizer(config),
        regularizers=tuple(build(config) for build in BUILT_IN[algorithm].builders),
        scheme=BUILT_IN[algorithm].scheme,
        hyperparameters={name: torch.full((len(SEEDS),), getattr(config, name)) for name in template.hyperparameters},
    )
    return run, learn_sequence(run)


def assert_sound(run: Run, state: TrialState, settings: dict) -> None:
    assert state.tasks_learned == 2, settings
    for kind in (state.params, state.moments, state.memory):
        assert all(value.isfinite().all() for value in kind.values()), settings
    for m in range(len(SEEDS)):
        for t in (1, 2):
            row = state.curve[state.epochs[:, 0] == t, m]
            assert row[0].isfinite().all(), settings
    for t in (1, 2):
        assert state.accuracy[:, t, :t].isfinite().all(), settings
        assert ((state.accuracy[:, t, :t] >= 0) & (state.accuracy[:, t, :t] <= 1)).all(), settings
    # Training went somewhere.
    fresh = run.network.initial(run.seeds, CPU)
    assert all((state.params[name] != fresh[name]).any() for name in fresh), settings


def goes_round(i: int, place: int | None = None) -> tuple[int, dict]:
    """What is not multiplied out goes round, in steps that have no common divisor with those of the product. place: of
    the benchmark, where it is given.
    """
    place = i % len(BENCHMARKS) if place is None else place
    return place, {
        **OPTIMIZERS[(i // 5) % len(OPTIMIZERS)],
        **KEPT[(i // 7) % len(KEPT)],
        **LENGTHS[(i // 11) % len(LENGTHS)],
        **SCHEDULES[i % len(SCHEDULES)],
        **({} if place == PERMUTED else AUGMENTED[(i // 3) % len(AUGMENTED)]),
        **BACKBONES[i % 11 == 4],
    }


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("algorithm", ["finetuning", "joint", "independent"])
def test_references(algorithm, scenario):
    taken = 0
    for i, (place, optimizer) in enumerate(itertools.product(range(len(BENCHMARKS)), OPTIMIZERS)):
        # Every benchmark meets every way to augment, which permuted pixels refuse.
        others = {**KEPT[i % 2], **LENGTHS[(i // 2) % 2], **SCHEDULES[i % 5], **AUGMENTED[(i + place) % 4]}
        settings = {"scenario": scenario, **optimizer, **others, **BACKBONES[i % 11 == 4]}
        if (both := trained(algorithm, settings, place)) is not None:
            assert_sound(*both, settings)
            taken += 1
    places = len(BENCHMARKS) - (scenario == "domain")
    assert taken == (0 if (algorithm, scenario) == ("independent", "class") else 4 * places - 3)


@pytest.mark.parametrize("place", range(len(BENCHMARKS)))
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_lwf(scenario, place):
    taken = 0
    for i, options in enumerate(product(DISTILLATION)):
        _, others = goes_round(i + 7 * place, place)
        settings = {"scenario": scenario, "distillation_temperature": (0.5, 2.0, 20.0)[i % 3], **options, **others}
        if (both := trained("lwf", settings, place)) is None:
            continue
        run, state = both
        assert_sound(run, state, settings)
        # The second task's first row: a distance that is not negative, and a penalty that is the distance scaled.
        row = state.curve[state.epochs[:, 0] == 2][0]
        assert (row[:, run.columns.index("kl")] > -1e-6).all(), settings
        taken += 1
    refused = scenario == "domain" and BENCHMARKS[place].get("classes_per_task") == (2, 3)
    assert taken == (0 if refused else 20)


@pytest.mark.parametrize("p", PARAMETER_CHANGE["penalty_p_norm"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_ewc(scenario, p):
    taken = 0
    for i, options in enumerate(product({k: v for k, v in PARAMETER_CHANGE.items() if k != "penalty_p_norm"})):
        place, others = goes_round(i + i // 6)
        settings = {"scenario": scenario, "penalty_p_norm": p, **options, **others}
        if (both := trained("ewc", settings, place)) is None:
            continue
        run, state = both
        assert_sound(run, state, settings)
        importance = {name: value for name, value in state.memory.items() if name.startswith("importance/2/")}
        assert any(is_head(name.rpartition("/")[2]) for name in importance) == (scenario != "task"), settings
        assert all((value >= 0).all() for value in importance.values()), settings
        assert ("importance/1/backbone.0.weight" in state.memory) == (options["anchors"] == "separate"), settings
        penalty = state.curve[state.epochs[:, 0] == 2][-1, :, run.columns.index("penalty")]
        assert not (penalty < 0).any(), settings
        taken += 1
    # 4 x 3 x 2 x 2 with separate anchors and gamma 1, as many for each gamma online; less what benchmarks refuse.
    assert taken == 192 if scenario != "domain" else 140 < taken < 192


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_lwf_and_ewc_together(scenario):
    """Every pair of an option of the one with an option of the other, of the steps or of the network, and every pair
    within each.
    """
    both_kinds = DISTILLATION | PARAMETER_CHANGE | STEPS
    pairs = {
        frozenset(((a, x), (b, y)))
        for (a, xs), (b, ys) in itertools.combinations(both_kinds.items(), 2)
        for x, y in itertools.product(xs, ys)
    }
    met: set[frozenset] = set()
    refused: set[frozenset] = set()
    generator = random.Random(1)
    for i in range(110):
        options = {name: generator.choice(values) for name, values in both_kinds.items()}
        place, others = goes_round(i)
        if place == PERMUTED:
            options |= {"random_crop": 0, "horizontal_flip": False}
        own = {frozenset(pair) for pair in itertools.combinations(options.items(), 2)}
        settings = {"scenario": scenario, **others, "milestones": (0.5, 0.75), "decay": 0.1, **options}
        if (both := trained("lwf_ewc", settings, place)) is None:
            refused |= own
            continue
        assert_sound(*both, settings)
        assert {name.partition("/")[0] for name in both[1].memory} == {"teacher", "importance", "anchor"}
        met |= own
    assert met <= pairs
    assert len(met) > 0.95 * len(pairs)
    assert frozenset({("distance", "mse"), ("temperature_scaling", "squared")}) in refused - met


def test_the_products_are_of_every_option_that_there_is():
    """An option added later must be added here."""
    numbers = {"distillation_factor", "distillation_temperature", "penalty_factor"}
    benchmark = {"benchmark", "scenario", "tasks", "classes_per_task", "class_order", "data_root"}
    # Which classes, which images: nothing that a step knows of.
    benchmark |= {"grouping", "image_size", "image_channels"}
    training = {"hidden", "epochs", "iterations", "batch_size", "learning_rate", "optimizer", "momentum"}
    training |= {"weight_decay", "optimizer_state", "milestones", "decay"}
    training |= {"precision"}  # of the backbone's passes alone, see test_precision
    training |= set(UnlearningConfig.model_fields)  # between tasks, see test_unlearning
    fields = {name for own in BUILT_IN.values() for part in own.sections for name in part.model_fields}
    assert fields == numbers | benchmark | training | DISTILLATION.keys() | PARAMETER_CHANGE.keys() | STEPS.keys()
    for part in {part for own in BUILT_IN.values() for part in own.sections}:
        for name, field in part.model_fields.items():
            known = {**DISTILLATION, **PARAMETER_CHANGE, **STEPS, "scenario": SCENARIOS}.get(name)
            values = getattr(field.annotation, "__args__", ())
            if known and values and all(isinstance(value, str) for value in values):
                assert set(values) == set(known), name
