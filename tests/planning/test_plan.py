"""What a validated study says it will do."""

from pathlib import Path

import pytest

from clsearch.config.domains import Choice, IntRange, LogRange, Range
from clsearch.methods.registry import configure
from clsearch.planning.plan import DEFAULT_TRIALS
from tests.builders import SMALL_SPACES, plan_of, study_of
from tests.refusals import broken

FACTOR = {"distillation_factor": LogRange(0.01, 100)}
TWO = ("average_accuracy", "average_forgetting")
VALUES = {"distillation_factor": 0.7, "distillation_temperature": 3.0}


def test_a_trials_configuration_is_the_studys_with_its_own_values(tmp_path):
    plan = plan_of(tmp_path, learning_rate=0.3)
    config = plan.trial_config({"distillation_factor": 0.7, "distillation_temperature": 3.0})
    assert config == configure(
        "lwf",
        {
            "tasks": 3,
            "hidden": (8,),
            "epochs": 1,
            "learning_rate": 0.3,
            "distillation_factor": 0.7,
            "distillation_temperature": 3.0,
        },
    )


@pytest.mark.parametrize("algorithm", ["lwf", "ewc"])
def test_a_references_configuration_shares_all_that_it_knows(tmp_path, algorithm):
    plan = plan_of(tmp_path, algorithm, batch_size=7, learning_rate=0.3, scenario="domain", tasks=5)
    reference = plan.trial_config({}, "finetuning")
    assert reference.algorithm == "finetuning"
    trial = plan.trial_config({name: r.low for name, r in plan.space.items()})
    assert {k: trial.flat()[k] for k in reference.flat()} == reference.flat()


def test_a_searched_learning_rate_reaches_the_reference(tmp_path):
    plan = plan_of(tmp_path, space={"learning_rate": LogRange(1e-3, 1)})
    assert plan.trial_config({"learning_rate": 0.5}).learning_rate == 0.5
    assert plan.trial_config({"learning_rate": 0.5}, "finetuning").learning_rate == 0.5


def test_defaults_that_follow_the_scenario_are_filled_in_for_each_trial(tmp_path):
    values = {"distillation_factor": 1.0, "distillation_temperature": 1.0}
    task = plan_of(tmp_path, scenario="task").trial_config(values)
    classes = plan_of(tmp_path, scenario="class").trial_config(values)
    assert (task.teachers, task.train_head) == ("per_task", False)
    assert (classes.teachers, classes.train_head) == ("last", True)


def test_the_plans_configuration_holds_the_low_end_of_each_range(tmp_path):
    config = plan_of(tmp_path, "ewc").config
    assert (config.penalty_factor, config.penalty_p_norm) == (0.1, 1)


@pytest.mark.parametrize(
    ("settings", "trials"),
    [
        ({}, DEFAULT_TRIALS),
        ({"trials": 5}, 5),
        ({"sampler": "random"}, DEFAULT_TRIALS),
        ({"sampler": "grid"}, 25),
        ({"sampler": "grid", "grid_points": 3}, 9),
        ({"sampler": "grid", "grid_points": 3, "trials": 9}, 9),
        ({"sampler": "grid", "space": {"learning_rate": LogRange(0.1, 1)}}, 5),
        ({"space": {}}, 1),
        ({"space": {}, "trials": 1}, 1),
        ({"space": {}, "sampler": "grid"}, 1),
        ({"sampler": "qmc"}, DEFAULT_TRIALS),
        ({"sampler": "nsga2", "objectives": TWO}, DEFAULT_TRIALS),
        ({"sampler": "nsga2", "objectives": TWO, "trials": 8}, 8),
        ({"protocol": "continual", "space": FACTOR}, 1),
    ],
)
def test_the_budget_is_as_given_or_all_of_a_grid_or_one_where_nothing_is_searched(tmp_path, settings, trials):
    assert plan_of(tmp_path, **settings).trials == trials


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"sampler": "grid", "trials": 24}, "trials-of-grid"),
        ({"sampler": "grid", "trials": 26}, "trials-of-grid"),
        ({"space": {}, "trials": 2}, "one-trial-without-search"),
        ({"sampler": "nsga2", "objectives": TWO, "trials": 7}, "two-generations"),
    ],
)
def test_a_budget_that_cannot_be_is_refused(tmp_path, settings, rule):
    assert broken(plan_of, tmp_path, **settings) == [("trials", rule)]


