"""`PSSEmbeddingCollection`: TorchRec's `EmbeddingCollection` on one shared array."""

import torch
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollectionInterface, get_embedding_names_by_table
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor

from torchrec_pss.modules.feature_selection import checked_select
from torchrec_pss.modules.pss_config import PSSConfig
from torchrec_pss.modules.shared_array import SharedArrayModule
from torchrec_pss.modules.tracing import is_traced, jagged
from torchrec_pss.modules.variable_batch import padded
from torchrec_pss.ops import PoolingMode
from torchrec_pss.optim import rowwise_adagrad as rowwise_adagrad  # TorchRec's takes an array once this is imported


class DescribedSequences(EmbeddingCollectionInterface):
    """What TorchRec asks of a collection, from `_embedding_configs`, `_embedding_names_by_table` and `_need_indices`."""

    def need_indices(self) -> bool:
        """Whether the output has the ids beside the embeddings, as in `EmbeddingCollection`."""
        return self._need_indices

    def embedding_dim(self) -> int:
        """Columns of an embedding, the same for all tables."""
        return self._embedding_configs[0].embedding_dim

    def embedding_configs(self) -> list[EmbeddingConfig]:
        """Of all tables, in the order given."""
        return self._embedding_configs

    def embedding_names_by_table(self) -> list[list[str]]:
        """Names of the output's embeddings, a list for each table in the order of the configs."""
        return self._embedding_names_by_table


class PSSEmbeddingCollection(SharedArrayModule, DescribedSequences):
    """Unpooled (sequence) embeddings of all tables, read from one small array.

    Takes the place of `EmbeddingCollection`: the same configs, KJT in, dict of feature name
    (``feature@table`` where several tables read it) to `JaggedTensor` out.

    Args:
        tables: embedding tables, all of one embedding_dim and one data_type (FP32, FP16, BF16).
        device: of the array; "meta" allocates nothing.
        need_indices: whether the outputs carry the ids as their weights, as TorchRec's do.
        config: budget and choices.
        output_dtype: of what is returned: fp32, fp16, bf16 or fp64, for dense layers of that dtype.

    Raises:
        ValueError: embedding_dims differ; else see `torchrec_pss.modules.array_layout.allocate`.

    Examples:
        >>> import torch
        >>> from torchrec import EmbeddingConfig, KeyedJaggedTensor
        >>> from torchrec_pss import PSSConfig, PSSEmbeddingCollection
        >>> tables = [EmbeddingConfig(name="t1", num_embeddings=10**9, embedding_dim=16, feature_names=["f1"])]
        >>> ec = PSSEmbeddingCollection(tables, config=PSSConfig(array_bytes=1 << 20))
        >>> features = KeyedJaggedTensor.from_lengths_sync(["f1"], torch.tensor([7, -1, 10**12]), torch.tensor([1, 2]))
        >>> ec(features)["f1"].values().shape
        torch.Size([3, 16])
    """

    def __init__(
        self,
        tables: list[EmbeddingConfig],
        device: torch.device | str | None = None,
        need_indices: bool = False,
        *,
        config: PSSConfig,
        output_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(tables, config, device, output_dtype)
        for table in tables:
            if table.embedding_dim != tables[0].embedding_dim:
                raise ValueError(
                    f"table {table.name!r}: embedding_dim {table.embedding_dim} differs from "
                    f"{tables[0].embedding_dim} of table {tables[0].name!r}"
                )
        self._embedding_configs = tables
        self._need_indices = need_indices
        self._embedding_names_by_table = get_embedding_names_by_table(tables)
        self._arguments(range(len(self._feature_names)), PoolingMode.NONE)  # see PSSEmbeddingBagCollection

    def forward(self, features: KeyedJaggedTensor) -> dict[str, JaggedTensor]:
        """Reads every id.

        Args:
            features: KJT with at least the tables' features, ids int32 or int64.

        Returns:
            For each embedding name a JaggedTensor with values ``[ids of the feature, embedding_dim]``, and as many lengths as the
            feature has bags, also where the batch size varies by feature (VBE).

        Raises:
            KeyError, ValueError, IndexError: as `PSSEmbeddingBagCollection.forward`.
        """
        if is_traced(features):
            return self._traced(features)
        self._require(features, weighted=False)
        sizes = None
        if features.variable_stride_per_key():
            sizes = dict(zip(features.keys(), features.stride_per_key(), strict=True))
            features = padded(features)
        jagged = checked_select(features, self._feature_names)
        read = self._read(jagged, range(len(self._feature_names)), PoolingMode.NONE, weighted=False)
        names = [name for names in self._embedding_names_by_table for name in names]
        numbers = jagged.length_per_key()
        parts, ids = read.split(numbers), jagged.values().split(numbers)
        lengths = list(jagged.lengths().view(len(names), -1))
        if sizes is not None:
            lengths = [own[: sizes[name]] for own, name in zip(lengths, self._feature_names, strict=True)]
        return {
            name: JaggedTensor(
                values=parts[position],
                lengths=lengths[position],
                weights=ids[position] if self._need_indices else None,
            )
            for position, name in enumerate(names)
        }

    def _traced(self, features: torch.fx.Proxy) -> dict[str, JaggedTensor]:
        found = {}
        for position, name in enumerate(name for names in self._embedding_names_by_table for name in names):
            ids = jagged(features, self._feature_names[position])
            read = self._traced_read(ids.values(), ids.offsets(), None, [position], PoolingMode.NONE)
            weights = ids.values() if self._need_indices else None
            found[name] = JaggedTensor(values=read, lengths=ids.lengths(), weights=weights)
        return found
