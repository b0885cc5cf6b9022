"""What an array in few bits an element is made of (docs/how/hashing.md, section 6): sizes, and checks that need no data."""

import torch

GROUP = 64  # elements of one scale
FEW_BITS = (8, 4, 3, 2)
CODES_BEHIND = 8  # bytes; csrc/packed.h has them too


def code_bytes(numel: int, bits: int) -> int:
    """Of the codes of ``numel`` elements to be read: whole groups, and `CODES_BEHIND`. The first ``ceil(numel * bits / 8)`` are stored."""
    return -(-numel // GROUP) * (GROUP * bits // 8) + CODES_BEHIND


def check_trained(array: torch.Tensor, bits: int) -> None:
    """
    Raises:
        ValueError: bits that are not few, or an array that is no fp32 vector.
    """
    if bits not in FEW_BITS:
        raise ValueError(f"bits must be one of {FEW_BITS}, got {bits}")
    if array.dim() != 1 or array.dtype != torch.float32:
        raise ValueError(f"array must be an fp32 vector, got {array.dtype} {tuple(array.shape)}")


def check_packed(
    codes: torch.Tensor, scales: torch.Tensor, numel: int, bits: int, array: torch.Tensor | None = None
) -> None:
    """
    Raises:
        ValueError: bits that are not few; codes, scales or an array that are not those of ``numel`` elements, or not on one device.
    """
    if bits not in FEW_BITS:
        raise ValueError(f"bits must be one of {FEW_BITS}, got {bits}")
    least, groups = code_bytes(numel, bits), -(-numel // GROUP)
    if codes.dim() != 1 or codes.dtype != torch.uint8 or codes.shape[0] < least:
        raise ValueError(
            f"codes must be a uint8 vector of at least {least} bytes for {numel} elements of {bits} bits, got {codes.dtype} "
            f"{tuple(codes.shape)}"
        )
    if scales.dim() != 1 or scales.dtype != torch.bfloat16 or scales.shape[0] != groups:
        raise ValueError(
            f"scales must be bf16 [{groups}] for {numel} elements, got {scales.dtype} {tuple(scales.shape)}"
        )
    if array is not None and (array.dim() != 1 or array.dtype != torch.float32 or array.shape[0] != numel):
        raise ValueError(f"array must be fp32 [{numel}], got {array.dtype} {tuple(array.shape)}")
    for name, tensor in (("scales", scales), ("array", array)):
        if tensor is not None and tensor.device != codes.device:
            raise ValueError(f"{name} must be on {codes.device} as the codes are, got {tensor.device}")
