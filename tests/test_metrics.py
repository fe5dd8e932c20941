"""Metrics against matrices worked out by hand."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from clsearch import metrics

NAN = math.nan
# Rows: at initialisation, after task 1, 2, 3. Columns: task 1, 2, 3.
THREE = torch.tensor([[0.5, 0.4, 0.6], [0.9, 0.3, 0.5], [0.7, 0.8, 0.7], [0.8, 0.6, 1.0]], dtype=torch.float64)
TWO = torch.tensor([[0.1, 0.2], [0.6, 0.5], [0.4, 0.7]], dtype=torch.float64)
CLASS_INCREMENTAL = torch.tensor(
    [[NAN, NAN, NAN], [0.9, NAN, NAN], [0.7, 0.8, NAN], [0.8, 0.6, 1.0]], dtype=torch.float64
)

AFTER_THREE = {
    "average_accuracy": 0.8,  # (0.8 + 0.6 + 1.0) / 3
    "average_incremental_accuracy": (0.9 + 0.75 + 0.8) / 3,  # A_1 = 0.9, A_2 = (0.7 + 0.8) / 2, A_3 = 0.8
    "learning_accuracy": 0.9,  # the diagonal: (0.9 + 0.8 + 1.0) / 3
    "average_forgetting": 0.15,  # task 1: max(0.9, 0.7) - 0.8 = 0.1; task 2: 0.8 - 0.6 = 0.2
    "backward_transfer": -0.15,  # ((0.8 - 0.9) + (0.6 - 0.8)) / 2
    "forward_transfer": 0.0,  # task 2: R[1,2] - R[0,2] = -0.1; task 3: R[2,3] - R[0,3] = 0.1
    "forgetting/task_01": 0.1,
    "forgetting/task_02": 0.2,
    "accuracy/task_01": 0.8,
    "accuracy/task_02": 0.6,
    "accuracy/task_03": 1.0,
}
AFTER_TWO_OF_THREE = {
    "average_accuracy": 0.75,
    "average_incremental_accuracy": 0.825,  # (0.9 + 0.75) / 2
    "learning_accuracy": 0.85,  # (0.9 + 0.8) / 2
    "average_forgetting": 0.2,  # 0.9 - 0.7
    "backward_transfer": -0.2,  # 0.7 - 0.9
    "forward_transfer": -0.1,  # R[1,2] - R[0,2] = 0.3 - 0.4
    "forgetting/task_01": 0.2,
    "accuracy/task_01": 0.7,
    "accuracy/task_02": 0.8,
}
AFTER_TWO = {
    "average_accuracy": 0.55,  # (0.4 + 0.7) / 2
    "average_incremental_accuracy": 0.575,  # (0.6 + 0.55) / 2
    "learning_accuracy": 0.65,  # (0.6 + 0.7) / 2
    "average_forgetting": 0.2,  # 0.6 - 0.4
    "backward_transfer": -0.2,
    "forward_transfer": 0.3,  # R[1,2] - R[0,2] = 0.5 - 0.2
    "forgetting/task_01": 0.2,
    "accuracy/task_01": 0.4,
    "accuracy/task_02": 0.7,
}


def values(R: torch.Tensor, t: int) -> dict[str, float]:
    return {name: value.item() for name, value in metrics.summary(R, t).items()}


@pytest.mark.parametrize(
    ("R", "t", "expected"),
    [(THREE, 3, AFTER_THREE), (THREE, 2, AFTER_TWO_OF_THREE), (TWO, 2, AFTER_TWO)],
)
def test_every_metric_is_what_was_worked_out_by_hand(R, t, expected):
    assert values(R, t) == pytest.approx(expected, abs=1e-12)


def test_after_one_task_forgetting_and_transfers_are_absent():
    assert values(THREE, 1) == pytest.approx(
        {
            "average_accuracy": 0.9,
            "average_incremental_accuracy": 0.9,
            "learning_accuracy": 0.9,
            "accuracy/task_01": 0.9,
        }
    )


def test_class_incremental_has_every_metric_but_forward_transfer():
    expected = {name: value for name, value in AFTER_THREE.items() if name != "forward_transfer"}
    assert values(CLASS_INCREMENTAL, 3) == pytest.approx(expected, abs=1e-12)
    assert metrics.forward_transfer(CLASS_INCREMENTAL, 3).isnan()


def test_forgetting_looks_back_to_the_best_row_not_to_the_first():
    # Task 1 rises from 0.5 to 0.9 by learning task 2 (positive transfer) and ends at 0.6.
    R = torch.tensor([[0.0, 0, 0], [0.5, 0, 0], [0.9, 0.7, 0], [0.6, 0.8, 1.0]], dtype=torch.float64)
    # Task 1: max(0.5, 0.9) - 0.6 = 0.3. Task 2: 0.7 - 0.8 = -0.1, a gain is negative forgetting.
    torch.testing.assert_close(metrics.forgetting(R, 3), torch.tensor([0.3, -0.1], dtype=torch.float64))
    # Backward transfer looks at the diagonal: ((0.6 - 0.5) + (0.8 - 0.7)) / 2.
    assert metrics.backward_transfer(R, 3).item() == pytest.approx(0.1)


def test_rows_not_reached_yet_do_not_matter():
    R = THREE.clone()
    R[3] = NAN
    assert values(R, 2) == pytest.approx(AFTER_TWO_OF_THREE, abs=1e-12)


@pytest.mark.parametrize("t", [1, 2, 3])
def test_each_seed_of_a_leading_axis_gets_its_own_value(t):
    other = THREE.flip(0)
    both = metrics.summary(torch.stack([THREE, other]), t)
    for m, R in enumerate((THREE, other)):
        assert {name: value[m].item() for name, value in both.items()} == values(R, t)
        assert all(value.shape == (2,) for value in both.values())


def test_intransigence_is_what_a_joint_model_knows_more_of_each_task_just_learned():
    joint = THREE.clone()
    joint[1, 0], joint[2, 1], joint[3, 2] = 0.95, 0.9, 0.7
    assert metrics.intransigence(THREE, joint, 3).item() == pytest.approx((0.05 + 0.1 - 0.3) / 3)
    assert metrics.intransigence(THREE, joint, 1).item() == pytest.approx(0.05)
    assert metrics.intransigence(CLASS_INCREMENTAL, CLASS_INCREMENTAL, 3).item() == 0
    both = metrics.intransigence(torch.stack([THREE, joint]), torch.stack([joint, joint]), 3)
    assert both.tolist() == pytest.approx([(0.05 + 0.1 - 0.3) / 3, 0])


def test_over_seeds_are_means_and_deviations_and_one_seed_has_none():
    several = metrics.over_seeds({"a": torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)})
    assert several == pytest.approx({"a": 3.0, "a/std": 7**0.5})
    assert metrics.over_seeds({"a": torch.tensor([4.0])}) == {"a": 4.0}


FUNCTIONS = (
    metrics.average_accuracy,
    metrics.average_incremental_accuracy,
    metrics.forgetting,
    metrics.backward_transfer,
    metrics.forward_transfer,
    metrics.learning_accuracy,
    lambda R, t: metrics.intransigence(R, joint=R * 2, t=t),
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("compute", FUNCTIONS)
def test_arrays_and_tensors_give_the_same_in_the_kind_that_was_given(compute, dtype):
    for R in (THREE.to(dtype), torch.stack([THREE, CLASS_INCREMENTAL]).to(dtype)):
        tensor, array = compute(R, 3), compute(R.numpy(), 3)
        assert isinstance(tensor, torch.Tensor)
        assert isinstance(array, np.ndarray | np.floating)
        assert tensor.dtype == dtype
        assert array.dtype == R.numpy().dtype
        np.testing.assert_array_equal(tensor.numpy(), array)


def test_dicts_of_arrays_and_of_tensors_give_the_same():
    R = torch.stack([THREE, CLASS_INCREMENTAL])
    measured = {"before": R, "after": R - 0.1, "chance": torch.full_like(R, NAN), "distance": R + 1}
    measured["chance"][:, 3, 0] = 0.5
    for tensors, arrays in (
        (metrics.summary(R, 3), metrics.summary(R.numpy(), 3)),
        (metrics.unlearning(measured, 3), metrics.unlearning({name: one.numpy() for name, one in measured.items()}, 3)),
    ):
        assert all(isinstance(value, torch.Tensor) for value in tensors.values())
        assert all(isinstance(value, np.ndarray) for value in arrays.values())
        assert {name: value.tolist() for name, value in tensors.items()} == {
            name: value.tolist() for name, value in arrays.items()
        }
        assert metrics.over_seeds(tensors) == metrics.over_seeds(arrays)
    curve = torch.stack([THREE, torch.full_like(THREE, NAN)])
    assert metrics.last_rows(curve).equal(THREE)
    np.testing.assert_array_equal(metrics.last_rows(curve.numpy()), THREE.numpy())


def test_what_is_undefined_is_nan_without_a_warning(recwarn):
    for value in (metrics.backward_transfer(THREE, 1), metrics.forward_transfer(THREE, 1)):
        assert value.isnan()
    gone = THREE.clone()
    gone[3] = NAN  # every task is unlearned
    assert metrics.average_accuracy(gone, 3).isnan()
    assert not recwarn.list


def test_importing_them_loads_no_torch():
    code = "import sys, clsearch.metrics; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
