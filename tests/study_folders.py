"""Folders of studies, written without training: six trials, two references, a final evaluation; and a study with
every kind of hyperparameter.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from clsearch import Choice as OneOf
from clsearch import IntRange, LogRange, Range, When
from clsearch.config.plain_values import Plain
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


def references_of(plan: Plan, shared: dict[str, Plain] | None = None) -> list[TrialRecord]:
    """Finetuning and joint training. shared: the chosen values that they are trained with."""
    return [
        record_of(plan, None, scores, shared, algorithm=algorithm)
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


MIXED_SPACE = [
    {
        "distillation_factor": LogRange(0.01, 100),
        "optimizer": OneOf("sgd", "adam"),
        "epochs": IntRange(1, 4),
        "hidden": OneOf((8,), (8, 8)),
        "train_head": OneOf(True, False),
        "teachers": OneOf(None, "last"),
        "batch_size": IntRange(16, 128, log=True),
    },
    When(
        "optimizer",
        "sgd",
        [
            {"schedule": OneOf("constant", "step"), "learning_rate": LogRange(1e-2, 0.5)},
            When("schedule", "step", {"decay": Range(0.1, 0.9)}),
        ],
    ),
    When("optimizer", "adam", {"learning_rate": LogRange(1e-4, 1e-2)}),
]
"""Numbers, whole numbers, names, widths, true and false, none; conditional ones, one of them with two ranges."""


def mixed_study(results: Path, count: int = 24, **settings: object) -> tuple[Plan, list[TrialRecord]]:
    """The plan of a study of every kind of hyperparameter, and trials with random values and scores.

    Trial 5 was stopped early; the best one is the third, with adam.
    """
    plan = plan_of(results, space=MIXED_SPACE, seeds=2, trials=count, **settings)
    rng, records = np.random.default_rng(3), []
    for n in range(count):
        drawn = {part.key: part.domain.points(9)[rng.integers(len(part.domain.points(9)))] for part in plan.space.parts}
        drawn |= {"optimizer": "adam"} if n == 2 else {}
        values = plan.space.pick(lambda part, drawn=drawn: drawn[part.key])
        score = 0.95 if n == 2 else float(rng.uniform(0.5, 0.9))
        state = {"state": "pruned", "learned": 2} if n == 5 else {}
        record = record_of(plan, n, [score - 0.01, score + 0.01], values, **state)
        records.append(replace(record, times=[1_700_000_000_000 + 9000 * n] * record.tasks_learned))
    return plan, records
