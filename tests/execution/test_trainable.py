"""Trainables, used in this process without a Ray cluster."""

import math
import pickle
import shutil
from dataclasses import fields, replace
from functools import partial

import pytest
import torch

from clsearch import trainables
from clsearch.common.errors import ConfigError
from clsearch.config.plain_values import backbone_name
from clsearch.data.datasets import SOURCES, read_data
from clsearch.execution.messages import OUT_OF_MEMORY
from clsearch.execution.trainable import STATE_FILE, trainable_of
from clsearch.methods.registry import BUILT_IN, configure
from clsearch.metrics import last_rows
from clsearch.networks.mlp import MLP
from clsearch.trainables import EWCTrainable, FinetuningTrainable, LwFTrainable
from clsearch.training.loop import learn_sequence
from clsearch.training.trial_setup import build_trial
from tests.builders import write_images
from tests.execution.reports import metrics_of
from tests.refusals import broken

pytestmark = pytest.mark.slow

SETTINGS = {"hidden": (8,), "epochs": 1, "batch_size": 64, "tasks": 3}
CONFIG = SETTINGS | {"seeds": [0, 1]}
DIVERGES_AT_ONCE = {"learning_rate": 1e30}
DIVERGES_IN_TASK_2 = {"penalty_factor": 1e37}  # no penalty acts in task 1

SUMMARY = {"average_accuracy", "average_incremental_accuracy", "learning_accuracy"}
AFTER_TWO = {"average_forgetting", "backward_transfer", "forward_transfer"}
TRAIN = {"train/loss", "train/loss_classification", "train/penalty", "train/accuracy"}


def steps(trainable, n):
    return [trainable.train() for _ in range(n)]


def assert_same_state(a, b):
    """Bit-equal in everything but the seconds spent."""
    for f in fields(a):
        first, second = getattr(a, f.name), getattr(b, f.name)
        if f.name == "seconds":
            continue
        if isinstance(first, dict):
            assert set(first) == set(second)
            assert all(torch.equal(first[name], second[name]) for name in first), f.name
        elif isinstance(first, torch.Tensor):
            assert torch.equal(first.nan_to_num(-1), second.nan_to_num(-1)), f.name
        else:
            assert first == second


def numbers(result):
    return {k: v for k, v in result.items() if isinstance(v, float)}


def test_every_algorithm_has_its_trainable():
    assert {name: trainable_of(name).algorithm for name in BUILT_IN} == {name: name for name in BUILT_IN}
    assert {trainable_of(name).__name__ for name in BUILT_IN} <= {*dir(trainables)}


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", BUILT_IN)
def test_a_step_learns_a_task_and_the_last_is_done(algorithm):
    results = steps(trainable_of(algorithm)(config=CONFIG), 3)
    assert [r["tasks_learned"] for r in results] == [1, 2, 3]
    assert [r["done"] for r in results] == [False, False, True]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", BUILT_IN)
def test_a_result_has_the_metrics_and_their_spread(algorithm):
    first, _, last = steps(trainable_of(algorithm)(config=CONFIG), 3)
    train = TRAIN | ({"train/kl"} if algorithm.removeprefix("amnesiac_").startswith("lwf") else set())
    expected = SUMMARY | train | {"accuracy/task_01"}
    assert set(metrics_of(first)) == expected | {f"{name}/std" for name in expected}
    expected |= AFTER_TWO - ({"forward_transfer"} if algorithm == "independent" else set())
    expected |= {f"accuracy/task_{j:02d}" for j in (2, 3)} | {f"forgetting/task_{j:02d}" for j in (1, 2)}
    assert set(metrics_of(last)) == expected | {f"{name}/std" for name in expected}


def test_one_seed_has_no_spread():
    (result,) = steps(LwFTrainable(config=SETTINGS | {"seeds": [4]}), 1)
    assert set(result) >= SUMMARY
    assert [name for name in result if name.endswith("/std")] == []


def test_seeds_are_three_unless_told():
    assert LwFTrainable(config=SETTINGS).run.seeds == (0, 1, 2)


def test_metrics_are_the_means_and_deviations_of_the_matrix_that_comes_with_them():
    result = steps(EWCTrainable(config=CONFIG), 3)[-1]
    R = torch.tensor(result["record"]["accuracy"], dtype=torch.float64)
    assert R.shape == (2, 4, 3)
    scores = R[:, 3].mean(1)
    assert result["average_accuracy"] == pytest.approx(scores.mean().item())
    assert result["average_accuracy/std"] == pytest.approx(abs(scores[0] - scores[1]).item() / math.sqrt(2))
    assert result["accuracy/task_02"] == pytest.approx(R[:, 3, 1].mean().item())


