"""Prototypes: the real scenes that the sampler is guided towards, one a cluster."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from terradistill.config import PrototypeSettings
from terradistill.distillation.clusters import class_members, kmeans_class, pooled_features
from terradistill.seeding import derive


@dataclass(frozen=True)
class Prototypes:
    """The chosen scenes; row k belongs to class k, a column to a cluster.

    Attributes:
        indices: into the train split, int64 (n_classes, ipc); no scene occurs twice.
        sizes: scenes in each cluster, int64 (n_classes, ipc).
    """

    indices: NDArray[np.int64]
    sizes: NDArray[np.int64]


def choose_prototypes(
    latents: Tensor, labels: NDArray[np.int64], ipc: int, settings: PrototypeSettings, seed: int
) -> Prototypes:
    """Clusters every class into ``ipc`` groups and picks the best scene of each (DPD, revised release).

    Args:
        latents: scaled posterior means of the train split, (n, channels, height, width).
        labels: classes 0..n_classes-1, shape (n,).
        ipc: clusters, and so prototypes, per class.
        settings: the rule, the pooling, the restarts of k-means, alpha.
        seed: of k-means; every class has its own stream.

    Returns:
        One prototype a cluster, chosen among the cluster's own scenes: so none stands for two clusters.

    Raises:
        DataError: a class has fewer than ``ipc`` scenes.
    """
    features = pooled_features(latents, settings.pool)
    members = class_members(labels, ipc)
    indices = np.empty((len(members), ipc), dtype=np.int64)
    sizes = np.empty_like(indices)
    for label, member in enumerate(members):
        z = features[member]
        centres, assignment = kmeans_class(z, ipc, derive(seed, "k-means", label), settings.restarts)
        distances = np.linalg.norm(z[:, None].astype(np.float64) - centres, axis=2)
        for cluster in range(ipc):
            own = np.flatnonzero(assignment == cluster)
            best = int(np.argmax(_rule(distances[own], cluster, settings)))
            indices[label, cluster], sizes[label, cluster] = member[own[best]], len(own)
    return Prototypes(indices, sizes)


def _rule(distances: NDArray[np.float64], cluster: int, settings: PrototypeSettings) -> NDArray[np.float64]:
    """Scores the scenes of one cluster from their distances (n, k) to all centres of their class.

    margin: min over j != k of |z - c_j|, less alpha |z - c_k| (DPD, revised release). With one cluster there is no
    other centre, and the margin is the medoid's score [ours].
    """
    own = distances[:, cluster]
    if settings.rule == "medoid" or distances.shape[1] == 1:
        return -own
    scores: NDArray[np.float64] = np.delete(distances, cluster, axis=1).min(axis=1) - settings.alpha * own
    return scores
