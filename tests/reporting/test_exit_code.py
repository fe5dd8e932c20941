"""What a study is, once it has ended."""

from dataclasses import replace

from clsearch.records.ranking import choice_of, rank
from clsearch.reporting.result import StudyResult
from tests.builders import (
    final_of,
    measured_of,
    plan_of,
    record_of,
)


def test_the_exit_code_says_how_a_study_ended(tmp_path):
    done = {"average_accuracy": 0.9}
    for final, expected in ((True, 1), (False, 0)):
        plan = plan_of(tmp_path, seeds=1, report_seeds=1, final=final)
        ranking = rank([record_of(plan, 0, [0.9])], plan.objectives)
        found = StudyResult(plan, ranking.trials, [], ranking, choice_of(ranking), None, False)
        assert found.exit_code == expected  # chosen, and not evaluated
        assert replace(found, interrupted=True).exit_code == 130
        assert replace(found, interrupted=True, died="Ray died: ...").exit_code == 1
        assert replace(found, choice=None).exit_code == 1
        evaluated = replace(found, final=final_of(plan, measured_of(plan, [0.9], [0.8]), scores=done))
        assert evaluated.exit_code == 0
        assert replace(evaluated, died="Ray died: ...").exit_code == 0  # after it was done
        diverged = final_of(plan, measured_of(plan, [0.9], [0.8], reason="training diverged"), scores=done)
        assert replace(found, final=diverged).exit_code == expected
        assert replace(evaluated, interrupted=True).exit_code == 130