@pytest.mark.parametrize("algorithm", BUILT_IN)
def test_a_trial_is_the_cores_own_sequence(algorithm):
    trainable = trainable_of(algorithm)(config=CONFIG)
    steps(trainable, 3)
    assert_same_state(trainable.state, learn_sequence(build_trial(configure(algorithm, SETTINGS), [0, 1])))


def test_a_trial_may_learn_some_of_the_tasks_and_is_done_after_the_last_of_them():
    for sequence in ([1, 2], [2, 3]):
        trainable = LwFTrainable(config=CONFIG | {"sequence": sequence})
        results = steps(trainable, 2)
        assert [r["done"] for r in results] == [False, True]
        assert torch.tensor(results[-1]["record"]["accuracy"]).shape == (2, 3, 2)
        own = build_trial(configure("lwf", SETTINGS), [0, 1], sequence=sequence)
        assert_same_state(trainable.state, learn_sequence(own))


def test_the_first_tasks_alone_are_learned_as_where_others_follow():
    first, all_tasks = (steps(LwFTrainable(config=CONFIG | own), 2) for own in ({"sequence": [1, 2]}, {}))
    names = SUMMARY | TRAIN | {"average_forgetting", "accuracy/task_02"}
    assert [{n: r.get(n) for n in names} for r in first] == [{n: r.get(n) for n in names} for r in all_tasks]


def test_the_learning_curve_has_a_row_per_epoch():
    result = steps(LwFTrainable(config=CONFIG | {"epochs": 2}), 2)[-1]
    record = result["record"]
    assert record["epochs"] == [[1, 1], [1, 2], [2, 1], [2, 2]]
    assert torch.tensor(record["curve"]).shape == (4, 2, len(record["columns"]))
    losses = torch.tensor(record["curve"])[-1, :, record["columns"].index("loss")]
    assert result["train/loss"] == pytest.approx(losses.mean().item())


def test_the_last_epoch_is_each_members_own_where_members_differ_in_size():
    # Batches of 14: some members take their 31 steps in fewer epochs of task 1 than others, and in more of task 3.
    sizes = {"tasks": 3, "classes_per_task": (2, 4, 2), "class_order": "shuffled"}
    config = {"hidden": (8,), "batch_size": 14, "iterations": 31, "seeds": [0, 1, 2]} | sizes
    shorter = set()
    for result in steps(LwFTrainable(config=config), 3):
        record = result["record"]
        curve, task = torch.tensor(record["curve"], dtype=torch.float64), torch.tensor(record["epochs"])[:, 0]
        lost = curve.isnan().any(2)
        shorter |= {(int(task[e]), int(m)) for e, m in lost.nonzero()}
        last = [max(e for e in range(len(curve)) if not lost[e, m]) for m in range(3)]
        assert all(task[e] == result["tasks_learned"] for e in last)
        for k, name in enumerate(record["columns"]):
            values = torch.stack([curve[e, m, k] for m, e in enumerate(last)])
            assert result[f"train/{name}"] == pytest.approx(values.mean().item()), name
            assert result[f"train/{name}/std"] == pytest.approx(values.std().item()), name
    assert len({t for t, _ in shorter}) > 1  # or nothing was shown


def test_last_rows_are_the_last_that_were_measured():
    nan = math.nan
    columns = [[1, 2, nan, 4, nan], [1, 2, 3, 4, 5], [1, nan, nan, 4, 5], [1, nan, 3, nan, nan]]
    curve = torch.tensor(columns).T[:, :, None] * torch.tensor([1.0, 10.0])
    assert last_rows(curve).tolist() == [[4, 40], [5, 50], [5, 50], [3, 30]]


def test_the_config_may_name_another_algorithm_than_the_class():
    (result,) = steps(FinetuningTrainable(config=CONFIG | {"algorithm": "lwf", "distillation_factor": 2.0}), 1)
    assert "train/kl" in result


def test_the_label_is_the_drivers_and_not_read():
    assert (
        LwFTrainable(config=CONFIG | {"label": "trial_00000"}).run.fingerprint == LwFTrainable(CONFIG).run.fingerprint
    )


