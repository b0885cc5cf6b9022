"""A floor under the lookup of a case, measured: all of it but finding out where the rows lie."""

import ctypes
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch

from torchrec_pss import PSSEmbeddingBagCollection
from torchrec_pss.modules.array_layout import TableLayout
from torchrec_pss.ops import FeatureColumn, PoolingMode, reference

_SOURCE = Path(__file__).with_suffix(".cpp")
_DIMS = (16, 64, 128)
_STREAMED = 1 << 20  # elements of the output from which it is written past the caches, as by csrc/lookup_cpu.cpp


class _Table(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("ids", "places", "projection", "numbers", "reads")] + [
        (name, ctypes.c_int64) for name in ("prefix", "block", "pieces", "width", "inner", "count")
    ]


@cache
def _library() -> ctypes.CDLL | None:
    """None where g++ or AVX2 is missing."""
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return None
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "floor.so"
        command = [
            "g++",
            "-O3",
            "-std=c++20",
            "-mavx2",
            "-mfma",
            "-fopenmp",
            "-shared",
            "-fPIC",
            str(_SOURCE),
            "-o",
            built,
        ]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return ctypes.CDLL(str(built))


def _places(module: PSSEmbeddingBagCollection, feature: int, ids: torch.Tensor) -> torch.Tensor:
    """Where the pieces of the distinct ids' rows begin, in the order of their first occurrence: int32 ``[distinct, pieces]``."""
    _, first = np.unique(ids.numpy(), return_index=True)
    distinct = ids[torch.from_numpy(np.sort(first))]
    given = module._arguments([feature], PoolingMode.SUM)
    features = given["features"].clone()
    features[:, FeatureColumn.INNER] = 0
    width, prefix, block = (
        int(features[0, c]) for c in (FeatureColumn.WIDTH, FeatureColumn.PREFIX, FeatureColumn.BLOCK)
    )
    # An array that holds its own indices is read.
    indices = torch.arange(module.array.numel(), dtype=torch.float64)
    offsets, none = torch.arange(len(distinct) + 1), indices.new_empty(0)
    read, _ = reference.lookup(
        indices,
        features,
        given["hot_keys"],
        none,
        distinct,
        offsets,
        None,
        width,
        0,
        PoolingMode.SUM,
        given["hash_kind"],
        False,
    )
    begins = ([0] if prefix else []) + list(range(prefix, width, block))
    return read[:, begins].to(torch.int32).contiguous()


def floor(
    module: PSSEmbeddingBagCollection, batches: list[torch.Tensor], ids_per_bag: int, threads: int, grad: torch.Tensor
):
    """Forward and step, for a benchmark, on an array of its own; None where it cannot be built.

    Args:
        module: whose layout it has: one feature a table, fp32, SUM.
        batches: of ids, int64 ``[features, bags * ids_per_bag]`` each.
        grad: fp32 ``[bags, features * dim]``.
    """
    library = _library()
    dim = module.layout.tables[0].embedding_dim
    if library is None or dim not in _DIMS:
        return None
    features, n = batches[0].shape
    bags = n // ids_per_bag
    array = module.array.detach().clone()
    out = torch.empty_like(grad)
    numbers = torch.empty(features, n, dtype=torch.int32)
    keep = [array, out, numbers, grad, batches]
    tables = []
    widest = max(-(-(t.width + t.bias) // 8) * 8 for t in module.layout.tables)
    reads = torch.empty(features, n, widest)
    projections = {t.name: module.projection(t.name).detach().clone() for t in module.layout.tables if t.is_projected}
    keep += [reads, projections]

    def table(number: int, layout: TableLayout, ids: torch.Tensor) -> _Table:
        places = _places(module, number, ids)
        keep.append(places)
        projection = projections.get(layout.name)
        inner = 0 if projection is None else len(projection)
        pointers = [ids, places, projection, numbers[number], reads[number]]
        sizes = [layout.prefix, max(layout.block, 1), places.shape[1], layout.width, inner, 0]
        return _Table(*[None if p is None else p.data_ptr() for p in pointers], *sizes)

    for ids in batches:
        made = [table(i, layout, ids[i]) for i, layout in enumerate(module.layout.tables)]
        tables.append((_Table * features)(*made))
    sizes = [ctypes.c_int64(v) for v in (features, bags, ids_per_bag, dim)]
    stream = int(out.numel() > _STREAMED and out.data_ptr() % 32 == 0)
    rate = ctypes.c_float(0.01)

    def run(batch: int, gradient: torch.Tensor | None) -> None:
        pointers = [ctypes.c_void_p(None if p is None else p.data_ptr()) for p in (array, out, gradient)]
        library.run(tables[batch], *sizes, *pointers, rate, stream, threads)

    def forward(batch: int) -> torch.Tensor:
        run(batch, None)
        return out

    def step(batch: int) -> torch.Tensor:
        run(batch, None)
        run(batch, grad)
        return keep[0]

    return forward, step
