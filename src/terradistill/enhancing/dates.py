"""Dates of images: as metadata, or in the names of files."""

import re
from collections.abc import Mapping
from datetime import date

from terradistill.data.pictures import Picture
from terradistill.errors import ConfigError, DataError
from terradistill.training.frames import season

FIRST, LAST = 1960, 2040  # what reads like a year before anybody looked from above, or far ahead, is none: tile_2048
_DATE = re.compile(r"(\d{4})-(\d{1,2})(?:-(\d{1,2}))?")
_IN_NAME = re.compile(r"(?<!\d)(\d{4})[-_]?(\d{2})(?:[-_]?(\d{2}))?(?!\d)")


def parse_date(text: str) -> date:
    """``2021-07-04``, or ``2021-07`` for the middle of the month.

    Raises:
        ConfigError: it is no date.
    """
    found = _DATE.fullmatch(text.strip())
    day = _valid(found) if found else None
    if day is None:
        raise ConfigError(f"{text!r} is no date: expected one such as 2021-07-04 or 2021-07.")
    return day


def date_of(picture: Picture) -> date | None:
    """When an image was taken, as far as its metadata or its name says; of several dates in a name, the first."""
    known = picture.metadata
    if "year" in known and "month" in known:
        try:
            return date(int(known["year"]), int(known["month"]), int(known.get("day", 15)))
        except (ValueError, OverflowError) as error:
            raise DataError(f"{picture.name}: {error}: expected year, month and day of a date.") from error
    name = picture.name.rsplit("/", 1)[-1]
    return next((day for found in _IN_NAME.finditer(name) if (day := _valid(found)) is not None), None)


def required_date(picture: Picture) -> date:
    """As `date_of`, where one is needed.

    Raises:
        DataError: nothing says when.
    """
    found = date_of(picture)
    if found is None:
        raise DataError(
            f"Nothing says when {picture.name} was taken: put the date in its name, such as {picture.name}_2021-07-04, "
            "or year, month and day in metadata.jsonl."
        )
    return found


def season_of(day: date) -> Mapping[str, float]:
    """A date as enhancers are told it."""
    return season(day.month, day.day)


def _valid(found: re.Match[str]) -> date | None:
    try:
        day = date(int(found[1]), int(found[2]), int(found[3] or 15))
    except ValueError:
        return None
    return day if FIRST <= day.year <= LAST else None  # crop_2048_12 is none
