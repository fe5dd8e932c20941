"""What a study's command line refuses, before Ray would start."""

import json
import re
import subprocess
import sys

import pytest

from clsearch import ConfigError
from clsearch.records.writer import StudyWriter
from tests.builders import (
    planned,
    study_of,
    write_images,
)
from tests.refusals import broken, refusals

CONFIGURATION = [
    # algorithm, options, field, rule: a rule of each kind; the tests of each module have them all
    ("lwf", "--benchmark nonsense", "benchmark", "benchmark-known"),
    ("lwf", "--trials 0", "trials", "greater-than-equal"),
    ("lwf", "--learning-rate nan", "learning_rate", "finite-number"),
    ("lwf", "--distillation-factor 0 10", "distillation_factor", "greater-than"),
    ("lwf", "--distillation-factor 10 1", "distillation_factor", "range-increases"),
    ("lwf", "--tasks 6", "tasks", "two-classes-per-task"),
    ("lwf", "--sampler grid --trials 24", "trials", "trials-of-grid"),
    ("lwf", "--name ../evil", "name", "study-name"),
    ("lwf", "--iterations 50 --epochs 2", "epochs, iterations", "epochs-or-iterations"),
    ("lwf", "--benchmark folder:/nowhere/pets", "benchmark", "folder-exists"),
    ("lwf", "--grouping /nowhere/groups", "grouping", "grouping-readable"),
    ("lwf", "--image-size 32", "image_size", "folder-only"),
    ("lwf", "--benchmark permuted-digits --random-crop 2", "random_crop, horizontal_flip", "augmentation-needs-images"),
    ("lwf", "--backbone vgg", "backbone", "backbone-known"),
    ("lwf", "--backbone cnn --hidden", "hidden", "hidden-needed"),
    ("lwf", "--milestones 0.3 0.6", "milestones", "step-schedule-only"),
    ("lwf", "--sampler nsga2", "sampler", "sampler-several-objectives"),
    ("lwf", "--objectives accuracy", "objectives", "objectives-known"),
    ("lwf", "--first-report-seed 2 --report-seeds 5", "first_report_seed", "fresh-seeds"),
    ("lwf", "--first-seed 1003 --report-seeds 5", "first_report_seed", "fresh-seeds"),
    ("lwf", "--protocol first_k --tasks 5 --learning-rates 0.1 1", "learning_rates", "protocol-only"),
    ("lwf", "--protocol first_k", "first_k", "two-tasks-to-report"),
    ("lwf", "--protocol two_phase", "report_benchmark", "report-benchmark-needed"),
    ("lwf", "--protocol two_phase --report-benchmark split-cifar100", "report_benchmark", "report-same-counts"),
    (
        "lwf",
        "--benchmark permuted-digits --tasks 12 --protocol two_phase --report-benchmark split-mnist",
        "report_benchmark",
        "two-classes-per-task",
    ),
    ("ewc", "--protocol continual --penalty-p-norm 2 --penalty-factor 3", "protocol", "continual-needs-factor"),
    ("joint", "--protocol continual", "protocol", "continual-keeps-model"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "options", "field", "rule"), CONFIGURATION)
def test_a_bad_value_is_refused(refused, tmp_path, algorithm, options, field, rule):
    problems = refusals(study_of(algorithm).plan_for, options.split())
    assert (problems[0].field, problems[0].rule) == (field, rule)
    assert f"error: {problems[0]}\n" in refused(*options.split(), algorithm=algorithm)
    assert list(tmp_path.iterdir()) == []


def test_an_objective_that_independent_networks_lack_is_refused():
    # Network j is not measured on task j + 1: `forward_transfer` is absent.
    problems = broken(study_of, "independent", space=None, objectives=("forward_transfer",))
    assert problems == [("objectives", "no-forward-transfer")]


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


@pytest.mark.slow
@pytest.mark.parametrize(("options", "field", "rule", "value"), MACHINE)
def test_what_this_machine_lacks_is_refused_with_field_rule_and_value(refused, tmp_path, options, field, rule, value):
    (tmp_path / "EMPTY").mkdir()
    text = refused(*options.replace("EMPTY", str(tmp_path / "EMPTY")).split())
    value = value.replace("EMPTY", str(tmp_path / "EMPTY"))
    assert re.search(rf"^error: {field}: .*{rule}.*got {re.escape(value)}", text, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        "--bogus 1",
        "--penalty-factor 1",
        "stray",
        "--references ewc",
        "--preset clarena-second",
        "--image-channels 2",
    ],
)
def test_an_unknown_option_is_refused_and_named(refused, tmp_path, options):
    assert options.split()[0] in refused(*options.split())
    assert list(tmp_path.iterdir()) == []


def test_results_below_a_regular_file_are_refused(refused, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    text = refused(results=file / "sub")
    assert re.search(rf"^error: results: must be a writable folder; got {file}/sub", text, re.MULTILINE)


def test_another_study_is_refused_and_left_as_it_is(refused, tmp_path):
    other = study_of(results=tmp_path / "out", batch_size=8).plan
    StudyWriter(other).begin()
    before = (other.folder / "study.json").read_text()
    text = refused()
    assert re.search(r"^error: batch_size: must be 8, as in the study in .*mine; got 32", text, re.MULTILINE)
    assert "--name mine-2" in text
    assert "--fresh" in text
    assert (other.folder / "study.json").read_text() == before


def test_the_recorded_command_goes_on_and_does_not_start_over(tmp_path):
    assert planned(study_of(), "--fresh", "--seeds", "2").options.fresh
    assert planned(study_of(), "--fresh", "--seeds", "2").command[2:] == ["--seeds", "2"]


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


@pytest.mark.slow
def test_a_refused_run_has_not_imported_what_is_slow(tmp_path):
    command = [sys.executable, "-c", REFUSED_RUNS, str(tmp_path), str(write_images(tmp_path / "pets"))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    *early, gpus = json.loads(done.stdout.splitlines()[-1])
    assert early == [[]] * 17
    assert set(gpus) <= {"torch"}  # which alone knows the machine's GPUs


def test_epochs_and_iterations_together_are_refused_even_at_the_scripts_value():
    problems = broken(planned, study_of(epochs=1), "--epochs", "1", "--iterations", "5")
    assert problems == [("epochs, iterations", "epochs-or-iterations")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlartifacts", "mlflow.db", "test_openings.jsonl", "test_openings.lock"])
def test_names_of_what_lies_beside_the_studies_are_no_study(name, tmp_path, capsys):
    with pytest.raises(SystemExit):
        study_of().main(["--name", name, "--results", str(tmp_path)])
    assert "name: must not be one of" in capsys.readouterr().err


def test_an_unknown_setting_in_python_lists_those_of_the_study_too():
    (problem,) = refusals(study_of, trial=5)
    assert (problem.field, problem.rule) == ("trial", "setting-known")
    assert "trials" in problem.partition("; known are ")[2]


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_hyperparameter_that_does_not_act_is_refused_before_anything_starts(refused, tmp_path):
    text = refused("--distillation-factor", "1e-8", "1e-7")
    assert re.search(r"^error: distillation_factor: must act: .*; got 1e-08 to 1e-07, which differ by", text, re.M)
    assert "error: distillation_temperature: must act:" in text
    assert not (tmp_path / "out").exists()
