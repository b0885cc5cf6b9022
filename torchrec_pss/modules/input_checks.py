"""What a `KeyedJaggedTensor` must satisfy, and errors in the user's words when it does not."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from torchrec_pss.modules.array_layout import ArrayLayout, TableLayout

if TYPE_CHECKING:
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


def require_sound_offsets(features: "KeyedJaggedTensor") -> None:
    """
    Raises:
        IndexError: offsets that do not describe bags. Waits for the ids' device.
    """
    offsets, numel = features.offsets(), features.values().numel()
    steps = offsets.diff()
    if bool((steps < 0).any()):
        bag = int((steps < 0).int().argmax())
        raise IndexError(
            f"feature {features.keys()[bag // features.stride()]!r}: offsets must not decrease: offsets[{bag}] = {int(offsets[bag])}, "
            f"offsets[{bag + 1}] = {int(offsets[bag + 1])}"
        )
    if offsets.numel() and (int(offsets[0]) != 0 or int(offsets[-1]) != numel):
        raise IndexError(
            f"features {features.keys()}: offsets must start at 0 and end at the {numel} ids, "
            f"got {int(offsets[0])} and {int(offsets[-1])}"
        )


def require_features(
    features: "KeyedJaggedTensor",
    names: Sequence[str],
    table_of_feature: Sequence[int],
    layout: ArrayLayout,
    weighted: bool,
    array: torch.Tensor,
) -> None:
    """Checks everything about a KJT that needs no look at its values.

    Raises:
        KeyError: a feature is missing.
        ValueError: weights missing or too few, wrong dtype of ids or weights, or another device than the array's.
    """
    keys = features.keys()
    if keys != names:  # as they mostly are, which is sooner seen
        present = set(keys)
        for name, table in zip(names, table_of_feature, strict=True):
            if name not in present:
                raise KeyError(
                    f"feature {name!r} of table {layout.tables[table].name!r} is not in the KJT, which has {keys}"
                )
    values = features.values()
    if values.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"ids of features {keys} must be int32 or int64, got {values.dtype}")
    if values.device != array.device:
        raise ValueError(f"ids of features {keys} are on {values.device}, but the array is on {array.device}")
    weights = features.weights_or_none()
    if weights is not None and weights.numel() != values.numel():
        raise ValueError(f"features {keys} have {weights.numel()} weights for {values.numel()} ids")
    if weighted:
        if weights is None:
            raise ValueError(f"the module is weighted, but the KJT with features {keys} has no weights")
        if not weights.is_floating_point():
            raise ValueError(f"weights of features {keys} must be floating point, got {weights.dtype}")


def explain_bad_input(
    error: IndexError, features: "KeyedJaggedTensor", tables: Sequence[TableLayout], hash_name: str
) -> IndexError:
    """The op's error about the values of a KJT, naming table, feature and value where it is about an id.

    ``tables`` holds the table of each feature of ``features``, in order.
    """
    offsets = features.offsets()
    bounds = offsets[:: max(features.stride(), 1)].tolist() if features.stride() else []
    if offsets.numel() > 1 and bool((offsets.diff() < 0).any()):
        return IndexError(f"features {features.keys()}: {error}")
    for name, table, begin, end in zip(features.keys(), tables, bounds[:-1], bounds[1:], strict=False):
        if table.prefix == 0 and hash_name != "robe":
            continue
        ids = features.values()[begin:end].to(torch.int64)
        bad = ids[(ids < 0) | (ids >= table.rows)]
        if bad.numel():
            return IndexError(
                f"table {table.name!r}, feature {name!r}: id {int(bad[0])} is out of range [0, {table.rows}); "
                "the table has exact rows, only wholly shared tables take any id"
            )
    return IndexError(f"features {features.keys()}: {error}")
