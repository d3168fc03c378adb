"""Frames that are simulated for the frame adapter: in the view of what is drawn, and labelled with what they are."""

import numpy as np
import pytest
import torch

from terradistill.config import load_settings
from terradistill.data.images import to_float
from terradistill.data.sensor import Sensor, in_month
from terradistill.data.views import N_VIEWS, view
from terradistill.errors import DataError
from terradistill.models.autoencoder import build_vae
from terradistill.models.frame_adapter import FrameAdapter
from terradistill.models.generator import build_generator
from terradistill.sections import EnhancerSettings
from terradistill.training.frames import (
    DAYS_A_MONTH,
    MONTHS,
    SEASONAL,
    TURNS,
    BandTable,
    Coarser,
    FrameTable,
    OtherDay,
    OtherSeasons,
    RealDates,
    seasonal_view,
    told_of,
)

SETTINGS = load_settings(["tiny"])
EXACT = Sensor(scale=1, blur=0, gain=0, offset=0, noise=0)
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def reader() -> FrameAdapter:
    made = build_generator(SETTINGS.diffusion, build_vae(SETTINGS.autoencoder, 32, 0), 32, ["a river"], 0)
    return FrameAdapter(made.unet, made.factor, bands=("R", "G", "B"))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_frames_are_in_the_view_of_what_is_drawn(reader: FrameAdapter) -> None:
    table, index = FrameTable(PIXELS, Coarser(EXACT), reader), np.array([3, 0, 4])
    views = torch.tensor([5, 0, 2])
    frames, known, target = table.draw(index, views, rng())
    assert frames.shape == (3, 1, 3, 32, 32)
    for frame, i, number in zip(frames, index, views, strict=True):
        assert torch.equal(frame[0], view(to_float(PIXELS[[i]]), int(number))[0])
    assert known.isnan().all()
    assert target.isnan().all()


def test_an_other_day_looks_like_its_season_and_says_how_far_it_is(reader: FrameAdapter) -> None:
    simulation = OtherDay(EXACT, days=180, shift=0.0, clouds=0.0)
    images = to_float(PIXELS)
    shown = simulation.show(images, torch.tensor([6, 0, 11, 3, 6]), rng(), most=False)
    assert [row["month"] for row in shown.target] == [6.5, 0.5, 11.5, 3.5, 6.5]
    days = [row[0]["days"] for row in shown.known]
    assert max(map(abs, days)) <= 180
    assert min(days) < 0 < max(days)
    right = in_month(images, torch.tensor([7.5, 1.5, 12.5, 4.5, 7.5]) + torch.tensor(days) / DAYS_A_MONTH)
    torch.testing.assert_close(shown.frames[:, 0], right, atol=1e-5, rtol=0)
    assert len(FrameTable(PIXELS, simulation, reader).draw(np.arange(5), torch.zeros(5, dtype=torch.long), rng())) == 3


def test_seasons_are_told_of_frames_and_of_what_is_drawn(reader: FrameAdapter) -> None:
    table = FrameTable(PIXELS, OtherSeasons(EXACT, frames=3, clouds=0.0), reader, seasonal=True)
    views = torch.tensor([0, 3, TURNS, TURNS * 6 + 1, TURNS * 11])
    counts, seen = set(), []
    for seed in range(12):
        frames, known, target = table.draw(np.arange(5), views, rng(seed))
        counts.add(frames.shape[1])
        months = [row["month"] for row in reader.of_target.values(target)]
        assert months == pytest.approx([0.5, 1.5, 1.5, 6.5, 11.5])
        assert known.shape[:2] == frames.shape[:2]
        seen += [row["month"] for rows in known for row in reader.of_frame.values(rows)]
    assert counts == {1, 2, 3}
    assert 0 <= min(seen) < 1
    assert 11 < max(seen) < 12
    assert table.whole(np.arange(5), views)[0].shape[1] == 3
    assert torch.equal(table.whole(np.arange(5), views)[0], table.whole(np.arange(5), views)[0])