@pytest.mark.parametrize(
    ("change", "field", "rule"),
    [
        ({"colour": "red"}, "colour", "setting-of-algorithm"),
        ({"penalty_factor": 1.0}, "penalty_factor", "setting-of-algorithm"),
        ({"distillation_factor": -1}, "distillation_factor", "greater-than"),
    ],
)
def test_a_config_that_is_unknown_or_against_a_rule_is_refused(change, field, rule):
    assert broken(LwFTrainable, config=CONFIG | change) == [(field, rule)]


# The trial's own checkpoint

KEEPS = {"lwf": {}, "ewc": {"optimizer": "adam", "optimizer_state": "keep"}}


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", KEEPS)
@pytest.mark.parametrize("learned", [1, 2])
def test_a_new_object_goes_on_from_the_state_file_bit_for_bit(tmp_path, algorithm, learned):
    cls = trainable_of(algorithm)
    config = CONFIG | KEEPS[algorithm]
    straight = cls(config=config)
    expected = steps(straight, 3)

    kept = config | {"state_file": str(tmp_path / "trial" / STATE_FILE)}
    steps(cls(config=kept), learned)
    second = cls(config=kept)
    assert second.state.tasks_learned == learned
    results = steps(second, 1 + 3 - learned)  # first the state that it goes on from, of which nobody may have heard
    assert_same_state(second.state, straight.state)
    assert [metrics_of(r) for r in results] == [metrics_of(r) for r in expected[learned - 1 :]]
    assert [r["tasks_learned"] for r in results] == [r["tasks_learned"] for r in expected[learned - 1 :]]
    assert [r["done"] for r in results] == [r["done"] for r in expected[learned - 1 :]]


def test_the_state_file_holds_the_state_after_each_task(tmp_path):
    path = tmp_path / STATE_FILE
    trainable = LwFTrainable(config=CONFIG | {"state_file": str(path)})
    assert not path.exists()
    for learned in (1, 2, 3):
        steps(trainable, 1)
        read = LwFTrainable(config=CONFIG | {"state_file": str(path)}).state
        assert read.tasks_learned == learned
        assert_same_state(read, trainable.state)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["state.previous.pt", STATE_FILE]


def test_a_trial_whose_file_is_complete_reports_its_end_again(tmp_path):
    config = CONFIG | {"state_file": str(tmp_path / STATE_FILE)}
    last = steps(LwFTrainable(config=config), 3)[-1]
    (again,) = steps(LwFTrainable(config=config), 1)
    assert again["done"]
    assert again["record"] == last["record"]
    assert metrics_of(again) == metrics_of(last)


@pytest.mark.slow
@pytest.mark.parametrize(("damaged", "left"), [(("state.pt",), 1), (("state.pt", "state.previous.pt"), 0)])
@pytest.mark.parametrize("content", [b"", b"PK and no more", b"[]" * 999])
def test_a_damaged_state_costs_the_trial_tasks_and_no_number(tmp_path, damaged, left, content):
    straight = EWCTrainable(config=CONFIG)
    expected = steps(straight, 3)
    config = CONFIG | {"state_file": str(tmp_path / STATE_FILE)}
    steps(EWCTrainable(config=config), 2)
    for name in damaged:
        (tmp_path / name).write_bytes(content)
    second = EWCTrainable(config=config)
    assert second.state.tasks_learned == left
    first, *others = steps(second, 3)
    assert first["note"].startswith("its saved state was damaged (state.pt: ")
    where = "continues after task 1" if left else "is trained from the start"
    assert first["note"].endswith(f"), so it {where}")
    assert not any("note" in result for result in others)
    assert_same_state(second.state, straight.state)
    assert metrics_of(others[-1]) == metrics_of(expected[-1])


def test_a_damaged_first_task_is_said_with_the_next_report(tmp_path):
    config = CONFIG | {"prefixes": str(tmp_path)}
    (expected,) = steps(LwFTrainable(config=config), 1)
    assert "note" not in expected
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"")
    first, second = steps(LwFTrainable(config=config), 2)
    assert first["note"].startswith("the first task that trials share was trained again: ")
    assert "note" not in second
    assert metrics_of(first) == metrics_of(expected)
    assert "note" not in steps(EWCTrainable(config=config), 1)[0]


