"""Optuna behind Ray Tune's Searcher, driven by hand against a real journal file."""

import math
import os
import pickle
import time
import warnings

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from ray.tune.search import Searcher
from scipy.stats import qmc

from clsearch import LogRange, Range
from clsearch.common.errors import ConfigError
from clsearch.config.spaces import SearchSpace
from clsearch.execution.searcher import reference_label, trial_label
from clsearch.records.study_file import JOURNAL
from clsearch.sampling.journal import open_storage
from clsearch.sampling.samplers import distributions_of
from tests.builders import plan_of
from tests.execution.reports import FlatSearcher

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")  # see the one test of it


class Host:
    """Notes what a search tells its host. capacities: the answers to whether it has capacity; then it always has."""

    def __init__(self, capacities=()):
        self.capacities = list(capacities)
        self.troubles = []
        self.refused = {}
        self.ending = self.bored = False
        self.time = True

    def make_trial_config(self, asked, algorithm, origins=None):
        self.origins = getattr(self, "origins", {}) | dict(origins or {})
        made = [{"label": label, "values": dict(own.values), "algorithm": algorithm} for label, own in asked.items()]
        return made[0] if len(made) == 1 else {"cohort": made}

    def record_refusal(self, label, values, reason, origins=None):
        self.refused[label] = reason

    def has_capacity(self):
        return self.capacities.pop(0) if self.capacities else True

    def has_time(self):
        return self.time

    def is_out_of_patience(self):
        return self.bored

    def is_ending(self):
        return self.ending

    def abort(self, error):
        self.troubles.append(error)


def result(learned, score, forgetting=0.0):
    return {"tasks_learned": learned, "average_accuracy": score, "average_forgetting": forgetting}


TWO = ("average_accuracy", "average_forgetting")
SAMPLERS = {"tpe": {}, "random": {}, "qmc": {}, "gp": {}, "cmaes": {}}
SAMPLERS |= {"nsga2": {"objectives": TWO}, "nsga3": {"objectives": TWO}}
"""Sampler -> what it needs."""


@pytest.fixture
def begin(tmp_path):
    """Makes the searcher of a small study in a results folder of its own."""

    def make(folder="a", references=(), **settings):
        plan = plan_of(tmp_path / folder, **({"trials": 3, "references": tuple(references)} | settings))
        return FlatSearcher(plan, open_storage(plan), Host())

    return make


def reopened(searcher):
    """The study as a process that was not there reads it."""
    storage = JournalStorage(JournalFileBackend(str(searcher.plan.folder / JOURNAL)))
    return optuna.load_study(study_name=searcher.plan.options.name, storage=storage)


def ask(searcher, n):
    """The values of the next n trials, which stay running; their Ray ids are t0, t1, ..."""
    return [searcher.suggest(f"t{searcher.asked}")["values"] for _ in range(n)]


def test_references_come_first_and_then_the_budget_and_then_finished(begin):
    searcher = begin(references=["finetuning", "joint"], trials=2)
    asked = [searcher.suggest(f"t{i}") for i in range(6)]
    assert [a["label"] for a in asked[:4]] == [
        "reference_finetuning",
        "reference_joint",
        "trial_00000",
        "trial_00001",
    ]
    assert [a["algorithm"] for a in asked[:4]] == ["finetuning", "joint", None, None]
    assert asked[0]["values"] == {}
    assert asked[4:] == [Searcher.FINISHED, Searcher.FINISHED]


def test_nothing_is_suggested_while_there_is_no_room(begin):
    searcher = begin(references=["finetuning"], trials=1)
    searcher.host = Host([False, True, False, True, False, True])
    asked = [searcher.suggest(f"t{i}") for i in range(6)]
    assert asked[::2] == [None, None, None]
    assert [asked[1]["label"], asked[3]["label"]] == ["reference_finetuning", "trial_00000"]
    assert asked[5] == Searcher.FINISHED


def test_references_do_not_reach_optuna(begin):
    searcher = begin(references=["finetuning"])
    searcher.suggest("r")
    searcher.on_trial_result("r", result(1, 0.5))
    searcher.on_trial_complete("r", result(2, 0.5))
    assert reopened(searcher).trials == []


def test_labels_are_those_that_folders_and_runs_have():
    assert (trial_label(17), reference_label("finetuning")) == ("trial_00017", "reference_finetuning")


