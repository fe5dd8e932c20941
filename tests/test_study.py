"""The command line of a study, up to where Ray would start."""

import base64
import json
import re
import runpy
import shlex
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from clsearch import SPACES, ConfigError, LogRange, Range, Study
from clsearch.common.formatting import relative_path
from clsearch.config.trial import TrialConfig
from clsearch.data.datasets import training_data
from clsearch.execution.sensitivity import check_sensitivity
from clsearch.methods.registry import BUILT_IN, preset_settings, presets
from clsearch.records.ranking import choice_of, rank, rerun_command
from clsearch.records.writer import StudyWriter
from clsearch.reporting.result import StudyResult
from clsearch.tracking.store_check import check_tracking
from tests.builders import (
    STUDIES,
    closed_port,
    final_of,
    http_port,
    measured_of,
    plan_of,
    planned,
    record_of,
    silent_port,
    study_of,
    write_images,
)

SEARCHED = {
    "lwf_temperature_sweep": {"distillation_factor", "distillation_temperature"},
    "ewc_penalty_sweep": {"penalty_factor", "penalty_p_norm"},
    "lwf_ewc_together": {"distillation_factor", "distillation_temperature", "penalty_factor"},
    "plain_l2": {"penalty_factor"},
    "amnesiac_lwf": {"distillation_factor", "distillation_temperature"},
}


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch):
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", ["studies/mine.py"])


@pytest.fixture
def refused(tmp_path, capsys):
    """Runs a study's command line, which must exit 2 and leave nothing below --results; gives what it printed."""

    def run(*args, algorithm="lwf", results=None, **settings):
        results = results or tmp_path / "out"
        before = sorted(results.rglob("*")) if results.is_dir() else []
        with pytest.raises(SystemExit) as stopped:
            study_of(algorithm, **settings).main([*args, "--results", str(results)])
        assert stopped.value.code == 2
        assert (sorted(results.rglob("*")) if results.is_dir() else []) == before
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return out + err

    return run


CONFIGURATION = [
    # algorithm, options, field, rule, value
    (
        "lwf",
        "--benchmark nonsense",
        "benchmark",
        "must be one of split-digits,.* permuted-mnist,.* or folder:PATH",
        "'nonsense'",
    ),
    ("lwf", "--trials 0", "trials", "must be greater than or equal to 1", "0"),
    ("lwf", "--trials -3", "trials", "must be greater than or equal to 1", "-3"),
    ("lwf", "--seeds 0", "seeds", "must be greater than or equal to 1", "0"),
    ("lwf", "--learning-rate nan", "learning_rate", "must be a finite number", "nan"),
    ("lwf", "--learning-rate inf", "learning_rate", "must be a finite number", "inf"),
    ("lwf", "--learning-rate -1", "learning_rate", "must be greater than 0", "-1"),
    ("lwf", "--learning-rate 0", "learning_rate", "must be greater than 0", "0"),
    ("lwf", "--distillation-factor 0 10", "distillation_factor", "must be greater than 0", "0"),
    ("lwf", "--distillation-factor 10 1", "distillation_factor", "a range must go from low to high", "10 to 1"),
    ("lwf", "--distillation-factor 1 nan", "distillation_factor", "must be a finite number", "nan"),
    ("lwf", "--distillation-factor 1 2 3", "distillation_factor", "one value or a range of two", "1.0 2.0 3.0"),
    ("lwf", "--distillation-temperature -1", "distillation_temperature", "must be greater than 0", "-1"),
    ("ewc", "--penalty-p-norm 0.5", "penalty_p_norm", "must be greater than or equal to 1", "0.5"),
    ("ewc", "--penalty-p-norm 0.5 2", "penalty_p_norm", "must be greater than or equal to 1", "0.5"),
    ("ewc", "--penalty-factor 0", "penalty_factor", "must be greater than 0", "0"),
    ("lwf", "--tasks 6", "tasks", "at most 5 tasks", "6"),
    ("lwf", "--tasks 1", "tasks", "must be greater than or equal to 2", "1"),
    ("lwf", "--tasks 3 --scenario domain", "tasks", "must divide 10", "3"),
    ("lwf", "--hidden 8 0", "hidden", "every width must be at least 1", "8 0"),
    ("lwf", "--sampler grid --trials 24", "trials", "a grid of 5 points in 2 dimensions has 25 trials", "24"),
    ("lwf", "--sampler grid --grid-points 1", "grid_points", "must be greater than or equal to 2", "1"),
    ("lwf", "--name ../evil", "name", "must begin with a letter or digit", "'../evil'"),
    ("lwf", "--iterations 50 --epochs 2", "epochs, iterations", "exactly one of the two", "2, 50"),
    ("lwf", "--gpus-per-trial nan", "gpus_per_trial", "must be a finite number", "nan"),
    ("lwf", "--momentum 1", "momentum", "must be less than 1", "1.0"),
    ("lwf", "--references joint joint", "references", "must name each at most once", "('joint', 'joint')"),
    ("lwf", "--references finetuning independent --scenario class", "scenario", "must be task or domain", "class"),
    ("lwf", "--benchmark folder:", "benchmark", "must be one of .* or folder:PATH", "'folder:'"),
    ("lwf", "--benchmark folder:/nowhere/pets", "benchmark", "the folder must exist", "folder:/nowhere/pets"),
    ("lwf", "--benchmark rotated-cifar10", "benchmark", "must be one of", "'rotated-cifar10'"),
    ("lwf", "--grouping /nowhere/groups", "grouping", "must be a text file that can be read", "/nowhere/groups"),
    ("lwf", "--image-size 32", "image_size", "acts with folder:PATH only", "32 with split-digits"),
    ("lwf", "--image-size 3", "image_size", "must be greater than or equal to 4", "3"),
    ("lwf", "--image-channels 3", "image_channels", "acts with folder:PATH only", "3 with split-digits"),
    (
        "lwf",
        "--benchmark permuted-digits --random-crop 2",
        "random_crop, horizontal_flip",
        "act on images, and permuted pixels are none",
        "2, False with permuted-digits",
    ),
    (
        "lwf",
        "--benchmark permuted-digits --horizontal-flip",
        "random_crop, horizontal_flip",
        "act on images, and permuted pixels are none",
        "0, True with permuted-digits",
    ),
    ("lwf", "--random-crop 8", "random_crop", "must be less than the images' 8 pixels", "8"),
    ("lwf", "--random-crop -1", "random_crop", "must be greater than or equal to 0", "-1"),
    ("lwf", "--backbone vgg", "backbone", "must be one of mlp, cnn, resnet18", "'vgg'"),
    ("lwf", "--backbone resnet18 --hidden 8", "hidden", "acts with mlp and cnn only", "8 with resnet18"),
    ("lwf", "--backbone cnn --hidden", "hidden", "must have at least one width with cnn", "none"),
    ("lwf", "--milestones 0.3 0.6", "milestones", "acts with schedule = step only", "0.3 0.6 with constant"),
    ("lwf", "--schedule cosine --decay 0.5", "decay", "acts with schedule = step only", "0.5 with cosine"),
    ("lwf", "--schedule step --milestones 0.6 0.3", "milestones", "must rise, above 0 and below 1", "0.6 0.3"),
    ("lwf", "--schedule step --milestones 0.5 1", "milestones", "must rise, above 0 and below 1", "0.5 1"),
    ("lwf", "--schedule step --decay 1", "decay", "must be less than 1", "1.0"),
    ("lwf", "--warmup 1", "warmup", "must be less than 1", "1.0"),
    ("lwf", "--sampler nsga2", "sampler", "needs two or more", "one"),
    (
        "lwf",
        "--sampler nsga2 --objectives average_accuracy average_forgetting --trials 7",
        "trials",
        "must be at least 8 with nsga2, two generations",
        "7",
    ),
    ("lwf", "--objectives accuracy", "objectives", "must be metrics of this benchmark, average_accuracy, ", "accuracy"),
    (
        "lwf",
        "--objectives average_accuracy accuracy/task_04",
        "objectives",
        "must be metrics of this benchmark, .*accuracy/task_01..03, forgetting/task_01..02",
        "accuracy/task_04",
    ),
    (
        "lwf",
        "--objectives intransigence",
        "objectives",
        "must be measured by each trial; .* learning_accuracy, so search that",
        "intransigence",
    ),
    (
        "lwf",
        "--objectives forward_transfer --scenario class",
        "objectives",
        "must be metrics of this benchmark",
        "forward_transfer",
    ),
    (
        "lwf",
        "--objectives average_accuracy average_accuracy",
        "objectives",
        "must name each at most once",
        "('average_accuracy', 'average_accuracy')",
    ),
    (
        "lwf",
        "--first-report-seed 2 --report-seeds 5",
        "first_report_seed",
        "the final evaluation's seeds, 2 to 6, must be none that the search uses",
        "2 in both",
    ),
    (
        "lwf",
        "--first-seed 1003 --report-seeds 5",
        "first_report_seed",
        "the final evaluation's seeds, 1000 to 1004, must be none that the search uses",
        "1003 to 1004 in both",
    ),
    ("lwf", "--report-seeds 0", "report_seeds", "must be greater than or equal to 1", "0"),
    ("lwf", "--first-k 2", "first_k", "acts with protocol = first_k only", "2 with end_of_sequence"),
    (
        "lwf",
        "--report-benchmark split-mnist",
        "report_benchmark",
        "acts with protocol = two_phase only",
        "split-mnist with end_of_sequence",
    ),
    (
        "lwf",
        "--protocol first_k --tasks 5 --learning-rates 0.1 1",
        "learning_rates",
        "acts with protocol = continual only",
        "(0.1, 1.0) with first_k",
    ),
    ("lwf", "--protocol first_k", "first_k", "must leave at least two of the 3 tasks to report on", "3"),
    ("lwf", "--protocol first_k --first-k 4 --tasks 5", "first_k", "must leave at least two of the 5 tasks", "4"),
    ("lwf", "--protocol first_k --first-k 1 --tasks 5", "first_k", "must be greater than or equal to 2", "1"),
    ("lwf", "--protocol two_phase", "report_benchmark", "must name the benchmark that two_phase reports on", "none"),
    (
        "lwf",
        "--protocol two_phase --report-benchmark split-digits",
        "report_benchmark",
        "must be another than the search's",
        "split-digits",
    ),
    (
        "lwf",
        "--protocol two_phase --report-benchmark nonsense",
        "report_benchmark",
        "must be one of split-digits, .* or folder:PATH",
        "'nonsense'",
    ),
    (
        "lwf",
        "--protocol two_phase --report-benchmark split-cifar100",
        "report_benchmark",
        "must have as many tasks and classes per task as split-digits, 4 3 3",
        "34 33 33 of split-cifar100",
    ),
    (
        "lwf",
        "--benchmark permuted-digits --tasks 12 --protocol two_phase --report-benchmark split-mnist",
        "report_benchmark",
        "each task needs 2 of the 10 classes of split-mnist, so at most 5 tasks",
        "12",
    ),
    (
        "ewc",
        "--protocol continual --penalty-p-norm 2 --penalty-factor 3",
        "protocol",
        "continual needs the range of a factor, from whose top it decays",
        "none",
    ),
    (
        "lwf",
        "--protocol continual --distillation-temperature 2 --sampler random",
        "sampler",
        "acts where a sampler chooses, which is not in continual",
        "random",
    ),
    (
        "lwf",
        "--protocol continual --distillation-temperature 2 --learning-rates 0.1 0",
        "learning_rates",
        "must all be greater than 0",
        "(0.1, 0.0)",
    ),
    (
        "lwf",
        "--protocol continual --distillation-temperature 2 --learning-rates 0.1 nan",
        "learning_rates",
        "must be a finite number",
        "nan",
    ),
    ("joint", "--protocol continual", "protocol", "continual goes on from the current model", "continual"),
]


