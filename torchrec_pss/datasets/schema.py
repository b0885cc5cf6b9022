"""`Schema`: which columns of a log a model learns from, by name; a small JSON or YAML file (docs/guides/your_data.md)."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from dataclasses import fields as fields_of
from typing import Any

from torchrec_pss import json_fields
from torchrec_pss.datasets.columns import BagPlace, Columns
from torchrec_pss.datasets.file_kinds import regular_file
from torchrec_pss.datasets.locations import AnyPath, Location, is_remote, location
from torchrec_pss.datasets.rows import DENSE_NAMES, SPARSE_NAMES, RowBlock
from torchrec_pss.datasets.split_rule import SplitRule
from torchrec_pss.datasets.table_list import check_name
from torchrec_pss.whole_file import parse_json, read_json

TRANSFORMS = ("log", "none")
POOLINGS = ("sum", "mean")
_NEEDED, _MAY = ("label",), ("dense", "sparse", "bags", "fields", "time", "split", "group")
_OF_BAG = ("weights", "pooling", "separator")
_names = json_fields.each(json_fields.text)


@dataclass(frozen=True)
class BagColumn:
    """A column that has several ids a row, perhaps none.

    Attributes:
        name: of the column.
        weights: the column of as many numbers, if there is one.
        pooling: "sum" or "mean" of its embeddings.
        separator: in text, what divides its ids: one character.
    """

    name: str
    weights: str | None = None
    pooling: str = POOLINGS[0]
    separator: str = "|"

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise ValueError(f"bags.{self.name}.pooling is {self.pooling!r}, not {' or '.join(POOLINGS)}")
        if len(self.separator) != 1 or not self.separator.isascii() or self.separator in '"\r\n':
            raise ValueError(
                f"bags.{self.name}.separator is {self.separator!r}, and must be one ASCII character, no quote or line end"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.name,) if self.weights is None else (self.name, self.weights)

    def as_json(self) -> dict[str, Any]:
        """As a JSON file has it: what says nothing is left out."""
        weights = {} if self.weights is None else {"weights": self.weights}
        return {"pooling": self.pooling, "separator": self.separator} | weights


@dataclass(frozen=True)
class Schema:
    """What the columns of rows are: labels, dense values, features, and how rows are divided.

    Attributes:
        label: the column that is 0 or 1.
        sparse: columns of tokens or ids, one a row; a feature and a table each.
        dense: columns of numbers, perhaps none.
        transforms: of each of those: "log" makes x ``sign(x) log(1 + |x|)``, "none" leaves it.
        fields: of text without a header, the names of all columns in their order; None: a header names them.
        bags: columns of several ids a row, likewise a feature and a table each; they come behind ``sparse``.
        time: a column of numbers that grow with time.
        split: which rows train, validate and test; None: files and their order say it.
        group: the sparse column within whose ids rows are compared (grouped AUROC); None: no such figure.

    Raises:
        ValueError: neither a sparse column nor bags, a column named twice, a name that a table cannot have, a mean beside weights, or a group
            that is no sparse column; names it.

    Examples:
        >>> from torchrec_pss.datasets import Schema
        >>> schema = Schema.of({"label": "click", "sparse": ["user", "item"], "dense": {"price": "log"}, "bags": ["tags"]})
        >>> schema.features
        ('user', 'item', 'tags')
        >>> schema.as_json()["dense"]
        {'price': 'log'}
    """

    label: str
    sparse: tuple[str, ...]
    dense: tuple[str, ...] = ()
    transforms: tuple[str, ...] = ()
    fields: tuple[str, ...] | None = None
    bags: tuple[BagColumn, ...] = ()
    time: str | None = None
    split: SplitRule | None = None
    group: str | None = None

    def __post_init__(self) -> None:
        if not self.features:
            raise ValueError("sparse names no column, nor do bags: there is nothing to embed")
        seen: set[str] = set()
        if self.fields is not None and not self.fields:
            raise ValueError("fields names no column")
        for name in self.used:
            if not name:
                raise ValueError("a column has no name")
            if name in seen:
                raise ValueError(f"the column {name!r} comes twice")
            seen.add(name)
        for name in self.features:
            check_name(f"t_{name}")  # of its table
        if self.split is not None:
            self.split.check(self)
        mean = next((bag.name for bag in self.bags if bag.pooling == "mean"), None)
        if mean is not None and self.weighted:
            raise ValueError(f"bags.{mean}.pooling is 'mean', and there are weights: TorchRec weighs sums only")
        for name, transform in zip(self.dense, self.transforms, strict=True):
            if transform not in TRANSFORMS:
                raise ValueError(f"dense.{name} is {transform!r}, not one of {', '.join(TRANSFORMS)}")
        if self.group is not None and self.group not in self.sparse:
            raise ValueError(f"group is {self.group!r}, which is no sparse column{_nearest(self.group, self.sparse)}")

    def __reduce__(self) -> str | tuple[Any, ...]:
        """Criteo's stays the one that it is: text of its columns needs no header, and that of an equal schema does."""
        if self is CRITEO_SCHEMA:
            return "CRITEO_SCHEMA"
        return Schema, tuple(getattr(self, f.name) for f in fields_of(self))

    @property
    def features(self) -> tuple[str, ...]:
        """Those that are embedded, in the order in which a model reads them."""
        return (*self.sparse, *(bag.name for bag in self.bags))

    @property
    def poolings(self) -> tuple[str, ...]:
        """Of each feature."""
        return (*(POOLINGS[0] for _ in self.sparse), *(bag.pooling for bag in self.bags))

    @property
    def weighted(self) -> bool:
        """Whether ids have weights: those of features without are 1."""
        return any(bag.weights is not None for bag in self.bags)

    @property
    def used(self) -> tuple[str, ...]:
        """All columns that are read."""
        names = (self.label, *self.dense, *self.sparse, *(name for bag in self.bags for name in bag.columns))
        return names if self.time is None else (*names, self.time)

    @property
    def nothing(self) -> RowBlock:
        """No rows of it."""
        return self.columns(self.used).nothing

    def written(self) -> "Schema":
        """Of rows that were prepared: without what is used up then."""
        return replace(self, fields=None, time=None, split=None)

    @classmethod
    def read(cls, path: AnyPath) -> "Schema":
        """
        Raises:
            FileNotFoundError: there is none.
            ValueError: it is no JSON or YAML, or breaks a rule; names file and field.
        """
        path = location(path)
        regular_file(path, "schema")
        said = _read_yaml(path) if path.suffix.lower() in (".yaml", ".yml") else _read_json(path)
        try:
            return cls.of(said)
        except ValueError as error:
            raise ValueError(f"schema {path}: {error}") from error

    @classmethod
    def of(cls, said: Any) -> "Schema":
        """What `as_json` returned, or a file says.

        Raises:
            ValueError: it breaks a rule; names the field.
        """
        json_fields.fields(label=json_fields.text)(said, "")
        for name in (*said, *(dense if isinstance(dense := said.get("dense"), dict) else ())):
            if not isinstance(name, str):
                raise ValueError(f"it has {name!r} where a name belongs: write it in quotes")
        for name in said:
            if name not in (*_NEEDED, *_MAY):
                raise ValueError(
                    f"it has {name!r}, and may have {', '.join((*_NEEDED, *_MAY))}{_nearest(name, (*_NEEDED, *_MAY))}"
                )
        dense = said.get("dense") or []
        if isinstance(dense, dict):
            json_fields.values(json_fields.text)(dense, "dense")
        else:
            _names(dense, "dense")
            dense = dict.fromkeys(dense, TRANSFORMS[0]) if len(set(dense)) == len(dense) else _refuse_twice(dense)
        sparse, fields, bags = said.get("sparse") or [], said.get("fields"), _bags(said.get("bags") or {})
        _names(sparse, "sparse")
        if fields is not None:
            _names(fields, "fields")
        for name in ("time", "group"):
            json_fields.optional(json_fields.text)(said.get(name), name)
        split = None if said.get("split") is None else SplitRule.of(said["split"])
        found = cls(
            said["label"],
            tuple(sparse),
            tuple(dense),
            tuple(dense.values()),
            fields and tuple(fields),
            bags,
            said.get("time"),
            split,
            said.get("group"),
        )
        if found.fields is not None:
            found.columns(found.fields)
        return found

    def as_json(self) -> dict[str, Any]:
        """What `of` takes, JSON-ready; what is not there is left out."""
        may = {
            "bags": {bag.name: bag.as_json() for bag in self.bags} or None,
            "fields": self.fields and list(self.fields),
            "time": self.time,
            "split": self.split and self.split.as_json(),
            "group": self.group,
        }
        return {
            "label": self.label,
            "dense": dict(zip(self.dense, self.transforms, strict=True)),
            "sparse": list(self.sparse),
        } | {name: value for name, value in may.items() if value is not None}

    def columns(self, names: Sequence[str]) -> Columns:
        """Of a file whose columns have these names.

        Raises:
            ValueError: a column is missing, or there twice; names it, and those that are spelled alike.
        """
        for name in self.used:
            if names.count(name) != 1:
                there = "is there twice" if name in names else f"is not there{_nearest(name, names)}"
                raise ValueError(f"the column {name!r} {there}")
        at = {name: place for place, name in enumerate(names)}
        plain = [place for place, transform in enumerate(self.transforms) if transform == "none"]
        bags = tuple(
            BagPlace(
                at[bag.name], None if bag.weights is None else at[bag.weights], bag.separator.encode(), bag.columns
            )
            for bag in self.bags
        )
        return Columns(
            len(names), at[self.label], tuple(at[n] for n in self.dense), tuple(at[n] for n in self.sparse),
            (self.label, *self.dense, *([] if self.time is None else [self.time])), tuple(plain), bags, None if self.time is None else at[self.time],
        )  # fmt: skip


