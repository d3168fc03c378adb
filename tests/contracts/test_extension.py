"""What CONTRIBUTING says: a dataset, a network, a guidance or a coreset is one entry in one file."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor, nn

import terradistill as td
from terradistill.data.catalogue import CATALOGUE, KnownDataset
from terradistill.data.scenes import DatasetInfo
from terradistill.distillation.coresets import CORESETS, Coreset
from terradistill.models.downstream import BUILDERS
from terradistill.models.parameterisation import Parameterisation
from terradistill.sampling.guidance import PROTOTYPE_GUIDANCES
from terradistill.sampling.sampler import Guidance, Predict, Step
from tests.conftest import tiny_settings


def first_subset(_f: NDArray[np.float32], labels: NDArray[np.int64], ipc: int, _seed: int) -> NDArray[np.int64]:
    """The first images of each class."""
    return np.concatenate([np.flatnonzero(labels == label)[:ipc] for label in np.unique(labels)])


def linear(n_classes: int, resolution: int) -> nn.Module:
    """No hidden layer at all."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * resolution**2, n_classes))


def test_one_entry_each_is_all_that_is_needed(
    finished: td.Distilled, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []

    def watched(prototypes: Tensor, _schedule: Parameterisation, scale: float, _until: float) -> Guidance:
        def guide(predict: Predict) -> Predict:
            def guided(step: Step) -> tuple[Tensor, Tensor]:
                assert len(prototypes[step.rows]) == len(step.z)
                steps.append(step.index)
                return predict(step)

            return guided if scale else predict

        return guide

    monkeypatch.setitem(CORESETS, "first", Coreset(first_subset, "the first real", taught=False))
    monkeypatch.setitem(BUILDERS, "linear", linear)
    monkeypatch.setitem(PROTOTYPE_GUIDANCES, "watched", watched)
    folder = tmp_path / "downloaded"
    shutil.copytree(drawn, folder)
    (folder / "dataset.json").unlink()
    names = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir()))
    info = DatasetInfo(name="mine", title="My scenes", licence="CC-BY-4.0", citation="Me, 2026.")
    monkeypatch.setitem(CATALOGUE, "mine", KnownDataset(info, names))

    settings = tiny_settings(
        generator=str(finished.run), finetune__steps=0, sampling__prototype_guidance="watched",
        evaluation__methods=["distilled", "first"], evaluation__networks=["linear"],
    )  # fmt: skip
    made = td.distill(folder, tmp_path / "run", settings)
    assert set(steps) == set(range(settings.sampling.steps))
    assert [(row["method"], row["network"]) for row in made.scores] == [("distilled", "linear"), ("first", "linear")]
    assert "the first real" in made.report.read_text("utf-8")
    assert "CC-BY-4.0" in (made.run / "distilled" / "README.md").read_text()


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
