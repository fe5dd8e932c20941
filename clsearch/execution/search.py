"""The search of a study: Ray Tune runs the references and the trials that Optuna asks for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import optuna
import ray
from ray import tune

from clsearch.execution.messages import REQUEST
from clsearch.execution.pruners import PruningScheduler
from clsearch.execution.ray_session import suppress_side_effects
from clsearch.execution.ray_tasks import slots, unlearning_references
from clsearch.execution.recorder import Recorder
from clsearch.execution.searcher import OptunaSearcher
from clsearch.execution.trainable import trainable_of
from clsearch.execution.trial_host import StudyHost
from clsearch.methods.registry import CUSTOM_METHODS
from clsearch.planning.plan import Plan
from clsearch.records.store import RecordStore
from clsearch.records.study_file import RAY
from clsearch.reporting.progress import ProgressLine

CONFIGS: Any = tune if hasattr(tune, "RunConfig") else import_module("ray.train")
"""The home of RunConfig and its parts: ray.train before Ray 2.43."""


def search(plan: Plan, data: ray.ObjectRef, store: RecordStore, study: optuna.Study, line: ProgressLine) -> None:
    """Run all trials of a study but those that ended before.

    plan: the study. data: of its benchmark. store: of its records. study: Optuna's, open. line: told what is done.

    Raises OSError where the record cannot be written, ConfigError where training a model to measure unlearning against
    diverges.
    """
    ended = {label: record.values for label, record in store.records.items()}
    if note := warn_of_large_cohort(plan):
        line.print_line(note)
    some_left = len(ended) < plan.trials + len(plan.references)
    references = unlearning_references(plan, plan.seeds, data, line.show_step) if some_left else None
    host = StudyHost(plan, store, slots(plan))
    searcher = OptunaSearcher(plan, study, host, ended)
    with suppress_side_effects():
        make_tuner(plan, data, references, searcher, Recorder(store, len(plan.tasks)), host.slots).fit()


def make_tuner(
    plan: Plan,
    data: ray.ObjectRef,
    references: ray.ObjectRef | None,
    searcher: OptunaSearcher,
    recorder: Recorder,
    slots: int,
) -> tune.Tuner:
    """Ray Tune, set up to carry out a plan.

    references: what unlearning is measured against. slots: how many trials the cluster holds at a time.
    """
    options = plan.options
    trainable = trainable_of(plan.algorithm)
    resources = {"cpu": options.cpus_per_trial, "gpu": options.gpus_per_trial}
    return tune.Tuner(
        tune.with_resources(
            tune.with_parameters(trainable, data=data, own=CUSTOM_METHODS, references=references), resources
        ),
        tune_config=tune.TuneConfig(
            # No metric is named to Ray: it would end the study over a trial that diverges before it has one.
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
    """What is said where so many trials are asked for at once that the sampler learns from few; else nothing."""
    trials, together = plan.trials, plan.cohort
    advised = max(1, trials // 8)
    if together <= advised or plan.options.sampler not in ("tpe", "nsga2"):
        return ""
    return (
        f"cohort: {together} of the {trials} trials are asked for at once, so the search learns from fewer results; at "
        f"most {advised} is advised"
    )
