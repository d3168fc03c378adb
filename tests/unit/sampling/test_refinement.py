import torch

from terradistill.sampling.refinement import refine


def test_means_move_to_their_targets_on_a_leash() -> None:
    latents = torch.randn(6, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    groups, target = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([[1.0, 0.0], [0.0, -1.0]])

    def features(z: torch.Tensor) -> torch.Tensor:
        return z.mean((2, 3))

    def gap(z: torch.Tensor) -> float:
        return float((features(z).unflatten(0, (2, 3)).mean(1) - target).square().sum())

    free = refine(latents, groups, target, features, steps=200, leash=0.0)
    held = refine(latents, groups, target, features, steps=200, leash=100.0)
    assert gap(free) < 1e-3 < gap(held) < gap(latents)
    assert (held - latents).norm() < (free - latents).norm()
    assert refine(latents, groups, target, features, steps=0, leash=1.0) is latents