@pytest.mark.parametrize(
    "change", [{"learning_rate": 0.2}, {"seeds": [0, 2]}, {"distillation_factor": 2.0}, {"sequence": [1, 2]}]
)
def test_the_state_file_of_another_trial_is_refused(tmp_path, change):
    config = CONFIG | {"state_file": str(tmp_path / STATE_FILE)}
    steps(LwFTrainable(config=config), 1)
    with pytest.raises(ValueError, match="must belong to this configuration and these seeds"):
        LwFTrainable(config=config | change)


def test_rays_checkpoint_goes_round_in_the_middle_of_a_trial(tmp_path):
    straight = EWCTrainable(config=CONFIG)
    steps(straight, 2)
    straight.save_checkpoint(str(tmp_path))
    second = EWCTrainable(config=CONFIG)
    second.load_checkpoint(str(tmp_path))
    assert second.state.tasks_learned == 2
    assert_same_state(second.state, straight.state)
    steps(straight, 1)
    steps(second, 1)
    assert_same_state(second.state, straight.state)


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path):
    first = EWCTrainable(config=CONFIG)
    first.save_checkpoint(str(tmp_path))
    with pytest.raises(ValueError, match="must belong to this configuration"):
        EWCTrainable(config=CONFIG | {"penalty_factor": 7.0}).load_checkpoint(str(tmp_path))


# An actor that is used again


@pytest.mark.parametrize(
    "new", [CONFIG | {"learning_rate": 0.3, "seeds": [5]}, SETTINGS | {"algorithm": "ewc", "penalty_factor": 2.0}]
)
def test_a_reset_actor_is_a_new_one(tmp_path, new):
    used = LwFTrainable(config=CONFIG | {"state_file": str(tmp_path / STATE_FILE)})
    steps(used, 2)
    before = (tmp_path / STATE_FILE).read_bytes()
    assert used.reset_config(new)
    assert used.state.tasks_learned == 0
    fresh = LwFTrainable(config=new)
    assert used.run.seeds == fresh.run.seeds
    for expected, found in zip(steps(fresh, 3), steps(used, 3), strict=True):
        assert metrics_of(found) == metrics_of(expected)
        assert found["done"] == expected["done"]
    assert_same_state(used.state, fresh.state)
    assert (tmp_path / STATE_FILE).read_bytes() == before


def test_a_reset_actor_goes_on_from_the_new_trials_file(tmp_path):
    config = CONFIG | {"state_file": str(tmp_path / STATE_FILE)}
    steps(LwFTrainable(config=config), 2)
    used = LwFTrainable(config=CONFIG | {"learning_rate": 0.3})
    steps(used, 1)
    used.reset_config(config)
    assert used.state.tasks_learned == 2


# Divergence


def test_divergence_in_the_first_task_ends_the_trial_with_its_reason():
    (result,) = steps(FinetuningTrainable(config=CONFIG | DIVERGES_AT_ONCE), 1)
    assert result["done"]
    assert result["failed"].startswith("training diverged in epoch 1 of task 1")
    assert result["tasks_learned"] == 0
    assert metrics_of(result) == {}
    assert all(math.isfinite(v) for v in numbers(result).values())


def test_divergence_in_a_later_task_keeps_the_numbers_from_before(tmp_path):
    path = tmp_path / STATE_FILE
    trainable = EWCTrainable(config=CONFIG | DIVERGES_IN_TASK_2 | {"state_file": str(path)})
    good, result = steps(trainable, 2)
    assert "failed" not in good
    assert not good["done"]
    assert result["done"]
    assert "of task 2" in result["failed"]
    assert result["tasks_learned"] == 1
    assert metrics_of(result) == metrics_of(good)
    assert all(math.isfinite(v) for v in numbers(result).values())
    kept = EWCTrainable(config=CONFIG | DIVERGES_IN_TASK_2 | {"state_file": str(path)})
    assert kept.state.tasks_learned == 1


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", BUILT_IN)
@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_no_metric_is_nan_or_infinite_in_any_scenario(algorithm, scenario):
    config = CONFIG | {"scenario": scenario, "tasks": 2, "algorithm": algorithm}
    if (algorithm, scenario) == ("independent", "class"):
        assert broken(FinetuningTrainable, config=config) == [("scenario", "independent-needs-task-identity")]
        return
    for result in steps(FinetuningTrainable(config=config), 2):
        assert all(math.isfinite(v) for v in numbers(result).values())
    assert ("forward_transfer" in result) == (scenario != "class" and algorithm != "independent")


