"""Search: Ray Tune runs the references and the trials that Optuna suggests."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import optuna
import ray
from ray import tune

from clsearch.execution.messages import REQUEST
from clsearch.execution.ray_session import suppress_side_effects
from clsearch.execution.ray_tasks import slots, unlearning_references
from clsearch.execution.recorder import Recorder
from clsearch.execution.searcher import OptunaSearcher
from clsearch.execution.time_limit import TimeLimit
from clsearch.execution.trainable import trainable_of
from clsearch.execution.trial_host import StudyHost
from clsearch.methods.registry import CUSTOM_METHODS
from clsearch.planning.plan import Plan
from clsearch.planning.samplers import kind_of
from clsearch.ray_runtime.supervision import SearchGuard, supervised
from clsearch.records.store import RecordStore
from clsearch.records.study_file import RAY
from clsearch.reporting.progress import ProgressLine
from clsearch.sampling.pruners import PruningScheduler

CONFIGS: Any = tune if hasattr(tune, "RunConfig") else import_module("ray.train")
"""The module of RunConfig and its parts: ray.train before Ray 2.43."""


def search(
    plan: Plan,
    data: ray.ObjectRef,
    store: RecordStore,
    study: optuna.Study,
    line: ProgressLine,
    limit: TimeLimit | None = None,
) -> str:
    """Run all trials of a study that have not ended, as far as time and patience last.

    Args:
        plan: The study.
        data: A reference to its benchmark's data.
        store: Its records.
        study: Optuna's study, open.
        line: Shows the current step.
        limit: The time limit of this call, if it has one.

    Returns:
        Why the search ended before all trials; "" if it did not.

    Raises:
        OSError: The records cannot be written.
        ConfigError: A model that unlearning is measured against diverges.
        RayDiedError: Ray died; what it was training can be resumed.
        KeyboardInterrupt: Ctrl-C was pressed twice. After the first, the search ends as if it were done.
    """
    ended = {label: record.values for label, record in store.records.items()}
    if note := warn_of_large_cohort(plan):
        line.print_line(note)
    some_left = len(ended) < plan.trials + len(plan.references)
    references = unlearning_references(plan, plan.seeds, data, line.show_step) if some_left else None
    guard = SearchGuard()
    host = StudyHost(plan, store, guard, supervised(lambda: slots(plan)), limit)
    searcher = OptunaSearcher(plan, study, host, ended)
    with suppress_side_effects():
        recorder = Recorder(store, len(plan.tasks), guard, line.warn)
        guard.run(lambda: make_tuner(plan, data, references, searcher, recorder, host.slots).fit())
    return host.describe_end()


def make_tuner(
    plan: Plan,
    data: ray.ObjectRef,
    references: ray.ObjectRef | None,
    searcher: OptunaSearcher,
    recorder: Recorder,
    slots: int,
) -> tune.Tuner:
    """Make the Ray Tune tuner of a plan.

    Args:
        plan: The study.
        data: A reference to its benchmark's data.
        references: A reference to the models that unlearning is measured against.
        searcher: Suggests the trials.
        recorder: Records the trials.
        slots: Number of trials that the cluster holds at a time.
    """
    options = plan.options
    trainable = trainable_of(plan.algorithm)
    resources = {"cpu": options.cpus_per_trial, "gpu": options.gpus_per_trial}
    return tune.Tuner(
        tune.with_resources(
            tune.with_parameters(trainable, data=data, own=CUSTOM_METHODS, references=references), resources
        ),
        tune_config=tune.TuneConfig(
            # Ray gets no metric: it would end the study if a trial diverges before it has one.
            search_alg=searcher,
            scheduler=PruningScheduler(searcher.should_stop, slots),
            num_samples=-1,
            max_concurrent_trials=options.max_concurrent,
            reuse_actors=True,
            trial_name_creator=lambda trial: trial.config[REQUEST].label,
            trial_dirname_creator=lambda trial: trial.config[REQUEST].label,
        ),
        run_config=CONFIGS.RunConfig(
            name=RAY,
            storage_path=str(plan.folder),
            callbacks=[recorder],
            verbose=3 if options.verbose else 0,
            checkpoint_config=CONFIGS.CheckpointConfig(checkpoint_at_end=False),
            failure_config=CONFIGS.FailureConfig(max_failures=options.max_failures),
        ),
    )


def warn_of_large_cohort(plan: Plan) -> str:
    """Return a warning if a cohort is so large that the sampler learns from few results, else ""."""
    trials, together = plan.trials, plan.cohort
    advised = max(1, trials // 8)
    kind = kind_of(plan.options.sampler)
    if together <= advised or (kind is not None and not kind.learns):
        return ""
    return (
        f"cohort: {together} of the {trials} trials are suggested at once, so the search learns from fewer results; "
        f"use at most {advised}"
    )
