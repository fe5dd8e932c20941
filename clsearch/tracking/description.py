"""Describe a study in Markdown for MLflow's user interface."""

from __future__ import annotations

from clsearch.config.space_parts import show_conditions
from clsearch.records.study_record import StudyRecord
from clsearch.reporting.answer_text import write_answer, write_notes, write_question
from clsearch.reporting.provenance_text import list_commands, make_provenance_rows


def note_of(study: StudyRecord) -> str:
    """Write the question, the present answer, the searched ranges, and the commands that reproduce the study."""
    space = [[f"`{part.name}`", f"{part.domain}{show_conditions(part)}"] for part in study.space.parts]
    parts = [f"**{write_question(study).strip()}**", *write_answer(study), *write_notes(study)]
    parts += [table(["searched", "range"], space)] * bool(space)
    parts += [table(["", ""], make_provenance_rows(study))]
    parts += ["```\n" + "\n".join(own) + "\n```"] if (own := list_commands(study)) else []
    return "\n\n".join(parts)


def table(head: list[str], rows: list[list[str]]) -> str:
    """Make a table in Markdown."""
    lines = [" | ".join(cell.replace("|", "&#124;") for cell in line) for line in [head, ["---"] * len(head), *rows]]
    return "\n".join(f"| {line} |" for line in lines)
