"""`PackedArray`: a shared array as it is stored, and the lookup in it."""

from collections.abc import Sequence

import torch
from torch import nn

from torchrec_pss.modules.shared_array import SharedArrayModule
from torchrec_pss.ops import PoolingMode
from torchrec_pss.ops.few_bits import FEW_BITS
from torchrec_pss.ops.packed import pack
from torchrec_pss.ops.quantize import PROJECTION_BITS, quantize

STORED_BITS = (32, 16, *FEW_BITS)


class PackedArray(nn.Module):
    """Buffers, and no parameters: elements (codes of few bits, or fp32 or fp16 numbers), scales, keys of hot rows, and projections in fp32.

    Args:
        module: a collection of a shared array that is not on the meta device.
        bits: of an element, one of `STORED_BITS`.

    Raises:
        ValueError: other bits; elements that are not finite, or whose fp16 is not.
    """

    elements: torch.Tensor
    scales: torch.Tensor | None
    projections: torch.Tensor
    hot_keys: torch.Tensor

    def __init__(self, module: SharedArrayModule, bits: int) -> None:
        super().__init__()
        if bits not in STORED_BITS:
            raise ValueError(f"bits must be one of {STORED_BITS}, got {bits}")
        array = module.array.detach().float()
        elements, scales = array.half() if bits == 16 else array, None
        if not bool(torch.isfinite(elements).all()):
            raise ValueError(f"the array is not finite{' in fp16' if bits == 16 else ''}: it cannot be stored")
        if bits in FEW_BITS:
            elements, scales = pack(array, bits)
        trained = module.projections
        projections = array.new_empty(0) if trained is None else trained.detach().float()
        if bits in FEW_BITS and projections.numel():
            projections = quantize(projections, PROJECTION_BITS)
        self.bits: int = bits if bits in FEW_BITS else 32  # of the op, which takes arrays of other dtypes as they are
        self.numel: int = array.numel()
        self.register_buffer("elements", elements.clone())
        self.register_buffer("scales", scales)
        self.register_buffer("projections", projections.clone())
        self.register_buffer("hot_keys", module._of_the_layout([0], PoolingMode.SUM, array.device)["hot_keys"])


class PackedLookup(nn.Module):
    """Some features' lookup in a `PackedArray`."""

    features: torch.Tensor

    def __init__(self, module: SharedArrayModule, positions: Sequence[int], pooling: PoolingMode) -> None:
        super().__init__()
        given = module._of_the_layout(positions, pooling, module.array.device)
        self.register_buffer("features", given["features"])
        self.total_width: int = given["total_width"]
        self.read_width: int = given["read_width"]
        self.pooling_mode: int = int(pooling)
        self.hash_kind: int = given["hash_kind"]
        self.sign: bool = given["sign"]

    def forward(
        self, array: PackedArray, ids: torch.Tensor, offsets: torch.Tensor, weights: torch.Tensor | None
    ) -> torch.Tensor:
        """fp32, as `torchrec_pss.ops.lookup.lookup` returns it."""
        return torch.ops.torchrec_pss.read(
            array.elements, array.scales, array.numel, array.bits, self.features, array.hot_keys, array.projections, ids, offsets, weights,
            self.total_width, self.read_width, self.pooling_mode, self.hash_kind, self.sign,
        )  # fmt: skip
