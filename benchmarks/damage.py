"""Test that no damaged file changes a number, loses another file or ends in a traceback.

    python benchmarks/damage.py

Makes small studies, then damages each kind of file that is read back in each way (cut, empty, garbage, one bit, a
missing key, a wrong type, missing, a folder in its place), and runs every command that reads it: the study itself,
list, show, best, report, rerun and sync. Prints a table of what happened: refused by name, named and left out, mended,
unaffected. The exit code is 1 if a command raised, changed a number without naming the file, or changed another file.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from clsearch import LogRange, Study
from clsearch.cli.main import main as command_line
from clsearch.common.checked_files import header_of, read_checked, write_json
from clsearch.records.test_ledger import LEDGER
from clsearch.training.state import save_packed

NAME = "damaged"
"""The study's name."""

DAMAGES = ("cut", "empty", "garbage", "one bit", "missing key", "wrong type", "missing", "folder")

KEYS = {
    "study.json": "space",
    "best.json": "values",
    "final.json": "seeds",
    "record.json": "accuracy",
    "attempts.json": "attempts",
    LEDGER: "data",
}
"""A key of each JSON file, which is removed or gets another type."""

GOOD = ("unaffected", "mended", "named, left out", "refused by name")
"""What may happen."""


@dataclass
class Options:
    files: tuple[str, ...] = ()
    """Damage files whose path has one of these words; by default all."""
    damages: tuple[str, ...] = DAMAGES
    """Kinds of damage."""
    commands: tuple[str, ...] = ("study", "list", "show", "best", "report", "rerun", "sync")
    """Commands to run."""


