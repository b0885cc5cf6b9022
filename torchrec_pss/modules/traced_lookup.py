"""`TracedLookup`: the lookup of a traced or scripted collection."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from torchrec_pss.ops.quantize import PROJECTION_BITS


class TracedLookup(nn.Module):
    """A collection's lookup in a traced or scripted module, which has no Python objects such as the layout.

    What follows from the layout (``features``, ``hot_keys``) is neither parameter nor buffer: a state dict, an average of buffers or
    `to_empty` would change it.
    """

    def __init__(self, given: dict[str, Any], output_dtype: torch.dtype, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.projection_bits: int = PROJECTION_BITS
        self.output_dtype = output_dtype
        self.features: torch.Tensor = given["features"]
        self.hot_keys: torch.Tensor = given["hot_keys"]
        self.total_width: int = given["total_width"]
        self.read_width: int = given["read_width"]
        self.pooling_mode: int = int(given["pooling_mode"])
        self.hash_kind: int = given["hash_kind"]
        self.sign: bool = given["sign"]

    def forward(
        self,
        array: torch.Tensor,
        projections: torch.Tensor | None,
        ids: torch.Tensor,
        offsets: torch.Tensor,
        weights: torch.Tensor | None,
    ) -> torch.Tensor:
        """As `ops.lookup`, whose arguments these are, in the output's dtype. Projections and weights may have any floating dtype."""
        dtype = torch.float64 if array.dtype == torch.float64 else torch.float32
        matrices = torch.empty(0, dtype=dtype, device=array.device) if projections is None else projections.to(dtype)
        if self.bits < 32 and projections is not None:
            matrices = torch.ops.torchrec_pss.quantize(matrices, self.projection_bits)
        features, hot_keys = self.features.to(array.device), self.hot_keys.to(array.device)
        weights = None if weights is None else weights.to(dtype)
        if self.bits < 32:
            codes, scales = torch.ops.torchrec_pss.pack(array, self.bits)
            read, _ = torch.ops.torchrec_pss.lookup_packed(
                codes, scales, array, array.numel(), self.bits, features, hot_keys, matrices, ids, offsets, weights, self.total_width,
                self.read_width, self.pooling_mode, self.hash_kind, self.sign,
            )  # fmt: skip
        else:
            read, _ = torch.ops.torchrec_pss.lookup(
                array, features, hot_keys, matrices, ids, offsets, weights, self.total_width, self.read_width, self.pooling_mode,
                self.hash_kind, self.sign,
            )  # fmt: skip
        return read.to(self.output_dtype)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "TracedLookup":
        """Moves it to where ``fn`` does, so that no lookup need."""
        device = fn(torch.empty(0, device=self.features.device)).device
        if device.type != "meta":
            with torch.inference_mode(False):
                self.features, self.hot_keys = self.features.to(device), self.hot_keys.to(device)
        return super()._apply(fn, recurse)
