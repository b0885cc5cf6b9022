"""docs/hashing.md in plain Python integers, written from that page alone; shares no code with the package."""

import hashlib

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


def read(name, seed, row, *, width, prefix, block, shared_numel, rows, base, sign):
    """[(address, sign)] of the width coordinates of one row."""
    places = []
    for j in range(width):
        if j < prefix:
            assert 0 <= row < rows
            places.append((base + row * prefix + j, 1))
        else:
            b = (j - prefix) // block
            slot, s = shared_block(name, seed, row, b, shared_numel // block)
            places.append((block * slot + (j - prefix) % block, s if sign else 1))
    return places


def robe(first_row, row, *, width, block, numel):
    P, R1, R2, R3 = 2038074743, 634329019, 1825252241, 871205356
    v = first_row + row
    return [((R3 * v + R2 * (j // block) + R1) % P) % (numel - block + 1) + j % block for j in range(width)]


def size(x):
    return (x + 15) // 16 * 16


def allocate(tables, array_bytes, itemsize, *, exact, exact_fraction, width, prefix, block_size):
    """Section 3. tables: [(name, rows, D)]; width: int, None or dict; prefix: int or dict. Returns (S, N, {name: ...})."""

    def named(value, name):
        return isinstance(value, dict) and name in value

    def not_exact(name, dim):
        d = width[name] if named(width, name) else min(width, dim) if isinstance(width, int) else dim
        p = prefix[name] if named(prefix, name) else prefix if isinstance(prefix, int) else 0
        z = block_size or next(c for c in (4, 2, 1) if (d - p) % c == 0)
        return d, p, z

    def as_exact(name, dim):
        d = width[name] if named(width, name) else dim
        return d, d, 1

    def numel(shapes):
        projections = sum(d * dim for (_, _, dim), (d, _, _) in zip(tables, shapes, strict=True) if d < dim)
        return max(array_bytes - 4 * projections, 0) // itemsize // 16 * 16

    def regions(shapes):
        return sum(size(rows * p) for (_, rows, _), (_, p, _) in zip(tables, shapes, strict=True))

    def minimum(shapes):
        widest = max(d - p for d, p, _ in shapes)
        return size(widest) if widest else 0

    if exact == "auto":
        candidates = [t for t in tables if not named(width, t[0]) and not named(prefix, t[0])]
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
    shapes = [as_exact(n, dim) if n in exact else not_exact(n, dim) for n, _, dim in tables]
    shared = numel(shapes) - regions(shapes) if minimum(shapes) else 0
    bases, next_base = {}, shared
    for (name, rows, _), (_, p, _) in sorted(zip(tables, shapes, strict=True), key=lambda pair: pair[0][0]):
        bases[name] = next_base
        next_base += size(rows * p)
    places = {name: (*shape, bases[name]) for (name, _, _), shape in zip(tables, shapes, strict=True)}
    return shared, next_base, places