def test_frames_are_told_what_is_known_of_their_place_and_half_of_them_of_their_clouds(reader: FrameAdapter) -> None:
    rows = [{"gsd_m": 2.0, "lat": 50.0}, {"cloud_fraction": 0.0}, {"gsd_m": 500.0, "year": 1972}, {}, {"year": 2019.0}]
    simulation = OtherSeasons(EXACT, frames=3, clouds=0.6)
    table, views = FrameTable(PIXELS, simulation, reader, seasonal=True, rows=rows), torch.zeros(5, dtype=torch.long)
    _, known, target = table.whole(np.arange(5), views)
    for i, row in enumerate(rows):
        for told in (reader.of_target.values(target[i : i + 1]), reader.of_frame.values(known[i])):
            for each in told:
                own = {name: value for name, value in each.items() if name not in ("month", "cloud_fraction")}
                assert own == pytest.approx({} if i in (1, 2) else row), "what is out of range is unknown"
    frames = [frame for of_scene in known for frame in reader.of_frame.values(of_scene)]
    assert 0 < sum("cloud_fraction" in frame for frame in frames) < len(frames)
    assert not any("cloud_fraction" in row for row in reader.of_target.values(target)), "what is drawn is clear"
    dark = np.zeros((40, 32, 32, 3), np.uint8)
    shown = simulation.show(to_float(dark), torch.zeros(40).long(), rng(), most=True)
    white = ((shown.frames[:, :, 0] + 1) / 1.9).mean((2, 3))
    for i, row in enumerate(shown.known):
        for j, frame in enumerate(row):
            if "cloud_fraction" in frame:
                assert frame["cloud_fraction"] == pytest.approx(float(white[i, j]), abs=1e-3)
    assert told_of(EnhancerSettings(task="timelapse", told=("month", "cloud_fraction", "gsd_m"))) == (
        ("month", "cloud_fraction", "gsd_m"), ("month", "gsd_m"),
    )  # fmt: skip


def test_a_seasonal_view_is_a_view_in_a_month() -> None:
    images = to_float(PIXELS)
    month = torch.full((5,), 6.5)  # the middle of June
    torch.testing.assert_close(seasonal_view(images, 5 * N_VIEWS + 1), in_month(view(images, 1), month))
    assert not torch.allclose(seasonal_view(images, 5), view(images, 5), atol=1e-2)
    assert len(SEASONAL) == MONTHS * TURNS
    assert {number // N_VIEWS for number in SEASONAL} == set(range(MONTHS))


def test_half_of_the_frames_may_be_cloudy() -> None:
    dark = np.zeros((64, 32, 32, 3), np.uint8)
    shown = OtherSeasons(EXACT, frames=1, clouds=0.5).show(to_float(dark), torch.zeros(64).long(), rng(4), most=True)
    cloudy = (shown.frames > 0).flatten(1).any(1)
    assert 0.3 < float(cloudy.float().mean()) < 0.7


def test_real_dates_are_other_images_of_the_place(reader: FrameAdapter) -> None:
    places, seasons = ["a", "b", "a", "b", "a"], [{"month": 1.5}, {}, {"month": 7.0}, {}, {}]
    table = RealDates(PIXELS, places, seasons, reader, frames=2)
    views = torch.tensor([3, 0])
    frames, known, target = table.whole(np.array([0, 4]), views)
    assert frames.shape == (2, 2, 3, 32, 32)
    for shown, others, number in zip(frames, ([2, 4], [0, 2]), views, strict=True):
        assert torch.equal(shown, view(to_float(PIXELS[others]), int(number)))
    at = [*reader.of_frame.ranges].index("month")
    assert known[0, :, at].isnan().tolist() == [False, True]
    assert target[:, at].isnan().tolist() == [False, True]
    drawn = [table.draw(np.array([0, 4, 2]), torch.zeros(3, dtype=torch.long), rng(seed))[0] for seed in range(8)]
    assert {frames.shape[1] for frames in drawn} == {1, 2}
    mixed = table.whole(np.array([0, 1]), views)[0]
    assert mixed.shape[1] == 1, "of b there is one other"
    with pytest.raises(DataError, match="one image alone, such as c"):
        RealDates(PIXELS, ["a", "b", "a", "b", "c"], seasons, reader, frames=2)


def test_bands_are_shown_as_they_are_in_the_view_of_what_is_drawn(reader: FrameAdapter) -> None:
    planes = np.random.default_rng(0).normal(0, 0.4, (5, 7, 8, 8)).astype(np.float32)
    views, index = torch.tensor([0, 5, 3]), np.array([3, 0, 4])
    table = BandTable(planes, reader, noise=0.1)
    frames, known, target = table.whole(index, views)
    assert frames.shape == (3, 1, 7, 8, 8)
    for shown, i, number in zip(frames[:, 0], index, views, strict=True):
        assert torch.equal(shown, view(torch.from_numpy(planes[i])[None], int(number))[0])
    assert known.isnan().all()
    assert target.isnan().all()
    again = [table.draw(index, views, rng(seed))[0] for seed in (0, 0, 1)]
    assert torch.equal(again[0], again[1])
    assert not torch.equal(again[0], again[2])
    assert float((again[0] - frames).std()) == pytest.approx(0.1, rel=0.1)
    quiet = BandTable(planes, reader)
    assert torch.equal(quiet.draw(index, views, rng())[0], frames)
