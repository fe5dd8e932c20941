"""Render a self-contained HTML page: styles, figures and the plotting library; it works offline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import plotly.graph_objects as go
import plotly.io
from plotly.offline import get_plotlyjs

TEMPLATE = "report.html"

PLOTLY_CONFIG: dict[str, Any] = {
    "displaylogo": False,
    "responsive": True,
    "modeBarButtonsToRemove": ["select2d", "lasso2d"],
}


@dataclass(frozen=True)
class Table:
    """A table of a page; without a head its rows are (name, value)."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """A section of a page.

    Attributes:
        id: Name of its anchor.
        title: Heading.
        lines: Paragraphs: captions, or why there is no picture.
        figures: Figures as HTML.
        tables: Tables.
        code: Commands.
    """

    id: str
    title: str
    lines: Sequence[str] = ()
    figures: Sequence[str] = ()
    tables: Sequence[Table] = ()
    code: Sequence[str] = ()


def render_page(
    title: str, heading: str, answer: Sequence[str], notes: Sequence[str], sections: Sequence[Section], footer: str
) -> str:
    """Render a page. answer, notes: paragraphs before its sections."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("clsearch.reporting.html"), autoescape=True, trim_blocks=True
    )
    return environment.get_template(TEMPLATE).render(
        title=title,
        heading=heading,
        answer=answer,
        notes=notes,
        sections=sections,
        footer=footer,
        plotly=get_plotlyjs(),
    )


def figure_to_html(figure: go.Figure | None, name: str) -> list[str]:
    """A figure as HTML without the plotting library, which the page includes once; nothing for None."""
    if figure is None:
        return []
    return [
        plotly.io.to_html(
            figure, full_html=False, include_plotlyjs=False, config=PLOTLY_CONFIG, div_id=f"figure-{name}"
        )
    ]
