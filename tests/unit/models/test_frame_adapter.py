"""Frames beside the prompt: nothing changes until something was learned; any number of them by one adapter."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from terradistill.config import load_settings
from terradistill.errors import GeneratorError
from terradistill.models.autoencoder import build_vae
from terradistill.models.frame_adapter import FrameAdapter
from terradistill.models.generator import Generator, build_generator, denoise
from tests.unit.conftest import awake

SETTINGS = load_settings(["tiny"])
SIDE = 32
BANDS = ("B4", "B3", "B2", "B8")
NAN = float("nan")


@pytest.fixture(params=[True, False], ids=["whole", "without middle"])
def generator(request: pytest.FixtureRequest) -> Generator:
    """A denoiser that says something, with a fresh adapter for frames at half its resolution."""
    made = build_generator(SETTINGS.diffusion, build_vae(SETTINGS.autoencoder, SIDE, 0), SIDE, ["a river"], 0)
    awake(made.unet)
    made.frame_adapter = FrameAdapter(made.unet, made.factor, bands=BANDS, scale=2, middle=request.param)
    return made.frozen()


def frames(n: int, t: int, side: int = SIDE // 2) -> Tensor:
    return torch.randn(n, t, len(BANDS), side, side, generator=torch.Generator().manual_seed(3))


def predict(
    generator: Generator,
    seen: Tensor | None = None,
    known: list[list[dict[str, float]]] | None = None,
    target: dict[str, float] | None = None,
    strength: Tensor | None = None,
) -> Tensor:
    n = 2 if seen is None else len(seen)
    side = SIDE // generator.factor if seen is None else seen.shape[-1] * 2 // generator.factor
    z = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(0)).expand(n, -1, -1, -1)
    text = generator.embed(["a river"]).expand(n, -1, -1)
    with torch.no_grad():
        control = None
        if seen is not None:
            adapter = generator.frame_adapter
            assert adapter is not None
            rows = known or [[{}] * seen.shape[1]] * n
            control = adapter.control(
                seen,
                torch.stack([adapter.of_frame.table(each) for each in rows]),
                adapter.of_target.table([target or {}] * n),
                strength,
            )
        return denoise(generator, z, torch.tensor(400), text, control=control)


@pytest.mark.parametrize("t", [1, 2, 3])
def test_a_fresh_adapter_changes_nothing_at_all(generator: Generator, t: int) -> None:
    assert torch.equal(predict(generator, frames(2, t)), predict(generator))


def test_one_adapter_reads_one_to_three_frames_and_each_matters(generator: Generator) -> None:
    awake(generator.frame_adapter)
    said = [predict(generator, frames(2, 3)[:, :t]) for t in (1, 2, 3)]
    assert all(each.isfinite().all() for each in said)
    assert not torch.allclose(said[0], said[1])
    assert not torch.allclose(said[1], said[2])
    assert predict(generator, frames(2, 2, side=24)).shape[-1] == 48 // generator.factor, "any size"


def test_strength_zero_is_the_prompt_alone(generator: Generator) -> None:
    awake(generator.frame_adapter)
    plain = predict(generator)
    assert torch.equal(predict(generator, frames(2, 2), strength=torch.zeros(2)), plain)
    mixed = predict(generator, frames(2, 2), strength=torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(mixed[0], plain[0])
    assert not torch.allclose(mixed[1], plain[1])


def test_without_mixing_frames_are_added_up_one_by_one(generator: Generator) -> None:
    adapter = generator.frame_adapter
    assert adapter is not None
    awake(adapter)
    with torch.no_grad():
        adapter.mixing.zero_()
    before = predict(generator, frames(2, 3))
    awake(adapter.temporal)
    assert torch.equal(predict(generator, frames(2, 3)), before), "α = 0: attention between frames says nothing"
    with torch.no_grad():
        adapter.mixing.fill_(-3.0)
    assert torch.equal(predict(generator, frames(2, 3)), before), "α is kept in 0 … 1"
    with torch.no_grad():
        adapter.mixing.fill_(0.5)
    assert not torch.allclose(predict(generator, frames(2, 3)), before)
    with torch.no_grad():
        adapter.mixing.fill_(-0.01)
    adapter.requires_grad_(True)
    z, time = torch.randn(2, 4, 16, 16), torch.randn(2, adapter.of_frame.width)
    read = adapter.control(frames(2, 3), torch.full((2, 3, 8), NAN), torch.full((2, 7), NAN))
    side = read.features[0].shape[-1]
    skips, _ = adapter(z[:, :, :side, :side], time, generator.embed(["a"]).expand(2, -1, -1), read)
    sum(skip.sum() for skip in skips).backward()  # type: ignore[union-attr]
    assert adapter.mixing.grad is not None
    assert adapter.mixing.grad.abs().min() > 0, "α below 0 still learns"


def test_the_dates_of_frames_and_of_what_is_drawn_matter(generator: Generator) -> None:
    awake(generator.frame_adapter)
    seen, june, winter = frames(2, 2), {"month": 6.0}, {"month": 12.0}
    said = [
        predict(generator, seen, [[june, winter]] * 2, june),
        predict(generator, seen, [[winter, june]] * 2, june),
        predict(generator, seen, [[june, winter]] * 2, winter),
        predict(generator, seen, [[{"days": -30.0}, {"days": 60.0}]] * 2, winter),
        predict(generator, seen),
    ]
    for i, one in enumerate(said):
        assert not any(torch.allclose(one, other) for other in said[:i])


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_frames_of_any_ratio_meet_the_latent(scale: int) -> None:
    made = build_generator(SETTINGS.diffusion, build_vae(SETTINGS.autoencoder, SIDE, 0), SIDE, ["a river"], 0)
    if scale > made.factor:
        with pytest.raises(GeneratorError, match="cannot be read"):
            FrameAdapter(made.unet, made.factor, bands=BANDS, scale=scale)
        return
    adapter = FrameAdapter(made.unet, made.factor, bands=BANDS, scale=scale)
    read = adapter.control(frames(1, 2, SIDE // scale), torch.full((1, 2, 8), NAN), torch.full((1, 7), NAN)).features[0]
    assert read.shape[-2:] == (SIDE // made.factor, SIDE // made.factor)


def test_it_is_saved_beside_the_generator(generator: Generator, tmp_path: Path) -> None:
    adapter = generator.frame_adapter
    assert adapter is not None
    awake(adapter)
    adapter.about["task"] = "x"
    adapter.config["about"] = adapter.about
    generator.save(tmp_path / "g")
    again = Generator.load(tmp_path / "g").frozen()
    assert again.frame_adapter is not None
    assert (again.frame_adapter.bands, again.frame_adapter.scale) == (BANDS, 2)
    assert again.frame_adapter.about == {"task": "x"}
    torch.testing.assert_close(predict(again, frames(2, 3)), predict(generator, frames(2, 3)))
    (tmp_path / "g" / "frame_adapter" / "model.safetensors").write_bytes(b"")
    with pytest.raises(GeneratorError, match="frame adapter"):
        Generator.load(tmp_path / "g")


def test_it_has_networks_for_what_it_is_told_alone(tmp_path: Path) -> None:
    made = build_generator(SETTINGS.diffusion, build_vae(SETTINGS.autoencoder, SIDE, 0), SIDE, ["a river"], 0)
    awake(made.unet)
    made.frame_adapter = adapter = FrameAdapter(made.unet, made.factor, bands=BANDS, scale=2, told=(("days",), ()))
    awake(adapter)
    made.frozen()
    assert [list(part.networks) for part in (adapter.of_frame, adapter.of_target)] == [["days"], []]
    seen = frames(2, 2)
    near, far = ([[{"days": day}, {"days": 60.0}]] * 2 for day in (-30.0, 9.0))
    said = predict(made, seen, near)
    assert not torch.allclose(said, predict(made, seen, far))
    made.save(tmp_path / "g")
    torch.testing.assert_close(predict(Generator.load(tmp_path / "g"), seen, near), said)


def test_one_that_sharpens_fits_a_package() -> None:
    large = Generator.load("base-128")
    adapter = FrameAdapter(large.unet, large.factor, bands="RGB", scale=4, middle=False, temporal=False, told=((), ()))
    assert sum(each.numel() for each in adapter.parameters()) * 2 <= 15e6, "bytes in float16"
