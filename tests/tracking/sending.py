"""Send records to MLflow, and read them back."""

from dataclasses import replace

from clsearch import LogRange, Range
from clsearch.records.study_file import description
from clsearch.tracking.sender import Tracker

SPACE = {"penalty_factor": LogRange(0.1, 1000), "penalty_p_norm": Range(1, 3)}
VALUES = {"penalty_factor": 0.1 + 0.2, "penalty_p_norm": 1.5}
FOUND = {
    "metrics": {"average_accuracy": 0.7, "average_forgetting": float("inf")},
    "values": VALUES,
    "importance": {"penalty_factor": 0.75, "penalty_p_norm": 0.25},
    "trials": {"finished": 12, "failed": 1},
    "indistinguishable": ["trial_00001", "trial_00005"],
    "cost": {"task_trainings": 50, "seconds": 9.5},
    "command": None,
}
"""What best.json may hold."""
INTRANSIGENCE = {"intransigence": 0.25, "intransigence/std": 0.125}


def tracker_of(plan, warnings, uri=None, study_id=None):
    return Tracker(
        description(plan) | {"id": study_id or f"{plan.options.name} has this id"}, plan.folder, uri, warnings.append
    )


def artifacts(told, run):
    """The folder of a run's artifacts."""
    assert run.info.artifact_uri.startswith("file://")
    return told.plan.folder.parent / "mlartifacts" / told.plan.options.name / run.info.run_id / "artifacts"


def sent(plan, records=(), uri=None, finished=True, study_id=None):
    """Tell MLflow these records; gives the warnings."""
    warnings = []
    tracker = tracker_of(plan, warnings, uri, study_id)
    tracker.begin()
    for record in records:
        tracker.update(record)
    tracker.send_choice({}, 1)
    tracker.end("finished" if finished else "failed")
    return warnings


def contents(told, name):
    """Everything that MLflow holds of a study's runs, but when they ended."""
    experiment = told.client.get_experiment_by_name(name)
    found = {}
    for run in told.client.search_runs([experiment.experiment_id]):
        points = {
            key: sorted((m.step, m.value, m.timestamp) for m in told.client.get_metric_history(run.info.run_id, key))
            for key in run.data.metrics
        }
        found[run.info.run_id] = (run.info.run_name, run.info.status, run.data.params, run.data.tags, points)
    return found


def timed(record):
    return replace(record, times=[1_700_000_000_000 + 1000 * i for i in range(record.tasks_learned)])


TWO_TASKS = {"space": SPACE, "seeds": 2, "tasks": 2, "references": ("finetuning", "joint"), "report_seeds": 2}
VALIDATION, TEST = [0.8, 0.6], [0.7, 0.6]


def client_of(results):
    from mlflow.tracking import MlflowClient  # takes seconds, and the quick tests beside do without

    return MlflowClient(f"sqlite:///{results}/mlflow.db")


def runs_of(results, name):
    """The runs of a study by their names."""
    client = client_of(results)
    experiment = client.get_experiment_by_name(name)
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def evaluated(plan, final, state="finished"):
    """Tell MLflow a final evaluation; gives its study's runs."""
    warnings = []
    tracker = tracker_of(plan, warnings)
    tracker.begin()
    tracker.send_choice({"metrics": {"average_accuracy": 0.75}}, 1)
    tracker.send_openings(final.openings)
    tracker.send_evaluation(final)
    tracker.end(state)
    assert warnings == []
    return runs_of(plan.folder.parent, plan.options.name)


def history(told, run, name):
    return [(m.step, m.value) for m in told.client.get_metric_history(run.info.run_id, name)]