def test_a_finished_trial_is_complete_with_its_intermediate_values(begin):
    searcher = begin()
    (values,) = ask(searcher, 1)
    searcher.on_trial_result("t0", result(1, 0.9))
    searcher.on_trial_result("t0", result(2, 0.8))
    searcher.on_trial_complete("t0", result(3, 0.7))
    for study in (searcher.study, reopened(searcher)):
        (trial,) = study.trials
        assert trial.state is TrialState.COMPLETE
        assert trial.value == 0.7
        assert trial.intermediate_values == {1: 0.9, 2: 0.8, 3: 0.7}
        assert trial.params == values
        assert study.best_trial.number == 0


def test_a_result_told_twice_is_one_value(begin):
    searcher = begin()
    ask(searcher, 1)
    for _ in range(2):
        searcher.on_trial_result("t0", result(1, 0.9))
    searcher.on_trial_result("t0", result(3, 0.7))
    searcher.on_trial_complete("t0", result(3, 0.7))
    assert reopened(searcher).trials[0].intermediate_values == {1: 0.9, 3: 0.7}


def test_a_diverged_trial_is_pruned_with_its_intermediate_values_and_reason(begin):
    searcher = begin()
    ask(searcher, 1)
    searcher.on_trial_result("t0", result(1, 0.9))
    searcher.on_trial_complete("t0", result(1, 0.9) | {"failed": "training diverged in epoch 1 of task 2"})
    for study in (searcher.study, reopened(searcher)):
        (trial,) = study.trials
        assert trial.state is TrialState.PRUNED
        assert trial.intermediate_values == {1: 0.9}
        assert trial.user_attrs == {"reason": "training diverged in epoch 1 of task 2"}


def test_a_trial_that_diverges_in_its_first_task_is_pruned_without_any_value(begin):
    searcher = begin()
    ask(searcher, 1)
    searcher.on_trial_complete("t0", {"tasks_learned": 0, "failed": "training diverged in epoch 1 of task 1"})
    (trial,) = reopened(searcher).trials
    assert trial.state is TrialState.PRUNED
    assert trial.intermediate_values == {}
    assert trial.value is None


@pytest.mark.parametrize("told", [{"error": True}, {"result": None}, {"result": {"tasks_learned": 1}, "error": True}])
def test_a_trial_that_broke_is_failed(begin, told):
    searcher = begin()
    ask(searcher, 1)
    searcher.on_trial_complete("t0", **told)
    (trial,) = reopened(searcher).trials
    assert trial.state is TrialState.FAIL
    assert trial.value is None


def test_a_trial_that_is_never_told_stays_running(begin):
    searcher = begin()
    ask(searcher, 2)
    searcher.on_trial_result("t1", result(1, 0.6))
    searcher.on_trial_complete("t0", result(3, 0.7))
    told, running = reopened(searcher).trials
    assert told.state is TrialState.COMPLETE
    assert running.state is TrialState.RUNNING
    assert running.intermediate_values == {1: 0.6}


def test_what_is_told_after_the_end_changes_nothing(begin):
    searcher = begin()
    ask(searcher, 1)
    searcher.on_trial_complete("t0", result(3, 0.7))
    searcher.on_trial_result("t0", result(4, 0.1))
    searcher.on_trial_complete("t0", error=True)
    (trial,) = reopened(searcher).trials
    assert (trial.state, trial.value, trial.intermediate_values) == (TrialState.COMPLETE, 0.7, {3: 0.7})


def test_an_error_at_the_end_of_a_search_leaves_the_trial_open(begin):
    searcher = begin()
    ask(searcher, 1)
    searcher.host.ending = True
    searcher.on_trial_complete("t0", error=True)
    assert [trial.state for trial in reopened(searcher).trials] == [TrialState.RUNNING]


def test_pruned_and_failed_trials_count_towards_the_budget(begin):
    searcher = begin(trials=3)
    ask(searcher, 2)
    searcher.on_trial_complete("t0", {"tasks_learned": 0, "failed": "diverged"})
    searcher.on_trial_complete("t1", error=True)
    assert searcher.suggest("t2")["label"] == "trial_00002"
    assert searcher.suggest("t3") == Searcher.FINISHED


def continued(searcher, ended=None):
    """The search as a process finds it that goes on with it: the journal is opened as it lies there."""
    return FlatSearcher(searcher.plan, open_storage(searcher.plan), Host(), ended)


