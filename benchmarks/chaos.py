"""Test that a study survives the death of its processes.

    python benchmarks/chaos.py --kills 12

Starts a real study and ends it at random moments, in turn: its driver, Ray's raylet and Ray's control service (GCS)
are killed with SIGKILL, its process group gets SIGTERM, as from `timeout`. It restarts the same command each time,
and kills random workers in between. It prints how long each end took; more than 60 s counts as hung. It then compares
the study with an undisturbed one: the same number of trials, none duplicated or lost in results/, Optuna or MLflow,
and each accuracy matrix equal, bit for bit, to that of the same configuration and seeds trained without Ray or
interruption. The exit code is 0 if all of that holds.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import psutil
import torch
import tyro
from mlflow.tracking import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from clsearch import LogRange, Study
from clsearch.methods.registry import configure
from clsearch.records.trials import TrialRecord, read_trials
from clsearch.training.loop import learn_sequence
from clsearch.training.trial_setup import build_trial

LONGEST = 240.0
"""A session that takes longer than this, in seconds, counts as hung."""


ENDING = 60.0
"""A study that has not ended so many seconds after what should end it counts as hung."""

ENDS = {"driver": -signal.SIGKILL, "process group": 130, "raylet": 1, "gcs_server": 1}
"""What is ended, and the exit code of a study that was training."""


@dataclass
class Options:
    kills: int = 12
    """Number of times that the study is ended, in each way in turn."""
    trials: int = 16
    """Number of trials of the study."""
    seed: int = 0
    """Seed of the random moments."""


def study(trials: int) -> Study:
    """Make a study of trials of about a second, without pruning, which depends on the order in which trials end."""
    return Study(
        algorithm="lwf",
        name="chaos",
        space={"distillation_factor": LogRange(1e-3, 1e2), "distillation_temperature": LogRange(0.1, 10)},
        references=("finetuning", "joint"),
        hidden=(64,),
        epochs=16,
        trials=trials,
        seeds=2,
        report_seeds=2,
    )


@contextlib.contextmanager
def session(results: Path, trials: int, *options: str, script: str = __file__) -> Iterator[subprocess.Popen[bytes]]:
    """Run the study's process with its output in log.txt next to its results; kill it and its children afterwards."""
    words = [sys.executable, script, "study", str(trials), "--results", str(results), *options]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
    with (results.parent / "log.txt").open("ab") as log:
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=log, start_new_session=True)
        own = psutil.Process(process.pid)
        try:
            yield process
        finally:
            with contextlib.suppress(psutil.Error):
                left = own.children(recursive=True)
                process.kill()
                for child in left:
                    with contextlib.suppress(psutil.Error):
                        child.kill()
            process.wait()


