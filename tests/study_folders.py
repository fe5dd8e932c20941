"""Folders of studies, written without training: six trials, two references, a final evaluation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from clsearch.planning.plan import Plan
from clsearch.records.evaluation import FinalEvaluation
from clsearch.records.evaluation_file import accuracy_table, evaluation_json, metrics_table
from clsearch.records.ranking import Choice, best_json, rank
from clsearch.records.trials import TrialRecord
from clsearch.records.writer import StudyWriter
from clsearch.reporting.importances import compute_importances
from tests.builders import final_of, measured_of, plan_of, record_of

VALUES = [{"distillation_factor": 0.1 * 3**n, "distillation_temperature": 0.5 + 1.7 * (n * 7 % 5)} for n in range(6)]
SCORES = [0.80, 0.85, 0.91, 0.88, 0.70, 0.60]


def trials_of(plan: Plan) -> list[TrialRecord]:
    """Six finished trials, the third of which is best; seeds differ by one point."""
    found = []
    for n, (score, values) in enumerate(zip(SCORES, VALUES, strict=True)):
        record = record_of(plan, n, [score - 0.005, score + 0.005], values)
        times = [1_700_000_000_000 + 10_000 * n + 1_500 * task for task in range(1, record.tasks_learned + 1)]
        found.append(replace(record, times=times, reported=times[-1]))
    return found


def references_of(plan: Plan) -> list[TrialRecord]:
    return [
        record_of(plan, None, scores, algorithm=algorithm)
        for algorithm, scores in (("finetuning", [0.75, 0.76]), ("joint", [0.95, 0.94]))
    ]


def written(
    plan: Plan, records: list[TrialRecord], final: FinalEvaluation | None = None, state: str = "finished"
) -> Path:
    """Write a study's folder as a study leaves it."""
    results = StudyWriter(plan)
    results.begin()
    for record in records:
        results.write_trial(record)
    trials = [record for record in records if record.number is not None]
    references = [record for record in records if record.number is None]
    best = best_json(plan, rank(trials, plan.objectives), trials, references)
    found = compute_importances(trials, plan.space, plan.objectives[0])
    results.write_json("best.json", best | found.as_json())
    if final is not None:
        results.write_csv("final_accuracy.csv", accuracy_table(final))
        results.write_csv("final.csv", metrics_table(final))
        results.write_json("final.json", evaluation_json(final))
    results.end(state)
    return plan.folder


def small_plan(tmp_path: Path, **settings: object) -> Plan:
    return plan_of(tmp_path, seeds=2, report_seeds=3, references=("finetuning", "joint"), trials=6, **settings)


def evaluated(plan: Plan, chosen: float = 0.9) -> FinalEvaluation:
    """The choice on three fresh seeds: 1 and 2 points around; finetuning 10 below, joint 5 above, seed by seed."""
    test = [chosen - 0.01, chosen, chosen + 0.01]
    rows = [
        measured_of(plan, [0.88, 0.89, 0.90], test),
        measured_of(plan, [0.80] * 3, [x - 0.1 for x in test], "finetuning"),
        measured_of(plan, [0.95] * 3, [x + 0.05 for x in test], "joint"),
    ]
    final = final_of(plan, *rows, scores={"average_accuracy": 0.91})
    return replace(final, choice=Choice("trial_00002", VALUES[2], final.choice.scores))
