"""A final evaluation in sentences: how optimistic the search was, and how often test data was opened."""

from __future__ import annotations

from clsearch.common.formatting import count_of, format_difference, format_metric, format_number, humanize
from clsearch.common.statistics import Interval
from clsearch.config.sections import FOLDER
from clsearch.data.datasets import SOURCES
from clsearch.records.evaluation import FinalEvaluation, Optimism


def explain_evaluation(final: FinalEvaluation) -> list[str]:
    """Write the sentences below the table of a final evaluation."""
    return [*warn_about_two_seeds(final), *describe_optimism(final), *describe_openings(final)]


def format_interval(found: Interval, signed: bool = False, metric: str = "average_accuracy") -> str:
    """A mean with its 95 % interval in display units; a single seed has no interval."""
    mean, low, high = (format_number(metric, value, signed) for value in (found.mean, found.low, found.high))
    return mean if found.low != found.low else f"{mean} ({low} to {high})"


def describe_optimism(final: FinalEvaluation) -> list[str]:
    """Compare the search's score of the choice with its scores on fresh seeds: a sentence per objective."""
    return [_describe_optimism(final, found) for found in final.optimism]


def _describe_optimism(final: FinalEvaluation, found: Optimism) -> str:
    """Describe one objective's optimism on validation data and, if it was measured there, on test data."""
    metric, searched = found.metric, len(final.searched_tasks)
    tasks = f" of tasks 1 to {searched}" if searched < final.tasks else ""
    test = ""
    if found.test is not None:
        where = "test data" if final.reported_on == "full_sequence" else "the reported test data"
        gap = format_difference(metric, found.against_test)
        test = f" and {format_interval(found.test, metric=metric)} on {where} (optimism {gap})"
    return (
        f"Optimism: the search estimated {format_metric(metric, found.believed)} {humanize(metric)}{tasks}. "
        f"On {count_of(len(final.seeds), 'fresh seed')} the same configuration has "
        f"{format_interval(found.validation, metric=metric)} on validation data "
        f"(optimism {format_difference(metric, found.against_validation)}){test}."
    )


def warn_about_two_seeds(final: FinalEvaluation) -> list[str]:
    """A warning that intervals over two seeds are wide, and may leave the range of the metric."""
    if len(final.seeds) != 2:
        return []
    return ["Two fresh seeds: Student's t with one degree of freedom is 12.7, so these intervals are very wide."]


def describe_openings(final: FinalEvaluation) -> list[str]:
    """Count the openings of test data. A user's own images are identified by path and digest."""
    folders = {row.benchmark for row in final.rows if row.benchmark.startswith(FOLDER)}
    paths = f"{', '.join(sorted(folders))}, " if folders else ""
    lines = []
    for opening in final.openings:
        data = opening.data if opening.data in SOURCES else f"{paths}{opening.data}"
        lines.append(
            f"The test data of {data} was opened once for this evaluation, after the choice; "
            f"it had {describe_earlier_openings(opening.before)} in this results folder."
        )
    return lines


def describe_earlier_openings(before: int) -> str:
    """Count earlier openings of test data: `not been opened before`, `been opened 2 times before`."""
    return f"been opened {count_of(before, 'time')} before" if before else "not been opened before"
