"""Prototypes: what the sampler is guided towards, one a cluster of each class."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import LocalOutlierFactor
from torch import Tensor

from terradistill.distillation.clusters import class_members, kmeans_class
from terradistill.seeding import derive
from terradistill.settings import PrototypeSettings

NEIGHBOURS = 20  # of the local outlier factor (Breunig et al. 2000), scikit-learn's default


@dataclass(frozen=True)
class Prototypes:
    """The chosen scenes; row k belongs to class k, a column to a cluster.

    Attributes:
        indices: into the train split, int64 (n_classes, ipc); no scene occurs twice.
        sizes: scenes in each cluster, int64 (n_classes, ipc).
        clusters: the cluster of each scene in its class, int64 (n,); -1 for those that were left out.
    """

    indices: NDArray[np.int64]
    sizes: NDArray[np.int64]
    clusters: NDArray[np.int64]


def choose_prototypes(
    features: NDArray[np.float32], labels: NDArray[np.int64], ipc: int, settings: PrototypeSettings, seed: int
) -> Prototypes:
    """Clusters every class into ``ipc`` groups and picks the best scene of each (DPD, revised release).

    Args:
        features: of the train split, (n, d); see `terradistill.distillation.clusters.pooled_features`.
        labels: classes 0..n_classes-1, shape (n,).
        ipc: clusters, and so prototypes, per class.
        settings: the rule, who is left out, the restarts of k-means, alpha.
        seed: of k-means; every class has its own stream.

    Returns:
        One prototype a cluster, chosen among the cluster's own scenes: so none stands for two clusters.

    Raises:
        DataError: a class has fewer than ``ipc`` scenes.
    """
    members = class_members(labels, ipc)
    indices = np.empty((len(members), ipc), dtype=np.int64)
    sizes = np.empty_like(indices)
    clusters = np.full(len(labels), -1, dtype=np.int64)
    for label, member in enumerate(members):
        kept, centres, assignment = _clustered(features[member], ipc, settings, derive(seed, "k-means", label))
        clusters[member[kept]] = assignment
        distances = pairwise_distances(features[member[kept]].astype(np.float64), centres.astype(np.float64))
        for cluster in range(ipc):
            own = np.flatnonzero(assignment == cluster)
            best = int(np.argmax(_rule(distances[own], cluster, settings)))
            indices[label, cluster], sizes[label, cluster] = member[kept[own[best]]], len(own)
    return Prototypes(indices, sizes, clusters)


def prototype_latents(
    means: Callable[[NDArray[np.int64]], Tensor], labels: NDArray[np.int64], chosen: Prototypes, rule: str
) -> Tensor:
    """The latent of each prototype, class after class: float32 (n_classes * ipc, C, h, w).

    That of the chosen scene, or with the rule "centroid" the mean of its cluster (D4M, Su et al. 2024).

    Args:
        means: scaled posterior means (k, C, h, w) of train scenes by their places, int64 (k,).
        labels: classes, shape (n,).
        chosen: what `choose_prototypes` found.
        rule: `PrototypeSettings.rule`.
    """
    if rule != "centroid":
        return means(chosen.indices.ravel()).float()
    ipc = chosen.indices.shape[1]
    cluster = np.where(chosen.clusters >= 0, labels * ipc + chosen.clusters, -1)
    return torch.stack([means(np.flatnonzero(cluster == k)).float().mean(0) for k in range(chosen.indices.size)])


def _clustered(
    features: NDArray[np.float32], k: int, settings: PrototypeSettings, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Which scenes of a class are clustered, the centres (k, d), and the cluster of each of these scenes.

    A scene that is alone lies on its own centre, so the published rule makes outliers prototypes.
    """
    kept = np.arange(len(features))
    if not settings.outliers and len(features) > k + 1:
        neighbours = min(NEIGHBOURS, len(features) - 1)
        usual = np.flatnonzero(LocalOutlierFactor(neighbours).fit_predict(features) == 1)
        kept = usual if len(usual) >= k else kept
    first = (kept, *kmeans_class(features[kept], k, seed, settings.restarts))
    found = first
    while True:
        kept, centres, assignment = found
        enough = np.bincount(assignment, minlength=k)[assignment] >= settings.smallest
        if enough.all():
            return kept, centres, assignment
        if enough.sum() < k * settings.smallest:
            return first  # too few scenes for so many clusters of that size
        kept = kept[enough]
        found = (kept, *kmeans_class(features[kept], k, seed, settings.restarts))


def _rule(distances: NDArray[np.float64], cluster: int, settings: PrototypeSettings) -> NDArray[np.float64]:
    """Scores the scenes of one cluster from their distances (n, k) to all centres of their class.

    margin: min over j != k of |z - c_j|, less alpha |z - c_k| (DPD, revised release). With one cluster there is no
    other centre, and the margin is the medoid's score [ours].
    """
    own = distances[:, cluster]
    if settings.rule != "margin" or distances.shape[1] == 1:
        return -own
    scores: NDArray[np.float64] = np.delete(distances, cluster, axis=1).min(axis=1) - settings.alpha * own
    return scores