# Data that the driver has read


def with_data(cls, config, data):
    """A trial whose setup is handed the data, as `tune.with_parameters` does it, here without an object store."""

    class Given(cls):
        def setup(self, config):
            super().setup(config, data=data)

    return Given(config=config)


def as_shared(data):
    """The data as it comes out of Ray's object store: a copy in buffers that cannot be written to."""
    buffers = []
    packed = pickle.dumps(data, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(packed, buffers=[bytes(buffer.raw()) for buffer in buffers])


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", BUILT_IN)
def test_shared_data_leads_to_the_same_training(algorithm):
    shared = as_shared(read_data(SOURCES["digits"], None))
    assert not shared.inputs.flags.writeable
    given, alone = with_data(trainable_of(algorithm), CONFIG, shared), trainable_of(algorithm)(config=CONFIG)
    assert [metrics_of(r) for r in steps(given, 3)] == [metrics_of(r) for r in steps(alone, 3)]
    assert_same_state(given.state, alone.state)


@pytest.mark.parametrize("benchmark", ["split-digits", "permuted-digits", "rotated-digits"])
def test_shared_data_is_not_copied(benchmark):
    data = as_shared(read_data(SOURCES["digits"], None))
    run = with_data(LwFTrainable, CONFIG | {"benchmark": benchmark}, data).run
    for task in run.benchmark.tasks:
        for samples in (task.train, task.validation):
            assert samples.inputs.data_ptr() == data.inputs.ctypes.data
            assert samples.labels.data_ptr() == data.labels.ctypes.data


def test_it_is_the_shared_data_that_is_trained_on():
    data, config = read_data(SOURCES["digits"], None), CONFIG | {"learning_rate": 0.3, "epochs": 5}
    (seen,) = steps(with_data(LwFTrainable, config, data), 1)
    (dark,) = steps(with_data(LwFTrainable, config, replace(data, inputs=0 * data.inputs)), 1)
    assert seen["average_accuracy"] > 0.9
    assert dark["average_accuracy"] < 0.7


def test_a_reset_actor_keeps_the_shared_data():
    data = read_data(SOURCES["digits"], None)
    used = with_data(LwFTrainable, CONFIG, data)
    steps(used, 2)
    assert used.reset_config(CONFIG | {"algorithm": "ewc", "seeds": [5]})
    assert used.run.benchmark.tasks[0].train.inputs.data_ptr() == data.inputs.ctypes.data
    fresh = EWCTrainable(config=CONFIG | {"seeds": [5]})
    assert [metrics_of(r) for r in steps(used, 3)] == [metrics_of(r) for r in steps(fresh, 3)]


@pytest.mark.slow
@pytest.mark.parametrize("grouped", [False, True])
def test_a_folder_of_images_is_not_needed_where_its_data_is_given(tmp_path, monkeypatch, grouped):
    monkeypatch.setenv("CLSEARCH_CACHE", str(tmp_path / "cache"))
    folder = write_images(tmp_path / "pets", count=20)
    settings = {"benchmark": f"folder:{folder}"}
    if grouped:
        (tmp_path / "groups.txt").write_text("f, a\nb, c\ne, d")
        settings["grouping"] = str(tmp_path / "groups.txt")
    config = CONFIG | {"tasks": 3, "learning_rate": 0.3, "epochs": 20} | settings
    shared = as_shared(read_data(configure("lwf", SETTINGS | settings).source, None))
    alone = LwFTrainable(config=config)
    expected = steps(alone, 3)
    for path in tmp_path.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ConfigError):
        LwFTrainable(config=config)
    given = with_data(LwFTrainable, config, shared)
    assert [metrics_of(r) for r in steps(given, 3)] == [metrics_of(r) for r in expected]
    assert_same_state(given.state, alone.state)
    assert expected[-1]["learning_accuracy"] > 0.8  # what was learned is in the images
    assert list(tmp_path.iterdir()) == []


# Backbones and schedules


