"""`Schema`: which columns of a log a model learns from, by name; a small JSON or YAML file (docs/data.md)."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torchrec_pss import json_fields
from torchrec_pss.datasets.columns import Columns
from torchrec_pss.datasets.file_kinds import regular_file
from torchrec_pss.datasets.locations import is_remote, location
from torchrec_pss.datasets.rows import DENSE_NAMES, SPARSE_NAMES
from torchrec_pss.datasets.table_list import check_name
from torchrec_pss.whole_file import parse_json, read_json

TRANSFORMS = ("log", "none")
_NEEDED, _MAY = ("label", "sparse"), ("dense", "fields")
_names = json_fields.each(json_fields.text)


@dataclass(frozen=True)
class Schema:
    """
    Attributes:
        label: the column that is 0 or 1.
        sparse: columns of tokens or ids, a feature and a table each.
        dense: columns of numbers, perhaps none.
        transforms: of each of those: "log" makes x ``sign(x) log(1 + |x|)``, "none" leaves it.
        fields: of text without a header, the names of all columns in their order; None: a header names them.

    Raises:
        ValueError: no sparse column, a column named twice, or a name that a table cannot have; names it.
    """

    label: str
    sparse: tuple[str, ...]
    dense: tuple[str, ...] = ()
    transforms: tuple[str, ...] = ()
    fields: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not self.sparse:
            raise ValueError("sparse names no column: there is nothing to embed")
        seen: set[str] = set()
        for name in (self.label, *self.dense, *self.sparse):
            if name in seen:
                raise ValueError(f"the column {name!r} comes twice")
            seen.add(name)
        for name in self.sparse:
            check_name(f"t_{name}")  # of its table
        for name, transform in zip(self.dense, self.transforms, strict=True):
            if transform not in TRANSFORMS:
                raise ValueError(f"dense.{name} is {transform!r}, not one of {', '.join(TRANSFORMS)}")

    @classmethod
    def read(cls, path: str | Path) -> "Schema":
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
    def of(cls, said: object) -> "Schema":
        """What `as_json` returned, or a file says.

        Raises:
            ValueError: it breaks a rule; names the field.
        """
        json_fields.fields(label=json_fields.text, sparse=_names)(said, "")
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
        fields = said.get("fields")
        if fields is not None:
            _names(fields, "fields")
        found = cls(said["label"], tuple(said["sparse"]), tuple(dense), tuple(dense.values()), fields and tuple(fields))
        if found.fields is not None:
            found.columns(found.fields)
        return found

    def as_json(self) -> dict:
        fields = {} if self.fields is None else {"fields": list(self.fields)}
        return {
            "label": self.label,
            "dense": dict(zip(self.dense, self.transforms, strict=True)),
            "sparse": list(self.sparse),
        } | fields

    def columns(self, names: Sequence[str]) -> Columns:
        """Of a file whose columns have these names.

        Raises:
            ValueError: a column is missing, or there twice; names it, and those that are spelled alike.
        """
        for name in (self.label, *self.dense, *self.sparse):
            if names.count(name) != 1:
                there = "is there twice" if name in names else f"is not there{_nearest(name, names)}"
                raise ValueError(f"the column {name!r} {there}")
        at = {name: place for place, name in enumerate(names)}
        plain = [place for place, transform in enumerate(self.transforms) if transform == "none"]
        return Columns(
            len(names), at[self.label], tuple(at[n] for n in self.dense), tuple(at[n] for n in self.sparse), (self.label, *self.dense),
            tuple(plain),
        )  # fmt: skip


CRITEO_SCHEMA = Schema("label", tuple(SPARSE_NAMES), tuple(DENSE_NAMES), ("log",) * len(DENSE_NAMES))


def _refuse_twice(names: list[str]) -> dict[str, str]:
    raise ValueError(f"the column {next(n for n in names if names.count(n) > 1)!r} comes twice")


def _nearest(name: str, names: Sequence[str]) -> str:
    found = difflib.get_close_matches(name, names, 3, 0.5)
    return f": is it {' or '.join(map(repr, found))}?" if found else f"; there are {', '.join(map(repr, names[:40]))}"


def _read_json(path: Path) -> object:
    return parse_json(path, path.read_bytes()) if is_remote(path) else read_json(path)


def _read_yaml(path: Path) -> object:
    try:
        import yaml
    except ImportError as error:
        raise ValueError(f"schema {path}: YAML needs PyYAML (pip install pyyaml); JSON needs nothing") from error
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"schema {path} is no YAML that can be read: {error}") from error
