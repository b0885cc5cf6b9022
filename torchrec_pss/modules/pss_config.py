"""`PSSConfig`: what a user decides about the shared array."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from torchrec_pss.modules.config_json import as_plain, from_plain, parsed, written
from torchrec_pss.modules.id_counts import IdCounts, checked_counts, whole_numbers
from torchrec_pss.ops.quantize import FEW_BITS
from torchrec_pss.ranges import RANGES, SEED, checked, shown

HASHES = ("mix64", "robe")
LAYOUTS = ("auto", "rules", "plain")
HEADS = ("mlp", "dot")
BITS = (32, *FEW_BITS)
AUTO_BITS = "auto"

if TYPE_CHECKING:

    class _Size:
        """To type checkers, a field that is given as a number or as text, and that is a number."""

        def __get__(self, config: object, kind: object = None) -> int: ...
        def __set__(self, config: object, value: int | str) -> None: ...


@dataclass(frozen=True, eq=False)
class PSSConfig:
    """Configuration of one shared array. Equal configs give equal tables the same addresses.

    `to_json` and `from_json` keep it as text. Pickled it is that text too, so that ``torch.load`` reads it with
    ``weights_only=True`` wherever this package is imported.

    Args:
        array_bytes: budget in bytes, a whole number or text such as "10MB" or "1.5GiB", for everything that is learned or must be stored: the array, the projections of
            tables read narrower than their embedding_dim, and the keys of hot rows. Optimizer state is not counted.
        layout: "auto" picks what is None below from the tables, the budget and `counts`
            (torchrec_pss.modules.auto_layout says how); "rules" is what "auto" picked before it searched, for checkpoints of that
            time; "plain" takes PSS's own choices, those in brackets.
        head: what follows the embeddings: "mlp" (interactions, an MLP) or "dot" (a dot product or attention's scores, where
            a row must have elements of its own to be told apart). Decides what "auto" chooses, and how projections start.
        block_size: Z, consecutive coordinates read from one hashed place; divides the shared coordinates of every shared
            table. [the largest of 4, 2, 1 that does, per table]
        hash: "mix64" (docs/how/hashing.md) or "robe" (the authors' released mapping, to read their checkpoints).
        seed: of the hash, any signed 64-bit integer. Part of a checkpoint's layout.
        sign: whether shared coordinates carry a random sign. Off for "robe". [True]
        exact: "auto" (small tables may be) or the names of the tables to keep exact, that is, with elements of their own
            for every row. "auto" takes the ids of every table to lie in ``[0, num_embeddings)``; give a list, for instance
            an empty one, where they are arbitrary.
        exact_fraction: share of the array that exact tables may take under ``exact="auto"``. [0.3]
        width: read width of the tables, one number or by table name; a table read at less than its
            embedding_dim gets a learned projection. [embedding_dim]
        prefix: exact coordinates a row of the shared tables before the hashed ones, one number or by table name. [0]
        hot: by table name, ids whose shared coordinates are their own elements instead. [none]
        segments: whether each table hashes into a slice of the shared region of its own, so that rows meet only rows of
            their table, instead of all tables into all of it. [False]
        slices: by table name, elements of its slice, rounded up to a multiple of 16; the other tables divide what is left. [none]
        short_keys: whether keys of hot rows are kept in some 11 bits instead of 32, so that one other id in 256 to 512 takes a hot
            row's place (docs/how/hashing.md, section 6). [True beside elements of few bits]
        bias: whether a projection has a bias: a learned vector of the table that every row's embedding includes. [False]
            "auto" takes True for ``head="mlp"``; say True before a plain dot product, where nothing else can
            learn that an item is popular.
        counts: by table name, how often ids occur; what "auto" chooses hot rows from.
        bits: of a stored element: 32 (of tables in fp16 or bf16: their 16); or 8, 4, 3 or 2, with a scale for 64 of them. The array that
            is trained stays fp32, is read as if it were stored already, and gets the gradient of that (docs/how/bits.md). "auto": 4, or 32
            or 8 where every row has all its elements alone then (torchrec_pss.modules.auto_bits). [32]
        init_range: elements start uniform in ``[-init_range, init_range]``.

    Raises:
        ValueError: a value out of range or of the wrong kind, or a combination that means nothing; names the field and the value.
        TypeError: counts that are no `IdCounts`.

    Examples:
        >>> from torchrec_pss import PSSConfig
        >>> config = PSSConfig(array_bytes="10MB", bits=4)
        >>> config.array_bytes
        10000000
        >>> PSSConfig.from_json(config.to_json()) == config
        True
        >>> PSSConfig(array_bytes="10MB", bits=5)
        Traceback (most recent call last):
            ...
        ValueError: bits must be one of (32, 8, 4, 3, 2) or 'auto', got 5
    """

    if not TYPE_CHECKING:
        array_bytes: int | str
    else:
        array_bytes: _Size = _Size()
    layout: str = "auto"
    head: str = "mlp"
    block_size: int | None = None
    hash: str = "mix64"
    seed: int = 0
    sign: bool | None = None
    exact: str | Sequence[str] = "auto"
    exact_fraction: float | None = None
    width: int | Mapping[str, int] | None = None
    prefix: int | Mapping[str, int] | None = None
    hot: Mapping[str, Sequence[int] | np.ndarray] | None = None
    segments: bool | None = None
    slices: Mapping[str, int] | None = None
    short_keys: bool | None = None
    bias: bool | None = None
    counts: Mapping[str, IdCounts] | None = None
    bits: int | str = 32
    init_range: float = 0.05

    def __post_init__(self) -> None:
        for field, allowed in {"hash": HASHES, "layout": LAYOUTS, "head": HEADS}.items():
            if not isinstance(getattr(self, field), str) or getattr(self, field) not in allowed:
                raise ValueError(f"{field} must be one of {allowed}, got {shown(getattr(self, field))}")
        if self.bits != AUTO_BITS and (type(self.bits) is not int or self.bits not in BITS):
            raise ValueError(f"bits must be one of {BITS} or 'auto', got {shown(self.bits)}")
        for field in ("sign", "segments", "short_keys", "bias"):
            if not isinstance(getattr(self, field), bool | None):
                raise ValueError(f"{field} must be True, False or None, got {shown(getattr(self, field))}")
        self._set(
            array_bytes=checked("array_bytes", self.array_bytes), init_range=checked("init_range", self.init_range)
        )
        self._set(seed=SEED.checked("seed", self.seed), exact=_names(self.exact))
        for field in ("block_size", "exact_fraction"):
            if getattr(self, field) is not None:
                self._set(**{field: checked(field, getattr(self, field))})
        self._set(width=_by_table("width", self.width), prefix=_by_table("prefix", self.prefix))
        if self.slices is not None:
            self._set(slices=_by_table("slices", _mapping("slices", self.slices)))
            if self.segments is False:
                raise ValueError("slices are given, and segments=False says that there are none")
        if self.short_keys is False and self.bits != 32:
            raise ValueError(f"short_keys=False: beside elements of {self.bits} bits keys are short")
        if self.hot is not None:
            self._set(
                hot={t: whole_numbers(f"hot of table {t!r}", ids) for t, ids in _mapping("hot", self.hot).items()}
            )
        if self.counts is not None:
            self._set(counts=checked_counts(self.counts))
        if self.hash == "robe":
            given = self.width is not None or self.prefix not in (None, 0) or self.hot or self.has_slices or self.bias
            if given or self.exact not in ("auto", ()) or self.bits != 32:
                raise ValueError(
                    'hash="robe" has no exact tables, widths, prefixes, hot rows, segments, bias or few bits'
                )

    def _set(self, **values: object) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def element_bits(self) -> int:
        """`bits` as a number, which `torchrec_pss.modules.auto_bits.with_bits` has made of "auto"."""
        bits = self.bits
        assert isinstance(bits, int), "bits='auto': with_bits says which"
        return bits

    @property
    def has_short_keys(self) -> bool:
        """Whether keys of hot rows are kept in some 11 bits, see ``short_keys``."""
        return bool(self.short_keys) or self.bits != 32

    @property
    def has_slices(self) -> bool:
        """Whether each table hashes into a slice of its own."""
        return bool(self.segments) or self.slices is not None

    def to_json(self) -> str:
        """The config as JSON, one line; hot ids and counts as lists of numbers."""
        return written({f.name: as_plain(getattr(self, f.name)) for f in fields(self)})

    @classmethod
    def from_json(cls, text: str | bytes) -> "PSSConfig":
        """What `to_json` wrote: an equal config. Fields that are left out have their defaults.

        Raises:
            ValueError: no such JSON; names the field and the value.
        """
        plain = parsed(text)
        names = [f.name for f in fields(cls)]
        for name in plain:
            if name not in names:
                raise ValueError(f"the config's JSON has a field {shown(name)}, which is none of {names}")
        if "array_bytes" not in plain:
            raise ValueError("the config's JSON has no array_bytes")
        return cls(**from_plain(plain))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PSSConfig):
            return NotImplemented
        return all(_equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    def __hash__(self) -> int:
        return hash((self.array_bytes, self.layout, self.head, self.hash, self.seed, self.exact, self.init_range))

    def __reduce__(self) -> tuple[Callable[[str], "PSSConfig"], tuple[str]]:
        return _from_json, (self.to_json(),)

    def __deepcopy__(self, _: dict[int, Any]) -> "PSSConfig":
        return self  # nothing in it changes


def _from_json(text: str) -> PSSConfig:
    """What a pickle calls: a function, for ``weights_only=True`` calls no methods."""
    return PSSConfig.from_json(text)


torch.serialization.add_safe_globals([_from_json])


def _names(exact: object) -> str | tuple[str, ...]:
    if isinstance(exact, str) and exact == "auto":
        return exact
    if isinstance(exact, str | bytes) or not isinstance(exact, Sequence | set | frozenset):
        raise ValueError(f'exact must be "auto" or a list of table names, got {shown(exact)}')
    for name in exact:
        if not isinstance(name, str):
            raise ValueError(f'exact must be "auto" or a list of table names, got {shown(name)} among them')
    return tuple(sorted(exact) if isinstance(exact, set | frozenset) else exact)


def _mapping(field: str, value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{field} must be given by table name, got {shown(value)}")
    for name in value:
        if not isinstance(name, str):
            raise ValueError(f"{field} must be given by table name, got {shown(name)} for a name")
    return dict(value)


def _by_table(field: str, value: object) -> int | dict[str, int] | None:
    if isinstance(value, Mapping):
        value = _mapping(field, value)
        return {table: _of_table(field, table, number) for table, number in value.items()}
    return None if value is None else checked(field, value)


def _of_table(field: str, table: str, number: object) -> Any:
    return RANGES[field].checked(f"{field} of table {table!r}", number)


def _equal(one: Any, other: Any) -> bool:
    """Of two values of a field, arrays element by element."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_equal(value, other[key]) for key, value in one.items())
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    return type(one) is type(other) and one == other
