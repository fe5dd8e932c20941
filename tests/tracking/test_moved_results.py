"""MLflow's records of results folders that were moved or copied, and of studies that were renamed."""

import shutil

import pytest
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

from clsearch.common.errors import ConfigError
from clsearch.records.writer import StudyWriter
from clsearch.tracking.registration import check_registered_once
from clsearch.tracking.sync import sync
from tests.builders import plan_of, record_of
from tests.tracking.sending import SPACE, VALUES, client_of, runs_of, sent, timed

pytestmark = pytest.mark.slow


def run_folder(results, run, name):
    return results / "mlartifacts" / name / run.info.run_id / "artifacts"


@pytest.fixture
def moved(store, tmp_path):
    """A results folder with a study, moved with its store: its new place, its plan there, the trial's run before."""
    plan = plan_of(tmp_path / "old", "ewc", space=SPACE, name="moves", seeds=2, tasks=2)
    plan.folder.mkdir(parents=True)
    shutil.copy(store, tmp_path / "old")
    StudyWriter(plan).begin()
    first, _ = records = [timed(record_of(plan, n, [0.7, 0.7], VALUES)) for n in range(2)]
    StudyWriter(plan).write_trial(first)
    assert sent(plan, [first]) == []
    (tmp_path / "old").rename(tmp_path / "new")
    _artifact_repos_cache.clear()  # a new process has none
    return plan_of(tmp_path / "new", "ewc", space=SPACE, name="moves", seeds=2, tasks=2), records


def test_a_moved_results_folder_keeps_its_artifacts_beside_its_store(moved, tmp_path):
    plan, records = moved
    assert sent(plan, records) == []
    assert not (tmp_path / "old").exists()
    runs = runs_of(tmp_path / "new", "moves")
    assert len(runs) == 3
    for run in runs.values():
        folder = run_folder(tmp_path / "new", run, "moves")
        assert run.info.artifact_uri == folder.as_uri()
        assert [*folder.glob("*.json")]
    experiment = client_of(tmp_path / "new").get_experiment_by_name("moves")
    assert experiment.artifact_location == (tmp_path / "new" / "mlartifacts" / "moves").as_uri()


def test_a_copied_results_folder_writes_nothing_into_the_original(moved, tmp_path):
    plan, records = moved
    shutil.copytree(tmp_path / "new", tmp_path / "old")
    before = sorted(tmp_path.joinpath("old").rglob("*"))
    assert sent(plan, records) == []
    assert sorted(tmp_path.joinpath("old").rglob("*")) == before
    assert len([*tmp_path.joinpath("new").glob("mlartifacts/moves/*/artifacts/accuracy_matrix.json")]) == 2


def test_artifacts_and_parents_that_are_gone_are_made_again(moved, tmp_path):
    plan, records = moved
    shutil.rmtree(tmp_path / "new" / "mlartifacts")
    client, runs = client_of(tmp_path / "new"), runs_of(tmp_path / "new", "moves")
    client.delete_run(runs["moves"].info.run_id)
    assert sent(plan, records) == []
    runs = runs_of(tmp_path / "new", "moves")
    parent = runs.pop("moves").info.run_id
    assert [run.data.tags["mlflow.parentRunId"] for run in runs.values()] == [parent, parent]
    for run in runs.values():
        assert (run_folder(tmp_path / "new", run, "moves") / "accuracy_matrix.json").exists()


def test_a_renamed_study_keeps_its_runs_under_its_new_name(moved, tmp_path):
    plan, records = moved
    before = {run.info.run_id for run in runs_of(tmp_path / "new", "moves").values()}
    plan.folder.rename(tmp_path / "new" / "renamed")
    renamed = plan_of(tmp_path / "new", "ewc", space=SPACE, name="renamed", seeds=2, tasks=2)
    assert sent(renamed, records, study_id="moves has this id") == []
    runs = runs_of(tmp_path / "new", "renamed")
    assert {run.info.run_id for run in runs.values()} > before
    assert "renamed" in runs
    assert client_of(tmp_path / "new").get_experiment_by_name("moves") is None


def test_a_copy_in_another_results_folder_is_not_sent_to_the_store_of_its_original(store, tmp_path):
    shutil.copy(store, tmp_path / "shared.db")
    uri = f"sqlite:///{tmp_path}/shared.db"
    plan, copy = (plan_of(tmp_path / name, "ewc", space=SPACE, name="copied", seeds=2, tasks=2) for name in "ab")
    writer = StudyWriter(plan)
    writer.begin()
    assert sent(plan, uri=uri, study_id=writer.study["id"]) == []
    check_registered_once(plan.folder, uri)
    shutil.copytree(plan.folder, copy.folder)
    with pytest.raises(ConfigError) as error:
        check_registered_once(copy.folder, uri)
    (problem,) = error.value.problems
    assert (problem.field, problem.rule) == ("tracking_uri", "study-registered-once")
    assert f"got those of {plan.folder}, of which {copy.folder} is a copy" in problem
    check_registered_once(copy.folder, None)
    with pytest.raises(ConfigError):
        sync(copy.folder, uri)
    shutil.rmtree(plan.folder)
    check_registered_once(copy.folder, uri)  # it was moved
