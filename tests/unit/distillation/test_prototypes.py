import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from terradistill.distillation.clusters import kmeans_class, pooled_features
from terradistill.distillation.prototypes import choose_prototypes, prototype_latents
from terradistill.errors import DataError
from terradistill.seeding import derive
from terradistill.settings import PrototypeSettings


def latents(n_per_class: int = 12, n_classes: int = 3) -> tuple[Tensor, NDArray[np.int64]]:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(n_classes), n_per_class))
    return torch.randn(len(labels), 4, 8, 8, generator=torch.Generator().manual_seed(0)), labels


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_margin_rule_by_hand(alpha: float) -> None:
    z, labels = latents()
    chosen = choose_prototypes(pooled_features(z, 4), labels, 4, PrototypeSettings(rule="margin", alpha=alpha), seed=7)
    features = pooled_features(z, 4).astype(np.float64)
    for label in range(3):
        member = np.flatnonzero(labels == label)
        centres, assignment = kmeans_class(pooled_features(z[member], 4), 4, derive(7, "k-means", label), 10)
        for k in range(4):
            scores = {}
            for i in member[assignment == k]:
                others = [np.sqrt(((features[i] - centres[j]) ** 2).sum()) for j in range(4) if j != k]
                scores[i] = min(others) - alpha * np.sqrt(((features[i] - centres[k]) ** 2).sum())
            best = max(scores, key=scores.__getitem__)
            assert chosen.indices[label, k] == best
            assert chosen.sizes[label, k] == len(scores)


def test_medoid_is_the_scene_nearest_to_its_centre() -> None:
    z, labels = latents()
    chosen = choose_prototypes(pooled_features(z, 8), labels, 3, PrototypeSettings(rule="medoid"), seed=1)
    member = np.flatnonzero(labels == 0)
    features = pooled_features(z, 8)[member]
    centres, assignment = kmeans_class(features, 3, derive(1, "k-means", 0), 10)
    for k in range(3):
        distance = np.where(assignment == k, np.linalg.norm(features - centres[k], axis=1), np.inf)
        assert chosen.indices[0, k] == member[distance.argmin()]


@pytest.mark.parametrize("rule", ["margin", "medoid", "centroid"])
@pytest.mark.parametrize("ipc", [1, 5, 12])
def test_prototypes_are_distinct_scenes_of_their_class(rule: str, ipc: int) -> None:
    z, labels = latents()
    chosen = choose_prototypes(
        pooled_features(z, 8), labels, ipc, PrototypeSettings.model_validate({"rule": rule}), seed=0
    )
    assert chosen.indices.shape == (3, ipc)
    assert len(np.unique(chosen.indices)) == 3 * ipc
    assert (labels[chosen.indices] == np.arange(3)[:, None]).all()
    assert chosen.sizes.sum(axis=1).tolist() == [12, 12, 12]
    again = choose_prototypes(
        pooled_features(z, 8), labels, ipc, PrototypeSettings.model_validate({"rule": rule}), seed=0
    )
    assert (again.indices == chosen.indices).all()


def test_copies_of_one_scene_still_give_distinct_prototypes() -> None:
    z = torch.ones(6, 4, 8, 8)
    chosen = choose_prototypes(
        pooled_features(z, 8), np.zeros(6, np.int64), 4, PrototypeSettings(rule="margin"), seed=0
    )
    assert len(np.unique(chosen.indices)) == 4


def test_other_classes_do_not_change_a_class() -> None:
    z, labels = latents()
    both = labels < 2
    all_three = choose_prototypes(pooled_features(z, 8), labels, 3, PrototypeSettings(rule="margin"), seed=0)
    two = choose_prototypes(
        pooled_features(z[torch.from_numpy(both)], 8), labels[both], 3, PrototypeSettings(rule="margin"), seed=0
    )
    assert (np.flatnonzero(both)[two.indices] == all_three.indices[:2]).all()


def test_a_class_that_is_too_small_is_told() -> None:
    z, labels = latents()
    with pytest.raises(DataError, match="12 training scenes, fewer than ipc 13"):
        choose_prototypes(pooled_features(z, 8), labels, 13, PrototypeSettings(rule="margin"), seed=0)


def test_an_outlier_is_a_prototype_only_where_it_may_be() -> None:
    rng = np.random.default_rng(3)
    crowd = np.concatenate([rng.normal(centre, 0.05, (20, 3)) for centre in ((0, 0, 0), (1, 0, 0), (0, 1, 0))])
    features = np.concatenate([crowd, [[9.0, 9.0, 9.0]]]).astype(np.float32)
    labels = np.zeros(61, np.int64)
    published = choose_prototypes(features, labels, 3, PrototypeSettings(rule="margin"), seed=0)
    assert 60 in published.indices
    for settings in (PrototypeSettings(outliers=False), PrototypeSettings(smallest=2)):
        chosen = choose_prototypes(features, labels, 3, settings, seed=0)
        assert 60 not in chosen.indices
        assert chosen.clusters[60] == -1
        assert sorted(chosen.indices[0] // 20) == [0, 1, 2], "one of each crowd, once the odd one is gone"


def test_too_strict_a_filter_gives_way() -> None:
    z, labels = latents()
    chosen = choose_prototypes(pooled_features(z, 8), labels, 5, PrototypeSettings(smallest=12), seed=0)
    assert len(np.unique(chosen.indices)) == 15


def test_a_centroid_is_the_mean_latent_of_its_cluster() -> None:
    z, labels = latents()
    chosen = choose_prototypes(pooled_features(z, 8), labels, 3, PrototypeSettings(rule="centroid"), seed=0)
    targets = prototype_latents(z.__getitem__, labels, chosen, "centroid")
    assert targets.shape == (9, 4, 8, 8)
    own = np.flatnonzero((labels == 1) & (chosen.clusters == 2))
    torch.testing.assert_close(targets[5], z[own].mean(0))
    torch.testing.assert_close(prototype_latents(z.__getitem__, labels, chosen, "medoid")[4], z[chosen.indices[1, 1]])
