"""Maps beside the prompt: nothing changes until something was learned, and never where the strength is zero."""

from hashlib import sha256
from itertools import chain, combinations
from pathlib import Path

import pytest
import torch

from terradistill.config import load_settings
from terradistill.errors import GeneratorError
from terradistill.models.autoencoder import build_vae
from terradistill.models.control_nets import ControlNets
from terradistill.models.generator import Generator, build_generator, denoise
from terradistill.models.map_adapter import MapAdapter, _Modulation
from terradistill.settings import MAPS
from tests.unit.conftest import awake

SETTINGS = load_settings(["tiny"])
SIDE = 32


@pytest.fixture(params=["modulation", "controlnet"])
def generator(request: pytest.FixtureRequest) -> Generator:
    """A denoiser that says something, with a fresh adapter."""
    vae = build_vae(SETTINGS.autoencoder, SIDE, 0)
    made = build_generator(SETTINGS.diffusion, vae, SIDE, ["a river"], 0)
    awake(made.unet)
    made.map_adapter = (
        MapAdapter(made.unet, made.factor, (16, 16))
        if request.param == "modulation"
        else ControlNets(made.unet, made.factor, MAPS)
    )
    return made.frozen()


def some_maps(n: int, side: int = SIDE) -> torch.Tensor:
    rng = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (n, 18, side, side), generator=rng, dtype=torch.uint8)


