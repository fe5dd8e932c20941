"""Opening test data for a chosen configuration, and measuring it after every task on fresh seeds."""

import itertools
import shutil
from datetime import UTC, datetime

import numpy as np
import pytest
import torch
from PIL import Image

from clsearch.data.datasets import Digits, read_data, training_data
from clsearch.data.image_folder import list_images
from clsearch.execution.final_evaluation import measure
from clsearch.execution.sealed_data import SealedError, check_sealed, open_test
from clsearch.methods.registry import configure
from clsearch.records.test_ledger import LEDGER, read_openings
from clsearch.tasks.test_data import check_test, read_test, sealed_samples
from clsearch.training.loop import learn_sequence, learn_task
from clsearch.training.trial_setup import build_trial
from tests.builders import plan_of, write_images
from tests.helpers import everything, forward, member_of, write_idx, write_mnist
from tests.refusals import refusals

pytestmark = pytest.mark.slow

SETTINGS = {"hidden": (12,), "tasks": 3, "batch_size": 64, "epochs": 1, "learning_rate": 0.2}
SEEDS = [3, 5]


def config_of(algorithm="finetuning", **settings):
    return configure(algorithm, SETTINGS | settings)


def measured(config, seeds=SEEDS, **rest):
    return measure(config, seeds, training_data(config.source, config.data_root), read_test(config), **rest)


def same(first, second):
    """Whether two matrices are equal, and undefined in the same places."""
    return torch.equal(first.nan_to_num(-1), second.nan_to_num(-1))


def states_of(run, per_task=()):
    """The state before the first task, and after each, every one learned with values of its own."""
    states = [run.initial_state()]
    for index in range(len(run.benchmark.tasks)):
        states.append(learn_task(run.with_hyperparameters(per_task[index]) if per_task else run, states[-1]))
    return states


def by_hand(config, run, models):
    """R [M, T+1, T] on test data, sample by sample with plain linear layers. models: after each number of tasks, the
    parameters that answer for each task; None where none does.
    """
    T = len(run.benchmark.tasks)
    R = torch.full((len(run.seeds), T + 1, T), torch.nan, dtype=torch.float64)
    samples = sealed_samples(config, run.benchmark, read_test(config))
    for m, i, k in itertools.product(range(len(run.seeds)), range(T + 1), range(T)):
        if models[i][k] is not None:
            inputs, labels = everything(samples[k], m)
            answers = list(run.benchmark.active_outputs(i, k + 1))
            chosen = torch.tensor(answers)[forward(member_of(models[i][k], m), inputs)[:, answers].argmax(1)]
            R[m, i, k] = (chosen == labels).double().mean()
    return R


def of_one_network(run, states):
    """The models of a network that answers for all tasks; in class-incremental learning, for those that it learned."""
    tasks = range(1, len(run.benchmark.tasks) + 1)
    return [[state.params if run.benchmark.is_defined(i, k) else None for k in tasks] for i, state in enumerate(states)]


def expected(config, run, per_task=()):
    return by_hand(config, run, of_one_network(run, states_of(run, per_task)))


# --- what is measured ---


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
@pytest.mark.parametrize("algorithm", ["finetuning", "lwf", "ewc", "lwf_ewc"])
def test_it_is_the_accuracy_on_held_out_samples_after_every_task(algorithm, scenario):
    config = config_of(algorithm, scenario=scenario, tasks=5)
    found, run = measured(config), build_trial(config, SEEDS)
    assert found.keys() == {"validation", "test", "unlearning", "seconds", "reason"}
    assert found["unlearning"] == {}
    assert found["test"].shape == (2, 6, 5)
    assert same(found["test"], expected(config, run))
    defined = [[run.benchmark.is_defined(i, k) for k in range(1, 6)] for i in range(6)]
    assert found["test"].isfinite().tolist() == [defined] * 2
    assert not torch.equal(found["test"][:, 1:, 0], found["validation"][:, 1:, 0])  # other samples
    assert found["reason"] == ""
    assert found["seconds"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        ("finetuning", {"scenario": "class"}),
        ("lwf", {"class_order": "shuffled", "classes_per_task": (4, 2, 3)}),
        ("lwf_ewc", {"benchmark": "permuted-digits"}),
        ("ewc", {"benchmark": "rotated-digits", "momentum": 0.5, "optimizer_state": "keep"}),
        ("joint", {"scenario": "class"}),
        ("independent", {}),
    ],
)
def test_validation_accuracy_is_that_of_learning_the_sequence(algorithm, settings):
    config = config_of(algorithm, **settings)
    assert same(measured(config)["validation"], learn_sequence(build_trial(config, SEEDS)).accuracy)


