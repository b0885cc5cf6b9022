"""`require_agreement`: ranks that would replicate different arrays, or run different software, are refused before anything is exchanged."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
import torch.distributed as dist

from torchrec_pss.modules.array_layout import ArrayLayout, describe_difference

_PACKAGES = ("torchrec_pss", "torchrec")  # torch's own collectives do not work across versions anyway


def require_agreement(layout: ArrayLayout, dtype: torch.dtype, group: dist.ProcessGroup) -> None:
    """Collective.

    Raises:
        ValueError: on every rank, where a rank's layout, data type or version of a package differs from the group's first; names the
            rank and what differs.
    """
    own = {"layout": layout.fingerprint(), "data type": str(dtype), **{p: _version(p) for p in _PACKAGES}}
    all_of_them: list[Any] = [None] * group.size()
    dist.all_gather_object(all_of_them, own, group=group)
    first = all_of_them[0]
    for rank, other in enumerate(all_of_them):
        for what in first:
            if other[what] == first[what]:
                continue
            if what == "layout":
                difference = describe_difference(first[what], other[what], ("on the first", "on the other"))
            else:
                difference = f"{first[what]} and {other[what]}"
            raise ValueError(
                f"ranks 0 and {rank} of the group differ in their {what}: {difference}. An array is replicated, so all ranks must have the "
                "same tables, PSSConfig (counts too: count on one rank and broadcast) and packages"
            )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"
