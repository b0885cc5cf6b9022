"""A lookup by each kernel that is active, beside the plain PyTorch reference: right here, or wrong."""

from collections.abc import Callable

import torch

from torchrec_pss.doctor.findings import FINE, WRONG, Finding

_TOLERANCE = 1e-5  # of fp32 sums of a few numbers below .1


def lookups() -> list[Finding]:
    """On the CPU, and on each kind of GPU that is there."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return [_compared(device) for device in devices]


def _compared(device: str) -> Finding:
    about = f"a lookup ({device})"
    try:
        difference = _difference(device)
    except Exception as error:
        why = str(error).strip().splitlines()[0][:200]
        return Finding(about, WRONG, f"fails: {type(error).__name__}: {why}", "please report it, with this output")
    if difference > _TOLERANCE:
        return Finding(about, WRONG, f"is {difference:.2g} off the reference", "please report it, with this output")
    return Finding(about, FINE, f"equals the reference within {_TOLERANCE:g}, gradient too")


def _difference(device: str) -> float:
    """The largest, of the output and the array's gradient."""
    # Not before `kernels` has looked: what loads the kernel warns where there is none.
    from torchrec_pss.modules.pss_config import PSSConfig
    from torchrec_pss.nn import SharedEmbeddingBag, Table
    from torchrec_pss.ops import PoolingMode, lookup, reference

    bag = SharedEmbeddingBag([Table("a", 10**9, 16), Table("b", 50, 16)], PSSConfig(array_bytes=4096), device=device)
    ids = torch.cat([torch.arange(-3, 5, device=device) * 10**12, torch.arange(8, device=device)])
    offsets = torch.arange(0, 17, 2, device=device)
    of_layout = bag._arguments([0, 1], PoolingMode.SUM)
    in_order = ("total_width", "read_width", "pooling_mode", "hash_kind", "sign")

    def by_reference(array: torch.Tensor) -> torch.Tensor:
        features, hot_keys, projections = (of_layout[name] for name in ("features", "hot_keys", "projections"))
        others = (of_layout[name] for name in in_order)
        return reference.lookup(array, features, hot_keys, projections, ids, offsets, None, *others)[0]

    def by_kernel(array: torch.Tensor) -> torch.Tensor:
        return lookup(array, indices=ids, offsets=offsets, **of_layout)

    kernel, plain = (_read(bag.array, read) for read in (by_kernel, by_reference))
    return float((kernel - plain).abs().max())


def _read(array: torch.Tensor, read: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    leaf = array.detach().clone().requires_grad_()
    out = read(leaf)
    out.square().sum().backward()
    assert leaf.grad is not None
    return torch.cat([out.detach().flatten(), leaf.grad])
