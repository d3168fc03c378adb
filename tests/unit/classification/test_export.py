"""Every kind of backbone that is offered is written as ONNX, and gives the logits that it gives here."""

from pathlib import Path

import pytest
import torch

from terradistill.classification import export
from terradistill.errors import EvaluationError
from terradistill.models.downstream import build_network
from terradistill.models.scene_classifier import SceneClassifier


def classifier(name: str, side: int) -> SceneClassifier:
    torch.manual_seed(0)
    return SceneClassifier(build_network(name, 5, side).eval(), name, tuple("abcde"), {}, side)


@pytest.mark.parametrize("name", ["efficientnet-lite0", "convnext-atto", "vit-tiny", "convnet3"])
def test_every_kind_of_backbone_is_written(name: str, tmp_path: Path) -> None:
    export._write_onnx(classifier(name, 64), tmp_path / "model.onnx")  # it compares the logits itself
    assert (tmp_path / "model.onnx").stat().st_size > 1_000_000


def test_other_logits_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, plain = classifier("convnet3", 32), torch.onnx.export

    def another(_: object, *given: object, **more: object) -> object:
        torch.manual_seed(1)
        return plain(build_network("convnet3", 5, 32).eval(), *given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.onnx, "export", another)
    with pytest.raises(EvaluationError, match="gives other logits"):
        export._write_onnx(made, tmp_path / "model.onnx")
