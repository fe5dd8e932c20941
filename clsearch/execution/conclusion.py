"""The last steps of a study: rank its trials, write tables and figures, run the final evaluation of the choice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ray

from clsearch.common.errors import RayDiedError
from clsearch.common.formatting import last_line
from clsearch.execution.final_evaluation import already_evaluated, evaluate
from clsearch.execution.publisher import Publisher
from clsearch.execution.sealed_data import SealedError
from clsearch.planning.objectives import is_feasible
from clsearch.planning.plan import Plan
from clsearch.records.early_stopping import early_stopping_json, summarize_early_stopping
from clsearch.records.further_seeds import missing_seeds
from clsearch.records.json_types import BestJson
from clsearch.records.ranking import Ranking, best_json, choice_of, rank
from clsearch.records.store import RecordStore
from clsearch.records.study_record import base_algorithm
from clsearch.records.trials import TrialRecord, latest
from clsearch.reporting.importances import compute_importances
from clsearch.reporting.progress import ProgressLine
from clsearch.reporting.result import StudyResult


def conclude(plan: Plan, store: RecordStore, publisher: Publisher, search_end: str = "") -> StudyResult:
    """Rank the trials of a search, and write best.json, tables and figures.

    Args:
        plan: The study.
        store: Its records.
        publisher: Receives the findings.
        search_end: Why the search ended before all trials; "" if it did not.
    """
    complete_records(store, publisher)
    records, references = store.trials(), store.references()
    ranking = rank(records, plan.objectives, plan.constraints)
    content = choice_content(plan, ranking, records, references)
    if search_end:
        content["search_end"] = search_end
    publisher.publish_choice(content, latest(r.reported for r in records))
    if ranking.front:
        store.writer.write_table("front", [r for r in ranking.trials if r.label in ranking.front])
    write_figures(plan, store, ranking)
    store.writer.tidy([r.label for r in (*records, *references) if r.ended])
    interrupted = is_search_interrupted(plan, store, search_end) or bool(missing_seeds(plan, records, references))
    return StudyResult(plan, records, references, ranking, choice_of(ranking), None, interrupted, search_end=search_end)


def complete_records(store: RecordStore, publisher: Publisher) -> None:
    """Record the trials that were cut off, and add the metrics that need all trials."""
    for record in store.leave_unfinished():
        publisher.tracker.update(record)
    for record in store.add_intransigence():
        publisher.tracker.add(record, "intransigence")
    store.write_tables()


def choice_content(plan: Plan, ranking: Ranking, records: list[TrialRecord], references: list[TrialRecord]) -> BestJson:
    """Return the content of best.json, with the savings of early stopping and the importance of each hyperparameter."""
    content = best_json(plan, ranking, records, references)
    if early_stopping := summarize_early_stopping(plan, records):
        content["pruning"] = early_stopping_json(early_stopping)
    content.update(compute_importances(records, plan.space, plan.objectives[0]).as_json())
    return content


def write_figures(plan: Plan, store: RecordStore, ranking: Ranking) -> None:
    """Draw response.png and, for several objectives, front.png."""
    # Importing matplotlib takes half a second; no trial waits for it here.
    from clsearch.reporting.figures import draw_pareto_front, draw_response

    name, references = plan.objectives[0], store.references()
    levels = {base_algorithm(r.algorithm): r.metrics[name] for r in references if r.state == "finished"}
    figures = {"response.png": draw_response(store.trials(), plan.space, levels, name, ranking.best)}
    if ranking.front:
        figures["front.png"] = draw_pareto_front(ranking, references)
    for file, figure in figures.items():
        if figure is not None:
            figure.savefig(store.writer.folder / file, dpi=150)


def is_search_interrupted(plan: Plan, store: RecordStore, search_end: str = "") -> bool:
    """Return True if trials or references are left that have not ended.

    If no trial can be chosen, references that have not begun are not counted; nor are trials that have not begun if
    the search ended before all. search_end: why it did.
    """
    records, references = store.trials(), store.references()
    finished = any(r.state == "finished" and is_feasible(plan.constraints, r.metrics) for r in records)
    waited_for = plan.references if finished else tuple(r.algorithm for r in references)
    ended, done = sum(r.ended for r in records), [r.algorithm for r in references if r.ended]
    expected = len(records) if search_end else plan.trials
    return ended < expected or len(done) < len(waited_for)


def add_final_evaluation(result: StudyResult, data: Any, publisher: Publisher, line: ProgressLine) -> StudyResult:
    """Return the result with its final evaluation, if the plan asks for one.

    An evaluation that an earlier process completed is reused.

    Args:
        result: The result of the search.
        data: A reference to the training data.
        publisher: Receives the findings.
        line: Shows the current step.
    """
    plan = result.plan
    if not plan.options.final or result.choice is None or result.interrupted:
        return result
    if result.died:
        return replace(result, interrupted=True)
    try:
        final = already_evaluated(plan, result.choice, line.warn) or evaluate(
            plan, result.choice, data, line.show_step, publisher.publish_opening
        )
        publisher.publish_evaluation(final)
    except SealedError as error:
        return replace(result, unsealed=str(error))
    except ray.exceptions.RayError as error:  # a worker died
        return replace(result, unsealed=last_line(error))
    except RayDiedError as error:
        return replace(result, interrupted=True, died=str(error))
    except KeyboardInterrupt:
        return replace(result, interrupted=True)
    return replace(result, final=final)
