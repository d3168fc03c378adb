from typing import Any

import numpy as np
import pytest
import torch

from terradistill.distillation.clusters import pooled_features
from terradistill.distillation.coresets import (
    herding_subset,
    k_center_subset,
    margin_subset,
    medoid_subset,
    random_subset,
)
from terradistill.errors import DataError

LABELS = np.random.default_rng(1).permutation(np.repeat(np.arange(4), [5, 9, 7, 20]))


def test_random_subset_is_stratified_distinct_and_seeded() -> None:
    index = random_subset(LABELS, 5, seed=0)
    assert LABELS[index].tolist() == np.repeat(np.arange(4), 5).tolist()
    assert len(set(index.tolist())) == 20
    assert (random_subset(LABELS, 5, seed=0) == index).all()
    assert (random_subset(LABELS, 5, seed=1) != index).any()


def test_a_larger_random_subset_contains_the_smaller() -> None:
    assert set(random_subset(LABELS, 2, seed=3).tolist()) <= set(random_subset(LABELS, 4, seed=3).tolist())


def test_every_image_is_drawn_equally_often() -> None:
    drawn = np.concatenate([random_subset(LABELS, 2, seed) for seed in range(600)])
    share = np.bincount(drawn, minlength=len(LABELS)) / 600
    expected = 2 / np.bincount(LABELS)[LABELS]
    assert np.abs(share - expected).max() < 0.1


def test_medoids_are_distinct_even_where_images_coincide() -> None:
    latents = torch.ones(len(LABELS), 4, 8, 8)
    latents[3:6] = torch.randn(3, 4, 8, 8)
    index = medoid_subset(pooled_features(latents, 8), LABELS, 5, seed=0)
    assert len(set(index.tolist())) == 20
    assert LABELS[index].tolist() == np.repeat(np.arange(4), 5).tolist()


def test_one_medoid_is_the_image_nearest_to_the_class_mean() -> None:
    latents = torch.randn(len(LABELS), 4, 8, 8, generator=torch.Generator().manual_seed(0))
    flat = latents.flatten(1).numpy()
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    for label, chosen in enumerate(medoid_subset(pooled_features(latents, 8), LABELS, 1, seed=0)):
        member = np.flatnonzero(label == LABELS)
        distance = np.linalg.norm(flat[member] - flat[member].mean(axis=0), axis=1)
        assert chosen == member[distance.argmin()]


def test_the_margin_rule_takes_what_is_far_from_the_other_centre() -> None:
    at = np.array([0.0, 0.1, 0.2, 1.0, 1.1, 1.2])  # two groups on a line
    index = margin_subset(np.stack([at, 0 * at], 1).astype(np.float32), np.zeros(6, np.int64), 2, seed=0)
    assert set(index.tolist()) <= {0, 1, 4, 5}, "no nearer to the other group than the middle of its own"
    assert set(medoid_subset(np.stack([at, 0 * at], 1).astype(np.float32), np.zeros(6, np.int64), 2, 0)) == {1, 4}


def test_classes_that_are_too_small_are_told() -> None:
    with pytest.raises(DataError, match="Class 0 has 5"):
        random_subset(LABELS, 6, seed=0)
    with pytest.raises(DataError, match="Class 0 has 5"):
        medoid_subset(torch.ones(len(LABELS), 4, 8, 8), LABELS, 6, seed=0)


@pytest.mark.parametrize("choose", [medoid_subset, margin_subset, herding_subset, k_center_subset])
def test_every_coreset_is_distinct_of_its_class_and_repeatable(choose: Any) -> None:
    features = np.random.default_rng(0).normal(size=(len(LABELS), 6)).astype(np.float32)
    features[LABELS == 2] = 1.0  # all alike
    index = choose(features, LABELS, 5, seed=0)
    assert LABELS[index].tolist() == np.repeat(np.arange(4), 5).tolist()
    assert len(set(index.tolist())) == 20
    assert (choose(features, LABELS, 5, seed=0) == index).all()


def test_herding_follows_the_mean_better_than_chance() -> None:
    features = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    labels = np.zeros(200, np.int64)

    def off(index: Any) -> float:
        return float(np.linalg.norm(features[index].mean(0) - features.mean(0)))

    assert off(herding_subset(features, labels, 10, seed=0)) < min(off(random_subset(labels, 10, s)) for s in range(50))


def test_k_center_covers_more_than_chance() -> None:
    features = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    labels = np.zeros(200, np.int64)

    def radius(index: Any) -> float:
        return float(np.linalg.norm(features[:, None] - features[index], axis=2).min(1).max())

    chosen = radius(k_center_subset(features, labels, 10, seed=0))
    assert chosen < min(radius(random_subset(labels, 10, s)) for s in range(50))
