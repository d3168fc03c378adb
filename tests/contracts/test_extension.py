"""What CONTRIBUTING says: a dataset, a network, a guidance or a coreset is one entry in one file."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

import terradistill as td
from terradistill.data.catalogue import CATALOGUE, KnownDataset
from terradistill.data.scenes import DatasetInfo
from terradistill.distillation.coresets import CORESETS, Coreset
from terradistill.models.downstream import BUILDERS
from terradistill.models.parameterisation import Parameterisation
from terradistill.sampling.guidance import PROTOTYPE_GUIDANCES
from terradistill.sampling.sampler import Guidance, Predict, Step
from tests.conftest import TINY, terradistill, tiny_settings


def first_subset(_f: NDArray[np.float32], labels: NDArray[np.int64], ipc: int, _seed: int) -> NDArray[np.int64]:
    """The first images of each class."""
    return np.concatenate([np.flatnonzero(labels == label)[:ipc] for label in np.unique(labels)])


def linear(n_classes: int, resolution: int) -> nn.Module:
    """No hidden layer at all."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * resolution**2, n_classes))


def nudge(prototypes: Tensor, _schedule: Parameterisation, scale: float, until: float) -> Guidance:
    """A share of the way to the prototype in each step, whatever the noise."""

    def guide(predict: Predict) -> Predict:
        def guided(step: Step) -> tuple[Tensor, Tensor]:
            z, output = predict(step)
            if step.share > until:
                return z, output
            own = prototypes[step.rows].to(z)
            return z + scale * (own - z), output

        return guided if scale else predict

    return guide


def to_prototypes(run: Path) -> float:
    """How far kept images are from their prototypes."""
    kept = load_file(run / "latents" / "distilled.safetensors")
    prototypes = load_file(run / "latents" / "prototypes.safetensors")["latents"]
    own = prototypes[kept["candidate"] // tiny_settings().sampling.candidates]
    return float((kept["latents"] - own).square().mean())


def test_one_entry_each_is_all_that_is_needed(
    finished: td.Distilled,
    drawn: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(CORESETS, "first", Coreset(first_subset, "the first real", taught=False))
    monkeypatch.setitem(BUILDERS, "linear", linear)
    monkeypatch.setitem(PROTOTYPE_GUIDANCES, "nudge", nudge)
    folder = tmp_path / "downloaded"
    shutil.copytree(drawn, folder)
    (folder / "dataset.json").unlink()
    names = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir()))
    info = DatasetInfo(name="mine", title="My scenes", licence="CC-BY-4.0", citation="Me, 2026.")
    monkeypatch.setitem(CATALOGUE, "mine", KnownDataset(info, names))

    settings = tiny_settings(
        generator=str(finished.run), finetune__steps=0,
        sampling__prototype_guidance="nudge", sampling__prototype_scale=1.0, sampling__prototype_until=1.0,
        evaluation__methods=["distilled", "first"], evaluation__networks=["linear"],
    )  # fmt: skip
    made = td.distill(folder, tmp_path / "run", settings)
    plain = settings.model_copy(update={"sampling": settings.sampling.model_copy(update={"prototype_scale": 0.0})})
    alone = td.distill(folder, tmp_path / "alone", plain, evaluate=False)
    assert to_prototypes(made.run) < 0.5 * to_prototypes(alone.run), "led to their prototypes"
    assert [(row["method"], row["network"]) for row in made.scores] == [("distilled", "linear"), ("first", "linear")]
    assert "the first real" in made.report.read_text("utf-8")
    assert "CC-BY-4.0" in (made.run / "distilled" / "README.md").read_text()

    board = (
        "bench",
        "scoreboard",
        "--data",
        str(folder),
        "--out",
        str(tmp_path / "board"),
        "--methods",
        "first,random",
    )
    few = ("--seeds", "1", "--ipc", "1", "--preset", "tiny", *TINY[4:], "--set", "evaluation.networks=linear")
    code, error = terradistill(*board, *few, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0, error
    assert "first: the first real" in (tmp_path / "board" / "scoreboard.md").read_text()


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("sampling__prototype_guidance", "pull", r"'pull': expected push, blend"),
        ("evaluation__methods", ["distilled", "best"], r"'best': expected distilled, random, medoid"),
    ],
)
def test_a_name_that_nobody_knows_is_one_sentence(
    drawn: Path, tmp_path: Path, setting: str, value: object, says: str
) -> None:
    with pytest.raises(td.TerraDistillError, match=says):
        td.distill(drawn, tmp_path / "run", tiny_settings(**{setting: value}))
    assert not (tmp_path / "run").exists()
