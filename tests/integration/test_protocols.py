"""Tiny studies of every selection protocol with the real Ray, Optuna and MLflow: what they search and report."""

from __future__ import annotations

import contextlib
import io
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
import torch
from mlflow.tracking import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from scipy import stats

from clsearch import LogRange, Study
from clsearch.data.datasets import read_data
from clsearch.execution.final_evaluation import measure
from clsearch.methods.registry import configure, label_of
from clsearch.records.test_ledger import LEDGER, read_openings
from clsearch.tasks.test_data import read_test
from clsearch.training.loop import learn_sequence, learn_task
from clsearch.training.trial_setup import build_trial

FACTOR = {"distillation_factor": LogRange(0.1, 1000)}
TINY = {
    "hidden": (16,),
    "epochs": 1,
    "learning_rate": 0.3,
    "seeds": 2,
    "report_seeds": 2,
    "sampler": "random",
    "max_concurrent": 1,  # starting a second worker takes longer than the trials do
}
REPORTING = [1000, 1001]


@dataclass(frozen=True)
class Found:
    """A study's folder, read. printed: what its script said."""

    folder: Path
    printed: str = ""

    def json(self, name: str) -> dict[str, Any]:
        return json.loads((self.folder / f"{name}.json").read_text())

    def csv(self, name: str) -> pd.DataFrame:
        return pd.read_csv(self.folder / f"{name}.csv")

    def accuracy(self, configuration: str, on: str, part: str) -> np.ndarray:
        """R [M, T+1, T] from final_accuracy.csv, whose columns are tasks by their numbers."""
        table = self.csv("final_accuracy")
        own = table[(table.configuration == configuration) & (table.on == on) & (table.part == part)]
        seeds = [group.sort_values("tasks_learned").filter(like="task_") for _, group in own.groupby("seed")]
        R = np.stack([rows.to_numpy() for rows in seeds])
        return R[:, :, [task - 1 for task in self.row(configuration, on)["tasks"]]]

    def rows(self) -> list[tuple[str, str, str, list[int]]]:
        return [(r["configuration"], r["on"], r["benchmark"], r["tasks"]) for r in self.json("final")["rows"]]

    def row(self, configuration: str, on: str) -> dict[str, Any]:
        (own,) = [r for r in self.json("final")["rows"] if (r["configuration"], r["on"]) == (configuration, on)]
        return own


def scripted(results: Path, name: str, args: list[str], **settings: Any) -> Found:
    """A study as its script runs it."""
    study = Study(algorithm="lwf", name=name, space=FACTOR, **(TINY | settings))
    with contextlib.redirect_stdout(io.StringIO()) as said, pytest.raises(SystemExit) as ended:
        study.main(["--results", str(results), *args])
    assert ended.value.code == 0
    return Found(results / name, said.getvalue())


@pytest.fixture(scope="module")
def sequence(ray_session: str, results: Path) -> Found:
    """Two objectives, two references. Over this range a higher learning rate learns more and forgets more, until it
    only forgets more.
    """
    settings = {"scenario": "domain", "distillation_factor": 1.0, "sampler": "grid", "grid_points": 4}
    settings |= {"objectives": ("average_accuracy", "average_forgetting"), "references": ("finetuning", "joint")}
    rates = {"learning_rate": LogRange(0.02, 0.07)}
    own = {name: value for name, value in TINY.items() if name != "learning_rate"}
    result = Study(algorithm="lwf", name="protocol-sequence", space=rates, results=results, **(own | settings)).run()
    assert result.exit_code == 0
    return Found(result.plan.folder)


@pytest.fixture(scope="module")
def first(ray_session: str, results: Path) -> Found:
    return scripted(results, "protocol-first", ["--protocol", "first_k", "--first-k", "2", "--trials", "2"])


@pytest.fixture(scope="module")
def phases(ray_session: str, results: Path) -> Found:
    args = ["--protocol", "two_phase", "--report-benchmark", "rotated-digits", "--trials", "2"]
    return scripted(results, "protocol-phases", args, benchmark="permuted-digits", tasks=3)


@pytest.fixture(scope="module")
def continual(ray_session: str, results: Path) -> Found:
    args = ["--protocol", "continual", "--learning-rates", "0.03", "0.3", "--sampler", "tpe"]
    return scripted(results, "protocol-continual", args)