def test_a_reopened_search_goes_on_with_what_did_not_end_and_then_asks_for_the_rest(begin):
    searcher = begin(trials=4, space={"distillation_factor": LogRange(0.1, 10)})
    values = ask(searcher, 3)
    searcher.on_trial_result("t1", result(1, 0.5))
    searcher.on_trial_complete("t1", result(3, 0.6))
    again = continued(searcher, {"trial_00001": values[1]})
    asked = [again.suggest(f"u{i}") for i in range(3)]
    assert [a["label"] for a in asked] == ["trial_00000", "trial_00002", "trial_00003"]
    assert [a["values"] for a in asked[:2]] == [values[0], values[2]]
    assert again.suggest("u3") == Searcher.FINISHED
    for i in range(3):
        again.on_trial_complete(f"u{i}", result(3, 0.7))
    assert [(t.number, t.state, t.value) for t in reopened(searcher).trials] == [
        (number, TrialState.COMPLETE, 0.6 if number == 1 else 0.7) for number in range(4)
    ]


def test_a_continued_trial_keeps_what_it_told_before_and_tells_it_once(begin):
    searcher = begin(trials=1)
    ask(searcher, 1)
    searcher.on_trial_result("t0", result(1, 0.9))
    searcher.on_trial_result("t0", result(2, 0.8))
    again = continued(searcher)
    again.suggest("u")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again.on_trial_result("u", result(2, 0.8))
        again.on_trial_complete("u", result(3, 0.7))
    (trial,) = reopened(searcher).trials
    assert trial.intermediate_values == {1: 0.9, 2: 0.8, 3: 0.7}
    assert trial.state is TrialState.COMPLETE


def test_a_trial_whose_process_died_in_the_middle_of_its_suggestion_gets_all_its_values(begin):
    space = {"distillation_factor": LogRange(0.1, 10), "distillation_temperature": LogRange(0.5, 5)}
    searcher = begin(trials=1, space=space)
    trial = searcher.study.ask()
    factor = trial.suggest_float("distillation_factor", 0.1, 10, log=True)
    values = continued(searcher).suggest("u")["values"]
    assert values["distillation_factor"] == factor
    assert 0.5 <= values["distillation_temperature"] <= 5


@pytest.mark.parametrize("told", [result(3, 0.7), {"tasks_learned": 1, "failed": "training diverged"}])
def test_a_trial_that_optuna_knows_to_have_ended_but_whose_record_is_missing_is_run_and_not_told_again(begin, told):
    searcher = begin(trials=1)
    values = ask(searcher, 1)
    searcher.on_trial_complete("t0", told)
    (before,) = reopened(searcher).trials
    again = continued(searcher)
    assert again.suggest("u") == {"label": "trial_00000", "values": values[0], "algorithm": None}
    again.on_trial_result("u", told)
    again.on_trial_complete("u", told)
    assert reopened(searcher).trials == [before]
    assert again.suggest("v") == Searcher.FINISHED


def test_more_trials_extend_a_study_and_fewer_than_it_has_are_refused(begin, tmp_path):
    searcher = begin(trials=2)
    values = played(searcher, 2)
    ended = {trial_label(i): own for i, own in enumerate(values)}
    longer, shorter = (plan_of(tmp_path / "a", trials=trials, references=()) for trials in (3, 1))
    again = FlatSearcher(longer, open_storage(longer), Host(), ended)
    assert again.suggest("u")["label"] == "trial_00002"
    assert again.suggest("v") == Searcher.FINISHED
    with pytest.raises(
        ConfigError, match="trials: must be at least 3, the number of trials that the study already has; got 1"
    ):
        open_storage(shorter)


def test_references_that_ended_are_not_trained_again(begin):
    searcher = begin(references=SEVERAL, trials=1)
    again = continued(searcher, {"reference_finetuning": {}, "reference_independent": {}})
    assert again.suggest("a")["label"] == "reference_joint"
    assert again.suggest("b")["label"] == "trial_00000"


def test_a_reference_is_trained_again_where_the_best_learning_rate_became_another(begin):
    searcher = begin(space={"learning_rate": LogRange(1e-3, 1)}, references=["finetuning", "joint"], trials=1)
    (values,) = ask(searcher, 1)
    searcher.on_trial_complete("t0", result(3, 0.6))
    ended = {"trial_00000": values, "reference_finetuning": {"learning_rate": 0.5}, "reference_joint": values}
    again = continued(searcher, ended)
    assert again.suggest("u") == {"label": "reference_finetuning", "values": values, "algorithm": "finetuning"}
    assert again.suggest("v") == Searcher.FINISHED


