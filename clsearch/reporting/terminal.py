"""Print the summary of a study: this module decides the order of its blocks; tables and text come from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape

from clsearch.common.formatting import print_full_width
from clsearch.common.redaction import printable
from clsearch.config.plain_values import show_value
from clsearch.config.unlearning import parse_requests
from clsearch.planning.samplers import describe_choice
from clsearch.records.attempts import Decision
from clsearch.records.early_stopping import describe_saving, summarize_early_stopping
from clsearch.records.evaluation import FinalEvaluation
from clsearch.records.ranking import Ranking
from clsearch.records.trials import TrialRecord
from clsearch.reporting.answer_text import describe_infeasible
from clsearch.reporting.evaluation_table import make_evaluation_table
from clsearch.reporting.evaluation_text import explain_evaluation
from clsearch.reporting.locations import list_locations
from clsearch.reporting.result import StudyResult
from clsearch.reporting.trial_tables import make_attempt_table, make_matrix_table, make_trial_table
from clsearch.reporting.trial_text import describe_problems, explain_attempts, explain_ranking, list_task_classes
from clsearch.reporting.unlearning_text import describe_retraining_cost, describe_trade_off, describe_unlearning


def print_result(console: Console, result: StudyResult, mlflow: tuple[str, str]) -> None:
    """Print what a study found, the tables behind it, its cost, and where everything is.

    mlflow: the row that names the store of its MLflow runs.
    """
    console.print()
    _print_search(console, result)
    if result.final is not None:
        print_evaluation(console, result.final)
    print_lines(console, *_describe_cost(result), *describe_problems(result))
    console.print()
    print_rows(console, list_locations(result, mlflow))


def _print_search(console: Console, result: StudyResult) -> None:
    """Print the outcome of the search: the attempts of `continual`, else the best trials."""
    plan = result.plan
    if result.decision is not None:
        print_attempts(console, result.decision)
        print_lines(console, *explain_attempts(plan, result.decision))
    elif not result.ranking.trials:
        console.print("[bold]No trial finished.[/bold]")
    elif result.ranking.best is None:
        print_lines(console, describe_infeasible(result.ranking, plan.constraints))
        print_full_width(console, make_trial_table(result.ranking, result.references, list(plan.space)))
    else:
        print_best(console, result.ranking, result.references, list(plan.space))
        print_lines(console, *list_task_classes(plan.config))


def print_best(console: Console, ranking: Ranking, references: Sequence[TrialRecord], searched: Sequence[str]) -> None:
    """Print the best configuration, the best trials beside the references, and the best trial's accuracy matrix.

    searched: names of the searched hyperparameters.
    """
    best = ranking.trials[0]
    if ranking.best is None:
        print_full_width(console, make_trial_table(ranking, references, searched))
        return
    values = escape(printable(", ".join(f"{name} = {show_value(value, 4)}" for name, value in best.values.items())))
    kind = "Knee of the Pareto front" if ranking.front else "Best configuration" if searched else "Configuration"
    console.print(f"[bold]{kind}[/bold] (trial {best.number}): {values or 'as given'}")
    print_full_width(console, make_trial_table(ranking, references, searched))
    print_lines(console, *explain_ranking(ranking, references))
    print_full_width(console, make_matrix_table(best))
    if best.unlearning:
        requests = parse_requests(tuple(best.settings["unlearn"]))
        print_lines(console, *describe_unlearning(best, requests, references), *describe_trade_off(ranking))


def print_attempts(console: Console, decision: Decision) -> None:
    """Print every attempt of the continual protocol."""
    print_full_width(console, make_attempt_table(decision))


def print_evaluation(console: Console, final: FinalEvaluation) -> None:
    """Print the final evaluation on fresh seeds."""
    print_full_width(console, make_evaluation_table(final))
    print_lines(console, *explain_evaluation(final))


def _describe_cost(result: StudyResult) -> list[str]:
    """Describe the cost of the search and the savings of early stopping."""
    plan, pruned = result.plan, summarize_early_stopping(result.plan, result.records)
    lines = [str(result.cost), *describe_retraining_cost(plan.config, len(plan.seeds))]
    if pruned is not None:
        lines += describe_saving(pruned, describe_choice(plan.options.pruner), len(result.records))
    return lines


def print_lines(console: Console, *lines: str) -> None:
    """Print lines without markup or highlighting."""
    for line in lines:
        console.print(printable(line), highlight=False, markup=False)


def print_rows(console: Console, rows: Iterable[tuple[str, str]]) -> None:
    """Print labelled paths, addresses and commands, each on one unbroken line."""
    for label, value in rows:
        console.print(printable(f"{label:<8} {value}"), highlight=False, markup=False, soft_wrap=True)
