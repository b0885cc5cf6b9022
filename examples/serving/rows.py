"""What a request says, and the arrays that it becomes for a model."""

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from model_file import Model
from pydantic import BaseModel, ConfigDict, FailFast, Field, PlainValidator, WithJsonSchema

from torchrec_pss.datasets.criteo_lines import token_ids

MOST_ROWS = 4096
MOST_FEATURES = 1000
MOST_IDS = 1000  # of a feature of a row
_LONGEST = 1024  # characters of a token
_INT64 = range(-(1 << 63), 1 << 63)


def _ids(given: object) -> list[int | str]:
    """Ids and tokens; one may come without a list. The first that is none is named, and the others are not looked at."""
    several = given if isinstance(given, list) else [given]
    if len(several) > MOST_IDS:
        raise ValueError(f"has {len(several)} ids, and at most {MOST_IDS} are read")
    for place, one in enumerate(several):
        if (isinstance(one, str) and len(one) <= _LONGEST) or (type(one) is int and one in _INT64):
            continue
        kind = (
            "a token has at most 1024 characters"
            if isinstance(one, str)
            else "an id is a whole number of 64 bits, or a token as text"
        )
        raise ValueError(f"{kind}, got {repr(one)[:40]} at {place}")
    return several


def _dense(given: object) -> list[float | None] | dict[str, float | None]:
    """Numbers or null, in a list or by name; the first that is none is named."""
    if not isinstance(given, list | dict):
        raise ValueError(f"dense values are a list, or by name, got {repr(given)[:40]}")
    if len(given) > MOST_FEATURES:
        raise ValueError(f"has {len(given)} values, and at most {MOST_FEATURES} are read")
    for place, one in given.items() if isinstance(given, dict) else enumerate(given):
        if one is not None and (type(one) not in (int, float) or not math.isfinite(one)):
            raise ValueError(f"a dense value is a finite number or null, got {repr(one)[:40]} at {str(place)[:40]}")
    return given


Dense = Annotated[
    list[float | None] | dict[str, float | None],
    PlainValidator(_dense),
    WithJsonSchema({"anyOf": [{"type": "array"}, {"type": "object"}]}),
]
Ids = Annotated[
    list[int | str],
    PlainValidator(_ids),
    WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string"}, {"type": "array"}]}),
]


class Row(BaseModel):
    """One to be scored. Dense values are a list, or by name; one that is missing is null, or left out. A feature that is left out is as an empty
    field of the training data."""

    model_config = ConfigDict(extra="forbid")
    dense: Dense = []
    features: Annotated[dict[str, Ids], Field(max_length=MOST_FEATURES)]


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid")
    rows: Annotated[list[Row], FailFast(), Field(min_length=1, max_length=MOST_ROWS)]


class BadRowError(ValueError):
    """A row that the model cannot score; names the row, the field and the value."""


@dataclass
class Arrays:
    """Dense fp32 ``[n, d]``; ids by feature, each int64; lengths int64 ``[F, n]``."""

    dense: np.ndarray
    ids: list[np.ndarray]
    lengths: np.ndarray


def arrays_of(rows: list[Row], model: Model) -> Arrays:
    """
    Raises:
        BadRowError: another number of dense values than the model's, or one that it does not have, a feature that it does not have, text for one that
            was numbers or the other way round, or an id without a row.
    """
    known = set(model.features)
    dense_values = [_dense_of(row, number, model) for number, row in enumerate(rows)]
    for number, row in enumerate(rows):
        unknown = row.features.keys() - known
        if unknown:
            name = min(unknown)
            raise BadRowError(f"rows[{number}].features has {name[:40]!r}; the model's are {', '.join(model.features)}")
    raw = np.array([[0.0 if v is None else v for v in values] for values in dense_values], dtype=np.float64).reshape(
        len(rows), -1
    )
    dense = np.where(model.plain, raw, np.sign(raw) * np.log1p(np.abs(raw))).astype(np.float32)
    ids, lengths = [], np.empty((len(model.features), len(rows)), np.int64)
    for f, name in enumerate(model.features):
        if model.texts is not None:
            _check_kind(rows, name, model.texts[f])
        separator = model.separators[f]
        bags = [_numbers(_divided(row.features.get(name, model.empty[f]), separator)) for row in rows]
        lengths[f] = [len(bag) for bag in bags]
        ids.append(np.fromiter((i for bag in bags for i in bag), np.int64))
        limit = model.limits[f]
        bad = (ids[f] < 0) | (ids[f] >= limit) if limit else np.zeros(0, bool)
        if bad.any():
            at = int(bad.argmax())
            number = int(np.searchsorted(lengths[f].cumsum(), at, "right"))
            raise BadRowError(f"rows[{number}].features.{name}: id {ids[f][at]} is out of range [0, {limit})")
    return Arrays(dense, ids, lengths)


def _dense_of(row: Row, number: int, model: Model) -> list[float | None]:
    """In the model's order."""
    if isinstance(row.dense, dict):
        names = model.dense or []
        unknown = row.dense.keys() - set(names)
        if unknown:
            known = ", ".join(names) or "not named: give a list"
            raise BadRowError(f"rows[{number}].dense has {min(unknown)[:40]!r}; the model's are {known}")
        return [row.dense.get(name) for name in names] or [None] * model.num_dense
    if not row.dense and model.dense == []:
        return [None] * model.num_dense  # it was trained without any, and takes one that is 0
    if len(row.dense) != model.num_dense:
        named = f": {', '.join(model.dense)}" if model.dense else ""
        raise BadRowError(
            f"rows[{number}].dense has {len(row.dense)} values, and the model takes {model.num_dense}{named}"
        )
    return row.dense


def _check_kind(rows: list[Row], name: str, is_text: bool) -> None:
    """The token 17 and the number 17 are two ids."""
    for number, row in enumerate(rows):
        for one in row.features.get(name, ()):
            if isinstance(one, str) != is_text:
                was, wanted = ("text", f'"{one}"') if is_text else ("whole numbers", "a number")
                raise BadRowError(
                    f"rows[{number}].features.{name}: it was {was} when the model was trained, got {one!r}: give {wanted}"
                )


def _divided(given: list[int | str], separator: str | None) -> list[int | str]:
    """Text as training read it: several tokens, of which empty ones are none."""
    if separator is None:
        return given
    return [
        piece for one in given for piece in (one.split(separator) if isinstance(one, str) else [one]) if piece != ""
    ]


def _numbers(given: list[int | str]) -> list[int]:
    """Ids; tokens become those that the training data's did."""
    if not any(isinstance(i, str) for i in given):
        return given
    tokens = iter(token_ids([i.encode(errors="surrogatepass") for i in given if isinstance(i, str)]).tolist())
    return [next(tokens) if isinstance(i, str) else i for i in given]


def joined(parts: list[Arrays]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The model's arguments for the rows of all."""
    values = np.concatenate([p.ids[f] for f in range(len(parts[0].ids)) for p in parts])
    return np.concatenate([p.dense for p in parts]), values, np.concatenate([p.lengths for p in parts], axis=1)
