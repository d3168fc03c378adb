"""DSDNet's terms against their definition, and gradients that reach their student alone."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from terradistill.errors import EvaluationError
from terradistill.models.downstream import build_network
from terradistill.models.self_distillation import (
    METHODS,
    REFINEMENT,
    LogitDenoiser,
    SelfDistiller,
    alphas_cumprod,
    mean_entropy,
    soft_cross_entropy,
    stages_of,
    watched,
)

WIDTHS, CLASSES = (6, 8, 10, 12), 5


def inputs(n: int = 7) -> tuple[list[Tensor], Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    pooled = [torch.randn(n, width, generator=rng, requires_grad=True) for width in WIDTHS]
    logits = torch.randn(n, CLASSES, generator=rng, requires_grad=True)
    return pooled, logits, torch.arange(n) % CLASSES


def distiller(method: str, **more: float | bool) -> SelfDistiller:
    torch.manual_seed(0)
    return SelfDistiller(WIDTHS, CLASSES, method, **more)  # type: ignore[arg-type]


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_the_schedule_and_its_five_steps() -> None:
    assert REFINEMENT == (400, 300, 200, 100, 0)
    assert float(alphas_cumprod()[400]) == pytest.approx(0.1936, abs=5e-4)


@pytest.mark.parametrize("name", ["resnet18", "resnet18-stem2", "convnext-atto", "vit-tiny", "efficientnet-lite0"])
def test_any_staged_backbone_is_watched_and_left_as_it_is(name: str) -> None:
    network = build_network(name, CLASSES, 32).eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    x = torch.randn(2, 3, 32, 32)
    plain = network(x)
    with watched(stages_of(network)) as seen:
        told = network(x)
    assert torch.equal(plain, told)
    assert [features.shape[0] for features in seen] == [2] * 4
    assert all(features.ndim == 2 for features in seen)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    with watched(stages_of(network)) as seen:
        pass
    network(x)
    assert not seen, "nothing is left attached"


def staged(n: int) -> nn.Module:
    """A network of n stages with five blocks each."""
    network = nn.Module()
    network.stages = nn.Sequential(*(nn.Sequential() for _ in range(n)))
    for stage in network.stages:
        stage.blocks = nn.Sequential(*(nn.Linear(2, 2) for _ in range(5)))
    return network


def test_a_network_without_stages_is_refused() -> None:
    for network in (nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), staged(3)):
        with pytest.raises(EvaluationError, match="four stages"):
            stages_of(network)


def test_of_five_stages_the_deepest_four_quarters_are_taken() -> None:
    network = staged(5)
    assert stages_of(network) == [network.stages[k] for k in (0, 1, 2, 4)]  # type: ignore[index]


def softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    e = np.exp(x - x.max(1, keepdims=True))
    return np.asarray(e / e.sum(1, keepdims=True))


def test_the_total_is_that_of_the_paper_computed_by_hand() -> None:
    """In evaluation mode, so that numpy needs no batch statistics."""
    model = distiller("dsd").eval()
    pooled, logits, labels = inputs()
    found = model(pooled, logits, labels, rng())
    state = {key: value.double().numpy() for key, value in model.state_dict().items()}
    shares, chance = alphas_cumprod().double().numpy(), rng()

    def linear(x: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        return np.asarray(x @ state[f"{name}.weight"].T + state[f"{name}.bias"])

    def normed(x: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        scale = state[f"{name}.weight"] / np.sqrt(state[f"{name}.running_var"] + 1e-5)
        return np.asarray((x - state[f"{name}.running_mean"]) * scale + state[f"{name}.bias"])

    def denoiser(x: NDArray[np.float64], c: NDArray[np.float64], t: NDArray[np.int64], k: int) -> NDArray[np.float64]:
        h = np.concatenate([x, c], 1) + state[f"pairs.{k}.denoiser.time.weight"][t]
        for layer in (0, 3, 6):
            h = linear(h, f"pairs.{k}.denoiser.body.{layer}")
            h = np.maximum(normed(h, f"pairs.{k}.denoiser.body.{layer + 1}"), 0)
        return linear(h, f"pairs.{k}.denoiser.body.9")

    branches = [linear(x.detach().double().numpy(), f"heads.{k}") for k, x in enumerate(pooled[:-1])]
    deepest = logits.detach().double().numpy()
    refined = []
    for k, student in enumerate(branches):
        c = linear(student, f"pairs.{k}.condition")
        x = torch.randn(student.shape, generator=chance).double().numpy()
        for t, following in zip(REFINEMENT, [*REFINEMENT[1:], None], strict=True):
            e = denoiser(x, c, np.full(len(x), t), k)
            clean = (x - np.sqrt(1 - shares[t]) * e) / np.sqrt(shares[t])
            x = clean if following is None else np.sqrt(shares[following]) * clean + np.sqrt(1 - shares[following]) * e
        refined.append(normed(linear(x, f"pairs.{k}.last.0"), f"pairs.{k}.last.1"))
    teachers, noise = [*branches[1:], deepest], 0.0
    for k, (r, teacher) in enumerate(zip(refined, teachers, strict=True)):
        t = torch.randint(0, 1000, (len(r),), generator=chance).numpy()
        e = torch.randn(r.shape, generator=chance).double().numpy()
        x = np.sqrt(shares[t])[:, None] * teacher + np.sqrt(1 - shares[t])[:, None] * e
        noise += ((e - denoiser(x, r, t, k)) ** 2).mean()
    soft = sum(-(softmax(t) * np.log(softmax(r))).sum(1).mean() for r, t in zip(refined, teachers, strict=True))
    entropy = sum(-(softmax(x) * np.log(softmax(x))).sum(1).mean() for x in (deepest, refined[2], refined[1]))
    ce = -np.log(softmax(deepest)[np.arange(7), labels.numpy()]).mean()
    assert found["ce"].item() == pytest.approx(ce, rel=1e-4)
    assert found["soft"].item() == pytest.approx(0.5 * soft, rel=1e-4)
    assert found["entropy"].item() == pytest.approx(-0.5 * entropy, rel=1e-4)
    assert found["noise"].item() == pytest.approx(0.5 * noise, rel=1e-4)


def test_byot_is_labels_the_deepest_logits_and_a_hint_computed_by_hand() -> None:
    model, (pooled, logits, labels) = distiller("byot", soft=0.3, hint=0.01, temperature=2.0), inputs()
    found = {name: float(value.detach()) for name, value in model(pooled, logits, labels, rng()).items()}
    state = {key: value.double().numpy() for key, value in model.state_dict().items()}
    features = [x.detach().double().numpy() for x in pooled]
    deepest, hard, soft, hint = logits.detach().double().numpy(), 0.0, 0.0, 0.0
    for k, x in enumerate(features[:-1]):
        branch = x @ state[f"heads.{k}.weight"].T + state[f"heads.{k}.bias"]
        hard += -np.log(softmax(branch)[np.arange(7), labels.numpy()]).mean()
        soft += 4 * -(softmax(deepest / 2) * np.log(softmax(branch / 2))).sum(1).mean()
        hint += ((x @ state[f"hints.{k}.weight"].T + state[f"hints.{k}.bias"] - features[-1]) ** 2).sum(1).mean()
    assert set(found) == {"ce", "branches", "soft", "hint"}
    assert found["branches"] == pytest.approx(0.7 * hard, rel=1e-4)
    assert found["soft"] == pytest.approx(0.3 * soft, rel=1e-4)
    assert found["hint"] == pytest.approx(0.01 * hint, rel=1e-4)


@pytest.mark.parametrize("term", ["soft", "noise"])
@pytest.mark.parametrize("pair", range(3))
def test_a_teacher_gets_no_gradient_from_its_student(pair: int, term: str) -> None:
    """A stage between is a student as well: deaf as that, all that could reach it would come of its teaching."""
    model, (pooled, logits, labels) = distiller("dsd"), inputs()
    if pair + 1 < len(model.pairs):
        torch.nn.init.zeros_(model.pairs[pair + 1].condition.weight)  # type: ignore[union-attr, arg-type]
    model(pooled, logits, labels, rng())[term].backward()
    student, teacher = pooled[pair], [*pooled[:-1], logits][pair + 1]
    assert student.grad is not None
    assert student.grad.any(), "the pair is at work"
    assert teacher.grad is None or not teacher.grad.any()
    assert pooled[-1].grad is None


def test_in_logit_distillation_gradients_go_to_students_alone() -> None:
    """Of ½ · softCE, ½ · (softmax ℓ_k − softmax ℓ_{k+1}) / B: a stage gets nothing for what it teaches."""
    model, (pooled, logits, labels) = distiller("logit-sd"), inputs()
    model(pooled, logits, labels, rng())["soft"].backward()
    with torch.no_grad():
        said = [*(head(x) for head, x in zip(model.heads, pooled, strict=False)), logits]
    for k, head in enumerate(model.heads):
        pull = (said[k].softmax(1) - said[k + 1].softmax(1)).mean(0) / 2
        torch.testing.assert_close(head.bias.grad, pull)
    assert logits.grad is None


def test_every_term_can_be_switched_off() -> None:
    pooled, logits, labels = inputs()
    for name, term in {"hard": "ce", "soft": "soft", "entropy": "entropy", "noise": "noise"}.items():
        found = distiller("dsd", **{name: 0.0})(pooled, logits, labels, rng())
        assert found[term].item() == 0
        assert all(found[other].item() != 0 for other in found if other != term)
    assert set(distiller("ce")(pooled, logits, labels, rng())) == {"ce"}


def test_another_condition_refines_to_other_logits() -> None:
    model, (pooled, _, _) = distiller("dsd").eval(), inputs()
    branches = [head(x) for head, x in zip(model.heads, pooled, strict=False)]
    right, other = model.refined(branches, rng()), model.refined([b.flip(0) for b in branches], rng())
    assert all((a - b).abs().max() > 1e-4 for a, b in zip(right, other, strict=True))
    shuffled = distiller("dsd", shuffled=True).eval()
    assert not torch.allclose(shuffled.refined(branches, rng())[0], right[0])


def test_a_trained_denoiser_heeds_its_condition() -> None:
    chance, model = torch.Generator().manual_seed(4), distiller("dsd", entropy=0.0)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    told = [torch.randn(width, CLASSES, generator=chance) / width**0.5 for width in WIDTHS]

    def scenes(n: int) -> tuple[list[Tensor], Tensor]:
        logits = 3 * torch.randn(n, CLASSES, generator=chance)  # which every stage can tell
        return [logits @ torch.linalg.pinv(each) for each in told], logits

    for _ in range(300):
        pooled, logits = scenes(64)
        optimizer.zero_grad()
        sum(model(pooled, logits, logits.softmax(1), chance).values()).backward()  # type: ignore[union-attr]
        optimizer.step()
    pooled, logits = scenes(256)
    with torch.no_grad():
        branches = [head(x) for head, x in zip(model.heads, pooled, strict=False)]
        right, other = model.refined(branches, rng()), model.refined([each.roll(1, 0) for each in branches], rng())
    for r, wrong, teacher in zip(right, other, [*branches[1:], logits], strict=True):
        assert soft_cross_entropy(r, teacher) < soft_cross_entropy(wrong, teacher) - 0.1


@pytest.mark.parametrize("method", METHODS)
def test_soft_labels_are_learned_from_as_well(method: str) -> None:
    pooled, logits, labels = inputs()
    soft = torch.nn.functional.one_hot(labels, CLASSES).float()
    hard, same = (distiller(method)(pooled, logits, y, rng()) for y in (labels, soft))
    assert float(sum(hard.values())) == pytest.approx(float(sum(same.values())), rel=1e-5)


def test_entropies_and_cross_entropies() -> None:
    even = torch.zeros(3, 4)
    assert float(mean_entropy(even)) == pytest.approx(np.log(4))
    assert float(soft_cross_entropy(even, torch.tensor([[50.0, 0, 0, 0]] * 3))) == pytest.approx(np.log(4))
    assert LogitDenoiser(3)(torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([0, 999])).shape == (2, 3)


def test_without_refinement_and_its_other_terms_it_is_plain_self_distillation() -> None:
    (pooled, logits, labels), rng = inputs(), torch.Generator().manual_seed(0)
    plain, control = distiller("logit-sd"), distiller("dsd", refine=False, entropy=0.0)
    assert len(control.pairs) == 0
    found = control(pooled, logits, labels, rng)
    for name, value in plain(pooled, logits, labels, rng).items():
        torch.testing.assert_close(found[name], value)
    assert found["entropy"] == found["noise"] == 0
    assert distiller("dsd", refine=False)(pooled, logits, labels, rng)["entropy"] != 0


def test_soft_labels_are_not_smoothed_again() -> None:
    pooled, logits, labels = inputs()
    of_classes = torch.eye(CLASSES)[labels]
    for method in ("ce", "byot"):
        smooth, plain = (
            distiller(method, **more)(pooled, logits, of_classes, rng()) for more in ({"smoothing": 0.3}, {})
        )
        assert all(torch.equal(smooth[name], plain[name]) for name in plain)
        hard = distiller(method, smoothing=0.3)(pooled, logits, labels, rng())
        assert not torch.allclose(hard["ce"], plain["ce"])
