"""The one function that opens test data, for a chosen configuration on fresh seeds."""

import itertools

import pytest
import torch

from clsearch.core.config import TrialConfig
from clsearch.core.held_out import held_out_samples
from clsearch.core.loop import DivergedError, learn_sequence, learn_task
from clsearch.core.run import build_run
from clsearch.tuning.selection import final_accuracy
from tests.helpers import everything, forward, member_of, write_mnist

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
