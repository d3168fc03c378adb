import torch

from terradistill.sampling.selection import best_of, margins


def test_margin_is_target_minus_best_other() -> None:
    logits = torch.tensor([[2.0, 5.0, 1.0], [2.0, 5.0, 1.0], [0.0, 0.0, 0.0]])
    assert margins(logits, torch.tensor([1, 0, 2])).tolist() == [3.0, -3.0, 0.0]


def test_best_candidate_of_each_group() -> None:
    scores = torch.tensor([0.1, 0.9, 0.3, 7.0, -1.0, 2.0])
    assert best_of(scores, 3).tolist() == [1, 3]
    assert best_of(scores, 1).tolist() == list(range(6))
