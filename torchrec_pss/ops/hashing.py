"""The hash of docs/how/hashing.md, version 2, on int64 tensors: the readable reference.

PyTorch has no full unsigned 64-bit arithmetic, so numbers are int64 in two's complement:
multiplication and addition wrap as the specification wants, and a logical shift is an
arithmetic one with its sign bits masked off.
"""

import hashlib

import torch

HASH_MIX64 = 0
"""The hash of a layout: this package's own, `docs/how/hashing.md`, section 2."""

HASH_ROBE = 1
"""The hash of a layout: that of the authors' released code, section 4."""

GOLDEN = 0x9E3779B97F4A7C15
MULTIPLIER_1 = 0xBF58476D1CE4E5B9
MULTIPLIER_2 = 0x94D049BB133111EB

# The authors' constants (section 4); R = RandomState(1024).randint(0, ROBE_P, 50), checked by a test.
ROBE_P = 2038074743
ROBE_R1 = 634329019
ROBE_R2 = 1825252241
ROBE_R3 = 871205356


def to_signed(value: int) -> int:
    """The int64 with the same 64 bits as ``value`` (taken modulo 2^64)."""
    value &= 0xFFFFFFFFFFFFFFFF
    return value - (1 << 64) if value >> 63 else value


def _shift_right(x: torch.Tensor, bits: int) -> torch.Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix64(x: torch.Tensor) -> torch.Tensor:
    """SplitMix64's finaliser, elementwise on an int64 tensor of any shape."""
    x = (x ^ _shift_right(x, 30)) * to_signed(MULTIPLIER_1)
    x = (x ^ _shift_right(x, 27)) * to_signed(MULTIPLIER_2)
    return x ^ _shift_right(x, 31)


def table_key(name: str, seed: int) -> int:
    """The signed 64-bit key of a table: a function of its name and the seed alone."""
    name_key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    seed_key = int(mix64(torch.tensor(to_signed(seed + GOLDEN))))
    return int(mix64(torch.tensor(to_signed(name_key + seed_key))))


def block_hashes(key: int, ids: torch.Tensor, num_blocks: int) -> torch.Tensor:
    """``h(b)`` for every id and block: int64 ``[len(ids), num_blocks]``."""
    row_hash = mix64(ids.to(torch.int64) ^ key)
    step = torch.arange(1, num_blocks + 1, device=ids.device) * to_signed(GOLDEN)
    return mix64(row_hash[:, None] + step[None, :])


def hot_keys_of(key: int, ids: torch.Tensor) -> torch.Tensor:
    """The keys by which hot rows are found: int32 ``[len(ids)]``, the upper half of the row's hash with its first bit
    turned over, so that signed numbers sort as the unsigned ones do."""
    row_hash = mix64(ids.to(torch.int64) ^ key)
    return ((row_hash >> 32) ^ -(1 << 31)).to(torch.int32)


def shortened(keys: torch.Tensor, drop: int) -> torch.Tensor:
    """Keys without their lower ``drop`` bits, which are 0 then: int32 ``[K]``, in the same order."""
    return (keys >> drop) << drop


def slots(hashes: torch.Tensor, num_slots: int) -> torch.Tensor:
    """``(h * num_slots) >> 64`` on unsigned numbers, ``num_slots < 2^32``."""
    high = _shift_right(hashes, 32) * num_slots
    low = _shift_right((hashes & 0xFFFFFFFF) * num_slots, 32)
    return _shift_right(high + low, 32)


def signs(hashes: torch.Tensor) -> torch.Tensor:
    """-1 where the lowest bit is set, else +1 (int64)."""
    return 1 - 2 * (hashes & 1)


def robe_offsets(first_row: int, ids: torch.Tensor, num_blocks: int, num_places: int) -> torch.Tensor:
    """First element of each block under ``hash="robe"``: int64 ``[len(ids), num_blocks]``.

    ``first_row`` is the number of rows of the tables before this one, ``num_places`` is
    ``N - Z + 1``. Exact in int64 while there are fewer than 2^32 rows in all.
    """
    rows = ids.to(torch.int64) + first_row
    blocks = torch.arange(num_blocks, device=ids.device)
    mixed = ROBE_R3 * rows[:, None] + (ROBE_R2 * blocks + ROBE_R1)[None, :]
    return mixed % ROBE_P % num_places