@pytest.mark.parametrize(("algorithm", "options", "field", "rule", "value"), CONFIGURATION)
def test_a_bad_value_is_refused_with_field_rule_and_value(refused, tmp_path, algorithm, options, field, rule, value):
    text = refused(*options.split(), algorithm=algorithm)
    assert re.search(rf"^error: {field}: .*{rule}.*got {re.escape(value)}(\D|\.|$)", text, re.MULTILINE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("algorithm", "options", "name"),
    [
        ("lwf", "", "distillation_temperature"),
        ("ewc", "", "penalty_p_norm"),
        ("lwf", "--distillation-temperature 2 --learning-rate 0.01 1", "learning_rate"),
    ],
)
def test_a_range_of_what_continual_does_not_decay_is_refused_with_the_way_out(refused, algorithm, options, name):
    text = refused("--protocol", "continual", *options.split(), algorithm=algorithm)
    (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {name}: ")
    assert "continual" in line
    assert "; give one value" in line
    planned(study_of(algorithm), "--protocol", "continual", *options.split(), option_of(name), "2")


def test_an_objective_that_independent_networks_lack_is_refused():
    # Network j is not measured on task j + 1: `forward_transfer` is absent.
    with pytest.raises(ConfigError, match=r"^objectives: "):
        study_of("independent", space=None, objectives=("forward_transfer",))


def option_of(name):
    return "--" + name.replace("_", "-")


MACHINE = [
    ("--benchmark split-mnist", "data_root", "needs the folder of its files", "none"),
    ("--benchmark split-mnist --data-root EMPTY", "data_root", "must hold MNIST/raw/train-images", "EMPTY"),
    (
        "--protocol two_phase --report-benchmark split-mnist --data-root EMPTY",
        "data_root",
        "must hold MNIST/raw/train-images.* for split-mnist",
        "EMPTY",
    ),
    ("--gpus-per-trial 99", "gpus_per_trial", "at most what one node has", "99"),
    ("--gpus-per-trial 1.5", "gpus_per_trial", "a whole number above 1", "1.5"),
    ("--cpus-per-trial 9999", "cpus_per_trial", "at most what one node has", "9999"),
    ("--device cuda", "device", "cuda needs a share of a GPU", "0"),
]


@pytest.mark.parametrize(("options", "field", "rule", "value"), MACHINE)
def test_what_this_machine_lacks_is_refused_with_field_rule_and_value(refused, tmp_path, options, field, rule, value):
    (tmp_path / "EMPTY").mkdir()
    text = refused(*options.replace("EMPTY", str(tmp_path / "EMPTY")).split())
    value = value.replace("EMPTY", str(tmp_path / "EMPTY"))
    assert re.search(rf"^error: {field}: .*{rule}.*got {re.escape(value)}", text, re.MULTILINE)


@pytest.mark.parametrize(
    "options",
    [
        "--bogus 1",
        "--penalty-factor 1",
        "stray",
        "--references ewc",
        "--preset clarena-second",
        "--schedule linear",
        "--image-channels 2",
        "--milestones half",
    ],
)
def test_an_unknown_option_is_refused_and_named(refused, tmp_path, options):
    assert options.split()[0] in refused(*options.split())
    assert list(tmp_path.iterdir()) == []


def test_results_below_a_regular_file_are_refused(refused, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    text = refused(results=file / "sub")
    assert re.search(rf"^error: results: must be a folder that can be written; got {file}/sub", text, re.MULTILINE)


def test_another_study_is_refused_and_left_as_it_is(refused, tmp_path):
    other = study_of(results=tmp_path / "out", seeds=2).plan
    StudyWriter(other).begin()
    before = (other.folder / "study.json").read_text()
    text = refused()
    assert re.search(r"^error: seeds: must be 0 1, as in the study that .*mine holds; got 0 1 2", text, re.MULTILINE)
    assert "--name mine-2" in text
    assert "--fresh" in text
    assert (other.folder / "study.json").read_text() == before


def test_the_recorded_command_goes_on_and_does_not_start_over(tmp_path):
    assert planned(study_of(), "--fresh", "--seeds", "2").options.fresh
    assert planned(study_of(), "--fresh", "--seeds", "2").command[2:] == ["--seeds", "2"]


@pytest.mark.parametrize(
    ("server", "reason"),
    [(closed_port, "refused"), (lambda: http_port(404), "status 404"), (silent_port, "no answer in")],
    ids=["closed", "not MLflow", "silent"],
)
def test_a_tracking_server_that_does_not_answer_is_refused(refused, monkeypatch, server, reason):
    monkeypatch.setattr("clsearch.tracking.store_check.PROBE_SECONDS", 0.3)
    with server() as port:
        text = refused("--tracking-uri", f"http://127.0.0.1:{port}")
    assert re.search(
        rf"^error: tracking_uri: must be an MLflow server .*; got http://127.0.0.1:{port} \(.*{reason}",
        text,
        re.MULTILINE,
    )


def test_a_password_in_a_refused_tracking_uri_is_not_printed(refused):
    with closed_port() as port:
        text = refused("--tracking-uri", f"http://bob:secret@127.0.0.1:{port}")
    assert f"127.0.0.1:{port}" in text
    assert "secret" not in text


def test_all_problems_are_told_at_once(refused):
    text = refused("--learning-rate", "-1", "--batch-size", "0")
    assert re.findall(r"^error: (\w+):", text, re.MULTILINE) == ["batch_size", "learning_rate"]


def test_run_from_python_raises_what_the_command_line_prints(tmp_path):
    study = study_of(results=tmp_path, device="cuda")
    with pytest.raises(ConfigError, match=r"^device: cuda needs a share of a GPU"):
        study.run()
    assert list(tmp_path.iterdir()) == []


REFUSED_RUNS = """
import json, sys
from clsearch import SPACES, Study

def loaded(*args):
    study = Study(algorithm="lwf", space=SPACES["lwf"], epochs=1)
    try:
        study.main([*args, "--results", sys.argv[1]])
    except SystemExit as stopped:
        assert stopped.code == 2, stopped.code
    return sorted({"ray", "optuna", "mlflow", "torch", "pandas", "matplotlib"} & set(sys.modules))

print(json.dumps([
    loaded("--bogus", "1"),
    loaded("--learning-rate", "nan"),
    loaded("--sampler", "grid", "--trials", "3"),
    loaded("--benchmark", "split-mnist"),
    loaded("--tracking-uri", "http://127.0.0.1:1"),
    loaded("--cpus-per-trial", "9999"),
    loaded("--references", "finetuning", "independent", "--scenario", "class"),
    loaded("--distance", "mse", "--distillation-temperature", "1", "2"),
    loaded("--benchmark", "folder:/nowhere/pets"),
    loaded("--benchmark", "folder:" + sys.argv[2], "--tasks", "4"),
    loaded("--grouping", "/nowhere/groups"),
    loaded("--backbone", "vgg"),
    loaded("--backbone", "resnet18", "--hidden", "8"),
    loaded("--milestones", "0.3"),
    loaded("--objectives", "accuracy"),
    loaded("--protocol", "two_phase", "--report-benchmark", "split-cifar100"),
    loaded("--protocol", "two_phase", "--report-benchmark", "split-mnist"),
    loaded("--gpus-per-trial", "99"),
]))
"""


def test_a_refused_run_has_not_imported_what_is_slow(tmp_path):
    command = [sys.executable, "-c", REFUSED_RUNS, str(tmp_path), str(write_images(tmp_path / "pets"))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    *early, gpus = json.loads(done.stdout.splitlines()[-1])
    assert early == [[]] * 17
    assert set(gpus) <= {"torch"}  # which alone knows the machine's GPUs


# The scripts of this repository


def script(path: Path) -> Study:
    return runpy.run_path(str(path))["study"]


def test_what_each_script_of_one_study_searches_is_known_here():
    assert {path.stem for path in STUDIES} == set(SEARCHED)


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)
def test_a_script_states_its_question_and_is_a_valid_study_of_its_own_name(path):
    study = script(path)
    assert study.question.endswith("?")
    assert study.plan.options.name == path.stem
    assert set(study.plan.space) == SEARCHED[path.stem]


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)
def test_a_scripts_command_line_without_options_is_the_script(path):
    study = script(path)
    plan = planned(study)
    assert plan.command == [relative_path(Path(sys.executable)), sys.argv[0]]
    assert (plan.space, plan.config, plan.options) == (study.plan.space, study.plan.config, study.plan.options)


# The command that is recorded


def test_the_command_holds_what_differs_from_the_script_and_nothing_else():
    study = study_of("ewc", seeds=2)
    args = ["--penalty-factor", "2", "3", "--seeds", "2", "--trials", "5", "--average-over-tasks", "--hidden", "6", "4"]
    words = planned(study, *args).command
    assert words[:2] == [relative_path(Path(sys.executable)), "studies/mine.py"]
    assert "--seeds" not in words
    again = planned(study, *words[2:])
    assert again.space == {"penalty_factor": LogRange(2, 3), "penalty_p_norm": Range(1, 3)}
    assert again.config.hidden == (6, 4)
    assert again.config.average_over_tasks
    assert again.trials == 5


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--penalty-p-norm", "1.5"],
        ["--penalty-factor", "2", "3", "--penalty-p-norm", "1.25", "2.5"],
        ["--learning-rate", "0.01", "1"],
        ["--learning-rate", "1e-05"],
        ["--iterations", "7"],
        ["--scenario", "class", "--tasks", "5"],
        ["--benchmark", "permuted-digits", "--hidden", "6", "4", "--optimizer", "adam"],
        ["--average-over-tasks", "--optimizer-state", "keep", "--momentum", "0.9"],
        ["--name", "x", "--seeds", "2", "--first-seed", "4", "--sampler", "grid", "--grid-points", "2"],
        ["--results", "else where", "--tracking-uri", "sqlite:///a b.db", "--verbose", "--download"],
        ["--cpus-per-trial", "2", "--gpus-per-trial", "0.5", "--max-concurrent", "3", "--device", "cpu"],
        ["--backbone", "cnn"],
        ["--backbone", "cnn", "--hidden", "6", "4"],
        ["--backbone", "mlp"],
        ["--backbone", "resnet18", "--benchmark", "split-cifar100", "--tasks", "20", "--data-root", "my data"],
        ["--schedule", "cosine", "--warmup", "0.1", "--random-crop", "1", "--horizontal-flip"],
        ["--schedule", "step", "--milestones", "0.2", "0.4", "0.8", "--decay", "0.3"],
        ["--schedule", "step", "--milestones", "0.9"],
        ["--objectives", "average_forgetting", "accuracy/task_02", "--sampler", "nsga2", "--trials", "9"],
        ["--sampler", "qmc", "--report-seeds", "2", "--first-report-seed", "77"],
        ["--no-final"],
        ["--protocol", "first_k", "--first-k", "2", "--tasks", "5"],
        ["--protocol", "two_phase", "--report-benchmark", "split-mnist"],
        ["--protocol", "continual", "--penalty-p-norm", "2", "--learning-rates", "0.01", "0.1"],
    ],
    ids=" ".join,
)
def test_the_command_makes_the_same_plan_again(args):
    study = study_of("ewc")
    plan = planned(study, *args)
    assert planned(study, *plan.command[2:]) == plan


