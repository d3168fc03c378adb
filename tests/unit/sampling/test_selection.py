import torch

from terradistill.sampling.selection import best_of, covering, herding, margins


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


def _rows(seed: int, *shape: int) -> torch.Tensor:
    draw = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()
    return torch.nn.functional.normalize(draw, dim=-1)


def test_covering_is_the_greedy_choice_by_hand() -> None:
    features, real = _rows(0, 2, 9, 3), [_rows(1, 7, 3), _rows(2, 5, 3)]
    sure = torch.rand(2, 9, generator=torch.Generator().manual_seed(3)).double()
    found = covering(features, real, sure, 4, weight=0.5)
    for group in range(2):
        chosen: list[int] = []

        def worth(these: list[int], group: int = group) -> float:
            covered = (real[group] @ features[group, these].T).max(1).values.mean()
            return float(covered + 0.5 / 4 * sure[group, these].sum())

        for _ in range(4):
            left = {i: worth([*chosen, i]) for i in range(9) if i not in chosen}
            chosen.append(max(left, key=left.__getitem__))
        assert found[group].tolist() == chosen


def test_covering_does_not_take_two_alike_while_others_help() -> None:
    features = torch.eye(3)[[0, 0, 1, 2]][None]
    found = covering(features, [torch.eye(3)], torch.ones(1, 4), 3, weight=0.0)
    assert sorted(found[0].tolist()) == [0, 2, 3]


def test_being_sure_decides_where_all_cover_alike() -> None:
    features, sure = torch.ones(1, 4, 1), torch.tensor([[0.1, 0.9, 0.2, 0.8]])
    assert covering(features, [torch.ones(2, 1)], sure, 2, weight=1.0)[0].tolist() == [1, 3]


def test_covering_takes_the_barred_last() -> None:
    barred = torch.tensor([[True, False, False, True]])
    found = covering(torch.eye(4)[None], [torch.eye(4)[:1]], torch.ones(1, 4), 3, weight=1.0, barred=barred)
    assert found[0].tolist() == [1, 2, 0]