def test_unequal_shuffled_classes_are_tested_on_each_seeds_own():
    config = config_of("lwf", classes_per_task=(4, 2, 3), class_order="shuffled")
    run = build_trial(config, SEEDS)
    assert same(measured(config)["test"], expected(config, run))
    sizes = [samples.sizes for samples in sealed_samples(config, run.benchmark, read_test(config))]
    assert any(a != b for a, b in sizes)


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", ["permuted-digits", "rotated-digits"])
def test_images_are_tested_as_each_task_shows_them(benchmark):
    config = config_of("ewc", benchmark=benchmark)
    assert same(measured(config)["test"], expected(config, build_trial(config, SEEDS)))


@pytest.mark.parametrize("scenario", ["task", "class"])
def test_row_t_of_joint_is_the_model_of_the_first_t_tasks_together(scenario):
    config = config_of("joint", scenario=scenario)
    assert same(measured(config)["test"], expected(config, build_trial(config, SEEDS)))


def test_joint_keeps_nothing_of_an_earlier_model_where_the_optimizers_state_is_kept():
    config = config_of("joint", optimizer="adam", learning_rate=0.01, optimizer_state="keep")
    assert same(measured(config)["test"], expected(config, build_trial(config, SEEDS)))


def test_of_independent_networks_each_answers_for_its_own_task():
    config = config_of("independent")
    run = build_trial(config, SEEDS)
    first, *states = states_of(run)
    networks = [state.params for state in states]
    models = [[first.params] * 3] + [[networks[k] if k < t else None for k in range(3)] for t in (1, 2, 3)]
    found = measured(config)["test"]
    assert same(found, by_hand(config, run, models))
    assert found[:, 3].isfinite().all()


def test_each_seed_gives_what_it_would_give_alone():
    config = config_of("lwf")
    together = measured(config)
    for m, seed in enumerate(SEEDS):
        alone = measured(config, [seed])
        for part in ("validation", "test"):
            torch.testing.assert_close(alone[part][0], together[part][m], atol=0.01, rtol=0)


@pytest.mark.slow
def test_a_cnn_is_tested_as_it_was_trained():
    config = config_of("lwf", backbone="cnn", hidden=(8,), tasks=2, optimizer="adam", learning_rate=0.003)
    run = build_trial(config, SEEDS)
    state = learn_sequence(run)
    found = measured(config)["test"]
    for k, samples in enumerate(sealed_samples(config, run.benchmark, read_test(config))):
        answers = list(run.benchmark.active_outputs(2, k + 1))
        for m in range(len(SEEDS)):
            inputs, labels = everything(samples, m)
            own = {name: value[m : m + 1] for name, value in state.params.items()}
            logits = run.network.logits(own, run.network.features(own, inputs[None]))[0]
            chosen = torch.tensor(answers)[logits[:, answers].argmax(1)]
            assert found[m, 2, k] == (chosen == labels).double().mean()


def test_measuring_takes_the_data_that_it_is_handed_and_reads_nothing(tmp_path):
    write_mnist(tmp_path, "train", per_class=12, seed=0)
    write_mnist(tmp_path, "t10k", per_class=3, seed=1)
    config = config_of(benchmark="split-mnist", data_root=tmp_path)
    data, test = read_data(config.source, tmp_path), read_test(config)
    nowhere = measure(config_of(benchmark="split-mnist"), SEEDS, data, test)
    assert all(same(nowhere[part], measured(config)[part]) for part in ("validation", "test"))


# --- some of the tasks ---


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["finetuning", "lwf_ewc", "joint"])
@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_the_last_tasks_alone_begin_with_fresh_weights_and_are_measured_alone(algorithm, scenario):
    config = config_of(algorithm, scenario=scenario, tasks=5)
    found, run = measured(config, tasks=(4, 5)), build_trial(config, SEEDS, sequence=(4, 5))
    assert found["test"].shape == found["validation"].shape == (2, 3, 2)
    assert same(found["test"], expected(config, run))
    assert same(found["validation"], learn_sequence(run).accuracy)
    if scenario != "class":
        fresh, whole = states_of(run)[0].params, measured(config)
        assert same(found["test"][:, :1], by_hand(config, run, [[fresh] * 2] + [[None] * 2] * 2)[:, :1])
        # Untrained, it knows tasks 4 and 5 as well as the whole sequence's untrained network does.
        assert same(found["test"][:, 0], whole["test"][:, 0, 3:])
        assert same(found["validation"][:, 0], whole["validation"][:, 0, 3:])