@pytest.mark.parametrize("algorithm", ["lwf", "ewc"])
def test_a_study_from_python_has_no_command(algorithm):
    assert study_of(algorithm).plan.command is None


def test_a_study_takes_every_field_of_its_options_and_configuration_as_a_keyword(tmp_path):
    study = study_of("lwf", results=tmp_path, seeds=2, cpus_per_trial=2, optimizer="adam", teachers="last")
    assert study.plan.options.seeds == 2
    assert study.plan.options.cpus_per_trial == 2
    config = study.plan.config
    assert isinstance(config, TrialConfig)
    assert (config.optimizer, config.teachers) == ("adam", "last")


def test_a_value_fixed_at_the_fields_default_stays_fixed_in_the_command():
    plan = planned(study_of("ewc"), "--penalty-p-norm", "2")
    assert plan.command[2:] == ["--penalty-p-norm", "2.0"]
    assert "penalty_p_norm" not in planned(study_of("ewc"), *plan.command[2:]).space


def test_a_range_keeps_every_digit_in_the_command():
    plan = planned(study_of("ewc"), "--penalty-factor", "0.12345678", "3")
    assert planned(study_of("ewc"), *plan.command[2:]).space == plan.space


@pytest.mark.parametrize("value", ["True", "False"])
def test_train_head_survives_the_command_whatever_the_script_says(value):
    for study in (study_of(train_head=value == "False"), study_of()):
        plan = planned(study, "--train-head", value)
        assert planned(study, *plan.command[2:]).config.train_head is (value == "True")


