"""The one function that opens test data, for a chosen configuration on fresh seeds."""

import itertools
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from clsearch.core.config import ConfigError, TrialConfig
from clsearch.core.datasets import read_data
from clsearch.core.held_out import held_out_samples
from clsearch.core.loop import DivergedError, learn_sequence, learn_task
from clsearch.core.run import build_run
from clsearch.tuning.selection import final_accuracy
from tests.helpers import everything, forward, member_of, write_mnist
from tests.tuning.builders import write_images

SETTINGS = {"hidden": (12,), "tasks": 3, "batch_size": 64, "epochs": 1, "learning_rate": 0.2}
SEEDS = [3, 5]


def config_of(algorithm="finetuning", **settings):
    return TrialConfig.of(algorithm, SETTINGS | settings)


def by_hand(config, run, params, learned):
    """Test accuracy of every task, [M, T], of parameters for each task, sample by sample with plain linear layers."""
    rows = torch.empty(len(run.seeds), config.tasks, dtype=torch.float64)
    samples = held_out_samples(config, run.benchmark)
    for m, (k, task) in itertools.product(range(len(run.seeds)), enumerate(run.benchmark.tasks)):
        inputs, labels = everything(samples[k], m)
        answers = list(run.benchmark.answers(learned, task.index))
        chosen = torch.tensor(answers)[forward(member_of(params[k], m), inputs)[:, answers].argmax(1)]
        rows[m, k] = (chosen == labels).double().mean()
    return rows


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
@pytest.mark.parametrize("algorithm", ["finetuning", "lwf", "ewc", "lwf_ewc"])
def test_it_is_the_accuracy_of_the_last_model_on_held_out_samples(algorithm, scenario):
    config = config_of(algorithm, scenario=scenario, tasks=5)
    found = final_accuracy(config, SEEDS, [0, 1, 2])
    run = build_run(config, SEEDS)
    state = learn_sequence(run)
    assert torch.equal(found, by_hand(config, run, [state.params] * 5, 5))
    if scenario != "class":  # where earlier tasks have none left, of validation samples as of test samples
        assert not torch.equal(found, state.accuracy[:, 5])


def test_unequal_shuffled_classes_are_tested_on_each_seeds_own():
    config = config_of("lwf", classes_per_task=(4, 2, 3), class_order="shuffled")
    run = build_run(config, SEEDS)
    state = learn_sequence(run)
    assert torch.equal(final_accuracy(config, SEEDS, []), by_hand(config, run, [state.params] * 3, 3))
    sizes = [samples.sizes for samples in held_out_samples(config, run.benchmark)]
    assert any(a != b for a, b in sizes)


@pytest.mark.parametrize("scenario", ["task", "class"])
def test_joint_is_the_last_model_of_a_full_joint_sequence(scenario):
    config = config_of("joint", scenario=scenario)
    run = build_run(config, SEEDS)
    state = learn_sequence(run)
    assert torch.equal(final_accuracy(config, SEEDS, []), by_hand(config, run, [state.params] * 3, 3))


def test_joint_keeps_nothing_of_an_earlier_model_where_the_optimizers_state_is_kept():
    config = config_of("joint", optimizer="adam", learning_rate=0.01, optimizer_state="keep")
    run = build_run(config, SEEDS)
    assert torch.equal(final_accuracy(config, SEEDS, []), by_hand(config, run, [learn_sequence(run).params] * 3, 3))


def test_of_independent_networks_each_answers_for_its_own_task():
    config = config_of("independent")
    run = build_run(config, SEEDS)
    networks, state = [], run.initial_state()
    while state.tasks_learned < 3:
        state = learn_task(run, state)
        networks.append(state.params)
    assert torch.equal(final_accuracy(config, SEEDS, []), by_hand(config, run, networks, 3))


def test_each_seed_gives_what_it_would_give_alone():
    config = config_of("lwf")
    together = final_accuracy(config, SEEDS, [])
    assert together.shape == (2, 3)
    for m, seed in enumerate(SEEDS):
        torch.testing.assert_close(final_accuracy(config, [seed], [])[0], together[m], atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("seeds", "searched", "named"),
    [([5, 0, 3], [3, 5, 7], "3 5"), (range(4), range(3, 6), "3"), ((2,), {2}, "2")],
)
def test_a_seed_that_the_search_used_is_refused_and_named_before_anything_is_read(seeds, searched, named, tmp_path):
    config = config_of(benchmark="split-mnist", data_root=tmp_path)  # which has no files
    with pytest.raises(ValueError, match=rf"^seeds: must be fresh, none that the search used; got {named} among them"):
        final_accuracy(config, seeds, searched)


def test_training_that_diverges_has_no_test_accuracy():
    with pytest.raises(DivergedError):
        final_accuracy(config_of(learning_rate=1e30), SEEDS, [])