@pytest.fixture(params=["sequence", "first", "phases", "continual"])
def any_protocol(request: pytest.FixtureRequest) -> Found:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def client(results: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{results}/mlflow.db")


def runs_of(client: MlflowClient, study: str, kind: str) -> list:
    experiment = client.get_experiment_by_name(study)
    return client.search_runs([experiment.experiment_id], f"tags.kind = '{kind}'", order_by=["tags.label"])


# What every protocol records


def test_selecting_and_reporting_seeds_share_none(any_protocol: Found) -> None:
    study, final = any_protocol.json("study"), any_protocol.json("final")
    assert study["seeds"] == final["seeds"]["selecting"] == [0, 1]
    assert study["report_seeds"] == final["seeds"]["reporting"] == REPORTING
    assert any_protocol.json("best")["seeds"] == [0, 1]
    assert sorted(set(any_protocol.csv("final_accuracy").seed)) == REPORTING


def test_every_opening_is_in_the_ledger_with_how_many_came_before(any_protocol: Found, results: Path) -> None:
    name, openings = any_protocol.folder.name, any_protocol.json("final")["openings"]
    ledger = read_openings(results)
    assert [line for line in ledger if line["study"] == name] == openings
    assert (results / LEDGER).exists()
    for opening in openings:
        earlier = ledger[: ledger.index(opening)]
        assert opening["before"] == sum(line["data"] == "digits" for line in earlier)
        assert (opening["data"], opening["algorithm"], opening["seeds"]) == ("digits", "lwf", REPORTING)
    assert len(openings) == 1  # of two_phase too, whose two benchmarks are of the same digits


def test_final_metrics_are_those_of_the_matrices_with_intervals_over_the_fresh_seeds(any_protocol: Found) -> None:
    for row in any_protocol.json("final")["rows"]:
        for part in ("validation", "test"):
            R = any_protocol.accuracy(row["configuration"], row["on"], part)
            assert R.shape == (2, len(row["tasks"]) + 1, len(row["tasks"]))
            values = R[:, -1].mean(1)
            bounds = stats.ttest_1samp(values, 0).confidence_interval(0.95)
            found = row[part]["average_accuracy"]
            assert (found["mean"], found["low"], found["high"]) == pytest.approx(
                (values.mean(), bounds.low, bounds.high)
            )


def test_what_was_believed_is_the_searchs_own_score(any_protocol: Found) -> None:
    best, final = any_protocol.json("best"), any_protocol.json("final")
    scores = best["scores"] if any_protocol.folder.name == "protocol-continual" else best["metrics"]
    assert final["optimism"]
    for found in final["optimism"]:
        less = -1 if "forgetting" in found["metric"] else 1
        assert found["believed"] == scores[found["metric"]]
        assert found["against_validation"] == pytest.approx(less * (found["believed"] - found["validation"]["mean"]))
        assert found["against_test"] == pytest.approx(less * (found["believed"] - found["test"]["mean"]))
    assert [found["metric"] for found in final["optimism"]] == list(final["choice"]["scores"])


def test_the_study_in_mlflow_has_the_reported_metrics_and_says_that_test_data_was_opened(
    any_protocol: Found, client: MlflowClient
) -> None:
    name, final = any_protocol.folder.name, any_protocol.json("final")
    (parent,) = runs_of(client, name, "study")
    reported = final["rows"][0]
    for part in ("validation", "test"):
        for end, key in (("", "mean"), ("/low", "low"), ("/high", "high")):
            found = parent.data.metrics[f"{part}/average_accuracy{end}"]
            assert found == pytest.approx(reported[part]["average_accuracy"][key])
    assert parent.data.tags["test_openings_before"] == str(final["openings"][0]["before"])
    assert parent.data.tags["protocol"] == any_protocol.json("study")["protocol"]
    names = {run.info.run_name for run in runs_of(client, name, "final")}
    chosen = {"chosen": f"{label_of(any_protocol.json('study')['algorithm'])} (chosen)"}
    assert names == {
        f"final {chosen.get(r['configuration']) or label_of(r['algorithm'])}, {r['on'].replace('_', ' ')}"
        for r in final["rows"]
    }


# end_of_sequence, two objectives, two references


def test_end_of_sequence_searches_and_reports_on_all_tasks(sequence: Found) -> None:
    study = sequence.json("study")
    assert (study["protocol"], study["tasks"], study["reported_tasks"]) == (
        "end_of_sequence",
        [1, 2, 3, 4, 5],
        [*range(1, 6)],
    )
    assert sequence.rows() == [
        (name, "full_sequence", "split-digits", [1, 2, 3, 4, 5]) for name in ("chosen", "finetuning", "joint")
    ]


def test_the_choice_learned_the_sequence_on_fresh_seeds(sequence: Found) -> None:
    settings = sequence.row("chosen", "full_sequence")["config"]
    assert settings["learning_rate"] == sequence.json("best")["values"]["learning_rate"]
    expected = learn_sequence(build_trial(configure("lwf", settings), REPORTING)).accuracy
    np.testing.assert_array_equal(sequence.accuracy("chosen", "full_sequence", "validation"), expected)


def test_optimism_is_of_the_same_metric_on_fresh_seeds(sequence: Found) -> None:
    accuracy, forgetting = sequence.json("final")["optimism"]
    for part in ("validation", "test"):
        R = sequence.accuracy("chosen", "full_sequence", part)
        lost = np.stack([R[:, j:5, j - 1].max(1) - R[:, 5, j - 1] for j in range(1, 5)])
        assert accuracy[part]["mean"] == pytest.approx(R[:, 5].mean())
        assert forgetting[part]["mean"] == pytest.approx(lost.mean())


@pytest.mark.parametrize("reference", ["finetuning", "joint"])
def test_references_are_paired_with_the_choice_over_the_fresh_seeds(sequence: Found, reference: str) -> None:
    for part in ("validation", "test"):
        own, other = (sequence.accuracy(name, "full_sequence", part)[:, 5].mean(1) for name in ("chosen", reference))
        bounds = stats.ttest_rel(own, other).confidence_interval(0.95)
        found = sequence.row(reference, "full_sequence")[part]["chosen_minus_this"]
        assert (found["mean"], found["low"], found["high"]) == pytest.approx(
            ((own - other).mean(), bounds.low, bounds.high)
        )
    assert sequence.row(reference, "full_sequence")["algorithm"] == reference
    assert reference in sequence.json("best")["references"]


def test_intransigence_is_measured_on_fresh_seeds_against_joint(sequence: Found) -> None:
    for part in ("validation", "test"):
        joint, own = (sequence.accuracy(name, "full_sequence", part) for name in ("joint", "chosen"))
        expected = np.mean([joint[:, j, j - 1] - own[:, j, j - 1] for j in range(1, 6)])
        assert sequence.row("chosen", "full_sequence")[part]["intransigence"]["mean"] == pytest.approx(expected)
        assert "intransigence" not in sequence.row("joint", "full_sequence")[part]


def brute_force_front(table: pd.DataFrame) -> set[int]:
    """Numbers of the trials that no other is better than: more accuracy, less forgetting."""
    points = [(row.number, row.average_accuracy, row.average_forgetting) for row in table.itertuples()]
    return {
        n
        for n, accuracy, forgetting in points
        if not any(a >= accuracy and f <= forgetting and (a > accuracy or f < forgetting) for _, a, f in points)
    }


def test_the_front_is_of_all_trials_those_that_no_other_is_better_than(sequence: Found) -> None:
    trials, front = sequence.csv("trials"), sequence.csv("front")
    assert set(trials.state) == {"finished"}
    expected = brute_force_front(trials)
    assert set(front.number) == expected
    assert 1 < len(expected) < len(trials)
    assert sequence.json("best")["front"] == list(
        trials[trials.number.isin(expected)].sort_values("average_accuracy", ascending=False).label
    )
    pd.testing.assert_frame_equal(
        front.sort_values("label", ignore_index=True), trials[trials.number.isin(expected)].reset_index(drop=True)
    )


def test_the_best_is_the_knee_of_the_front(sequence: Found) -> None:
    front = sequence.csv("front").set_index("label")
    points = np.stack([front.average_accuracy, -front.average_forgetting], 1)
    a, b = points[points[:, 0].argmin()], points[points[:, 0].argmax()]
    beyond = (b - a)[0] * (points - a)[:, 1] - (b - a)[1] * (points - a)[:, 0]  # the line through the ends
    best = sequence.json("best")
    assert best["label"] == front.index[beyond.argmax()]
    assert beyond.max() > 0  # so the knee is no end
    assert best["objectives"] == ["average_accuracy", "average_forgetting"]
    assert sequence.json("final")["choice"]["label"] == best["label"]


def test_references_take_the_learning_rate_of_the_knee(sequence: Found) -> None:
    best = sequence.json("best")["values"]["learning_rate"]
    assert list(sequence.csv("references").learning_rate) == [best, best]
    for reference in ("finetuning", "joint"):
        assert sequence.row(reference, "full_sequence")["config"]["learning_rate"] == best


def test_optunas_best_trials_are_our_front(sequence: Found) -> None:
    storage = JournalStorage(JournalFileBackend(str(sequence.folder / "optuna.journal")))
    study = optuna.load_study(study_name="protocol-sequence", storage=storage)
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert {trial.number for trial in study.best_trials} == set(sequence.csv("front").number)
    table = sequence.csv("trials").set_index("number")
    for trial in study.get_trials():
        assert trial.values == pytest.approx([*table.loc[trial.number, ["average_accuracy", "average_forgetting"]]])


def test_the_front_is_drawn(sequence: Found) -> None:
    for name in ("front.png", "response.png"):
        assert (sequence.folder / name).read_bytes().startswith(b"\x89PNG")


# first_k


def test_first_k_searches_on_the_first_tasks_and_reports_on_the_others(first: Found) -> None:
    study = first.json("study")
    assert (study["protocol"], study["tasks"], study["reported_tasks"]) == ("first_k", [1, 2], [3, 4, 5])
    assert {"--protocol", "first_k", "--first-k"} <= set(study["command"])
    assert first.rows() == [
        (name, on, "split-digits", tasks)
        for on, tasks in (("reported", [3, 4, 5]), ("full_sequence", [1, 2, 3, 4, 5]))
        for name in ("chosen", "finetuning")
    ]


def test_trials_of_first_k_know_of_no_later_task(first: Found) -> None:
    for label in ("trial_00000", "trial_00001", "reference_finetuning"):
        accuracy = pd.read_csv(first.folder / "trials" / label / "accuracy.csv")
        assert list(accuracy.columns) == ["seed", "tasks_learned", "task_01", "task_02"]
        assert sorted(set(accuracy.tasks_learned)) == [0, 1, 2]
    trials = first.csv("trials")
    assert list(trials.tasks_learned) == [2, 2]
    assert not [name for name in trials.columns if "task_03" in name]
    assert first.json("best")["cost"]["task_trainings"] == 2 * 2 * 2


def test_first_k_is_reported_on_fresh_weights_that_learn_the_later_tasks(first: Found) -> None:
    values = first.json("best")["values"]
    for name, algorithm in (("chosen", "lwf"), ("finetuning", "finetuning")):
        row = first.row(name, "reported")
        config = configure(algorithm, row["config"])
        assert {key: row["config"][key] for key in values if key in row["config"]} == (
            values if name == "chosen" else {}
        )
        data, test = read_data(config.source, None), read_test(config)
        expected = measure(config, REPORTING, data, test, (3, 4, 5))
        alone = learn_sequence(build_trial(config, REPORTING, sequence=(3, 4, 5)))
        assert torch.equal(expected["validation"], alone.accuracy)
        for part in ("validation", "test"):
            found = first.accuracy(name, "reported", part)
            np.testing.assert_array_equal(found, expected[part])


def test_optimism_of_first_k_is_of_the_first_tasks_and_its_test_of_the_later_ones(first: Found) -> None:
    (found,) = first.json("final")["optimism"]
    R = first.accuracy("chosen", "full_sequence", "validation")
    assert found["validation"]["mean"] == pytest.approx(R[:, 2, :2].mean())
    later = first.accuracy("chosen", "reported", "test")
    assert found["test"]["mean"] == pytest.approx(later[:, 3].mean())


def test_a_study_prints_its_optimism_and_that_test_data_was_opened(first: Found) -> None:
    said = " ".join(first.printed.split())
    assert "Final evaluation on 2 fresh seeds (1000 to 1001)" in said
    assert "reported: tasks 3 to 5, fresh weights" in said
    assert "full sequence of split-digits" in said
    assert "Optimism: the search estimated" in said
    assert "The test data of digits was opened once for this evaluation, after the choice" in said


def write_classes(root: Path, noisy: set[int], seed: int) -> None:
    """MNIST's training files: 12 images a class with a bright row that tells it, but noise alone for some classes."""
    clean, noise = np.random.default_rng(0), np.random.default_rng(seed)
    labels = np.repeat(np.arange(10, dtype=np.uint8), 12)
    images = clean.integers(0, 60, (len(labels), 28, 28), dtype=np.uint8)
    images[np.arange(len(labels)), 2 * labels] = 250
    for i, label in enumerate(labels):
        if label in noisy:
            images[i] = noise.integers(0, 256, (28, 28), dtype=np.uint8)
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, len(labels), 28, 28) + images.tobytes())
    (raw / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, len(labels)) + labels.tobytes())