def predict(
    generator: Generator, maps: torch.Tensor | None, strengths: torch.Tensor | None, side: int = SIDE
) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    n = 2 if maps is None else len(maps)
    z = torch.randn(1, 4, side // generator.factor, side // generator.factor, generator=rng).expand(n, -1, -1, -1)
    text = generator.embed(["a river"]).expand(n, -1, -1)
    with torch.no_grad():
        control = None
        if maps is not None and strengths is not None and generator.map_adapter is not None:
            control = generator.map_adapter.control(maps, strengths)
        return denoise(generator, z, torch.tensor(400), text, control=control)


def test_a_fresh_adapter_changes_nothing_at_all(generator: Generator) -> None:
    plain = predict(generator, None, None)
    assert torch.equal(predict(generator, some_maps(2), torch.ones(2, 6)), plain)


def test_strength_zero_is_the_prompt_alone_and_more_is_more(generator: Generator) -> None:
    awake(generator.map_adapter)
    plain, maps = predict(generator, None, None), some_maps(2)
    assert torch.equal(predict(generator, maps, torch.zeros(2, 6)), plain)
    half, whole = (predict(generator, maps, torch.full((2, 6), s)) for s in (0.5, 1.0))
    assert 0 < (half - plain).norm() < (whole - plain).norm()
    mixed = predict(generator, maps, torch.tensor([[0.0] * 6, [1.0] * 6]))
    torch.testing.assert_close(mixed[0], plain[0])
    torch.testing.assert_close(mixed[1], whole[1])


def test_any_subset_of_the_maps_runs_and_matters_by_name(generator: Generator) -> None:
    awake(generator.map_adapter)
    subsets = list(chain.from_iterable(combinations(range(6), k) for k in range(7)))
    assert len(subsets) == 64
    strengths = torch.zeros(64, 6)
    for row, subset in enumerate(subsets):
        strengths[row, list(subset)] = 1
    said = predict(generator, some_maps(1).expand(64, -1, -1, -1), strengths)
    assert said.isfinite().all()
    assert len({sha256(row.numpy().tobytes()).hexdigest() for row in said}) == 64
    # A map that is not given does not matter, whatever lies in its planes.
    maps = some_maps(1).repeat(2, 1, 1, 1)
    maps[1, :3] = 0
    without = torch.ones(2, 6)
    without[:, MAPS.index("lines")] = 0
    first, second = predict(generator, maps, without)
    torch.testing.assert_close(first, second)


def test_an_empty_map_is_not_the_same_as_none(generator: Generator) -> None:
    awake(generator.map_adapter)
    strengths = torch.ones(2, 6)
    strengths[1, MAPS.index("road")] = 0
    maps = some_maps(1).repeat(2, 1, 1, 1)
    maps[:, 3 * MAPS.index("road") : 3 * MAPS.index("road") + 3] = 0
    empty, none = predict(generator, maps, strengths)
    assert not torch.allclose(empty, none)


def test_what_a_map_shows_matters(generator: Generator) -> None:
    awake(generator.map_adapter)
    maps, strengths = some_maps(1).repeat(2, 1, 1, 1), torch.zeros(2, 6)
    edges, strengths[:, MAPS.index("edges")] = 3 * MAPS.index("edges"), 1
    maps[1, edges : edges + 3] = maps[1, edges : edges + 3].flip(2)
    one, other = predict(generator, maps, strengths)
    assert not torch.allclose(one, other, atol=1e-4)


def test_of_two_maps_one_may_count_less(generator: Generator) -> None:
    awake(generator.map_adapter)
    strengths = torch.zeros(2, 6)
    strengths[:, MAPS.index("edges")] = 1
    strengths[:, MAPS.index("segmentation")] = torch.tensor([1, 0.3])
    alike, less = predict(generator, some_maps(1).repeat(2, 1, 1, 1), strengths)
    assert not torch.allclose(alike, less, atol=1e-4)


def test_features_denormalise_by_hand() -> None:
    torch.manual_seed(0)
    layer = _Modulation(16, 3).double()
    x, f = 2 + 3 * torch.randn(2, 16, 5, 5, dtype=torch.float64), torch.randn(2, 3, 5, 5, dtype=torch.float64)
    kernel, bias = torch.randn(32, 3, 3, 3, dtype=torch.float64), torch.randn(32, dtype=torch.float64)
    layer.load_state_dict({"shift.weight": kernel, "shift.bias": bias})
    groups = x.view(2, 2, 8 * 5 * 5)  # of eight channels
    mean, variance = groups.mean(2, keepdim=True), groups.var(2, correction=0, keepdim=True)
    normal = ((groups - mean) / (variance + 1e-5).sqrt()).view_as(x)
    both = torch.nn.functional.conv2d(f, kernel, bias, padding=1)
    gamma, beta = both[:, :16], both[:, 16:]
    torch.testing.assert_close(layer(x, f), normal * (1 + gamma) + beta)


@pytest.mark.parametrize("side", [34, 36, 42])
def test_sizes_that_halve_unevenly_work(generator: Generator, side: int) -> None:
    awake(generator.map_adapter)
    said = predict(generator, some_maps(2, side), torch.ones(2, 6), side)
    assert said.shape == (2, 4, side // generator.factor, side // generator.factor)


def test_it_is_saved_beside_the_generator_and_stock_diffusers_passes_it_over(
    generator: Generator, tmp_path: Path
) -> None:
    from diffusers import DiffusionPipeline

    awake(generator.map_adapter)
    generator.save(tmp_path / "g")
    again, maps = Generator.load(tmp_path / "g").frozen(), some_maps(2)
    torch.testing.assert_close(predict(again, maps, torch.ones(2, 6)), predict(generator, maps, torch.ones(2, 6)))
    DiffusionPipeline.from_pretrained(tmp_path / "g", local_files_only=True)
    (tmp_path / "g" / "map_adapter" / "config.json").write_text('{"factor": 4, "widths": [24, 24]}')
    with pytest.raises(GeneratorError, match="map adapter"):
        Generator.load(tmp_path / "g")


def test_features_are_read_once_and_given_by_row(generator: Generator) -> None:
    awake(generator.map_adapter)
    assert generator.map_adapter is not None
    control = generator.map_adapter.control(some_maps(2), torch.ones(2, 6))
    picked = control.rows(torch.tensor([1, 1, 0]))
    assert torch.equal(picked.features[0][2], control.features[0][0])
    both = control.doubled(free=False)
    assert not both.strength[:2].any()
    assert (both.strength[2:] == 1).all()
    assert (control.doubled(free=True).strength == 1).all()


def test_controlnets_add_up_as_those_of_diffusers(generator: Generator) -> None:
    from diffusers import MultiControlNetModel

    generator.map_adapter = ControlNets(generator.unet, generator.factor, ("edges", "road"))
    awake(generator.map_adapter)
    for net in generator.map_adapter.nets:  # theirs have time embeddings of their own
        net.time_embedding, net.add_embedding = generator.unet.time_embedding, generator.unet.add_embedding
    maps, strengths = some_maps(2), torch.rand(2, 6, generator=torch.Generator().manual_seed(5))
    side = SIDE // generator.factor
    z = torch.randn(2, 4, side, side, generator=torch.Generator().manual_seed(0))
    text, t = generator.embed(["a river"]).expand(2, -1, -1), torch.tensor([400, 400])
    places = [MAPS.index(name) for name in ("edges", "road")]
    with torch.no_grad():
        skips, middle = MultiControlNetModel(list(generator.map_adapter.nets))(
            z,
            t,
            text,
            [maps[:, 3 * k : 3 * k + 3].float() / 255 for k in places],
            [strengths[:, k].view(-1, 1, 1, 1) for k in places],
            return_dict=False,
        )
        theirs = generator.unet(
            z, t, text, down_block_additional_residuals=skips, mid_block_additional_residual=middle
        ).sample
        ours = denoise(generator, z, t, text, control=generator.map_adapter.control(maps, strengths))
        plain = denoise(generator, z, t, text)
    torch.testing.assert_close(ours, theirs)
    assert not torch.equal(ours, plain)