def test_no_password_reaches_the_command():
    plan = planned(study_of(), "--tracking-uri", "http://bob:secret@127.0.0.1:1")
    assert plan.options.tracking_uri == "http://bob:secret@127.0.0.1:1"
    assert "secret" not in " ".join(plan.command)
    assert "http://127.0.0.1:1" in plan.command


def test_a_scripts_trials_do_not_bind_where_nothing_is_left_to_search():
    study = study_of("ewc", trials=7)
    assert planned(study, "--penalty-factor", "1", "--penalty-p-norm", "2").trials == 1


def test_epochs_and_iterations_together_are_refused_even_at_the_scripts_value():
    with pytest.raises(ConfigError, match="exactly one of the two"):
        planned(study_of(epochs=1), "--epochs", "1", "--iterations", "5")


@pytest.mark.filterwarnings("error")
def test_a_script_may_give_lists_and_text_where_tuples_and_paths_are_meant():
    study = study_of(hidden=[8, 4], scenario="class", results="out")
    plan = planned(study, "--seeds", "1")
    assert plan.config.hidden == (8, 4)
    assert plan.command[2:] == ["--seeds", "1"]


@pytest.mark.parametrize(
    "uri",
    [
        "localhost:5000",
        "127.0.0.1:5000",
        "foo://x",
        "http://127.0.0.1:x",
        "http://a b:5",
        "http://[::1",
        "htp://bob:secret@h",
    ],
)
def test_a_tracking_uri_that_is_none_is_refused_without_its_password(uri, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        study_of().main(["--tracking-uri", uri, "--results", str(tmp_path / "new")])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: tracking_uri: must be")
    assert "secret" not in said
    assert not (tmp_path / "new").exists()


def test_a_server_behind_a_password_is_asked_with_it(tmp_path):
    seen = []

    class Guarded(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.headers["Authorization"])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"OK")

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Guarded)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    check_tracking(f"http://bob:sec%40ret@127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()
    thread.join()
    assert base64.b64decode(seen[0].removeprefix("Basic ")) == b"bob:sec@ret"


@pytest.mark.parametrize("name", ["mlartifacts", "mlflow.db", "test_openings.jsonl", "test_openings.lock"])
def test_names_of_what_lies_beside_the_studies_are_no_study(name, tmp_path, capsys):
    with pytest.raises(SystemExit):
        study_of().main(["--name", name, "--results", str(tmp_path)])
    assert "name: must not be one of" in capsys.readouterr().err


def test_an_unknown_setting_in_python_lists_those_of_the_study_too():
    with pytest.raises(ConfigError, match=r"trial: unknown.*; known are .*trials"):
        study_of(trial=5)


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["--name", "x" * 300], "error: name: "),
        (["--results", "~nosuchuser/x"], "error: results: must lie in a home that exists"),
        (["--data-root", "~nosuchuser/x"], "error: data_root: must lie in a home that exists"),
        (
            ["--tracking-uri", "sqlite:////nonexistent/d/x.db"],
            "error: tracking_uri: must be a store that can be opened",
        ),
        (["--tracking-uri", "file:///tmp/x"], "error: tracking_uri: must begin with"),
    ],
)
def test_paths_and_stores_that_cannot_be_are_refused(args, problem, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        study_of().main([*(["--results", str(tmp_path)] if "--results" not in args else []), *args])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(problem)


def test_a_database_that_does_not_answer_is_refused_without_its_password(capsys):
    with closed_port() as port, pytest.raises(SystemExit) as ended:
        study_of().main(["--tracking-uri", f"postgresql://bob:secret@127.0.0.1:{port}/db"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "refused" in said
    assert "secret" not in said


def test_a_scripts_trials_do_not_bind_a_grid_that_the_user_asks_for():
    plan = planned(study_of("ewc", trials=7), "--sampler", "grid", "--grid-points", "3")
    assert plan.trials == 9


def test_a_scripts_protocol_may_be_left_for_another():
    study = study_of("ewc", protocol="first_k", first_k=2, tasks=5, trials=7, final=False)
    assert planned(study).command[2:] == []
    for args in (["--protocol", "end_of_sequence"], ["--protocol", "two_phase", "--report-benchmark", "split-mnist"]):
        plan = planned(study, *args)
        assert (plan.protocol, plan.options.first_k) == (args[1], None)
        assert (plan.tasks, plan.trials, plan.options.final) == ((1, 2, 3, 4, 5), 7, False)
        assert planned(study, *plan.command[2:]) == plan
    assert planned(study, "--protocol", "first_k").tasks == (1, 2)
    assert planned(study, "--final").options.final


def test_a_scripts_sampler_and_budget_do_not_bind_continual_which_has_none():
    study = study_of("ewc", trials=9, sampler="nsga2", objectives=("average_accuracy", "average_forgetting"))
    plan = planned(study, "--protocol", "continual", "--penalty-p-norm", "2")
    assert (plan.trials, list(plan.space)) == (1, ["penalty_factor"])
    assert planned(study, *plan.command[2:]) == plan


def test_continual_on_the_command_line_of_a_script_with_default_ranges_searches_the_factors_alone():
    study = study_of("lwf_ewc", space=None)
    plan = planned(study, "--protocol", "continual")
    assert list(plan.space) == ["distillation_factor", "penalty_factor"]
    assert plan.space == {name: study.plan.space[name] for name in plan.space}
    assert planned(study, *plan.command[2:]) == plan


# Default ranges, which follow the settings

DEFAULT = SPACES["ewc"]


def following(algorithm="ewc", **settings):
    """A script that leaves the space to the defaults."""
    return study_of(algorithm, space=None, **settings)


def test_a_space_that_is_not_given_is_the_default_one():
    for algorithm in BUILT_IN:
        requests = {"unlearn": ("3:1",)} if algorithm.startswith("amnesiac") else {}
        assert following(algorithm, **requests).plan.space == SPACES[algorithm]
    assert Study(algorithm="lwf", epochs=1).plan.space == SPACES["lwf"]


def test_the_default_ranges_follow_the_keywords():
    assert following(fisher="batch", batch_size=100).plan.space["penalty_factor"] == LogRange(10, 1e7)
    assert "distillation_temperature" not in following("lwf", distance="mse").plan.space


@pytest.mark.parametrize("value", [3.0, 1.0])
def test_a_keyword_fixes_what_the_default_space_would_search(value):
    plan = following(penalty_factor=value).plan
    assert plan.space == {"penalty_p_norm": DEFAULT["penalty_p_norm"]}
    assert plan.trial_config({"penalty_p_norm": 2}).penalty_factor == value
    assert following(penalty_factor=value, penalty_p_norm=2).plan.space == {}


def test_an_explicit_space_never_follows():
    space = {"penalty_factor": LogRange(0.1, 1e5)}
    study = study_of("ewc", space=space, fisher="batch")
    assert study.plan.space == space
    assert planned(study, "--fisher", "batch", "--fisher-scale", "per_parameter").space == space
    assert study_of("ewc", space={}, fisher="batch").plan.space == {}
    assert planned(study_of("ewc", space={})).space == {}


def test_a_temperature_in_an_explicit_space_is_refused_where_the_distance_has_none(refused):
    text = refused("--distance", "mse")
    assert "error: distillation_temperature: must not be searched where distance is mse" in text


@pytest.mark.parametrize(
    ("args", "space"),
    [
        ([], DEFAULT),
        (["--fisher", "batch"], DEFAULT | {"penalty_factor": LogRange(3, 3e6)}),
        (["--fisher=batch"], DEFAULT | {"penalty_factor": LogRange(3, 3e6)}),
        (["--fisher", "batch", "--batch-size", "100"], DEFAULT | {"penalty_factor": LogRange(10, 1e7)}),
        (["--fisher", "batch", "--penalty-factor", "2", "30"], DEFAULT | {"penalty_factor": LogRange(2, 30)}),
        (["--penalty-factor", "0.1", "1e5", "--fisher", "batch"], DEFAULT),
        (["--fisher", "batch", "--penalty-factor=2", "30"], DEFAULT | {"penalty_factor": LogRange(2, 30)}),
        (["--fisher", "batch", "--penalty_factor", "2", "30"], DEFAULT | {"penalty_factor": LogRange(2, 30)}),
        (["--fisher", "batch", "--penalty-factor", "2"], {"penalty_p_norm": DEFAULT["penalty_p_norm"]}),
        (["--penalty-p-norm", "2"], {"penalty_factor": DEFAULT["penalty_factor"]}),
        (["--penalty-p-norm", "1.5", "2"], DEFAULT | {"penalty_p_norm": Range(1.5, 2)}),
        (["--learning-rate", "0.01", "0.1"], DEFAULT | {"learning_rate": LogRange(0.01, 0.1)}),
        (["--penalty-factor", "2", "--penalty-p-norm", "2"], {}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_ranges_that_the_user_does_not_give_follow_and_given_ones_do_not(args, space):
    plan = planned(following(), *args)
    assert plan.space == space
    again = planned(following(), *plan.command[2:])
    assert again == plan, plan.command[2:]


@pytest.mark.parametrize(
    "args",
    [
        ["--fisher", "batch"],
        ["--fisher", "batch", "--penalty-factor", "0.1", "1e5"],
        ["--fisher", "batch", "--penalty-factor", "5"],
        ["--preset", "clarena-first"],
        ["--references", "joint", "independent"],
        ["--references"],
    ],
    ids=" ".join,
)
def test_the_best_of_a_space_that_followed_is_trained_again_as_it_was(args):
    study = following()
    plan = planned(study, *args)
    values = {name: r.points(3)[1] for name, r in plan.space.items()}
    words = shlex.split(rerun_command(plan, record_of(plan, 3, [0.5, 0.6, 0.7], values)))
    again = planned(study, *words[2:])
    assert again.space == {}
    assert again.trials == 1
    assert again.config == plan.trial_config(values)
    assert again.references == plan.references


def test_a_distance_with_a_temperature_brings_back_the_temperature_that_a_script_had_none_of():
    plan = planned(following("lwf", distance="mse"), "--distance", "kl")
    assert plan.space == following("lwf", distance="kl").plan.space


def test_a_distance_without_a_temperature_drops_it_from_a_default_space():
    plan = planned(following("lwf"), "--distance", "mse")
    assert plan.space == {"distillation_factor": SPACES["lwf"]["distillation_factor"]}
    assert planned(following("lwf"), *plan.command[2:]) == plan


def test_none_is_unless_given_for_what_is_searched_too():
    assert following(penalty_factor=None).plan.space == DEFAULT


# Presets

FIRST = {"fisher": "batch", "fisher_scale": "per_parameter", "average_over_tasks": True}
FIRST_RANGE = LogRange(2000, 2e9)  # 32 samples a batch, 520 parameters of 64-8: 1,664 to 1.664e9 in one digit


def of_config(plan, names):
    return {name: getattr(plan.config, name) for name in names}


def test_a_preset_fills_in_what_the_algorithm_knows():
    plan = following(preset="clarena-first").plan
    assert of_config(plan, FIRST) == FIRST
    assert plan.space["penalty_factor"] == FIRST_RANGE
    lwf = following("lwf", preset="clarena-first", scenario="class").plan
    assert of_config(lwf, ["teachers", "train_head"]) == {"teachers": "per_task", "train_head": False}
    both = following("lwf_ewc", preset="clarena-first", scenario="class").plan
    assert of_config(both, [*FIRST, "teachers", "train_head"]) == FIRST | {"teachers": "per_task", "train_head": False}


def test_every_preset_sets_fields_that_exist_to_valid_values():
    for preset in presets():
        settings = preset_settings("lwf_ewc", preset)
        plan = following("lwf_ewc", preset=preset).plan
        assert settings
        assert of_config(plan, settings) == settings


def test_a_keyword_wins_over_the_preset():
    plan = following(preset="clarena-first", fisher="exact", average_over_tasks=False).plan
    assert of_config(plan, FIRST) == FIRST | {"fisher": "exact", "average_over_tasks": False}
    assert following(preset="clarena-first", fisher=None).plan.config.fisher == "batch"


@pytest.mark.parametrize("algorithm", ["finetuning", "joint", "independent"])
def test_a_preset_that_sets_nothing_is_refused(algorithm, refused):
    with pytest.raises(ConfigError, match=f"^preset: must set something that acts in {algorithm}; got clarena-first"):
        following(algorithm, preset="clarena-first")
    with pytest.raises(ConfigError, match=f"^preset: must set something that acts in {algorithm}; got clarena-first"):
        planned(following(algorithm), "--preset", "clarena-first")


def test_an_unknown_preset_is_refused():
    with pytest.raises(ConfigError, match=r"^preset: must be 'clarena-first'; got 'clarena'"):
        following(preset="clarena")


@pytest.mark.parametrize(
    ("script", "args", "changed"),
    [
        ({}, [], {}),
        ({"fisher": "exact"}, [], {}),
        ({"fisher_scale": "unit_trace", "average_over_tasks": False}, [], {}),
        ({}, ["--fisher", "exact"], {"fisher": "exact"}),
        ({"fisher": "exact"}, ["--fisher", "exact"], {"fisher": "exact"}),
        ({}, ["--fisher", "empirical"], {"fisher": "empirical"}),
        ({}, ["--fisher-scale=none"], {"fisher_scale": "none"}),
        ({}, ["--fisher_scale", "none"], {"fisher_scale": "none"}),
        ({}, ["--no-average-over-tasks"], {"average_over_tasks": False}),
        ({"average_over_tasks": True}, ["--no-average-over-tasks"], {"average_over_tasks": False}),
        ({}, ["--average-over-tasks", "--fisher", "sampled"], {"fisher": "sampled"}),
    ],
)
def test_a_preset_of_the_user_comes_after_the_script_and_before_flags(script, args, changed):
    study = following(**script)
    plan = planned(study, *args, "--preset", "clarena-first")
    assert of_config(plan, FIRST) == FIRST | changed
    assert plan.options.preset == "clarena-first"
    again = planned(study, *plan.command[2:])
    assert again == plan, plan.command[2:]


def test_a_preset_after_an_equals_sign_is_one_too():
    assert planned(following(), "--preset=clarena-first") == planned(following(), "--preset", "clarena-first")


def test_a_preset_before_a_flag_is_as_one_after_it():
    preset, flag = ["--preset", "clarena-first"], ["--fisher", "exact"]
    assert planned(following(), *preset, *flag) == planned(following(), *flag, *preset)


def test_a_preset_moves_the_default_range_and_no_other():
    assert planned(following(), "--preset", "clarena-first").space["penalty_factor"] == FIRST_RANGE
    given = planned(following(), "--preset", "clarena-first", "--penalty-factor", "2", "30")
    assert given.space["penalty_factor"] == LogRange(2, 30)
    assert planned(study_of("ewc"), "--preset", "clarena-first").space == study_of("ewc").plan.space


def test_flags_beside_a_preset_of_the_script_change_their_own_setting_alone():
    study = following(preset="clarena-first")
    assert planned(study).space == study.plan.space
    plan = planned(study, "--fisher", "exact")
    assert of_config(plan, FIRST) == FIRST | {"fisher": "exact"}
    assert planned(study, *plan.command[2:]) == plan


@pytest.mark.parametrize("preset", [None, "clarena-first"])
def test_no_preset_at_all_may_be_said(preset):
    settings = {} if preset is None else {"preset": preset}
    assert planned(following(**settings), "--preset", "None").options.preset is None


def test_a_preset_is_recorded(tmp_path):
    plan = planned(following(results=tmp_path), "--preset", "clarena-first")
    StudyWriter(plan).begin()
    content = json.loads((plan.folder / "study.json").read_text())
    assert {name: content["config"][name] for name in FIRST} == FIRST
    assert "clarena-first" in content["command"]
    assert content["preset"] == "clarena-first"


# References


@pytest.mark.parametrize(
    ("references", "found"),
    [
        (["finetuning", "joint", "independent"], ("finetuning", "joint", "independent")),
        (("independent", "finetuning"), ("independent", "finetuning")),
        ((), ()),
        (["joint"], ("joint",)),
    ],
)
def test_references_keep_their_order_from_python_and_the_command_line(references, found):
    assert study_of(references=references).plan.references == found
    plan = planned(study_of(), "--references", *references)
    assert plan.references == found
    assert planned(study_of(), *plan.command[2:]) == plan
    assert planned(study_of(references=references)).command[2:] == []


def test_finetuning_is_the_reference_unless_told():
    assert study_of().plan.references == planned(study_of()).references == ("finetuning",)


@pytest.mark.parametrize("algorithm", ["finetuning", "joint", "independent"])
def test_a_study_of_a_reference_is_no_reference_to_itself(algorithm):
    plan = study_of(algorithm, space=None, references=("finetuning", "joint", "independent")).plan
    assert plan.references == tuple(n for n in ("finetuning", "joint", "independent") if n != algorithm)


@pytest.mark.parametrize(
    ("references", "rule", "value"),
    [
        (["joint", "finetuning", "joint"], "must name each at most once", "['joint', 'finetuning', 'joint']"),
        (["ewc"], "must be 'finetuning', 'joint' or 'independent'", "'ewc'"),
        ("joint", "must be", "'joint'"),
    ],
)
def test_references_that_cannot_be_are_refused(references, rule, value):
    with pytest.raises(ConfigError) as refused:
        study_of(references=references)
    (problem,) = refused.value.problems
    assert problem.startswith("references: ")
    assert problem.index(rule) < problem.index(f"got {value}")


def test_independent_networks_are_refused_in_class_incremental_learning_when_the_study_is_made(refused):
    with pytest.raises(ConfigError, match="independent networks"):
        study_of(references=("finetuning", "independent"), scenario="class")
    study_of(references=("finetuning", "joint"), scenario="class")
    assert "independent networks" in refused("--references", "independent", "--scenario", "class")


def test_the_refusal_of_a_reference_says_how_to_leave_it_out(refused):
    assert "references" in refused("--scenario", "class", references=("finetuning", "independent"))


def test_a_reference_has_the_studys_settings(tmp_path):
    plan = plan_of(
        tmp_path,
        "lwf_ewc",
        classes_per_task=(4, 2, 3),
        class_order="shuffled",
        preset="clarena-first",
        learning_rate=0.3,
        references=("joint", "independent"),
    )
    for name in plan.references:
        config = plan.trial_config({}, name)
        assert config.algorithm == name
        assert config.classes_per_task == (4, 2, 3)
        assert config.class_order == "shuffled"
        assert config.learning_rate == 0.3


# What does not act


def test_a_hyperparameter_that_does_not_act_is_refused_before_anything_starts(refused, tmp_path):
    text = refused("--distillation-factor", "1e-8", "1e-7")
    assert re.search(r"^error: distillation_factor: must act: .*; got 1e-08 to 1e-07, which differ by", text, re.M)
    assert "error: distillation_temperature: must act:" in text
    assert list((tmp_path / "out").iterdir()) == []


def test_no_preset_on_the_command_line_undoes_a_scripts_preset_and_nothing_else():
    script = following(preset="clarena-first", fisher_samples=7)
    plain = following(fisher_samples=7).plan
    assert planned(script, "--preset", "None").config == plain.config
    assert planned(script, "--preset", "None").space == plain.space
    kept = planned(script, "--preset", "None", "--fisher", "batch", "--average-over-tasks")
    assert (kept.config.fisher, kept.config.fisher_scale, kept.config.average_over_tasks) == ("batch", "none", True)
    own = following(preset="clarena-first", fisher="exact")
    assert planned(own, "--preset", "None").config.fisher == "exact"


# Images of one's own


@pytest.fixture
def pets(tmp_path, monkeypatch):
    """Six classes of five images."""
    monkeypatch.setenv("CLSEARCH_CACHE", str(tmp_path / "cache"))
    return write_images(tmp_path / "my pets")


def cached(tmp_path):
    """Decoded images, and what was left of some."""
    return [path for path in (tmp_path / "cache").rglob("*") if path.suffix in (".npy", ".tmp")]


def test_a_folder_and_its_options_reach_the_configuration(pets):
    args = ["--image-size", "16", "--image-channels", "3", "--random-crop", "2", "--horizontal-flip"]
    config = planned(study_of(), "--benchmark", f"folder:{pets}", *args).config
    assert config.source.classes == tuple("abcdef")
    assert config.source.shape == (3, 16, 16)
    assert (config.random_crop, config.horizontal_flip) == (2, True)


def test_the_place_of_a_folder_is_absolute_and_may_begin_at_home(pets, monkeypatch):
    monkeypatch.chdir(pets.parent)
    assert planned(study_of(), "--benchmark", f"folder:{pets.name}").config.benchmark == f"folder:{pets}"
    monkeypatch.setenv("HOME", str(pets.parent))
    assert planned(study_of(), "--benchmark", f"folder:~/{pets.name}").config.benchmark == f"folder:{pets}"


def test_a_class_with_too_few_images_is_refused(refused, tmp_path, pets):
    (pets / "c" / "002.png").unlink()
    text = refused("--benchmark", f"folder:{pets}")
    assert "error: benchmark: every class needs at least 5 images; got 4 in c\n" in text
    assert not (tmp_path / "out").exists()
    assert cached(tmp_path) == []


def test_more_tasks_than_a_folder_has_pairs_of_classes_are_refused(refused, tmp_path, pets):
    text = refused("--benchmark", f"folder:{pets}", "--tasks", "4")
    assert f"error: tasks: each task needs 2 of the 6 classes of folder:{pets}, so at most 3 tasks; got 4\n" in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("form", "option", "kinds"),
    [
        ({"mode": "RGB"}, "images must be all grey or all colour, or give --image-channels 1 or 3", "colour"),
        ({"side": 9}, "images must have one size, or give --image-size", "9x9"),
    ],
)
def test_images_that_differ_are_refused_with_the_option_that_brings_them_together(
    refused, tmp_path, pets, form, option, kinds
):
    write_images(pets, ["g", "h"], **form)
    text = refused("--benchmark", f"folder:{pets}")
    assert re.search(rf"^error: benchmark: {option}; got 24 .* \(a/\d+\.png\), 8 {kinds} \(g/\d+\.png\)$", text, re.M)
    assert list((tmp_path / "out").iterdir()) == []
    assert cached(tmp_path) == []


def test_a_corrupt_image_is_refused_and_named(refused, tmp_path, pets):
    for path in (pets / "e").iterdir():
        path.write_bytes(b"<html>This image has moved.</html>")
    text = refused("--benchmark", f"folder:{pets}")
    assert re.search(r"^error: benchmark: every image must be readable; got e/\d+\.png \(.*\), e/", text, re.M)
    assert list((tmp_path / "out").iterdir()) == []
    assert cached(tmp_path) == []


GROUPINGS = [
    # content, rule, value
    ("0, 1\n", "must have a line for each of at least two tasks", "1 in FILE"),
    ("", "must have a line for each of at least two tasks", "0 in FILE"),
    ("# none\n\n  # yet\n", "must have a line for each of at least two tasks", "0 in FILE"),
    ("0, 1\n2\n3, 4\n", "each task needs at least two classes, between commas", "'2'"),
    ("0, 1\n2 3\n4, 5\n", "each task needs at least two classes, between commas", "'2 3'"),
    ("0, 1\n2, 3\n1, 2, 4", "each class must come at most once", "1, 2 more than once"),
    ("0, 1\n2, two\n4, cat", "must name classes of split-digits, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9", "two, cat"),
    (b"\xff\xfe0", "must be a text file that can be read", "FILE (not text)"),
]


@pytest.mark.parametrize(("content", "rule", "value"), GROUPINGS)
def test_a_grouping_that_cannot_be_is_refused(refused, tmp_path, content, rule, value):
    file = tmp_path / "groups.txt"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    text = refused("--grouping", str(file))
    assert f"error: grouping: {rule}" in text
    assert f"; got {value.replace('FILE', str(file))}\n" in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["--class-order", "shuffled"], "grouping: says which classes each task has, so class_order must not be given"),
        (["--classes-per-task", "2", "2", "3"], "so classes_per_task must not be given"),
        (["--benchmark", "permuted-digits"], "grouping: acts in split benchmarks only"),
        (["--scenario", "domain"], "grouping: domain-incremental tasks must have equal class counts; got 2 2 3"),
    ],
)
def test_a_grouping_beside_what_contradicts_it_is_refused(refused, tmp_path, args, problem):
    file = tmp_path / "groups.txt"
    file.write_text("0, 1\n2, 3\n4, 5, 6\n")
    assert planned(study_of(), "--grouping", str(file)).config.tasks == 3
    assert problem in refused("--grouping", str(file), *args)
    assert not (tmp_path / "out").exists()


def test_a_grouping_says_how_many_tasks_there_are_and_which_classes_of_a_folder_are_used(tmp_path, pets):
    (pets / "d" / "000.png").unlink()  # a class that is not named may be too small
    file = tmp_path / "groups.txt"
    file.write_text("# by hand\n\nf, a\n c , e,b\n")
    config = planned(study_of(tasks=None), "--benchmark", f"folder:{pets}", "--grouping", str(file)).config
    assert config.tasks == 2
    assert config.source.classes == ("f", "a", "c", "e", "b")
    assert config.source.groups == ((0, 1), (2, 3, 4))


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--grouping", "FILE"],
        ["--image-size", "16", "--image-channels", "3"],
        ["--random-crop", "2", "--horizontal-flip", "--backbone", "cnn", "--schedule", "cosine"],
    ],
    ids=" ".join,
)
def test_the_command_of_a_folder_makes_the_same_plan_again(tmp_path, pets, args):
    (tmp_path / "my groups.txt").write_text("a, b\nc, d\ne, f")
    args = [word.replace("FILE", str(tmp_path / "my groups.txt")) for word in args]
    study = study_of("ewc")
    plan = planned(study, "--benchmark", f"folder:{pets}", *args)
    assert planned(study, *plan.command[2:]) == plan
    words = shlex.split(rerun_command(plan, record_of(plan, 3, [0.5, 0.6, 0.7])))
    again = planned(study, *words[2:])
    assert again.config == plan.trial_config({name: r.low for name, r in plan.space.items()})