def test_what_later_tasks_hold_changes_nothing_of_a_search_on_the_first(
    ray_session: str, results: Path, tmp_path: Path
) -> None:
    """Without a final evaluation, which needs no test files."""
    tables, references = {}, {}
    args = ["--protocol", "first_k", "--first-k", "2", "--no-final", "--trials", "2"]
    for name, noisy in (("clean", set()), ("noise", {4, 5, 6, 7, 8, 9})):
        root = tmp_path / name
        write_classes(root, noisy, seed=1)
        study = f"protocol-{name}"
        found = scripted(results, study, [*args, "--data-root", str(root)], benchmark="split-mnist", batch_size=8)
        tables[name] = found.csv("trials").drop(columns="seconds")
        references[name] = found.csv("references").drop(columns="seconds")
        assert not list(found.folder.glob("final*"))
        assert found.json("study")["report_seeds"] == []
        assert "--no-final" in found.json("study")["command"]
        assert not [line for line in read_openings(results) if line["study"] == study]
    assert {"average_accuracy", "accuracy/task_02", "train/loss", "forgetting/task_01"} <= set(tables["clean"])
    pd.testing.assert_frame_equal(tables["clean"], tables["noise"], check_exact=True)
    pd.testing.assert_frame_equal(references["clean"], references["noise"], check_exact=True)
    config = found.json("best")["config"]
    later = [
        learn_sequence(build_trial(configure("lwf", config | {"data_root": tmp_path / name}), [0])).accuracy[0, 5]
        for name in ("clean", "noise")
    ]
    assert not torch.equal(*later)  # the whole sequence does see it


