"""Optuna as a Searcher of Ray Tune. Optuna's storage is the only record of the search."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

import numpy as np
import optuna
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState
from ray.tune.search import Searcher

from clsearch.common.errors import ConfigError
from clsearch.config.plain_values import Values
from clsearch.execution.messages import TrialReport, replace_reports, reports_in
from clsearch.execution.structure import Suggestion, group_by_structure
from clsearch.methods.registry import fields_of
from clsearch.planning.objectives import choose, sign
from clsearch.planning.plan import Plan
from clsearch.records.trials import REFUSED, Origin, trial_label
from clsearch.sampling.journal import REASON
from clsearch.sampling.replay import resume_suggestion
from clsearch.sampling.samplers import keeps_constraints, sampler_for, set_constraints
from clsearch.sampling.study import asked_of, next_number, origins_of, suggest_values, values_of

T = TypeVar("T")


class TrialHost(Protocol):
    """Runs the trials that a searcher suggests."""

    def make_trial_config(
        self, asked: Mapping[str, Suggestion], algorithm: str | None, origins: Mapping[str, Origin] | None = None
    ) -> dict[str, Any]:
        """Make Ray Tune's config for configurations that train together, or for a reference.

        Args:
            asked: Label -> what was suggested.
            algorithm: The reference's; None for the study's own.
            origins: Label -> why it is tried, of those that the sampler did not suggest.
        """

    def record_refusal(
        self, label: str, values: Values, reason: str, origins: Mapping[str, Origin] | None = None
    ) -> None:
        """Record a trial that failed because the rules refuse its configuration.

        Args:
            label: Its name.
            values: Its searched values.
            reason: The refusal.
            origins: Label -> why it is tried, of those that the sampler did not suggest.
        """

    def has_capacity(self) -> bool:
        """Return True if one more trial of Ray Tune can be suggested now."""

    def has_time(self) -> bool:
        """Return True if a trial that begins now ends in time."""

    def is_out_of_patience(self) -> bool:
        """Return True if no new trial is worth it."""

    def is_ending(self) -> bool:
        """Return True if trials are cut off by the end of the search, whatever Ray Tune says of them."""

    def abort(self, error: OSError) -> None:
        """End the search, because its record cannot be written."""


class OptunaSearcher(Searcher):
    """Suggests the references, then trials that were asked for and have not ended, then new trials, up to the plan's
    number.

    If the search varies a hyperparameter that a reference has too (the learning rate), references come last and use the
    best trial's value; otherwise they would be easy to beat.

    With a cohort, several trials are asked for at a time. Those that differ in structure become trials of Ray Tune of
    their own.

    Args:
        plan: The study.
        study: Optuna's study, open.
        host: Runs the trials.
        ended: Trials that an earlier process completed: label -> searched values.
    """

    def __init__(
        self,
        plan: Plan,
        study: optuna.Study,
        host: TrialHost,
        ended: Mapping[str, Values] | None = None,
    ) -> None:
        super().__init__()
        self.plan = plan
        self.study = study
        self.host = host
        self.aborted = False
        self.ended = ended or {}
        self.references = [
            name for name in plan.references if self._shared_hyperparameters(name) or not self._is_done(name, {})
        ]
        asked = asked_of(study)
        self.asked = len(asked)
        self.unfinished = [trial for trial in asked if trial_label(trial.number) not in self.ended]
        self.origins = origins_of(study, plan.space)
        self.groups: list[dict[str, Suggestion]] = []
        self.labels: dict[str, list[str]] = {}
        self.open: dict[str, optuna.trial.Trial] = {}
        self.known: dict[str, FrozenTrial] = {}
        self.reported = {trial.number: max(trial.intermediate_values, default=0) for trial in self.unfinished}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        return self._write(lambda: self._next(trial_id)) if self.host.has_capacity() else None

    def _write(self, step: Callable[[], T]) -> T | None:
        """Run a step that writes Optuna's journal; after the first failure, run none."""
        try:
            return None if self.aborted else step()
        except OSError as error:
            self.aborted = True
            self.host.abort(error)
            return None

    def _next(self, trial_id: str) -> dict[str, Any] | str | None:
        if self.references and not self._shared_hyperparameters(self.references[0]):
            name = self.references.pop(0)
            return self._ask_for_reference(trial_id, name, Suggestion({}, self.plan.trial_config({}, name)))
        while not self.groups and self._goes_on():
            asked = dict(self._resume_trials() if self.unfinished else self._ask_for_trials(self.plan.cohort))
            self.groups = group_by_structure(dict(self._configure(asked)))
        if self.groups and self.host.has_time():
            group = self.groups.pop(0)
            self.labels[trial_id] = list(group)
            return self.host.make_trial_config(group, None, self.origins)
        return self._next_late_reference(trial_id)

    def _goes_on(self) -> bool:
        """Return True if another trial begins: one that was begun before, or a new one."""
        if self.unfinished:
            return self.host.has_time()
        return self.asked < self.plan.trials and not self.host.is_out_of_patience() and self.host.has_time()

    def _configure(self, asked: Mapping[str, Values]) -> Iterator[tuple[str, Suggestion]]:
        """Validate the configurations of trials; those that the rules refuse have failed.

        Optuna is told as of a diverged trial, so that it avoids the region.
        """
        for label, values in asked.items():
            try:
                yield label, Suggestion(values, self.plan.trial_config(values))
            except ConfigError as error:
                reason, trial = f"{REFUSED}: {'; '.join(error.problems)}", self.open.pop(label, None)
                if trial is not None:  # else Optuna knows
                    trial.set_user_attr(REASON, reason)
                    self.study.tell(trial, state=OptunaState.PRUNED)
                self.host.record_refusal(label, values, reason, self.origins)

    def _ask_for_trials(self, most: int) -> Iterator[tuple[str, Values]]:
        """Yield label and searched values of new trials, at most so many."""
        for _ in range(min(most, self.plan.trials - self.asked)):
            self.study.sampler = sampler_for(self.plan, next_number(self.study))
            trial = self.study.ask()
            self.asked += 1
            label = trial_label(trial.number)
            self.open[label] = trial
            yield label, suggest_values(trial, self.plan.space)

    def _resume_trials(self) -> Iterator[tuple[str, Values]]:
        """Yield trials that an earlier process asked for.

        If Optuna knows the end of a trial whose record was not written, Optuna is not informed again. If the process
        died while it asked for a cohort, the rest of the cohort is asked for.
        """
        size = self.plan.cohort
        resumed, self.unfinished = self.unfinished[:size], self.unfinished[size:]
        for frozen in resumed:
            label = trial_label(frozen.number)
            if frozen.state.is_finished():
                self.known[label] = frozen
                yield label, values_of(self.plan.space, frozen.params)
                continue
            self.open[label] = trial = resume_suggestion(self.plan, self.study, frozen)
            yield label, suggest_values(trial, self.plan.space)  # as suggested
        missing = -self.asked % size
        if not self.unfinished and len(resumed) + missing <= size:
            yield from self._ask_for_trials(missing)

    def _ask_for_reference(self, trial_id: str, algorithm: str, suggestion: Suggestion) -> dict[str, Any]:
        label = reference_label(algorithm)
        self.labels[trial_id] = [label]
        return self.host.make_trial_config({label: suggestion}, algorithm)

    def _is_done(self, reference: str, values: Values) -> bool:
        """Return True if a reference ended in an earlier process with these values."""
        return self.ended.get(reference_label(reference)) == values

    def _shared_hyperparameters(self, algorithm: str) -> list[str]:
        """Return the searched hyperparameters that a reference has too."""
        return [name for name in self.plan.space if name in fields_of(algorithm)]

    def _next_late_reference(self, trial_id: str) -> dict[str, Any] | str | None:
        """Suggest a reference that needs the best trial; without a finished trial there is nothing to compare.

        While trials are open, wait: their results can choose another trial, or renew the patience.
        """
        if self.open and (self.references or self.asked < self.plan.trials):
            return None
        finished = self.study.get_trials(deepcopy=False, states=(OptunaState.COMPLETE,))
        finished = [trial for trial in finished if keeps_constraints(trial)]
        if not self.references or not finished:
            return Searcher.FINISHED
        name = self.references.pop(0)
        signs = np.array([sign(name) for name in self.plan.objectives])
        best = finished[choose(signs * np.array([trial.values for trial in finished]))]
        chosen = values_of(self.plan.space, best.params)
        values = {key: chosen[key] for key in self._shared_hyperparameters(name) if key in chosen}
        if not self._is_done(name, values):
            return self._ask_for_reference(trial_id, name, Suggestion(values, self.plan.trial_config(chosen, name)))
        return self._next_late_reference(trial_id)

    def should_stop(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return True if no configuration of a trial of Ray Tune continues after this result.

        Optuna first receives the values of every configuration, so that those of a cohort are compared with each other.
        A configuration that is stopped early is marked as done in the result.
        """
        if result.get("done"):
            return False
        reports = reports_in(result)
        over = [report for report in reports.values() if report.done]
        for report in over:
            self._tell_end(report.label, report)
        news = {label: self._report(report) for label, report in reports.items() if not report.done}
        stopped = [reports[label].ended() for label, is_new in news.items() if self._is_stopped(reports[label], is_new)]
        for report in stopped:
            self._tell_end(report.label, report, stopped=True)
        replace_reports(result, stopped)
        gone = {report.label for report in (*over, *stopped)}
        labels = self.labels[trial_id]
        labels[:] = [label for label in labels if label not in gone]
        return not labels

    def _is_stopped(self, report: TrialReport, is_new: bool) -> bool:
        if (known := self.known.get(report.label)) is not None:  # repeat the earlier decision
            last = max(known.intermediate_values, default=0)
            pruned = known.state is OptunaState.PRUNED and REASON not in known.user_attrs
            return pruned and report.tasks_learned >= last
        # A trial that was allowed to continue is not judged again when others reach the same task.
        return is_new and bool(self._write(self.open[report.label].should_prune))

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        for report in reports_in(result).values():
            self._report(report)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Inform Optuna of the ends of a trial's configurations.

        Diverged trials are reported as pruned, as are those stopped early: TPE avoids their region. It ignores failed
        trials, such as those whose worker died or ran out of memory. Those that were cut off stay open.
        """
        if error and self.host.is_ending():
            return
        reports = reports_in(result) if result and not error else {}
        for label in self.labels.pop(trial_id, []):
            self._tell_end(label, reports.get(label))

    def _report(self, report: TrialReport) -> bool:
        """Report the progress of a trial to Optuna; return True if it was new."""
        trial = self.open.get(report.label)
        return trial is not None and bool(self._write(lambda: self._report_value(trial, report)))

    def _tell_end(self, label: str, report: TrialReport | None, stopped: bool = False) -> None:
        """Inform Optuna of the end of a trial. report: None if the trial failed. stopped: the pruner stopped it."""
        trial = self.open.pop(label, None)
        if trial is not None:
            self._write(lambda: self._tell(trial, report, stopped))

    def _tell(self, trial: optuna.trial.Trial, report: TrialReport | None, stopped: bool) -> None:
        if report is None or report.out_of_memory:
            self.study.tell(trial, state=OptunaState.FAIL)
            return
        self._report_value(trial, report)
        if report.failed:
            trial.set_user_attr(REASON, report.failed)
        if report.failed or stopped:
            self.study.tell(trial, state=OptunaState.PRUNED)
        else:
            set_constraints(self.plan, trial, report.metrics)
            self.study.tell(trial, [report.metrics[name] for name in self.plan.objectives])

    def _report_value(self, trial: optuna.trial.Trial, report: TrialReport) -> bool:
        """Report the value after each learned task; return True if it was new.

        The same task is not reported twice, and Optuna accepts no intermediate values with several objectives.
        """
        learned, name = report.tasks_learned, self.plan.objectives[0]
        if len(self.plan.objectives) > 1 or learned <= self.reported.get(trial.number, 0):
            return False
        if name not in report.metrics:
            return False
        trial.report(report.metrics[name], step=learned)
        self.reported[trial.number] = learned
        return True

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Do nothing: Optuna's storage holds everything."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing, as above."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: a new searcher on the same storage is equivalent."""

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Ray pickles its Tuner for a restore that is never used; open files stay here."""
        return {}


def reference_label(algorithm: str) -> str:
    """Return the name of a reference in folders and runs."""
    return f"reference_{algorithm}"
