"""`TableConfig`: what the array needs to know of a table, whoever describes it."""

from typing import Any, Protocol

import torch

_DTYPES = {"FP32": torch.float32, "FP16": torch.float16, "BF16": torch.bfloat16}


class TableConfig(Protocol):
    """TorchRec's `EmbeddingBagConfig` and `EmbeddingConfig`, or `torchrec_pss.nn.Table`.

    Attributes:
        name: of the table.
        num_embeddings: rows.
        embedding_dim: of a row.
        feature_names: that read it.
        data_type: TorchRec's ``DataType``, or a torch dtype.
    """

    name: str
    num_embeddings: int
    embedding_dim: int
    feature_names: list[str]
    data_type: Any


def dtype_of(table: TableConfig) -> torch.dtype | None:
    """The table's dtype; None where it is none that an array can have."""
    if isinstance(table.data_type, torch.dtype):
        return table.data_type if table.data_type in _DTYPES.values() else None
    return _DTYPES.get(getattr(table.data_type, "value", ""))
