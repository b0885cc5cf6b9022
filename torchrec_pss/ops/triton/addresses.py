"""Where the rows of a tile live in the array: docs/how/hashing.md in Triton, bit for bit as on the CPU."""

import triton
import triton.language as tl

from torchrec_pss.ops import hashing
from torchrec_pss.ops.hashing import HASH_ROBE
from torchrec_pss.ops.triton.columns import (
    BASE,
    BLOCK,
    FIRST,
    HOT_BASE,
    HOT_BEGIN,
    HOT_DIRECTORY,
    HOT_DROP,
    HOT_END,
    HOT_SHIFT,
    KEY,
    PREFIX,
    ROWS,
    SLOTS,
    UNITS_OF_ROW,
)

_GOLDEN = tl.constexpr(hashing.GOLDEN)
_MULTIPLIER_1 = tl.constexpr(hashing.MULTIPLIER_1)
_MULTIPLIER_2 = tl.constexpr(hashing.MULTIPLIER_2)
_ROBE = tl.constexpr(HASH_ROBE)
_ROBE_P = tl.constexpr(hashing.ROBE_P)
_ROBE_R1 = tl.constexpr(hashing.ROBE_R1)
_ROBE_R2 = tl.constexpr(hashing.ROBE_R2)
_ROBE_R3 = tl.constexpr(hashing.ROBE_R3)


@triton.jit
def mix64(x):
    """SplitMix64's finaliser on uint64."""
    x = (x ^ (x >> 30)) * _MULTIPLIER_1
    x = (x ^ (x >> 27)) * _MULTIPLIER_2
    return x ^ (x >> 31)


@triton.jit
def hot_numbers(ids, live, hot_keys, feature, PROBES: tl.constexpr):
    """The number of each hot row among its table's, -1 of others: int32 ``[T]``.

    Searched for among the keys that share the upper bits, or among all where there is no directory: the first ``PROBES`` are compared
    at once, none of whose loads waits for another; the rest, which few rows have, by a binary search."""
    row_hash = mix64((ids ^ tl.load(feature + KEY)).to(tl.uint64, bitcast=True))
    begin = tl.load(feature + HOT_BEGIN)
    count = (tl.load(feature + HOT_END) - begin).to(tl.int32)
    shift = tl.load(feature + HOT_SHIFT).to(tl.int32)
    keys = hot_keys + begin
    upper = (row_hash >> 32).to(tl.uint32)
    drop = tl.load(feature + HOT_DROP).to(tl.uint32)
    wanted = ((upper ^ 0x80000000) >> drop << drop).to(tl.int32, bitcast=True)
    if shift > 0:
        bucket = hot_keys + tl.load(feature + HOT_DIRECTORY) + (upper >> shift).to(tl.int64)
        low = tl.load(bucket, mask=live, other=0)
        high = tl.load(bucket + 1, mask=live, other=0)
    else:
        low = tl.zeros_like(wanted)
        high = tl.where(live, count, 0)
    number = tl.full(low.shape, -1, tl.int32)
    for probe in tl.static_range(PROBES):
        key = tl.load(keys + low + probe, mask=low + probe < high, other=0)
        number = tl.where((number < 0) & (low + probe < high) & (key == wanted), low + probe, number)
    low = tl.where(number < 0, tl.minimum(low + PROBES, high), high)
    end = high
    while tl.max(high - low, axis=0) > 0:
        searching = low < high
        middle = (low + high) // 2
        key = tl.load(keys + middle, mask=searching, other=0)
        low, high = tl.where(searching & (key < wanted), middle + 1, low), tl.where(key < wanted, high, middle)
    found = tl.load(keys + low, mask=live & (low < end), other=0)
    return tl.where(live & (low < end) & (found == wanted), low, number)


@triton.jit
def row_units(
    ids,
    live,
    hot_number,
    feature,
    UNITS: tl.constexpr,
    HASHED: tl.constexpr,
    HOT: tl.constexpr,
    CHECKED: tl.constexpr,
    HASH: tl.constexpr,
    SIGN: tl.constexpr,
    NARROW: tl.constexpr,
):
    """Places of the rows ``ids`` (int64 ``[T]``) in units of the launch; ``hot_number`` as of `hot_numbers`.

    Returns:
        Units and signs ``[T, UNITS]``, whether each is there to be read, and the ids that are live and valid ``[T]``.
    """
    units = tl.load(feature + UNITS_OF_ROW).to(tl.int32)
    prefix = tl.load(feature + PREFIX).to(tl.int32)
    key = tl.load(feature + KEY)
    unit = tl.arange(0, UNITS)[None, :]
    valid = live
    if CHECKED:
        valid = live & (ids >= 0) & (ids < tl.load(feature + ROWS))
    place_type: tl.constexpr = tl.int32 if NARROW else tl.int64
    there = valid[:, None] & (unit < units)
    exact = tl.load(feature + BASE) + tl.where(valid, ids, 0) * prefix
    place = exact.to(place_type)[:, None] + unit
    sign = tl.full([ids.shape[0], UNITS], 1.0, tl.float32)
    if HASHED:
        block = tl.load(feature + BLOCK).to(tl.int32)
        slots = tl.load(feature + SLOTS)
        shared = tl.maximum(unit - prefix, 0)
        if HASH == _ROBE:
            mixed = _ROBE_R3 * (ids + key)[:, None] + (_ROBE_R2 * (shared // block).to(tl.int64) + _ROBE_R1)
            first = mixed % _ROBE_P % slots
        else:
            row_hash = mix64((ids ^ key).to(tl.uint64, bitcast=True))
            hashes = mix64(row_hash[:, None] + (shared // block + 1).to(tl.uint64) * _GOLDEN)
            slot = tl.umulhi(hashes, tl.zeros_like(hashes) + slots.to(tl.uint64, bitcast=True)).to(tl.int64)
            first = tl.load(feature + FIRST) + slot * block
            if SIGN:
                sign = tl.where((unit >= prefix) & ((hashes & 1) != 0), -1.0, 1.0)
        hashed = first.to(place_type) + shared % block
        if HOT:
            is_hot = hot_number >= 0
            own = tl.load(feature + HOT_BASE) + hot_number.to(tl.int64) * (units - prefix)
            hashed = tl.where(is_hot[:, None], own.to(place_type)[:, None] + shared, hashed)
            sign = tl.where(is_hot[:, None], 1.0, sign)
        place = tl.where(unit < prefix, place, hashed)
    return place, sign, there, valid
