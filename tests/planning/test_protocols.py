"""What each protocol searches and reports on, and what it refuses."""

from pathlib import Path

import pytest

from clsearch import LogRange, Study
from clsearch.config.data_source import class_counts
from clsearch.config.spaces import SearchSpace
from clsearch.methods.registry import configure
from clsearch.planning.options import Options, Protocol
from clsearch.planning.protocols import (
    check_protocol,
    check_report,
    report_settings,
    reported_tasks,
    searched_tasks,
)
from tests.refusals import broken, refusals

FACTOR = {"distillation_factor": LogRange(0.1, 10)}
LENGTH = {"epochs": 1}


def plan_of(algorithm="lwf", **settings):
    """The plan of a study of split digits, five tasks unless told otherwise."""
    return Study(algorithm=algorithm, **({"hidden": (8,), "epochs": 1} | settings)).plan


def problems_of(algorithm="lwf", **settings):
    return broken(plan_of, algorithm, **settings)


# Tasks


@pytest.mark.parametrize("tasks", [2, 5, 10])
@pytest.mark.parametrize("protocol", ["end_of_sequence", "two_phase", "continual"])
def test_all_tasks_are_searched_and_reported_on_unless_told_otherwise(protocol, tasks):
    options = Options(protocol=protocol)
    assert searched_tasks(options, tasks) == reported_tasks(options, tasks) == tuple(range(1, tasks + 1))


@pytest.mark.parametrize(
    ("k", "tasks", "searched", "reported"),
    [(2, 5, (1, 2), (3, 4, 5)), (3, 5, (1, 2, 3), (4, 5)), (None, 6, (1, 2, 3), (4, 5, 6)), (2, 4, (1, 2), (3, 4))],
)
def test_first_k_searches_the_first_tasks_and_reports_on_the_others(k, tasks, searched, reported):
    options = Options(protocol="first_k", first_k=k)
    assert searched_tasks(options, tasks) == searched
    assert reported_tasks(options, tasks) == reported


def test_a_plan_says_which_tasks_are_searched_and_reported_on():
    plan = plan_of(protocol="first_k", first_k=2)
    assert (plan.protocol, plan.tasks, plan.reported) == (Protocol.FIRST_K, (1, 2), (3, 4, 5))
    assert plan_of(protocol="first_k").tasks == (1, 2, 3)
    assert plan_of().tasks == plan_of().reported == (1, 2, 3, 4, 5)


def test_selecting_and_reporting_seeds_share_none():
    plan = plan_of(seeds=4, first_seed=996)
    assert (plan.seeds, plan.report_seeds) == ((996, 997, 998, 999), (1000, 1001, 1002, 1003, 1004))
    plan = plan_of(seeds=2, report_seeds=3, first_report_seed=2)
    assert (plan.seeds, plan.report_seeds) == ((0, 1), (2, 3, 4))


# Options of one protocol in another


@pytest.mark.parametrize("protocol", list(Protocol))
@pytest.mark.parametrize(
    ("own", "name", "value"),
    [
        ("first_k", "first_k", 2),
        ("two_phase", "report_benchmark", "rotated-digits"),
        ("continual", "learning_rates", (0.1, 0.2)),
    ],
)
def test_an_option_that_acts_in_another_protocol_is_refused(protocol, own, name, value):
    config = configure("lwf", LENGTH | {"tasks": 5})
    problems = check_protocol(Options(protocol=protocol, **{name: value}), {name}, config, SearchSpace.of(FACTOR))
    rules = [problem.rule for problem in problems if problem.field == name]
    assert rules == ([] if protocol.value == own else ["protocol-only"])


def test_an_unknown_protocol_is_refused_with_those_that_are_known():
    (problem,) = refusals(plan_of, protocol="oracle")
    assert problem.rule == "enum"
    assert problem == "protocol: must be 'end_of_sequence', 'first_k', 'two_phase' or 'continual'; got 'oracle'"


# first_k


@pytest.mark.parametrize(("k", "tasks"), [(None, 4), (None, 2), (4, 5), (5, 5), (9, 5)])
def test_first_k_must_leave_two_tasks(k, tasks):
    assert problems_of(protocol="first_k", first_k=k, tasks=tasks) == [("first_k", "two-tasks-to-report")]


def test_first_k_needs_two_tasks_to_search_on():
    assert problems_of(protocol="first_k", first_k=1) == [("first_k", "greater-than-equal")]


def test_an_objective_of_a_task_that_first_k_does_not_search_is_refused():
    (problem,) = refusals(plan_of, protocol="first_k", first_k=2, objectives=("accuracy/task_03",))
    assert problem.rule == "objectives-known"
    assert "accuracy/task_01..02" in problem
    assert problem.endswith("; got accuracy/task_03")
    assert plan_of(protocol="first_k", first_k=2, objectives=("accuracy/task_02",)).objectives == ("accuracy/task_02",)


