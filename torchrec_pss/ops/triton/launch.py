"""Launches kernels as Triton does, at a fraction of its time on the host, which small batches would wait for."""

from typing import Any

_compiled: dict[tuple[Any, ...], tuple[Any, ...]] = {}


def launch(
    kernel: Any,
    programs: int,
    tensors: tuple[Any, ...],
    numbers: tuple[Any, ...],
    constants: dict[str, Any],
    warps: int,
) -> None:
    """``kernel[(programs,)](*tensors, *numbers, **constants, num_warps=warps)``.

    At each launch Triton binds the arguments, tells what of them the compiled code depends on and compares the globals that the kernel
    reads. Here that much of them is looked up: dtypes, device, alignment to 16 bytes, whether an integer needs 64 bits.

    Args:
        numbers: floats, and integers that the kernel does not specialise on.
    """
    key = (
        kernel, warps, *constants.values(), tensors[0].device, max(numbers) < 1 << 31,
        *[tensor.dtype for tensor in tensors], *[tensor.data_ptr() % 16 == 0 for tensor in tensors],
    )  # fmt: skip
    known = _compiled.get(key)
    if known is None:
        compiled = kernel[(programs,)](*tensors, *numbers, **constants, num_warps=warps)
        if compiled is not None:  # not in Triton's interpreter
            names = kernel.arg_names[len(tensors) + len(numbers) :]
            _compiled[key] = compiled, tuple(constants[name] for name in names)
        return
    compiled, values = known
    compiled[(programs, 1, 1)](*tensors, *numbers, *values)
