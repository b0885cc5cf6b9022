"""An `EmbeddingCollection` of which a plan keeps some tables in a shared array."""

from collections.abc import Sequence
from typing import Any

import torch
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.types import LazyAwaitable, ShardedModule
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor

from torchrec_pss.distributed.embedding import PSSEmbeddingCollectionSharder
from torchrec_pss.distributed.mixed_collection import MixedCollection, MixedCollectionSharder, Source
from torchrec_pss.modules.embedding_collection import PSSEmbeddingCollection
from torchrec_pss.modules.pss_config import PSSConfig
from torchrec_pss.modules.tracing import is_traced


class MixedEmbeddingCollection(MixedCollection):
    """Takes the place of an EC, see `MixedCollection`."""

    _whole_of = EmbeddingCollection
    _config_of_table = EmbeddingConfig
    array: PSSEmbeddingCollection

    @staticmethod
    def _array_of(
        tables: list[EmbeddingConfig], whole: EmbeddingCollection, config: PSSConfig, device: torch.device | str
    ) -> PSSEmbeddingCollection:
        return PSSEmbeddingCollection(tables, device, whole.need_indices(), config=config)

    @staticmethod
    def _tables_of(tables: list[EmbeddingConfig], whole: EmbeddingCollection) -> EmbeddingCollection:
        return EmbeddingCollection(tables, torch.device("meta"), whole.need_indices())

    def embedding_configs(self) -> list[EmbeddingConfig]:
        """Of all tables, in the EC's order."""
        return self._configs

    def need_indices(self) -> bool:
        """Whether outputs carry the ids as their weights."""
        return self.array.need_indices()

    def embedding_dim(self) -> int:
        """Of all tables, the same."""
        return self._configs[0].embedding_dim

    def embedding_names_by_table(self) -> list[list[str]]:
        """Keys of the output, of each table, in the EC's order."""
        names = iter(self._keys)
        return [[next(names) for _ in config.feature_names] for config in self._configs]

    def forward(self, features: KeyedJaggedTensor) -> dict[str, JaggedTensor]:
        """As `EmbeddingCollection`; awaitable, as its sharded form, once the two parts are sharded."""
        if self.tables is None:
            return self.array(features)
        parts = [self.array(features), self.tables(features)]
        if is_traced(features) and not isinstance(self.array, ShardedModule):  # no pipeline, which wants awaitables
            found = {name: parts[part][key] for name, (part, key) in zip(self._keys, self._sources, strict=True)}
            converted = self.array.output_dtype != torch.float32  # TorchRec's are of that one
            of_tables = [name for name, (part, _) in zip(self._keys, self._sources, strict=True) if converted and part]
            return found | {
                name: _in_dtype(found[name], self.array.output_dtype, self.need_indices()) for name in of_tables
            }
        return merge_sequences(
            parts[0], parts[1], self._keys, self._sources, self.array.output_dtype, self.need_indices()
        )


class _Merged(LazyAwaitable[dict[str, JaggedTensor]]):
    """Both parts' outputs, waited for only when they are used."""

    def __init__(
        self, parts: Sequence[Any], keys: list[str], sources: list[Source], dtype: torch.dtype, need_indices: bool
    ) -> None:
        super().__init__()
        self._parts, self._keys, self._sources = parts, keys, sources
        self._dtype, self._need_indices = dtype, need_indices

    def _wait_impl(self) -> dict[str, JaggedTensor]:
        found = [p.wait() if isinstance(p, LazyAwaitable) else p for p in self._parts]
        read = {name: found[part][key] for name, (part, key) in zip(self._keys, self._sources, strict=True)}
        return {
            name: j if j.values().dtype == self._dtype else _in_dtype(j, self._dtype, self._need_indices)
            for name, j in read.items()
        }


def _in_dtype(jagged: JaggedTensor, dtype: torch.dtype, need_indices: bool) -> JaggedTensor:
    """Of TorchRec's plain EC, which returns fp32; its weights are the ids."""
    weights = jagged.weights() if need_indices else None
    return JaggedTensor(values=jagged.values().to(dtype), lengths=jagged.lengths(), weights=weights)


@torch.fx.wrap
def merge_sequences(
    array: Any, tables: Any, keys: list[str], sources: list[Source], dtype: torch.dtype, need_indices: bool
) -> dict[str, JaggedTensor]:
    """One dict of the two parts'; a leaf where pipelines trace the model."""
    merged = _Merged([array, tables], keys, sources, dtype, need_indices)
    awaitable = isinstance(array, LazyAwaitable) or isinstance(tables, LazyAwaitable)
    return merged if awaitable else merged.wait()


class MixedEmbeddingCollectionSharder(MixedCollectionSharder, EmbeddingCollectionSharder):
    """TorchRec's sharder of ECs, which also carries out a `PSSModuleShardingPlan`.

    Args:
        *args: as `EmbeddingCollectionSharder`'s (fused_params, qcomm_codecs_registry, use_index_dedup), of the tables; for the array, see
            `ReplicatedArraySharder`.
        **kwargs: the same by name.
        reduction: of the array's gradient, see `ArrayReduction`.
    """

    mixed_type = MixedEmbeddingCollection
    array_sharder_type = PSSEmbeddingCollectionSharder