# two_phase


def test_two_phase_searches_on_one_benchmark_and_reports_on_another(phases: Found) -> None:
    study = phases.json("study")
    assert (study["protocol"], study["tasks"], study["reported_tasks"]) == ("two_phase", [1, 2, 3], [1, 2, 3])
    assert (study["config"]["benchmark"], study["report_benchmark"]) == ("permuted-digits", "rotated-digits")
    assert phases.rows() == [
        (name, on, benchmark, [1, 2, 3])
        for on, benchmark in (("reported", "rotated-digits"), ("full_sequence", "permuted-digits"))
        for name in ("chosen", "finetuning")
    ]


def test_the_hyperparameters_are_frozen_for_the_second_benchmark(phases: Found) -> None:
    reported, full = (phases.row("chosen", on)["config"] for on in ("reported", "full_sequence"))
    assert reported == full | {"benchmark": "rotated-digits"}
    assert full["distillation_factor"] == phases.json("best")["values"]["distillation_factor"]
    for on, settings in (("reported", reported), ("full_sequence", full)):
        expected = learn_sequence(build_trial(configure("lwf", settings), REPORTING)).accuracy
        np.testing.assert_array_equal(phases.accuracy("chosen", on, "validation"), expected)


def test_optimism_of_two_phase_is_of_the_first_benchmark_and_its_test_of_the_second(phases: Found) -> None:
    (found,) = phases.json("final")["optimism"]
    validation = phases.accuracy("chosen", "full_sequence", "validation")
    assert found["validation"]["mean"] == pytest.approx(validation[:, 3].mean())
    test = phases.accuracy("chosen", "reported", "test")
    assert found["test"]["mean"] == pytest.approx(test[:, 3].mean())


