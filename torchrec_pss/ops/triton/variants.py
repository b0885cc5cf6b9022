"""Ways to make a lookup of the kernels, each right for every layout. Which one is taken stands in `torchrec_pss.ops.triton.tiling`."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Product:
    """`product_kernel`: ``rows`` at a time by so many ``warps``, by `tl.dot` or by scalars; see there."""

    rows: int
    warps: int
    dot: bool
    store: str = ""


@dataclass(frozen=True)
class Forward:
    """`forward_kernel`.

    Attributes:
        rows, warps: of a program.
        ids: of a row that are read at a time.
        probes: hot keys of a bucket that are compared at a time before the binary search.
        store: the output's cache modifier; ".cs" has it leave the caches first.
        registers: at most so many a thread, or None.
        product: of projected features, a kernel of its own; None multiplies where it reads.
    """

    rows: int
    warps: int
    ids: int = 1
    probes: int = 0
    store: str = ""
    registers: int | None = None
    product: Product | None = None


@dataclass(frozen=True)
class Backward:
    """`backward_kernel`.

    Attributes:
        rows, warps, ids, registers: as a `Forward`'s.
        columns: of the gradient that are multiplied at a time.
        merges: adds up what an id gets within a program before it is added to the array.
    """

    rows: int
    warps: int
    columns: int
    ids: int = 1
    merges: bool = False
    registers: int | None = None


@dataclass(frozen=True)
class Projection:
    """The projections' gradients.

    Attributes:
        rows, columns, warps: of a program's tiles.
        adds: with atomics into one gradient, instead of partial sums that a second kernel adds up; not where sums must be deterministic.
        reads: whether one kernel gives the reads' gradients too (`read_gradient_kernel`), which `backward_kernel` then loads.
    """

    rows: int
    columns: int
    warps: int
    adds: bool = False
    reads: bool = False


def from_json(kind: type, fields: dict[str, Any]) -> Any:
    """A variant of that kind from what `dataclasses.asdict` made of it."""
    product = fields.get("product")
    return kind(**fields | ({"product": Product(**product)} if product else {}))
