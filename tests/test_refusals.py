"""The wording of each rule, once: field, rule, then the value. Other tests check the field and the id of the rule."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from optuna.samplers import CmaEsSampler, GridSampler

import clsearch
from clsearch import Choice, Comparison, IntRange, LogRange, Method, Range, Section, Setting, Study, When, register
from clsearch.config.data_source import find_source, read_groups
from clsearch.methods.registry import configure
from clsearch.planning.search_fields import search_fields
from tests.refusals import refusals

PACKAGES = ("config", "planning", "methods", "study.py", "comparison.py")
TWO = ("average_accuracy", "average_forgetting")
FACTOR = {"distillation_factor": LogRange(0.1, 10)}


def config(algorithm: str = "lwf", **settings: Any) -> Callable[[Path], Any]:
    """Configures a trial."""
    return lambda path: configure(algorithm, {"epochs": 1} | settings)


def study(algorithm: str = "lwf", **settings: Any) -> Callable[[Path], Any]:
    """Makes a study."""
    return lambda path: Study(algorithm=algorithm, **({"epochs": 1} | settings))


def command(*words: str, **settings: Any) -> Callable[[Path], Any]:
    """Reads a command line; PATH is the test's folder."""

    def call(path: Path) -> Any:
        made = Study(algorithm="lwf", **({"epochs": 1} | settings))
        return made.plan_for([word.replace("PATH", str(path)) for word in words])

    return call


