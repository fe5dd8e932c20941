"""Seeds derived from a trial's seed."""

import itertools

import pytest
import torch

from clsearch.common.seeding import derive_generator, derive_seed


@pytest.mark.parametrize(
    ("arguments", "sha256"),  # first 16 digits of: printf 1/2/3/batches | sha256sum
    [((1, 2, 3, "batches"), 0xD4BD296F76BA81FA), ((0, 0, 0, "parameters"), 0xD934A5439AEF1367)],
)
def test_a_seed_is_the_sha256_of_its_arguments_on_every_machine(arguments, sha256):
    assert derive_seed(*arguments) == sha256 // 2


def test_a_seed_depends_on_each_of_its_arguments():
    arguments = list(itertools.product(range(12), range(12), range(3), ("batches", "pixels")))
    assert len({derive_seed(*each) for each in arguments}) == len(arguments)


def test_a_generator_repeats_itself_and_leaves_the_global_one_alone():
    before = torch.get_rng_state()
    first, second = (torch.rand(5, generator=derive_generator(3, 1, 2, "batches")) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, torch.rand(5, generator=derive_generator(4, 1, 2, "batches")))
    assert torch.equal(torch.get_rng_state(), before)
