"""README.md and docs/: commands do what they say, links lead somewhere, code runs."""

from __future__ import annotations

import contextlib
import io
import re
import runpy
import shlex
import shutil
from pathlib import Path

import pandas as pd
import pytest

from clsearch import SPACES, Study
from clsearch.cli.main import main
from clsearch.planning.search_fields import NOT_SEARCHED
from tests.builders import write_images
from tests.integration.servers import Served

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

SMALL = ["--epochs", "1", "--hidden", "16"]
"""What makes any study of the digits a matter of seconds."""


def fenced(page: Path, language: str = "") -> list[str]:
    """The blocks of a page in a language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [body for name, body in found if name == language]


def commands(page: Path) -> list[str]:
    """The commands of a page that call what is in .venv, without comments."""
    lines = "\n".join([*fenced(page), *fenced(page, "bash")]).replace("\\\n", " ").splitlines()
    shell = [line.removeprefix("$ ") for line in lines if line.startswith((".venv/bin/", "$ .venv/bin/"))]
    return [part.strip() for line in shell for part in re.split(r"\s#|&&", line) if part.strip().startswith(".venv")]


def studies_of(page: Path) -> list[str]:
    return [command for command in commands(page) if "/python studies/" in command]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]*#?[^)]*)\)", page.read_text(encoding="utf-8")):
        path, _, heading = target.partition("#")
        if path.startswith("http"):
            continue
        file = (page.parent / path) if path else page
        assert file.exists(), target
        if heading:
            heads = re.findall(r"^#+ (.*)", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads], (
                target
            )


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=name_of)
def test_a_page_begins_with_what_the_reader_can_do_after_it(page: Path) -> None:
    first = page.read_text(encoding="utf-8").split("\n\n")[1]
    assert first.startswith("After this page you "), first


PAGE_OF = {name: "amnesiac" if name.startswith("amnesiac_") else name for name in SPACES}
"""Method -> its page in docs/methods/."""


@pytest.mark.parametrize("method", SPACES)
def test_each_method_has_a_page_with_its_hyperparameters_and_their_ranges(method: str) -> None:
    text = (DOCS / "methods" / f"{PAGE_OF[method]}.md").read_text(encoding="utf-8")
    assert f"`{method}`" in (DOCS / "methods" / "index.md").read_text(encoding="utf-8")
    if PAGE_OF[method] == "amnesiac":  # whose page names those of the method within
        assert f"`{method}`" in text
        return
    for name, values in SPACES[method].items():
        low, high = re.search(rf"`{name}`[^`]*?([\d.e-]+) to ([\d.e-]+)", text).groups()
        assert (float(low), float(high)) == (values.low, values.high), name


@pytest.mark.parametrize("page", sorted(DOCS.glob("methods/[!i]*.md")), ids=name_of)
def test_pages_of_methods_have_the_same_sections(page: Path) -> None:
    heads = re.findall(r"^## (.*)", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert [head.partition(" from ")[0] for head in heads] == [
        "Hyperparameters",
        "Logged metrics",
        "Cost",
        "Differences",
        "Run it",
    ]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that has what the commands of the pages name, as if it were a checkout."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "photos", ("cats", "dogs", "cars", "planes", "ships"), count=10, side=32, mode="RGB")
    (tmp_path / "tasks.txt").write_text("cats, dogs\ncars, planes, ships\n")
    return tmp_path


ELSEWHERE = {
    "--data-root": "torchvision's files are read in test_images",
    "--enqueue known.yaml": "test_known",
    "--warm-start": "test_known",
    " --all": "further seeds of a study that exists: test_known",
    "--gpus-per-trial": "shares of GPUs are given in test_resources",
}
ALL = {command: name_of(page) for page in PAGES for command in studies_of(page)}
"""Command -> a page that has it."""

FIRST_STEPS = "docs/getting-started.md"  # whose commands run below


@pytest.mark.parametrize(
    "command", [c for c, page in ALL.items() if page != FIRST_STEPS and not any(mark in c for mark in ELSEWHERE)]
)
def test_a_studys_command_would_do_what_it_says(place: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    """What it would do is found by training a little, on the CPU, since there is no GPU here."""
    _, script, *args = shlex.split(command)
    made = runpy.run_path(str(ROOT / script))
    with pytest.raises(SystemExit) as ended:
        made.get("study", made.get("comparison")).main([*args, *SMALL, "--device", "cpu", "--dry-run"])
    said = capsys.readouterr()
    assert ended.value.code == 0, said.err
    assert "task-seed trainings" in said.out


@pytest.mark.system
def test_the_first_steps_can_be_followed_in_their_order(place: Path, run_here, capsys) -> None:
    """With less training; the commands themselves are the page's."""
    for command in commands(ROOT / FIRST_STEPS):
        if "_ewc" in command:  # below
            continue
        words, _, target = command.partition(" > ")
        program, *args = shlex.split(words)
        if program.endswith("/clsearch"):
            capsys.readouterr()
            assert main(args) == 0, command
            said = capsys.readouterr().out
        else:
            done = run_here(args[0], *args[1:], *SMALL, "--max-concurrent", "1")
            assert done.returncode == 0, (command, done.stderr)
            said = done.stdout
        if target:
            Path(target).write_text(said)
    for name, trials in {"first": 12, "from_file": 8, "best_on_ten": 1}.items():
        assert list(pd.read_csv(place / "results" / name / "trials.csv").state) == ["finished"] * trials
    assert Study.open("results/best_on_ten").best.seeds == tuple(range(10))