def test_independent_networks_have_no_forward_transfer_to_search():
    problems = problems_of("independent", space={}, objectives=("forward_transfer",))
    assert problems == [("objectives", "no-forward-transfer")]


# two_phase


def test_two_phase_needs_a_second_benchmark():
    assert problems_of(protocol="two_phase") == [("report_benchmark", "report-benchmark-needed")]


def test_the_second_benchmark_must_be_other_data():
    problems = problems_of(protocol="two_phase", report_benchmark="split-digits")
    assert problems == [("report_benchmark", "report-another-benchmark")]


def test_the_second_benchmark_must_be_known():
    problems = problems_of(protocol="two_phase", report_benchmark="split-zebras")
    assert problems == [("report_benchmark", "benchmark-known")]


@pytest.mark.parametrize(
    ("settings", "other"),
    [
        ({}, "permuted-digits"),
        ({"benchmark": "rotated-digits", "tasks": 2}, "split-mnist"),
        ({"classes_per_task": (4, 2, 3)}, "split-mnist"),
        ({"tasks": 2}, "split-cifar100"),
    ],
)
def test_the_second_benchmark_must_have_as_many_tasks_and_classes(settings, other):
    problems = problems_of(protocol="two_phase", report_benchmark=other, **settings)
    assert problems == [("report_benchmark", "report-same-counts")]


def test_check_report_accepts_other_data_of_the_same_form_and_nothing_else():
    search = configure("lwf", LENGTH | {"tasks": 5})
    check_report(search, configure("lwf", LENGTH | {"tasks": 5, "benchmark": "split-fashion-mnist"}))
    fewer = configure("lwf", LENGTH | {"tasks": 3, "benchmark": "split-fashion-mnist"})
    assert broken(check_report, search, fewer) == [("report_benchmark", "report-same-counts")]
    same = configure("lwf", LENGTH | {"tasks": 5})
    assert broken(check_report, search, same) == [("report_benchmark", "report-another-benchmark")]


def test_settings_for_the_second_benchmark_leave_out_what_belongs_to_the_firsts_classes_and_images():
    settings = {
        "learning_rate": 0.3,
        "hidden": (8,),
        "data_root": Path("data"),
        "grouping": Path("groups.txt"),
        "image_size": 16,
        "image_channels": 1,
        "classes_per_task": (2, 2),
        "random_crop": 2,
    }
    config = configure("lwf", LENGTH | {"tasks": 4, "scenario": "domain", "benchmark": "permuted-digits"})
    assert report_settings(settings, config, "rotated-mnist") == {
        "learning_rate": 0.3,
        "hidden": (8,),
        "data_root": Path("data"),
        "random_crop": 2,
        "benchmark": "rotated-mnist",
        "scenario": "domain",
        "tasks": 4,
    }


def test_the_second_benchmarks_configuration_is_the_searchs_on_other_data():
    plan = plan_of(
        protocol="two_phase", benchmark="permuted-digits", report_benchmark="rotated-digits", tasks=3, learning_rate=0.3
    )
    assert plan.report is not None
    assert plan.report.flat() == plan.config.flat() | {"benchmark": "rotated-digits"}
    assert class_counts(plan.report) == class_counts(plan.config)
    values = {"distillation_factor": 0.7, "distillation_temperature": 3.0}
    own, other = plan.trial_config(values), plan.trial_config(values, on=plan.report)
    assert other.flat() == own.flat() | {"benchmark": "rotated-digits"}
    assert (other.distillation_factor, other.learning_rate) == (0.7, 0.3)
    reference = plan.trial_config({}, "finetuning", plan.report)
    assert (reference.algorithm, reference.benchmark, reference.tasks) == ("finetuning", "rotated-digits", 3)


def test_the_second_benchmark_keeps_a_scenario_that_is_not_its_default():
    plan = plan_of(protocol="two_phase", scenario="class", tasks=3, report_benchmark="split-mnist")
    assert plan.report is not None
    assert (plan.report.scenario, plan.report.tasks) == (plan.config.scenario, 3)


# continual


@pytest.mark.parametrize("algorithm", ["joint", "independent"])
def test_continual_needs_an_algorithm_that_goes_on_from_the_current_model(algorithm):
    problems = problems_of(algorithm, protocol="continual", space={})
    assert problems[0] == ("protocol", "continual-keeps-model")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trials", 5),
        ("sampler", "random"),
        ("sampler_seed", 3),
        ("grid_points", 4),
        ("objectives", ("average_accuracy", "average_forgetting")),
    ],
)
def test_continual_refuses_what_acts_where_a_sampler_chooses(name, value):
    assert problems_of(protocol="continual", **{name: value}) == [(name, "sampler-only")]