def test_a_grouping_of_another_number_of_tasks_is_refused(refused, tmp_path):
    (tmp_path / "groups.txt").write_text("0, 1\n2, 3\n")
    text = refused("--grouping", str(tmp_path / "groups.txt"), "--tasks", "3")
    assert "error: grouping: must have as many entries as there are tasks, at least two; got 2 2 for 3 tasks" in text


@pytest.mark.parametrize(
    "args",
    [
        ["--backbone", "cnn", "--hidden", "8"],
        ["--backbone", "cnn"],
        ["--classes-per-task", "4", "3", "3", "--tasks", "3"],
        ["--schedule", "step", "--milestones", "0.5", "0.75", "--warmup", "0.2"],
        ["--schedule", "step", "--decay", "0.1"],
        ["--random-crop", "2", "--horizontal-flip", "--benchmark", "rotated-digits", "--tasks", "4"],
    ],
)
def test_the_command_of_a_plan_makes_the_same_plan(args):
    plan = planned(study_of(), *args)
    again = planned(study_of(), *plan.command[2:])
    assert again.config == plan.config
    assert again.command == plan.command


@pytest.mark.parametrize("missing", [{"benchmark": "folder:gone"}, {"grouping": "gone.txt"}])
def test_a_script_whose_folder_or_grouping_is_gone_is_refused_and_not_broken(missing, capsys):
    study = study_of(**missing)
    with pytest.raises(SystemExit) as ended:
        study.main([])
    assert ended.value.code == 2
    assert "gone" in capsys.readouterr().err
    with pytest.raises(ConfigError):
        study.run()