def workers(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return the training processes of a session."""
    found = []
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                found += [child] * any("ray::ResourceTrainable" in word for word in child.cmdline())
    return found


def end(process: subprocess.Popen[bytes], what: str) -> float:
    """End a session by ending a part of it; return the seconds until it has ended, or infinity."""
    began = time.monotonic()
    if what == "driver":
        process.kill()
    elif what == "process group":
        os.killpg(process.pid, signal.SIGTERM)
    else:
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if child.name() == what:
                    child.kill()
                    break
        else:
            return end(process, "process group")  # Ray is not there yet
    try:
        process.wait(ENDING)
    except subprocess.TimeoutExpired:
        return float("inf")
    return time.monotonic() - began


def disturb(results: Path, options: Options) -> Counter[str]:
    """Run the study to its end through all kills; print each; return counts of events."""
    moments, done, ways = random.Random(options.seed), Counter[str](), list(ENDS)
    while True:
        with session(results, options.trials) as process:
            began, killed_worker, ended = time.monotonic(), False, sum(done[f"{way} ended"] for way in ways)
            # At any time: at the start, in the search, in the final evaluation.
            until = moments.uniform(1, 30) if ended < options.kills else LONGEST
            strike = moments.uniform(0, until)
            while process.poll() is None and time.monotonic() - began < until:
                time.sleep(0.02)
                if not killed_worker and time.monotonic() - began > strike and (found := workers(process)):
                    moments.choice(found).kill()
                    killed_worker = True
                    done["worker killed"] += 1
            if process.poll() is not None:
                done[f"ended with exit code {process.returncode}"] += 1
                if ended >= options.kills:
                    return done
                (results / "chaos" / "final.json").unlink(missing_ok=True)  # so that the study is not finished
                continue
            if until == LONGEST:
                done["hung"] += 1
                return done
            way = ways[ended % len(ways)]
            seconds = end(process, way)
            print(f"{way} ended after {until:.0f} s: in {seconds:.1f} s, exit code {process.returncode}", flush=True)
            done[f"{way} ended"] += 1
            done["hung"] += seconds > ENDING
            done["other exit codes"] += process.returncode not in (ENDS[way], -signal.SIGTERM, 130, 0)


def optuna_states(folder: Path) -> Counter[str]:
    storage = JournalStorage(JournalFileBackend(str(folder / "optuna.journal")))
    return Counter(t.state.name for t in optuna.load_study(study_name="chaos", storage=storage).get_trials())


def mlflow_runs(results: Path) -> Counter[tuple[str, str]]:
    """Count (label, status) of each run except the final evaluation's; leave out the searched values after the label,
    which depend on the order in which trials ended.
    """
    client = MlflowClient(f"sqlite:///{results}/mlflow.db")
    experiment = client.get_experiment_by_name("chaos")
    runs = client.search_runs([experiment.experiment_id], "tags.kind != 'final'", max_results=10_000)
    return Counter((run.data.tags["label"].partition(" ")[0], run.info.status) for run in runs)


def in_peace(record: TrialRecord) -> bool:
    """Return True if a record's matrices equal those of its configuration and seeds, trained without Ray or
    interruption.
    """
    settings = {name: value for name, value in record.settings.items() if value is not None}
    expected = learn_sequence(build_trial(configure(record.algorithm, settings), record.seeds)).accuracy
    return np.array_equal(np.array(record.accuracy, dtype=float), expected.numpy(), equal_nan=True)


def compared(disturbed: Path, calm: Path) -> dict[str, tuple[Any, Any, bool]]:
    """Compare two results folders: description -> (disturbed, undisturbed, True if as required)."""
    folders = [results / "chaos" for results in (disturbed, calm)]
    records, other = (read_trials(folder) for folder in folders)
    states, others = (Counter(r.state for r in found.values()) for found in (records, other))
    trials, peace = (optuna_states(folder) for folder in folders)
    runs, calm_runs = mlflow_runs(disturbed), mlflow_runs(calm)
    same = sum(in_peace(record) for record in records.values())
    left = [path.name for path in folders[0].rglob("*") if path.match("state*.pt") or path.suffix == ".tmp"]
    final = json.loads((folders[0] / "final.json").read_text())
    return {
        "trials and references in results/": (dict(states), dict(others), states == others),
        "labels in results/": (len(records), len(other), records.keys() == other.keys()),
        "trials in Optuna": (dict(trials), dict(peace), trials == peace),
        "runs in MLflow": (sum(runs.values()), sum(calm_runs.values()), sum(runs.values()) == sum(calm_runs.values())),
        "runs of only one study": (dict(runs - calm_runs), dict(calm_runs - runs), runs == calm_runs),
        "duplicate runs in MLflow": (sum(n > 1 for n in runs.values()), 0, all(n == 1 for n in runs.values())),
        "matrices equal to undisturbed training, bit for bit": (same, len(records), same == len(records)),
        "states and incomplete files left": (len(left), 0, not left),
        "finally evaluated configurations": (len(final["rows"]), 3, len(final["rows"]) == 3),
    }


def main(options: Options) -> int:
    """Disturb a study, compare it, and print the results."""
    torch.set_num_threads(1)  # with so small a network, threads only wait for each other
    with tempfile.TemporaryDirectory() as place:
        disturbed, calm = Path(place, "disturbed", "results"), Path(place, "calm", "results")
        for results in (disturbed, calm):
            results.mkdir(parents=True)
        done = disturb(disturbed, options)
        print(", ".join(f"{what} {count} times" for what, count in done.items()), flush=True)
        with session(calm, options.trials) as process:
            process.wait(timeout=LONGEST)
        if done["hung"] or process.returncode:
            print((disturbed.parent / "log.txt").read_text()[-3000:])
            return 1
        rows = compared(disturbed, calm)
        for what, (found, expected, good) in rows.items():
            print(f"{'ok  ' if good else 'BAD '} {what}: {found}, undisturbed {expected}")
        return 0 if all(good for *_, good in rows.values()) else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["study"]:
        study(int(sys.argv[2])).main(sys.argv[3:])
    sys.exit(main(tyro.cli(Options, description=__doc__)))