def test_continual_searches_no_hyperparameter_that_stays_the_same():
    space = {"penalty_factor": LogRange(1, 10), "penalty_p_norm": LogRange(1, 3)}
    assert problems_of("ewc", protocol="continual", space=space) == [("penalty_p_norm", "continual-decays")]


def test_continual_takes_its_learning_rates_from_a_grid():
    problems = problems_of(protocol="continual", space=FACTOR | {"learning_rate": LogRange(0.01, 1)})
    assert problems == [("learning_rate", "continual-rates")]


@pytest.mark.parametrize("algorithm", ["lwf", "ewc", "lwf_ewc"])
def test_continual_needs_a_factor_to_decay(algorithm):
    assert problems_of(algorithm, protocol="continual", space={}) == [("protocol", "continual-needs-factor")]


def test_continual_with_finetuning_needs_none():
    assert plan_of("finetuning", protocol="continual", space={}).space == {}
    assert plan_of("finetuning", protocol="continual").space == {}


@pytest.mark.parametrize(
    ("algorithm", "names"),
    [
        ("lwf", ["distillation_factor"]),
        ("ewc", ["penalty_factor"]),
        ("lwf_ewc", ["distillation_factor", "penalty_factor"]),
    ],
)
def test_the_default_space_of_continual_has_the_factors_alone(algorithm, names):
    plan = plan_of(algorithm, protocol="continual")
    assert list(plan.space) == names
    assert {name: plan_of(algorithm).space[name] for name in names} == plan.space


def test_rates_are_multiples_of_the_configured_one_unless_named():
    assert plan_of(protocol="continual", learning_rate=0.2).rates == (0.02, 0.06, 0.2, 0.6, 2.0)
    assert plan_of(protocol="continual", learning_rate=0.001).rates == (0.0001, 0.0003, 0.001, 0.003, 0.01)
    assert plan_of(protocol="continual", learning_rates=(0.5, 0.05)).rates == (0.5, 0.05)


@pytest.mark.parametrize(
    ("rates", "rule"),
    [
        ((0.1, 0.1), "names-once"),
        ((0.1, 0.0), "rates-positive"),
        ((-1.0,), "rates-positive"),
        ((0.1, float("nan")), "finite-number"),
        ((0.1, float("inf")), "finite-number"),
    ],
)
def test_rates_must_be_finite_positive_and_named_once(rates, rule):
    assert problems_of(protocol="continual", learning_rates=rates) == [("learning_rates", rule)]


@pytest.mark.parametrize("rate", [1e-50, 1e60])
def test_rates_must_lie_in_single_precision(rate):
    problems = problems_of(protocol="continual", learning_rates=(0.1, rate))
    assert problems == [("learning_rates", "single-precision")]


# Samplers and seeds


def test_nsga2_needs_two_objectives_and_two_generations():
    assert problems_of(sampler="nsga2") == [("sampler", "sampler-several-objectives")]
    two = ("average_accuracy", "average_forgetting")
    assert problems_of(sampler="nsga2", objectives=two, trials=7) == [("trials", "two-generations")]
    assert plan_of(sampler="nsga2", objectives=two, trials=8).trials == 8


@pytest.mark.parametrize(
    ("seeds", "shown", "both"),
    [
        ({"first_report_seed": 2, "report_seeds": 4}, "2 to 5", "2"),
        ({"first_report_seed": 0, "report_seeds": 2}, "0 to 1", "0 to 1"),
        ({"first_seed": 998, "seeds": 5, "report_seeds": 5}, "1000 to 1004", "1000 to 1002"),
        ({"first_seed": 1004, "seeds": 1, "report_seeds": 5}, "1000 to 1004", "1004"),
    ],
)
def test_reporting_seeds_that_the_search_uses_are_refused(seeds, shown, both):
    (problem,) = refusals(plan_of, **seeds)
    assert problem.rule == "fresh-seeds"
    assert f" {shown}, " in problem
    assert problem.endswith(f"; got {both} in both")


def test_without_a_final_evaluation_no_seed_is_reserved():
    assert plan_of(first_seed=1000, final=False).seeds == (1000, 1001, 1002)


def test_seeds_that_no_report_uses_are_free_where_the_number_of_report_seeds_is_the_default():
    assert plan_of(first_report_seed=1000).report_seeds[-1] == 1004
    assert plan_of(first_seed=1005).seeds == (1005, 1006, 1007)


def test_all_problems_are_told_at_once():
    problems = problems_of(protocol="first_k", first_k=4, learning_rates=(0.1,), sampler="nsga2", first_seed=1000)
    assert problems == [
        ("learning_rates", "protocol-only"),
        ("first_k", "two-tasks-to-report"),
        ("sampler", "sampler-several-objectives"),
        ("first_report_seed", "fresh-seeds"),
    ]
