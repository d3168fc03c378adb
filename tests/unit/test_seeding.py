import numpy as np
import torch

from terradistill.seeding import batch_indices, derive, generator, noise


def test_seeds_depend_on_every_key_and_its_kind() -> None:
    seeds = [
        derive(0),
        derive(1),
        derive(0, 1),
        derive(0, "1"),
        derive(0, "a", "b"),
        derive(0, "ab"),
        derive(0, "b", "a"),
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive(0, "candidate", "river", 3, 1) == 1952957343055666330


def test_noise_of_an_image_is_its_own() -> None:
    together = noise([5, 6, 7], (2, 3))
    assert torch.equal(together[1], noise([6], (2, 3))[0])
    assert not torch.equal(together[0], together[1])
    assert noise([], (2, 3)).shape == (0, 2, 3)
    assert torch.equal(torch.randn(3, generator=generator(1, "a")), torch.randn(3, generator=generator(1, "a")))


def test_every_item_comes_once_an_epoch_whatever_the_batch_size() -> None:
    for batch_size in (1, 3, 7):
        drawn = np.concatenate([batch_indices(7, batch_size, step, seed=0) for step in range(21 // batch_size)])
        for epoch in drawn.reshape(3, 7):
            assert sorted(epoch) == list(range(7))
    assert not np.array_equal(batch_indices(7, 7, 0, seed=0), batch_indices(7, 7, 1, seed=0))


def test_a_batch_larger_than_the_data_spans_epochs() -> None:
    assert np.bincount(batch_indices(3, 9, 0, seed=1)).tolist() == [3, 3, 3]