# continual


def kept_of(found: Found) -> pd.DataFrame:
    attempts = found.csv("attempts")
    return attempts[attempts.kept & (attempts.phase == "method")]


def test_continual_keeps_every_attempt_and_what_each_task_ended_with(continual: Found) -> None:
    attempts, kept, best = continual.csv("attempts"), kept_of(continual), continual.json("best")
    assert list(kept.task) == [1, 2, 3, 4, 5]
    assert best["label"] == "continual"
    assert best["per_task"] == [
        {"learning_rate": row.learning_rate, "distillation_factor": row.distillation_factor}
        for row in kept.itertuples()
    ]
    assert best["cost"]["task_trainings"] == 2 * len(attempts)
    assert best["cost"]["seconds"] == pytest.approx(attempts.seconds.sum())
    assert best["scores"] == {"learning_accuracy": pytest.approx(kept.accuracy.mean())}
    rates = attempts[attempts.phase == "learning_rate"]
    assert list(rates.task) == [t for t in range(1, 6) for _ in range(2)]
    for task, own in rates.groupby("task"):
        bar = 0.8 * own.accuracy.max()
        tried = attempts[(attempts.task == task) & (attempts.phase == "method")]
        assert list(tried.bar) == pytest.approx([bar] * len(tried))
        assert list(tried.distillation_factor) == [1000 / 2**n for n in range(len(tried))]
        assert list(tried.accuracy.fillna(-1) >= bar)[:-1] == [False] * (len(tried) - 1)
    assert not (continual.folder / "trials.csv").exists()


