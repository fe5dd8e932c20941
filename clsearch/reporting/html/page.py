"""A page that holds everything: styles, pictures, the library that draws them; it needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import plotly.graph_objects as go
import plotly.io
from plotly.offline import get_plotlyjs

TEMPLATE = "report.html"

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


def page(
    title: str, heading: str, answer: Sequence[str], notes: Sequence[str], parts: Sequence[Part], footer: str
) -> str:
    """The HTML of a page. answer, notes: paragraphs before its sections."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("clsearch.reporting.html"), autoescape=True, trim_blocks=True
    )
    return environment.get_template(TEMPLATE).render(
        title=title, heading=heading, answer=answer, notes=notes, parts=parts, footer=footer, plotly=get_plotlyjs()
    )


def drawn(figure: go.Figure | None, name: str) -> list[str]:
    """A figure as HTML, without the library, which the page has once."""
    if figure is None:
        return []
    return [plotly.io.to_html(figure, full_html=False, include_plotlyjs=False, config=SHOWN, div_id=f"figure-{name}")]
