"""Dates of images: as metadata, or in the names of files."""

import re
from collections.abc import Mapping
from datetime import date

from terradistill.data.pictures import Picture
from terradistill.errors import ConfigError, DataError

_IN_NAME = re.compile(r"(?<!\d)(\d{4})[-_]?(\d{2})(?:[-_]?(\d{2}))?(?!\d)")


def parse_date(text: str) -> date:
    """``2021-07-04``, or ``2021-07`` for the middle of the month.

    Raises:
        ConfigError: it is no date.
    """
    year, month, *day = (*text.split("-"), "15")
    try:
        return date(int(year), int(month), int(day[0]))
    except (ValueError, IndexError) as error:
        raise ConfigError(f"{text!r} is no date: expected one such as 2021-07-04 or 2021-07.") from error


def date_of(picture: Picture) -> date | None:
    """When an image was taken, as far as its metadata or its name says."""
    known = picture.metadata
    try:
        if "year" in known and "month" in known:
            return date(int(known["year"]), int(known["month"]), int(known.get("day", 15)))
        if found := _IN_NAME.search(picture.name.rsplit("/", 1)[-1]):
            return date(int(found[1]), int(found[2]), int(found[3] or 15))
    except ValueError as error:
        raise DataError(f"{picture.name}: {error}: expected a date such as 2021-07-04.") from error
    return None


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


def numbers_of(day: date) -> Mapping[str, float]:
    """A date as metadata."""
    return {"year": float(day.year), "month": float(day.month), "day": float(day.day)}