@pytest.mark.system
def test_what_looks_at_a_study_does_what_the_pages_say(place: Path, run_here, server: Served, capsys) -> None:
    """On a small study of the name that the pages have; of others, a copy of it."""
    args = ["--trials", "15", "--seeds", "2", "--report-seeds", "2", *SMALL]
    done = run_here("studies/lwf_temperature_sweep.py", *args)
    assert done.returncode == 0, done.stderr
    for name in ("ewc_penalty_sweep", "lwf_vs_ewc-lwf", "lwf_vs_ewc-ewc"):
        shutil.copytree("results/lwf_temperature_sweep", f"results/{name}")
    looks = [c for page in PAGES if name_of(page) != FIRST_STEPS for c in commands(page) if " studies/" not in c]
    assert len(looks) >= 10
    for command in looks:
        program, *words = shlex.split(command.replace("http://127.0.0.1:5000", server[0]))
        capsys.readouterr()
        if program.endswith("/clsearch"):
            assert main(words) in ((0, 1) if words == ["doctor"] else (0,)), command
        else:
            script = runpy.run_path(str(ROOT / words[0]))
            script["main"](script["Options"](*map(Path, words[1:])))
        assert capsys.readouterr().out, command
    assert Path("compared.html").exists()
    for page in ("past_studies", "api/results", "api/records"):
        for block in fenced(DOCS / f"{page}.md", "python"):
            exec(block, {})  # the page's own code


@pytest.mark.parametrize("page", ["comparison", "methods/finetuning", "unlearning", "api/spaces", "api/metrics"])
def test_code_that_trains_nothing_by_itself_runs(page: str) -> None:
    for block in fenced(DOCS / f"{page}.md", "python"):
        exec(block, {"__name__": page})


