"""Which kernels serve a group of features: in their order, each with its constants, rows a tile and warps. Nothing else chooses them.

Each function is called once for what it is told; `torchrec_pss.ops.triton.prepared` keeps what it returns. Kernels take what they need of
the values that a lookup has, by name.
"""

from dataclasses import dataclass
from typing import Any

from torchrec_pss.ops.triton.backward import backward_kernel, projection_kernel
from torchrec_pss.ops.triton.forward import forward_kernel
from torchrec_pss.ops.triton.launch import Kernel
from torchrec_pss.ops.triton.launches import Launch, ProjectionLaunch
from torchrec_pss.ops.triton.tiling import backward_tiling, forward_tiling, projection_tiling

_OF_THE_GROUP = ("metadata", "num_features")
FORWARD_VALUES = (
    *_OF_THE_GROUP, "array", "group_scales", "hot_keys", "projections", "indices", "offsets", "weights", "out", "read", "numbers", "fine",
    "batch_size", "num_indices", "out_stride", "read_stride",
)  # fmt: skip
BACKWARD_VALUES = (
    *_OF_THE_GROUP, "grad", "array", "group_scales", "numbers", "projections", "indices", "offsets", "weights", "grad_array", "grad_weights",
    "fine", "places", "contributions", "batch_size", "num_indices", "grad_stride", "factor",
)  # fmt: skip
PROJECTION_VALUES = (
    *_OF_THE_GROUP, "grad", "read", "offsets", "partials", "batch_size", "grad_stride", "read_stride", "partial_stride", "tiles",
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """What compiled code depends on, beside the group.

    Attributes:
        weighted: whether ids have weights.
        narrow: whether places in the array need no more than 31 bits.
        bits: of an element.
    """

    pooling_mode: int
    weighted: bool
    hash: int
    sign: bool
    narrow: bool
    bits: int


def forward_kernels(group: Launch, kind: Kind) -> list[Kernel]:
    """Those of a forward, which take `FORWARD_VALUES`."""
    tiling = forward_tiling(group)
    constants = _constants(group, kind) | {"T": tiling.rows}
    return [_of_tiles(forward_kernel, FORWARD_VALUES, group, tiling.rows, constants, tiling.warps)]


def backward_kernels(group: Launch, kind: Kind, by_sorting: bool) -> list[Kernel]:
    """Those of a backward, which take `BACKWARD_VALUES`."""
    tiling = backward_tiling(group)
    constants = _constants(group, kind) | {"SORTED": by_sorting, "T": tiling.rows, "CHUNK": tiling.columns}
    return [_of_tiles(backward_kernel, BACKWARD_VALUES, group, tiling.rows, constants, tiling.warps)]


@dataclass(frozen=True)
class ProjectionChoice:
    """Kernels that add up projections' gradients.

    Attributes:
        kernels: in their order; ``programs`` are from the number of sums that a gradient is made of.
        rows: of a tile.
        programs: of each sum.
    """

    kernels: list[Kernel]
    rows: int
    programs: int


def projection_choice(group: ProjectionLaunch, pooling_mode: int) -> ProjectionChoice:
    """Those of the projections' gradients, which take `PROJECTION_VALUES`."""
    tiling = projection_tiling(group)
    constants = {
        "WIDTH": group.width, "DIM": group.dim, "ALIGNED": group.aligned, "POOLING": pooling_mode, "T": tiling.rows, "CHUNK": tiling.columns,
    }  # fmt: skip
    programs = group.num_features * (group.dim // tiling.columns)
    kernel = Kernel(projection_kernel, PROJECTION_VALUES, constants, tiling.warps, lambda sums: sums * programs)
    return ProjectionChoice([kernel], tiling.rows, programs)


def _of_tiles(
    kernel: Any, names: tuple[str, ...], group: Launch, rows: int, constants: dict[str, Any], warps: int
) -> Kernel:
    """One program a feature and a tile of ``rows`` rows."""
    num_features = group.num_features
    return Kernel(kernel, names, constants, warps, lambda all_rows: -(-all_rows // rows) * num_features)


def _constants(group: Launch, kind: Kind) -> dict[str, Any]:
    return {
        "VEC": group.vec,
        "UNITS": group.units,
        "DIM": group.dim,
        "PROJECTED": group.projected,
        "HASHED": group.hashed,
        "HOT": group.hot,
        "CHECKED": group.checked,
        "ALIGNED": group.aligned,
        "POOLING": kind.pooling_mode,
        "WEIGHTED": kind.weighted,
        "HASH": kind.hash,
        "SIGN": kind.sign,
        "NARROW": kind.narrow,
        "BITS": kind.bits,
    }
