"""`WideState`: what an optimizer keeps of an fp16 or bf16 array stays in fp32, where torch.optim would round it to the array's dtype."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

_ATTACHED = "_wide_arrays"  # of the optimizer, which arrays; copies and unpickled ones have lost it, with their hooks


class WideState:
    """Of the ``optimizer``'s parameter ``array``; an fp32 or fp64 array's state has the array's dtype.

    A step of the optimizer itself on a half-precision array is refused: torch.optim computes in half precision there.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, array: nn.Parameter) -> None:
        self._optimizer = optimizer
        self._array = array
        self._loaded: Mapping[str, Any] | None = None
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def get(self) -> dict[str, Any]:
        """The state, on the array's device, in fp32 or fp64; empty where there is none."""
        if not any(array is self._array for array in getattr(self._optimizer, _ATTACHED, ())):
            self._attach()
        state = self._optimizer.state.get(self._array, {})
        self._convert(state, torch.promote_types(self._array.dtype, torch.float32))
        return state

    def release(self) -> None:
        """Leaves the optimizer as torch.optim has it."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        others = [array for array in getattr(self._optimizer, _ATTACHED, ()) if array is not self._array]
        setattr(self._optimizer, _ATTACHED, others)
        self._convert(self._optimizer.state.get(self._array, {}), self._array.dtype)

    def _attach(self) -> None:
        setattr(self._optimizer, _ATTACHED, [*getattr(self._optimizer, _ATTACHED, ()), self._array])
        self._handles = [
            self._optimizer.register_step_pre_hook(self._before_step),
            self._optimizer.register_load_state_dict_pre_hook(self._before_load),
            self._optimizer.register_load_state_dict_post_hook(self._after_load),
        ]

    def _convert(self, state: dict[str, Any], dtype: torch.dtype) -> None:
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == self._array.shape:
                state[name] = value.to(self._array.device, dtype)

    def _before_step(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Zeros are what asks an optimizer for its state (`KeyedOptimizer.init_state`, torch.distributed.checkpoint)."""
        gradient = self._array.grad
        if gradient is None or self._array.dtype not in (torch.float16, torch.bfloat16):
            return
        if gradient.any():
            raise ValueError(
                f"the {self._array.dtype} array has a gradient that is not of its lookups, and its optimizer steps in backward: a step "
                "in half precision would make NaN; keep the array out of other losses, or in fp32"
            )
        self._array.grad = None

    def _before_load(self, optimizer: torch.optim.Optimizer, state_dict: Mapping[str, Any]) -> None:
        self._loaded = state_dict

    def _after_load(self, optimizer: torch.optim.Optimizer) -> None:
        """Takes the array's part from what was loaded, unrounded."""
        loaded, self._loaded = self._loaded, None
        assert loaded is not None  # `_before_load` was called
        for group, saved in zip(optimizer.param_groups, loaded["param_groups"], strict=True):
            for parameter, number in zip(group["params"], saved["params"], strict=True):
                if parameter is not self._array:
                    continue
                for name, value in loaded["state"].get(number, {}).items():
                    if isinstance(value, torch.Tensor) and value.shape == self._array.shape:
                        optimizer.state[parameter][name] = value.clone()
        self.get()
