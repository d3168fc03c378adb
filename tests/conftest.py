"""What several rooms' tests share: drawn scenes, and one tiny run made from them."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import terradistill as td
from terradistill import cli
from terradistill.data.drawn import draw_scenes
from terradistill.distillation import teacher
from terradistill.settings import EvaluationSettings

TINY = [
    "--preset", "tiny", "--ipc", "2", "--set", "checkpoint_seconds=0",
    "--set", "autoencoder.steps=12", "--set", "diffusion.steps=12", "--set", "evaluation.max_steps=10",
    "--set", "sampling.prototype_scale=0.1",  # by default nothing leads to a prototype
]  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def quick_teachers() -> Iterator[None]:
    """Networks that are trained for their features learn for a fifth as long: three classes are soon told apart."""
    assert EvaluationSettings() == teacher.RECIPE
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher, "RECIPE", EvaluationSettings(min_steps=80, max_steps=80))
        yield


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of twelve drawn scenes, with captions."""
    return draw_scenes(tmp_path_factory.mktemp("drawn") / "scenes", per_class=12, size=32, n_classes=3)


@pytest.fixture(scope="session")
def finished(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> td.Distilled:
    """A whole run of the main job with tiny networks, every stage for real."""
    return td.distill(drawn, tmp_path_factory.mktemp("run") / "run", tiny_settings())


def tiny_settings(**given: object) -> td.Settings:
    overrides = TINY[5::2]
    return td.load_settings(["tiny"], overrides=overrides, **{"ipc": 2, **given})


def terradistill(
    *arguments: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[int, str]:
    """Exit code and error output of the command line, run in this process."""
    monkeypatch.setattr(sys, "argv", ["terradistill", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    code = ended.value.code
    return (code if isinstance(code, int) else 0), capsys.readouterr().err


@pytest.fixture(scope="session")
def adapted(finished: td.Distilled, drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny generator with an adapter for edges and regions, and an encoder of pictures."""
    out = tmp_path_factory.mktemp("adapted") / "run"
    return td.train(drawn, out, adapting(finished), until="adapter")


def adapting(finished: td.Distilled) -> td.Settings:
    return tiny_settings(
        generator=str(finished.run), adapter__maps=["edges", "segmentation"], adapter__content=True,
        adapter__widths=(16, 16), adapter__steps=25, adapter__batch_size=8, adapter__learning_rate=2e-3,
    )  # fmt: skip
