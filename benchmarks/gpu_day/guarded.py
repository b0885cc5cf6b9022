"""Bounds: tensors inside larger buffers, with canaries before and behind that must stand when the kernels have run."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_BEFORE = _BEHIND = 4096  # bytes; tensors stay aligned
_CANARY = 0xFF  # of each byte: NaN as floats, -1 as integers, so that what is read there shows
_aten = torch.ops.aten
# What makes a tensor that kernels write: outputs, gradients, states, codes.
_MAKERS = {
    _aten.empty.memory_format, _aten.empty_strided.default, _aten.empty_like.default, _aten.new_empty.default,
    _aten.new_empty_strided.default, _aten.zeros.default, _aten.zeros_like.default, _aten.new_zeros.default,
    _aten.full.default, _aten.full_like.default, _aten.new_full.default, _aten.ones.default, _aten.ones_like.default,
    _aten.clone.default,
}  # fmt: skip


class Guarded(TorchDispatchMode):
    """Within it whatever is newly allocated lies between canaries; `inside` puts other tensors there."""

    def __init__(self) -> None:
        super().__init__()
        self._buffers: list[tuple[torch.Tensor, int]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **kwargs or {})
        return self.inside(made) if function in _MAKERS and made.is_contiguous() else made

    def inside(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor's values between canaries. On "meta", and without elements, itself."""
        if tensor.is_meta or not tensor.numel():
            return tensor
        tensor = tensor.contiguous()
        size = tensor.numel() * tensor.element_size()
        with torch.utils._python_dispatch._disable_current_modes():
            padded = _BEFORE + -(-size // 16) * 16 + _BEHIND
            buffer = torch.full((padded,), _CANARY, dtype=torch.uint8, device=tensor.device)
            view = buffer[_BEFORE : _BEFORE + size].view(tensor.dtype).view(tensor.shape)
            view.copy_(tensor)
        self._buffers.append((buffer, size))
        return view

    def has(self, tensor: torch.Tensor) -> bool:
        """Whether it lies in one of the buffers."""
        places = {buffer.untyped_storage().data_ptr() for buffer, _ in self._buffers}
        return not tensor.numel() or tensor.untyped_storage().data_ptr() in places

    def check(self, where: str) -> int:
        """How many buffers there are.

        Raises:
            AssertionError: a canary fell.
        """
        for buffer, size in self._buffers:
            for side, part in (("before", buffer[:_BEFORE]), ("behind", buffer[_BEFORE + size :])):
                fallen = (part != _CANARY).nonzero()
                assert not len(fallen), (
                    f"{where}: {len(fallen)} bytes {side} a tensor of {size} bytes were written, first at {int(fallen[0])}"
                )
        return len(self._buffers)