@pytest.mark.parametrize("algorithm", ["finetuning", "lwf_ewc"])
def test_the_first_tasks_alone_are_the_first_rows_and_columns_of_all(algorithm):
    config = config_of(algorithm, scenario="class", tasks=5)
    some, whole = measured(config, tasks=(1, 2, 3)), measured(config)
    for part in ("validation", "test"):
        assert same(some[part], whole[part][:, :4, :3])


def test_all_tasks_by_name_are_all_tasks():
    config = config_of("lwf")
    named, unsaid = measured(config, tasks=(1, 2, 3)), measured(config)
    assert all(same(named[part], unsaid[part]) for part in ("validation", "test"))


# --- hyperparameters of each task ---

PER_TASK = [
    ("finetuning", ({"learning_rate": 0.4}, {"learning_rate": 0.01}, {"learning_rate": 0.1})),
    (
        "lwf",
        (
            {"distillation_factor": 9.0, "distillation_temperature": 1.0},
            {"distillation_factor": 3.0, "distillation_temperature": 4.0},
            {"distillation_factor": 0.1, "distillation_temperature": 0.5},
        ),
    ),
    (
        "ewc",
        (
            {"penalty_factor": 1.0, "learning_rate": 0.3},
            {"penalty_factor": 20.0, "learning_rate": 0.1},
            {"penalty_factor": 0.5, "learning_rate": 0.2},
        ),
    ),
    ("lwf_ewc", ({}, {"distillation_factor": 9.0}, {"penalty_factor": 9.0, "learning_rate": 0.1})),
]


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "per_task"), PER_TASK)
def test_a_tasks_own_values_act_in_that_task(algorithm, per_task):
    config = config_of(algorithm, tasks=3)
    run = build_trial(config, SEEDS)
    found = measured(config, per_task=per_task)
    assert same(found["test"], expected(config, run, per_task))
    assert same(found["validation"], states_of(run, per_task)[-1].accuracy)
    plain = measured(config)
    assert not any(same(found[part], plain[part]) for part in ("validation", "test"))


@pytest.mark.slow
@pytest.mark.parametrize("task", [1, 2, 3])
def test_a_value_of_one_task_changes_nothing_before_it(task):
    config = config_of("lwf", epochs=3)
    per_task = tuple({"learning_rate": 0.002} if t == task else {} for t in (1, 2, 3))
    found, plain = measured(config, per_task=per_task), measured(config)
    for part in ("validation", "test"):
        assert same(found[part][:, :task], plain[part][:, :task])
        assert not same(found[part][:, task], plain[part][:, task])


def test_the_same_values_at_every_task_are_those_of_the_configuration():
    values = {"learning_rate": 0.35, "distillation_factor": 3.0}
    found = measured(config_of("lwf"), per_task=(values,) * 3)
    configured = measured(config_of("lwf", **values))
    assert all(same(found[part], configured[part]) for part in ("validation", "test"))


def test_values_go_to_the_tasks_that_are_learned_in_their_order():
    config = config_of("lwf", tasks=5)
    per_task = ({"learning_rate": 0.4}, {"learning_rate": 0.05})
    found = measured(config, tasks=(4, 5), per_task=per_task)
    assert same(found["test"], expected(config, build_trial(config, SEEDS, sequence=(4, 5)), per_task))


# --- divergence ---


def test_training_that_diverges_says_why_and_has_no_accuracy_after_it():
    found = measured(config_of(learning_rate=1e30))
    assert found["reason"].startswith("training diverged in epoch 1 of task 1")
    assert "seeds 3, 5" in found["reason"]
    assert found["validation"].shape == found["test"].shape == (2, 4, 3)
    assert found["validation"][:, 1:].isnan().all()
    assert found["test"][:, 1:].isnan().all()


def test_what_was_learned_before_training_diverged_stays():
    config = config_of("lwf")
    found = measured(config, per_task=({}, {"learning_rate": 1e30}, {}))
    whole = measured(config)
    assert "of task 2 " in found["reason"]
    for part in ("validation", "test"):
        assert same(found[part][:, :2], whole[part][:, :2])
        assert found[part][:, 2:].isnan().all()


# --- opening test data ---


