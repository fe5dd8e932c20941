"""What the tests of the edges build: small studies, plans, records, servers on loopback."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from clsearch import LogRange, Range, Study, metrics
from clsearch.config.plain_values import Plain
from clsearch.config.unlearning import unlearned_by
from clsearch.planning.plan import Plan
from clsearch.records.evaluation import EvaluatedConfiguration, FinalEvaluation
from clsearch.records.ranking import Choice
from clsearch.records.test_ledger import Opening
from clsearch.records.trials import TrialRecord

STUDIES = [
    path for path in sorted((Path(__file__).parents[1] / "studies").glob("*.py")) if "Study(" in path.read_text()
]
"""The scripts of this repository that make one study."""

SMALL_SPACES = {
    "lwf": {"distillation_factor": LogRange(0.01, 100), "distillation_temperature": LogRange(0.5, 8)},
    "ewc": {"penalty_factor": LogRange(0.1, 1000), "penalty_p_norm": Range(1, 3)},
    "finetuning": {"learning_rate": LogRange(0.001, 1)},
}
SMALL_SPACES["lwf_ewc"] = SMALL_SPACES["lwf"] | SMALL_SPACES["ewc"]


def study_of(algorithm: str = "lwf", **settings: Any) -> Study:
    """A small study that may be changed in anything; `space=None` asks for the default ranges."""
    defaults = {"space": SMALL_SPACES.get(algorithm), "name": "mine", "question": "Which?", "tasks": 3, "hidden": (8,)}
    length = {} if {"epochs", "iterations"} & set(settings) else {"epochs": 1}
    return Study(algorithm=algorithm, **(defaults | length | settings))


def plan_of(results: Path, algorithm: str = "lwf", **settings: Any) -> Plan:
    """The plan of a small study, as from Python: without a command."""
    return study_of(algorithm, results=results, **settings).plan


def planned(study: Study, *args: str) -> Plan:
    """The plan that a script's command line makes, as Study.main makes it."""
    return study.plan_for(list(args))


def record_of(
    plan: Plan,
    number: int | None,
    scores: Sequence[float],
    values: dict[str, Plain] | None = None,
    *,
    forgetting: Sequence[float] | None = None,
    algorithm: str | None = None,
    state: str = "finished",
    learned: int | None = None,
    reason: str = "",
) -> TrialRecord:
    """A trial whose average accuracy after its last learned task is `scores`, one per seed. forgetting: its average
    forgetting; unless given, no two cells are alike.
    """
    T = len(plan.tasks)
    t = T if learned is None else learned
    if values is None:
        values = {} if number is None else plan.space.first
    config = plan.trial_config(values, algorithm)
    R = matrices_of(T, scores, forgetting, t)
    unlearning = unlearning_of_matrix(plan, R) if config.requests else {}
    found = metrics.summary(R, t) | metrics.unlearning(unlearning, t) if t else {}
    return TrialRecord(
        label=f"reference_{config.algorithm}" if number is None else f"trial_{number:05d}",
        number=number,
        algorithm=config.algorithm,
        values=values,
        settings=config.flat(),
        seeds=plan.seeds,
        state=state,
        reason=reason,
        tasks_learned=t,
        seconds=1.5 * t,
        metrics=metrics.over_seeds(found),
        accuracy=R.tolist(),
        unlearning={name: values.tolist() for name, values in unlearning.items()},
        columns=["loss", "accuracy"],
        curve=[[[1 / task, 0.5 + 0.1 * m] for m in range(len(scores))] for task in range(1, t + 1)],
        epochs=[[task, 1] for task in range(1, t + 1)],
    )


def unlearning_of_matrix(plan: Plan, R: torch.Tensor) -> metrics.Unlearning:
    """What was measured of unlearning by a trial whose matrix is R, of which the cells of unlearned tasks are taken: a
    tenth is lost at each request, features are as far apart as 1 and the task's number, on each task alike.
    """
    chance = torch.full_like(R, torch.nan)
    for t in range(1, R.shape[1]):
        chance[:, t, [task - 1 for task in unlearned_by(plan.config.requests, t)]] = 0.5
    after = R - 0.1 * (~chance.isnan())
    distance = 1 + torch.arange(R.shape[1], dtype=torch.float64)[:, None].expand_as(R)
    found = {"before": R.clone(), "after": after, "chance": chance, "distance": distance.clone()}
    R[~chance.isnan()] = torch.nan
    return found


