"""Pictures of a trial and of a study."""

import struct
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from clsearch import Choice, LogRange, Range
from clsearch.config.spaces import SearchSpace
from clsearch.records.ranking import rank
from clsearch.reporting.figures import draw_accuracy_matrix, draw_pareto_front, draw_response
from tests.builders import plan_of, record_of
from tests.helpers import in_turn
from tests.study_folders import mixed_study

pytestmark = pytest.mark.slow

TWO = {"distillation_factor": LogRange(0.01, 100), "distillation_temperature": Range(0.5, 8)}
ONE = {"distillation_temperature": LogRange(0.5, 8)}
THREE = TWO | {"learning_rate": LogRange(1e-3, 1)}
FOUR = THREE | {"penalty_p_norm": Range(1, 3)}


@pytest.fixture
def trials(tmp_path):
    """Trials of a space, one per score (None: failed), spread over their ranges; each forgets what its score lacks."""

    def make(space, scores, seeds=2):
        plan = plan_of(tmp_path, "lwf_ewc", space=space, seeds=seeds)
        records = []
        for n, score in enumerate(scores):
            values = {name: r.points(len(scores) + 1)[n] for name, r in space.items()}
            state = "failed" if score is None else "finished"
            learned = 0 if score is None else None
            lost = [1 - (score or 0.0)] * seeds
            records.append(
                record_of(plan, n, [score or 0.0] * seeds, values, forgetting=lost, state=state, learned=learned)
            )
        return records

    return make


def saved_size(figure, tmp_path):
    """Width and height of the figure as a PNG file."""
    assert isinstance(figure, Figure)
    path = tmp_path / "figure.png"
    figure.savefig(path, dpi=50)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG")
    return struct.unpack(">2I", content[16:24])


def texts(figure):
    return [t.get_text() for t in figure.axes[0].texts]


def legend(figure):
    return [t.get_text() for t in figure.legends[0].get_texts()]


# R


def test_the_matrix_shows_each_cells_mean_over_seeds_in_percent():
    R = np.zeros((2, 4, 3))
    R[:, 1:] = np.arange(1, 10).reshape(3, 3) / 10 + np.array([-0.05, 0.05])[:, None, None]
    figure = draw_accuracy_matrix(R, "Validation accuracy (%)")
    assert texts(figure) == [f"{10 * n:.1f}" for n in range(1, 10)]
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == [t.get_text() for t in axes.get_yticklabels()]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["1", "2", "3"]
    image = axes.images[0]
    assert np.asarray(image.get_array()) == pytest.approx(np.arange(1, 10).reshape(3, 3) / 10)
    assert image.get_clim() == (0, 1)


def test_the_matrix_leaves_cells_without_a_meaning_blank(tmp_path):
    R = np.full((2, 4, 3), 0.5)
    R[:, 0] = np.nan
    R[:, 1, 1:] = R[:, 2, 2:] = np.nan  # classes that were not seen
    figure = draw_accuracy_matrix(R, "Validation accuracy (%)")
    assert texts(figure) == ["50.0"] * 6
    saved_size(figure, tmp_path)


def test_the_matrix_of_a_trial_that_diverged_ends_with_its_last_learned_task(tmp_path):
    record = record_of(plan_of(tmp_path), 0, [0.5, 0.6, 0.7], state="failed", learned=2)
    figure = draw_accuracy_matrix(np.array(record.accuracy, dtype=float), "Validation accuracy (%)")
    assert len(texts(figure)) == 2 * 3
    saved_size(figure, tmp_path)


def test_the_matrix_grows_with_the_tasks(tmp_path):
    small, large = (
        saved_size(draw_accuracy_matrix(np.full((3, tasks + 1, tasks), 0.5), "Accuracy (%)"), tmp_path)
        for tasks in (2, 5)
    )
    assert small[0] < large[0]
    assert small[1] < large[1]


# The response to hyperparameters

SCORES = [0.4, 0.9, None, 0.6]


def drawn(records, space, levels, metric="average_accuracy"):
    """The response of a study that searched for this metric alone."""
    return draw_response(records, SearchSpace.of(space), levels, metric, rank(records, (metric,)).best)


FINETUNING = {"finetuning": 0.5}
ALL = {"finetuning": 0.5, "joint": 0.95, "independent": 0.8}


