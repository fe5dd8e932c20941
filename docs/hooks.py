"""What `make docs` adds to docs/: pages of other folders, tables of keywords, commands' help, checks of addresses."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from enum import Enum
from pathlib import Path
from posixpath import normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]

PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "benchmarks.md",
}
"""Files outside docs/ -> their pages in the site."""

LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
HELP = re.compile(r"^```help\n(.+?)\n```$", re.MULTILINE | re.DOTALL)
SETTINGS = re.compile(r"^```settings\n(.+?)\n```$", re.MULTILINE)
FROM_ELSEWHERE = re.compile(r"<(?:script|img|iframe)[^>]+src=\"?(?:https?:)?//|<link[^>]+href=\"?(?:https?:)?//")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Leave out of the navigation what this checkout does not have, as a source distribution may not."""
    missing = {page for source, page in PAGES.items() if not (ROOT / source).exists()}
    for section in config.nav or []:
        for title, pages in section.items():
            if isinstance(pages, list):
                section[title] = [page for page in pages if isinstance(page, str) or not missing & {*page.values()}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are kept outside docs/."""
    for source, page in PAGES.items():
        if (ROOT / source).exists():
            files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to the site's pages, and fill in tables of keywords and the help of commands."""
    sources = {name: source for source, name in PAGES.items()}
    if page.file.src_uri == "index.md":
        page.meta["hide"] = ["navigation"]
    source = sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    linked = LINK.sub(lambda link: _led(link, source, page.file.src_uri), markdown)
    linked = SETTINGS.sub(lambda block: _tabulate_settings(block[1]), linked)
    return HELP.sub(lambda block: _help_of(block[1]), linked)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuse a page that would load something from another host."""
    if found := FROM_ELSEWHERE.search(output):
        raise PluginError(f"{page.file.src_uri}: loads from elsewhere: {output[found.start() : found.end() + 60]}")
    return output


def _led(link: re.Match[str], source: str, page: str) -> str:
    """A link of a file of the repository as the site has it; to a file that is not in the site, its text alone."""
    mark, text, target, heading = link.groups()
    path = normpath(f"{source.rpartition('/')[0] or '.'}/{target}")
    if "://" in target or not (ROOT / path).exists():
        return link[0]
    if path not in PAGES and not path.startswith("docs/"):
        return text
    own = PAGES.get(path, path.removeprefix("docs/"))
    return f"{mark}[{text}]({relpath(own, page.rpartition('/')[0] or '.')}{heading or ''})"


def _tabulate_settings(name: str) -> str:
    """The keywords of a TypedDict of settings as a table: name, meaning, bounds, default."""
    import clsearch
    from clsearch.methods.registry import known_fields
    from clsearch.planning.option_groups import describe_bounds
    from clsearch.planning.options import Options

    fields = Options.model_fields | known_fields()
    rows = ["| keyword | meaning | bounds | default |", "|---|---|---|---|"]
    for keyword in getattr(clsearch, name).__annotations__:
        field = fields[keyword]
        default = "" if field.default is None or field.is_required() else f"`{_to_text(field.default)}`"
        cells = (f"`{keyword}`", field.description or "", describe_bounds(field), default)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _to_text(default: object) -> str:
    """A default as it is written in a script."""
    if isinstance(default, Enum):
        return repr(default.value)
    if isinstance(default, tuple):
        return f"({', '.join(map(_to_text, default))}{',' * (len(default) == 1)})"
    return repr(str(default)) if isinstance(default, Path) else repr(default)


def _help_of(command: str) -> str:
    """What a command prints with --help, as a block."""
    program, *words = shlex.split(command)
    start = [sys.executable, "-m", "clsearch"] if program == "clsearch" else [sys.executable]
    environment = os.environ | {"COLUMNS": "84", "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*start, *words, "--help"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    lines = [line.rstrip() for line in done.stdout.strip().splitlines()]
    return "\n".join(["```text", f"$ {command} --help", *lines, "```"])
