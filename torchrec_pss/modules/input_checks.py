"""What a `KeyedJaggedTensor` must satisfy, and errors in the user's words when it does not."""

from collections.abc import Sequence

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss.modules.array_layout import ArrayLayout, TableLayout


def permute_to(features: KeyedJaggedTensor, names: Sequence[str]) -> KeyedJaggedTensor:
    """The named features, in that order; the KJT itself where that is what it holds already."""
    keys = features.keys()
    if keys == list(names):
        return features
    return features.permute([keys.index(name) for name in names])


def require_features(
    features: KeyedJaggedTensor,
    names: Sequence[str],
    table_of_feature: Sequence[int],
    layout: ArrayLayout,
    weighted: bool,
    array: torch.Tensor,
) -> None:
    """Checks everything about a KJT that needs no look at its values.

    Raises:
        KeyError: a feature is missing.
        ValueError: weights missing, wrong dtype of ids or weights, another device than the array's, or a batch size
            that differs between features (VBE).
    """
    keys = features.keys()
    for name, table in zip(names, table_of_feature, strict=True):
        if name not in keys:
            raise KeyError(
                f"feature {name!r} of table {layout.tables[table].name!r} is not in the KJT, which has {keys}"
            )
    if features.variable_stride_per_key():
        raise ValueError("a batch size that varies by feature (VBE) is not supported by the shared array")
    values = features.values()
    if values.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"ids of features {keys} must be int32 or int64, got {values.dtype}")
    if values.device != array.device:
        raise ValueError(f"ids of features {keys} are on {values.device}, but the array is on {array.device}")
    if weighted:
        weights = features.weights_or_none()
        if weights is None:
            raise ValueError(f"the module is weighted, but the KJT with features {keys} has no weights")
        if not weights.is_floating_point():
            raise ValueError(f"weights of features {keys} must be floating point, got {weights.dtype}")


def explain_bad_input(
    error: IndexError, features: KeyedJaggedTensor, tables: Sequence[TableLayout], hash_name: str
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
