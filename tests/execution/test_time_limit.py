"""No trial begins that would end after the time limit, and the rest of the study is allowed for."""

import re
import time
from dataclasses import replace

import pytest

from clsearch.common.errors import ConfigError
from clsearch.execution.time_limit import AFTERWARDS, PER_TRIAL, TimeLimit, check_room, seconds_of_trial
from tests.builders import plan_of, record_of

ONE = 100.0
"""Seconds of a trial."""


def ended(plan, *seconds, state="finished"):
    return [replace(record_of(plan, n, [0.5] * 3), seconds=s, state=state) for n, s in enumerate(seconds)]


def limit_of(plan, seconds, passed=0.0, probed=ONE):
    return TimeLimit(plan, seconds, time.monotonic() - passed, probed)


def test_a_trial_lasts_as_long_as_the_finished_ones_on_average(tmp_path):
    plan = plan_of(tmp_path)
    assert seconds_of_trial(ended(plan, 1.0, 3.0)) == 2.0
    assert seconds_of_trial([*ended(plan, 1.0, 3.0), *ended(plan, 0.1, state="pruned")]) == 2.0
    assert seconds_of_trial(ended(plan, 0.5, state="pruned")) == 0.5
    assert seconds_of_trial(ended(plan, 5.0, state="running")) == 0.0


@pytest.mark.parametrize(
    ("settings", "trials"),
    [
        ({"references": (), "final": False}, 1),
        ({"references": ("finetuning",), "final": False}, 2),
        ({"references": ("joint",), "final": False}, 3),  # joint learns 1 + 2 + 3 tasks
        ({"references": (), "final": True, "report_seeds": 6}, 3),  # twice the seeds
        ({"references": ("finetuning",), "final": True, "report_seeds": 3}, 4),
    ],
)
def test_the_rest_of_the_study_is_allowed_for(tmp_path, settings, trials):
    plan = plan_of(tmp_path, seeds=3, tasks=3, **settings)
    needed = trials * (ONE + PER_TRIAL) + AFTERWARDS
    assert limit_of(plan, needed + 1).has_room((), busy=False, slots=1)
    assert not limit_of(plan, needed - 1).has_room((), busy=False, slots=1)
    assert not limit_of(plan, needed + 1, passed=10).has_room((), busy=False, slots=1)


def test_a_trial_that_waits_for_a_worker_ends_later_and_ended_trials_say_more_than_a_probe(tmp_path):
    plan = plan_of(tmp_path, references=(), final=False)
    limit = limit_of(plan, 1.25 * ONE + AFTERWARDS)
    assert limit.has_room((), busy=False, slots=2)
    assert not limit.has_room((), busy=True, slots=2)
    assert limit.has_room(ended(plan, ONE / 2), busy=True, slots=2)


def test_a_limit_that_holds_no_trial_of_a_new_study_is_refused_with_the_time_that_it_takes(tmp_path):
    plan = plan_of(tmp_path, references=(), final=False)
    check_room(limit_of(plan, 2 * ONE), slots=1)
    with pytest.raises(ConfigError) as refused:
        check_room(limit_of(plan, ONE), slots=1)
    (problem,) = refused.value.problems
    assert problem.rule == "hours-hold-a-trial"
    assert re.search(r"about 1 min 5[01] s by a probe; got 1 min 40 s", problem)