@pytest.mark.parametrize(
    ("settings", "seeds"),
    [({}, (0, 1, 2)), ({"seeds": 1}, (0,)), ({"seeds": 4, "first_seed": 10}, (10, 11, 12, 13))],
)
def test_seeds_follow_the_first_one(tmp_path, settings, seeds):
    assert plan_of(tmp_path, **settings).seeds == seeds


@pytest.mark.parametrize(
    ("settings", "seeds"),
    [
        ({}, tuple(range(1000, 1005))),  # the embedded digits are few and quick
        ({"benchmark": "split-mnist"}, tuple(range(1000, 1010))),
        ({"report_seeds": 2}, (1000, 1001)),
        ({"report_seeds": 3, "first_report_seed": 50}, (50, 51, 52)),
        ({"seeds": 1000}, tuple(range(1000, 1005))),  # the search's end where they begin
    ],
)
def test_report_seeds_follow_their_first_one_and_none_is_searched(tmp_path, settings, seeds):
    plan = plan_of(tmp_path, **settings)
    assert plan.report_seeds == seeds
    assert not {*plan.report_seeds} & {*plan.seeds}


def test_the_objective_is_the_average_accuracy_unless_told(tmp_path):
    assert plan_of(tmp_path).objectives == ("average_accuracy",)
    assert plan_of(tmp_path, objectives=list(TWO)).objectives == TWO


# The benchmark that a study reports on


def test_only_two_phase_reports_on_another_benchmark(tmp_path):
    assert plan_of(tmp_path).report is None
    plan = plan_of(tmp_path, protocol="two_phase", report_benchmark="split-mnist", learning_rate=0.3)
    assert plan.report.benchmark == "split-mnist"
    assert plan.report.source.shape == (1, 28, 28)
    here, there = plan.config.flat(), plan.report.flat()
    assert {name for name in here if here[name] != there[name]} == {"benchmark"}


def test_a_choice_may_be_configured_on_the_benchmark_that_it_is_reported_on(tmp_path):
    plan = plan_of(tmp_path, protocol="two_phase", report_benchmark="split-mnist", data_root=tmp_path)
    here, there = plan.trial_config(VALUES), plan.trial_config(VALUES, on=plan.report)
    assert (here.benchmark, there.benchmark) == ("split-digits", "split-mnist")
    assert there.data_root == tmp_path
    assert {**there.flat(), "benchmark": here.benchmark} == here.flat()
    assert plan.trial_config(VALUES, on=plan.config) == here
    reference = plan.trial_config(VALUES, "finetuning", plan.report)
    assert (reference.algorithm, reference.benchmark) == ("finetuning", "split-mnist")
    assert reference == plan.trial_config({}, "finetuning", plan.report)


def test_what_belongs_to_the_searchs_classes_is_not_carried_to_the_other_benchmark(tmp_path):
    (tmp_path / "groups.txt").write_text("0, 1\n2, 3\n4, 5\n6, 7\n8, 9\n")
    settings = {"tasks": None, "grouping": tmp_path / "groups.txt", "scenario": "domain"}
    plan = plan_of(tmp_path, protocol="two_phase", report_benchmark="split-mnist", **settings)
    there = plan.trial_config(VALUES, on=plan.report)
    assert (there.tasks, there.scenario, there.grouping, there.source.groups) == (5, "domain", None, None)


def test_the_folder_is_absolute_and_named_after_the_study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert plan_of(Path("here/../out"), name="x").folder == tmp_path.resolve() / "out" / "x"


def test_the_folder_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert plan_of(Path("~/out"), name="x").folder == tmp_path.resolve() / "out" / "x"