def opened(config, results, searched=(0, 1, 2), study="mine", values=None, seeds=tuple(SEEDS)):
    return open_test(results, study, config, values or {}, seeds, searched)


@pytest.mark.parametrize(
    ("seeds", "searched", "named"),
    [([5, 0, 3], [3, 5, 7], "3 5"), (range(4), range(3, 6), "3"), ((2,), {2}, "2")],
)
def test_a_seed_that_the_search_used_is_refused_and_named_before_anything_is_read_or_written(
    seeds, searched, named, tmp_path
):
    root, results = tmp_path / "data", tmp_path / "results"  # of which there are no files
    config = config_of(benchmark="split-mnist", data_root=root)
    with pytest.raises(ValueError, match=rf"^seeds: must be fresh, none that the search used; got {named} among them"):
        opened(config, results, searched, seeds=seeds)
    assert list(tmp_path.rglob("*")) == []


def test_what_is_opened_is_the_test_part_whole(tmp_path):
    config = config_of()
    images, labels = Digits("test")()
    data, _ = opened(config, tmp_path)
    assert data.source is config.source
    assert np.array_equal(data.inputs, images.reshape(len(images), 64))
    assert np.array_equal(data.labels, labels)
    found = measure(config, SEEDS, training_data(config.source, None), data)
    assert same(found["test"], measured(config)["test"])


def test_an_opening_says_of_which_data_when_for_what_and_on_which_seeds(tmp_path):
    values = {"distillation_factor": 2.5, "per_task": [{"learning_rate": 0.1}]}
    before = datetime.now(UTC).replace(microsecond=0)
    _, opening = opened(config_of("lwf"), tmp_path, study="which-factor", values=values)
    assert before <= datetime.fromisoformat(opening.when) <= datetime.now(UTC)
    assert (opening.data, opening.study, opening.algorithm) == ("digits", "which-factor", "lwf")
    assert (opening.values, opening.seeds, opening.before) == (values, (3, 5), 0)
    assert read_openings(tmp_path) == [vars(opening) | {"seeds": [3, 5], "also": []}]


def test_an_opening_counts_those_of_the_same_data_before_it_whichever_study_it_was(tmp_path):
    write_mnist(tmp_path / "data", "t10k", per_class=3, seed=1)
    digits, mnist = config_of(), config_of(benchmark="permuted-mnist", data_root=tmp_path / "data")
    rows = [(digits, "first"), (digits, "first"), (mnist, "first"), (config_of("lwf"), "second"), (mnist, "second")]
    openings = [opened(config, tmp_path / "results", study=study)[1] for config, study in rows]
    assert [(o.data, o.before) for o in openings] == [
        ("digits", 0),
        ("digits", 1),
        ("mnist", 0),
        ("digits", 2),
        ("mnist", 1),
    ]
    assert [line["before"] for line in read_openings(tmp_path / "results")] == [0, 1, 0, 2, 1]
    assert opened(digits, tmp_path / "elsewhere")[1].before == 0


def test_test_files_are_opened_here_alone_and_counted_even_where_they_cannot_be_read(tmp_path):
    root, results = tmp_path / "data", tmp_path / "results"
    write_mnist(root, "train", per_class=12, seed=0)
    config = config_of(benchmark="split-mnist", data_root=root)
    learn_sequence(build_trial(config, SEEDS))  # needs none
    with pytest.raises(SealedError, match=r"^data_root: the files of split-mnist must be whole; got: Dataset not foun"):
        opened(config, results)
    assert [(line["data"], line["before"]) for line in read_openings(results)] == [("mnist", 0)]
    images, labels = write_mnist(root, "t10k", per_class=3, seed=1)
    data, opening = opened(config, results)
    assert opening.before == 1
    assert np.array_equal(data.inputs, images.flatten(1))
    assert np.array_equal(data.labels, labels)
    assert measured(config)["test"].isfinite().all()


# --- images of one's own ---


@pytest.fixture
def pets(tmp_path, monkeypatch):
    """Six classes of 20 images."""
    monkeypatch.setenv("CLSEARCH_CACHE", str(tmp_path / "cache"))
    return write_images(tmp_path / "pets", count=20)


def pixels(path):
    return np.asarray(Image.open(path)).tobytes()


def images_of(inputs):
    return [row.tobytes() for row in (255 * inputs).round().to(torch.uint8).numpy()]


