"""Collections of a shared array that only read: `quantize_embeddings` finds them by ``additional_mapping``, `export` puts them into a model.

torchrec.inference.modules.quantize_embeddings(
    model, torch.quint4x2, inplace=True,
    additional_qconfig_spec_keys=[torchrec_pss.PSSEmbeddingBagCollection],
    additional_mapping={torchrec_pss.PSSEmbeddingBagCollection: torchrec_pss.quant.PSSEmbeddingBagCollection},
)
"""

from typing import Any

import torch
from torch import nn
from torchrec.fx import symbolic_trace
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor, KeyedTensor

from torchrec_pss.modules.array_layout import ArrayLayout
from torchrec_pss.modules.embedding_bag_collection import PSSEmbeddingBagCollection as _Bags
from torchrec_pss.modules.embedding_collection import DescribedSequences
from torchrec_pss.modules.embedding_collection import PSSEmbeddingCollection as _Sequences
from torchrec_pss.modules.shared_array import SharedArrayModule
from torchrec_pss.modules.tracing import jagged, permuted
from torchrec_pss.ops import PoolingMode
from torchrec_pss.quant.out_of_range import MeanForOthers
from torchrec_pss.quant.packed_array import PackedArray, PackedLookup

torch.fx.wrap("permuted")  # FX wraps a function in the modules that say so
torch.fx.wrap("jagged")

OUT_OF_RANGE = ("error", "mean")
_BITS = {torch.float32: 32, torch.float16: 16, torch.qint8: 8, torch.quint8: 8, torch.quint4x2: 4, torch.quint2x4: 2}