def matrices_of(
    T: int, scores: Sequence[float], forgetting: Sequence[float] | None = None, learned: int | None = None
) -> torch.Tensor:
    """R [M, T+1, T] of which `scores` are the average accuracies after the last learned task, and `forgetting` the
    average forgetting, of each seed; without forgetting no two cells are alike.
    """
    t = T if learned is None else learned
    R = torch.full((len(scores), T + 1, T), torch.nan, dtype=torch.float64)
    tasks = torch.arange(T, dtype=torch.float64)
    for i in range(t + 1 if t else 0):
        R[:, i] = torch.tensor(scores, dtype=torch.float64)[:, None] + 0.01 * (tasks - (t - 1) / 2)
        R[:, i] += 0.001 * (t - i) if forgetting is None else (i < t) * torch.tensor(forgetting)[:, None].double()
    return R


def measured_of(
    plan: Plan,
    validation: Sequence[float],
    test: Sequence[float],
    configuration: str = "chosen",
    on: str = "full_sequence",
    *,
    forgetting: Sequence[float] | None = None,
    reason: str = "",
    per_task: tuple[dict[str, float], ...] = (),
) -> EvaluatedConfiguration:
    """A configuration's final evaluation: average accuracies of each reporting seed. forgetting: on both parts."""
    config = plan.report if plan.report is not None and on == "reported" else plan.config
    tasks = plan.reported if on == "reported" else tuple(range(1, config.tasks + 1))
    algorithm = plan.algorithm if configuration == "chosen" else configuration
    settings = plan.trial_config({}, algorithm, config) if configuration != "chosen" else config
    parts = (matrices_of(len(tasks), scores, forgetting).numpy() for scores in (validation, test))
    return EvaluatedConfiguration(
        configuration, algorithm, on, config.benchmark, tasks, settings.flat(), per_task, *parts, 2.5, reason
    )


def final_of(
    plan: Plan, *rows: EvaluatedConfiguration, scores: dict[str, float], before: Sequence[int] = (0,)
) -> FinalEvaluation:
    """A final evaluation of a choice that the search believed to have these scores. before: earlier openings."""
    choice = Choice("trial_00003", plan.space.first, scores)
    openings = tuple(
        Opening(
            f"data-{n}", "2026-01-02T03:04:05+00:00", plan.options.name, plan.algorithm, {}, plan.report_seeds, count
        )
        for n, count in enumerate(before)
    )
    return FinalEvaluation.of(plan, choice, rows, openings, 9.5)


def write_images(
    folder: Path, classes: Sequence[str] = "abcdef", count: int = 5, side: int = 8, mode: str = "L", seed: int = 0
) -> Path:
    """A folder of PNG files per class, no two alike: noise, and a bright column that tells the class."""
    generator = np.random.default_rng(seed)
    for c, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = generator.integers(0, 100, (side, side), dtype=np.uint8)
            pixels[:, c % side] += 150
            Image.fromarray(pixels).convert(mode).save(folder / name / f"{i:03}.png")
    return folder


@contextmanager
def closed_port() -> Iterator[int]:
    """A loopback port that refuses connections: bound, so that nobody else takes it, and not listening."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@contextmanager
def silent_port() -> Iterator[int]:
    """A loopback port that accepts connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


EMPTY_SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""How a gRPC server, as Ray's, begins: an empty SETTINGS frame of HTTP/2."""


@contextmanager
def talking_port(greeting: bytes) -> Iterator[int]:
    """A loopback port that greets whoever connects first, and then listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection, suppress(ConnectionResetError):
                connection.sendall(greeting)
                connection.settimeout(10)
                while connection.recv(100):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


@contextmanager
def http_port(status: int) -> Iterator[int]:
    """A loopback HTTP server that answers every request with one status."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"OK")

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
