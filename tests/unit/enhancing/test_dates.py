"""Dates of images, from names and metadata."""

from datetime import date

import pytest

from terradistill.data.pictures import Picture
from terradistill.enhancing.dates import date_of, parse_date, required_date, season_of
from terradistill.errors import ConfigError, DataError


def picture(name: str, **metadata: float) -> Picture:
    return Picture(name, lambda: b"", metadata)


@pytest.mark.parametrize(
    ("name", "day"),
    [
        ("east/scene_2021-07-04", date(2021, 7, 4)),
        ("S2A_20210704_T33UUB", date(2021, 7, 4)),
        ("2021-07", date(2021, 7, 15)),
        ("202107", date(2021, 7, 15)),
        ("river_0001", None),
        ("2021/river", None),
        ("tile_123456789", None),
        ("LC08_L1TP_193023_20210704_x", date(2021, 7, 4)),
        ("x_1024_2048_2021-07-04", date(2021, 7, 4)),
        ("a_2021-02-31", None),
        ("crop_2048_10_01", None),
        ("tile_4096_12", None),
    ],
)
def test_a_name_may_say_when(name: str, day: date | None) -> None:
    assert date_of(picture(name)) == day


def test_metadata_goes_before_the_name() -> None:
    assert date_of(picture("a_2021-07-04", year=1999.0, month=2.0, day=3.0)) == date(1999, 2, 3)
    assert date_of(picture("a", year=1999.0, month=2.0)) == date(1999, 2, 15)


def test_what_is_no_date_is_one_sentence() -> None:
    for text in ("july", "2021", "2021-13", "2021-02-30", "2021-07-04-01", ""):
        with pytest.raises(ConfigError, match="is no date"):
            parse_date(text)
    with pytest.raises(DataError, match="Nothing says when"):
        required_date(picture("river"))
    with pytest.raises(DataError, match="of a date"):
        date_of(picture("a", year=2021.0, month=14.0))
    with pytest.raises(DataError, match="expected year"):
        date_of(picture("a", year=1e12, month=4.0))


def test_the_year_runs_from_0_to_12() -> None:
    assert season_of(parse_date("2021-01-01")) == {"month": 0}
    assert season_of(parse_date("2021-07-01")) == {"month": 6}
    assert 11.9 < season_of(parse_date("2021-12-31"))["month"] < 12