def with_file(text: str | bytes, call: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """Writes PATH/file first."""

    def written(path: Path) -> Any:
        (path / "file").write_bytes(text if isinstance(text, bytes) else text.encode())
        return call(path)

    return written


def with_disk(free: int, files: int, call: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """Plans for a disk with this many free bytes and files."""

    def planned(path: Path) -> Any:
        with mock.patch("clsearch.planning.budget.free_disk", return_value=(free, files)):
            return call(path)

    return planned


def grouping(text: str, **settings: Any) -> Callable[[Path], Any]:
    """Configures a trial with a file of groups."""
    return with_file(text, lambda path: configure("ewc", {"epochs": 1, "grouping": path / "file"} | settings))


def groups(text: str) -> Callable[[Path], Any]:
    return with_file(text, lambda path: read_groups(path / "file"))


def options(text: str) -> Callable[[Path], Any]:
    """Reads options from a file."""
    return with_file(text, command("--config", "PATH/file"))


def comparison(studies: dict[str, Any], **settings: Any) -> Callable[[Path], Any]:
    settings = {"epochs": 1, "kind": "methods"} | settings
    return lambda path: Comparison(name="c", algorithm="lwf", studies=studies, **settings)


def own_setting(name: str, setting: Any) -> Callable[[Path], Any]:
    """Registers a method with one setting."""
    return lambda path: register("mine", settings={name: setting})


def own_method_with(name: str) -> Callable[[Path], Any]:
    """Makes a study of a method with one setting."""

    def call(path: Path) -> Any:
        register("mine", settings={name: Setting(int, 1)})
        return Study(algorithm="mine", epochs=1)

    return call


class Wide(Section):
    """A section with a field that every method has"""

    batch_size: int = 3


def without_packages(call: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """Plans where no package is found that a sampler needs."""

    def planned(path: Path) -> Any:
        with mock.patch("clsearch.planning.samplers.find_spec", return_value=None):
            return call(path)

    return planned


MOMENTUM_OF_SGD = When("optimizer", "sgd", {"momentum": Range(0, 0.9)})

LWF_SEARCHES = ", ".join(search_fields("lwf"))

WORDING: dict[str, tuple[Callable[[Path], Any], str]] = {
    # config: one field
    "home-exists": (
        config(data_root="~nobody-of-this/x"),
        "data_root: must lie in a home that exists; got '~nobody-of-this/x'",
    ),
    "path-local": (
        config(data_root="https://bob:secret@host/data"),
        "data_root: must be a path on this machine, not an address; got 'https://host/data'",
    ),
    "path-possible": (
        config(data_root="a" * 300),
        re.compile(r"data_root: must be a path that a disk can have \(File name too long\); got 'a{59} \.\.\. a{19}'"),
    ),
    "not-empty": (config(data_root=""), "data_root: must not be empty; got ''"),
    "no-control-characters": (
        config(data_root="a\x1b[31m"),
        r"data_root: must have no control characters; got 'a\x1b[31m'",
    ),
    "whole-number-64-bits": (
        config(epochs=2**63),
        "epochs: must lie between -2^63 and 2^63 - 1; got 9223372036854775808",
    ),
    "benchmark-known": (
        config(benchmark="split-mnits"),
        re.compile(
            r"benchmark: must be one of split-digits, .*, or folder:PATH \(did you mean split-mnist\?\); "
            r"got 'split-mnits'"
        ),
    ),
    "backbone-known": (
        config(backbone="vgg"),
        "backbone: must be one of mlp, cnn, resnet18, or in Python a function that makes a new module; got 'vgg'",
    ),
    "unlearn-form": (
        config("amnesiac_lwf", unlearn=("3",)),
        "unlearn: must be requests as 3:1 (after task 3 unlearn task 1), with commas between several tasks; got ('3',)",
    ),
    "setting-of-algorithm": (
        config("finetuning", fisher="exact"),
        re.compile("fisher: not a setting of finetuning; known are benchmark, scenario, .*, decay"),
    ),
    # config: between fields
    "epochs-or-iterations": (
        config(epochs=None),
        "epochs, iterations: exactly one of the two must be given; got None, None",
    ),
    "sgd-only": (config(optimizer="adam", momentum=0.9), "momentum: acts with sgd only; got 0.9 with adam"),
    "step-schedule-only": (
        config(schedule="cosine", decay=0.5),
        "decay: acts with schedule = step only; got 0.5 with cosine",
    ),
    "milestones-increase": (
        config(schedule="step", milestones=(0.7, 0.4)),
        "milestones: must increase and lie between 0 and 1, both excluded; got 0.7 0.4",
    ),
    "single-precision": (
        config(learning_rate=1e39),
        "learning_rate: must lie in single precision, 1e-37 to 1e+38; got 1e+39",
    ),
    "hidden-acts": (
        config(backbone="resnet18", hidden=(8,)),
        "hidden: acts with mlp and cnn only; got 8 with resnet18",
    ),
    "hidden-needed": (config(hidden=()), "hidden: must have at least one width with mlp; got none"),
    "hidden-positive": (config(hidden=(8, 0)), "hidden: every width must be at least 1; got 8 0"),
    "folder-only": (config(image_size=8), "image_size: acts with folder:PATH only; got 8 with split-digits"),
    "augmentation-needs-images": (
        config(benchmark="permuted-digits", random_crop=1),
        "random_crop, horizontal_flip: act on images, which permuted pixels are not; got 1, False with permuted-digits",
    ),
    "crop-within-image": (
        config(random_crop=8),
        "random_crop: must be less than the images' 8 pixels; got 8",
    ),
    "split-only": (
        config(benchmark="rotated-digits", class_order="shuffled"),
        "class_order: acts in split benchmarks only, where tasks differ in classes; got shuffled with rotated-digits",
    ),
    "grouping-alone": (
        grouping("0, 1\n2, 3\n", class_order="shuffled"),
        "grouping: defines the classes of each task, so class_order must not be given; got PATH/file",
    ),
    "counts-match-tasks": (
        config(classes_per_task=(2, 2), tasks=3),
        "classes_per_task: must have as many entries as there are tasks, at least two; got 2 2 for 3 tasks",
    ),
    "counts-within-classes": (
        config(classes_per_task=(6, 6)),
        "classes_per_task: each task needs at least 2 classes, and all together at most the 10 of split-digits; "
        "got 6 6",
    ),
    "domain-equal-counts": (
        grouping("0, 1\n2, 3, 4\n", scenario="domain"),
        "grouping: domain-incremental tasks must have equal class counts; got 2 3",
    ),
    "two-classes-per-task": (
        config(tasks=6),
        "tasks: each task needs 2 of the 10 classes of split-digits, so at most 5 tasks; got 6",
    ),
    "tasks-divide-classes": (
        config(tasks=3, scenario="domain"),
        "tasks: must divide 10, because domain-incremental tasks must have equal class counts; got 3",
    ),
    "unlearn-after-a-task": (
        config("amnesiac_lwf", unlearn=("9:1",)),
        "unlearn: a request must follow one of the 5 tasks; got 9:1",
    ),
    "unlearn-learned-task": (
        config("amnesiac_lwf", unlearn=("2:3",)),
        "unlearn: a task must be learned before it is unlearned; got 2:3",
    ),
    "unlearn-once": (
        config("amnesiac_lwf", unlearn=("3:1", "4:1")),
        "unlearn: a task can be unlearned only once; got 3:1 4:1",
    ),
    "unlearn-keeps-a-task": (
        config("amnesiac_lwf", unlearn=("1:1",)),
        "unlearn: a request must keep at least one of the tasks learned so far; got 1:1",
    ),
    # config: groups
    "grouping-known-classes": (
        with_file(
            "cat, wolf\nfrog, Dog\n",
            lambda path: find_source({"benchmark": "split-cifar10", "grouping": path / "file"}),
        ),
        "grouping: must name classes of split-cifar10, airplane, automobile, bird, cat, deer, dog, frog, horse, ship, "
        "truck; got wolf, Dog",
    ),
    "grouping-readable": (
        lambda path: read_groups(path / "none"),
        "grouping: must be a readable text file; got PATH/none (No such file or directory)",
    ),
    "grouping-two-tasks": (
        groups("cat, dog\n"),
        "grouping: must have a line for each of at least two tasks; got 1 in PATH/file",
    ),
    "grouping-two-classes": (
        groups("cat, dog\n  ship\n"),
        "grouping: each task needs at least two classes, separated by commas; got 'ship'",
    ),
    "grouping-quotes": (
        groups('cat, dog\n"frog, deer\n'),
        'grouping: names are separated by commas; one with a comma or a quote is quoted as in CSV, "a,b" or '
        '"the ""best"""; got \'"frog, deer\'',
    ),
    "grouping-classes-once": (
        groups("cat, dog\nfrog, cat\n"),
        "grouping: each class must occur at most once; got cat more than once",
    ),
    # methods
    "independent-needs-task-identity": (
        config("independent", scenario="class"),
        "scenario: must be task or domain for independent networks, because class-incremental learning does "
        "not give the task that selects the network; got class",
    ),
    "mse-has-no-temperature": (
        config(distance="mse", temperature_scaling="squared"),
        "temperature_scaling: must be none if distance is mse, which has no temperature; got squared",
    ),
    "online-only": (config("ewc", gamma=0.5), "gamma: acts with anchors = online only; got 0.5 with separate"),
    "unlearning-needs-separate-anchors": (
        config("amnesiac_ewc", anchors="online"),
        "anchors: must be separate if tasks can be unlearned, because unlearning drops their anchors; got online",
    ),
    "algorithm-known": (config("ewcc"), re.compile("algorithm: must be one of .*finetuning.*; got 'ewcc'")),
    "method-name": (
        lambda path: register("ewc"),
        "name: must be new, of letters, digits and underscores; got ewc",
    ),
    "section-fields-new": (
        lambda path: register(Method(name="wide", label="wide", section=Wide)),
        "section: must not have fields that every method has; got batch_size",
    ),
    "settings-known": (
        lambda path: register("mine", settings=["strength"]),
        re.compile("settings: must be declared by a Setting or be among .*penalty_factor.*; got strength"),
    ),
    "setting-name": (
        own_setting("Strength", Setting(float, 1.0)),
        "settings: Strength must be a name of small letters, digits and underscores; got 'Strength'",
    ),
    "setting-declared": (own_setting("strength", 0.5), "settings: strength must be a Setting; got 0.5"),
    "setting-kind": (
        own_setting("strength", Setting(list, [])),
        "settings: strength must be float, int, bool, str or some names; got <class 'list'>",
    ),
    "setting-bounds": (
        own_setting("strength", Setting(("a", "b"), "a", gt=0)),
        "settings: strength must be a number to have bounds; got ('a', 'b')",
    ),
    "setting-range": (
        own_setting("strength", Setting(int, 1, range=Range(0.1, 1))),
        "settings: strength can have a Range if it is a float, an IntRange if it is an int, and else none; "
        "got Range(low=0.1, high=1, log=False, step=None)",
    ),
    "setting-default": (
        own_setting("strength", Setting(float, 0, gt=0)),
        "settings: strength has a default or a range that breaks its rule: must be greater than 0; got 0",
    ),
    "option-of-study": (
        own_method_with("trials"),
        "trials: must not be a setting of mine, because it is an option of every study; got one of that name",
    ),
    # planning: options
    "study-name": (
        study(name="a/b"),
        "name: must begin with a letter or digit and have letters, digits, dots, - and _ only; got 'a/b'",
    ),
    "rates-positive": (
        study(protocol="continual", learning_rates=(0.1, 0.0)),
        "learning_rates: must all be greater than 0; got (0.1, 0.0)",
    ),
    "names-once": (
        study(references=("joint", "joint")),
        "references: must name each at most once; got ('joint', 'joint')",
    ),
    "setting-known": (
        study(trails=3),
        re.compile(r"trails: unknown \(did you mean trials\?\); known are all, anyway, .*"),
    ),
    "preset-acts": (
        study("joint", preset="clarena-first"),
        "preset: must set something that acts in joint; got clarena-first",
    ),
    "one-trial-without-search": (
        study(space={}, trials=2),
        "trials: must be 1 if nothing is searched; got 2",
    ),
    "two-generations": (
        study(sampler="nsga2", objectives=TWO, trials=7),
        "trials: must be at least 8 with nsga2, two generations; got 7",
    ),
    "trials-of-grid": (
        study(sampler="grid", trials=24),
        "trials: a grid of 5 points per range in 2 dimensions has 25 trials, so leave --trials out; got 24",
    ),
    # planning: spaces and objectives
    "largest-seed": (
        study(seeds=2**62, first_seed=2**62 + 1),
        "seeds: the last seed must be at most 2^63 - 1; got 9223372036854775808",
    ),
    "batch-of-the-data": (
        study(batch_size=10**9),
        "batch_size: must be at most 65,536; split-digits has 1,438 training samples; got 1000000000",
    ),
    "training-fits-memory": (
        study(seeds=10**8),
        re.compile(
            r"seeds, hidden, batch_size, tasks: a training must fit into [\d.,]+ [GT]B of memory; it needs more than "
            r"100\.9 TB; got 100,000,000 networks of 82,432 parameters at a time, 5 tasks"
        ),
    ),
    "records-fit-memory": (
        study(trials=10**9),
        re.compile(
            r"trials, seeds, tasks, epochs: the records must fit into this machine's memory, [\d.,]+ [GT]B; they need "
            r"more than 6\.8 TB; got 1,000,000,001 trainings with 3 seeds, 5 tasks and 15 rows of the learning curve "
            r"each"
        ),
    ),
    "records-fit-disk": (
        with_disk(10**4, 0, study()),
        "trials, seeds, epochs: the records must fit on the disk of the results, 0.0 MB free; got 33 trainings, which "
        "write more than 0.1 MB",
    ),
    "records-fit-files": (
        with_disk(10**9, 98, study(sampler="grid", grid_points=6)),
        "grid_points, seeds, epochs: the disk of the results must take the files of the records, 98 at most; got 111",
    ),
    "within-a-year": (
        study(epochs=None, iterations=10**13, ray_address="head:6379"),
        re.compile(
            r"trials, epochs, iterations, tasks: a study must end within a year, or go on with --yes; got 32 trials "
            r"and 1,750,000,000,000,000 steps on 1,000 workers, more than [\d,.]+ years at 50 microseconds a "
            r"step, which is assumed and not measured"
        ),
    ),
    "searchable": (
        study(space={"penalty_factor": LogRange(1, 2)}),
        f"penalty_factor: not a hyperparameter that lwf can search; known are {LWF_SEARCHES}",
    ),
    "space-of-domains": (
        study(space={"learning_rate": (0.1, 1)}),
        "learning_rate: must be a Range, an IntRange, a Choice or one value; got (0.1, 1)",
    ),
    "when-in-list": (
        study(space={"optimizer": When("optimizer", "sgd", {})}),
        "optimizer: a When stands beside the dicts of a list, not under a name; "
        "got When(name='optimizer', value='sgd', space={})",
    ),
    "range-whole": (
        study(space={"epochs": IntRange(0.2, 0.8)}, epochs=None),
        "epochs: an IntRange must have whole ends and a whole step; got IntRange(low=0.2, high=0.8, log=False, step=1)",
    ),
    "range-of-numbers": (
        study(space={"momentum": Range(0, math.nan)}),
        "momentum: a range must have two finite numbers as its ends; got 0 and nan",
    ),
    "log-range-positive": (
        study(space={"momentum": Range(0, 0.9, log=True)}),
        "momentum: a logarithmic range must lie above 0; got 0 to 0.9 (log)",
    ),
    "log-without-step": (
        study(space={"momentum": Range(0.1, 0.9, log=True, step=0.1)}),
        "momentum: a logarithmic range has no step; got 0.1 to 0.9 (log) in steps of 0.1",
    ),
    "step-in-range": (
        study(space={"momentum": Range(0.1, 0.9, step=1)}),
        "momentum: a step must be above 0 and at most the length of its range; got 0.1 to 0.9 in steps of 1",
    ),
    "choice-of-values": (
        study(space={"optimizer": Choice()}),
        "optimizer: a choice must have at least one value; got none",
    ),
    "choice-once": (
        study(space={"optimizer": Choice("sgd", "sgd")}),
        "optimizer: a choice must have each value once; got sgd twice",
    ),
    "choice-only": (
        study(space={"optimizer": Range(0, 1)}),
        "optimizer: must be a Choice, because it is not a number; got 0 to 1",
    ),
    "whole-range": (
        study(space={"batch_size": Range(1, 2)}),
        "batch_size: must be an IntRange or a Choice, because it is a whole number; got 1 to 2",
    ),
    "one-domain": (
        study(space=[{"momentum": Range(0, 0.5)}, {"momentum": Range(0, 0.9)}]),
        "momentum: must have one domain at a time; got 0 to 0.5 and 0 to 0.9",
    ),
    "condition-cycle": (
        study(
            space=[
                When("optimizer", "sgd", {"batch_size": Choice(16, 32)}),
                When("batch_size", 16, {"optimizer": Choice("sgd", "adam")}),
            ]
        ),
        "batch_size: conditions must not form a cycle; got one among batch_size, optimizer",
    ),
    "condition-known": (
        study(space=[When("optimiser", "sgd", {"momentum": Range(0, 0.9)})]),
        "optimiser: a condition must name a hyperparameter or a setting (did you mean optimizer?); "
        "got one for momentum",
    ),
    "condition-on-values": (
        study(space=[{"momentum": Range(0, 0.9)}, When("momentum", 0, {"batch_size": Choice(1, 2)})]),
        "momentum: a condition needs a Choice, an IntRange or a fixed setting; got 0 to 0.9",
    ),
    "condition-searched": (
        study(space=[{"optimizer": Choice("sgd", "adam")}, When("optimizer", "adamw", {"momentum": Range(0, 0.9)})]),
        "optimizer: a condition must name values that are searched, sgd, adam; got adamw",
    ),
    "domain-keys": (
        command("--momentum", "{low: 0}"),
        "momentum: must have low and high, and can have log and step, or must have choice alone; got {'low': 0}",
    ),
    "space-yaml": (
        command("--momentum", "{low: 0"),
        re.compile(r"momentum: must be YAML, such as \{low: 1, high: 8\}; got '\{low: 0' \(.*\)"),
    ),
    "when-needs-if": (
        command("--when", "{momentum: [0, 0.9]}"),
        "when: each part under `when` must have a line `if: {hyperparameter: value}`; got {'momentum': [0, 0.9]}",
    ),
    "one-value": (
        command("--tasks", "2", "5"),
        "tasks: must have one value, because it is part of the question: results on different data or tasks do not "
        "compare. Use a study for each value; got 2 5",
    ),
    "value-given": (command("--momentum"), "momentum: must have a value; got none"),
    "space-file": (
        with_file("- 1", command("--space", "PATH/file")),
        "space: must have a line `hyperparameter: domain` each; got [1]",
    ),
    "searched-acts": (
        study(space={"distillation_temperature": LogRange(1, 2)}, distance="mse"),
        "distillation_temperature: must not be searched if distance is mse, which has no temperature; give one value "
        "instead of a range, or another distance",
    ),
    "range-increases": (
        study(space={"learning_rate": Range(1, 0.1)}),
        "learning_rate: a range must go from low to high; got 1 to 0.1",
    ),
    "objectives-known": (
        study(tasks=3, objectives=("accuracy",)),
        "objectives: must be metrics of this benchmark, average_accuracy, average_incremental_accuracy, "
        "learning_accuracy, average_forgetting, backward_transfer, forward_transfer, accuracy/task_01..03, "
        "forgetting/task_01..02; got accuracy",
    ),
    "objective-of-a-trial": (
        study(objectives=("intransigence",)),
        "objectives: must be measured by each trial; intransigence is a constant (of the joint reference) minus "
        "learning_accuracy, so search learning_accuracy instead; got intransigence",
    ),
    # planning: protocols
    "protocol-only": (
        study(first_k=2),
        "first_k: acts with protocol = first_k only; got 2 with end_of_sequence",
    ),
    "two-tasks-to-report": (
        study(protocol="first_k", tasks=4),
        "first_k: must leave at least two of the 4 tasks to report on; got 3",
    ),
    "report-benchmark-needed": (
        study(protocol="two_phase"),
        "report_benchmark: must name the benchmark that two_phase reports on; got none",
    ),
    "quiet-or-verbose": (study(quiet=True, verbose=True), "quiet, verbose: at most one of the two; got both"),
    "continual-keeps-model": (
        study("joint", protocol="continual", space={}),
        "protocol: continual continues from the current model, which joint does not have; got continual",
    ),
    "sampler-only": (
        study(protocol="continual", trials=5),
        "trials: acts only if a sampler chooses, which it does not in continual; got 5",
    ),
    "continual-rates": (
        study(protocol="continual", space=FACTOR | {"learning_rate": LogRange(0.01, 1)}),
        "learning_rate: continual chooses it from --learning-rates; give one value, not a range",
    ),
    "continual-decays": (
        study("ewc", protocol="continual", space={"penalty_factor": LogRange(1, 10), "penalty_p_norm": Range(1, 3)}),
        re.compile(
            r"penalty_p_norm: stays the same in continual, where only \w+ and \w+ decay; give one value "
            r"\(--penalty-p-norm 1\) instead of a range"
        ),
    ),
    "continual-needs-factor": (
        study(protocol="continual", space={}),
        "protocol: continual needs the range of a factor, from whose top it decays; got none",
    ),
    "unlearn-needed": (
        study("amnesiac_lwf"),
        "unlearn: amnesiac_lwf needs a request, as 3:1 (after task 3 unlearn task 1); got none",
    ),
    "unlearning-protocol": (
        study("amnesiac_lwf", unlearn={3: 1}, protocol="first_k"),
        "protocol: must be end_of_sequence if tasks are unlearned; got first_k",
    ),
    "unlearning-references": (
        study("amnesiac_lwf", unlearn={3: 1}, references=("finetuning", "joint")),
        "references: must be finetuning alone (with the same requests) if tasks are unlearned, because others do not "
        "unlearn; got joint",
    ),
    "unlearning-one-value": (
        study("amnesiac_lwf", unlearn={3: 1}, space={"learning_rate": LogRange(0.01, 1)}),
        "learning_rate: must have one value if tasks are unlearned, because the model that all trials are measured "
        "against has it; got 0.01 to 1 (log)",
    ),
    "no-forward-transfer": (
        study(objectives=("forward_transfer",), references=("independent",)),
        "objectives: forward_transfer is not defined for independent networks, because later tasks have no network "
        "yet; got both",
    ),
    "sampler-known": (
        study(sampler="cma"),
        "sampler: must be one of tpe, random, grid, qmc, nsga2, nsga3, gp, cmaes, or an object of optuna.samplers (did "
        "you mean cmaes?); got 'cma'",
    ),
    "grid-by-name": (
        study(sampler=GridSampler({"distillation_factor": [1, 2]})),
        "sampler: a grid must be named, sampler='grid'; got GridSampler(search_space={distillation_factor: [1, 2]})",
    ),
    "sampler-package": (
        without_packages(study(sampler="cmaes")),
        "sampler: cmaes needs a package: pip install cmaes; got none",
    ),
    "sampler-numbers": (
        study(sampler="cmaes", space=FACTOR | {"optimizer": Choice("sgd", "adam")}),
        "sampler: cmaes learns about numbers only; got the choice optimizer. Use tpe or gp",
    ),
    "sampler-unconditional": (
        study(sampler="gp", space=[FACTOR, {"optimizer": Choice("sgd", "adam")}, MOMENTUM_OF_SGD]),
        "sampler: gp draws conditional parts at random; got momentum. Use tpe",
    ),
    "sampler-several-objectives": (
        study(sampler="nsga3"),
        "sampler: nsga3 needs at least 2 objectives; got 1. Use tpe",
    ),
    "sampler-one-objective": (
        study(sampler=CmaEsSampler(popsize=4), objectives=TWO),
        re.compile(r"sampler: CmaEsSampler\(.*\) serves one objective; got 2\. Use tpe or nsga2"),
    ),
    "sampler-constraints": (
        study(sampler="cmaes", constraints={"average_forgetting": 0.1}),
        "sampler: cmaes does not learn from constraints; use tpe, gp, nsga2 or nsga3; got constraints",
    ),
    "constraint-pairs": (
        command("--constraint", "average_forgetting"),
        "constraints: must be pairs, METRIC VALUE; got average_forgetting",
    ),
    "constraints-known": (
        study(constraints={"forgetting": 0.1}, tasks=3),
        "constraints: must be on metrics of this benchmark (did you mean forgetting/task_02?), as average_accuracy, "
        "average_incremental_accuracy, learning_accuracy, average_forgetting, backward_transfer, forward_transfer; got "
        "forgetting",
    ),
    "constraint-of-share": (
        study(constraints={"average_forgetting": 10}),
        "constraints: average_forgetting is a share, so its limit must lie between -1 and 1; got 10. Write 0.1 for "
        "10 %",
    ),
    "hours-form": (
        study(hours="soon"),
        "hours: must be hours, as 2 or 1.5, or a time, as 90min or 1h30min; got 'soon'",
    ),
    "hours-positive": (study(hours=0), "hours: must be above 0; got 0"),
    "patience-one-objective": (
        study(patience=3, objectives=TWO),
        "patience: waits for a better best trial, which several objectives do not have; got average_accuracy "
        "average_forgetting",
    ),
    "pruner-known": (
        study(pruner="hyperband"),
        "pruner: must be one of none, asha, median, or an object of optuna.pruners; got 'hyperband'",
    ),
    "pruner-objective": (
        study(pruner="asha", objectives=TWO),
        "pruner: stops by average_accuracy, which must be the only objective; got asha with average_accuracy "
        "average_forgetting",
    ),
    "pruner-needs-tasks": (
        study(pruner="asha", tasks=2),
        "pruner: stops after task 2 at the earliest, so more tasks must be searched; got 2",
    ),
    "fresh-seeds": (
        study(first_report_seed=2, report_seeds=4),
        "first_report_seed: the final evaluation's seeds, 2 to 5, must be none that the search uses; got 2 in both",
    ),
    "report-another-benchmark": (
        study(protocol="two_phase", report_benchmark="split-digits"),
        "report_benchmark: must differ from the search's; got split-digits",
    ),
    "report-same-counts": (
        study(protocol="two_phase", report_benchmark="permuted-digits"),
        "report_benchmark: must have as many tasks and classes per task as split-digits, 2 2 2 2 2; got 10 10 10 10 10 "
        "of permuted-digits",
    ),
    # planning: command lines and files
    "budget-of-trials": (
        comparison({"a": {}, "b": {}}, hours=1),
        "hours: compared studies must have the same budget, which is --trials; got hours",
    ),
    "config-named": (command("--config"), "config: must name a YAML file of options; got nothing"),
    "config-yaml": (
        command("--config", "PATH/none"),
        re.compile("config: must be a YAML file of options; got .*none: .*No such file or directory.*"),
    ),
    "config-options": (
        options("just words"),
        re.compile("config: must be a YAML file with a line `option: value` for each option; got .*file"),
    ),
    "option-known": (
        options("epoch: 3"),
        re.compile(r"config: epoch in .*file is no option \(did you mean epochs\?\); known are all, anyway, .*"),
    ),
    "config-values": (
        options("trials: {a: 1}"),
        re.compile(r"config: trials in .*file must be a value or a list of values; got \{'a': 1\}"),
    ),
    "config-one-value": (
        options("trials: [1, 2]"),
        re.compile(r"config: trials in .*file must be one value; got \[1, 2\]"),
    ),
    # planning: what is tried first
    "enqueue-some": (study(enqueue=[]), "enqueue: must have at least one configuration; got none"),
    "enqueue-file": (
        study(enqueue="no-such.yml"),
        "enqueue: must be a YAML or CSV file of configurations; got no-such.yml: No such file or directory",
    ),
    "enqueue-form": (
        with_file("[1, 2]", command("--enqueue", "PATH/file")),
        re.compile(
            r"enqueue: must be a list of mappings `hyperparameter: value`, or one mapping; got \[1, 2\] of .*file"
        ),
    ),
    "enqueue-values": (
        study(space=FACTOR, enqueue={"epochs": 1}),
        "enqueue: must have a value of what is searched, distillation_factor; got none in the configuration",
    ),
    "enqueue-searched": (
        study(space=FACTOR, enqueue={"distilation_factor": 1, "epochs": 1}),
        "enqueue: distilation_factor is not searched (did you mean distillation_factor?); searched are "
        "distillation_factor; got it in the configuration",
    ),
    "enqueue-in-space": (
        study(space=FACTOR, enqueue=[{"distillation_factor": 1}, {"distillation_factor": 11}]),
        "enqueue: distillation_factor must lie in what is searched, 0.1 to 10 (log); got 11.0 in configuration 2",
    ),
    "enqueue-applies": (
        study(
            space=[FACTOR, {"optimizer": Choice("sgd", "adam")}, When("optimizer", "sgd", {"momentum": Range(0, 0.9)})],
            enqueue={"momentum": 0.5},
        ),
        "enqueue: momentum acts only if optimizer = sgd, which the configuration must say, too; got it without in the "
        "configuration",
    ),
    "enqueue-once": (
        study(space=FACTOR, enqueue=[{"distillation_factor": 1}, {"distillation_factor": 1.0}]),
        "enqueue: must have each configuration once; got distillation_factor = 1 twice",
    ),
    "enqueue-not-in-grid": (
        study(space=FACTOR, sampler="grid", enqueue={"distillation_factor": 1}),
        "enqueue: a grid has its own points, each once, so nothing can be tried before them; got both",
    ),
    "enqueue-within-trials": (
        study(space=FACTOR, trials=1, enqueue=[{"distillation_factor": 1}, {"distillation_factor": 2}]),
        "enqueue: must have at most as many configurations as the study has trials, 1; got 2",
    ),
    "warm-start-needed": (study(top=3), "top: acts with --warm-start only; got 3 without one"),
    # comparisons
    "comparison-kind": (
        comparison({}),
        "kind: must be one of methods, protocols, of at least one study; got 'methods'",
    ),
    "same-budget": (
        comparison({"a": {"trials": 3}, "b": {"trials": 4}}),
        "sampler: compared studies must have the same budget; got 3 4 trials",
    ),
}
"""Rule -> a call that breaks it alone, and how it is refused; PATH is the test's folder."""


@pytest.mark.parametrize("rule", WORDING)
def test_a_refusal_names_the_field_the_rule_and_the_value(rule: str, tmp_path: Path) -> None:
    call, expected = WORDING[rule]
    (problem,) = refusals(call, tmp_path)
    assert problem.rule == rule
    if isinstance(expected, str):
        assert problem == expected.replace("PATH/", f"{tmp_path}/")
    else:
        assert expected.fullmatch(problem), problem


def test_every_rule_has_its_wording_here() -> None:
    root = Path(clsearch.__file__).parent
    files = [
        file for name in PACKAGES for file in ((root / name).rglob("*.py") if (root / name).is_dir() else [root / name])
    ]
    ids = {id for file in files for id in re.findall(r'(?:Refusal|RuleError)\(\s*"([a-z0-9-]+)"', file.read_text())}
    ids |= {"config-values", "config-one-value"}  # pairs of id and words, as are those of domains
    ids |= {"range-whole", "range-of-numbers", "log-range-positive", "log-without-step", "step-in-range"}
    ids |= {"range-increases", "choice-of-values", "choice-once", "config-yaml"}
    assert ids == {*WORDING}