def test_of_images_it_opens_a_fifth_of_each_class_that_the_search_did_not_have(pets, tmp_path):
    config = config_of("lwf", benchmark=f"folder:{pets}", epochs=10)
    data, run = read_data(config.source, None), build_trial(config, SEEDS)
    searched = {row.tobytes() for row in data.inputs}
    test, _ = opened(config, tmp_path / "results")
    for task, samples in zip(run.benchmark.tasks, sealed_samples(config, run.benchmark, test), strict=True):
        for m in range(len(SEEDS)):
            found = {*images_of(everything(samples, m)[0])}
            own = [{pixels(path) for path in (pets / config.source.classes[c]).iterdir()} for c in task.classes]
            assert [len(found & images) for images in own] == [4, 4]
            assert len(found) == 8
            assert not found & searched
    assert len(searched) == 6 * 16
    assert len(test.labels) == 6 * 4


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_on_images_it_is_the_accuracy_after_every_task(pets, scenario):
    config = config_of("lwf", benchmark=f"folder:{pets}", scenario=scenario, epochs=10)
    found = measured(config)["test"]
    assert same(found, expected(config, build_trial(config, SEEDS)))
    assert found[:, 3, 2].mean() > 0.7  # the newest task, whose classes differ by a bright column


def test_grouped_images_are_tested_on_the_classes_that_each_task_was_given(pets, tmp_path):
    (tmp_path / "groups.txt").write_text("f, a, c\nb, e\n")
    config = configure(
        "finetuning",
        {k: v for k, v in SETTINGS.items() if k != "tasks"}
        | {"benchmark": f"folder:{pets}", "grouping": tmp_path / "groups.txt", "epochs": 10},
    )
    run = build_trial(config, SEEDS)
    first, second = sealed_samples(config, run.benchmark, read_test(config))
    assert (first.sizes, second.sizes) == ((12, 12), (8, 8))
    for samples, names in ((first, "fac"), (second, "be")):
        inputs, labels = everything(samples, 0)
        for row, label in zip(images_of(inputs), labels.tolist(), strict=True):
            place = label if names == "fac" else label - 3
            assert row in {pixels(path) for path in (pets / names[place]).iterdir()}
    assert same(measured(config)["test"], expected(config, run))


def test_a_test_folder_is_opened_here_alone_and_where_there_is_none_nothing_is_counted(pets, tmp_path):
    folder, results = tmp_path / "apart", tmp_path / "results"
    shutil.move(pets, folder / "train")
    config = config_of(benchmark=f"folder:{folder}")
    run = build_trial(config, SEEDS)
    learn_sequence(run)  # needs none
    with pytest.raises(SealedError, match="test data must be in test/, next to train/"):
        opened(config, results)
    write_images(folder / "test", count=3, seed=1)
    test, opening = opened(config, results)
    assert opening.before == 0
    assert [samples.sizes for samples in sealed_samples(config, run.benchmark, test)] == [(6, 6)] * 3
    assert same(measured(config)["test"], expected(config, run))


def test_the_same_images_elsewhere_are_the_same_test_data_and_others_are_not(pets, tmp_path):
    copied = shutil.copytree(pets, tmp_path / "copied")
    others = write_images(tmp_path / "others", count=20, classes="uvwxyz")
    configs = [config_of(benchmark=f"folder:{folder}") for folder in (pets, copied, others)]
    openings = [opened(config, tmp_path / "results")[1] for config in configs]
    assert [opening.before for opening in openings] == [0, 1, 0]
    assert str(tmp_path) not in (tmp_path / "results" / LEDGER).read_text()


def test_images_added_while_a_study_runs_would_move_the_test_cut_so_nothing_is_opened(pets, tmp_path):
    config = config_of(benchmark=f"folder:{pets}")  # lists what is there when the study begins
    write_images(pets, count=40)
    with pytest.raises(SealedError, match="the images must not change while a study runs"):
        opened(config, tmp_path / "results")


def test_more_training_images_or_another_order_of_classes_are_the_same_test_data(pets, tmp_path):
    folder, results = tmp_path / "apart", tmp_path / "results"
    shutil.move(pets, folder / "train")
    write_images(folder / "test", count=3, seed=1)
    assert opened(config_of(benchmark=f"folder:{folder}"), results)[1].before == 0
    write_images(folder / "train", count=30)
    assert opened(config_of(benchmark=f"folder:{folder}"), results)[1].before == 1
    (tmp_path / "groups.txt").write_text("f, a, c\ne, d, b\n")
    grouped = config_of(benchmark=f"folder:{folder}", grouping=tmp_path / "groups.txt", tasks=None)
    assert opened(grouped, results)[1].before == 2


