"""`SharedEmbeddingBag`: `torch.nn.EmbeddingBag` for many tables on one shared array."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from torchrec_pss.modules.pss_config import PSSConfig
from torchrec_pss.modules.shared_array import SharedArrayModule
from torchrec_pss.nn.bags import Bags, Ids
from torchrec_pss.ops import PoolingMode

_MODES = {"sum": PoolingMode.SUM, "mean": PoolingMode.MEAN}


@dataclass
class Table:
    """An embedding table.

    Attributes:
        name: unlike all others'; a feature of this name reads it, unless ``feature_names`` are given.
        num_embeddings: rows. They set no limit on the ids of a table that is shared.
        embedding_dim: of a row.
        feature_names: that read it.
        data_type: of the array: fp32, fp16 or bf16, the same of all tables.
    """

    name: str
    num_embeddings: int
    embedding_dim: int
    feature_names: list[str] = field(default_factory=list)
    data_type: torch.dtype = torch.float32


class SharedEmbeddingBag(SharedArrayModule):
    """Pooled embeddings of all tables, read from one small array (PSS: arXiv 2207.10731), where only torch is installed.

    Reads, gradients, layout and state dict are those of `PSSEmbeddingBagCollection` with the same tables and config.

    Args:
        tables: one or more.
        config: budget and choices.
        mode: "sum" or "mean", of a bag's rows.
        device: of the array; "meta" allocates nothing.
        output_dtype: of what is returned: fp32, fp16, bf16 or fp64.

    Raises:
        ValueError: an unknown mode; tables or a config that do not fit each other, see `PSSConfig`.

    Examples:
        >>> import torch
        >>> from torchrec_pss import PSSConfig
        >>> from torchrec_pss.nn import SharedEmbeddingBag, Table
        >>> tables = [Table("user", 10**9, 16), Table("item", 10**8, 16)]
        >>> bag = SharedEmbeddingBag(tables, PSSConfig(array_bytes="1MB"))
        >>> user, clicked = torch.tensor([10**12, -1]), torch.tensor([[5, 6], [7, 8]])
        >>> bag({"user": user, "item": clicked}).shape
        torch.Size([2, 32])
    """

    def __init__(
        self,
        tables: Sequence[Table],
        config: PSSConfig,
        mode: str = "sum",
        device: torch.device | str | None = None,
        output_dtype: torch.dtype = torch.float32,
    ) -> None:
        if mode not in _MODES:
            raise ValueError(f"mode must be one of {', '.join(map(repr, _MODES))}, got {mode!r}")
        super().__init__(tables, config, device, output_dtype)
        self.mode = mode
        self._positions = list(range(len(self._feature_names)))

    def forward(
        self, ids: Mapping[str, Ids], per_sample_weights: Mapping[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Pools every feature's bags.

        Args:
            ids: of each feature: ``[B]``, ``[B, L]``, or ``(ids [n], offsets [B])``; int32 or int64. Others than the tables' are not read.
            per_sample_weights: of each feature's ids, in their shape; a weighted mean is divided by the bag's length.

        Returns:
            ``[B, sum of embedding_dim over features]``, features in the order of the tables.

        Raises:
            KeyError: a feature is missing.
            TypeError: what is no tensor; names the feature.
            ValueError: shapes, dtypes or devices that do not fit; names the feature.
            IndexError: an id out of an exact table's range, or offsets that leave a feature's ids.
        """
        bags = Bags(ids, self._feature_names, per_sample_weights)
        weighted = per_sample_weights is not None
        self._require(bags, weighted)
        return self._read(bags, self._positions, _MODES[self.mode], weighted)
