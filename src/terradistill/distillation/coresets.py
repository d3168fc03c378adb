"""Small sets of real images: the baselines that every distilled set must be compared with."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from terradistill.config import PrototypeSettings
from terradistill.distillation.clusters import class_members
from terradistill.distillation.prototypes import choose_prototypes
from terradistill.seeding import numpy_generator


def random_subset(labels: NDArray[np.int64], ipc: int, seed: int) -> NDArray[np.int64]:
    """Draws ``ipc`` images of each class; a larger ``ipc`` with the same seed contains the smaller one.

    Args:
        labels: classes 0..n_classes-1, shape (n,).
        ipc: images per class.
        seed: every class has its own stream.

    Returns:
        Distinct indices, class after class, shape (n_classes * ipc,).

    Raises:
        DataError: a class has fewer than ``ipc`` images.
    """
    members = class_members(labels, ipc)
    drawn = [numpy_generator(seed, "random subset", k).permutation(member)[:ipc] for k, member in enumerate(members)]
    return np.concatenate(drawn)


def medoid_subset(latents: Tensor, labels: NDArray[np.int64], ipc: int, seed: int, pool: int = 8) -> NDArray[np.int64]:
    """The image nearest to the centre of each of ``ipc`` k-means clusters of each class.

    Args:
        latents: scaled posterior means, (n, channels, height, width).
        labels: classes 0..n_classes-1, shape (n,).
        ipc: images per class.
        seed: of k-means.
        pool: latents are average-pooled to pool x pool first.

    Returns:
        Distinct indices, class after class, shape (n_classes * ipc,).

    Raises:
        DataError: a class has fewer than ``ipc`` images.
    """
    return choose_prototypes(latents, labels, ipc, PrototypeSettings(rule="medoid", pool=pool), seed).indices.ravel()
