import math
from pathlib import Path

import pytest
import torch

from terradistill.config import load_settings
from terradistill.errors import DataError, GeneratorError
from terradistill.models.autoencoder import build_vae
from terradistill.models.generator import Generator, build_generator, denoise
from terradistill.models.metadata_encoder import MetadataEncoder
from tests.unit.conftest import awake

KNOWN = {"lon": 6.1, "lat": -46.5, "gsd_m": 0.3, "cloud_fraction": 0.25, "year": 2017.0, "month": 7.0, "day": 14.0}


def trained(width: int = 16) -> MetadataEncoder:
    encoder = MetadataEncoder(width)
    torch.manual_seed(0)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return encoder


def test_values_round_trip_and_the_unknown_stays_unknown() -> None:
    encoder = MetadataEncoder(16)
    rows = [KNOWN, {}, {"gsd_m": 10.0, "lon": -180.0}]
    table = encoder.table(rows)
    assert table.shape == (3, 7)
    assert table[2].nan_to_num(-1).tolist() == [0.0, -1, 1000.0, -1, -1, -1, -1]
    for row, again in zip(rows, encoder.values(table), strict=True):
        assert again == pytest.approx(row, abs=1e-3)


@pytest.mark.parametrize(("gsd_max_m", "gsd"), [(10.0, 0.03), (1.0, 0.3)], ids=["paper", "release"])
def test_each_field_is_normalised_as_in_diffusionsat(gsd_max_m: float, gsd: float) -> None:
    lon, lat, cloud, year, month, day = 186.1 / 360, 43.5 / 180, 0.25, 37 / 120, 7 / 12, 14 / 31
    expected = torch.tensor([[1000 * value for value in (lon, lat, gsd, cloud, year, month, day)]])
    torch.testing.assert_close(MetadataEncoder(16, gsd_max_m).table([KNOWN]), expected)


@pytest.mark.parametrize(("field", "value"), [("lat", 91.0), ("month", math.nan), ("gsd_m", 30.0), ("year", 1900.0)])
def test_a_value_out_of_range_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(DataError, match=f"metadata field {field} is"):
        MetadataEncoder(16).table([KNOWN | {field: value}])


def test_unknown_contributes_exactly_nothing_and_is_not_the_lowest_value() -> None:
    encoder = trained()
    nothing, lowest, both, date = encoder(
        encoder.table([{}, {"lon": -180.0}, {"lon": -180.0, "day": 3.0}, {"day": 3.0}])
    )
    assert torch.equal(nothing, torch.zeros(16))
    assert not torch.equal(lowest, nothing)
    torch.testing.assert_close(both, lowest + date)


def test_two_dates_are_two_vectors() -> None:
    encoder = trained()
    one, other = encoder(encoder.table([KNOWN, KNOWN | {"month": 8.0}]))
    assert not torch.allclose(one, other)


def test_a_generator_folder_keeps_it_and_stock_pipelines_run_without(tmp_path: Path) -> None:
    from diffusers import DiffusionPipeline

    tiny = load_settings(["tiny"], overrides=["diffusion.metadata=true"])
    built = build_generator(tiny.diffusion, build_vae(tiny.autoencoder, 32, 0), 32, ["a field"], 0).frozen()
    assert built.metadata_encoder is not None
    built.metadata_encoder = trained(built.metadata_encoder.width)
    awake(built.unet)
    built.save(tmp_path)
    loaded = Generator.load(tmp_path).frozen()
    assert loaded.metadata_encoder is not None

    z, text, t = torch.randn(2, *loaded.latent_shape), loaded.embed(["a field", ""]), torch.tensor(500)
    plain = loaded.unet(z, t, text).sample
    table = loaded.metadata_encoder.table([{}, KNOWN])
    told = denoise(loaded, z, t, text, table)
    assert torch.equal(told[0], plain[0])
    assert not torch.allclose(told[1], plain[1])
    torch.testing.assert_close(denoise(built, z, t, text, table), told)
    assert torch.equal(loaded.unet(z, t, text).sample, plain)  # nothing is left behind

    stock = DiffusionPipeline.from_pretrained(tmp_path, safety_checker=None)
    stock.set_progress_bar_config(disable=True)
    assert stock("a field", num_inference_steps=2, output_type="np").images.shape == (1, 32, 32, 3)

    (tmp_path / "metadata_encoder" / "config.json").write_text("{}")
    with pytest.raises(GeneratorError, match="metadata encoder"):
        Generator.load(tmp_path)
