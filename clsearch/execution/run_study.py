"""Carrying out a plan: Ray Tune executes, this process keeps the record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import ray
from ray import tune
from rich.console import Console

from clsearch.common.files import write_atomically
from clsearch.common.formatting import last_line, relative_path
from clsearch.data.datasets import Data
from clsearch.execution.continual import decide
from clsearch.execution.final_evaluation import SealedError, already_evaluated, evaluate
from clsearch.execution.optuna_study import open_storage
from clsearch.execution.pruners import PruningScheduler
from clsearch.execution.ray_address import cluster_address
from clsearch.execution.ray_session import ray_session, size_of_cluster
from clsearch.execution.ray_tasks import slots, unlearning_references
from clsearch.execution.recorder import Watcher
from clsearch.execution.searcher import OptunaSearcher
from clsearch.execution.suppression import executing_only
from clsearch.execution.trainable import trainable_of
from clsearch.methods.registry import CUSTOM_METHODS
from clsearch.planning.options import Protocol
from clsearch.planning.plan import Plan, tracking_uri
from clsearch.records.attempts import SCORE, STATE, Decision, decision_content, read_begun
from clsearch.records.early_stopping import pruned_of
from clsearch.records.mirror import Mirror
from clsearch.records.ranking import Ranking, best_content, choice_of, rank
from clsearch.records.resume import check_same, claimed, set_aside
from clsearch.records.study_file import RAY
from clsearch.records.study_record import plain, read_study
from clsearch.records.trials import PREFIXES, Results, latest
from clsearch.reporting.importances import compute_importances
from clsearch.reporting.progress import ProgressLine
from clsearch.reporting.result import StudyResult
from clsearch.reporting.terminal import print_result
from clsearch.tracking.description import note_of
from clsearch.tracking.sender import Tracker, quiet
from clsearch.tracking.stores import mlflow_row
from clsearch.training.first_task_cache import tidy


def execute(plan: Plan, take: Callable[[], Data]) -> StudyResult:
    """Run a checked plan to its end. take: gives up the data of its benchmark, which nobody else then holds.

    Raises ConfigError where the cluster cannot hold a trial.
    """
    line = ProgressLine(Console(stderr=True), plan.trials, plan.objectives[0], plan.options.quiet)
    with line.live(), begun(plan):
        line.show_step(f"joining the cluster {address}" if (address := cluster_address(plan)) else "starting Ray")
        with ray_session(plan):
            if address:
                line.print_line(size_of_cluster())
            # The object store's copy is the only one; it stays until this process leaves Ray.
            found = execute_in(plan, ray.put(take()), line)
    print_result(Console(), found, mlflow_row(plan, bool(found.pages)))
    return found


def tell_again(plan: Plan) -> StudyResult:
    """What a study found of which nothing is left to do; its report is made anew, and MLflow brought up to date."""
    line = ProgressLine(Console(stderr=True), plan.trials, plan.objectives[0], plan.options.quiet)
    with line.live(), begun(plan):
        line.print_line("done already: nothing is trained, nothing is opened; --fresh starts over")
        found = execute_in(plan, None, line)
    print_result(Console(), found, mlflow_row(plan, bool(found.pages)))
    return found


@contextmanager
def begun(plan: Plan) -> Iterator[None]:
    """Hold a plan's study, new or as it was left. Raises ConfigError where another process runs it, or it is another
    study now.
    """
    with claimed(plan.folder):
        check_same(plan)
        if plan.options.fresh:
            set_aside(plan.folder)
        yield


def execute_in(plan: Plan, data: ray.ObjectRef | None, line: ProgressLine) -> StudyResult:
    """Run a plan in the Ray session that this process is in, whose object store has the data; None, and no Ray, where
    nothing is left to do.
    """
    line.print_line(f"results go to {plan.folder}")
    results = Results(plan)
    study = None if plan.protocol is Protocol.CONTINUAL else open_storage(plan)
    results.begin()
    tidy(plan.folder.parent / PREFIXES)
    quiet()
    warn = partial(line.console.print, markup=False)
    tracker = Tracker(results.study, plan.folder, tracking_uri(plan), warn)
    tracker.begin()
    mirror = Mirror(plan.folder, plan.options.mirror, warn)
    watcher = Watcher(plan, results, tracker, line, 1 if data is None else slots(plan), mirror.update)
    watcher.recall()
    describe(plan, tracker, warn)
    if study is None:
        found = chosen_task_by_task(plan, data, watcher)
    else:
        if data is not None:
            search(plan, data, watcher, study)
        found = conclude(plan, watcher, study)
    found = finally_evaluated(found, data, watcher)
    results.end(state_of(found))
    line.show_step("writing the report")
    if (report := reported(partial(drawn, plan.folder), [plan.folder], warn)) is not None:
        tracker.reported(report)
    describe(plan, tracker, warn)
    line.show_step("sending the last records to MLflow")
    tracker.end(state_of(found))
    found = replace(found, pages=tracker.pages(found.ranking.trials))
    if plan.options.mirror:
        line.show_step("copying the results")
    mirror.end()
    return found


def search(plan: Plan, data: ray.ObjectRef, watcher: Watcher, study: optuna.Study) -> None:
    """Let Ray Tune run the references and the trials that Optuna asks for, but those that ended before."""
    options = plan.options
    ended = {label: record.values for label, record in watcher.records.items()}
    searcher = OptunaSearcher(plan, study, watcher, ended)
    left = len(ended) < plan.trials + len(plan.references)
    if note := about_cohort(plan):
        watcher.line.print_line(note)
    against = unlearning_references(plan, plan.seeds, data, watcher.line.show_step) if left else None
    trainable = trainable_of(plan.algorithm)
    resources = {"cpu": options.cpus_per_trial, "gpu": options.gpus_per_trial}
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(trainable, data=data, own=CUSTOM_METHODS, references=against), resources
        ),
        tune_config=tune.TuneConfig(
            # No metric is named to Ray: it would end the study over a trial that diverges before it has one.
            search_alg=searcher,
            scheduler=PruningScheduler(searcher.should_stop, watcher.slots),
            num_samples=-1,
            max_concurrent_trials=options.max_concurrent,
            reuse_actors=True,
            trial_name_creator=lambda trial: trial.config["label"],
            trial_dirname_creator=lambda trial: trial.config["label"],
        ),
        run_config=tune.RunConfig(
            name=RAY,
            storage_path=str(plan.folder),
            callbacks=[watcher],
            verbose=3 if options.verbose else 0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=options.max_failures),
        ),
    )
    with executing_only():
        tuner.fit()


def about_cohort(plan: Plan) -> str:
    """What is said where so many trials are asked for at once that the sampler learns from few."""
    trials, together = plan.trials, plan.cohort
    advised = max(1, trials // 8)
    if together <= advised or plan.options.sampler not in ("tpe", "nsga2"):
        return ""
    return (
        f"cohort: {together} of the {trials} trials are asked for at once, so the search learns from fewer results; at "
        f"most {advised} is advised"
    )


def drawn(folder: Path) -> Path:
    """A study's report, written; what draws it is loaded only now, so no trial waits for it."""
    from clsearch.reporting.html.report import write_report

    return write_report(folder)