class Tiny(torch.nn.Module):
    """A backbone as a user might write it."""

    def __init__(self, shape, width=6):
        super().__init__()
        self.layer = torch.nn.Conv2d(shape[0], width, 3)

    def forward(self, images):
        return self.layer(images).relu().flatten(1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "made", [Tiny, partial(Tiny, width=3), lambda shape: Tiny(shape)], ids=["class", "partial", "lambda"]
)
def test_a_configs_backbone_may_be_a_function(tmp_path, made):
    config = {"backbone": made, "epochs": 10, "learning_rate": 0.3, "tasks": 2, "seeds": [0, 1], "fisher_samples": 8}
    config |= {"state_file": str(tmp_path / STATE_FILE)}
    trainable = EWCTrainable(config=config)
    assert trainable.run.config.flat()["backbone"] == backbone_name(made)
    (result,) = steps(trainable, 1)
    width = made((1, 8, 8)).layer.out_channels
    assert trainable.state.params["backbone.layer.weight"].shape == (2, width, 1, 3, 3)
    assert result["average_accuracy"] > 0.8
    assert_same_state(EWCTrainable(config=config).state, trainable.state)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", BUILT_IN)
def test_every_algorithm_trains_a_cnn_to_its_end(algorithm):
    config = {"backbone": "cnn", "hidden": (8,), "iterations": 3, "batch_size": 32, "tasks": 2, "seeds": [0]}
    config |= {"fisher_samples": 8} if "ewc" in algorithm else {}
    results = steps(trainable_of(algorithm)(config=config), 2)
    assert [r["done"] for r in results] == [False, True]
    assert all(math.isfinite(value) for value in numbers(results[-1]).values())


@pytest.mark.parametrize(
    ("settings", "shares"),
    [
        ({"schedule": "cosine"}, [1, 0.75, 0.25]),
        ({"schedule": "step", "milestones": (0.3, 0.6), "decay": 0.5}, [1, 0.5, 0.25]),
        ({"warmup": 0.5}, [1 / 3, 2 / 3, 1]),
    ],
)
def test_the_learning_rate_of_the_last_epoch_is_reported_where_it_changes(settings, shares):
    # Batches as large as the task: an epoch is a step.
    config = CONFIG | {"epochs": 3, "batch_size": 2000, "learning_rate": 0.2} | settings
    trainable = LwFTrainable(config=config)
    for number, result in enumerate(steps(trainable, 3), start=1):
        record = result["record"]
        column = record["columns"].index("learning_rate")
        rates = [
            row[0][column] for row, (task, _) in zip(record["curve"], record["epochs"], strict=True) if task == number
        ]
        assert rates == pytest.approx([0.2 * share for share in shares])  # anew at each task
        assert metrics_of(result)["train/learning_rate"] == pytest.approx(rates[-1])
        assert result["train/learning_rate/std"] == 0


def test_a_learning_rate_that_stays_is_not_reported():
    (result,) = steps(LwFTrainable(config=CONFIG), 1)
    assert "train/learning_rate" not in result
    assert "learning_rate" not in result["record"]["columns"]


class Greedy(torch.nn.Module):
    """Wants more memory than there is, once it is trained."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(width, 4)

    def forward(self, images):
        if torch.is_grad_enabled():
            torch.empty(2**50)
        return self.linear(images.flatten(1))


def greedy(shape):
    return Greedy(math.prod(shape))


GREEDY = SETTINGS | {"backbone": greedy, "hidden": None}
TOO_LARGE = {"hidden": (10**8, 10**8)}


@pytest.mark.parametrize("large", [TOO_LARGE, GREEDY], ids=["built", "trained"])
def test_a_trial_that_does_not_fit_into_memory_fails_with_the_remedy_and_the_next_goes_on(large):
    trainable = LwFTrainable(config=CONFIG | large)
    (result,) = steps(trainable, 1)
    assert result["done"]
    assert result[OUT_OF_MEMORY]
    assert result["tasks_learned"] == 0
    assert "--batch-size" in result["failed"]
    assert trainable.reset_config(CONFIG)
    assert [r["tasks_learned"] for r in steps(trainable, 3)] == [1, 2, 3]


class GreedyMLP(MLP):
    """Wants more memory than there is."""

    def features(self, params, inputs):
        return torch.empty(2**50)


def test_what_it_learned_before_memory_ran_out_is_kept():
    trainable = LwFTrainable(config=CONFIG)
    steps(trainable, 2)
    network = trainable.run.network
    trainable.run = replace(trainable.run, network=GreedyMLP(network.inputs, network.hidden, network.outputs))
    (result,) = steps(trainable, 1)
    assert result["tasks_learned"] == 2
    assert len(result["record"]["accuracy"][0]) == 4
    assert result[OUT_OF_MEMORY]
