"""Pictures of a trial and of a study."""

import struct
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from clsearch import LogRange, Range
from clsearch.tuning.figures import accuracy_matrix, response
from tests.tuning.builders import plan_of, record_of

TWO = {"distillation_factor": LogRange(0.01, 100), "distillation_temperature": Range(0.5, 8)}
ONE = {"distillation_temperature": LogRange(0.5, 8)}
THREE = TWO | {"learning_rate": LogRange(1e-3, 1)}


@pytest.fixture
def trials(tmp_path):
    """Trials of a space, one per score (None: failed), spread over their ranges."""

    def make(space, scores, seeds=2):
        plan = plan_of(tmp_path, space=space, seeds=seeds)
        records = []
        for n, score in enumerate(scores):
            values = {name: r.points(len(scores) + 1)[n] for name, r in space.items()}
            state = "failed" if score is None else "finished"
            learned = 0 if score is None else None
            records.append(record_of(plan, n, [score or 0.0] * seeds, values, state=state, learned=learned))
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


def test_the_matrix_shows_each_cells_mean_over_seeds_in_percent(tmp_path):
    plan = plan_of(tmp_path, seeds=2)
    R = np.zeros((2, 4, 3))
    R[:, 1:] = np.arange(1, 10).reshape(3, 3) / 10 + np.array([-0.05, 0.05])[:, None, None]
    figure = accuracy_matrix(replace(record_of(plan, 0, [0.5, 0.5]), accuracy=R.tolist()))
    assert texts(figure) == [f"{10 * n:.1f}" for n in range(1, 10)]
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == [t.get_text() for t in axes.get_yticklabels()]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["1", "2", "3"]
    image = axes.images[0]
    assert np.asarray(image.get_array()) == pytest.approx(np.arange(1, 10).reshape(3, 3) / 10)
    assert image.get_clim() == (0, 1)


def test_the_matrix_leaves_cells_without_a_meaning_blank(tmp_path):
    plan = plan_of(tmp_path, seeds=2, scenario="class")
    R = np.full((2, 4, 3), 0.5)
    R[:, 0] = np.nan
    R[:, 1, 1:] = R[:, 2, 2:] = np.nan  # classes that were not seen
    figure = accuracy_matrix(replace(record_of(plan, 0, [0.5, 0.5]), accuracy=R.tolist()))
    assert texts(figure) == ["50.0"] * 6
    saved_size(figure, tmp_path)


def test_the_matrix_of_a_trial_that_diverged_ends_with_its_last_learned_task(tmp_path):
    record = record_of(plan_of(tmp_path), 0, [0.5, 0.6, 0.7], state="failed", learned=2)
    figure = accuracy_matrix(record)
    assert len(texts(figure)) == 2 * 3
    saved_size(figure, tmp_path)


def test_the_matrix_grows_with_the_tasks(tmp_path):
    small, large = (
        saved_size(accuracy_matrix(record_of(plan_of(tmp_path, tasks=tasks), 0, [0.5, 0.6, 0.7])), tmp_path)
        for tasks in (2, 5)
    )
    assert small[0] < large[0]
    assert small[1] < large[1]


# The response to hyperparameters

SCORES = [0.4, 0.9, None, 0.6]


@pytest.mark.parametrize("space", [ONE, TWO], ids=["one", "two"])
@pytest.mark.parametrize("reference", [None, 0.5])
@pytest.mark.parametrize(
    "scores",
    [SCORES, [0.4, 0.9, 0.6], [0.7, 0.7, 0.7], [0.5], [None, None, 0.5]],
    ids=["some failed", "all finished", "all equal", "one", "one finished"],
)
def test_the_response_is_a_png(trials, tmp_path, space, reference, scores):
    assert saved_size(response(trials(space, scores), space, reference), tmp_path) == (320, 220)


def test_one_seed_has_no_spread_to_draw(trials, tmp_path):
    assert saved_size(response(trials(ONE, SCORES, seeds=1), ONE, 0.5), tmp_path) == (320, 220)


@pytest.mark.parametrize("scores", [[], [None], [None, None]])
@pytest.mark.parametrize("space", [ONE, TWO], ids=["one", "two"])
def test_there_is_no_response_where_no_trial_finished(trials, space, scores):
    assert response(trials(space, scores), space, 0.5) is None


@pytest.mark.parametrize("space", [{}, THREE], ids=["none", "three"])
def test_there_is_no_response_of_other_numbers_of_dimensions(trials, space):
    assert response(trials(space, [0.5]), space, 0.5) is None


def test_axes_have_the_names_and_scales_of_the_space(trials):
    axes = response(trials(TWO, SCORES), TWO, 0.5).axes[0]
    assert (axes.get_xlabel(), axes.get_xscale()) == ("distillation factor", "log")
    assert (axes.get_ylabel(), axes.get_yscale()) == ("distillation temperature", "linear")
    axes = response(trials(ONE, SCORES), ONE, 0.5).axes[0]
    assert (axes.get_xlabel(), axes.get_xscale()) == ("distillation temperature", "log")
    assert axes.get_ylabel() == "average accuracy (%)"


def test_the_map_shows_each_finished_trial_where_it_was_and_rings_the_best(trials):
    records = trials(TWO, SCORES)
    points, ring, lost = response(records, TWO, 0.5).axes[0].collections
    places = [list(r.values.values()) for r in records]
    assert np.allclose(points.get_offsets(), [places[0], places[1], places[3]])
    assert np.allclose(points.get_array(), [40, 90, 60])
    assert np.allclose(ring.get_offsets(), [places[1]])
    assert np.allclose(lost.get_offsets(), [places[2]])


def test_points_show_each_finished_trial_and_finetunings_line(trials):
    records = trials(ONE, SCORES)
    figure = response(records, ONE, 0.5)
    drawn = [np.array(line.get_xydata()) for line in figure.axes[0].lines]
    x = [r.values["distillation_temperature"] for r in records]
    assert any(np.allclose(xy, [[x[0], 40], [x[1], 90], [x[3], 60]]) for xy in drawn if xy.shape == (3, 2))
    assert any(np.allclose(xy[:, 1], 50) for xy in drawn if xy.shape == (2, 2))
    assert sum(np.allclose(xy[0], [x[2], 40]) for xy in drawn if xy.shape == (1, 2)) == 1


@pytest.mark.parametrize("space", [ONE, TWO], ids=["one", "two"])
def test_failed_trials_are_in_the_legend_only_where_there_are_some(trials, space):
    assert any("failed" in text for text in legend(response(trials(space, SCORES), space, 0.5)))
    assert not any("failed" in text for text in legend(response(trials(space, [0.4, 0.9]), space, 0.5)))


@pytest.mark.parametrize(("reference", "between"), [(0.5, True), (0.1, False), (0.95, False), (None, False)])
def test_the_maps_colours_turn_at_finetuning_where_it_lies_between_the_scores(trials, reference, between):
    figure = response(trials(TWO, SCORES), TWO, reference)
    labels = [t.get_text() for t in figure.axes[1].get_yticklabels()]
    assert any("finetuning" in label for label in labels) == between


def test_drawing_leaves_no_global_figure_behind(trials):
    import matplotlib.pyplot

    before = matplotlib.pyplot.get_fignums()
    response(trials(TWO, SCORES), TWO, 0.5)
    assert matplotlib.pyplot.get_fignums() == before
