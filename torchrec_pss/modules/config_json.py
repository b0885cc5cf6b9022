"""`PSSConfig` as JSON: what is written of each kind of value, and read back strictly."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from torchrec_pss.modules.id_counts import IdCounts
from torchrec_pss.ranges import shown

_COUNTS = ("ids", "counts", "total")


def as_plain(value: object) -> object:
    """A field's value as what JSON has: arrays are lists, counts objects."""
    if isinstance(value, Mapping):
        return {name: as_plain(inside) for name, inside in value.items()}
    if isinstance(value, IdCounts):
        return {name: as_plain(getattr(value, name)) for name in _COUNTS}
    if isinstance(value, np.ndarray):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


def from_plain(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with their counts as `IdCounts`. What else they are the constructor checks.

    Raises:
        ValueError: counts that are none; names the table.
    """
    counts = fields.get("counts")
    if counts is None:
        return fields
    if not isinstance(counts, dict):
        raise ValueError(f"counts must be given by table name, got {shown(counts)}")
    return fields | {"counts": {table: _id_counts(table, known) for table, known in counts.items()}}


def _id_counts(table: str, known: object) -> IdCounts:
    if not isinstance(known, dict) or set(known) != set(_COUNTS):
        raise ValueError(f"counts of table {table!r} must have {', '.join(_COUNTS)}, got {shown(known)}")
    try:
        return IdCounts(**known)
    except ValueError as error:
        raise ValueError(f"counts of table {table!r}: {error}") from error


def written(fields: dict[str, Any]) -> str:
    return json.dumps(fields, separators=(",", ":"), allow_nan=False)


def parsed(text: str | bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: something else, or a name that comes twice.
    """

    def once(pairs: list[tuple[str, object]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"{shown(twice)} comes twice")
        return found

    try:
        fields = json.loads(text, object_pairs_hook=once)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"the config is no JSON: {error}, got {shown(text)}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"the config's JSON must be an object, got {shown(text)}")
    return fields
