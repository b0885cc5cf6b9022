"""docs/how/hashing.md in plain Python integers, written from that page alone; shares no code with the package."""

import hashlib
import math
import struct

MASK = (1 << 64) - 1
G = 0x9E3779B97F4A7C15


def mix64(x):
    x ^= x >> 30
    x = x * 0xBF58476D1CE4E5B9 & MASK
    x ^= x >> 27
    x = x * 0x94D049BB133111EB & MASK
    return x ^ x >> 31


def table_key(name, seed):
    name_key = int.from_bytes(hashlib.sha256(name.encode("utf-8")).digest()[:8], "little")
    return mix64((name_key + mix64((seed + G) & MASK)) & MASK)


def shared_block(name, seed, row, block, slots):
    row_hash = mix64((row & MASK) ^ table_key(name, seed))
    h = mix64((row_hash + (block + 1) * G) & MASK)
    return h * slots >> 64, -1 if h & 1 else 1


def hot_key(name, seed, row):
    key = mix64((row & MASK) ^ table_key(name, seed)) >> 32 ^ 0x80000000
    return key - (1 << 32) if key >> 31 else key


def kept_keys(name, seed, listed, short):
    """Section 6: ascending, and what a key is a multiple of."""
    keys, unit = {hot_key(name, seed, i) for i in listed}, 1
    if short and keys:
        for m in range(32, 8, -1):
            unit = 2 ** (32 - m)
            short = {key // unit for key in keys}
            if m <= 9 + math.floor(math.log2(len(short))):
                break
    return sorted({key // unit * unit for key in keys}), unit


def read(
    name,
    seed,
    row,
    *,
    width,
    prefix,
    block,
    shared_numel,
    rows,
    base,
    sign,
    first=0,
    hot=(),
    hot_base=0,
    bits=32,
    short_keys=False,
):
    """[(address, sign)] of the width coordinates of one row."""
    places = []
    keys, unit = kept_keys(name, seed, hot, short_keys or bits < 32)
    own_key = hot_key(name, seed, row) // unit * unit
    for j in range(width):
        if j < prefix:
            assert 0 <= row < rows
            places.append((base + row * prefix + j, 1))
        elif own_key in keys:
            places.append((hot_base + keys.index(own_key) * (width - prefix) + j - prefix, 1))
        else:
            b = (j - prefix) // block
            slot, s = shared_block(name, seed, row, b, shared_numel // block)
            places.append((first + block * slot + (j - prefix) % block, s if sign else 1))
    return places


def robe(first_row, row, *, width, block, numel):
    P, R1, R2, R3 = 2038074743, 634329019, 1825252241, 871205356
    v = first_row + row
    return [((R3 * v + R2 * (j // block) + R1) % P) % (numel - block + 1) + j % block for j in range(width)]


def size(x):
    return (x + 15) // 16 * 16


def most_stored(room, bits):
    """Section 6: the most elements, a multiple of 16, that fit so many bytes."""
    n = room // (8 * bits + 2) * 64
    return max(m for m in range(n, n + 64, 16) if m * bits // 8 + 2 * -(-m // 64) <= room)


def fp32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def bf16(x):
    """Rounded to even."""
    (word,) = struct.unpack("<I", struct.pack("<f", x))
    return struct.unpack("<f", struct.pack("<I", (word + 0x7FFF + (word >> 16 & 1)) >> 16 << 16))[0]


def quantize(bits, *elements):
    """Section 6: scale and codes of a group."""
    half = 2 ** (bits - 1)
    largest = max(map(abs, elements))
    scale = max(bf16(fp32(largest * fp32(1 / (half - 0.5)))), 2.0**-126)
    inverse = fp32(1 / scale)
    return scale, [min(max(math.floor(fp32(x * inverse)), -half), half - 1) for x in map(fp32, elements)]


def allocate(
    tables,
    array_bytes,
    itemsize,
    *,
    exact,
    exact_fraction,
    width,
    prefix,
    block_size,
    hot=None,
    segments=False,
    bias=False,
    bits=32,
    short_keys=False,
    slices=None,
):
    """Section 3. tables: [(name, rows, D)]; width: int, None or dict; prefix: int or dict; hot: {name: ids}.
    Returns (S, N, {name: (d, p, Z, base, F, hot rows, hot_base)})."""
    hot, short, given = hot or {}, short_keys or bits < 32, slices or {}
    segments = segments or slices is not None

    def named(value, name):
        return isinstance(value, dict) and name in value

    def keys(name):
        return kept_keys(name, 0, hot.get(name, ()), short)[0]

    def not_exact(name, dim):
        d = width[name] if named(width, name) else min(width, dim) if isinstance(width, int) else dim
        p = prefix[name] if named(prefix, name) else prefix if isinstance(prefix, int) else 0
        z = block_size or next(c for c in (4, 2, 1) if (d - p) % c == 0)
        return d, p, z, len(keys(name)) if d > p else 0

    def as_exact(name, dim):
        d = width[name] if named(width, name) else dim
        return d, d, 1, 0

    def numel(shapes):
        keys = sum(h for _, _, _, h in shapes)
        projected = sum((d + bias) * dim for (_, _, dim), (d, _, _, _) in zip(tables, shapes, strict=True) if d < dim)
        beside = (11 * keys + 7) // 8 if short else 4 * keys
        beside += 4 * projected if bits == 32 else projected + 2 * ((projected + 63) // 64)
        left = max(array_bytes - beside, 0)
        return left // itemsize // 16 * 16 if bits == 32 else most_stored(left, bits)

    def regions(shapes):
        return sum(
            size(rows * p) + size(h * (d - p)) for (_, rows, _), (d, p, _, h) in zip(tables, shapes, strict=True)
        )

    def minimum(shapes):
        shapes = list(shapes)
        names = [n for n, _, _ in tables] if len(shapes) == len(tables) else None
        sizes = [size(d - p) for d, p, _, _ in shapes]
        if given:
            sizes = [size(given.get(n, d - p)) if d > p else 0 for n, (d, p, _, _) in zip(names, shapes, strict=True)]
        return sum(sizes) if segments else max(sizes, default=0)

    if exact == "auto":
        candidates = [t for t in tables if not any(named(v, t[0]) for v in (width, prefix, hot, given))]
        shapes = [as_exact(n, dim) if (n, r, dim) in candidates else not_exact(n, dim) for n, r, dim in tables]
        if regions(shapes) + minimum(shapes) <= numel(shapes):
            exact = [t[0] for t in candidates]
        else:
            shapes = [not_exact(n, dim) for n, _, dim in tables]
            room = min(exact_fraction * numel(shapes), numel(shapes) - regions(shapes) - minimum(shapes))
            exact, used = [], 0
            for name, rows, dim in sorted(candidates, key=lambda t: (t[1] * t[2], t[0])):
                used += size(rows * dim)
                if used > room:
                    break
                exact.append(name)
    shapes = {n: as_exact(n, dim) if n in exact else not_exact(n, dim) for n, _, dim in tables}
    rows_of = {n: r for n, r, _ in tables}
    shared = numel(list(shapes.values())) - regions(list(shapes.values())) if minimum(shapes.values()) else 0
    slices = dict.fromkeys(shapes, 0)
    if segments and shared:

        def slice_sizes(c):
            return {
                n: size(given[n] if n in given else min(max(rows_of[n] - h, 1), c) * (d - p)) if d > p else 0
                for n, (d, p, _, h) in sorted(shapes.items())
            }

        c = 1
        others = [rows_of[n] for n in shapes if n not in given]
        while sum(slice_sizes(c + 1).values()) <= shared and c < max(others, default=0):
            c += 1
        at = 0
        for n, numel_of in slice_sizes(c).items():
            slices[n], at = at, at + numel_of
        shared = at
    bases, hot_bases, next_place = {}, {}, shared
    for name in sorted(shapes):
        bases[name] = next_place
        next_place += size(rows_of[name] * shapes[name][1])
    for name in sorted(shapes):
        hot_bases[name] = next_place
        next_place += size(shapes[name][3] * (shapes[name][0] - shapes[name][1]))
    places = {
        n: (*shapes[n][:3], bases[n], slices[n] if shapes[n][0] > shapes[n][1] else 0, shapes[n][3], hot_bases[n])
        for n, _, _ in tables
    }
    return shared, next_place, places
