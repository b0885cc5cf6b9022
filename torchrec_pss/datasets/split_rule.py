"""`SplitRule`: by what a schema divides rows into those that train, validate and test."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from torchrec_pss import json_fields
from torchrec_pss.datasets.criteo_lines import token_ids
from torchrec_pss.datasets.errors import DataError
from torchrec_pss.ranges import shown

if TYPE_CHECKING:
    from torchrec_pss.datasets.schema import Schema

TRAIN, VAL, TEST = 0, 1, 2
_WHOLE = range(-(1 << 63), 1 << 64)
_BY_COLUMN, _BY_TIME = ("column", "val", "test"), ("val_from", "test_from")


@dataclass(frozen=True)
class SplitRule:
    """By a column's values, or by time; what neither names trains.

    Attributes:
        column: with values to validate and to test on; None: by the schema's time.
        val, test: those values, text or whole numbers.
        val_from, test_from: the first times to validate and to test on.

    Raises:
        ValueError: nothing to validate or to test on, or a value of both; names it.
    """

    column: str | None = None
    val: tuple[str | int, ...] = ()
    test: tuple[str | int, ...] = ()
    val_from: float = 0.0
    test_from: float = 0.0

    def __post_init__(self) -> None:
        if self.column is None:
            if not self.val_from < self.test_from:
                raise ValueError(
                    f"split.val_from is {self.val_from}, and must be below split.test_from, {self.test_from}"
                )
            return
        for name, values in (("val", self.val), ("test", self.test)):
            if not values:
                raise ValueError(f"split.{name} has no value")
        both = next((value for value in self.val if str(value) in map(str, self.test)), None)
        if both is not None:
            raise ValueError(f"{both!r} is in split.val and in split.test")

    @classmethod
    def of(cls, said: Any) -> "SplitRule":
        """What a schema's file says.

        Raises:
            ValueError: it breaks a rule; names the field.
        """
        json_fields.mapping(said, "split")
        names = _BY_COLUMN if "column" in said else _BY_TIME
        if set(said) != set(names):
            raise ValueError(
                f"split has {', '.join(map(str, said)) or 'nothing'}, and must have column, val and test, or val_from and test_from"
            )
        if names == _BY_TIME:
            for name in names:
                json_fields.number(said[name], f"split.{name}")
            return cls(val_from=said["val_from"], test_from=said["test_from"])
        json_fields.text(said["column"], "split.column")
        values = {name: said[name] if isinstance(said[name], list) else [said[name]] for name in ("val", "test")}
        for name, of in values.items():
            for value in of:
                whole = isinstance(value, int) and not isinstance(value, bool) and value in _WHOLE
                if not whole and not isinstance(value, str):
                    raise ValueError(
                        f"split.{name} has {shown(value)}, and must have text or whole numbers of 64 bits: write it in quotes"
                    )
        return cls(said["column"], tuple(values["val"]), tuple(values["test"]))

    def as_json(self) -> dict[str, Any]:
        if self.column is None:
            return {"val_from": self.val_from, "test_from": self.test_from}
        return {"column": self.column, "val": list(self.val), "test": list(self.test)}

    def check(self, schema: "Schema") -> None:
        """
        Raises:
            ValueError: the schema has no time, or the column is a dense value, a bag or the label.
        """
        if self.column is None and schema.time is None:
            raise ValueError("split.val_from needs a time: the column of it")
        if self.column is not None and self.column in schema.used and self.column not in schema.sparse:
            raise ValueError(f"split.column is {self.column!r}, which is read as something else than tokens or ids")

    def parts(self, marks: np.ndarray, is_text: bool) -> np.ndarray:
        """int8 ``[n]``, `TRAIN`, `VAL` or `TEST`, of times, or of the column's ids int64, which are those of tokens or whole numbers."""
        if self.column is None:
            return (marks >= self.val_from).astype(np.int8) + (marks >= self.test_from)
        val, test = (np.isin(marks, _ids(values, is_text)) for values in (self.val, self.test))
        return (VAL * val + TEST * test).astype(np.int8)


def _ids(values: Sequence[str | int], is_text: bool) -> np.ndarray:
    """
    Raises:
        DataError: text that is no whole number, of a column of such.
    """
    if is_text:
        return token_ids([str(value).encode() for value in values])
    try:
        whole = [int(value) for value in values]
    except ValueError as error:
        raise DataError(f"the split's column holds whole numbers, and the split names others: {error}") from error
    return np.array([value % (1 << 64) for value in whole], np.uint64).view(np.int64)
