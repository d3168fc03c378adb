"""Which epoch is kept, and that all methods learn for as long from the same scenes."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from terradistill.classification import training
from terradistill.classification.training import Trained, train_scene_classifier
from terradistill.hardware import Hardware
from terradistill.models.self_distillation import METHODS, SelfDistiller
from terradistill.sections import ClassifySettings
from terradistill.seeding import generator as seeded
from terradistill.training.progress import Ema

CLASSES, STEPS = 3, 2
LABELS = np.arange(20) % CLASSES
JUDGED = np.arange(10) % CLASSES


class Staged(nn.Module):
    """Four stages and a head."""

    def __init__(self) -> None:
        super().__init__()
        widths = pairwise((3, 4, 6, 8, 10))
        self.stages = nn.Sequential(*(nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.ReLU()) for a, b in widths))
        self.head = nn.Linear(10, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.head(self.stages(x).mean((2, 3))))


def train(network: nn.Module, work: Path, **more: object) -> Trained:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), dtype=np.uint8)
    settings = ClassifySettings.model_validate(
        {"batch_size": 8, "least_steps": STEPS, "resolution": 16, "learning_rate": 0.01, **more}
    )
    work.mkdir()
    return train_scene_classifier(
        network, pixels[:20], LABELS, np.arange(20), (pixels[20:], JUDGED), CLASSES, settings,
        seed=0, hardware=Hardware(torch.device("cpu")), work=work,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("shares", "patience", "best", "epochs"),
    [
        ((0.3, 0.6, 0.5), 9, 2, 3),
        ((0.3, 0.6, 0.6, 0.5), 9, 3, 4),  # of those alike the later, which has learned more
        ((0.6, 0.5, 0.4, 0.9), 2, 1, 3),  # the last of them is not waited for
        ((0.6, 0.6, 0.6, 0.6, 0.9), 2, 3, 3),  # to be as good is not to get better
    ],
)
def test_the_best_epoch_by_validation_is_kept(
    shares: Sequence[float], patience: int, best: int, epochs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[dict[str, Tensor]] = []

    def so_many_right(network: nn.Module, *_: object, **__: object) -> Tensor:
        right = np.arange(10) < 10 * shares[min(len(judged), len(shares) - 1)]
        judged.append({key: value.clone() for key, value in network.state_dict().items()})
        return nn.functional.one_hot(torch.from_numpy(np.where(right, JUDGED, (JUDGED + 1) % CLASSES)), CLASSES).float()

    monkeypatch.setattr(training, "logits", so_many_right)
    monkeypatch.setattr(training, "FEW", 10)
    network = Staged()
    trained = train(network, tmp_path / "work", method="ce", epochs=len(shares), patience=patience)
    assert (trained.epoch, trained.accuracy) == (best, shares[best - 1])
    *of_epochs, calibrated = judged
    assert len(of_epochs) == epochs
    for kept in (network.state_dict(), calibrated):
        same = [all(torch.equal(kept[key], weights[key]) for key in kept) for weights in of_epochs]
        assert same == [epoch == best for epoch in range(1, epochs + 1)]


def test_few_validation_scenes_neither_stop_it_nor_say_how_sure_to_be(tmp_path: Path) -> None:
    trained = train(Staged(), tmp_path / "work", method="ce", epochs=4, patience=1, learning_rate=1e-9)
    _, taken = json.loads((tmp_path / "work" / "timing.json").read_text())
    assert (taken, trained.temperature) == (4 * STEPS, 1.0), "of ten scenes"


def test_branches_do_not_shorten_the_steps_of_the_network() -> None:
    network, model = Staged(), nn.ModuleDict()
    model.update({"network": network, "distiller": SelfDistiller([4, 6, 8, 10], CLASSES, "dsd")})
    groups = training._optimizer(model, network, ClassifySettings()).param_groups
    assert [{*map(id, group["params"])} for group in groups] == [
        {*map(id, part.parameters())} for part in (network.stages, network.head, model["distiller"])
    ]
    alone = training._optimizer(nn.ModuleDict({"network": network}), network, ClassifySettings()).param_groups
    assert [len(group["params"]) for group in alone] == [len(group["params"]) for group in groups[:2]]


def test_a_best_epoch_that_is_run_again_is_judged_again(tmp_path: Path) -> None:
    network = nn.Linear(2, 2)
    ema = Ema(network, 0.5)
    with torch.no_grad():
        network.weight += 1
    ema.update(0)
    own = network.weight.clone()
    ema.swap()
    averaged = network.weight.clone()
    ema.swap()
    assert not torch.equal(averaged, own)
    best = training._Best(tmp_path)
    best.keep(network, ema, 2, 0.7)
    best.keep(network, ema, 3, 0.7)
    assert torch.equal(network.weight, own), "training goes on with its own weights"
    again = training._Best(tmp_path)
    again.forget_after(3)  # the checkpoint knows of it
    assert (again.epoch, again.rose, again.accuracy) == (3, 2, 0.7)
    again.restore(network)
    assert torch.equal(network.weight, averaged), "what judged is what is kept"
    again.forget_after(2)  # a kill came between
    assert (again.epoch, again.rose, again.accuracy) == (2, 2, 0.7), "patience goes on counting from the same epoch"
    again.keep(network, ema, 3, 0.7)
    assert (again.epoch, again.rose) == (3, 2)
    again.forget_after(1)
    assert (again.epoch, again.rose, again.accuracy) == (0, 0, -1.0)


def test_refinement_is_measured_as_it_was_learned_and_beside_a_linear_map(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Staged().eval()
    torch.manual_seed(0)
    distiller = SelfDistiller([4, 6, 8, 10], CLASSES, "dsd")
    teacher = 2 * torch.randn(80, CLASSES)
    turned = teacher @ torch.linalg.qr(torch.randn(CLASSES, CLASSES))[0]  # a linear map brings it back
    said = [torch.randn(80, CLASSES), torch.randn(80, CLASSES), 0.05 * turned, teacher]  # no loss fixes their scales
    monkeypatch.setattr(training, "_branches", lambda *_: said)
    for module in distiller.modules():
        if isinstance(module, nn.BatchNorm1d):
            assert module.running_mean is not None
            module.running_mean += 50  # of other steps: of no use
    remembered = {key: value.clone() for key, value in distiller.state_dict().items() if "running" in key}
    images, cpu = np.zeros((80, 16, 16, 3), np.uint8), Hardware(torch.device("cpu"))
    found = training.refinement_gain(network, distiller, [], images, cpu, seed=1)
    assert all(torch.equal(distiller.state_dict()[key], value) for key, value in remembered.items())
    refined = distiller.train().refined(said[:-1], seeded(1, "gain"))
    for k in range(3):
        assert found["refined"][k] == pytest.approx(training._divergence(said[k + 1], refined[k]).item(), abs=1e-4)
        assert found["raw"][k] == pytest.approx(training._divergence(said[k + 1], said[k]).item(), abs=1e-4)
    assert found["linear"][2] < 0.2 * found["raw"][2]
    chances = said[1].softmax(1)
    constant = float((chances * (chances / chances.mean(0)).log()).sum(1).mean())
    assert found["linear"][0] > 0.9 * constant, "what has nothing to do with its teacher is not learned by heart"


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "rmsprop"])
def test_heads_learn_at_a_rate_of_their_own(optimizer: str, tmp_path: Path) -> None:
    rates: list[dict[int, float]] = []

    def seen(taken: torch.optim.Optimizer, *_: object) -> None:
        rates.append({id(weight): group["lr"] for group in taken.param_groups for weight in group["params"]})

    handle, network = register_optimizer_step_post_hook(seen), Staged()
    try:
        train(network, tmp_path / "run", method="dsd", epochs=1, optimizer=optimizer, heads_rate=10)
    finally:
        handle.remove()
    for step in (rates[0], rates[STEPS - 1]):  # before the linear maps of the control
        backbone = {step.pop(id(weight)) for weight in network.stages.parameters()}
        assert len(backbone) == 1
        assert {round(rate / backbone.copy().pop(), 6) for rate in step.values()} == {10}
        assert {id(weight) for weight in network.head.parameters()} <= step.keys()


def test_erasing_is_drawn_by_the_step_and_leaves_the_rest() -> None:
    settings = ClassifySettings(flips=False, turns=False, light=0, crop_area=(1, 1), crop_aspect=(1, 1), erasing=0.5)
    x = torch.rand(64, 3, 16, 16) / 2 - 0.9
    once, again = (training.augmented(x, settings, torch.Generator().manual_seed(3)) for _ in range(2))
    other = training.augmented(x, settings, torch.Generator().manual_seed(4))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    changed = ((once - x).abs() > 1e-3).any(1).flatten(1)
    assert 0.3 < changed.any(1).float().mean() < 0.7
    assert once[changed.view(64, 1, 16, 16).expand_as(once)].abs().max() < 1e-5, "what is erased is mid-grey"


def test_all_methods_take_the_same_steps_on_the_same_scenes(tmp_path: Path) -> None:
    seen: list[Tensor] = []
    taken: dict[str, list[Tensor]] = {}

    def look(network: nn.Module, inputs: Any) -> None:
        if network.training:
            seen.append(inputs[0])

    for method in METHODS:
        network, taken[method] = Staged(), []
        network.register_forward_pre_hook(look)
        first, steps = network.head.weight, taken[method]

        def count(optimizer: Any, *_: object, first: Any = first, steps: list[Tensor] = steps) -> None:
            if any(weight is first for group in optimizer.param_groups for weight in group["params"]):
                steps.append(seen[-1])

        handle = register_optimizer_step_post_hook(count)
        train(network, tmp_path / method, method=method, epochs=3)
        handle.remove()
    assert len(seen) == sum(map(len, taken.values()))
    for steps in taken.values():
        assert len(steps) == 3 * STEPS
        assert all(torch.equal(*both) for both in zip(steps, taken["ce"], strict=True))
