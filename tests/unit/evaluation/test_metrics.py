import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from terradistill.evaluation.metrics import agreement, paired


def test_paired_differences_have_the_interval_of_a_paired_t_test() -> None:
    a, b = np.array([0.91, 0.88, 0.93, 0.90]), np.array([0.89, 0.87, 0.90, 0.91])
    mean, half = paired(a - b)
    low, high = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert paired(np.array([0.5])) == (0.5, float("inf"))


def test_by_hand() -> None:
    #             true 0: 3 of 4 found, true 1: 1 of 2, true 2: 0 of 1
    truth = np.array([0, 0, 0, 0, 1, 1, 2])
    predicted = np.array([0, 0, 0, 1, 1, 0, 0])
    scores = agreement(truth, predicted, 3)
    assert scores.oa == pytest.approx(4 / 7)
    assert scores.recall.tolist() == [0.75, 0.5, 0.0]
    assert scores.aa == pytest.approx(1.25 / 3)
    assert scores.confusion.tolist() == [[3, 1, 0], [1, 1, 0], [1, 0, 0]]
    expected = (4 * 5 + 2 * 2 + 1 * 0) / 49
    assert scores.kappa == pytest.approx((4 / 7 - expected) / (1 - expected))


def test_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 5, 300)
    predicted = np.where(rng.random(300) < 0.6, truth, rng.integers(0, 5, 300))
    scores = agreement(truth, predicted, 5)
    assert scores.oa == pytest.approx(sk.accuracy_score(truth, predicted))
    assert scores.aa == pytest.approx(sk.balanced_accuracy_score(truth, predicted))
    assert scores.kappa == pytest.approx(sk.cohen_kappa_score(truth, predicted))
    assert scores.recall == pytest.approx(sk.recall_score(truth, predicted, average=None))


def test_a_class_that_the_test_set_lacks_does_not_count() -> None:
    scores = agreement(np.array([0, 0, 1]), np.array([0, 2, 1]), 3)
    assert np.isnan(scores.recall[2])
    assert scores.aa == pytest.approx(0.75)
    assert scores.confusion.shape == (3, 3)


def test_kappa_of_a_single_class_is_zero() -> None:
    scores = agreement(np.zeros(4, np.int64), np.zeros(4, np.int64), 2)
    assert (scores.oa, scores.kappa) == (1.0, 0.0)
