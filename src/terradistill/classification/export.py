"""A classifier as others open it: the plain backbone in safetensors, and ONNX that gives the same logits."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from terradistill.errors import ConfigError, EvaluationError, RunError, reason
from terradistill.files import replacing
from terradistill.models.scene_classifier import SceneClassifier

SLACK = 1e-3  # of logits: other libraries add in another order
SIZES = (1, 3)  # of the batches that are compared


def export_classifier(model: str | Path, out: Path, *, onnx: bool = True) -> dict[str, Path]:
    """Write `model.safetensors` and `config.json`, and `model.onnx`, checked against the network.

    The ONNX graph takes `images`, float32 (n, 3, side, side) in [-1, 1], and gives `logits`; dividing them by the
    temperature in `config.json` before a softmax makes them probabilities.

    Raises:
        ConfigError: the extra `export` is not installed.
        EvaluationError: the model is none, or ONNX gives other logits.
        RunError: `out` is not empty.
    """
    if onnx and any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")):
        raise ConfigError("Writing ONNX needs its libraries: pip install '.[export]', or leave it out with --no-onnx.")
    classifier, out = SceneClassifier.load(model), out.expanduser().resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} is not empty: give a new folder for --out.")
    with replacing(out) as part:
        classifier.save(part)
        if onnx:
            _write_onnx(classifier, part / "model.onnx")
    return {path.name: path for path in sorted(out.iterdir())}


def _write_onnx(classifier: SceneClassifier, path: Path) -> None:
    import onnxruntime

    side = classifier.resolution
    images = torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    try:
        torch.onnx.export(
            classifier.network,
            (images[:2],),
            path,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("n", min=1)},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        said = [session.run(["logits"], {"images": images[:n].numpy()})[0] for n in SIZES]
    except Exception as error:  # those of onnxruntime have no other base
        raise EvaluationError(
            f"{classifier.name} cannot be written as ONNX ({reason(error)}): leave it out with --no-onnx."
        ) from error
    with torch.inference_mode():
        for n, found in zip(SIZES, said, strict=True):
            right = classifier.network(images[:n]).numpy()
            if (off := float(np.abs(found - right).max())) > SLACK * max(1.0, float(np.abs(right).max())):
                raise EvaluationError(f"ONNX gives other logits, by up to {off:g}: leave it out with --no-onnx.")
