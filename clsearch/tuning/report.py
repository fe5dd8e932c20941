"""results/<study>/report.html: one file that shows a study, from disk, without a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import optuna
import plotly.graph_objects as go
import plotly.io
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from plotly.offline import get_plotlyjs

from clsearch.core.files import write_atomically
from clsearch.tuning import report_text as text
from clsearch.tuning.reading import Reading, read_study
from clsearch.tuning.report_answer import answer, missing, notes, question
from clsearch.tuning.response_plots import response
from clsearch.tuning.search import JOURNAL
from clsearch.tuning.search_plots import importance, optimism, parallel, trade_off, workers
from clsearch.tuning.task_plots import course, forgetting, heat_map

REPORT = "report.html"

Draw = Callable[[Reading], go.Figure | None]
Say = Callable[[Reading], list[str]]

SHOWN: dict[str, Any] = {"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": ["select2d", "lasso2d"]}


@dataclass(frozen=True)
class Table:
    """A table of the page."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Part:
    """A section of the page. lines: what to see in it, or why there is nothing."""

    id: str
    title: str
    lines: Sequence[str] = ()
    figures: Sequence[str] = ()
    tables: Sequence[Table] = ()
    code: Sequence[str] = ()


def write_report(folder: Path) -> Path:
    """Write a study's report into its folder; gives its path. Raises ConfigError where there is no study."""
    path = folder / REPORT
    write_atomically(path, page(read_study(folder)).encode())
    return path


def page(study: Reading) -> str:
    """A study's report."""
    loader = jinja2.PackageLoader("clsearch.tuning")
    template = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True).get_template(REPORT)
    return template.render(
        title=f"{study.name} – clsearch",
        heading=question(study),
        answer=answer(study),
        notes=notes(study),
        parts=parts_of(study),
        plotly=get_plotlyjs(),
        footer=text.footer(study),
    )


def parts_of(study: Reading) -> list[Part]:
    """The sections of a study's report, in their order."""
    trials = journal_of(study)
    pictures: list[tuple[str, str, Draw, Say]] = [
        ("response", "Response surface", response, text.of_response),
        ("importance", "Importance of the hyperparameters", partial(importance, trials=trials), text.of_importance),
        ("tasks", "Accuracy of each task", course, text.of_course),
        ("forgetting", "Forgetting", forgetting, text.of_forgetting),
        ("matrix", "Accuracy matrix", heat_map, text.of_matrix),
        ("trade-off", "Accuracy against forgetting", trade_off, text.of_trade_off),
        ("optimism", "Optimism of the selection", optimism, text.of_optimism),
        ("parallel", "All trials at once", parallel, text.of_parallel),
    ]
    return [*(picture(study, *of) for of in pictures), cost(study), reproduction(study)]


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


def drawn(figure: go.Figure | None, name: str) -> list[str]:
    """A figure as HTML, without the library, which the page has once."""
    if figure is None:
        return []
    return [plotly.io.to_html(figure, full_html=False, include_plotlyjs=False, config=SHOWN, div_id=f"figure-{name}")]


def journal_of(study: Reading) -> optuna.Study | None:
    """A study's trials as Optuna has them; None without any."""
    path = study.folder / JOURNAL
    if not path.exists():
        return None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(path)))
    names = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=names[0], storage=storage) if names else None
