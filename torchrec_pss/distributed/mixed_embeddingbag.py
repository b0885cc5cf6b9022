"""An `EmbeddingBagCollection` of which a plan keeps some tables in a shared array."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.types import LazyAwaitable, ShardedModule
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from torchrec_pss.distributed.embeddingbag import PSSEmbeddingBagCollectionSharder
from torchrec_pss.distributed.mixed_collection import MixedCollection, MixedCollectionSharder, Source
from torchrec_pss.modules.embedding_bag_collection import PSSEmbeddingBagCollection
from torchrec_pss.modules.pss_config import PSSConfig
from torchrec_pss.modules.tracing import is_traced


class MixedEmbeddingBagCollection(MixedCollection):
    """Takes the place of an EBC, see `MixedCollection`."""

    _whole_of = EmbeddingBagCollection
    _config_of_table = EmbeddingBagConfig
    array: PSSEmbeddingBagCollection

    def __init__(
        self, whole: EmbeddingBagCollection, shared: Sequence[str], config: PSSConfig, device: torch.device | str
    ) -> None:
        super().__init__(whole, shared, config, device)
        self._warned_of_weights = False
        self._lengths = [c.embedding_dim for c in self._configs for _ in c.feature_names]

    @staticmethod
    def _array_of(
        tables: list[EmbeddingBagConfig], whole: EmbeddingBagCollection, config: PSSConfig, device: torch.device | str
    ) -> PSSEmbeddingBagCollection:
        return PSSEmbeddingBagCollection(tables, whole.is_weighted(), device, config=config)

    @staticmethod
    def _tables_of(tables: list[EmbeddingBagConfig], whole: EmbeddingBagCollection) -> EmbeddingBagCollection:
        return EmbeddingBagCollection(tables, whole.is_weighted(), torch.device("meta"))

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        """Of all tables, in the EBC's order."""
        return self._configs

    def is_weighted(self) -> bool:
        """Whether the KJT's weights scale the rows, of all tables."""
        return self.array.is_weighted()

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """As `EmbeddingBagCollection`; awaitable, as its sharded form, once the two parts are sharded."""
        if self.tables is None:
            return self.array(features)
        if not is_traced(features):
            self._warn_of_weights(features)
        elif not isinstance(self.array, ShardedModule):  # no pipeline, which wants awaitables
            parts = [self.array(features), self.tables(features)]
            columns = [parts[part][key] for part, key in self._sources]
            return KeyedTensor(self._keys, self._lengths, torch.cat(columns, dim=1).to(self.array.output_dtype))
        parts = [self.array(features), self.tables(features)]
        return merge(parts[0], parts[1], self._keys, self._lengths, self._sources, self.array.output_dtype)

    def _warn_of_weights(self, features: KeyedJaggedTensor) -> None:
        """TorchRec's exchange of ids and weights has no backward, so that a gradient would have the array's part alone."""
        weights = features.weights_or_none()
        if (
            self._warned_of_weights
            or weights is None
            or not weights.requires_grad
            or not isinstance(self.tables, ShardedModule)
        ):
            return
        self._warned_of_weights = True
        warnings.warn(
            f"the weights of features {features.keys()} require a gradient, to which TorchRec's sharded tables "
            f"{self._rest} add nothing; plan all tables of the collection into the array "
            "(pss='always'), or none",
            stacklevel=3,
        )


class _Merged(LazyAwaitable[KeyedTensor]):
    """Both parts' outputs, waited for only when they are used."""

    def __init__(
        self, parts: Sequence[Any], keys: list[Any], lengths: list[Any], sources: list[Any], dtype: torch.dtype
    ) -> None:
        super().__init__()
        self._parts, self._keys, self._lengths, self._sources, self._dtype = parts, keys, lengths, sources, dtype

    def _wait_impl(self) -> KeyedTensor:
        found = [(p.wait() if isinstance(p, LazyAwaitable) else p).to_dict() for p in self._parts]
        columns = [found[part][key] for part, key in self._sources]
        return KeyedTensor(self._keys, self._lengths, torch.cat(columns, dim=1).to(self._dtype))


@torch.fx.wrap
def merge(
    array: Any, tables: Any, keys: list[str], lengths: list[int], sources: list[Source], dtype: torch.dtype
) -> KeyedTensor:
    """One `KeyedTensor` of the two parts'; a leaf where pipelines trace the model."""
    merged = _Merged([array, tables], keys, lengths, sources, dtype)
    awaitable = isinstance(array, LazyAwaitable) or isinstance(tables, LazyAwaitable)
    return merged if awaitable else merged.wait()


class MixedEmbeddingBagCollectionSharder(MixedCollectionSharder, EmbeddingBagCollectionSharder):
    """TorchRec's sharder of EBCs, which also carries out a `PSSModuleShardingPlan`.

    Args:
        *args: as `EmbeddingBagCollectionSharder`'s (fused_params, qcomm_codecs_registry), of the tables; for the array, see
            `ReplicatedArraySharder`.
        **kwargs: the same by name.
        reduction: of the array's gradient, see `ArrayReduction`.
    """

    mixed_type = MixedEmbeddingBagCollection
    array_sharder_type = PSSEmbeddingBagCollectionSharder