def test_what_a_script_says_of_its_folder_can_be_taken_back(tmp_path, pets):
    (tmp_path / "groups.txt").write_text("a, b\nc, d\ne, f")
    study = study_of(
        benchmark=f"folder:{pets}",
        grouping=tmp_path / "groups.txt",
        image_size=16,
        image_channels=3,
        random_crop=2,
        horizontal_flip=True,
    )
    assert planned(study).command[2:] == []
    back = ["--benchmark", "split-digits", "--random-crop", "0", "--no-horizontal-flip"]
    plan = planned(study, *back, "--grouping", "None", "--image-size", "None", "--image-channels", "None")
    assert plan.config == study_of(tasks=5).plan.config  # the script's three tasks were those of its grouping
    assert planned(study, *plan.command[2:]) == plan


def test_images_that_change_between_two_plans_make_others(pets):
    study = study_of(benchmark=f"folder:{pets}")
    before = study.plan.config.source
    write_images(pets, ["a"], count=7)
    after = planned(study).config.source
    assert before.identity != after.identity
    assert study_of(benchmark=f"folder:{pets}").plan.config.source == after


# Backbones


class Tiny(torch.nn.Module):
    """What a user might write."""

    def __init__(self, shape, width=6):
        super().__init__()
        self.layer = torch.nn.Conv2d(shape[0], width, 3)

    def forward(self, images):
        return self.layer(images).relu().mean((2, 3))