WIDTHS = [(ONE, 320), (TWO, 320), (THREE, 510), (FOUR, 680)]
FINISHED = [SCORES, [0.4, 0.9, 0.6], [0.7, 0.7, 0.7], [0.5], [None, None, 0.5]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("of", "levels", "scores"), in_turn(WIDTHS, [{}, ALL], FINISHED) + in_turn(WIDTHS[::-1], [ALL, {}], FINISHED)
)
def test_the_response_is_a_png_as_wide_as_it_has_panels(trials, tmp_path, of, levels, scores):
    space, width = of
    figure = drawn(trials(space, scores), space, levels)
    assert [figure.get_figwidth() * 50, figure.get_figheight() * 50] == pytest.approx([width, 220])
    if (scores is SCORES) == bool(levels):  # drawing takes most of the time
        assert saved_size(figure, tmp_path) == pytest.approx((width, 220), abs=1)  # older matplotlib rounds down


def test_one_seed_has_no_spread_to_draw(trials, tmp_path):
    assert saved_size(drawn(trials(ONE, SCORES, seeds=1), ONE, FINETUNING), tmp_path) == (320, 220)


@pytest.mark.parametrize("scores", [[], [None], [None, None]])
@pytest.mark.parametrize("space", [ONE, TWO, THREE], ids=["one", "two", "three"])
def test_there_is_no_response_where_no_trial_finished(trials, space, scores):
    assert drawn(trials(space, scores), space, FINETUNING) is None


def test_there_is_no_response_where_nothing_was_searched(trials):
    assert drawn(trials({}, [0.5]), {}, FINETUNING) is None


def test_axes_have_the_names_and_scales_of_the_space(trials):
    axes = drawn(trials(TWO, SCORES), TWO, FINETUNING).axes[0]
    assert (axes.get_xlabel(), axes.get_xscale()) == ("distillation factor", "log")
    assert (axes.get_ylabel(), axes.get_yscale()) == ("distillation temperature", "linear")
    axes = drawn(trials(ONE, SCORES), ONE, FINETUNING).axes[0]
    assert (axes.get_xlabel(), axes.get_xscale()) == ("distillation temperature", "log")
    assert axes.get_ylabel() == "average accuracy (%)"


def test_the_map_shows_each_finished_trial_where_it_was_and_rings_the_best(trials):
    records = trials(TWO, SCORES)
    points, ring, lost = drawn(records, TWO, FINETUNING).axes[0].collections
    places = [list(r.values.values()) for r in records]
    assert np.allclose(points.get_offsets(), [places[0], places[1], places[3]])
    assert np.allclose(points.get_array(), [40, 90, 60])
    assert np.allclose(ring.get_offsets(), [places[1]])
    assert np.allclose(lost.get_offsets(), [places[2]])


def test_the_ring_is_around_the_chosen_trial_whatever_its_score(trials):
    records = trials(TWO, SCORES)
    _, ring, _ = (
        draw_response(records, SearchSpace.of(TWO), FINETUNING, "average_accuracy", records[3]).axes[0].collections
    )
    assert np.allclose(ring.get_offsets(), [list(records[3].values.values())])


def test_points_show_each_finished_trial_and_finetunings_line(trials):
    records = trials(ONE, SCORES)
    figure = drawn(records, ONE, FINETUNING)
    lines = [np.array(line.get_xydata()) for line in figure.axes[0].lines]
    x = [r.values["distillation_temperature"] for r in records]
    assert any(np.allclose(xy, [[x[0], 40], [x[1], 90], [x[3], 60]]) for xy in lines if xy.shape == (3, 2))
    assert any(np.allclose(xy[:, 1], 50) for xy in lines if xy.shape == (2, 2))
    assert sum(np.allclose(xy[0], [x[2], 40]) for xy in lines if xy.shape == (1, 2)) == 1


# One panel a hyperparameter


@pytest.mark.parametrize("space", [ONE, THREE, FOUR], ids=["one", "three", "four"])
def test_each_hyperparameter_but_two_has_a_panel_of_its_own_scale_with_every_trial(trials, space):
    records = trials(space, SCORES)
    panels = drawn(records, space, ALL).axes
    assert [p.get_xlabel() for p in panels] == [name.replace("_", " ") for name in space]
    assert [p.get_xscale() for p in panels] == ["log" if r.log else "linear" for r in space.values()]
    assert [p.get_ylabel() for p in panels] == ["average accuracy (%)"] + [""] * (len(space) - 1)
    assert len({p.get_ylim() for p in panels}) == 1
    assert [p.yaxis.get_tick_params()["labelleft"] for p in panels[1:]] == [False] * (len(space) - 1)
    for panel, name in zip(panels, space, strict=True):
        lines = [np.array(line.get_xydata()) for line in panel.lines]
        x = [r.values[name] for r in records]
        assert any(np.allclose(xy, [[x[0], 40], [x[1], 90], [x[3], 60]]) for xy in lines if xy.shape == (3, 2))
        assert sum(np.allclose(xy[0], [x[2], 40]) for xy in lines if xy.shape == (1, 2)) == 1


