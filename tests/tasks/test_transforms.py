"""Permuted and turned images, against loops and scipy."""

import itertools

import pytest
import torch
from scipy import ndimage

from clsearch.tasks.transforms import PixelOrder, Rotation


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
