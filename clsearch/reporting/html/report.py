"""Write results/<study>/report.html, and the page that compares several studies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import plotly.graph_objects as go

from clsearch.common.files import write_atomically
from clsearch.records.study_record import StudyRecord, read_study
from clsearch.reporting import captions, provenance_text
from clsearch.reporting.answer_text import explain_missing_picture, write_answer, write_notes, write_question
from clsearch.reporting.file_names import COMPARISON_REPORT, REPORT
from clsearch.reporting.html.comparison import make_comparison_sections
from clsearch.reporting.html.page import Section, Table, figure_to_html, render_page
from clsearch.reporting.html.response_plots import plot_response
from clsearch.reporting.html.search_plots import (
    plot_importance,
    plot_optimism,
    plot_parallel,
    plot_trade_off,
    plot_workers,
)
from clsearch.reporting.html.task_plots import plot_forgetting, plot_matrix, plot_tasks
from clsearch.reporting.html.unlearning import make_unlearning_sections
from clsearch.reporting.importances import Importances, compute_importances

__all__ = ["COMPARISON_REPORT", "REPORT", "make_figures", "write_comparison", "write_report"]

Plot = Callable[[StudyRecord], go.Figure | None]
Caption = Callable[[StudyRecord], list[str]]


def write_report(folder: Path) -> Path:
    """Write the report of a study into its folder.

    Returns:
        The path of the report.

    Raises:
        ConfigError: The folder holds no study.
    """
    study = read_study(folder)
    path = study.folder / REPORT
    content = render_page(
        f"{study.name} – clsearch",
        write_question(study),
        write_answer(study),
        write_notes(study),
        make_sections(study),
        provenance_text.write_footer([study]),
    )
    write_atomically(path, content.encode())
    return path


def write_comparison(folders: Sequence[Path], path: Path) -> Path:
    """Write a page that compares studies to `path` and return it. Raises ConfigError if a folder holds no study."""
    studies = [read_study(folder) for folder in folders]
    names = ", ".join(study.name for study in studies)
    footer = provenance_text.write_footer(studies)
    content = render_page(f"{names} – clsearch", names, [], [], make_comparison_sections(studies), footer)
    write_atomically(path, content.encode())
    return path


def make_sections(study: StudyRecord) -> list[Section]:
    """The sections of a study's report, in their order."""
    sections = [make_picture_section(study, *picture) for picture in list_pictures(study)]
    place = [section.id for section in sections].index("matrix") + 1
    last = [make_cost_section(study), make_reproduction_section(study)]
    return [*sections[:place], *make_unlearning_sections(study), *sections[place:], *last]


def make_figures(study: StudyRecord) -> dict[str, go.Figure]:
    """The pictures of the report by the names of their sections, without those that have nothing to show."""
    figures = {name: plot(study) for name, _, plot, _ in list_pictures(study)} | {"cost": plot_workers(study)}
    return {name: figure for name, figure in figures.items() if figure is not None}


def make_picture_section(study: StudyRecord, name: str, title: str, plot: Plot, caption: Caption) -> Section:
    """A section with one picture and its caption, or with the reason why there is none."""
    figure = plot(study)
    lines = explain_missing_picture(study, name) if figure is None else caption(study)
    return Section(name, title, lines, figure_to_html(figure, name))


def make_cost_section(study: StudyRecord) -> Section:
    """The cost of the study: a table, and a timeline of the workers."""
    figure, rows = plot_workers(study), provenance_text.make_seconds_rows(study)
    lines = provenance_text.describe_cost(study)
    if figure is not None:
        lines += captions.caption_workers(study)
    table = Table(("training", "number", "median (s)", "longest (s)", "sum (s)"), rows)
    return Section("cost", "Cost", lines, figure_to_html(figure, "cost"), [table] if rows else [])


def make_reproduction_section(study: StudyRecord) -> Section:
    """The commands that reproduce the study, and what it was made with."""
    table = Table((), provenance_text.make_provenance_rows(study))
    lines, commands = provenance_text.explain_commands(study), provenance_text.list_commands(study)
    return Section("again", "How to reproduce", lines, (), [table], commands)


def read_importances(study: StudyRecord) -> Importances:
    """The importance of each hyperparameter, from best.json; computed from the trials if the search goes on.

    The computation takes seconds for hundreds of trials, so the end of a search stores its result.
    """
    if study.best.get("trials", {}).get("finished", 0) == len(study.in_state("finished")):
        return Importances.from_json(study.best)
    return compute_importances(study.trials, study.space, study.objective)


def list_pictures(study: StudyRecord) -> list[tuple[str, str, Plot, Caption]]:
    """The sections with a picture, in order: name, title, function that plots, function that writes the caption."""
    importances = read_importances(study)
    return [
        ("response", "Response surface", plot_response, captions.caption_response),
        (
            "importance",
            "Importance of the hyperparameters",
            lambda study: plot_importance(study.space, importances),
            lambda study: captions.caption_importance(study, importances),
        ),
        ("tasks", "Accuracy of each task", plot_tasks, captions.caption_tasks),
        ("forgetting", "Forgetting", plot_forgetting, captions.caption_forgetting),
        ("matrix", "Accuracy matrix", plot_matrix, captions.caption_matrix),
        ("trade-off", "Accuracy against forgetting", plot_trade_off, captions.caption_trade_off),
        ("optimism", "Optimism of the selection", plot_optimism, captions.caption_optimism),
        ("parallel", "All trials at once", plot_parallel, captions.caption_parallel),
    ]