def test_what_a_killed_process_leaves_in_the_journal_is_mended(begin):
    searcher = begin(trials=2)
    ask(searcher, 1)
    journal = searcher.plan.folder / JOURNAL
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code": 5, "worker_id": "half')
    lock = journal.with_name(f"{JOURNAL}.lock")
    os.symlink(journal, lock)  # as Optuna's own
    began = time.monotonic()
    again = continued(searcher)
    assert again.suggest("u")["label"] == "trial_00000"
    assert again.suggest("v")["label"] == "trial_00001"
    assert time.monotonic() - began < 20  # Optuna would wait for 30 s
    assert journal.read_bytes().startswith(whole)
    assert b"half" not in journal.read_bytes()


def test_a_grid_that_was_queued_in_part_is_queued_to_its_end(begin):
    searcher = begin(sampler="grid", grid_points=3, trials=None)
    journal, points = searcher.plan.folder / JOURNAL, list(searcher.plan.space.grid(3))
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-4]))
    again = continued(searcher)
    assert [again.suggest(f"u{i}")["values"] for i in range(9)] == points
    assert again.suggest("u9") == Searcher.FINISHED


def test_a_journal_that_cannot_be_written_halts_the_search_and_nothing_is_written_after_that(begin):
    searcher = begin(trials=3)
    ask(searcher, 1)
    journal = searcher.plan.folder / JOURNAL
    kept = journal.rename(journal.with_name("kept"))
    searcher.plan.folder.rename(searcher.plan.folder.with_name("elsewhere"))
    assert searcher.suggest("t1") is None
    (trouble,) = searcher.host.troubles
    assert isinstance(trouble, OSError)
    searcher.plan.folder.with_name("elsewhere").rename(searcher.plan.folder)
    kept.rename(journal)
    before = journal.read_bytes()
    searcher.on_trial_result("t0", result(1, 0.5))
    searcher.on_trial_complete("t0", result(3, 0.5))
    assert searcher.suggest("t1") is None
    assert journal.read_bytes() == before
    assert reopened(searcher).trials[0].state is TrialState.RUNNING


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_first_suggestion_after_reopening_is_not_a_repeat(begin, sampler):
    searcher = begin(sampler=sampler, trials=8, **SAMPLERS[sampler])
    first = ask(searcher, 2)
    again = continued(searcher, {trial_label(i): values for i, values in enumerate(first)})
    assert again.suggest("t2")["values"] not in first


SCORES = [0.5, 0.9, 0.2, 0.7]