def test_continual_reports_on_the_same_sequence_with_each_tasks_own_values(continual: Found) -> None:
    study, per_task = continual.json("study"), continual.json("best")["per_task"]
    assert (study["protocol"], study["tasks"], study["reported_tasks"]) == ("continual", [*range(1, 6)], [*range(1, 6)])
    assert continual.rows() == [
        (name, "full_sequence", "split-digits", [1, 2, 3, 4, 5]) for name in ("chosen", "finetuning")
    ]
    assert continual.row("chosen", "full_sequence")["per_task"] == per_task
    rates = [{"learning_rate": values["learning_rate"]} for values in per_task]
    assert continual.row("finetuning", "full_sequence")["per_task"] == rates
    for name, algorithm, values in (("chosen", "lwf", per_task), ("finetuning", "finetuning", rates)):
        config = continual.row(name, "full_sequence")["config"]
        state = None
        for own in values:
            run = build_trial(configure(algorithm, config | own), REPORTING)
            state = learn_task(run, state or run.initial_state())
        np.testing.assert_array_equal(continual.accuracy(name, "full_sequence", "validation"), state.accuracy)


def test_optimism_of_continual_is_of_learning_accuracy(continual: Found) -> None:
    (found,) = continual.json("final")["optimism"]
    assert found["metric"] == "learning_accuracy"
    for part in ("validation", "test"):
        R = continual.accuracy("chosen", "full_sequence", part)
        expected = np.mean([R[:, j, j - 1] for j in range(1, 6)])
        assert found[part]["mean"] == pytest.approx(expected)


def test_mlflow_has_a_step_per_task_that_continual_decided(continual: Found, client: MlflowClient) -> None:
    (child,) = runs_of(client, "protocol-continual", "trial")
    assert (child.info.status, child.data.tags["state"]) == ("FINISHED", "finished")
    attempts, kept = continual.csv("attempts"), kept_of(continual)
    expected: dict[str, Callable[[Any], float]] = {
        "learning_rate": lambda row: row.learning_rate,
        "distillation_factor": lambda row: row.distillation_factor,
        "accuracy": lambda row: row.accuracy,
        "bar": lambda row: row.bar,
        "attempts": lambda row: sum(attempts.task == row.task),
    }
    for name, value in expected.items():
        history = client.get_metric_history(child.info.run_id, name)
        assert [(point.step, point.value) for point in history] == [
            (row.task, pytest.approx(value(row))) for row in kept.itertuples()
        ], name
    assert not {"learning_rate", "distillation_factor"} & set(child.data.params)


def test_continual_prints_every_attempt(continual: Found) -> None:
    said = " ".join(continual.printed.split())
    assert "Chosen task by task, on the current task's validation data" in said
    for row in continual.csv("attempts").itertuples():
        assert f"{100 * row.accuracy:.1f}" in said or np.isnan(row.accuracy)
    assert "Mean accuracy on each task right after learning it" in said
