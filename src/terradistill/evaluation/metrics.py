"""How well predicted classes agree with the true ones. All values are fractions, never percentages."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import cohen_kappa_score, confusion_matrix


@dataclass(frozen=True)
class Agreement:
    """Scores of one set of predictions.

    Attributes:
        oa: overall accuracy, the share of images classified rightly.
        aa: average accuracy, the mean recall of the classes that occur.
        kappa: Cohen's kappa, agreement beyond chance in [-1, 1]; 0 where it is undefined (one class only).
        recall: share of each class's images that were found, shape (n_classes,); NaN for a class that does not occur.
        confusion: number of images by true class (rows) and predicted class (columns), int64 (n_classes, n_classes).
    """

    oa: float
    aa: float
    kappa: float
    recall: NDArray[np.float64]
    confusion: NDArray[np.int64]

    def as_json(self) -> dict[str, Any]:
        """What JSON can hold, NaN as Python writes it; see `from_json`."""
        return asdict(self) | {"recall": self.recall.tolist(), "confusion": self.confusion.tolist()}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "Agreement":
        return cls(**found | {"recall": np.array(found["recall"]), "confusion": np.array(found["confusion"])})


def agreement(truth: NDArray[np.int64], predicted: NDArray[np.int64], n_classes: int) -> Agreement:
    """Compares true and predicted classes, both of shape (n,) in 0..n_classes-1, n >= 1."""
    classes = np.arange(n_classes)
    confusion = confusion_matrix(truth, predicted, labels=classes).astype(np.int64)
    occurring = confusion.sum(axis=1)
    recall = np.full(n_classes, np.nan)
    np.divide(confusion.diagonal(), occurring, out=recall, where=occurring > 0)
    single = len(np.union1d(truth, predicted)) == 1
    return Agreement(
        oa=float(confusion.trace() / confusion.sum()),
        aa=float(np.nanmean(recall)),
        kappa=0.0 if single else float(cohen_kappa_score(truth, predicted, labels=classes)),
        recall=recall,
        confusion=confusion,
    )


def paired(differences: NDArray[np.float64]) -> tuple[float, float]:
    """The mean of paired differences (n,), and half the width of its 95 % interval (Student's t); of one, infinite."""
    from scipy.stats import t

    n = len(differences)
    if n < 2:
        return float(differences.mean()), float("inf")
    return float(differences.mean()), float(t.ppf(0.975, n - 1) * differences.std(ddof=1) / n**0.5)
