"""`PSSEmbeddingBagCollection`: TorchRec's `EmbeddingBagCollection` on one shared array."""

from collections.abc import Iterable
from typing import Any

import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import (
    EmbeddingBagCollection,
    EmbeddingBagCollectionInterface,
    get_embedding_names_by_table,
)
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from torchrec_pss.modules.feature_selection import checked_select
from torchrec_pss.modules.pss_config import PSSConfig
from torchrec_pss.modules.shared_array import SharedArrayModule
from torchrec_pss.modules.tracing import is_traced, permuted
from torchrec_pss.modules.variable_batch import expanded, padded, require_inverse_indices
from torchrec_pss.ops import PoolingMode
from torchrec_pss.optim import rowwise_adagrad as rowwise_adagrad  # TorchRec's takes an array once this is imported

torch.fx.wrap("permuted")  # FX wraps a function in the modules that say so
_POOLING_MODES = {PoolingType.SUM: PoolingMode.SUM, PoolingType.MEAN: PoolingMode.MEAN}


class PSSEmbeddingBagCollection(SharedArrayModule, EmbeddingBagCollectionInterface):
    """Pooled embeddings of all tables, read from one small array (PSS: arXiv 2207.10731).

    Takes the place of `EmbeddingBagCollection`: the same configs, the same `KeyedJaggedTensor` in, the same
    `KeyedTensor` out (keys in the tables' order, ``feature@table`` for a feature that several tables read).
    Tables that fit are exact; the others share the rest of the array and take any 64-bit id.

    Args:
        tables: embedding tables. ``num_embeddings`` sets no limit on the ids of a shared table; ``init_fn`` and
            ``weight_init_*`` are not used (see `PSSConfig.init_range`). All have one data_type: FP32, FP16 or BF16.
        is_weighted: whether the KJT's weights scale the rows. A weighted MEAN bag is divided by its length.
        device: of the array; "meta" allocates nothing.
        config: budget and choices.
        output_dtype: of what is returned: fp32, fp16, bf16 or fp64, for dense layers of that dtype.

    Raises:
        ValueError: see `PSSConfig` and `torchrec_pss.modules.array_layout.allocate`.

    Examples:
        >>> import torch
        >>> from torchrec import EmbeddingBagConfig, KeyedJaggedTensor
        >>> from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection
        >>> tables = [EmbeddingBagConfig(name="t1", num_embeddings=10**9, embedding_dim=16, feature_names=["f1"])]
        >>> ebc = PSSEmbeddingBagCollection(tables, config=PSSConfig(array_bytes=1 << 20))
        >>> features = KeyedJaggedTensor.from_lengths_sync(["f1"], torch.tensor([7, -1, 10**12]), torch.tensor([1, 2]))
        >>> ebc(features).values().shape
        torch.Size([2, 16])
    """

    def __init__(
        self,
        tables: list[EmbeddingBagConfig],
        is_weighted: bool = False,
        device: torch.device | str | None = None,
        *,
        config: PSSConfig,
        output_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(tables, config, device, output_dtype)
        self._is_weighted = is_weighted
        self._embedding_bag_configs = tables
        self._embedding_names = [name for names in get_embedding_names_by_table(tables) for name in names]
        dims = [tables[t].embedding_dim for t in self._table_of_feature]
        self._lengths_per_embedding = dims
        # Features by pooling mode: one lookup each, and one in all for the usual model.
        self._groups: dict[PoolingMode, list[int]] = {}
        for position, table in enumerate(self._table_of_feature):
            self._groups.setdefault(_POOLING_MODES[tables[table].pooling], []).append(position)
        # Names by pooling mode, where they are all different: a KJT of just these is read as it is.
        names = {mode: [self._feature_names[p] for p in positions] for mode, positions in self._groups.items()}
        self._distinct = {mode: own for mode, own in names.items() if len(set(own)) == len(own)}
        for pooling, positions in self._groups.items():
            self._arguments(positions, pooling)  # now, for a compiled module's first call may be in inference mode

    @classmethod
    def from_embedding_bag_collection(
        cls,
        ebc: EmbeddingBagCollectionInterface | Iterable[EmbeddingBagConfig],
        config: PSSConfig,
        is_weighted: bool | None = None,
        device: torch.device | str | None = None,
        output_dtype: torch.dtype = torch.float32,
    ) -> "PSSEmbeddingBagCollection":
        """A shared array for the tables of an existing EBC (or for a list of configs). Its weights are not used."""
        if isinstance(ebc, EmbeddingBagCollectionInterface):
            tables = list(ebc.embedding_bag_configs())
            is_weighted = ebc.is_weighted() if is_weighted is None else is_weighted
            if device is None and isinstance(ebc, EmbeddingBagCollection):
                device = ebc.device
        else:
            tables = list(ebc)
        return cls(tables, bool(is_weighted), device, config=config, output_dtype=output_dtype)

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """Pools every feature's bags.

        Args:
            features: KJT with at least the tables' features, batch size B, ids int32 or int64. Its batch size may vary by feature
                (VBE) where it has inverse indices, whose length is then B.

        Returns:
            KeyedTensor with values ``[B, sum of embedding_dim over features]``.

        Raises:
            KeyError: a feature is missing from the KJT.
            ValueError: weights missing, wrong dtype or device, VBE without inverse indices.
            IndexError: an id out of an exact table's range, or offsets that are not non-decreasing.
        """
        if is_traced(features):
            values = self._pooled(features)
            return KeyedTensor(keys=self._embedding_names, values=values, length_per_key=self._lengths_per_embedding)
        self._require(features, self._is_weighted)
        if features.variable_stride_per_key():
            require_inverse_indices(features)
            pooled = self._pooled(padded(features))
            values = expanded(pooled, features, self._feature_names, self._lengths_per_embedding)
        else:
            values = self._pooled(features)
        return KeyedTensor(keys=self._embedding_names, values=values, length_per_key=self._lengths_per_embedding)

    def _num_lookups(self) -> int:
        return len(self._groups)

    def _pooled(self, features: KeyedJaggedTensor) -> torch.Tensor:
        read = self._traced if is_traced(features) else self._selected
        if len(self._groups) == 1:
            ((pooling, positions),) = self._groups.items()
            return read(features, positions, pooling)
        reads = {pooling: read(features, positions, pooling) for pooling, positions in self._groups.items()}
        parts: dict[int, torch.Tensor] = {}
        for pooling, positions in self._groups.items():
            first = 0
            for position in positions:
                end = first + self._lengths_per_embedding[position]
                parts[position] = reads[pooling][:, first:end]  # slices, for FX iterates over no split
                first = end
        return torch.cat([parts[p] for p in range(len(parts))], dim=1)

    def _selected(self, features: KeyedJaggedTensor, positions: list[int], pooling: PoolingMode) -> torch.Tensor:
        kjt = features
        if features.keys() != self._distinct.get(pooling):
            kjt = checked_select(features, [self._feature_names[p] for p in positions])
        return self._read(kjt, positions, pooling, self._is_weighted)

    def _traced(self, features: torch.fx.Proxy, positions: list[int], pooling: PoolingMode) -> Any:
        kjt = permuted(features, [self._feature_names[p] for p in positions])
        weights = kjt.weights() if self._is_weighted else None
        return self._traced_read(kjt.values(), kjt.offsets(), weights, positions, pooling)

    def is_weighted(self) -> bool:
        """Whether bags have weights, as in `EmbeddingBagCollection`."""
        return self._is_weighted

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        """Of all tables, in the order given."""
        return self._embedding_bag_configs
