"""`SharedArrayModule`: the parameters, state dict and lookups that both collections share."""

from collections.abc import Sequence

import torch
from torch import nn
from torchrec.modules.embedding_configs import BaseEmbeddingConfig, data_type_to_dtype
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss.modules import array_layout, auto_layout
from torchrec_pss.modules.allocation import allocate
from torchrec_pss.modules.input_checks import explain_bad_input, permute_to, require_features
from torchrec_pss.modules.pss_config import PSSConfig
from torchrec_pss.ops import HASH_MIX64, HASH_ROBE, PoolingMode, feature_matrix, lookup

_BIAS_RANGE = 0.1
_ARRAY_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class SharedArrayModule(nn.Module):
    """One learnable 1-D array standing for all tables, and how to read it.

    Parameters: ``array`` ``[N]``, and ``projections.<table>`` fp32 for each table that is read narrower than its
    embedding_dim, ``[width, embedding_dim]`` or, with a bias as last row, ``[width + 1, embedding_dim]``.
    Where there are hot rows, their keys are saved as the buffer ``hot_keys``. The state dict carries the layout too, as a uint8 tensor of
    JSON in the module's extra state; a checkpoint of another layout is refused before anything is copied.
    """

    def __init__(
        self, tables: Sequence[BaseEmbeddingConfig], config: PSSConfig, device: torch.device | str | None
    ) -> None:
        super().__init__()
        for table in tables:
            if not table.feature_names:
                table.feature_names = [table.name]
        dtype = _common_dtype(tables)
        self._config = auto_layout.choose(tables, config, dtype.itemsize)
        self._layout = allocate(tables, self._config, dtype.itemsize)
        self._device = torch.device("cpu" if device is None else device)
        self._feature_names = [name for table in tables for name in table.feature_names]
        self._table_of_feature = [i for i, table in enumerate(tables) for _ in table.feature_names]

        self.array = nn.Parameter(torch.empty(self._layout.numel, dtype=dtype, device=self._device))
        self.projections = nn.ParameterDict(
            {
                t.name: nn.Parameter(torch.empty(*t.projection_shape, device=self._device))
                for t in self._layout.tables
                if t.is_projected
            }
        )
        self.register_buffer("hot_keys", self._layout.hot_keys.clone(), persistent=self._layout.hot_keys.numel() > 0)
        # Follow the array to its device at the first lookup there; never on "meta", so never moved as state.
        self._metadata: dict[tuple, tuple[torch.Tensor, torch.Tensor]] = {}
        self.reset_parameters()

    @property
    def device(self) -> torch.device:
        """The device given at construction (as TorchRec's modules report it)."""
        return self._device

    @property
    def config(self) -> PSSConfig:
        """With all that ``layout="auto"`` chose filled in."""
        return self._config

    @property
    def layout(self) -> array_layout.ArrayLayout:
        """How the array is divided; ``print(module.layout)`` shows it as a table."""
        return self._layout

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws the array uniform in ``[-init_range, init_range]``; does nothing on the meta device.

        Every projection starts as the identity of its width, repeated over the embedding_dim and scaled to keep
        lengths: tables of one width start with the dot products of their reads, not with those of random rotations.
        A bias starts uniform in [-0.1, 0.1].
        """
        if self.array.is_meta:
            return
        self.array.uniform_(-self._config.init_range, self._config.init_range)
        for table in self._layout.tables:
            if table.is_projected:
                projection, width, dim = self.projections[table.name], table.width, table.embedding_dim
                identity = torch.eye(width, device=projection.device).repeat(1, -(-dim // width))[:, :dim]
                projection[:width] = identity * (width / dim) ** 0.5
                projection[width:].uniform_(-_BIAS_RANGE, _BIAS_RANGE)

    def _read(
        self, features: KeyedJaggedTensor, positions: Sequence[int], pooling: PoolingMode, weighted: bool
    ) -> list[torch.Tensor]:
        """Embeddings of some features, projected: one tensor a feature, ``[B, embedding_dim]``, or
        ``[ids of the feature, embedding_dim]`` for NONE. ``positions`` index the module's features."""
        tables = [self._layout.tables[self._table_of_feature[p]] for p in positions]
        names = [self._feature_names[p] for p in positions]
        kjt = permute_to(features, names)
        values, weights = kjt.values(), kjt.weights() if weighted else None
        if weights is not None:
            weights = weights.to(torch.float32)
        widths = [t.width for t in tables]
        feature_rows, hot_keys = self._metadata_of(positions)
        hash_kind = HASH_ROBE if self._layout.hash == "robe" else HASH_MIX64
        try:
            read = lookup(
                self.array,
                feature_rows,
                values,
                kjt.offsets(),
                weights,
                hot_keys=hot_keys,
                total_width=widths[0] if pooling == PoolingMode.NONE else sum(widths),
                pooling_mode=pooling,
                hash_kind=hash_kind,
                sign=self._layout.sign,
            )
        except IndexError as error:
            raise explain_bad_input(error, kjt, tables, self._layout.hash) from error
        parts = read.split(kjt.length_per_key()) if pooling == PoolingMode.NONE else read.split(widths, dim=1)
        if not self.projections:
            return list(parts)
        ones = _read_ones(kjt, pooling, weights) if any(t.bias for t in tables) else [None] * len(tables)
        return [self._project(t, part, one) for t, part, one in zip(tables, parts, ones, strict=True)]

    def _project(self, table: array_layout.TableLayout, read: torch.Tensor, ones: torch.Tensor | None) -> torch.Tensor:
        if not table.is_projected:
            return read
        projection = self.projections[table.name]
        return torch.cat([read, ones[:, None]], dim=1) @ projection if table.bias else read @ projection

    def _metadata_of(self, positions: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """The op's features and hot_keys, on the array's device."""
        key = (tuple(positions), self.array.device)
        if key not in self._metadata:
            rows = [self._layout.tables[self._table_of_feature[p]].feature_row() for p in positions]
            device = self.array.device
            self._metadata[key] = (feature_matrix(rows, device), self._layout.hot_keys.to(device))
        return self._metadata[key]

    def _require(self, features: KeyedJaggedTensor, weighted: bool) -> None:
        require_features(features, self._feature_names, self._table_of_feature, self._layout, weighted, self.array)

    def get_extra_state(self) -> torch.Tensor:
        """The layout as canonical JSON in a uint8 tensor."""
        return array_layout.encode_fingerprint(self._layout.fingerprint())

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Checks the layout; see :meth:`_load_from_state_dict`, which does so before anything is copied."""
        self._refuse_other_layout(state)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        saved = state_dict.get(prefix + "_extra_state")
        if saved is not None:
            self._refuse_other_layout(saved)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _refuse_other_layout(self, saved: torch.Tensor) -> None:
        try:
            fingerprint = array_layout.decode_fingerprint(saved)
            difference = array_layout.describe_difference(fingerprint, self._layout.fingerprint())
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the checkpoint's layout of the shared array is unreadable: {error!r}") from error
        if difference:
            raise ValueError(f"the checkpoint was written with another layout of the shared array: {difference}")

    def extra_repr(self) -> str:
        exact = sum(t.is_exact for t in self._layout.tables)
        shared = len(self._layout.tables) - exact
        return (
            f"array={self._layout.numel} x {self.array.dtype}, tables={shared} shared + {exact} exact, "
            f"hash={self._layout.hash}, embedding_bytes={self._layout.embedding_bytes}"
        )


def _read_ones(kjt: KeyedJaggedTensor, pooling: PoolingMode, weights: torch.Tensor | None) -> list[torch.Tensor]:
    """What pooling makes of a coordinate that is 1 in every row, per feature: the bags' lengths or sums of weights, over
    the length for MEAN; ones for NONE."""
    if pooling == PoolingMode.NONE:
        return list(kjt.values().new_ones(kjt.values().numel(), dtype=torch.float32).split(kjt.length_per_key()))
    lengths = kjt.lengths()
    ones = lengths.to(torch.float32)
    if weights is not None:
        bags = torch.arange(lengths.numel(), device=lengths.device)
        bags = bags.repeat_interleave(lengths, output_size=weights.numel())
        ones = torch.zeros_like(ones).index_add(0, bags, weights)
    if pooling == PoolingMode.MEAN:
        ones = ones / lengths.clamp(min=1)
    return list(ones.view(len(kjt.keys()), -1))


def _common_dtype(tables: Sequence[BaseEmbeddingConfig]) -> torch.dtype:
    if not tables:
        raise ValueError("at least one table is needed")
    dtype = data_type_to_dtype(tables[0].data_type)
    for table in tables:
        own = data_type_to_dtype(table.data_type)
        if own not in _ARRAY_DTYPES:
            raise ValueError(f"table {table.name!r}: data_type must be FP32, FP16 or BF16, got {table.data_type}")
        if own != dtype:
            raise ValueError(
                f"table {table.name!r}: data_type {table.data_type} differs from {tables[0].data_type} of table "
                f"{tables[0].name!r}; one array has one data type"
            )
    return dtype