class _Reading(nn.Module):
    """What both kinds share.

    Args:
        module: a trained collection, unsharded and not on the meta device.
        bits: of a stored element: 32, 16 (fp16), 8, 4, 3 or 2; None for those of its config.
        output_dtype: of what is returned; None for the collection's.

    Raises:
        ValueError: see `PackedArray`; a collection on the meta device.
    """

    def __init__(
        self, module: SharedArrayModule, bits: int | None = None, output_dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        if module.array.is_meta:
            raise ValueError(
                "the collection is on the meta device, where it has no elements: load its checkpoint first"
            )
        self.array = PackedArray(module, module.layout.bits if bits is None else bits)
        self._layout = module.layout
        self._output_dtype: torch.dtype = output_dtype or module.output_dtype
        self._feature_names: list[str] = list(module._feature_names)
        self._table_of_feature = list(module._table_of_feature)

    @classmethod
    def from_float(cls, module: SharedArrayModule, use_precomputed_fake_quant: bool = False) -> "_Reading":
        """Of a collection with a ``qconfig``, which `quantize_embeddings` gives it: its weight's dtype says the bits, its activation's the output.

        Raises:
            ValueError: a dtype that stands for no bits; else see the constructor.
        """
        qconfig: Any = module.qconfig
        dtype = qconfig.weight().dtype
        if dtype not in _BITS:
            raise ValueError(f"a shared array is stored as one of {', '.join(map(str, _BITS))}, got {dtype}")
        return cls(module, _BITS[dtype], qconfig.activation().dtype)

    @property
    def layout(self) -> ArrayLayout:
        """How the array is divided, see `torchrec_pss.modules.array_layout.ArrayLayout`."""
        return self._layout

    @property
    def device(self) -> torch.device:
        """Where the codes and scales are."""
        return self.array.elements.device

    def output_dtype(self) -> torch.dtype:
        """Of the embeddings that are returned."""
        return self._output_dtype

    def __prepare_scriptable__(self) -> torch.fx.GraphModule:
        return symbolic_trace(self)


class PSSEmbeddingBagCollection(_Reading, EmbeddingBagCollectionInterface):
    """`torchrec_pss.PSSEmbeddingBagCollection`, to read from: buffers alone, the same KJT in and the same KeyedTensor out.

    Args:
        module: a trained collection, unsharded and not on the meta device.
        bits: of a stored element: 32, 16 (fp16), 8, 4, 3 or 2; None for those of its config.
        output_dtype: of what is returned; None for the collection's.
        out_of_range: of ids that an exact table has no row for. "error" raises IndexError, "mean" reads the mean of the table's rows.

    Raises:
        ValueError: another word; a collection on the meta device; see `PackedArray`.
    """

    is_mean: torch.Tensor
    feature_of: torch.Tensor

    def __init__(
        self,
        module: _Bags,
        bits: int | None = None,
        output_dtype: torch.dtype | None = None,
        out_of_range: str = "error",
    ) -> None:
        super().__init__(module, bits, output_dtype)
        if out_of_range not in OUT_OF_RANGE:
            raise ValueError(f"out_of_range must be one of {OUT_OF_RANGE}, got {out_of_range!r}")
        self.others = MeanForOthers(module) if out_of_range == "mean" else None
        self._is_weighted: bool = module.is_weighted()
        self._embedding_bag_configs = module.embedding_bag_configs()
        self._embedding_names: list[str] = list(module._embedding_names)
        self._dims: list[int] = list(module._lengths_per_embedding)
        # One lookup whatever is pooled how: what has means beside sums is summed, and divided.
        pooling, *others = module._groups
        self._divides = bool(others) or (self.others is not None and pooling == PoolingMode.MEAN)
        if self._divides:
            means = [module._embedding_bag_configs[t].pooling == PoolingType.MEAN for t in module._table_of_feature]
            columns = torch.tensor(self._dims, device=self.device)
            features = torch.arange(len(means), device=self.device)
            self.register_buffer("is_mean", torch.tensor(means, device=self.device).repeat_interleave(columns))
            self.register_buffer("feature_of", features.repeat_interleave(columns))
        positions = range(len(self._feature_names))
        self.lookup = PackedLookup(module, positions, PoolingMode.SUM if self._divides else pooling)

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """As that of `torchrec_pss.PSSEmbeddingBagCollection`, without VBE.

        Raises:
            KeyError: a feature is missing.
            IndexError, ValueError: as there.
        """
        kjt = permuted(features, self._feature_names)
        weights = kjt.weights().float() if self._is_weighted else None
        ids, lost = kjt.values(), None
        if self.others is not None:
            ids, weights, lost = self.others.split(ids, kjt.offsets(), weights)
        values = self.lookup(self.array, ids, kjt.offsets(), weights)
        if self.others is not None and lost is not None:
            values = values + self.others(lost)
        if self._divides:
            lengths = kjt.lengths().view(len(self._feature_names), -1)[self.feature_of].t()
            values = torch.where(self.is_mean, values / lengths.clamp(min=1), values)
        return KeyedTensor(self._embedding_names, self._dims, values.to(self._output_dtype))

    def is_weighted(self) -> bool:
        """Whether bags have weights, as in `EmbeddingBagCollection`."""
        return self._is_weighted

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        """Of all tables, in the order given."""
        return self._embedding_bag_configs


class PSSEmbeddingCollection(_Reading, DescribedSequences):
    """`torchrec_pss.PSSEmbeddingCollection`, to read from.

    Args:
        module: a trained collection, unsharded and not on the meta device.
        bits: of a stored element: 32, 16 (fp16), 8, 4, 3 or 2; None for those of its config.
        output_dtype: of what is returned; None for the collection's.

    Raises:
        ValueError: a collection on the meta device; see `PackedArray`.
    """

    def __init__(self, module: _Sequences, bits: int | None = None, output_dtype: torch.dtype | None = None) -> None:
        super().__init__(module, bits, output_dtype)
        self._need_indices: bool = module.need_indices()
        self._embedding_configs = module.embedding_configs()
        self._embedding_names_by_table = module.embedding_names_by_table()
        names = [name for names in self._embedding_names_by_table for name in names]
        self._embedding_names: list[str] = names
        self.lookups = nn.ModuleList(PackedLookup(module, [p], PoolingMode.NONE) for p in range(len(names)))

    def forward(self, features: KeyedJaggedTensor) -> dict[str, JaggedTensor]:
        """As that of `torchrec_pss.PSSEmbeddingCollection`, without VBE."""
        found = {}
        for position, lookup in enumerate(self.lookups):
            ids = jagged(features, self._feature_names[position])
            read = lookup(self.array, ids.values(), ids.offsets(), None).to(self._output_dtype)
            weights = ids.values() if self._need_indices else None
            found[self._embedding_names[position]] = JaggedTensor(values=read, lengths=ids.lengths(), weights=weights)
        return found