def test_test_files_are_opened_after_training_and_here_alone(tmp_path):
    write_mnist(tmp_path, "train", per_class=12, seed=0)
    config = config_of(benchmark="split-mnist", data_root=tmp_path)
    learn_sequence(build_run(config, SEEDS))
    with pytest.raises(RuntimeError, match="Dataset not found"):
        final_accuracy(config, SEEDS, [])
    with pytest.raises(DivergedError):
        final_accuracy(config_of(benchmark="split-mnist", data_root=tmp_path, learning_rate=1e30), SEEDS, [])
    write_mnist(tmp_path, "t10k", per_class=3, seed=1)
    assert final_accuracy(config, SEEDS, []).shape == (2, 3)


# Images of one's own


@pytest.fixture
def pets(tmp_path, monkeypatch):
    """Six classes of 20 images."""
    monkeypatch.setenv("CLSEARCH_CACHE", str(tmp_path / "cache"))
    return write_images(tmp_path / "pets", count=20)


def pixels(path):
    return np.asarray(Image.open(path)).tobytes()


def test_of_images_it_opens_a_fifth_of_each_class_that_the_search_did_not_have(pets):
    config = config_of("lwf", benchmark=f"folder:{pets}", epochs=10)
    data, run = read_data(config.source, None), build_run(config, SEEDS)
    searched = {row.tobytes() for row in data.inputs}
    for task, samples in zip(run.benchmark.tasks, held_out_samples(config, run.benchmark), strict=True):
        for m in range(len(SEEDS)):
            inputs, _ = everything(samples, m)
            opened = {row.tobytes() for row in (255 * inputs).round().to(torch.uint8).numpy()}
            own = [{pixels(path) for path in (pets / config.source.classes[c]).iterdir()} for c in task.classes]
            assert [len(opened & images) for images in own] == [4, 4]
            assert len(opened) == 8
            assert not opened & searched
    assert len(searched) == 6 * 16


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_on_images_it_is_the_accuracy_of_the_last_model(pets, scenario):
    config = config_of("lwf", benchmark=f"folder:{pets}", scenario=scenario, epochs=10)
    run = build_run(config, SEEDS)
    found = final_accuracy(config, SEEDS, [0, 1, 2])
    assert torch.equal(found, by_hand(config, run, [learn_sequence(run).params] * 3, 3))
    assert found[:, 2].mean() > 0.7  # the newest task, whose classes differ by a bright column


def test_grouped_images_are_tested_on_the_classes_that_each_task_was_given(pets, tmp_path):
    (tmp_path / "groups.txt").write_text("f, a, c\nb, e\n")
    config = TrialConfig.of(
        "finetuning",
        {k: v for k, v in SETTINGS.items() if k != "tasks"}
        | {"benchmark": f"folder:{pets}", "grouping": tmp_path / "groups.txt", "epochs": 10},
    )
    run = build_run(config, SEEDS)
    first, second = held_out_samples(config, run.benchmark)
    assert (first.sizes, second.sizes) == ((12, 12), (8, 8))
    for samples, names in ((first, "fac"), (second, "be")):
        inputs, labels = everything(samples, 0)
        for row, label in zip((255 * inputs).round().to(torch.uint8).numpy(), labels.tolist(), strict=True):
            place = label if names == "fac" else label - 3
            assert row.tobytes() in {pixels(path) for path in (pets / names[place]).iterdir()}
    assert torch.equal(final_accuracy(config, SEEDS, []), by_hand(config, run, [learn_sequence(run).params] * 2, 2))


def test_a_test_folder_is_opened_after_training_and_here_alone(pets, tmp_path):
    folder = tmp_path / "apart"
    shutil.move(pets, folder / "train")
    config = config_of(benchmark=f"folder:{folder}")
    learn_sequence(build_run(config, SEEDS))
    with pytest.raises(ConfigError, match=r"^benchmark: test data must lie in test/ beside train/"):
        final_accuracy(config, SEEDS, [])
    with pytest.raises(DivergedError):
        final_accuracy(config_of(benchmark=f"folder:{folder}", learning_rate=1e30), SEEDS, [])
    write_images(folder / "test", count=3, seed=1)
    run = build_run(config, SEEDS)
    assert [samples.sizes for samples in held_out_samples(config, run.benchmark)] == [(6, 6)] * 3
    assert torch.equal(final_accuracy(config, SEEDS, []), by_hand(config, run, [learn_sequence(run).params] * 3, 3))


def test_a_cnn_is_tested_as_it_was_trained():
    config = config_of("lwf", backbone="cnn", hidden=(8,), tasks=2, optimizer="adam", learning_rate=0.003)
    run = build_run(config, SEEDS)
    state = learn_sequence(run)
    found = final_accuracy(config, SEEDS, [])
    for k, samples in enumerate(held_out_samples(config, run.benchmark)):
        answers = list(run.benchmark.answers(2, k + 1))
        for m in range(len(SEEDS)):
            inputs, labels = everything(samples, m)
            own = {name: value[m : m + 1] for name, value in state.params.items()}
            logits = run.network.logits(own, run.network.features(own, inputs[None]))[0]
            chosen = torch.tensor(answers)[logits[:, answers].argmax(1)]
            assert found[m, k] == (chosen == labels).double().mean()