def conclude(plan: Plan, watcher: Watcher, study: optuna.Study) -> StudyResult:
    """Rank, and write the tables and pictures."""
    from clsearch.reporting.figures import draw_pareto_front, draw_response  # half a second, which no trial waits for

    watcher.line.show_step("writing results")
    watcher.leave_unfinished()
    watcher.add_intransigence()
    watcher.write_tables()
    records, references = watcher.trials(), watcher.references()
    ranking = rank(records, plan.objectives)
    results, best, pruned = watcher.results, ranking.best, pruned_of(plan, records)
    watcher.concluded(
        best_content(plan, ranking, records, references)
        | ({"pruning": asdict(pruned)} if pruned else {})
        | ({"importance": found} if (found := compute_importances(study)) else {}),
        latest(r.told for r in records),
    )
    name = plan.objectives[0]
    levels = {plain(r.algorithm): r.metrics[name] for r in references if r.state == "finished"}
    figures = {"response.png": draw_response(records, plan.space, levels, name, best)}
    if ranking.front:
        results.write_table("front", [r for r in ranking.trials if r.label in ranking.front])
        figures["front.png"] = draw_pareto_front(ranking, references)
    for file, figure in figures.items():
        if figure is not None:
            figure.savefig(results.folder / file, dpi=150)
    results.tidy([r.label for r in (*records, *references) if r.ended])
    ended = sum(r.ended for r in records)
    waited_for = plan.references if best is not None else tuple(r.algorithm for r in references)
    done = [r.algorithm for r in references if r.ended]
    interrupted = ended < plan.trials or len(done) < len(waited_for)
    return StudyResult(plan, records, references, ranking, choice_of(ranking), None, interrupted)


