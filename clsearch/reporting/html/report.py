"""results/<study>/report.html: a study in pictures; several studies on one page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import optuna
import plotly.graph_objects as go
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from clsearch.common.files import write_atomically
from clsearch.records.study_file import JOURNAL
from clsearch.records.study_record import Reading, read_study
from clsearch.reporting import captions as text
from clsearch.reporting.answer_text import answer, missing, notes, question
from clsearch.reporting.html.comparison import comparison_parts
from clsearch.reporting.html.page import Part, Table, drawn, page
from clsearch.reporting.html.response_plots import response
from clsearch.reporting.html.search_plots import importance, optimism, parallel, trade_off, workers
from clsearch.reporting.html.task_plots import course, forgetting, heat_map
from clsearch.reporting.html.unlearning import unlearning
from clsearch.reporting.importances import importances

REPORT, COMPARISON_REPORT = "report.html", "comparison.html"

Draw = Callable[[Reading], go.Figure | None]
Say = Callable[[Reading], list[str]]


def write_report(folder: Path) -> Path:
    """Write a study's report into its folder; gives its path. Raises ConfigError where there is no study."""
    study = read_study(folder)
    path = study.folder / REPORT
    content = page(
        f"{study.name} – clsearch", question(study), answer(study), notes(study), parts_of(study), text.footer([study])
    )
    write_atomically(path, content.encode())
    return path


def write_comparison(folders: Sequence[Path], path: Path) -> Path:
    """Write a page that compares studies; gives its path. Raises ConfigError where one of them is none."""
    studies = [read_study(folder) for folder in folders]
    names = ", ".join(study.name for study in studies)
    content = page(f"{names} – clsearch", names, [], [], comparison_parts(studies), text.footer(studies))
    write_atomically(path, content.encode())
    return path


def parts_of(study: Reading) -> list[Part]:
    """The sections of a study's report, in their order."""
    shown = [picture(study, *of) for of in PICTURES]
    place = [part.id for part in shown].index("matrix") + 1
    return [*shown[:place], *unlearning(study), *shown[place:], cost(study), reproduction(study)]


def figures_of(study: Reading) -> dict[str, go.Figure]:
    """The report's pictures by the names of their sections; without those that there is nothing for."""
    found = {name: draw(study) for name, _, draw, _ in PICTURES} | {"cost": workers(study)}
    return {name: figure for name, figure in found.items() if figure is not None}


def picture(study: Reading, name: str, title: str, draw: Draw, say: Say) -> Part:
    """A section with one picture, or with why there is none."""
    figure = draw(study)
    return Part(name, title, missing(study, name) if figure is None else say(study), drawn(figure, name))


def cost(study: Reading) -> Part:
    """What the study cost: a table, and what each worker did when."""
    figure, rows = workers(study), text.seconds_table(study)
    lines = [*text.of_cost(study), *([] if figure is None else text.of_workers(study))]
    table = Table(("training", "number", "median (s)", "longest (s)", "sum (s)"), rows)
    return Part("cost", "Cost", lines, drawn(figure, "cost"), [table] if rows else [])


def reproduction(study: Reading) -> Part:
    """How to get the same again."""
    table = Table((), text.made_with(study))
    return Part("again", "How to reproduce", text.of_again(study), (), [table], text.commands(study))


def importance_in(study: Reading) -> dict[str, float]:
    """The importance of each hyperparameter, as the end of the search left it, since it takes seconds for hundreds of
    trials; of a search that has not ended, by Optuna's journal.
    """
    if study.best.get("trials", {}).get("finished", 0) == len(study.in_state("finished")):
        return dict(study.best.get("importance", {}))
    path = study.folder / JOURNAL
    if not path.exists():
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(path)))
    names = optuna.get_all_study_names(storage)
    return importances(optuna.load_study(study_name=names[0], storage=storage)) if names else {}


PICTURES: list[tuple[str, str, Draw, Say]] = [
    ("response", "Response surface", response, text.of_response),
    (
        "importance",
        "Importance of the hyperparameters",
        lambda study: importance(importance_in(study)),
        text.of_importance,
    ),
    ("tasks", "Accuracy of each task", course, text.of_course),
    ("forgetting", "Forgetting", forgetting, text.of_forgetting),
    ("matrix", "Accuracy matrix", heat_map, text.of_matrix),
    ("trade-off", "Accuracy against forgetting", trade_off, text.of_trade_off),
    ("optimism", "Optimism of the selection", optimism, text.of_optimism),
    ("parallel", "All trials at once", parallel, text.of_parallel),
]
"""The sections with a picture, in their order: name, title, what draws it, what says what to see."""
