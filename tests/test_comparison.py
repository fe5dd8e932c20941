"""Comparisons: which settings reach which study, and what is refused."""

import json

import pytest

from clsearch import Comparison, LogRange
from clsearch.planning.options import Protocol
from tests.refusals import broken, refusals

SETTINGS = {"benchmark": "permuted-digits", "tasks": 5, "epochs": 1, "learning_rate": 0.01, "trials": 4}
METHODS = {
    "finetuning": {"algorithm": "finetuning", "references": ("joint",)},
    "lwf": {"algorithm": "lwf", "references": ()},
    "both": {"algorithm": "lwf_ewc", "references": ()},
}
PROTOCOLS = {
    name: {"protocol": name, "references": ()} for name in ("end_of_sequence", "first_k", "two_phase", "continual")
}
PROTOCOLS["continual"] |= {"penalty_p_norm": 2}


def methods(studies=METHODS, **settings):
    return Comparison(name="c", kind="methods", algorithm="lwf_ewc", studies=studies, **(SETTINGS | settings))


def protocols(studies=PROTOCOLS, **settings):
    settings = SETTINGS | {"report_benchmark": "rotated-digits"} | settings
    return Comparison(name="c", kind="protocols", algorithm="ewc", studies=studies, **settings)


def plans_for(comparison, *args):
    return comparison.planned(list(args))[1]


def test_each_study_has_the_same_budget_and_seeds_and_a_folder_of_its_own(tmp_path):
    plans = methods(results=tmp_path).plans
    assert {label: (plan.algorithm, plan.trials, plan.folder.name) for label, plan in plans.items()} == {
        "finetuning": ("finetuning", 1, "c-finetuning"),  # nothing to search
        "lwf": ("lwf", 4, "c-lwf"),
        "both": ("lwf_ewc", 4, "c-both"),
    }
    assert len({plan.seeds for plan in plans.values()}) == len({plan.report_seeds for plan in plans.values()}) == 1
    assert [plan.references for plan in plans.values()] == [("joint",), (), ()]


def test_a_range_reaches_the_studies_that_have_it():
    plans = plans_for(methods(), "--penalty-factor", "1", "10")
    assert "penalty_factor" not in plans["lwf"].space
    assert (plans["both"].space["penalty_factor"].low, plans["both"].space["penalty_factor"].high) == (1, 10)


def test_a_searched_learning_rate_is_searched_for_finetuning_too():
    plans = plans_for(methods(), "--learning-rate", "0.001", "0.1")
    assert list(plans["finetuning"].space) == ["learning_rate"]
    assert {plan.trials for plan in plans.values()} == {4}


def test_a_preset_reaches_the_studies_that_it_acts_in():
    for plans in (methods(preset="clarena-first").plans, plans_for(methods(), "--preset", "clarena-first")):
        assert plans["finetuning"].options.preset is None
        assert plans["both"].config.fisher == "batch"
        assert plans["lwf"].options.preset == "clarena-first"


def test_every_protocol_gets_what_it_needs_and_nothing_of_the_others():
    plans = plans_for(protocols(), "--first-k", "2", "--learning-rates", "0.1", "0.2")
    assert [plan.protocol for plan in plans.values()] == list(Protocol)
    assert {label: plan.options.first_k for label, plan in plans.items()} == dict.fromkeys(plans) | {"first_k": 2}
    assert plans["continual"].rates == (0.1, 0.2)
    assert plans["two_phase"].report.benchmark == "rotated-digits"
    assert list(plans["continual"].space) == ["penalty_factor"]
    assert (plans["continual"].trials, plans["first_k"].trials) == (1, 4)


def test_what_a_study_fixes_is_not_searched_in_it():
    plans = plans_for(protocols(), "--penalty-p-norm", "1", "1.5")
    assert plans["continual"].config.penalty_p_norm == 2
    assert plans["first_k"].space["penalty_p_norm"].high == 1.5


def test_a_range_that_continual_cannot_search_is_refused_there():
    (problem,) = refusals(plans_for, protocols(), "--learning-rate", "0.001", "0.1")
    assert (problem.field, problem.rule) == ("learning_rate", "continual-rates")
    assert problem.endswith("(study continual)")


@pytest.mark.parametrize(
    ("call", "field", "rule"),
    [
        (lambda: methods(typo=1), "typo", "setting-known"),
        (lambda: methods({"a": {"trails": 3}}), "trails", "setting-known"),
        (lambda: methods({"a": {"algorithm": "ewcc"}}), "algorithm", "algorithm-known"),
        (lambda: methods(protocol="firstk"), "protocol", "enum"),
        (lambda: methods({}), "kind", "comparison-kind"),
        (lambda: methods(epochs=0), "epochs", "greater-than-equal"),
        (lambda: plans_for(methods(), "--first-k", "3"), "first_k", "protocol-only"),
        (lambda: plans_for(methods(), "--sampler", "grid", "--grid-points", "2"), "sampler", "same-budget"),
    ],
)
def test_what_cannot_be_compared_is_refused(call, field, rule):
    assert broken(call)[0] == (field, rule)


def test_lists_and_text_do_as_well_as_tuples_and_paths(tmp_path):
    comparison = methods(hidden=[8], results=str(tmp_path), space={"learning_rate": LogRange(1e-3, 1e-1)})
    assert plans_for(comparison, "--trials", "2")["lwf"].config.hidden == (8,)


def test_a_folder_that_is_not_there_is_said_when_the_comparison_runs(tmp_path, capsys):
    comparison = methods(benchmark=f"folder:{tmp_path / 'none'}", tasks=None)
    with pytest.raises(SystemExit) as ended:
        comparison.main([])
    assert ended.value.code == 2
    assert "error: benchmark: " in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("there", "content", "said"),
    [
        (
            "c/comparison.json",
            {"kind": "methods", "studies": {"one": "c-one"}},
            "must be a comparison of methods, one, as in ",
        ),
        ("c/comparison.json", {}, "c/comparison.json: must be a whole file, as clsearch wrote it; got key studies: "),
        ("c/study.json", {}, "must not be that of a study; got c"),
        (
            "c-both/study.json",
            {},
            "put it back from a copy. A folder can only be resumed by the study that created it: use another name",
        ),
        ("c-both/comparison.json", {}, "must not be that of a comparison; got c-both"),
    ],
)
def test_what_is_something_else_is_left_as_it_is_and_it_is_said_first(tmp_path, there, content, said, capsys):
    (tmp_path / there).parent.mkdir()
    (tmp_path / there).write_text(json.dumps(content))
    with pytest.raises(SystemExit) as ended:
        methods(results=tmp_path).main([])
    assert ended.value.code == 2
    text = capsys.readouterr().err
    assert said in text
    assert "checking" not in text
    assert ("--name c-2" in text) == ("must not be" not in said)
    assert json.loads((tmp_path / there).read_text()) == content


@pytest.mark.parametrize("made", [methods, protocols])
def test_what_a_comparison_prints_of_its_options_is_read_back(tmp_path, capsys, made):
    comparison, file = made(), tmp_path / "options.yaml"
    with pytest.raises(SystemExit) as ended:
        comparison.main(["--print-config", "--trials", "6", "--penalty-factor", "1", "10"])
    assert ended.value.code == 0
    file.write_text(capsys.readouterr().out)
    given = plans_for(comparison, "--trials", "6", "--penalty-factor", "1", "10")
    read = plans_for(comparison, "--config", str(file))
    for label, plan in given.items():
        assert (read[label].config, read[label].space, read[label].options) == (plan.config, plan.space, plan.options)
