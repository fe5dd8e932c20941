"""Going on with a study: who holds it, what must be as it was, and what a killed process leaves."""

import json
import shutil
import subprocess
import sys
from functools import partial

import pytest
import torch

from clsearch import LogRange, register
from clsearch.common.errors import ConfigError
from clsearch.common.files import atomic_path
from clsearch.methods.registry import CUSTOM_METHODS, digest_classes
from clsearch.records.resume import check_same, check_same_comparison, set_aside, study_lock
from clsearch.records.study_file import STUDY, read_study_json
from clsearch.records.trials import read_trials
from clsearch.records.writer import StudyWriter
from tests.builders import plan_of, record_of
from tests.pictures import fill


def refusal(call, *args):
    with pytest.raises(ConfigError) as error:
        call(*args)
    return error.value.problems


def begun(plan):
    StudyWriter(plan).begin()
    return plan


# The lock


HOLD = """
import sys
from pathlib import Path
from clsearch.records.resume import study_lock
with study_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    words = [sys.executable, "-c", HOLD, str(tmp_path / "mine")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process


def test_a_study_that_was_extended_goes_on_again(tmp_path):
    begun(plan_of(tmp_path, trials=3))
    longer = begun(plan_of(tmp_path, trials=5))
    assert read_study_json(longer.folder)["patience_from"] == 0
    check_same(longer)
    begun(longer)
    check_same(longer)


@pytest.mark.slow
def test_a_study_that_another_process_runs_is_refused(holder, tmp_path):
    (problem,) = refusal(lambda: study_lock(tmp_path / "mine").__enter__())
    assert problem.startswith("name: must be a study that no other process runs; got ")
    assert problem.endswith("mine, which is running now")
    with study_lock(tmp_path / "other"):
        pass


@pytest.mark.slow
def test_a_process_that_was_killed_holds_nothing(holder, tmp_path):
    holder.kill()
    holder.wait()
    with study_lock(tmp_path / "mine"):
        pass


@pytest.mark.slow
def test_a_study_is_free_again_after_it_ended_and_not_before(tmp_path):
    for _ in range(2):
        with study_lock(tmp_path / "new" / "mine"):
            assert refusal(lambda: study_lock(tmp_path / "new" / "mine").__enter__())


# What must be the same


def test_a_study_that_was_never_begun_may_be_anything(tmp_path):
    check_same(plan_of(tmp_path))
    (tmp_path / "mine").mkdir()
    check_same(plan_of(tmp_path))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"trials": 99},
        {"references": ("finetuning", "joint")},
        {"report_seeds": 7},
        {"final": False},
        {"max_concurrent": 1, "cpus_per_trial": 2},
        {"max_failures": 0},
        {"tracking_uri": "sqlite:///elsewhere.db"},
        {"question": "Another way to ask?"},
    ],
)
def test_what_a_trial_does_not_depend_on_may_change(tmp_path, settings):
    begun(plan_of(tmp_path))
    check_same(plan_of(tmp_path, **settings))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"epochs": 3}, "epochs: must be 1, as in the study in {}; got 3"),
        ({"benchmark": "permuted-digits"}, "benchmark: must be split-digits, as in"),
        ({"seeds": 2}, "seeds: must be 0 1 2, as in the study in {}; got 0 1"),
        ({"first_seed": 5}, "seeds: must be 0 1 2, as in the study in {}; got 5 6 7"),
        ({"sampler": "random"}, "sampler: must be tpe, as in"),
        ({"sampler_seed": 4}, "sampler_seed: must be 0, as in"),
        ({"objectives": ("average_forgetting",)}, "objectives: must be average_accuracy, as in"),
        ({"protocol": "first_k", "tasks": 5}, "protocol: must be end_of_sequence, as in"),
        (
            {"space": {"distillation_factor": LogRange(0.1, 20)}},
            "distillation_factor: must be 0.01 to 100 (log), as in the study in {}; got 0.1 to 20 (log)",
        ),
        (
            {"space": {"learning_rate": LogRange(0.1, 1)}, "distillation_factor": 2.0},
            "distillation_factor: must be 0.01 to 100 (log), as in the study in {}; got 2.0",
        ),
    ],
)
def test_every_difference_is_shown_with_the_ways_out(tmp_path, settings, problem):
    plan = begun(plan_of(tmp_path))
    before = (plan.folder / "study.json").read_bytes()
    problems = refusal(check_same, plan_of(tmp_path, **settings))
    assert any(found.startswith(problem.format(plan.folder)) for found in problems)
    assert "--name mine-2" in problems[-1]
    assert "--fresh" in problems[-1]
    assert (plan.folder / "study.json").read_bytes() == before


def test_images_may_lie_elsewhere_when_a_study_goes_on_and_must_be_the_same(tmp_path):
    first, moved = fill(tmp_path / "pictures", ("ants", "bees", "cats", "dogs"), count=8), tmp_path / "moved"
    begun(plan_of(tmp_path, benchmark=f"folder:{first}", tasks=2))
    first.rename(moved)
    check_same(plan_of(tmp_path, benchmark=f"folder:{moved}", tasks=2))
    next(moved.rglob("*.png")).unlink()
    (problem,) = refusal(check_same, plan_of(tmp_path, benchmark=f"folder:{moved}", tasks=2))
    assert problem.startswith("data (identity): must be ")


# The user's own code


class Own:
    """A regularizer."""

    logs = ()
    trains_head = False

    def __init__(self, strength):
        self.strength = strength

    def prepare(self, *others):
        return None

    def remember(self, network, benchmark, task, params, memory):
        return memory


class Other(Own):
    """Another one."""


def own_plan(folder, build, **settings):
    register("own", build, settings=["penalty_factor"])
    return plan_of(folder, "own", **({"space": {"penalty_factor": LogRange(1, 10)}} | settings))


@pytest.fixture
def no_method_stays():
    yield
    CUSTOM_METHODS.pop("own", None)


def helper(factor):
    return lambda config: Own(2 * factor)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (lambda config: Own(1), lambda config: Own(2)),
        (partial(lambda strength, config: Own(strength), 1), partial(lambda strength, config: Own(strength), 2)),
        (helper(1), helper(2)),
        (lambda config: Own(1), lambda config: Other(1)),
        (lambda config: Own(config.epochs), lambda config: Own(config.epochs + 1)),
    ],
)
@pytest.mark.usefixtures("no_method_stays")
def test_a_regularizer_that_changed_is_not_gone_on_with(tmp_path, before, after):
    plan = begun(own_plan(tmp_path, before))
    check_same(own_plan(tmp_path, before))
    (problem,) = refusal(check_same, own_plan(tmp_path, after))
    text = f"regularizers: must be the regularizers that it began with, as in the study in {plan.folder}; got other "
    assert problem.startswith(text + "code or values. A folder can only be resumed")


@pytest.mark.usefixtures("no_method_stays")
def test_values_that_a_regularizer_draws_at_random_do_not_count(tmp_path):
    for _ in range(2):
        check_same(begun(own_plan(tmp_path, lambda config: Own(torch.rand(3)))))


@pytest.mark.usefixtures("no_method_stays")
def test_places_of_data_in_a_configuration_that_a_regularizer_keeps_do_not_count(tmp_path):
    begun(own_plan(tmp_path, lambda config: Own(config), data_root=tmp_path / "here"))
    check_same(own_plan(tmp_path, lambda config: Own(config), data_root=tmp_path / "there"))


def made(shape, width=4):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, width))


def made_otherwise(shape, width=4):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, width), torch.nn.ReLU())


def test_a_backbone_that_changed_is_not_gone_on_with(tmp_path):
    backbone = {"backbone": made, "hidden": None}
    begun(plan_of(tmp_path, **backbone))
    check_same(plan_of(tmp_path, **backbone))
    made_otherwise.__qualname__ = "made"  # as after an edit
    (problem,) = refusal(check_same, plan_of(tmp_path, **backbone | {"backbone": made_otherwise}))
    assert problem.startswith("backbone_code: must be the backbone that it began with, as in the study in ")


@pytest.mark.usefixtures("no_method_stays")
def test_a_study_of_an_earlier_version_goes_on_with_its_own_digest_of_the_code(tmp_path):
    plan = begun(own_plan(tmp_path, lambda config: Own(1)))
    content = read_study_json(plan.folder)
    del content["backbone_code"]
    content["regularizers"] = digest_classes(plan.config)
    (plan.folder / STUDY).write_text(json.dumps(content))
    check_same(own_plan(tmp_path, lambda config: Own(1)))
    (problem,) = refusal(check_same, own_plan(tmp_path, lambda config: Other(1)))
    assert problem.startswith("regularizers: ")


def test_another_algorithm_is_refused(tmp_path):
    begun(plan_of(tmp_path, "lwf"))
    problems = refusal(check_same, plan_of(tmp_path, "ewc", space={"penalty_factor": LogRange(1, 10)}))
    assert problems[0].startswith("algorithm: must be lwf, as in")


def test_starting_over_may_be_anything(tmp_path):
    begun(plan_of(tmp_path))
    check_same(plan_of(tmp_path, epochs=3, fresh=True))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{}", "key question: missing"),
        ("[1]", "a list, not a JSON object"),
        ("no json", "no JSON (Expecting value: line 1 column 1 (char 0))"),
        ("", "no content"),
        ('{"question": 1}', "key question: input should be a valid string, not '1'"),
    ],
)
def test_a_record_that_is_no_studys_is_never_gone_on_with(tmp_path, content, why):
    plan = plan_of(tmp_path)
    plan.folder.mkdir()
    (plan.folder / "study.json").write_text(content)
    (problem,) = refusal(check_same, plan)
    file = plan.folder / "study.json"
    assert problem.startswith(
        f"{file}: must be a whole file, as clsearch wrote it; got {why}: put it back from a copy. A folder can only be"
    )


def test_the_free_name_that_is_offered_is_free(tmp_path):
    plan = begun(plan_of(tmp_path))
    for name in ("mine-2", "mine-3"):
        (tmp_path / name).mkdir()
    assert "--name mine-4" in refusal(check_same, plan_of(tmp_path, epochs=3))[-1]
    assert "--name all-2" in refusal(check_same, plan_of(tmp_path, epochs=3), "all")[-1]
    assert plan.folder.exists()


def test_a_comparison_goes_on_with_the_same_studies(tmp_path):
    folder = tmp_path / "all"
    check_same_comparison(folder, "methods", {"a": "all-a"})
    folder.mkdir()
    (folder / "comparison.json").write_text(json.dumps({"kind": "methods", "studies": {"a": "all-a"}}))
    check_same_comparison(folder, "methods", {"a": "all-a"})
    (problem,) = refusal(check_same_comparison, folder, "methods", {"a": "all-a", "b": "all-b"})
    assert "name: must be a comparison of methods, a, as in " in problem
    assert "; got methods, a, b" in problem


# Renamed and copied


def test_a_renamed_study_goes_on_under_its_new_name(tmp_path):
    plan = begun(plan_of(tmp_path))
    first = read_study_json(plan.folder)
    plan.folder.rename(tmp_path / "other")
    renamed = plan_of(tmp_path, name="other", trials=99)
    check_same(renamed)
    begun(renamed)
    assert read_study_json(renamed.folder)["id"] == first["id"]
    assert (first["name"], read_study_json(renamed.folder)["name"]) == ("mine", "other")


def test_a_copy_beside_its_original_is_refused_and_the_original_goes_on(tmp_path):
    plan = begun(plan_of(tmp_path))
    copy = plan_of(tmp_path, name="copy")
    shutil.copytree(plan.folder, copy.folder)
    (problem,) = refusal(check_same, copy)
    assert problem.startswith(f"name: must be the only folder of its study; got {copy.folder}, whose study is also in ")
    assert str(plan.folder) in problem
    check_same(plan)
    check_same(plan_of(tmp_path, name="copy", fresh=True))
    shutil.move(plan.folder, tmp_path / "elsewhere" / "mine")
    check_same(copy)  # now it is the only one


def test_of_two_copies_from_before_names_were_recorded_none_goes_on(tmp_path):
    plan = begun(plan_of(tmp_path))
    content = read_study_json(plan.folder)
    del content["name"]
    (plan.folder / STUDY).write_text(json.dumps(content))
    check_same(plan)
    copy = plan_of(tmp_path, name="copy")
    shutil.copytree(plan.folder, copy.folder)
    for each in (plan, copy):
        assert [problem.rule for problem in refusal(check_same, each)] == ["study-not-copied"]


@pytest.mark.parametrize("ids", [True, False])
def test_a_renamed_comparison_says_how_to_rename_its_studies_and_then_goes_on(tmp_path, ids):
    plans = {label: begun(plan_of(tmp_path, name=f"all-{label}")) for label in "ab"}
    known = {label: read_study_json(plan.folder)["id"] for label, plan in plans.items()}
    content = {"kind": "methods", "studies": {"a": "all-a", "b": "all-b"}} | ({"ids": known} if ids else {})
    folder, new = tmp_path / "renamed", {"a": "renamed-a", "b": "renamed-b"}
    folder.mkdir()
    (folder / "comparison.json").write_text(json.dumps(content))
    plans["a"].folder.rename(tmp_path / "renamed-a")
    (problem,) = refusal(check_same_comparison, folder, "methods", new)
    assert problem.rule == "comparison-studies-named"
    assert problem.endswith(f"Rename the folders: mv {tmp_path / 'all-b'} {tmp_path / 'renamed-b'}")
    plans["b"].folder.rename(tmp_path / "renamed-b")
    check_same_comparison(folder, "methods", new)


def test_a_study_of_a_comparison_that_was_renamed_is_not_trained_again(tmp_path):
    plan = begun(plan_of(tmp_path, name="all-a"))
    content = {"kind": "methods", "studies": {"a": "all-a"}, "ids": {"a": read_study_json(plan.folder)["id"]}}
    folder = tmp_path / "all"
    folder.mkdir()
    (folder / "comparison.json").write_text(json.dumps(content))
    plan.folder.rename(tmp_path / "anything")
    (problem,) = refusal(check_same_comparison, folder, "methods", {"a": "all-a"})
    assert f"mv {tmp_path / 'anything'} {tmp_path / 'all-a'}" in problem
    shutil.rmtree(tmp_path / "anything")
    check_same_comparison(folder, "methods", {"a": "all-a"})  # somebody deleted it: it begins anew


# study.json


def test_study_json_says_when_a_study_was_gone_on_with_and_keeps_how_it_began(tmp_path):
    plan = begun(plan_of(tmp_path))
    first = read_study_json(plan.folder)
    assert first["resumed"] == []
    later = StudyWriter(plan_of(tmp_path, trials=99))
    later.begin()
    second = read_study_json(plan.folder)
    assert second["trials"] == 99
    assert later.study["id"] == second["id"] == first["id"]
    (session,) = second["resumed"]
    assert {"command", "versions", "commit", "started"} == {*session}
    same = {*first} - {"trials", "resumed"}
    assert {name: first[name] for name in same} == {name: second[name] for name in same}


def test_two_studies_have_two_ids(tmp_path):
    ids = [read_study_json(begun(plan_of(tmp_path, name=name)).folder)["id"] for name in ("one", "two")]
    assert len({*ids}) == 2


# What is left


def test_what_is_there_is_moved_aside_and_never_over_something_else(tmp_path):
    folder = tmp_path / "mine"
    assert set_aside(folder) is None
    for number in (1, 2):
        folder.mkdir()
        (folder / "file").write_text(str(number))
        assert set_aside(folder) == tmp_path / f"mine.{number}"
        assert not folder.exists()
    assert [(tmp_path / f"mine.{number}" / "file").read_text() for number in (1, 2)] == ["1", "2"]


def test_leftovers_of_a_killed_process_go_and_the_states_of_what_did_not_end_stay(tmp_path):
    results = StudyWriter(plan_of(tmp_path))
    names = ["study.json", "trials/b/state.pt", "trials/a/record.json", "ray/x/y", "trials/a/state.pt"]
    kept, left = ([results.folder / name for name in own] for own in (names[:3], names[3:]))
    for path in (*kept, *left):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    for path in (results.folder / "trials.csv", results.folder / "trials" / "b" / "accuracy.csv"):
        with atomic_path(path) as half:
            half.write_text("half")
        path.rename(half)  # as its process would leave it
    assert len(list(tmp_path.rglob(".*.tmp"))) == 2
    results.tidy(["a"])
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == sorted(kept)


def test_trials_are_read_back_as_they_were_written(tmp_path):
    plan = plan_of(tmp_path, tasks=2, seeds=2)
    results = StudyWriter(plan)
    done, part = record_of(plan, 0, [0.7, 0.5]), record_of(plan, 1, [0.7, 0.5], state="running", learned=1)
    results.write_trial(done)
    results.write_status(part)
    found = read_trials(plan.folder)
    assert [*found] == ["trial_00000", "trial_00001"]
    assert [record.ended for record in found.values()] == [True, False]
    for record, again in zip((done, part), found.values(), strict=True):
        assert again.metrics == record.metrics
        assert (again.values, again.seeds, again.state) == (record.values, record.seeds, record.state)
        assert repr(again.accuracy).replace("None", "nan") == repr(record.accuracy)
    before = (results.trial_folder("trial_00000") / "learning_curve.csv").read_bytes()
    results.write_trial(found["trial_00000"])  # has no curve any more
    assert (results.trial_folder("trial_00000") / "learning_curve.csv").read_bytes() == before
