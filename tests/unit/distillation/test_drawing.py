from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from terradistill.config import load_settings
from terradistill.data.scenes import DatasetInfo, SceneFolder
from terradistill.distillation import drawing
from terradistill.distillation.work import Work
from terradistill.hardware import Hardware
from terradistill.run import Run


class Handed(Exception):
    """What the candidates are drawn towards."""


def targets(root: Path, classes: tuple[str, ...], latents: Tensor, monkeypatch: pytest.MonkeyPatch, **more: Any) -> Any:
    def handed(_work: Work, _generator: None, given: Tensor) -> None:
        raise Handed(given)

    monkeypatch.setattr(drawing, "_Drawer", handed)
    monkeypatch.setattr(Work, "generator", lambda _: None)
    run = Run(root, load_settings(["tiny"], ipc=2, **more))
    (root / "latents").mkdir()
    save_file({"latents": latents}, root / "latents" / "prototypes.safetensors")
    scenes = SceneFolder(classes, (), DatasetInfo("none"), lambda _: b"")
    with pytest.raises(Handed) as found:
        drawing.candidates(Work(run, Hardware(torch.device("cpu")), scenes, scenes, scenes))
    return found.value.args[0]


def test_jittered_targets_have_moved_by_about_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("forest", "river", "road")
    latents = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    assert torch.equal(targets(tmp_path / "still", names, latents, monkeypatch), latents)
    jitter = {"sampling__target_jitter": True}
    moves = targets(tmp_path / "moved", names, latents, monkeypatch, **jitter) - latents
    rms = moves.square().mean((1, 2, 3)).sqrt()
    torch.testing.assert_close(rms, torch.full((6,), 1 / 256**0.5), rtol=4 / 512**0.5, atol=0)  # 4 σ
    assert torch.pdist(moves.flatten(1)).min() > 1, "each by noise of its own"
    # Of its class and its place alone: another class changes no other's.
    fewer = targets(tmp_path / "fewer", names[1:], latents[2:], monkeypatch, **jitter) - latents[2:]
    assert torch.equal(fewer, moves[2:])
    other = targets(tmp_path / "other", names, latents, monkeypatch, **jitter, seed=1) - latents
    assert not torch.isclose(other, moves).all((1, 2, 3)).any()
