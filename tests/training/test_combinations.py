"""Every combination of options trains to finite numbers, or is refused with its reason."""

import itertools
from dataclasses import replace
from functools import cache

import pytest
import torch

from clsearch.config.unlearning import UnlearningConfig
from clsearch.methods.registry import BUILT_IN, configure
from clsearch.networks.mlp import is_head
from clsearch.tasks.benchmark import Benchmark, build_benchmark, shrink
from clsearch.training.loop import learn_sequence
from clsearch.training.optimizers import build_optimizer
from clsearch.training.state import TrialState
from clsearch.training.trial_setup import TrialSetup, build_trial
from tests.helpers import CPU, pairs
from tests.refusals import broken

pytestmark = pytest.mark.slow

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
UNEQUAL, PERMUTED = 4, 5
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
    "backbone": ("mlp", "cnn"),
}


def expected_problems(algorithm: str, settings: dict) -> list[tuple[str, str]]:
    """Field and rule of each problem that these settings must have."""
    expected = []
    counts = settings.get("classes_per_task")
    if settings["scenario"] == "domain" and counts and len(set(counts)) > 1:
        expected.append(("classes_per_task", "domain-equal-counts"))
    augmented = settings.get("random_crop") or settings.get("horizontal_flip")
    if settings.get("benchmark") == "permuted-digits" and augmented:
        expected.append(("random_crop, horizontal_flip", "augmentation-needs-images"))
    if settings.get("distance") == "mse" and settings.get("temperature_scaling") == "squared":
        expected.append(("temperature_scaling", "mse-has-no-temperature"))
    if settings.get("gamma", 1.0) != 1 and settings.get("anchors") == "separate":
        expected.append(("gamma", "online-only"))
    if algorithm == "independent" and settings["scenario"] == "class":
        expected.append(("scenario", "independent-needs-task-identity"))
    return expected


@cache
def benchmark_of(scenario: str, place: int) -> Benchmark:
    """Two tasks of about four samples: building them takes longer than training on them."""
    config = configure("finetuning", {"epochs": 1, "scenario": scenario, **BENCHMARKS[place]})
    return shrink(build_benchmark(config, SEEDS, CPU), 2, 4)


@cache
def template_of(scenario: str, place: int, backbone: str) -> TrialSetup:
    settings = {"epochs": 1, "scenario": scenario, "backbone": backbone, "hidden": (8,), **BENCHMARKS[place]}
    run = build_trial(configure("finetuning", settings), SEEDS)
    return replace(run, benchmark=benchmark_of(scenario, place))


def trained(algorithm: str, settings: dict, place: int) -> tuple[TrialSetup, TrialState] | None:
    """The run and its last state; None where the settings are refused, for the reasons they must be."""
    settings = {"hidden": (8,), "batch_size": 4, **BENCHMARKS[place], **settings}
    if expected := expected_problems(algorithm, settings):
        assert broken(configure, algorithm, settings) == expected, settings
        return None
    config = configure(algorithm, settings)
    template = template_of(settings["scenario"], place, config.backbone)
    run = replace(
        template,
        config=config,
        optimizer=build_optimizer(config),
        regularizers=tuple(build(config) for build in BUILT_IN[algorithm].builders),
        scheme=BUILT_IN[algorithm].scheme,
        hyperparameters={name: torch.full((len(SEEDS),), getattr(config, name)) for name in config.hyperparameters},
    )
    return run, learn_sequence(run)


def assert_sound(run: TrialSetup, state: TrialState, settings: dict) -> None:
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


DISTANCES = [
    {"distance": distance, "temperature_scaling": scaling}
    for distance in DISTILLATION["distance"]
    for scaling in DISTILLATION["temperature_scaling"]
    if (distance, scaling) != ("mse", "squared")
]
ANCHORS = [{"anchors": "separate", "gamma": 1.0}, *({"anchors": "online", "gamma": gamma} for gamma in (1.0, 0.5, 0.0))]


def together(rows: list[tuple], *names: str) -> list[dict]:
    """The options of each row. names: of its values; one without a name is several options itself."""
    return [
        {k: v for name, value in zip(names, row, strict=True) for k, v in ({name: value} if name else value).items()}
        for row in rows
    ]


def of(options: dict, *names: str) -> list[tuple]:
    return [options[name] for name in names]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_lwf(scenario):
    names = ("teachers", "train_head")
    rows = pairs(range(len(BENCHMARKS)), DISTANCES, *of(DISTILLATION, *names))
    taken = 0
    for i, options in enumerate(together(rows, "place", "", *names)):
        place, others = goes_round(i, options.pop("place"))
        settings = {"scenario": scenario, "distillation_temperature": (0.5, 2.0, 20.0)[i % 3], **options, **others}
        if (both := trained("lwf", settings, place)) is None:
            continue
        run, state = both
        assert_sound(run, state, settings)
        # The second task's first row: a distance that is not negative, and a penalty that is the distance scaled.
        row = state.curve[state.epochs[:, 0] == 2][0]
        assert (row[:, run.columns.index("kl")] > -1e-6).all(), settings
        taken += 1
    assert taken == len(rows) - (scenario == "domain") * sum(row[0] == UNEQUAL for row in rows)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_ewc(scenario):
    names = ("fisher", "fisher_scale", "fisher_samples", "average_over_tasks", "penalty_p_norm")
    rows = pairs(range(len(BENCHMARKS)), ANCHORS, *of(PARAMETER_CHANGE, *names))
    taken = 0
    for i, options in enumerate(together(rows, "place", "", *names)):
        place, others = goes_round(i, options.pop("place"))
        settings = {"scenario": scenario, **options, **others}
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
    assert taken == len(rows) - (scenario == "domain") * sum(row[0] == UNEQUAL for row in rows)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_lwf_and_ewc_together(scenario):
    """Every pair of an option of the one with an option of the other, of the steps or of the network, and every pair
    within each.
    """
    names = ("teachers", "train_head", "fisher", "fisher_scale", "fisher_samples", "average_over_tasks")
    names += ("penalty_p_norm", *STEPS)
    rows = pairs(DISTANCES, ANCHORS, *of(DISTILLATION | PARAMETER_CHANGE | STEPS, *names))
    # Permuted pixels refuse augmentation, and domain-incremental tasks refuse unequal counts of classes.
    places = [place for place in range(len(BENCHMARKS)) if place not in (PERMUTED, UNEQUAL)]
    for i, options in enumerate(together(rows, "", "", *names)):
        place, others = goes_round(i, places[i % len(places)])
        settings = {"scenario": scenario, **others, "milestones": (0.5, 0.75), "decay": 0.1, **options}
        both = trained("lwf_ewc", settings, place)
        assert both is not None, settings
        assert_sound(*both, settings)
        assert {name.partition("/")[0] for name in both[1].memory} == {"teacher", "importance", "anchor"}


@pytest.mark.parametrize(
    ("algorithm", "settings", "place"),
    [
        *((method, {"distance": "mse", "temperature_scaling": "squared"}, 0) for method in ("lwf", "lwf_ewc")),
        *((method, {"anchors": "separate", "gamma": gamma}, 6) for method in ("ewc", "lwf_ewc") for gamma in (0, 0.5)),
        ("independent", {"scenario": "class"}, 1),
        ("ewc", {"random_crop": 2}, PERMUTED),
        ("lwf", {"horizontal_flip": True}, PERMUTED),
        ("joint", {"scenario": "domain"}, UNEQUAL),
    ],
)
def test_options_that_contradict_each_other_are_refused(algorithm, settings, place):
    assert trained(algorithm, {"scenario": "task", "epochs": 1, **settings}, place) is None


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
