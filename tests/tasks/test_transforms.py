"""Permuted and rotated images against loops and scipy; crops and flips against slices of a padded image."""

import itertools

import pytest
import torch
from scipy import ndimage

from clsearch.tasks.transforms import PixelOrder, Rotation, crop, draw_crops
from clsearch.training.loop import learn_task
from clsearch.training.task_setup import plan_epochs, prepare_task
from tests.helpers import same_params, small_run


def images(members: int, batch: int, *shape: int) -> torch.Tensor:
    return torch.rand(members, batch, *shape, generator=torch.Generator().manual_seed(3))


def test_pixels_come_in_each_members_order():
    order = torch.tensor([[2, 0, 1], [1, 2, 0]])
    inputs = images(2, 4, 3)
    shown = PixelOrder(order)(inputs)
    for m, b, d in itertools.product(range(2), range(4), range(3)):
        assert shown[m, b, d] == inputs[m, b, order[m, d]]


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 5), (6, 9)])
@pytest.mark.parametrize("channels", [1, 3])
def test_each_members_images_are_turned_by_its_angle_as_scipy_turns_them(channels, height, width):
    degrees = torch.tensor([0.0, 33.0, 90.0, 147.5])
    inputs = images(4, 3, channels, height, width)
    shown = Rotation.of(degrees, height, width)(inputs.flatten(2)).view_as(inputs)
    for m, b, c in itertools.product(range(4), range(3), range(channels)):
        # scipy has nothing beyond the edge pixels' centres, where ours fades to 0 over one pixel: hence the margin.
        padded = torch.nn.functional.pad(inputs[m, b, c], (2, 2, 2, 2)).double().numpy()
        turned = ndimage.rotate(padded, degrees[m].item(), reshape=False, order=1)[2:-2, 2:-2]
        torch.testing.assert_close(shown[m, b, c].double(), torch.from_numpy(turned), atol=1e-5, rtol=0)


def test_a_quarter_turn_is_counterclockwise_and_exact():
    inputs = images(1, 2, 5, 5)
    shown = Rotation.of(torch.tensor([90.0]), 5, 5)(inputs.flatten(2)).view_as(inputs)
    torch.testing.assert_close(shown, inputs.rot90(1, (2, 3)), atol=1e-5, rtol=0)
    whole = Rotation.of(torch.tensor([180.0]), 5, 5)(inputs.flatten(2)).view_as(inputs)
    torch.testing.assert_close(whole, inputs.flip(2, 3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 5, 4), (2, 4, 6)])
def test_every_crop_is_a_slice_of_the_padded_image_then_mirrored(shape):
    channels, height, width = shape
    crops = torch.tensor(list(itertools.product((-2, 0, 1, 2), (-2, -1, 0, 2), (0, 1)))).repeat(2, 1, 1)
    inputs = torch.rand(2, crops.shape[1], channels * height * width, generator=torch.Generator().manual_seed(0))
    shown = crop(inputs, crops, shape).unflatten(2, shape)
    padded = torch.nn.functional.pad(inputs.unflatten(2, shape), (2, 2, 2, 2))
    for m, b in itertools.product(range(2), range(crops.shape[1])):
        down, right, mirrored = crops[m, b].tolist()
        slice_ = padded[m, b, :, 2 + down : 2 + down + height, 2 + right : 2 + right + width]
        assert torch.equal(shown[m, b], slice_.flip(-1) if mirrored else slice_)


def test_crops_cover_their_range_evenly_and_stay_within_it():
    crops = draw_crops(30_000, 2, True, torch.Generator().manual_seed(1))
    for axis in (0, 1):
        shares = torch.bincount(crops[:, axis] + 2, minlength=5) / len(crops)
        assert len(shares) == 5
        torch.testing.assert_close(shares, torch.full((5,), 0.2), atol=0.015, rtol=0)
    assert crops[:, 2].double().mean().item() == pytest.approx(0.5, abs=0.015)


def test_what_is_not_asked_for_does_not_happen():
    flips = draw_crops(100, 0, True, torch.Generator().manual_seed(1))
    assert flips[:, :2].eq(0).all()
    assert set(flips[:, 2].tolist()) == {0, 1}
    assert draw_crops(100, 3, False, torch.Generator().manual_seed(1))[:, 2].eq(0).all()


def crops_of(run, epoch):
    setup = prepare_task(run, run.initial_state(), run.benchmark.tasks[0])
    steps = list(plan_epochs(run, setup))[epoch]
    return [step.batch.crops for step in steps], [step.batch for step in steps]


def test_crops_follow_the_seed_and_the_epoch_and_not_the_other_members():
    settings = {"random_crop": 1, "horizontal_flip": True, "classes_per_task": (2, 3, 4), "class_order": "shuffled"}
    together, batches = crops_of(small_run(seeds=(3, 4), **settings), 0)
    assert any(batch.valid is not None for batch in batches)  # the members differ in size
    for m, seed in enumerate((3, 4)):
        alone, own = crops_of(small_run(seeds=(seed,), **settings), 0)
        for both, one, batch in zip(together, alone, own, strict=False):
            n = batch.positions.shape[1]
            assert torch.equal(both[m, :n], one[0])
    later, _ = crops_of(small_run(seeds=(3, 4), **settings), 1)
    assert not torch.equal(later[0], together[0])
    assert not torch.equal(together[0][0], together[0][1])


def test_a_cohort_trained_on_augmented_images_equals_its_members_one_by_one():
    settings = {"random_crop": 2, "horizontal_flip": True, "distillation_factor": 0.5, "class_order": "shuffled"}

    def trained(seeds):
        run = small_run("lwf", seeds, **settings)
        return learn_task(run, learn_task(run, run.initial_state())).params

    together = trained((0, 1))
    for m in range(2):
        for name, value in trained((m,)).items():
            torch.testing.assert_close(together[name][m], value[0], atol=1e-5, rtol=1e-4)


def test_validation_is_measured_on_images_as_they_are():
    plain, augmented = (
        small_run(**settings, learning_rate=1e-30) for settings in ({}, {"random_crop": 3, "horizontal_flip": True})
    )
    states = [learn_task(run, run.initial_state()) for run in (plain, augmented)]
    assert same_params(states[0].params, states[1].params)
    assert torch.equal(states[0].accuracy.nan_to_num(), states[1].accuracy.nan_to_num())
    assert not torch.equal(states[0].curve, states[1].curve)