def test_a_ledger_that_cannot_be_read_is_said_before_test_data_is(tmp_path):
    (tmp_path / "test_openings.jsonl").write_text("<<<<<<< HEAD\n")
    with pytest.raises(SealedError, match=r"^results: the ledger of test data must be whole, .* line 1: no JSON"):
        opened(config_of(), tmp_path)


# What is checked before a search


def planned_on(tmp_path, **settings):
    return plan_of(tmp_path, space={}, hidden=(8,), **settings)


def test_usable_test_data_and_a_whole_ledger_pass_and_no_opening_is_recorded(pets, tmp_path):
    for settings in ({}, {"benchmark": f"folder:{pets}"}):
        check_sealed(planned_on(tmp_path, **settings))
    assert not (tmp_path / LEDGER).exists()
    assert check_test(config_of()) is True


def test_test_images_that_do_not_decode_are_all_named_before_the_search(pets, tmp_path):
    config = config_of(benchmark=f"folder:{pets}")
    listing = list_images(pets, "test")
    broken = [listing.files[0][0].name, listing.files[2][-1].name]
    for name in broken:
        (pets / name).write_bytes(b"no image")
    for plan in [planned_on(tmp_path, benchmark=f"folder:{pets}")] * 2:
        (problem,) = refusals(check_sealed, plan)
        assert problem.startswith("benchmark: every image must be readable; got ")
        assert all(f"{name} (cannot identify image file)" in problem for name in broken)
        assert problem.endswith("leave the final evaluation out (--no-final)")
    check_sealed(planned_on(tmp_path, benchmark=f"folder:{pets}", final=False))
    assert config.source.samples == 6 * 16
    assert not (tmp_path / LEDGER).exists()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda root: write_idx(root / "MNIST/raw/t10k-images-idx3-ubyte", np.zeros((3, 28, 28), np.uint8)), "images"),
        (lambda root: (root / "MNIST/raw/t10k-images-idx3-ubyte").write_bytes(b"cut"), "whole"),
        (lambda root: (root / "MNIST/raw/t10k-labels-idx1-ubyte").write_bytes(b""), "whole"),
        (
            lambda root: write_idx(root / "MNIST/raw/t10k-labels-idx1-ubyte", np.full(30, 77, np.uint8)),
            "classes 0 to 9",
        ),
        (
            lambda root: write_idx(root / "MNIST/raw/t10k-labels-idx1-ubyte", np.zeros(30, np.uint8)),
            "every class; none of 1",
        ),
    ],
)
def test_test_files_that_cannot_be_used_are_refused_before_the_search(tmp_path, damage, reason):
    write_mnist(tmp_path / "data", "t10k", per_class=3, seed=1)
    plan = planned_on(tmp_path, benchmark="split-mnist", data_root=tmp_path / "data")
    check_sealed(plan)
    damage(tmp_path / "data")
    (problem,) = refusals(check_sealed, plan)
    assert (problem.field, problem.rule) == ("data_root", "data-files-whole")
    assert reason in problem
    assert not (tmp_path / LEDGER).exists()


def test_a_damaged_ledger_is_refused_before_the_search(tmp_path):
    (tmp_path / LEDGER).write_text("{}\n")
    (problem,) = refusals(check_sealed, planned_on(tmp_path))
    assert (problem.field, problem.rule) == ("results", "ledger-whole")
    assert "line 1: key data: missing" in problem


def test_a_mended_moved_or_regrouped_test_set_is_the_same(pets, tmp_path):
    results = tmp_path / "results"
    assert opened(config_of(benchmark=f"folder:{pets}"), results)[1].before == 0
    image = pets / list_images(pets, "test").files[0][0].name
    image.write_bytes(image.read_bytes() + b" ")  # another size is another content
    assert opened(config_of(benchmark=f"folder:{pets}"), results)[1].before == 1
    (tmp_path / "groups.txt").write_text("a, b\nc, d\n")
    grouped = config_of(benchmark=f"folder:{pets}", grouping=tmp_path / "groups.txt", tasks=None)
    assert opened(grouped, results)[1].before == 2
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.move(pets, tmp_path / "elsewhere" / pets.name)
    image = tmp_path / "elsewhere" / pets.name / image.relative_to(pets)
    image.write_bytes(image.read_bytes() + b" ")
    assert opened(config_of(benchmark=f"folder:{moved}"), results)[1].before == 2  # those of the same classes
