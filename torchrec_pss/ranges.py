"""What the numbers of flags and arguments may be: one table, by name, for every command and constructor.

A number has one meaning under one name. `torchrec_pss.flags` reads flags by this table; constructors check their arguments by it.
"""

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral, Real
from typing import Any, Generic, TypeVar

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_LONGEST_SHOWN = 40
_Number = TypeVar("_Number", int, float)
_LEAST_FP32, _MOST_FP32 = (
    1.1754943508222875e-38,
    3.4028234663852886e38,
)  # what arithmetic in fp32 neither loses nor overflows


def shown(value: object) -> str:
    """A value in a message, not longer than a line has room for."""
    try:
        return _shortened(repr(value))
    except ValueError:  # Python writes no integer of so many digits
        return "a number of thousands of digits"


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}... ({len(text)} characters)"


def is_plain(text: str) -> bool:
    """Whether a text may be a number: Python also reads ``1_000`` and digits of other scripts, which nobody means to write."""
    return text.isascii() and "_" not in text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Range(Generic[_Number]):
    """Numbers from ``low`` to ``high``, the ends included unless ``open``.

    Attributes:
        kind: `int` or `float`.
        is_size: bytes, which may also be written "10MB" or "1.5GiB".
        is_list: of a flag, several, separated by commas; each must be in the range.
    """

    kind: type[_Number]
    low: float
    high: float
    open: bool = False
    is_size: bool = False
    is_list: bool = False

    def checked(self, name: str, value: object) -> _Number:
        """An argument as `int` or `float`; NumPy's numbers too, but no bool.

        Raises:
            ValueError: no such number, or out of range; names the argument and the value.
        """
        try:
            return self._within(self._number(value))
        except ValueError as error:
            raise ValueError(f"{name} {error}, got {shown(value)}") from None

    def parsed(self, text: str) -> _Number | list[_Number]:
        """A flag's value.

        Raises:
            ValueError: as `checked`, without the name.
        """
        try:
            if self.is_list:
                return [self._within(self._read(part)) for part in text.split(",")]
            return self._within(self._read(text))
        except ValueError as error:
            raise ValueError(f"{error}, got {_shortened(text) if _is_number(text) else shown(text)}") from None

    @property
    def _begins_above_zero(self) -> bool:
        return self.low == {int: 1, float: 0 if self.open else _LEAST_FP32}[self.kind]

    def _number(self, value: Any) -> Any:  # inf where no float is as large
        if isinstance(value, str) and self.is_size:
            return _size(value)
        number: Any
        number, kind = (Integral, "a whole number") if self.kind is int else (Real, "a number")
        if not isinstance(value, number) or isinstance(value, bool):
            raise ValueError(f"must be {kind}{' of bytes' if self.is_size else ''}")
        try:
            return self.kind(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf

    def _read(self, text: str) -> _Number:
        if self.is_size:
            return _size(text)
        wanted = "must be a whole number" if self.kind is int else "must be a number"
        if not is_plain(text):
            raise ValueError(f"{wanted} in plain digits")
        try:
            return self.kind(text)
        except ValueError:
            raise ValueError(wanted) from None

    def _within(self, value: _Number) -> _Number:
        if value != value:  # NaN
            raise ValueError("must be a number")
        if value < self.low or (self.open and value == self.low):
            if value <= 0 and self._begins_above_zero:
                raise ValueError("must be positive")
            raise ValueError(f"must be {f'above {self.low:g}' if self.open else f'at least {_plain(self.low)}'}")
        if value > self.high or (self.open and value == self.high):
            raise ValueError(f"must be {f'below {self.high:g}' if self.open else f'at most {_plain(self.high)}'}")
        return value


def _plain(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


def _size(text: str) -> int:
    """Bytes: "80GB", "10MiB", "4096"; parts of a byte are left out."""
    found = re.fullmatch(r"(\d{1,30}(?:\.\d{1,30})?)\s*([KMGT]I?)?B?", text.strip(), re.IGNORECASE | re.ASCII)
    if not found:
        raise ValueError("must be a size such as 80GB, 10MiB or 4096")
    return int(Fraction(found[1]) * _UNITS[(found[2] or "").upper()])


_MOST_STEPS = 10**12
_STEPS = Range(int, 1, _MOST_STEPS)
_FEW = Range(int, 1, 1024)
_DIM = Range(int, 1, 8192)
_POSITIVE = Range(float, _LEAST_FP32, _MOST_FP32)
_BYTES = Range(int, 1, (1 << 63) - 1, is_size=True)
_SKEW = Range(float, _LEAST_FP32, 100.0)  # of a power law
_LAYERS = Range(int, 1, 16_384, is_list=True)

SEED = Range(
    int, -(1 << 63), (1 << 63) - 1
)  # of an array's hash; the commands' also seed NumPy, which takes no negative one

RANGES: dict[str, Range[int] | Range[float]] = {
    # Data. At more rows a table, the generator's ids would overflow.
    "num_embeddings": Range(int, 1, 1 << 31),
    "num_embeddings_per_feature": Range(int, 1, 1 << 31, is_list=True),
    "synthetic_rows": _STEPS,
    "synthetic_scale": Range(float, _LEAST_FP32, 50.0),
    "scale": Range(float, 1e-3, 50.0),
    "synthetic_skew": _SKEW,
    "skew": _SKEW,
    "train_fraction": Range(float, 0.0, 1.0, open=True),
    "max_bad_rows": Range(int, 0, _MOST_STEPS),
    "sample_rows": _STEPS,
    "train_rows": _STEPS,
    "table_rows": _STEPS,
    "rows": Range(int, 100, 10**9),
    "part_rows": Range(int, 1, 1 << 24),
    "rows_share": Range(float, _LEAST_FP32, 50.0),
    # Array and tables.
    "array_bytes": _BYTES,
    "max_bytes": _BYTES,
    "compression": Range(float, 0.01, 1e12),
    "max_compression": Range(float, 1, math.inf),
    "min_speedup": Range(float, 1, math.inf),
    "optimizer_states": Range(int, 0, 64),
    "width": _DIM,
    "prefix": Range(int, 0, 8192),
    "slices": Range(int, 1, 1 << 40),  # elements
    "block_size": _DIM,
    "init_range": Range(float, _LEAST_FP32, 1e4),  # what fp16 holds
    "exact_fraction": Range(float, 0.0, 1.0),
    "embedding_dim": _DIM,
    "bits": Range(int, 2, 32),
    "table_gib": Range(float, _LEAST_FP32, 1e6),
    # Dense layers.
    "dense_arch_layer_sizes": _LAYERS,
    "over_arch_layer_sizes": _LAYERS,
    "interaction_branch1_layer_sizes": _LAYERS,
    "interaction_branch2_layer_sizes": _LAYERS,
    "dcn_num_layers": _FEW,
    "dcn_low_rank_dim": Range(int, 1, 16_384),
    # Training.
    "epochs": Range(int, 1, 10**6),
    "batch_size": Range(int, 1, 1 << 24),
    "test_batch_size": Range(int, 1, 1 << 24),
    "negatives": Range(int, 1, 1 << 16),
    "limit_train_batches": _STEPS,
    "limit_val_batches": _STEPS,
    "limit_test_batches": _STEPS,
    "learning_rate": _POSITIVE,
    "embedding_learning_rate": _POSITIVE,
    "eps": _POSITIVE,
    "average_power": Range(float, 0.0, 1e12),
    "lr_warmup_steps": Range(int, 0, _MOST_STEPS),
    "lr_decay_start": Range(int, 0, _MOST_STEPS),
    "lr_decay_steps": _STEPS,
    "validation_freq_within_epoch": _STEPS,
    "checkpoint_freq": _STEPS,
    "log_freq": _STEPS,
    "check_replicas": _STEPS,
    "watch": _STEPS,
    "target_auroc": Range(float, 0.5, 1.0, open=True),
    "target_drop": Range(float, -1.0, 1.0),  # below 0: what an array must gain
    "seed": Range(int, 0, (1 << 63) - 1),
    # Machines.
    "world_size": Range(int, 1, 16_384),
    "local_world_size": Range(int, 1, 16_384),
    "hbm": _BYTES,  # TorchRec takes 0 for "not given"
    "ddr": _BYTES,
    "rank_memory": _BYTES,
    "collective_timeout_s": Range(float, 1.0, 31_536_000.0),
    "limit_s": Range(float, 1.0, 31_536_000.0),
    "threads": _FEW,
    "workers": _FEW,
    "processes": _FEW,
    "gbit": Range(float, 1e-3, 1e6),
    # Benchmarks and checks.
    "gigabytes": Range(float, 1e-3, 1e6),
    "repeats": Range(int, 1, 10**6),
    "runs": Range(int, 1, 10**3),
    "turns": Range(int, 1, 10**6),
    "seconds": Range(int, 1, 10**6),
    "minutes": Range(float, 1e-3, 24 * 60),
    "call": Range(int, 1, 10**6),
    "seeds": Range(int, 1, 10**6),
    "least": Range(int, 1, 10**6),
    "configurations": Range(int, 1, 10**9),
    "number": Range(int, 1, 10**9),
    "first": Range(int, 0, 10**9),
    "kills": Range(int, 1, 10**6),
}


def checked(name: str, value: object) -> Any:
    """An argument of that name in the table, an `int` or a `float` as that says, see `Range.checked`."""
    return RANGES[name].checked(name, value)