def chosen_task_by_task(plan: Plan, data: Any, watcher: Watcher) -> StudyResult:
    """The continual protocol, its attempts written as they end."""
    decision, interrupted = Decision(), False
    try:
        for decision in decide(
            plan, data, read_begun(plan.folder, plan.seeds, plan.tasks), partial(write_atomically, plan.folder / STATE)
        ):
            watcher.decided(decision)
    except KeyboardInterrupt:
        interrupted = True
    except ray.exceptions.RayError as error:
        decision = replace(decision, reason=last_line(error))
    if decision.choice is not None:
        (plan.folder / STATE).unlink(missing_ok=True)
    watcher.concluded(decision_content(plan, decision), latest(a.when for a in decision.attempts))
    return StudyResult(plan, [], [], Ranking((SCORE,), [], frozenset()), decision.choice, decision, interrupted)


def finally_evaluated(found: StudyResult, data: Any, watcher: Watcher) -> StudyResult:
    """The result with its final evaluation, where there is to be one."""
    plan = found.plan
    if not plan.options.final or found.choice is None or found.interrupted:
        return found
    try:
        if (earlier := already_evaluated(plan, found.choice)) is not None:
            watcher.evaluated(earlier)
            return replace(found, final=earlier)
        final = evaluate(plan, found.choice, data, watcher.line.show_step, watcher.opened)
        watcher.evaluated(final)
    except SealedError as error:
        return replace(found, unsealed=str(error))
    except ray.exceptions.RayError as error:  # a worker died, or the cluster went
        return replace(found, unsealed=last_line(error))
    except KeyboardInterrupt:
        return replace(found, interrupted=True)
    return replace(found, final=final)


def describe(plan: Plan, tracker: Tracker, warn: Callable[[str], None]) -> None:
    """Tell MLflow what the study is. What goes wrong with it costs the study nothing."""
    try:
        tracker.described(note_of(read_study(plan.folder)))
    except Exception as error:
        warn(f"no description in MLflow ({type(error).__name__}: {last_line(error)})")


def reported(write: Callable[[], Path], folders: Sequence[Path], warn: Callable[[str], None]) -> Path | None:
    """Write a report; gives its path. What goes wrong with it costs a study nothing."""
    try:
        return write()
    except Exception as error:  # a picture is no reason to lose a night
        warn(
            f"no report ({type(error).__name__}: {last_line(error)}); the record is complete. Once that is mended: "
            f"python -m clsearch report {' '.join(map(relative_path, folders))}"
        )
        return None


def state_of(found: StudyResult) -> str:
    """How a study ended, in the words of its trials."""
    return "unfinished" if found.interrupted else "finished" if found.exit_code == 0 else "failed"