def damage(path: Path, kind: str, moments: random.Random) -> None:
    """Damage a file."""
    content = path.read_bytes()
    if kind == "missing" or kind == "folder":
        path.unlink()
        if kind == "folder":
            path.mkdir()
            (path / "within").write_text("something of the user's")
    elif kind in ("missing key", "wrong type"):
        path.write_bytes(_without_key(path, content) if kind == "missing key" else _of_wrong_type(path, content))
    else:
        bit = moments.randrange(8 * len(content))
        flipped = content[: bit // 8] + bytes([content[bit // 8] ^ 1 << bit % 8]) + content[bit // 8 + 1 :]
        changed = {"cut": content[: len(content) // 2], "empty": b"", "garbage": moments.randbytes(len(content))}
        path.write_bytes(changed.get(kind, flipped))


def _without_key(path: Path, content: bytes) -> bytes:
    """A JSON file of 0.1, which has no digest, without a key; a table without a column; a whole torch file likewise."""
    if path.suffix == ".pt":
        found = torch.load(io.BytesIO(read_checked(path)), weights_only=True)
        return _packed({name: value for name, value in found.items() if name != "params"})
    if path.suffix == ".csv":
        return b"".join(line.rpartition(b",")[0] + b"\n" for line in content.splitlines())
    if path.suffix == ".journal":
        return content.replace(b'"op_code"', b'"other"', 1)
    return _each_json(path, content, lambda found: {n: v for n, v in found.items() if n != KEYS[path.name]})


def _of_wrong_type(path: Path, content: bytes) -> bytes:
    if path.suffix == ".pt":
        return _packed([1, 2, 3])
    if path.suffix == ".csv":
        head, _, rest = content.partition(b"\n")
        return head + b"\n" + rest.replace(b"0.", b"x.")
    if path.suffix == ".journal":
        return b"[1]\n" + content
    return _each_json(path, content, lambda found: found | {KEYS[path.name]: 7})


def _packed(content: object) -> bytes:
    torch.save(content, buffer := io.BytesIO())
    return header_of(buffer.getvalue()) + buffer.getvalue()


def _each_json(path: Path, content: bytes, change: Callable[[dict[str, Any]], dict[str, Any]]) -> bytes:
    """Change the object of a JSON file, or of the first line of the ledger, and remove its digest."""
    first, rest = content.split(b"\n", 1) if path.name == LEDGER else (content, b"")
    found = {name: value for name, value in json.loads(first).items() if name not in ("format", "digest")}
    return json.dumps(change(found)).encode() + b"\n" + rest


def sweep(results: Path, **settings: Any) -> Study:
    """Make a study of short trials."""
    space = {"distillation_factor": LogRange(1e-2, 1e2), "distillation_temperature": LogRange(0.5, 5)}
    own = {"hidden": (12,), "tasks": 3, "epochs": 1, "seeds": 2, "report_seeds": 2, "results": results, "name": NAME}
    return Study(algorithm="lwf", space=settings.pop("space", space), **(own | settings))


def search_study(results: Path) -> Study:
    """Make a study that searches, with a reference."""
    return sweep(results, trials=4, references=("finetuning",))


def continual_study(results: Path) -> Study:
    """Make a study that chooses task by task."""
    rates: dict[str, Any] = {"learning_rates": (0.05, 0.2)}
    return sweep(results, space={"distillation_factor": LogRange(1e-2, 1e2)}, protocol="continual", **rates)


@dataclass(frozen=True)
class Done:
    """What a command did: its exit code (None: it raised) and its output."""

    code: int | None
    text: str


def run_captured(call: Callable[[], Any]) -> Done:
    """Run a command in this process."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            code = call()
        except SystemExit as ended:
            code = int(ended.code or 0)
        except Exception:
            traceback.print_exc()
            code = None
    return Done(code, output.getvalue())


def run_apart(*words: str) -> Done:
    """Run a command in a process of its own: MLflow keeps a database open, which is then another file."""
    done = subprocess.run([sys.executable, "-m", "clsearch", *words], capture_output=True, text=True, check=False)
    text = done.stdout + done.stderr
    return Done(None if "Traceback" in text else done.returncode, text)


def readers(results: Path, trial: str) -> dict[str, Callable[[], Done]]:
    """Return the commands that read a study, by name."""
    folder = str(results / NAME)

    def run(*words: str) -> Done:
        done = run_captured(lambda: command_line(list(words)))
        if words[0] == "report" and done.code == 0:  # what it says is in its page
            return Done(0, done.text + (results / NAME / "report.html").read_text())
        return done

    return {
        "list": lambda: run("list", str(results)),
        "show": lambda: run("show", folder),
        "best": lambda: run("best", folder),
        "report": lambda: run("report", folder),
        "rerun": lambda: run("rerun", folder, "--trial", trial),
        "sync": lambda: run_apart("sync", folder),
    }


def is_named(file: Path, text: str) -> bool:
    """Return True if a text says what is wrong with a file: `.../record.json: must be a whole file, ...`."""
    return f"{file.name}:" in "".join(text.split()) or f"no {file.name}" in text  # a terminal breaks lines anywhere


def judge(done: Done, whole: Done, file: Path) -> str:
    """Say what a command that reads did with a damaged file. whole: what it did with the whole one."""
    if done.code is None:
        return "TRACEBACK"
    named = is_named(file, done.text)
    if done.code != whole.code:
        return "refused by name" if done.code == 2 and named else f"EXIT CODE {done.code}"
    if done.text == whole.text:
        return "unaffected"
    return "named, left out" if named else "CHANGED"


def contents(results: Path) -> dict[str, bytes]:
    """Return the files of a results folder that must not change when it is read."""
    left_out = ("report.html", "mlflow.db", "mlartifacts", ".lock")
    files = (path for path in sorted(results.rglob("*")) if path.is_file())
    return {
        name: path.read_bytes()
        for path in files
        if not any(word in (name := path.relative_to(results).as_posix()) for word in left_out)
    }


def numbers(results: Path) -> dict[str, Any]:
    """Return the results of a study: R and metrics of each trial, the choice, the final evaluation."""
    folder, found = results / NAME, {}
    for path in sorted(folder.glob("trials/*/record.json")):
        content = json.loads(path.read_text())
        found[path.parent.name] = [content[key] for key in ("state", "values", "accuracy", "metrics", "seeds")]
    best, final = (json.loads((folder / name).read_text()) for name in ("best.json", "final.json"))
    found["best"] = [best.get(key) for key in ("label", "values", "config", "metrics", "per_task", "scores")]
    found["final"] = [final["choice"], *([row["test"], row["validation"], row["config"]] for row in final["rows"])]
    return found


def openings(results: Path) -> list[bytes]:
    path = results / LEDGER
    return path.read_bytes().splitlines() if path.is_file() else []


def judge_study(done: Done, results: Path, pristine: Path, file: Path) -> str:
    """Say what the study itself did with a damaged file."""
    relative = file.relative_to(results)
    if done.code is None or "Traceback" in done.text:
        return "TRACEBACK"
    named = is_named(file, done.text)
    if done.code == 2:
        before, after = contents(pristine), contents(results)
        own = {name for name in {*before, *after} if name.startswith(relative.as_posix())}
        kept = all(after.get(name) == before.get(name) for name in {*before, *after} - own)
        return "refused by name" if named and kept else "LOST" if named else "REFUSED WITHOUT NAME"
    if done.code != 0:
        return f"EXIT CODE {done.code}"
    if numbers(results) != EXPECTED[pristine]:
        return "CHANGED"
    if relative.name != LEDGER and openings(results)[: len(openings(pristine))] != openings(pristine):
        return "LOST"
    return "mended" if named else "unaffected"


EXPECTED: dict[Path, dict[str, Any]] = {}
"""The results of each undisturbed study."""


@contextlib.contextmanager
def copied(pristine: Path, results: Path) -> Iterator[None]:
    """Put a copy of a results folder at the place where it was made: paths in the output are the same."""
    shutil.rmtree(results, ignore_errors=True)
    shutil.copytree(pristine, results)
    yield


def make_pristine(place: Path, kind: str, make: Callable[[Path], Study]) -> Path:
    """Run a study undisturbed; return the copy of its results folder."""
    results, pristine = place / "results", place / kind
    shutil.rmtree(results, ignore_errors=True)
    done = run_captured(lambda: make(results).main([]))
    if done.code != 0:
        raise SystemExit(f"the {kind} study failed:\n{done.text}")
    results.rename(pristine)
    EXPECTED[pristine] = numbers(pristine)
    return pristine


def cut_off(place: Path, finished: Path) -> Path:
    """Make of a finished study one that was cut off after two tasks of its last trial."""
    from clsearch.records.trials import read_trials
    from clsearch.training.cohorts import initial_states, learn_together
    from clsearch.training.trial_setup import build_trials

    pristine = place / "cut off"
    shutil.copytree(finished, pristine)
    folder, plan = pristine / NAME, search_study(place / "results").plan
    label = chosen(pristine)
    record = read_trials(folder)[label]
    config = plan.trial_config(record.values)
    run = build_trials([config], plan.seeds, torch.device("cpu"), sequence=plan.tasks)
    (state,) = initial_states(run, [config])
    for _ in range(2):
        (state,) = learn_together(run, [state])
        state.save(folder / "trials" / label / "state.pt")
    rewrite(folder / "trials" / label / "record.json", state="unfinished", tasks_learned=2)
    rewrite(folder / "study.json", state="unfinished")
    EXPECTED[pristine] = EXPECTED[finished]
    return pristine


def cut_off_continual(place: Path, finished: Path) -> Path:
    """Make of a finished study by the continual protocol one that was cut off after two tasks."""
    from clsearch.data.datasets import training_data
    from clsearch.execution.continual import _attempt
    from clsearch.records.attempts import METHOD_PHASE, Decision, read_attempts

    pristine = place / "continual, cut off"
    shutil.copytree(finished, pristine)
    folder, plan = pristine / NAME, continual_study(place / "results").plan
    attempts, _ = read_attempts(folder, plan.seeds)
    state, data = None, training_data(plan.config.source, None)
    for attempt in [a for a in attempts if a.kept and a.phase == METHOD_PHASE][:2]:
        _, state = _attempt(
            torch.device("cpu"), plan.config, plan.seeds, data, state, attempt.values, False, -float("inf")
        )
        assert state is not None
        save_packed(folder / "continual.pt", state)
    left = Decision(tuple(attempt for attempt in attempts if attempt.task <= 2))
    rewrite(
        folder / "attempts.json",
        attempts=json.loads((folder / "attempts.json").read_text())["attempts"][: len(left.attempts)],
    )
    (folder / "attempts.csv").write_bytes(left.table(plan.seeds).to_csv(index=False).encode())
    rewrite(folder / "study.json", state="unfinished")
    EXPECTED[pristine] = EXPECTED[finished]
    return pristine


def rewrite(path: Path, **changes: Any) -> None:
    write_json(path, json.loads(path.read_text()) | changes)


def chosen(results: Path) -> str:
    return str(json.loads((results / NAME / "best.json").read_text())["label"])


def other_trial(results: Path) -> str:
    return next(
        path.name for path in sorted((results / NAME / "trials").glob("trial_*")) if path.name != chosen(results)
    )


def files_of(pristine: Path, kind: str) -> list[str]:
    """Return the files to damage in a results folder."""
    if kind == "continual":
        return [f"{NAME}/{name}" for name in ("study.json", "best.json", "attempts.json", "attempts.csv")]
    if kind == "continual, cut off":
        return [f"{NAME}/{name}" for name in ("continual.pt", "continual.previous.pt", "attempts.json", "attempts.csv")]
    trials = f"{NAME}/trials"
    if kind == "cut off":
        (first,) = pristine.glob(".prefixes/*.pt")
        states = [f"{trials}/{chosen(pristine)}/{name}" for name in ("state.pt", "state.previous.pt")]
        return [*states, first.relative_to(pristine).as_posix()]
    records = [
        f"{trials}/{label}/record.json" for label in (chosen(pristine), other_trial(pristine), "reference_finetuning")
    ]
    curve = f"{trials}/{chosen(pristine)}/learning_curve.csv"
    top = ("study.json", "best.json", "final.json", "final_accuracy.csv", "trials.csv", "optuna.journal")
    return [*(f"{NAME}/{name}" for name in top), *records, curve, LEDGER]


def shown(file: str, kind: str) -> str:
    """Return the name of a file in the table."""
    path = Path(file)
    name = (
        f"{path.parent.name}/{path.name}"
        if "trials/" in file
        else ".prefixes/*.pt"
        if ".prefixes" in file
        else path.name
    )
    return f"{name} ({kind})"


def examine(
    place: Path, kind: str, pristine: Path, make: Callable[[Path], Study], options: Options
) -> Iterator[tuple[str, str, str, str, str]]:
    """Damage each file of a study in each way; yield file, damage, command, what it did, and its output."""
    results = place / "results"
    whole: dict[str, Done] = {}
    for file in files_of(pristine, kind):
        if options.files and not any(word in file for word in options.files):
            continue
        trial = Path(file).parent.name if file.endswith("record.json") else chosen(pristine)
        finished, ledger = "cut off" not in kind, file.endswith(LEDGER)
        commands = readers(results, trial) if finished and not ledger else {}
        asked = {*options.commands} - ({"rerun"} if kind == "continual" else set())
        commands = {name: command for name, command in commands.items() if name in asked}
        for name, command in commands.items():
            if (key := f"{name} {trial if name == 'rerun' else ''}") not in whole:
                with copied(pristine, results):
                    whole[key] = command()
                if whole[key].code != 0:
                    raise SystemExit(f"{name} of a whole study failed:\n{whole[key].text}")
        for number, way in enumerate(options.damages):
            for name, command in commands.items():
                with copied(pristine, results):
                    damage(results / file, way, random.Random(number))
                    before = contents(results)
                    done = command()
                    verdict = judge(done, whole[f"{name} {trial if name == 'rerun' else ''}"], results / file)
                    if contents(results) != before:
                        verdict = "LOST"
                yield file, way, name, verdict, done.text
            if "study" in options.commands:
                with copied(pristine, results):
                    if ".prefixes" in file:  # only a trial that begins reads it
                        for state in results.rglob("state*.pt"):
                            state.unlink()
                    damage(results / file, way, random.Random(number))
                    done = run_captured(lambda: make(results).main([]))
                    verdict = judge_study(done, results, pristine, results / file)
                yield file, way, "study", verdict, done.text


def main(options: Options) -> int:
    """Damage everything, and print the table."""
    import ray

    torch.set_num_threads(1)
    began, counts, bad = time.monotonic(), dict[str, Counter[str]](), 0
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder).resolve()
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        searched, continual = (
            make_pristine(place, "finished", search_study),
            make_pristine(place, "continual", continual_study),
        )
        for kind, pristine, make in (
            ("finished", searched, search_study),
            ("cut off", cut_off(place, searched), search_study),
            ("continual", continual, continual_study),
            ("continual, cut off", cut_off_continual(place, continual), continual_study),
        ):
            for file, way, command, verdict, text in examine(place, kind, pristine, make, options):
                counts.setdefault(shown(file, kind), Counter())[verdict] += 1
                if verdict not in GOOD:
                    bad += 1
                    print(f"BAD {verdict}: {command} of {file}, {way}\n{text[-2000:]}", flush=True)
        ray.shutdown()
    width = max(map(len, counts), default=0)
    print(" " * width, *(f"{verdict:>16}" for verdict in GOOD), f"{'bad':>6}")
    for name, found in counts.items():
        others = sum(count for verdict, count in found.items() if verdict not in GOOD)
        print(f"{name:<{width}}", *(f"{found[verdict]:>16}" for verdict in GOOD), f"{others:>6}")
    total = sum(map(Counter.total, counts.values()))
    print(f"{total} cases, {bad} bad, {time.monotonic() - began:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
