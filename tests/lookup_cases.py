"""Random arguments of the lookup op, from tiny to odd, for every test that compares kernels."""

import random

import torch

from torchrec_pss.ops import HASH_MIX64, HASH_ROBE, FeatureColumn, PoolingMode, feature_matrix, hot_directory
from torchrec_pss.ops.features import read_width
from torchrec_pss.ops.hashing import hot_keys_of, shortened, to_signed


def random_case(seed: int, dtype: torch.dtype | None = None) -> dict:
    """Keyword arguments for `torchrec_pss.ops.lookup`."""
    draw = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    dtype = dtype or draw.choice([torch.float32] * 3 + [torch.float64, torch.bfloat16, torch.float16])
    hash_kind = draw.choice([HASH_MIX64] * 4 + [HASH_ROBE])
    pooling = draw.choice(list(PoolingMode))
    num_features, batch_size = draw.choice([1, 1, 2, 5]), draw.choice([0, 1, 1, 2, 7, 33, 150, 150])
    numel = draw.choice([16, 64, 1000, 4096])
    block = draw.choice([1, 2, 3, 4, 5, 8, 16])
    common_width = block * draw.randint(1, 4)
    rows, features, hot_keys = draw.choice([1, 2, 10]), [], []
    for _ in range(num_features):
        width = common_width if pooling == PoolingMode.NONE else block * draw.randint(1, 4)
        # Block multiples keep what is left after the prefix divisible.
        prefix = 0 if hash_kind == HASH_ROBE else draw.choice([0, 0, width, block * draw.randint(0, width // block)])
        if prefix * rows > numel:
            prefix = 0
        key = draw.randrange(1000) if hash_kind == HASH_ROBE else to_signed(draw.getrandbits(64))
        # Hot are the ids 0 .. 3, which those below meet where a table has few rows, and some that nothing meets.
        num_hot = 0 if hash_kind == HASH_ROBE or prefix == width else draw.choice([0, 0, 1, 4, 9, 40])
        num_hot = min(num_hot, numel // (width - prefix)) if num_hot else 0
        hot_begin = sum(map(len, hot_keys))
        drop = draw.choice([0, 0, 22, 26])
        hot_keys.append(shortened(hot_keys_of(key, torch.arange(num_hot)), drop).unique())
        num_hot = len(hot_keys[-1])
        directory, shift = hot_directory(hot_keys[-1]) if num_hot and draw.random() < 0.7 else (None, 0)
        first = 0 if hash_kind == HASH_ROBE else draw.choice([0, draw.randint(0, numel - block)])
        features.append(
            {
                FeatureColumn.KEY: key,
                FeatureColumn.ROWS: rows if prefix else 1 << 31,
                FeatureColumn.WIDTH: width,
                FeatureColumn.PREFIX: prefix,
                FeatureColumn.BASE: draw.randint(0, numel - prefix * rows) if prefix else 0,
                FeatureColumn.BLOCK: block,
                FeatureColumn.SLOTS: numel - block + 1 if hash_kind == HASH_ROBE else (numel - first) // block,
                FeatureColumn.FIRST: first,
                FeatureColumn.HOT_BEGIN: hot_begin,
                FeatureColumn.HOT_END: hot_begin + num_hot,
                FeatureColumn.HOT_BASE: draw.randint(0, numel - num_hot * (width - prefix)) if num_hot else 0,
                FeatureColumn.HOT_DIRECTORY: sum(map(len, hot_keys)) if shift else 0,
                FeatureColumn.HOT_SHIFT: shift,
                FeatureColumn.HOT_DROP: drop,
            }
        )
        if shift:
            hot_keys.append(directory)
    longest = draw.choice([0, 1, 1, 3, 20])
    lengths = torch.randint(draw.choice([0, longest]), longest + 1, (num_features * batch_size,), generator=generator)
    if batch_size and draw.random() < 0.05:
        lengths[draw.randrange(len(lengths))] = 700  # one huge bag
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    index_dtype, repeated = draw.choice([torch.int32, torch.int64]), draw.random() < 0.4
    indices = []
    for f, feature in enumerate(features):
        count = int(lengths[f * batch_size : (f + 1) * batch_size].sum())
        if feature[FeatureColumn.PREFIX]:
            low, high = 0, rows
        elif hash_kind == HASH_ROBE:
            low, high = 0, 1 << 31
        else:
            low, high = (-(1 << 31), 1 << 31) if index_dtype == torch.int32 else (-(1 << 63), (1 << 63) - 1)
        ids = torch.randint(low, high, (count,), generator=generator)
        if feature[FeatureColumn.HOT_END] > feature[FeatureColumn.HOT_BEGIN]:
            meets = torch.rand(count, generator=generator) < 0.5
            ids = torch.where(meets, torch.randint(0, min(high, 9), (count,), generator=generator), ids)
        if repeated:
            ids = ids[torch.randint(0, max(count // 3, 1), (count,), generator=generator)]
        indices.append(ids)
    acc = torch.float64 if dtype == torch.float64 else torch.float32
    weighted = draw.random() < 0.5
    projections, dims = _project(draw, generator, features, pooling, acc)
    matrix = feature_matrix(features, torch.device("cpu"))
    return {
        "array": torch.randn(numel, generator=generator).to(dtype),
        "features": matrix,
        "hot_keys": torch.cat(hot_keys),
        "projections": projections,
        "indices": torch.cat(indices).to(index_dtype),
        "offsets": offsets.to(draw.choice([torch.int32, torch.int64])),
        "per_sample_weights": torch.randn(int(lengths.sum()), generator=generator).to(acc) if weighted else None,
        "total_width": dims[0] if pooling == PoolingMode.NONE else sum(dims),
        "read_width": read_width(matrix[:, FeatureColumn.INNER].tolist(), pooling),
        "pooling_mode": int(pooling),
        "hash_kind": hash_kind,
        "sign": draw.random() < 0.7,
    }


_SIZES = [
    0,
    1,
    2,
    3,
    31,
    32,
    63,
    1 << 20,
    (1 << 20) + 1,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    1 << 61,
    (1 << 63) - 1,
]


def damaged_case(seed: int) -> tuple[dict, bool]:
    """A random case of which one or two numbers of metadata are others, of all sizes; and whether what is read is told, which it is not
    of hot keys that are not in their order."""
    draw, case = random.Random(seed), random_case(seed % 500)
    features = case["features"]
    told = True
    for _ in range(draw.randint(1, 2) if len(features) else 0):
        f, column = draw.randrange(len(features)), FeatureColumn(draw.randrange(1, len(FeatureColumn)))
        value = draw.choice([*_SIZES, len(case["array"]), int(features[f, draw.randrange(1, len(FeatureColumn))])])
        features[f, column] = draw.choice([value, value, -value, value - 1])
        told &= not column.name.startswith("HOT")
    return case, told


def _project(
    draw: random.Random, generator: torch.Generator, features: list[dict], pooling: PoolingMode, dtype: torch.dtype
) -> tuple[torch.Tensor, list[int]]:
    """Projections for none or some of the features, with and without a bias, now and then one for two of them; and what the features
    are wide then."""
    widths = [f[FeatureColumn.WIDTH] for f in features]
    if draw.random() < 0.5:
        return torch.zeros(0, dtype=dtype), widths
    common = draw.choice([1, 3, 16, 20, 33])
    numel = draw.randint(0, 3)  # elements of none
    for number, feature in enumerate(features):
        width = feature[FeatureColumn.WIDTH]
        if pooling == PoolingMode.NONE:
            inner, dim = width + draw.randint(0, 1), common
        else:
            inner, dim = draw.choice([(0, 0), (width + draw.randint(0, 1), draw.choice([1, 3, 16, 20, 33]))])
        earlier = [f for f in features[:number] if f[FeatureColumn.INNER] == inner and f[FeatureColumn.DIM] == dim]
        begin = numel
        if earlier and draw.random() < 0.5:
            begin = earlier[0][FeatureColumn.PROJECTION]
        else:
            numel += inner * dim
        feature |= {FeatureColumn.PROJECTION: begin, FeatureColumn.INNER: inner, FeatureColumn.DIM: dim}
    dims = [f[FeatureColumn.DIM] or f[FeatureColumn.WIDTH] for f in features]
    return torch.randn(numel, generator=generator, dtype=dtype), dims


def of_backward(case: dict) -> dict:
    """The case's arguments that the op's backward takes, behind ``grad`` and ``saved``: the widths are those of its tensors."""
    return {name: value for name, value in case.items() if name not in ("total_width", "read_width")}


def positional(case: dict) -> tuple:
    """The case as the positional arguments of the dispatcher's op."""
    return tuple(case.values())


def on_threads(number, function):
    """What ``function()`` returns where torch has so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        return function()
    finally:
        torch.set_num_threads(before)