def played(searcher, n):
    """The next n suggestions of a search in which every third trial diverges and the rest score as SCORES says."""
    found = []
    for i in range(searcher.asked, searcher.asked + n):
        found += ask(searcher, 1)
        failed = {"failed": "diverged"} if i % 3 == 0 else {}
        scores = SCORES[i % 4], SCORES[(i + i // 4) % 4]
        searcher.on_trial_result(f"t{i}", result(1, *scores))
        searcher.on_trial_complete(f"t{i}", result(2, *scores) | failed)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_suggestions_follow_from_the_sampler_seed(begin, sampler):
    # Past the ten trials after which TPE begins to model, and the first generations of NSGA-II.
    first, same, other = (
        played(begin(folder, sampler=sampler, sampler_seed=seed, trials=14, **SAMPLERS[sampler]), 14)
        for folder, seed in (("a", 5), ("b", 5), ("c", 6))
    )
    assert first == same
    assert all(a != b for a, b in zip(first, other, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_reopened_search_suggests_what_an_unbroken_one_does(begin, sampler):
    straight, broken = (begin(folder, sampler=sampler, trials=14, **SAMPLERS[sampler]) for folder in "ab")
    expected, first = played(straight, 14), played(broken, 6)
    again = continued(broken, {trial_label(i): values for i, values in enumerate(first)})
    assert first + played(again, 8) == expected


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "gp", "cmaes"])
def test_suggestions_are_distinct_and_lie_in_their_ranges(begin, sampler):
    space = {"penalty_factor": LogRange(0.5, 2), "penalty_p_norm": Range(1, 1.5), "learning_rate": LogRange(1e-5, 1)}
    searcher = begin(algorithm="ewc", sampler=sampler, space=space, trials=20)
    found = played(searcher, 14) + [searcher.suggest(f"t{i}")["values"] for i in range(14, 20)]
    assert len({tuple(values.values()) for values in found}) == 20
    assert all(space[name].low <= value <= space[name].high for values in found for name, value in values.items())
    assert all(set(values) == set(space) for values in found)


def test_a_log_range_is_searched_evenly_in_its_logarithm(begin):
    searcher = begin(sampler="random", space={"learning_rate": LogRange(1e-6, 1)}, trials=40)
    logs = [math.log10(values["learning_rate"]) for values in ask(searcher, 40)]
    # Linear sampling would put all but one in a million above 1e-5.
    assert sum(value < -3 for value in logs) in range(10, 31)


UNIT = {"distillation_factor": LogRange(1e-3, 1e3), "distillation_temperature": Range(1, 5)}


def unevenness(points):
    """How unevenly suggestions over UNIT fill their square (centered discrepancy), logarithms taken where searched."""
    factor, temperature = zip(*(values.values() for values in points), strict=True)
    square = [((math.log10(f) + 3) / 6, (t - 1) / 4) for f, t in zip(factor, temperature, strict=True)]
    return qmc.discrepancy(square)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_qmc_fills_the_space_more_evenly_than_chance(begin, seed):
    even, random = (
        begin(sampler, sampler=sampler, sampler_seed=seed, space=UNIT, trials=32) for sampler in ("qmc", "random")
    )
    assert unevenness(played(even, 32)) < unevenness(ask(random, 32)) / 3


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampler_warns_the_user_of_nothing(begin, sampler):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        played(begin(sampler=sampler, trials=14, **SAMPLERS[sampler]), 14)


@pytest.mark.slow
def test_qmc_asked_ahead_of_its_results_gives_the_same_points(begin):
    waiting, told = (begin(folder, sampler="qmc", space=UNIT, trials=32) for folder in "ab")
    assert ask(waiting, 32) == played(told, 32)


def test_nsga2_hands_values_of_a_generation_on_to_the_next(begin):
    searcher = begin(sampler="nsga2", trials=16, objectives=TWO)
    first = ask(searcher, 4)
    for i, forgetting in enumerate((0.1, 0.2, 0.3, 0.4)):
        searcher.on_trial_complete(f"t{i}", result(3, 0.9 - forgetting, forgetting))
    known = {value for values in first for value in values.values()}
    children = {value for values in ask(searcher, 4) for value in values.values()}
    assert known & children


def test_distributions_have_the_ends_and_scales_of_their_ranges():
    made = distributions_of(SearchSpace.of({"a": LogRange(0.1, 10), "b": Range(1, 3)}))
    assert {name: (d.low, d.high, d.log) for name, d in made.items()} == {"a": (0.1, 10, True), "b": (1, 3, False)}


def test_a_grid_is_asked_point_by_point_and_no_more(begin):
    searcher = begin(sampler="grid", grid_points=3, trials=None, references=["finetuning"])
    assert searcher.suggest("r")["label"] == "reference_finetuning"
    found = []
    for i in range(9):
        found += ask(searcher, 1)
        searcher.on_trial_complete(f"t{i}", result(3, 0.1 * i))
    assert searcher.suggest("t9") == Searcher.FINISHED
    assert found == list(searcher.plan.space.grid(3))
    assert [t.params for t in reopened(searcher).trials] == found


def test_a_reopened_grid_goes_on_where_it_was(begin):
    searcher = begin(sampler="grid", grid_points=2, trials=None)
    first = ask(searcher, 3)
    again = continued(searcher, {trial_label(i): values for i, values in enumerate(first)})
    rest = [again.suggest("t3")["values"]]
    assert first + rest == list(searcher.plan.space.grid(2))
    assert again.suggest("t4") == Searcher.FINISHED


def test_a_study_that_searches_nothing_asks_for_one_trial(begin):
    searcher = begin(space={}, trials=None)
    assert searcher.suggest("t0")["values"] == {}
    assert searcher.suggest("t1") == Searcher.FINISHED


def test_the_study_is_maximised_and_named_after_the_plan(begin):
    study = reopened(begin(name="other"))
    assert study.study_name == "other"
    assert study.direction is optuna.study.StudyDirection.MAXIMIZE


def test_ray_can_pickle_a_searcher_whose_storage_is_open(begin):
    searcher = begin()
    ask(searcher, 1)
    assert isinstance(pickle.loads(pickle.dumps(searcher)), FlatSearcher)


def test_a_reference_waits_for_the_best_learning_rate_where_that_is_searched(begin):
    space = {"learning_rate": LogRange(1e-3, 1), "distillation_factor": LogRange(0.1, 10)}
    searcher = begin(space=space, references=["finetuning"], trials=2)
    first, second = searcher.suggest("a"), searcher.suggest("b")
    assert {first["algorithm"], second["algorithm"]} != {"finetuning"}
    searcher.on_trial_complete("a", result(3, 0.6))
    assert searcher.suggest("c") is None  # the other may still be better
    searcher.on_trial_complete("b", result(3, 0.8))
    reference = searcher.suggest("c")
    assert reference["label"] == "reference_finetuning"
    assert reference["values"] == {"learning_rate": second["values"]["learning_rate"]}
    assert searcher.suggest("d") == "FINISHED"


def test_without_a_finished_trial_such_a_reference_is_left_out(begin):
    searcher = begin(space={"learning_rate": LogRange(1e-3, 1)}, references=["finetuning"], trials=1)
    searcher.suggest("a")
    searcher.on_trial_complete("a", {"tasks_learned": 0, "failed": "training diverged"})
    assert searcher.suggest("b") == "FINISHED"


SEVERAL = ["finetuning", "joint", "independent"]


def test_several_references_come_first_in_their_order(begin):
    searcher = begin(references=SEVERAL, trials=1)
    assert [searcher.suggest(f"t{i}")["label"] for i in range(4)] == [
        "reference_finetuning",
        "reference_joint",
        "reference_independent",
        "trial_00000",
    ]
    assert searcher.suggest("t4") == Searcher.FINISHED


def test_no_reference_is_no_obstacle(begin):
    searcher = begin(references=[], space={"learning_rate": LogRange(1e-3, 1)}, trials=1)
    assert searcher.suggest("a")["label"] == "trial_00000"
    assert searcher.suggest("b") == Searcher.FINISHED


def test_several_references_wait_for_the_best_learning_rate_and_each_takes_it(begin):
    space = {"learning_rate": LogRange(1e-3, 1), "distillation_factor": LogRange(0.1, 10)}
    searcher = begin(space=space, references=SEVERAL, trials=3)
    asked = [searcher.suggest(name) for name in "abc"]
    assert [a["algorithm"] for a in asked] == [None] * 3
    for name, score in zip("abc", (0.6, 0.9, 0.7), strict=True):
        assert searcher.suggest("r0") is None
        searcher.on_trial_complete(name, result(3, score))
    found = [searcher.suggest(f"r{i}") for i in range(3)]
    assert [f["label"] for f in found] == [reference_label(name) for name in SEVERAL]
    assert [f["algorithm"] for f in found] == SEVERAL
    assert [f["values"] for f in found] == [{"learning_rate": asked[1]["values"]["learning_rate"]}] * 3
    assert searcher.suggest("r3") == Searcher.FINISHED
    for i in range(3):  # a reference that ends, or breaks, is no trial of the search
        searcher.on_trial_complete(f"r{i}", result(3, 0.95), error=i == 1)
    assert len(reopened(searcher).trials) == 3


def test_a_diverged_trial_is_not_the_best_that_references_follow(begin):
    searcher = begin(space={"learning_rate": LogRange(1e-3, 1)}, references=SEVERAL, trials=2)
    asked = [searcher.suggest(name) for name in "ab"]
    searcher.on_trial_complete("a", result(1, 0.99) | {"failed": "training diverged in epoch 1 of task 2"})
    searcher.on_trial_complete("b", result(3, 0.4))
    assert searcher.suggest("r0")["values"] == asked[1]["values"]


# Several objectives


def test_each_objective_is_searched_in_its_own_direction(begin):
    study = reopened(begin(objectives=("average_forgetting", "average_accuracy", "backward_transfer")))
    assert [direction.name for direction in study.directions] == ["MINIMIZE", "MAXIMIZE", "MAXIMIZE"]


@pytest.mark.parametrize("names", [TWO, TWO[::-1]])
def test_values_of_several_objectives_are_told_in_their_order_and_none_before_the_end(begin, names):
    searcher = begin(objectives=names)
    ask(searcher, 1)
    searcher.on_trial_result("t0", result(1, 0.9, 0.0))
    searcher.on_trial_complete("t0", result(3, 0.7, 0.2))
    (trial,) = reopened(searcher).trials
    assert trial.state is TrialState.COMPLETE
    assert dict(zip(names, trial.values, strict=True)) == {"average_accuracy": 0.7, "average_forgetting": 0.2}
    assert trial.intermediate_values == {}  # Optuna knows none of several objectives


def test_a_single_objective_may_be_one_of_which_less_is_better(begin):
    searcher = begin(objectives=("average_forgetting",), space={"learning_rate": LogRange(1e-3, 1)}, trials=2)
    searcher.references = ["finetuning"]
    asked = ask(searcher, 2)
    first = {"tasks_learned": 1, "average_accuracy": 0.9}  # forgetting begins with the second task
    searcher.on_trial_result("t0", first)
    searcher.on_trial_result("t0", result(2, 0.9, 0.3))
    searcher.on_trial_complete("t0", result(3, 0.9, 0.4))
    searcher.on_trial_complete("t1", result(3, 0.5, 0.1))
    study = reopened(searcher)
    assert study.direction is optuna.study.StudyDirection.MINIMIZE
    assert study.trials[0].intermediate_values == {2: 0.3, 3: 0.4}
    assert study.best_trial.number == 1
    assert searcher.suggest("r")["values"] == asked[1]  # what references follow is the best of it


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "cmaes"])
def test_after_trials_that_diverge_a_search_of_several_objectives_goes_on(begin, sampler):
    searcher = begin(sampler=sampler, objectives=TWO, trials=16)
    ask(searcher, 2)
    searcher.on_trial_complete("t0", {"tasks_learned": 0, "failed": "training diverged in epoch 1 of task 1"})
    searcher.on_trial_complete("t1", error=True)
    assert len(played(searcher, 14)) == 14
    states = [trial.state for trial in reopened(searcher).trials]
    assert states[:2] == [TrialState.PRUNED, TrialState.FAIL]
    assert {TrialState.PRUNED, TrialState.COMPLETE} == {*states[2:]}
    assert reopened(searcher).trials[0].user_attrs == {"reason": "training diverged in epoch 1 of task 1"}
    assert searcher.suggest("t16") == Searcher.FINISHED


