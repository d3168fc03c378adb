import torch

from terradistill.seeding import derive, generator, noise


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