def test_making_a_plan_creates_nothing(tmp_path):
    plan_of(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "field", "rule"),
    [
        ({"algorithm": "nonsense", "space": {}}, "algorithm", "algorithm-known"),
        ({"colour": "red"}, "colour", "setting-known"),
        ({"penalty_factor": 1.0}, "penalty_factor", "setting-known"),
        ({"epochs": None}, "epochs, iterations", "epochs-or-iterations"),
        ({"epochs": 1, "iterations": 2}, "epochs, iterations", "epochs-or-iterations"),
        ({"trials": 0}, "trials", "greater-than-equal"),
        ({"learning_rate": float("nan")}, "learning_rate", "finite-number"),
        ({"space": {"distillation_factor": Range(0, 1)}}, "distillation_factor", "greater-than"),
        ({"tasks": 6}, "tasks", "two-classes-per-task"),
    ],
)
def test_a_study_is_refused_when_it_is_made(settings, field, rule):
    assert broken(study_of, **settings)[0] == (field, rule)


@pytest.mark.parametrize(
    ("settings", "field", "rule"),
    [
        ({"objectives": ("accuracy",)}, "objectives", "objectives-known"),
        ({"sampler": "nsga2"}, "sampler", "sampler-several-objectives"),
        ({"protocol": "first_k", "first_k": 2}, "first_k", "two-tasks-to-report"),
        ({"first_k": 2}, "first_k", "protocol-only"),
        ({"first_report_seed": 2}, "first_report_seed", "fresh-seeds"),
        ({"protocol": "two_phase"}, "report_benchmark", "report-benchmark-needed"),
    ],
)
def test_a_protocol_that_cannot_be_is_refused_when_the_study_is_made(settings, field, rule):
    assert broken(study_of, **settings) == [(field, rule)]


def test_all_problems_of_a_configuration_are_told_at_once():
    problems = broken(study_of, learning_rate=-1, batch_size=0, momentum=2)
    assert {*problems} == {
        ("learning_rate", "greater-than"),
        ("batch_size", "greater-than-equal"),
        ("momentum", "less-than"),
    }


def test_a_study_does_not_change_the_space_it_was_given():
    space = dict(SMALL_SPACES["lwf"])
    study_of(space=space)
    assert space == SMALL_SPACES["lwf"]


def test_memory_is_counted_for_the_largest_searched_network_and_time_for_the_mean_length(tmp_path):
    widths = {"hidden": Choice((8,), (10**7, 10**7))}
    assert broken(plan_of, tmp_path, space=widths) == [("seeds, hidden, batch_size, tasks", "training-fits-memory")]
    long = {"epochs": IntRange(1, 2 * 10**12)}
    assert next(rule for _, rule in broken(plan_of, tmp_path, space=long)) in ("records-fit-memory", "within-a-year")
    assert plan_of(tmp_path, space={"epochs": IntRange(1, 200), "batch_size": Choice(16, 64)}).trials == 32


def test_two_phase_checks_the_space_on_the_benchmark_to_report_on_too(tmp_path):
    settings = {"protocol": "two_phase", "benchmark": "permuted-mnist", "report_benchmark": "permuted-digits"}
    settings |= {"data_root": tmp_path, "tasks": 3}
    space = {"hidden": Choice((8,), (16,)), "distillation_factor": LogRange(0.1, 10)}
    plan = plan_of(tmp_path, space=space, **settings)
    chosen = plan.trial_config({"hidden": "16", "distillation_factor": 2.0}, on=plan.report)
    assert (chosen.benchmark, chosen.hidden) == ("permuted-digits", (16,))
    settings |= {"benchmark": "rotated-mnist", "report_benchmark": "rotated-digits", "scenario": "domain"}
    assert plan_of(tmp_path, space={"random_crop": IntRange(0, 7)}, **settings).trials == 32
    assert broken(plan_of, tmp_path, space={"random_crop": IntRange(0, 9)}, **settings) == [
        ("random_crop", "crop-within-image")
    ]