CRITEO_SCHEMA = Schema("label", tuple(SPARSE_NAMES), tuple(DENSE_NAMES), ("log",) * len(DENSE_NAMES))


def _bags(said: Any) -> tuple[BagColumn, ...]:
    """Names, or what is said of each."""
    if isinstance(said, list):
        _names(said, "bags")
        said = dict.fromkeys(said) if len(set(said)) == len(said) else _refuse_twice(said)
    json_fields.mapping(said, "bags")
    found = []
    for name, of in said.items():
        if not isinstance(name, str):
            raise ValueError(f"bags has {name!r} where a name belongs: write it in quotes")
        of = of or {}
        json_fields.values(json_fields.text)(of, f"bags.{name}")
        for field in of:
            if field not in _OF_BAG:
                raise ValueError(
                    f"bags.{name} has {field!r}, and may have {', '.join(_OF_BAG)}{_nearest(str(field), _OF_BAG)}"
                )
        found.append(BagColumn(name, **of))
    return tuple(found)


def _refuse_twice(names: list[str]) -> dict[str, str]:
    raise ValueError(f"the column {next(n for n in names if names.count(n) > 1)!r} comes twice")


def _nearest(name: str, names: Sequence[str]) -> str:
    found = difflib.get_close_matches(name, names, 3, 0.5)
    return f": is it {' or '.join(map(repr, found))}?" if found else f"; there are {', '.join(map(repr, names[:40]))}"


def _read_json(path: Location) -> Any:
    return parse_json(path, path.read_bytes()) if is_remote(path) else read_json(path)


def _read_yaml(path: Location) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ValueError(f"schema {path}: YAML needs PyYAML (pip install pyyaml); JSON needs nothing") from error
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"schema {path} is no YAML that can be read: {' '.join(str(error).split())}") from error
