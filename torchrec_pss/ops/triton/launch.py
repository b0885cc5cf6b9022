"""Launches kernels as Triton does, at a fraction of its time on the host, which small batches would wait for.

At each launch Triton binds the arguments, tells what of them the compiled code depends on, asks the driver about each pointer and
compares the globals that the kernel reads. Here that much of them is looked up: dtypes, device, alignment to 16 bytes, whether an integer
needs 64 bits; pointers are passed as integers.
"""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import torch

ALIGNMENT = 16  # bytes, of which Triton knows whether a pointer is a multiple

_compiled: dict[tuple[Any, ...], tuple[Any, ...]] = {}


def options(warps: int, registers: int | None = None) -> dict[str, int]:
    """Triton's, for programs of so many warps, whose threads have at most so many registers."""
    return {"num_warps": warps} | ({} if registers is None else {"maxnreg": registers})


def first_launch(
    kernel: Any, programs: int, arguments: Sequence[Any], constants: dict[str, Any], how: dict[str, int]
) -> Any:
    """``kernel[(programs,)](*arguments, **constants, **how)``, with `options`: compiles it where Triton does not know it yet.

    Returns:
        The compiled kernel; None in Triton's interpreter.
    """
    return kernel[(programs,)](*arguments, **constants, **how)


def raw_stream(device: torch.device) -> int:
    """The current stream of a device, as the driver knows it; elsewhere than on a GPU 0."""
    return torch._C._cuda_getCurrentRawStream(device.index) if device.type == "cuda" else 0


class Kernel:
    """A kernel with all that it is compiled for but the dtypes of its tensors, which are always the same ones, on one device.

    Attributes:
        programs: of a launch, from the rows of output that the lookup has.

    Args:
        kernel: its arguments are some of ``names``, and behind them the constants.
        names: of the values that `launch` is given, in their order.
        constants: by name; those that the kernel does not have are left out.
        how: see `options`.
    """

    __slots__ = ("_aligned", "_arguments", "_constants", "_how", "_kernel", "_others", "_values", "programs")

    def __init__(
        self,
        kernel: Any,
        names: Sequence[str],
        constants: dict[str, Any],
        how: dict[str, int],
        programs: Callable[[int], int],
    ) -> None:
        own = list(kernel.arg_names)
        given = [name for name in own if name not in constants]
        assert own[: len(given)] == given, "constants stand behind the other arguments"
        self._kernel = kernel
        self._arguments = itemgetter(*(names.index(name) for name in given))
        self._constants = {name: constants[name] for name in own[len(given) :]}
        self._values = tuple(self._constants.values())
        self._how = how
        self.programs = programs
        self._aligned: Any = None  # compiled for aligned pointers and integers of 32 bits
        self._others: dict[Any, Any] = {}

    def launch(self, programs: int, values: tuple[Any, ...], tensors: tuple[Any, ...], stream: int) -> None:
        """
        Args:
            values: integers and floats, pointers among them; all of those aligned, and no other integer of more than 32 bits.
            tensors: the same, with tensors for pointers, of which the first launch tells dtypes.
        """
        if self._aligned is None:
            self._aligned = self._first(programs, tensors)
        else:
            self._aligned[(programs, 1, 1)](*self._arguments(values), *self._values, stream=stream)

    def launch_any(self, programs: int, values: tuple[Any, ...], tensors: tuple[Any, ...], stream: int) -> None:
        """As `launch`, of any pointers and integers."""
        arguments = self._arguments(values)
        key = tuple(
            value % ALIGNMENT == 0 if isinstance(tensor, torch.Tensor) else abs(value) >= 1 << 31
            for value, tensor in zip(arguments, self._arguments(tensors), strict=True)
        )
        known = self._others.get(key)
        if known is None:
            self._others[key] = self._first(programs, tensors)
        else:
            known[(programs, 1, 1)](*arguments, *self._values, stream=stream)

    def _first(self, programs: int, tensors: tuple[Any, ...]) -> Any:
        return first_launch(self._kernel, programs, self._arguments(tensors), self._constants, self._how)


def launch(
    kernel: Any,
    programs: int,
    tensors: tuple[Any, ...],
    numbers: tuple[Any, ...],
    constants: dict[str, Any],
    warps: int,
) -> None:
    """A launch that nothing is prepared for.

    Args:
        numbers: floats, and integers that the kernel does not specialise on.
    """
    pointers = [tensor.data_ptr() for tensor in tensors]
    device = tensors[0].device
    key = (
        kernel, warps, *constants.values(), device, max(numbers) < 1 << 31,
        *[tensor.dtype for tensor in tensors], *[pointer % ALIGNMENT == 0 for pointer in pointers],
    )  # fmt: skip
    known = _compiled.get(key)
    if known is None:
        compiled = first_launch(kernel, programs, (*tensors, *numbers), constants, options(warps))
        if compiled is not None:
            names = kernel.arg_names[len(tensors) + len(numbers) :]
            _compiled[key] = compiled, tuple(constants[name] for name in names)
        return
    compiled, values = known
    compiled[(programs, 1, 1)](*pointers, *numbers, *values, stream=raw_stream(device))
