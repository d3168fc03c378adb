import torch

from terradistill.sampling.selection import best_of, herding, margins


def test_margin_is_target_minus_best_other() -> None:
    logits = torch.tensor([[2.0, 5.0, 1.0], [2.0, 5.0, 1.0], [0.0, 0.0, 0.0]])
    assert margins(logits, torch.tensor([1, 0, 2])).tolist() == [3.0, -3.0, 0.0]


def test_best_candidate_of_each_group() -> None:
    scores = torch.tensor([0.1, 0.9, 0.3, 7.0, -1.0, 2.0])
    assert best_of(scores, 3).tolist() == [1, 3]
    assert best_of(scores, 1).tolist() == list(range(6))


def test_herding_is_the_greedy_choice_by_hand() -> None:
    features = torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(0)).double()
    target = torch.randn(2, 3, generator=torch.Generator().manual_seed(1)).double()
    found = herding(features, target, 4)
    for group in range(2):
        chosen: list[int] = []
        for _ in range(4):
            left = [i for i in range(9) if i not in chosen]
            off = {i: float((features[group, [*chosen, i]].mean(0) - target[group]).norm()) for i in left}
            chosen.append(min(off, key=off.__getitem__))
        assert found[group].tolist() == chosen


def test_herding_of_all_is_all_even_where_they_are_alike() -> None:
    assert sorted(herding(torch.ones(1, 5, 2), torch.zeros(1, 2), 5)[0].tolist()) == [0, 1, 2, 3, 4]


def test_herding_takes_the_barred_last() -> None:
    features = torch.eye(4)[None]
    barred = torch.tensor([[True, False, False, True]])
    assert set(herding(features, features[:, 0], 2, barred)[0].tolist()) == {1, 2}
    assert herding(features, features[:, 0], 3, barred)[0].tolist()[2] == 0
