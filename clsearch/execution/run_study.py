"""Run a plan: Ray Tune trains, this process writes the records."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import optuna
import ray
from rich.console import Console

from clsearch.common.checked_files import DamagedFile
from clsearch.common.errors import RayDiedError
from clsearch.common.files import previous_path, remove_file
from clsearch.common.formatting import last_line
from clsearch.common.interrupts import ignore_interrupts
from clsearch.common.redaction import redact_address
from clsearch.data.datasets import Data
from clsearch.execution.conclusion import add_final_evaluation, conclude, is_search_interrupted
from clsearch.execution.continual import decide
from clsearch.execution.further_seeds import train_further_seeds
from clsearch.execution.publisher import Publisher
from clsearch.execution.ray_session import describe_cluster, ray_session
from clsearch.execution.ray_tasks import store_object
from clsearch.execution.search import search
from clsearch.execution.time_limit import TimeLimit
from clsearch.planning.options import Protocol
from clsearch.planning.plan import Plan, tracking_uri
from clsearch.ray_runtime.address import cluster_address
from clsearch.records.attempts import SCORE, STATE_FILE, Decision, decision_json, read_progress
from clsearch.records.mirror import Mirror
from clsearch.records.ranking import Ranking
from clsearch.records.resume import check_same, set_aside, study_lock
from clsearch.records.search_end import describe_patience_end
from clsearch.records.store import RecordStore
from clsearch.records.study_file import FIRST_TASKS, read_best_json
from clsearch.records.trials import latest
from clsearch.records.writer import StudyWriter
from clsearch.reporting.progress import ProgressLine
from clsearch.reporting.result import StudyResult
from clsearch.reporting.terminal import print_result
from clsearch.sampling.journal import open_storage
from clsearch.tracking.sender import Tracker, quiet
from clsearch.tracking.stores import mlflow_row
from clsearch.training.first_task_cache import remove_unused
from clsearch.training.state import save_packed
from clsearch.training.trial_setup import fingerprint


def execute(plan: Plan, release_data: Callable[[], Data], limit: TimeLimit | None = None) -> StudyResult:
    """Run a checked plan to its end, and print the findings.

    Args:
        plan: The study.
        release_data: Returns the data of its benchmark and keeps no reference, so that only the object store keeps
            them.
        limit: The time limit of this call, if it has one.

    Raises:
        ConfigError: The cluster cannot hold a trial.
    """
    line = progress_line(plan)
    with line.live(), open_study(plan):
        line.show_step(
            f"joining the cluster {redact_address(address)}" if (address := cluster_address(plan)) else "starting Ray"
        )
        with ray_session(plan, line.print_line):
            if address:
                line.print_line(describe_cluster())
            data = store_object(release_data())  # until this process leaves Ray
            result = run(plan, data, line, limit)
    print_result(Console(), result, mlflow_row(plan, bool(result.pages)))
    return result


def reprint(plan: Plan) -> StudyResult:
    """Print the findings of a finished study, rewrite its report, and update MLflow.

    Needs no data and no Ray.
    """
    line = progress_line(plan)
    with line.live(), open_study(plan):
        line.print_line("study already finished; use --fresh to start over")
        result = run(plan, None, line)
    print_result(Console(), result, mlflow_row(plan, bool(result.pages)))
    return result


def progress_line(plan: Plan) -> ProgressLine:
    """Make the progress line of a study."""
    return ProgressLine(Console(stderr=True), plan.trials, plan.objectives[0], plan.options.quiet)


@contextmanager
def open_study(plan: Plan) -> Iterator[None]:
    """Hold a plan's study, new or existing.

    Raises:
        ConfigError: Another process runs the study, or its folder holds another study now.
    """
    with study_lock(plan.folder):
        check_same(plan)
        if plan.options.fresh:
            set_aside(plan.folder)
        yield


def run(plan: Plan, data: ray.ObjectRef | None, line: ProgressLine, limit: TimeLimit | None = None) -> StudyResult:
    """Run an open study in the present Ray session: search, choose, evaluate, report.

    Args:
        plan: The study.
        data: A reference to its benchmark's data; None, without Ray, if the study is finished.
        line: Shows the current step.
        limit: The time limit of this call, if it has one.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed while the study ended. Its records are kept.
    """
    line.print_line(f"results go to {plan.folder}")
    writer = StudyWriter(plan)
    writer.begin_new()
    study = None if plan.protocol is Protocol.CONTINUAL else open_storage(plan, line.print_line)
    outputs = begin_outputs(plan, line, writer)
    try:
        outputs.publisher.publish_description()
        if study is None:
            result = choose_task_by_task(plan, data, outputs)
        else:
            result = choose_by_search(study, data, outputs, limit)
        result = add_final_evaluation(result, data, outputs.publisher, line)
        return end_outputs(result, outputs)
    except KeyboardInterrupt:
        leave_at_once(outputs)
        raise


def leave_at_once(outputs: Outputs) -> None:
    """Mark what has not ended as unfinished, and wait for nobody."""
    ignore_interrupts()
    outputs.tracker.leave()
    with suppress(OSError):
        outputs.store.leave_unfinished()
        outputs.writer.end("unfinished")


def choose_by_search(
    study: optuna.Study, data: ray.ObjectRef | None, outputs: Outputs, limit: TimeLimit | None = None
) -> StudyResult:
    """Run the trials of a study that have not ended, and rank all. data: None if all have ended."""
    plan, died = outputs.writer.plan, ""
    end = describe_patience_end(plan, outputs.store.trials(), outputs.store.patience_from)
    try:
        if data is not None:
            end = search(plan, data, outputs.store, study, outputs.line, limit)
            if not is_search_interrupted(plan, outputs.store, end):
                train_further_seeds(plan, data, outputs.store, outputs.line)
    except RayDiedError as error:
        died = str(error)
    except KeyboardInterrupt:
        if is_search_interrupted(plan, outputs.store, end):  # pressed twice
            raise
    outputs.line.show_step("writing results")
    return replace(conclude(plan, outputs.store, outputs.publisher, end), died=died)


@dataclass(frozen=True)
class Outputs:
    """The outputs of a running study: its folder, MLflow, the copy of its folder, the terminal."""

    writer: StudyWriter
    store: RecordStore
    publisher: Publisher
    tracker: Tracker
    mirror: Mirror
    line: ProgressLine


def begin_outputs(plan: Plan, line: ProgressLine, writer: StudyWriter) -> Outputs:
    """Write study.json, connect to MLflow, and load the trials that an earlier process completed."""
    writer.begin()
    remove_unused(plan.folder.parent / FIRST_TASKS)
    quiet()
    warn = partial(line.console.print, markup=False)
    tracker = Tracker(writer.study, plan.folder, tracking_uri(plan), warn)
    tracker.begin()
    mirror = Mirror(plan.folder, plan.options.mirror, warn)
    store = RecordStore(plan, writer, (tracker.update, line.update), mirror.update)
    for damage in store.damaged:
        line.warn(f"{damage.path.parent.name} is trained again: {damage}")
    try:
        read_best_json(plan.folder)
    except DamagedFile as damage:
        line.warn(f"the choice is derived again from the trials: {damage}")
    writer.tidy(store.records)
    line.restore(store.trials())
    for record in store.records.values():
        tracker.update(record)
    return Outputs(writer, store, Publisher(writer, tracker, warn), tracker, mirror, line)


def end_outputs(result: StudyResult, outputs: Outputs) -> StudyResult:
    """Write the report and the final state, wait for MLflow and the copy, and add page addresses to the result."""
    line, state = outputs.line, end_state(result)
    outputs.writer.end(state)
    line.show_step("writing the report")
    outputs.publisher.publish_report()
    outputs.publisher.publish_description()
    line.show_step("sending the last records to MLflow")
    outputs.tracker.end(state)
    result = replace(result, pages=outputs.tracker.pages(result.ranking.trials))
    if result.plan.options.mirror:
        line.show_step("copying the results")
    outputs.mirror.end()
    return result


def choose_task_by_task(plan: Plan, data: Any, outputs: Outputs) -> StudyResult:
    """Search by the continual protocol; write attempts when they end.

    Args:
        plan: The study.
        data: A reference to the data; None if every task is decided already.
        outputs: The outputs of the study.
    """
    decision, interrupted, died, tasks_decided = Decision(), False, "", 0
    state_file, known = plan.folder / STATE_FILE, fingerprint(plan.config, plan.seeds, plan.tasks)
    progress = read_progress(plan.folder, plan.seeds, plan.tasks, known)
    for damage in progress.damaged:
        outputs.line.warn(f"the search continues after task {progress.tasks}: {damage}")
    try:
        for decision in decide(plan, data, progress, partial(save_packed, state_file)):
            task_decided = len(decision.kept) > tasks_decided
            outputs.publisher.publish_attempts(decision, task_decided)
            message = f"task {decision.attempts[-1].task}/{len(plan.tasks)} · {len(decision.attempts)} attempts"
            outputs.line.show_step(message, moving=not task_decided)
            if task_decided:
                tasks_decided = len(decision.kept)
                outputs.mirror.update()
    except KeyboardInterrupt:
        interrupted = True
    except RayDiedError as error:
        interrupted, died = True, str(error)
    except ray.exceptions.RayError as error:
        decision = replace(decision, reason=last_line(error))
    if decision.choice is not None:
        for path in (state_file, previous_path(state_file)):
            remove_file(path)
    outputs.publisher.publish_choice(decision_json(plan, decision), latest(a.when for a in decision.attempts))
    ranking = Ranking((SCORE,), [], frozenset())
    return StudyResult(plan, [], [], ranking, decision.choice, decision, interrupted, died=died)


def end_state(result: StudyResult) -> str:
    """Return the final state of a study: unfinished, finished or failed."""
    return "unfinished" if result.interrupted else "finished" if result.exit_code == 0 else "failed"
