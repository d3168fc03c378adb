"""Small sets of real images: the baselines that every distilled set must be compared with.

A new one is a function here and a line in `CORESETS`. Each takes the features of the train split in which it looks for
them, float32 (n, d), the labels, ipc and a seed, and returns distinct indices, class after class, int64
(n_classes * ipc,). All of them raise `DataError` where a class has fewer than ``ipc`` images.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from terradistill.distillation.clusters import class_members
from terradistill.distillation.prototypes import choose_prototypes
from terradistill.sampling.selection import herding
from terradistill.seeding import numpy_generator
from terradistill.settings import PrototypeSettings

Features = NDArray[np.float32]
Labels = NDArray[np.int64]


def random_subset(labels: Labels, ipc: int, seed: int) -> NDArray[np.int64]:
    """Draws ``ipc`` images of each class; a larger ``ipc`` with the same seed contains the smaller one."""
    members = class_members(labels, ipc)
    drawn = [numpy_generator(seed, "random subset", k).permutation(member)[:ipc] for k, member in enumerate(members)]
    return np.concatenate(drawn)


def medoid_subset(features: Features, labels: Labels, ipc: int, seed: int) -> NDArray[np.int64]:
    """The image nearest to the centre of each of ``ipc`` k-means clusters of each class."""
    return choose_prototypes(features, labels, ipc, PrototypeSettings(rule="medoid"), seed).indices.ravel()


def margin_subset(features: Features, labels: Labels, ipc: int, seed: int) -> NDArray[np.int64]:
    """The image of each such cluster that is also farthest from the other centres: DPD's prototypes, as they are."""
    return choose_prototypes(features, labels, ipc, PrototypeSettings(rule="margin"), seed).indices.ravel()


def herding_subset(features: Features, labels: Labels, ipc: int, seed: int) -> NDArray[np.int64]:  # noqa: ARG001
    """Images whose mean follows that of their class (Welling 2009)."""
    chosen = []
    for member in class_members(labels, ipc):
        own = torch.from_numpy(features[member])
        chosen.append(member[herding(own[None], own.mean(0)[None], ipc)[0].numpy()])
    return np.concatenate(chosen)


def k_center_subset(features: Features, labels: Labels, ipc: int, seed: int) -> NDArray[np.int64]:  # noqa: ARG001
    """From the image nearest to the class mean on, always the one farthest from those chosen (Gonzalez 1985)."""
    chosen = []
    for member in class_members(labels, ipc):
        own = features[member].astype(np.float64)
        picks = [int(np.linalg.norm(own - own.mean(0), axis=1).argmin())]
        distance = np.linalg.norm(own - own[picks[0]], axis=1)
        while len(picks) < ipc:
            distance[picks] = -1  # even where images coincide, none is chosen twice
            picks.append(int(distance.argmax()))
            distance = np.minimum(distance, np.linalg.norm(own - own[picks[-1]], axis=1))
        chosen.append(member[picks])
    return np.concatenate(chosen)


@dataclass(frozen=True)
class Coreset:
    """A way to choose real images.

    Attributes:
        choose: (features, labels, ipc, seed) to indices.
        title: as tables call it.
        taught: looks at what a network trained on the scenes sees, instead of at pooled latents.
    """

    choose: Callable[[Features, Labels, int, int], NDArray[np.int64]]
    title: str
    taught: bool = True


CORESETS: dict[str, Coreset] = {
    "medoid": Coreset(medoid_subset, "medoid real", taught=False),
    "margin": Coreset(margin_subset, "DPD's prototypes, real", taught=False),
    "feature-medoid": Coreset(medoid_subset, "medoid real, by features"),
    "herding": Coreset(herding_subset, "herded real"),
    "k-center": Coreset(k_center_subset, "k-center real"),
}
"""What `evaluation.methods` and `bench scoreboard --methods` may name beside distilled, random and full."""