def tiny(shape):
    return Tiny(shape)


def normed(shape):
    return torch.nn.Sequential(torch.nn.BatchNorm2d(shape[0]), torch.nn.Flatten())


def dropped(shape):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.Dropout())


def broken(shape):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(63, 8))


def test_the_cnn_on_a_script_that_sets_widths_has_its_own():
    assert study_of().plan.config.hidden == (8,)
    assert planned(study_of(), "--backbone", "cnn").config.hidden == (128,)
    assert planned(study_of(), "--backbone", "cnn", "--hidden", "16").config.hidden == (16,)
    assert planned(study_of(), "--backbone", "resnet18").config.hidden == ()


def test_the_backbone_that_a_script_has_anyway_changes_nothing():
    assert planned(study_of(), "--backbone", "mlp").config == study_of().plan.config
    study = study_of(backbone="cnn", hidden=(16,))
    assert planned(study, "--backbone", "cnn").config == study.plan.config


@pytest.mark.parametrize("made", [tiny, Tiny, partial(Tiny, width=3)], ids=["function", "class", "partial"])
def test_a_factory_reaches_every_configuration_as_itself(tmp_path, made):
    study = study_of(backbone=made, hidden=None, results=tmp_path, references=("finetuning", "joint"))
    for plan in (study.plan, planned(study), planned(study, "--seeds", "2", "--tasks", "5")):
        values = {name: r.low for name, r in plan.space.items()}
        assert plan.config.backbone is made
        assert plan.trial_config(values).backbone is made
        assert plan.trial_config(values, "joint").backbone is made
    assert planned(study, "--seeds", "2").command[2:] == ["--seeds", "2"]


