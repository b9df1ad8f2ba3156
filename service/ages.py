"""The option `--older-than`, an age such as 30d."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import click

HOUR = 3600
DAY = 24 * HOUR
UNITS = {"h": HOUR, "d": DAY, "w": 7 * DAY, "y": 365 * DAY}
CENTURY = 100 * UNITS["y"]


class Age(NamedTuple):
    """An age as it was written, and in seconds."""

    text: str
    seconds: int


def older_than(least: str, help: str, **attributes: Any) -> Callable[[Any], Any]:
    """The option, as the parameter `age`: from `least` to a hundred years."""
    return click.option(
        "--older-than",
        "age",
        metavar="AGE",
        callback=lambda _, __, text: parse(text, least),
        help=f"{help} Hours, days, weeks or years of 365 days, such as 12h, 30d, 4w, 1y; {least} at the least.",
        **attributes,
    )


def parse(text: str, least: str) -> Age:
    """Read an age. Raises `BadParameter` for what is none, or out of reason."""
    age = _seconds(text)
    shortest = _seconds(least)
    if age is None or shortest is None:
        raise click.BadParameter(f"{text!r} is no age such as 12h, 30d, 4w or 1y")
    if age < shortest:
        raise click.BadParameter(f"{text} is too short: {least} at the least")
    if age > CENTURY:
        raise click.BadParameter(f"{text} is more than a hundred years")
    return Age(text, age)


def _seconds(text: str) -> int | None:
    match = re.fullmatch(r"([0-9]{1,9})([hdwy])", text)
    return int(match[1]) * UNITS[match[2]] if match else None
