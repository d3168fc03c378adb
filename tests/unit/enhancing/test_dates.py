"""Dates of images, from names and metadata."""

from datetime import date

import pytest

from terradistill.data.pictures import Picture
from terradistill.enhancing.dates import date_of, numbers_of, parse_date, required_date
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
    ],
)
def test_a_name_may_say_when(name: str, day: date | None) -> None:
    assert date_of(picture(name)) == day


def test_metadata_goes_before_the_name() -> None:
    assert date_of(picture("a_2021-07-04", year=1999.0, month=2.0, day=3.0)) == date(1999, 2, 3)
    assert date_of(picture("a", year=1999.0, month=2.0)) == date(1999, 2, 15)


def test_what_is_no_date_is_one_sentence() -> None:
    for text in ("july", "2021", "2021-13", "2021-02-30", ""):
        with pytest.raises(ConfigError, match="is no date"):
            parse_date(text)
    with pytest.raises(DataError, match="Nothing says when"):
        required_date(picture("river"))
    with pytest.raises(DataError, match="expected a date"):
        date_of(picture("a_2021-02-31"))


def test_numbers_of_a_date() -> None:
    assert numbers_of(parse_date("2021-07")) == {"year": 2021, "month": 7, "day": 15}
