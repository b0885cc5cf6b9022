"""Which kernels serve a group of features: in their order, each with its constants, rows a tile and warps. Nothing else chooses them.

Each function is called once for what it is told; `torchrec_pss.ops.triton.prepared` keeps what it returns. Kernels take what they need of
the values that a lookup has, by name.
"""

from dataclasses import dataclass
from typing import Any

from torchrec_pss.ops.features import PoolingMode
from torchrec_pss.ops.triton import tiling
from torchrec_pss.ops.triton.backward import backward_kernel, projection_kernel
from torchrec_pss.ops.triton.forward import forward_kernel
from torchrec_pss.ops.triton.launch import Kernel, options
from torchrec_pss.ops.triton.launches import Launch, ProjectionLaunch
from torchrec_pss.ops.triton.product import product_kernel, read_gradient_kernel
from torchrec_pss.ops.triton.variants import Backward, Forward, Product, Projection

_OF_THE_GROUP = ("metadata", "num_features")
FORWARD_VALUES = (
    *_OF_THE_GROUP, "array", "group_scales", "hot_keys", "projections", "indices", "offsets", "weights", "out", "read", "numbers", "fine",
    "batch_size", "num_indices", "out_stride", "read_stride",
)  # fmt: skip
BACKWARD_VALUES = (
    *_OF_THE_GROUP, "grad", "array", "group_scales", "numbers", "projections", "indices", "offsets", "weights", "grad_array", "grad_weights",
    "fine", "grad_read", "places", "contributions", "batch_size", "num_indices", "grad_stride", "read_stride", "factor",
)  # fmt: skip
PROJECTION_VALUES = (
    *_OF_THE_GROUP, "grad", "read", "grad_read", "projections", "offsets", "partials", "batch_size", "grad_stride", "read_stride", "partial_stride", "tiles",
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """What compiled code depends on, beside the group.

    Attributes:
        weighted: whether ids have weights.
        narrow: whether places in the array need no more than 31 bits.
        bits: of an element.
        ids_a_bag: on average, or what stands for so many.
    """

    pooling_mode: int
    weighted: bool
    hash: int
    sign: bool
    narrow: bool
    bits: int
    ids_a_bag: float


def forward_constants(group: Launch, v: Forward) -> dict[str, Any]:
    """Those of `forward_kernel` that group and variant decide."""
    return _of_group(group) | {
        "T": v.rows, "IDS": v.ids, "PROBES": v.probes, "STORE": v.store, "MULTIPLIES": group.projected and v.product is None,
    }  # fmt: skip


def product_constants(group: Launch, v: Product) -> dict[str, Any]:
    """Those of `product_kernel`."""
    return {
        "T": v.rows, "WIDTH": group.vec * group.units, "DIM": group.dim, "DOT": v.dot, "ALIGNED": group.aligned, "STORE": v.store,
    }  # fmt: skip


def backward_constants(group: Launch, v: Backward, multiplies: bool) -> dict[str, Any]:
    """Those of `backward_kernel`.

    Args:
        multiplies: whether reads' gradients, of a projected group, are not in ``grad_read`` yet.
    """
    return _of_group(group) | {
        "T": v.rows, "CHUNK": v.columns, "IDS": v.ids, "MULTIPLIES": multiplies, "MERGES": v.merges,
    }  # fmt: skip


def projection_constants(group: ProjectionLaunch, v: Projection, adds: bool) -> dict[str, Any]:
    """Those of `read_gradient_kernel` and `projection_kernel`."""
    return {
        "T": v.rows, "WIDTH": group.width, "DIM": group.dim, "CHUNK": v.columns, "ALIGNED": group.aligned, "ADDS": adds,
    }  # fmt: skip


def forward_kernels(group: Launch, kind: Kind) -> list[Kernel]:
    """Those of a forward, which take `FORWARD_VALUES`."""
    v = tiling.current().forward(group, kind.ids_a_bag)
    constants = forward_constants(group, v) | _of_kind(kind)
    kernels = [_of_tiles(forward_kernel, FORWARD_VALUES, group, v.rows, constants, options(v.warps, v.registers))]
    if group.projected and v.product is not None:
        p = v.product
        constants = product_constants(group, p) | {"POOLING": kind.pooling_mode}
        kernels.append(_of_tiles(product_kernel, FORWARD_VALUES, group, p.rows, constants, options(p.warps)))
    return kernels


def backward_kernels(group: Launch, kind: Kind, by_sorting: bool, multiplies: bool) -> list[Kernel]:
    """Those of a backward, which take `BACKWARD_VALUES`; see `backward_constants`."""
    v = tiling.current().backward(group, kind.ids_a_bag)
    constants = backward_constants(group, v, multiplies) | _of_kind(kind) | {"SORTED": by_sorting}
    return [_of_tiles(backward_kernel, BACKWARD_VALUES, group, v.rows, constants, options(v.warps, v.registers))]


@dataclass(frozen=True)
class ProjectionChoice:
    """Kernels that add up projections' gradients.

    Attributes:
        kernels: in their order; ``programs`` are from the number of sums that a gradient is made of.
        rows: of a tile.
        programs: of each sum.
        reads: whether they give the reads' gradients too.
    """

    kernels: list[Kernel]
    rows: int
    programs: int
    reads: bool


def projection_choices(
    groups: list[ProjectionLaunch], pooling_mode: int, by_sorting: bool
) -> tuple[list[ProjectionChoice], bool]:
    """Those of the projections' gradients, which take `PROJECTION_VALUES`; and whether all add to one sum."""
    variants = [tiling.current().projection(group) for group in groups]
    adds = not by_sorting and all(v.adds for v in variants)
    return [_projection(group, v, pooling_mode, adds) for group, v in zip(groups, variants, strict=True)], adds


def _projection(group: ProjectionLaunch, v: Projection, pooling_mode: int, adds: bool) -> ProjectionChoice:
    constants = projection_constants(group, v, adds) | {"POOLING": pooling_mode}
    programs = group.num_features * (1 if v.reads else group.dim // v.columns)
    kernel = read_gradient_kernel if v.reads else projection_kernel
    made = Kernel(kernel, PROJECTION_VALUES, constants, options(v.warps), lambda sums: sums * programs)
    return ProjectionChoice([made], v.rows, programs, v.reads)


def _of_tiles(
    kernel: Any, names: tuple[str, ...], group: Launch, rows: int, constants: dict[str, Any], how: dict[str, int]
) -> Kernel:
    """One program a feature and a tile of ``rows`` rows."""
    num_features = group.num_features
    return Kernel(kernel, names, constants, how, lambda all_rows: -(-all_rows // rows) * num_features)


def _of_group(group: Launch) -> dict[str, Any]:
    return {
        "VEC": group.vec,
        "UNITS": group.units,
        "DIM": group.dim,
        "PROJECTED": group.projected,
        "HASHED": group.hashed,
        "HOT": group.hot,
        "CHECKED": group.checked,
        "ALIGNED": group.aligned,
    }


def _of_kind(kind: Kind) -> dict[str, Any]:
    found = {
        "POOLING": kind.pooling_mode,
        "WEIGHTED": kind.weighted,
        "HASH": kind.hash,
        "SIGN": kind.sign,
        "NARROW": kind.narrow,
        "BITS": kind.bits,
    }
    # An index that is not pooled is alone.
    return found | ({"IDS": 1} if kind.pooling_mode == PoolingMode.NONE else {})