@pytest.mark.parametrize("space", [ONE, THREE], ids=["one", "three"])
def test_every_reference_is_a_line_of_its_own_in_every_panel(trials, space):
    figure = drawn(trials(space, SCORES), space, ALL)
    for panel in figure.axes:
        lines = {line.get_label(): line for line in panel.lines if line.get_label() in ALL}
        assert {name: line.get_ydata()[0] for name, line in lines.items()} == pytest.approx(
            {"finetuning": 50, "joint": 95, "independent": 80}
        )
        assert len({line.get_linestyle() for line in lines.values()}) == 3


@pytest.mark.slow
@pytest.mark.parametrize("space", [ONE, TWO, THREE], ids=["one", "two", "three"])
def test_the_legend_names_each_thing_once(trials, space):
    names = legend(drawn(trials(space, SCORES), space, ALL))
    assert len(set(names)) == len(names)
    assert (space is TWO) or set(ALL) < set(names)


def test_a_level_that_is_missing_has_no_line(trials):
    names = legend(drawn(trials(THREE, SCORES), THREE, {"joint": 0.9}))
    assert "joint" in names
    assert "finetuning" not in names


@pytest.mark.parametrize("space", [ONE, TWO, THREE], ids=["one", "two", "three"])
def test_trials_that_were_stopped_early_are_marked_where_they_were(trials, space):
    records = trials(space, SCORES)
    number = next(i for i, record in enumerate(records) if record.state == "finished")
    records[number] = replace(records[number], state="pruned", tasks_learned=2)
    named = legend(drawn(records, space, FINETUNING))
    assert any("stopped early" in name for name in named)
    assert any("failed" in name for name in named)


