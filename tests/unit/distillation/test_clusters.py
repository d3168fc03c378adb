from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import MiniBatchKMeans

from terradistill.distillation import clusters
from terradistill.distillation.clusters import class_members, kmeans_class, pooled_features
from terradistill.errors import DataError


def test_features_are_pooled_and_of_length_one() -> None:
    latents = torch.randn(5, 4, 16, 16)
    features = pooled_features(latents, 8)
    by_hand = latents.reshape(5, 4, 8, 2, 8, 2).mean(dim=(3, 5)).reshape(5, -1).numpy()
    by_hand /= np.linalg.norm(by_hand, axis=1, keepdims=True)
    assert features.shape == (5, 256)
    np.testing.assert_allclose(features, by_hand, atol=1e-6)
    np.testing.assert_allclose(features, pooled_features(3 * latents, 8), atol=1e-6)


def test_small_latents_are_not_enlarged() -> None:
    assert pooled_features(torch.randn(2, 4, 4, 4), 8).shape == (2, 64)


def test_clear_clusters_are_found_and_repeat() -> None:
    rng = np.random.default_rng(0)
    places = np.eye(3, 6, dtype=np.float32)
    features = np.concatenate([place + 0.01 * rng.standard_normal((8, 6), dtype=np.float32) for place in places])
    centres, assignment = kmeans_class(features, 3, seed=2**62 + 1, restarts=4)
    groups = assignment.reshape(3, 8)
    assert (groups == groups[:, :1]).all()
    assert len(set(groups[:, 0].tolist())) == 3
    for cluster in range(3):
        np.testing.assert_allclose(centres[cluster], features[assignment == cluster].mean(axis=0), atol=1e-5)
    again = kmeans_class(features, 3, seed=2**62 + 1, restarts=4)
    assert (again[0] == centres).all()
    assert (again[1] == assignment).all()


def test_large_classes_are_clustered_by_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []

    class Watched(MiniBatchKMeans):  # type: ignore[misc]
        def fit(self, features: Any, *more: Any) -> Any:
            used.append(len(features))
            return super().fit(features, *more)

    monkeypatch.setattr(clusters, "MiniBatchKMeans", Watched)
    monkeypatch.setattr(clusters, "LARGE", 23)
    rng = np.random.default_rng(0)
    places = np.eye(3, 6, dtype=np.float32)
    features = np.concatenate([place + 0.01 * rng.standard_normal((8, 6), dtype=np.float32) for place in places])
    kmeans_class(features[:23], 3, seed=0, restarts=4)
    assert not used
    _, assignment = kmeans_class(features, 3, seed=0, restarts=4)
    assert used == [24]
    assert len({tuple(group) for group in assignment.reshape(3, 8).tolist()}) == 3


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("distinct", [1, 2, 5])
def test_no_cluster_is_empty_where_scenes_coincide(distinct: int) -> None:
    features = np.eye(6, dtype=np.float32)[np.arange(6) % distinct]
    centres, assignment = kmeans_class(features, 5, seed=0, restarts=2)
    assert centres.shape == (5, 6)
    assert set(assignment.tolist()) == set(range(5))
    np.testing.assert_allclose(features, centres[assignment], atol=1e-6)


def test_too_few_scenes_are_told() -> None:
    with pytest.raises(DataError, match="2 scenes cannot be divided into 3 clusters"):
        kmeans_class(np.eye(2, dtype=np.float32), 3, seed=0, restarts=1)
    with pytest.raises(DataError, match=r"Class 1 has 1 training scenes, fewer than ipc 2"):
        class_members(np.array([0, 1, 0, 2, 2]), 2)
    with pytest.raises(DataError, match="Class 1 has 0"):
        class_members(np.array([0, 2]), 1)