def test_the_readmes_lines_of_python_run(place: Path, ray_session: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With less training."""
    (block,) = fenced(ROOT / "README.md", "python")
    made: dict = {}
    exec(block.replace("epochs=10", "epochs=1, trials=3, seeds=1, hidden=(8,), report_seeds=2"), made)
    assert made["result"].trials.shape[0] == 3
    assert made["result"].answer in capsys.readouterr().out


def test_an_algorithm_of_ones_own_is_searched_and_finally_evaluated_in_the_workers(results: Path, run_here) -> None:
    args = ["--trials", "3", "--seeds", "2", "--report-seeds", "2", "--tasks", "3", "--results", str(results)]
    done = run_here("studies/plain_l2.py", *args, *SMALL)
    assert done.returncode == 0, done.stderr
    found = Study.open(results / "plain_l2")
    assert list(found.trials.state) == ["finished"] * 3
    assert found.final is not None
    assert [row.algorithm for row in found.final.rows] == ["plain_l2", "finetuning"]
    assert found.answer.startswith("plain l2 with penalty factor ")


def test_a_method_with_settings_of_its_own_is_searched_in_groups_of_equal_structure(results: Path, run_here) -> None:
    space = ["--strength", "1e-4", "1", "--window", "1", "3", "--norm", "l1", "l2", "--cohort", "3"]
    args = [*space, "--trials", "4", "--seeds", "1", "--report-seeds", "2", "--results", str(results)]
    done = run_here("studies/own_settings.py", *args, *SMALL)
    assert done.returncode == 0, done.stderr
    found = Study.open(results / "own_settings").trials
    assert list(found.state) == ["finished"] * 4
    assert {*found.norm} <= {"l1", "l2"}
    assert found.window.between(1, 3).all()
    assert str(found.window.dtype) == "Int64"


def test_the_page_of_the_own_algorithm_has_the_scripts(place: Path) -> None:
    block, own = fenced(DOCS / "custom_method.md", "python")
    page, script = {}, runpy.run_path(str(ROOT / "studies" / "plain_l2.py"))
    exec(block, page)
    exec(own, page)
    for method in ("prepare", "remember"):
        told, real = (getattr(of["PlainL2"], method).__code__ for of in (page, script))
        assert (told.co_code, told.co_names) == (real.co_code, real.co_names)


@pytest.mark.system
def test_the_script_and_the_notebook_of_the_first_steps_run(place: Path, ray_session: str, capsys) -> None:
    script, notebook = fenced(ROOT / FIRST_STEPS, "python")
    (place / "wide_ewc.py").write_text(script)
    for more in ([], ["--hidden", "8", "--name", "narrow_ewc"]):
        study = runpy.run_path(str(place / "wide_ewc.py"))["study"]
        with pytest.raises(SystemExit) as ended:
            study.main(["--trials", "4", "--seeds", "1", "--hidden", "16", "--epochs", "1", "--no-final", *more])
        assert ended.value.code == 0
    (compared,) = [c for c in commands(ROOT / FIRST_STEPS) if "widths.html" in c]
    assert main(shlex.split(compared)[1:]) == 0
    assert (place / "widths.html").exists()
    found: dict = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(notebook, found)  # the page's own code
    assert found["study"].trials.shape[0] == 4
    assert found["study"].matrix(3).shape == (1, 4, 3)


def test_the_page_of_hyperparameters_names_what_cannot_be_searched() -> None:
    text = (DOCS / "hyperparameters.md").read_text(encoding="utf-8")
    section = text.partition("## What cannot be searched")[2].partition("\n## ")[0]
    named = {
        name for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    assert named == {*NOT_SEARCHED}


def test_the_space_of_the_page_in_python_and_yaml_is_one_space(tmp_path: Path) -> None:
    page = DOCS / "hyperparameters.md"
    blocks = [block for block in fenced(page, "python") if "When(" in block]
    (written,) = fenced(page, "yaml")
    (tmp_path / "space.yml").write_text(written, encoding="utf-8")
    study = runpy_text(blocks[0].replace('name="optimizers"', 'name="optimizers", seeds=1'))["study"]
    found = study.plan_for(["--space", str(tmp_path / "space.yml")])
    assert found.space == study.plan.space


def runpy_text(code: str) -> dict[str, object]:
    """Run a block of code, and return its names."""
    names: dict[str, object] = {"__name__": "page"}
    exec(compile(code, "page", "exec"), names)
    return names
