"""Clusters of one class's scenes in latent space: what prototypes and coresets are chosen from."""

import warnings

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from terradistill.errors import DataError

LARGE = 20_000  # scenes of a class, from which k-means goes by batches


def pooled_features(latents: Tensor, pool: int) -> NDArray[np.float32]:
    """Average-pools latents to a pool x pool grid, flattens them and scales them to length 1 (DPD, revised release).

    Args:
        latents: (n, channels, height, width), any scaling (the length is lost).
        pool: side of the grid; latents that are smaller stay as they are.

    Returns:
        float32 features of shape (n, d) and Euclidean length 1.
    """
    grid = (min(pool, latents.shape[2]), min(pool, latents.shape[3]))
    pooled = F.adaptive_avg_pool2d(latents.detach().float().cpu(), grid)
    features: NDArray[np.float32] = F.normalize(pooled.flatten(1), dim=1).numpy()
    return features


def kmeans_class(
    features: NDArray[np.float32], k: int, seed: int, restarts: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Divides the scenes of one class into k clusters, none of them empty.

    K-means leaves clusters empty where fewer than k scenes differ. Each of those is given the scene farthest from its
    centre among clusters of several [ours], so that every cluster always has a scene of its own.

    Args:
        features: (n, d).
        k: number of clusters.
        seed: of the starting centres; any non-negative integer.
        restarts: runs of k-means, of which the tightest is kept.

    Returns:
        Centres (k, d), and the cluster of each scene in 0..k-1, shape (n,).

    Raises:
        DataError: fewer scenes than clusters.
    """
    if len(features) < k:
        raise DataError(f"{len(features)} scenes cannot be divided into {k} clusters: lower ipc or add scenes.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # that scenes coincide is dealt with below
        method = KMeans if len(features) <= LARGE else MiniBatchKMeans
        found = method(k, n_init=restarts, random_state=seed % 2**32).fit(features)
    centres = found.cluster_centers_.astype(np.float32)
    assignment = found.labels_.astype(np.int64)
    for empty in np.setdiff1d(np.arange(k), assignment):
        sizes = np.bincount(assignment, minlength=k)
        distance = np.linalg.norm(features - centres[assignment], axis=1)
        moved = int(np.argmax(np.where(sizes[assignment] > 1, distance, -1)))
        assignment[moved], centres[empty] = empty, features[moved]
    return centres, assignment


def class_members(labels: NDArray[np.int64], ipc: int) -> list[NDArray[np.int64]]:
    """The indices of each class's scenes, for labels (n,) that count from 0.

    Raises:
        DataError: a class has fewer than ``ipc`` scenes.
    """
    members = [np.flatnonzero(labels == label) for label in range(int(labels.max()) + 1)]
    for label, member in enumerate(members):
        if len(member) < ipc:
            raise DataError(
                f"Class {label} has {len(member)} training scenes, fewer than ipc {ipc}: lower ipc or add scenes."
            )
    return members
