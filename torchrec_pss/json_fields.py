"""Checks of what was read from JSON that anybody may have written: each names the field, its value and what it must be.

A check takes a value and its place, ``history[3].loss`` ("" for all of it), and raises ValueError.
"""

import reprlib
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

Check = Callable[[Any, str], None]  # of any JSON value

_LARGEST = 1e100  # what a plot still has room for


def _refuse(value: Any, place: str, wanted: str) -> NoReturn:
    raise ValueError(f"{place or 'it'} is {reprlib.repr(value)}, not {wanted}")


def count(value: Any, place: str) -> None:
    """A whole number of things."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
        _refuse(value, place, "a whole number from 0 to 2^63")


def number(value: Any, place: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
        _refuse(value, place, f"a number up to {_LARGEST:g}")


def amount(value: Any, place: str) -> None:
    """A number that is not negative."""
    number(value, place)
    if value < 0:
        _refuse(value, place, "a number of at least 0")


def share(value: Any, place: str) -> None:
    number(value, place)
    if not 0 <= value <= 1:
        _refuse(value, place, "a number from 0 to 1")


def text(value: Any, place: str) -> None:
    if not isinstance(value, str):
        _refuse(value, place, "a text")


def truth(value: Any, place: str) -> None:
    if not isinstance(value, bool):
        _refuse(value, place, "true or false")


def mapping(value: Any, place: str) -> None:
    if not isinstance(value, Mapping):
        _refuse(value, place, "an object")


def optional(check: Check) -> Check:
    """That, or null."""
    return lambda value, place: None if value is None else check(value, place)


def each(check: Check) -> Check:
    """A list of those."""

    def checked(value: Any, place: str) -> None:
        if not isinstance(value, list):
            _refuse(value, place, "a list")
        for position, inside in enumerate(value):
            check(inside, f"{place}[{position}]")

    return checked


def values(check: Check) -> Check:
    """An object of those, by any name."""

    def checked(value: Any, place: str) -> None:
        mapping(value, place)
        for name, inside in value.items():
            check(inside, _inside(place, name))

    return checked


def fields(others: Check | None = None, **checks: Check) -> Check:
    """An object with these fields, and perhaps ``others``."""

    def checked(value: Any, place: str) -> None:
        mapping(value, place)
        for name, check in checks.items():
            if name not in value:
                raise ValueError(f"{place or 'it'} lacks {name}")
            check(value[name], _inside(place, name))
        if others:
            for name in value.keys() - checks.keys():
                others(value[name], _inside(place, name))

    return checked


def present(**checks: Check) -> Check:
    """An object of which these fields, where they are there, are so."""

    def checked(value: Any, place: str) -> None:
        mapping(value, place)
        for name, check in checks.items():
            if name in value:
                check(value[name], _inside(place, name))

    return checked


def _inside(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


# What a run records as it goes: at a step, numbers by name.
history = each(fields(others=number, step=count))
