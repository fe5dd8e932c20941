"""Any search space is the same after its way through YAML, the command line, the record and Optuna."""

import json
from typing import Any

import optuna
import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from clsearch.common.errors import ConfigError
from clsearch.config.domains import Choice, IntRange, Range
from clsearch.config.space_parts import When
from clsearch.config.spaces import SearchSpace
from clsearch.planning.command_line import parse
from clsearch.planning.config_file import WHEN, to_flag, to_words
from clsearch.planning.option_yaml import parse_options
from clsearch.planning.search_fields import read_space, search_fields, write_value, write_whens, write_words
from clsearch.sampling.study import params_of, suggest_values, values_of

FIELDS = search_fields("lwf")
NUMBERS = ("learning_rate", "momentum", "weight_decay", "distillation_factor", "distillation_temperature", "warmup")
WHOLE = ("epochs", "batch_size", "random_crop")
NAMES = {
    "optimizer": ("sgd", "adam", "adamw"),
    "schedule": ("constant", "cosine", "step"),
    "distance": ("cross_entropy", "kl", "mse"),
    "horizontal_flip": (True, False),
    "train_head": (True, False, None),
    "hidden": ((8,), (16, 16), (100, 50, 25)),
    "milestones": ((0.5, 0.75), (0.25,)),
}

numbers = st.floats(1e-6, 1e3).map(lambda value: float(f"{value:.3g}"))


@st.composite
def ranges(draw: Any) -> Range:
    low, high = sorted((draw(numbers), draw(numbers)))
    assume(low < high)
    kind = draw(st.sampled_from(["linear", "log", "step"]))
    step = float(f"{(high - low) / draw(st.floats(1, 7)):.6g}") if kind == "step" else None
    assume(step is None or 0 < step <= high - low)
    return Range(low, high, kind == "log", step)


@st.composite
def whole_ranges(draw: Any) -> IntRange:
    low, high = sorted((draw(st.integers(1, 500)), draw(st.integers(1, 500))))
    assume(low < high)
    log = draw(st.booleans())
    return IntRange(low, high, log, 1 if log else draw(st.integers(1, high - low)))


@st.composite
def domains(draw: Any, name: str) -> Any:
    if name in NAMES:
        return Choice(*draw(st.lists(st.sampled_from(NAMES[name]), min_size=2, max_size=3, unique=True)))
    if name in WHOLE:
        choices = st.lists(st.integers(1, 100), min_size=1, max_size=4, unique=True).map(lambda own: Choice(*own))
        return draw(st.one_of(whole_ranges(), choices))
    choices = st.lists(numbers, min_size=1, max_size=4, unique=True).map(lambda own: Choice(*own))
    return draw(st.one_of(ranges(), choices))


@st.composite
def spaces(draw: Any) -> SearchSpace:
    """Draw some hyperparameters, each under the condition of an earlier one or of none."""
    names = draw(st.lists(st.sampled_from([*NUMBERS, *WHOLE, *NAMES]), min_size=1, max_size=6, unique=True))
    written: list[Any] = []
    above: list[tuple[str, Any]] = []
    for name in names:
        domain = draw(domains(name))
        part: Any = {name: domain}
        for other, value in draw(st.permutations(above))[: draw(st.integers(0, 2))]:
            part = When(other, value, part)
        written.append(part)
        if isinstance(domain, Choice):
            above.append((name, draw(st.sampled_from(domain.values))))
    try:
        return SearchSpace.of(written)
    except ConfigError:
        assume(False)
        raise


def yaml_of(space: SearchSpace) -> dict[str, Any]:
    own = {part.name: write_value(FIELDS[part.name], part.domain) for part in space.parts if not part.conditions}
    return own | ({WHEN: write_whens(FIELDS, space)} if space.conditional else {})


def parts_of(space: SearchSpace) -> dict[str, Any]:
    """The parts by name: YAML keeps the conditional ones after the others."""
    return {part.name: (part.domain, dict(part.conditions)) for part in space.parts}


QUIET = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])


@QUIET
@given(spaces())
def test_yaml_gives_the_space_back(space):
    content = parse_options(yaml.safe_dump(yaml_of(space), sort_keys=False, allow_unicode=True))
    assert parts_of(SearchSpace.of(read_space(FIELDS, content, "space"))) == parts_of(space)


@pytest.mark.slow
@settings(QUIET, max_examples=25)
@given(spaces())
def test_the_command_line_gives_the_space_back(space):
    words = []
    for part in space.parts:
        if not part.conditions:
            words += [to_flag(part.name), *write_words(FIELDS[part.name], part.domain)]
    words += to_words(WHEN, write_whens(FIELDS, space)) if space.conditional else []
    fixed = {part.name for part in space.parts if not part.conditions and len(part.domain.ends) == 1}
    settings_, found, _ = parse("lwf", "", {}, SearchSpace(), words)
    expected = {name: own for name, own in parts_of(space).items() if name not in fixed}
    assert {name: own for name, own in parts_of(found).items() if name not in fixed} == expected
    for name in fixed:
        assert settings_.get(name, space[name].setting(space[name].ends[0])) == space[name].setting(space[name].ends[0])


@QUIET
@given(spaces())
def test_the_record_gives_the_space_back(space):
    assert SearchSpace.from_json(json.loads(json.dumps(space.as_json()))) == space


@settings(QUIET, max_examples=30)
@given(spaces(), st.integers(0, 1000))
def test_optuna_suggests_values_of_the_space_and_keeps_them(space, seed):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    trial = study.ask()
    values = suggest_values(trial, space)
    assert space.has(values)
    assert values_of(space, trial.params) == values
    assert trial.params == params_of(space, values)
    again = optuna.trial.Trial(study, trial._trial_id)
    assert suggest_values(again, space) == values
    assert json.loads(json.dumps(values)) == values


@settings(QUIET, max_examples=30)
@given(spaces())
def test_a_grid_has_each_point_once_and_as_many_as_it_counts(space):
    assume(space.count_grid(2) < 2000)
    points = list(space.grid(2))
    assert len(points) == space.count_grid(2) == len({json.dumps(point, sort_keys=True) for point in points})
    assert all(space.has(point) for point in points)
