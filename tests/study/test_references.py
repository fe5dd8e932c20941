"""Which references a study has."""

import pytest

from tests.builders import (
    plan_of,
    planned,
    study_of,
)
from tests.refusals import broken


@pytest.mark.slow
@pytest.mark.parametrize(
    ("references", "found"),
    [
        (["finetuning", "joint", "independent"], ("finetuning", "joint", "independent")),
        (("independent", "finetuning"), ("independent", "finetuning")),
        ((), ()),
        (["joint"], ("joint",)),
    ],
)
def test_references_keep_their_order_from_python_and_the_command_line(references, found):
    assert study_of(references=references).plan.references == found
    plan = planned(study_of(), "--references", *references)
    assert plan.references == found
    assert planned(study_of(), *plan.command[2:]) == plan
    assert planned(study_of(references=references)).command[2:] == []


def test_finetuning_is_the_reference_unless_told():
    assert study_of().plan.references == planned(study_of()).references == ("finetuning",)


@pytest.mark.parametrize("algorithm", ["finetuning", "joint", "independent"])
def test_a_study_of_a_reference_is_no_reference_to_itself(algorithm):
    plan = study_of(algorithm, space=None, references=("finetuning", "joint", "independent")).plan
    assert plan.references == tuple(n for n in ("finetuning", "joint", "independent") if n != algorithm)


@pytest.mark.parametrize(
    ("references", "rule"),
    [(["joint", "finetuning", "joint"], "names-once"), (["ewc"], "literal-error"), ("joint", "tuple-type")],
)
def test_references_that_cannot_be_are_refused(references, rule):
    assert broken(study_of, references=references) == [("references", rule)]


def test_independent_networks_are_refused_in_class_incremental_learning_when_the_study_is_made(refused):
    problems = broken(study_of, references=("finetuning", "independent"), scenario="class")
    assert problems == [("scenario", "independent-needs-task-identity")]
    study_of(references=("finetuning", "joint"), scenario="class")
    assert "independent networks" in refused("--references", "independent", "--scenario", "class")


@pytest.mark.slow
def test_the_refusal_of_a_reference_says_how_to_leave_it_out(refused):
    assert "references" in refused("--scenario", "class", references=("finetuning", "independent"))


def test_a_reference_has_the_studys_settings(tmp_path):
    plan = plan_of(
        tmp_path,
        "lwf_ewc",
        classes_per_task=(4, 2, 3),
        class_order="shuffled",
        preset="clarena-first",
        learning_rate=0.3,
        references=("joint", "independent"),
    )
    for name in plan.references:
        config = plan.trial_config({}, name)
        assert config.algorithm == name
        assert config.classes_per_task == (4, 2, 3)
        assert config.class_order == "shuffled"
        assert config.learning_rate == 0.3