@pytest.mark.parametrize("space", [ONE, TWO, THREE], ids=["one", "two", "three"])
def test_failed_trials_are_in_the_legend_only_where_there_are_some(trials, space):
    assert any("failed" in text for text in legend(drawn(trials(space, SCORES), space, FINETUNING)))
    assert not any("failed" in text for text in legend(drawn(trials(space, [0.4, 0.9]), space, FINETUNING)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("levels", "between"),
    [
        (FINETUNING, True),
        (ALL, True),
        ({"finetuning": 0.1}, False),
        ({"finetuning": 0.95}, False),
        ({}, False),
        ({"joint": 0.5}, False),
    ],
)
def test_the_maps_colours_turn_at_finetuning_where_it_lies_between_the_scores(trials, levels, between):
    figure = drawn(trials(TWO, SCORES), TWO, levels)
    labels = [t.get_text() for t in figure.axes[1].get_yticklabels()]
    assert any("finetuning" in label for label in labels) == between


# Choices, whole numbers, and hyperparameters that not every trial has


@pytest.fixture
def mixed(tmp_path):
    """The response of a study of every kind of hyperparameter: its space, trials and panels by hyperparameter."""
    plan, records = mixed_study(tmp_path)
    figure = draw_response(records, plan.space, ALL, "average_accuracy", records[2])
    return plan.space, records, dict(zip(plan.space, figure.axes, strict=True)), figure


def points_of(panel):
    """Where the finished trials of a panel are."""
    (line,) = [c for c in panel.containers if c.get_label().startswith("trial")]
    return np.array(line[0].get_xydata())


def test_choices_are_categories_in_their_order(mixed):
    _, records, panels, _ = mixed
    ticks = {
        name: [t.get_text() for t in panels[name].get_xticklabels()] for name in ("optimizer", "hidden", "teachers")
    }
    assert ticks == {"optimizer": ["sgd", "adam"], "hidden": ["8", "8,8"], "teachers": ["none", "last"]}
    assert [t.get_text() for t in panels["train_head"].get_xticklabels()] == ["true", "false"]
    done = [record for record in records if record.state == "finished"]
    x = points_of(panels["optimizer"])[:, 0]
    assert [round(place) for place in x] == [["sgd", "adam"].index(record.values["optimizer"]) for record in done]
    assert len({*x}) == len(done)


def test_whole_numbers_have_whole_ticks(mixed):
    panels = mixed[2]
    assert [t.get_text() for t in panels["epochs"].get_xticklabels()] == ["1", "2", "3", "4"]
    assert [t.get_text() for t in panels["batch_size"].get_xticklabels()] == ["16", "32", "64", "128"]
    assert panels["batch_size"].get_xscale() == "log"


def test_a_panel_leaves_out_the_trials_to_which_it_does_not_apply_and_says_so(mixed):
    space, records, panels, _ = mixed
    assert 0 < sum("decay" in record.values for record in records) < len(records)
    for name in space:
        own = [record for record in records if record.state == "finished" and name in record.values]
        assert np.allclose(points_of(panels[name])[:, 1], [100 * record.metrics["average_accuracy"] for record in own])
        having = sum(name in record.values for record in records)
        note = " ".join(panels[name].get_xlabel().split("\n")[1:])
        assert note.partition(":")[0] == ("" if having == len(records) else f"{having} of 24 trials")
    assert "optimizer = sgd" in panels["schedule"].get_xlabel()


def test_the_chosen_trial_has_a_ring_in_the_panels_of_what_it_has(mixed):
    _, records, panels, _ = mixed
    rings = {name: [c for c in panel.collections if c.get_label() == "chosen"] for name, panel in panels.items()}
    assert {name for name, ring in rings.items() if ring} == {*records[2].values}
    assert rings["epochs"][0].get_offsets()[0].tolist() == pytest.approx([records[2].values["epochs"], 95])


def test_many_panels_are_in_rows_with_one_scale(mixed, tmp_path):
    space, _, panels, figure = mixed
    assert len(space) == 10
    tops = [round(panel.get_subplotspec().rowspan.start) for panel in panels.values()]
    assert tops == [0] * 4 + [1] * 4 + [2] * 2
    assert len({panel.get_ylim() for panel in panels.values()}) == 1
    assert [bool(panel.get_ylabel()) for panel in panels.values()] == [n % 4 == 0 for n in range(10)]
    assert saved_size(figure, tmp_path) == pytest.approx((680, 525), abs=1)


def test_a_number_and_a_choice_are_two_panels(tmp_path):
    space = {"learning_rate": LogRange(1e-3, 1), "optimizer": Choice("sgd", "adam")}
    plan = plan_of(tmp_path, space=space, seeds=2)
    record = record_of(plan, 0, [0.5, 0.6])
    figure = draw_response([record], plan.space, {}, "average_accuracy", record)
    assert [panel.get_xlabel() for panel in figure.axes] == ["learning rate", "optimizer"]


def test_a_hyperparameter_that_no_trial_has_is_an_empty_panel(tmp_path):
    plan, records = mixed_study(tmp_path)
    adam = [record for record in records if record.values["optimizer"] == "adam"]
    figure = draw_response(adam, plan.space, ALL, "average_accuracy", adam[0])
    panels = dict(zip(plan.space, figure.axes, strict=True))
    assert panels["decay"].get_xlabel().startswith("decay\n0 of ")
    assert len(points_of(panels["decay"])) == 0
    saved_size(figure, tmp_path)


# Another metric, and several


FORGOTTEN = {"finetuning": 0.5, "joint": 0.05}


@pytest.mark.parametrize("space", [ONE, TWO, THREE], ids=["one", "two", "three"])
def test_another_metric_is_named_at_its_axis(trials, space):
    figure = drawn(trials(space, SCORES), space, FORGOTTEN, "average_forgetting")
    name = "average forgetting (%)"
    assert name in (figure.axes[1] if space is TWO else figure.axes[0]).get_ylabel()
    assert "accuracy" not in "".join(axes.get_ylabel() for axes in figure.axes)


def test_of_another_metric_the_points_and_lines_are_its_values_and_failures_lie_at_its_worst(trials):
    records = trials(ONE, SCORES)
    axes = drawn(records, ONE, FORGOTTEN, "average_forgetting").axes[0]
    x = [r.values["distillation_temperature"] for r in records]
    lines = [np.array(line.get_xydata()) for line in axes.lines]
    assert any(np.allclose(xy, [[x[0], 60], [x[1], 10], [x[3], 40]]) for xy in lines if xy.shape == (3, 2))
    assert sum(np.allclose(xy[0], [x[2], 60]) for xy in lines if xy.shape == (1, 2)) == 1
    assert {line.get_ydata()[0] for line in axes.lines if line.get_label() in FORGOTTEN} == {50, 5}


def test_what_is_better_than_finetuning_has_one_colour_in_every_metric(trials):
    records = trials(TWO, [0.4, 0.9, 0.6])
    accuracy, forgetting = (
        drawn(records, TWO, FINETUNING, name).axes[0].collections[0]
        for name in ("average_accuracy", "average_forgetting")
    )
    assert np.allclose(accuracy.get_array() + forgetting.get_array(), 100)
    assert np.allclose(accuracy.to_rgba([90, 40]), forgetting.to_rgba([10, 60]), atol=0.02)
    assert not np.allclose(accuracy.to_rgba([90]), accuracy.to_rgba([40]), atol=0.2)


def front_of(tmp_path, pairs, objectives=("average_accuracy", "average_forgetting"), references=()):
    """The picture of trials with these accuracies and forgettings, in percent."""
    plan = plan_of(tmp_path, seeds=2, references=("finetuning", "joint"))

    def record(number, accuracy, forgetting, **more):
        return record_of(plan, number, [accuracy / 100] * 2, forgetting=[forgetting / 100] * 2, **more)

    ranking = rank([record(n, *pair) for n, pair in enumerate(pairs)], objectives)
    return draw_pareto_front(ranking, [record(None, *pair, algorithm=name) for name, pair in references])


def series(figure):
    """What is drawn, by its name in the legend."""
    found = {line.get_label(): line.get_xydata() for line in figure.axes[0].lines}
    return found | {dots.get_label(): dots.get_offsets() for dots in figure.axes[0].collections}


#        front, its knee, front; dominated
PAIRS = [(90, 50), (85, 10), (50, 0), (80, 20), (85, 30)]


def test_the_front_is_a_line_from_end_to_end_with_a_ring_around_its_knee(tmp_path):
    references = [("joint", (95, 1)), ("finetuning", (60, 60))]
    figure = front_of(tmp_path, PAIRS, references=references)
    shown = {
        "dominated": [[85, 30], [80, 20]],
        "Pareto front": [[50, 0], [85, 10], [90, 50]],
        "knee (chosen)": [[85, 10]],
        "joint": [[95, 1]],
        "finetuning": [[60, 60]],
    }
    found = series(figure)
    assert found.keys() == shown.keys() == {*legend(figure)}
    assert all(np.allclose(found[name], points, atol=1e-9) for name, points in shown.items())
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("average accuracy (%)", "average forgetting (%)")
    (line,) = [line for line in axes.lines if line.get_label() == "Pareto front"]
    assert line.get_linestyle() == "-"
    assert saved_size(figure, tmp_path) == (320, 240)


def test_the_first_objective_is_along_the_bottom(tmp_path):
    figure = front_of(tmp_path, PAIRS, objectives=("average_forgetting", "average_accuracy"))
    assert figure.axes[0].get_xlabel() == "average forgetting (%)"
    assert np.allclose(series(figure)["Pareto front"], [[0, 50], [10, 85], [50, 90]], atol=1e-9)


def test_of_three_objectives_the_front_is_no_line(tmp_path):
    figure = front_of(tmp_path, PAIRS, objectives=("average_accuracy", "average_forgetting", "learning_accuracy"))
    (line,) = [line for line in figure.axes[0].lines if line.get_label() == "Pareto front"]
    assert line.get_linestyle() == "None"
    assert line.get_marker() == "o"


def test_a_front_of_one_trial_is_drawn(tmp_path):
    figure = front_of(tmp_path, [(90, 10)])
    assert np.allclose(series(figure)["knee (chosen)"], [[90, 10]])
    assert saved_size(figure, tmp_path) == (320, 240)


def test_references_that_did_not_finish_are_not_in_the_picture_of_the_front(tmp_path):
    plan = plan_of(tmp_path, seeds=2)
    names = ("average_accuracy", "average_forgetting")
    lost = record_of(plan, None, [0.5, 0.5], algorithm="finetuning", state="failed", learned=0)
    assert "finetuning" not in series(draw_pareto_front(rank([record_of(plan, 0, [0.5, 0.6])], names), [lost]))


def test_drawing_leaves_no_global_figure_behind(trials):
    import matplotlib.pyplot

    before = matplotlib.pyplot.get_fignums()
    drawn(trials(TWO, SCORES), TWO, FINETUNING)
    assert matplotlib.pyplot.get_fignums() == before