def test_references_follow_the_knee_of_several_objectives(begin):
    searcher = begin(objectives=TWO, space={"learning_rate": LogRange(1e-3, 1)}, references=["finetuning"], trials=3)
    asked = ask(searcher, 3)
    # Scaled over the front: 1 + 0, 0.875 + 0.8, 0 + 1.
    for i, scores in enumerate([(0.9, 0.5), (0.85, 0.1), (0.5, 0.0)]):
        searcher.on_trial_complete(f"t{i}", result(3, *scores))
    assert searcher.suggest("r")["values"] == asked[1]


def test_a_search_out_of_time_begins_no_trial_and_ends_when_the_open_ones_have(begin):
    searcher = begin(trials=5, references=["finetuning"])
    searcher.suggest("r")
    ask(searcher, 2)
    searcher.host.time = False
    assert searcher.suggest("t2") is None  # the open ones may still end
    searcher.on_trial_complete("t0", result(3, 0.5))
    searcher.on_trial_complete("t1", result(3, 0.6))
    assert searcher.suggest("t2") == Searcher.FINISHED
    assert len(reopened(searcher).trials) == 2


def test_a_search_out_of_patience_begins_no_new_trial_but_one_that_was_begun(begin):
    searcher = begin(trials=5)
    first = ask(searcher, 2)
    again = continued(searcher, {"trial_00000": first[0]})
    again.host.bored = True
    assert again.suggest("u0")["label"] == "trial_00001"
    assert again.suggest("u1") is None
    again.on_trial_complete("u0", result(3, 0.9))
    again.host.bored = False  # its result renewed the patience
    assert again.suggest("u1")["label"] == "trial_00002"


def test_late_references_follow_the_best_trial_that_keeps_the_constraints(begin):
    space = {"learning_rate": LogRange(1e-3, 1)}
    searcher = begin(space=space, references=["finetuning"], trials=2, constraints={"average_forgetting": 0.1})
    asked = ask(searcher, 2)
    searcher.on_trial_complete("t0", result(3, 0.9, 0.5))
    searcher.on_trial_complete("t1", result(3, 0.6, 0.05))
    assert searcher.suggest("r")["values"] == asked[1]