def test_a_factory_is_recorded_by_its_name(tmp_path):
    plan = study_of(backbone=tiny, hidden=None, results=tmp_path).plan
    assert plan.config.flat()["backbone"] == f"{__name__}.tiny"
    StudyWriter(plan).begin()
    content = json.loads((plan.folder / "study.json").read_text())
    assert content["config"]["backbone"] == f"{__name__}.tiny"
    assert content["config"]["hidden"] == []


def test_a_factory_may_be_left_for_a_backbone_that_has_a_name():
    study = study_of(backbone=tiny, hidden=None)
    for name, hidden in (("mlp", (256, 256)), ("cnn", (128,)), ("resnet18", ())):
        plan = planned(study, "--backbone", name)
        assert (plan.config.backbone, plan.config.hidden) == (name, hidden)
        assert plan.command[2:] == ["--backbone", name]


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        (normed, "must have no buffers: .*; got 0.running_mean, 0.running_var, 0.num_batches_tracked"),
        (dropped, "must give the same features in every call.*; got numbers drawn from torch's global generator"),
        (broken, r"must map images \[2, 1, 8, 8\] to finite features .*; got RuntimeError: "),
        (lambda shape: None, "its factory must return a torch.nn.Module; got NoneType"),
    ],
)
def test_a_module_that_cannot_be_trained_here_is_refused_before_any_data_is_read(refused, tmp_path, made, problem):
    text = refused(backbone=made, hidden=None)
    assert re.search(rf"^error: backbone: {problem}", text, re.MULTILINE)
    assert list((tmp_path / "out").iterdir()) == []


def test_images_that_a_backbone_cannot_take_are_refused(refused, tmp_path, monkeypatch):
    monkeypatch.setenv("CLSEARCH_CACHE", str(tmp_path / "cache"))
    folder = write_images(tmp_path / "specks", side=3)
    text = refused("--benchmark", f"folder:{folder}", "--backbone", "cnn")
    assert re.search(r"^error: backbone: .* got ValueError: cnn: images must be at least 4x4; got 3x3$", text, re.M)
    assert cached(tmp_path) == []


def test_a_space_of_a_factory_follows_its_parameters():
    plan = following(backbone=tiny, hidden=None, fisher_scale="per_parameter").plan
    assert plan.space["penalty_factor"] == DEFAULT["penalty_factor"].scaled(6 * (9 + 1))
    check_sensitivity(plan, training_data(plan.config.source, None))


# The exit code


def test_the_exit_code_says_how_a_study_ended(tmp_path):
    done = {"average_accuracy": 0.9}
    for final, expected in ((True, 1), (False, 0)):
        plan = plan_of(tmp_path, seeds=1, report_seeds=1, final=final)
        ranking = rank([record_of(plan, 0, [0.9])], plan.objectives)
        found = StudyResult(plan, ranking.trials, [], ranking, choice_of(ranking), None, False)
        assert found.exit_code == expected  # chosen, and not evaluated
        assert replace(found, interrupted=True).exit_code == 130
        assert replace(found, choice=None).exit_code == 1
        evaluated = replace(found, final=final_of(plan, measured_of(plan, [0.9], [0.8]), scores=done))
        assert evaluated.exit_code == 0
        diverged = final_of(plan, measured_of(plan, [0.9], [0.8], reason="training diverged"), scores=done)
        assert replace(found, final=diverged).exit_code == expected
        assert replace(evaluated, interrupted=True).exit_code == 130
