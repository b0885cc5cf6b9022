"""Elements of few bits on a device: codes, scales and what is read of them, to the bit."""

import torch

from benchmarks.gpu_day.configurations import moved, random_case
from torchrec_pss.ops import FeatureColumn, PoolingMode, few_bits, packed

_SIZES = (1, 63, 65, 3000, 100_003)


def verify_pack(bits: int, device: str) -> dict:
    """Codes and scales of arrays of several sizes, zeros and a NaN among them, against the reference on the CPU.

    Raises:
        AssertionError: a bit differs.
    """
    from torchrec_pss.ops.triton import lookup as gpu

    for numel in _SIZES if device == "cuda" else _SIZES[:4]:
        array = torch.randn(numel, generator=torch.Generator().manual_seed(numel))
        array[: numel // 3] = 0
        found = gpu.pack(array.to(device), bits)
        for actual, expected in zip(found, packed.pack_reference(array, bits), strict=True):
            assert torch.equal(actual.cpu(), expected), f"{bits} bits of {numel} elements: codes or scales differ"
    bad = gpu.pack(torch.tensor([1.0, float("nan")], device=device), bits)[1]
    assert bool(bad.isnan().all()), "a NaN is not seen in its group's scale"
    return {"sizes": len(_SIZES)}


def verify_packed_read(seed: int, device: str) -> dict:
    """Rows that are read alone, nothing added up and nothing multiplied, have the bits that the CPU reads; sums are those of the
    unpacked array on the same device, within rounding: compilers may fuse the products of one kernel and not of the other.

    Raises:
        AssertionError: a bit differs.
    """
    from torchrec_pss.ops.triton import lookup as gpu

    bits = few_bits.FEW_BITS[seed % len(few_bits.FEW_BITS)]
    case = random_case(seed, torch.float32)
    codes, scales = packed.pack_reference(case["array"], bits)
    numel = len(case["array"])
    there = {name: moved(value, device) for name, value in case.items()}
    elements = codes.to(device), scales.to(device)
    out, _ = gpu.lookup_packed(*elements, None, numel, bits, *list(there.values())[1:])
    wide = packed.unpack_reference(codes, scales, numel, bits)
    expected, _ = gpu.lookup(wide.to(device), *list(there.values())[1:])
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5, msg=lambda m: f"seed {seed}, {bits} bits: {m}")
    alone = _alone(case)
    read, _ = gpu.lookup_packed(*elements, None, numel, bits, *[moved(v, device) for v in list(alone.values())[1:]])
    by_cpu, _ = packed.lookup_packed_reference(codes, scales, None, numel, bits, *list(alone.values())[1:])
    assert torch.equal(read.cpu(), by_cpu), f"seed {seed}, {bits} bits: not the CPU's bits"
    return {"elements": out.numel() + read.numel(), "sums_have_the_same_bits": torch.equal(out, expected)}


def _alone(case: dict) -> dict:
    """The case with at most one id a bag, without weights and projections."""
    offsets, lengths = case["offsets"].long(), case["offsets"].long().diff()
    kept = offsets[:-1][lengths > 0]
    features = case["features"].clone()
    features[:, FeatureColumn.INNER] = 0
    widths = features[:, FeatureColumn.WIDTH]
    changed = {"features": features, "read_width": 0, "per_sample_weights": None}
    if case["pooling_mode"] == PoolingMode.NONE:
        return case | changed | {"total_width": int(widths[0])}
    few = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.clamp(max=1).cumsum(0)]).to(case["offsets"].dtype)
    return case | changed | {"total_width": int(widths.sum()), "indices": case["indices"][kept], "offsets": few}
