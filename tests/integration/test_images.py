"""A user's own JPEG images through a whole study, and how workers hold them."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import ray
from PIL import Image
from ray import tune

from clsearch.data.datasets import read_data
from clsearch.methods.registry import configure
from clsearch.trainables import LwFTrainable

COLOURS = {"grass": (40, 160, 50), "sea": (30, 70, 190), "sand": (220, 190, 120), "fire": (210, 60, 20)}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 noisy JPEGs per class, each of a colour of its own, of two sizes."""
    folder = tmp_path_factory.mktemp("my photos")
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir()
        for i in range(40):
            size = (24, 20) if i % 2 else (20, 32)
            pixels = np.array(colour) + rng.normal(0, 25, (*size, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{i}.jpg")
    return folder


@pytest.fixture
def run(run_here, photos: Path, monkeypatch: pytest.MonkeyPatch):
    """The study of the README on the photos."""
    monkeypatch.setenv("CLSEARCH_CACHE", str(photos.parent / "cache"))
    small = ["--trials", "2", "--seeds", "2", "--epochs", "6", "--batch-size", "8", "--learning-rate", "0.1"]
    ranges = ["--distillation-factor", "0.01", "0.1", "--distillation-temperature", "1", "4"]
    words = ["studies/lwf_temperature_sweep.py", "--benchmark", f"folder:{photos}", *small, *ranges]
    return partial(run_here, *words)


def test_a_folder_of_jpegs_goes_through_a_whole_study_and_is_decoded_once(run, photos: Path, results: Path) -> None:
    images = ["--image-size", "16", "--random-crop", "2", "--horizontal-flip", "--backbone", "cnn", "--hidden", "16"]
    images += ["--results", str(results), "--schedule", "cosine", "--warmup", "0.1", "--no-final"]
    first = run(*images, "--name", "photos")
    assert first.returncode == 0, first.stderr
    assert "decoding 128 images" in first.stderr  # 20 % are test data, which a search does not open
    assert "task 1: fire, grass\ntask 2: sand, sea" in first.stdout
    folder = results / "photos"
    trials = pd.read_csv(folder / "trials.csv")
    assert list(trials.state) == ["finished"] * 2
    assert trials.average_accuracy.max() > 0.8
    assert trials["train/learning_rate"].between(0, 0.1, inclusive="neither").all()
    study = json.loads((folder / "study.json").read_text())
    assert study["data"]["classes"] == sorted(COLOURS)
    assert study["data"]["shape"] == [3, 16, 16]
    assert {"--image-size", "--random-crop", "--horizontal-flip", "--backbone"} <= set(study["command"])
    again = run(*images, "--name", "photos-again", "--dry-run")
    assert again.returncode == 0, again.stderr
    assert "decoding" not in again.stderr


def test_a_grouping_file_says_which_classes_a_task_has_to_the_end_of_the_final_evaluation(
    run, results: Path, tmp_path: Path
) -> None:
    groups = tmp_path / "tasks.txt"
    groups.write_text("# warm, then cold\nsand, fire\nsea, grass\n")
    size = ["--image-size", "16", "--image-channels", "1"]
    size += ["--results", str(results), "--name", "grouped"]
    done = run(*size, "--grouping", str(groups), "--hidden", "16", "--report-seeds", "2")
    assert done.returncode == 0, done.stderr
    assert "task 1: sand, fire\ntask 2: sea, grass" in done.stdout
    study = json.loads((results / "grouped" / "study.json").read_text())
    assert study["data"]["groups"] == [["sand", "fire"], ["sea", "grass"]]
    assert study["data"]["shape"] == [1, 16, 16]
    final = json.loads((results / "grouped" / "final.json").read_text())
    (opening,) = final["openings"]
    assert len(opening["data"]) == 16  # a digest of the test images, not of those that were searched on
    assert opening["data"] != study["data"]["identity"]
    assert final["rows"][0]["reason"] == ""
    assert "Final evaluation on 2 fresh seeds" in done.stdout
    # 8 test images a class, and two seeds.
    cells = pd.read_csv(results / "grouped" / "final_accuracy.csv")
    accuracies = cells[cells.part == "test"].filter(like="task_").to_numpy()
    assert np.allclose(accuracies * 16, np.round(accuracies * 16))


def test_images_that_cannot_be_used_are_refused_before_anything_starts(run, tmp_path: Path) -> None:
    done = run("--results", str(tmp_path))
    assert done.returncode == 2
    assert "error: benchmark: images must have one size, or give --image-size; got " in done.stderr
    assert "starting Ray" not in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "lwf_temperature_sweep").exists()


class Telling(LwFTrainable):
    """LwF that says where its data lies."""

    def step(self) -> dict[str, Any]:
        inputs = self.run.benchmark.tasks[0].train.inputs
        lines = Path("/proc/self/maps").read_text().splitlines()
        spans = [(*(int(end, 16) for end in line.split()[0].split("-")), line) for line in lines]
        (mapped,) = [line for low, high, line in spans if low <= inputs.data_ptr() < high]
        return super().step() | {"mapped": mapped, "pid": os.getpid()}


def test_workers_train_on_the_one_copy_in_the_object_store(
    ray_session: str, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLSEARCH_CACHE", str(photos.parent / "cache"))
    settings = {"benchmark": f"folder:{photos}", "image_size": 16, "epochs": 1, "hidden": [8]}
    config = configure("lwf", settings)
    data = read_data(config.source, None)
    shared = ray.remote(tune.with_parameters(Telling, data=data))
    actors = [shared.remote(settings | {"seeds": [seed]}) for seed in (0, 1)]
    found = ray.get([actor.train.remote() for actor in actors])
    assert len({result["pid"] for result in found}) == 2
    for result in found:
        address, access, *_ = result["mapped"].split()
        assert access[3] == "s"  # shared with other processes
        assert "plasma" in result["mapped"], address
    for actor in actors:
        ray.kill(actor)
