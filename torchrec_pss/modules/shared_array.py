"""`SharedArrayModule`: the parameters, state dict and lookups that both collections share."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from torchrec_pss.modules import array_layout, auto_layout
from torchrec_pss.modules.allocation import allocate
from torchrec_pss.modules.auto_bits import with_bits
from torchrec_pss.modules.input_checks import explain_bad_input, require_features
from torchrec_pss.modules.pss_config import PSSConfig
from torchrec_pss.modules.savable import is_savable, savable
from torchrec_pss.modules.table_config import TableConfig, dtype_of
from torchrec_pss.modules.traced_lookup import TracedLookup
from torchrec_pss.ops import HASH_MIX64, HASH_ROBE, FeatureColumn, PoolingMode, feature_matrix, hot_directory, lookup
from torchrec_pss.ops.features import read_width
from torchrec_pss.ops.fused import fused_lookup, gradient_only
from torchrec_pss.ops.packed import lookup_trained
from torchrec_pss.ops.quantize import PROJECTION_BITS, quantize
from torchrec_pss.optim.stand_in import stand_in
from torchrec_pss.optim.step_in_backward import StepInBackward

if TYPE_CHECKING:
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
    from typing_extensions import Self  # typing's from Python 3.11 on

_BIAS_RANGE = 0.1
_ARRAY_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_APPLIED_DTYPES = OUTPUT_DTYPES = (*_ARRAY_DTYPES, torch.float64)


class SharedArrayModule(nn.Module):
    """One learnable 1-D array standing for all tables, and how to read it.

    Parameters: ``array`` ``[N]``, and ``projections``, fp32 ``[P]``, None where no table has one: the matrices of the tables that are
    read narrower than their embedding_dim, in the order of the tables' names (`projection`).
    The state dict has the keys of hot rows, where there are any, as ``hot_keys``: int32, a copy of the layout's, from which alone rows are
    found. It carries the layout too, as a uint8 tensor of JSON in the module's extra state; a checkpoint of another layout is refused
    before anything is copied.
    ``half()``, ``bfloat16()``, ``double()`` and ``to(dtype)`` convert the array. Projections stay fp32, fp64 beside an fp64 array, and what
    is read is of ``output_dtype``, fp32 as TorchRec's modules return it.
    """

    def __init__(
        self,
        tables: Sequence[TableConfig],
        config: PSSConfig,
        device: torch.device | str | None,
        output_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if output_dtype not in OUTPUT_DTYPES:
            raise ValueError(f"output_dtype must be one of {', '.join(map(str, OUTPUT_DTYPES))}, got {output_dtype!r}")
        self.output_dtype = output_dtype
        for table in tables:
            if not table.feature_names:
                table.feature_names = [table.name]
        dtype = _common_dtype(tables)
        config = with_bits(tables, config)
        if config.element_bits < 32 and dtype != torch.float32:
            raise ValueError(f"bits={config.bits}: tables must be FP32, in which the array is trained, got {dtype}")
        device = torch.get_default_device() if device is None else torch.device(device)
        with torch.device("cpu"):  # where the layout is made, also inside `with torch.device("meta")`
            self._config = auto_layout.choose(tables, config, dtype.itemsize)
            self._layout = allocate(tables, self._config, dtype.itemsize)
            self._feature_rows, self._hot_index = _feature_rows(self._layout)
        self._feature_names = [name for table in tables for name in table.feature_names]
        self._table_of_feature = [i for i, table in enumerate(tables) for _ in table.feature_names]

        self.array = nn.Parameter(torch.empty(self._layout.numel, dtype=dtype, device=device))
        projected = self._layout.projection_numel
        self.projections = nn.Parameter(torch.empty(projected, device=device)) if projected else None
        if self.projections is not None and self._is_padded:
            self.projections.requires_grad_(False)
        # Follow the array to its device at the first lookup there; never on "meta", so never moved as state.
        self._metadata: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._step_in_backward: StepInBackward | None = None
        self._steps_at_end = False  # whether an optimizer steps at the end of backward, on the array's `stand_in`
        self._warned_of_half = False
        self._levels: list[tuple[int, int]] | None = None  # `_marks` of elements that `load_packed` has given
        self._wanted_gradients: list[bool] = []  # of the parameters, before
        # What `DistributedModelParallel` exchanges for others, which lack the optimizer in backward that these were given.
        self._meta_parameters = dict(self.named_parameters(recurse=False)) if self.array.is_meta else {}
        self.reset_parameters()

    @property
    def device(self) -> torch.device:
        """The array's."""
        return self.array.device

    @property
    def config(self) -> PSSConfig:
        """With all that ``layout="auto"`` chose filled in."""
        return self._config

    @property
    def layout(self) -> array_layout.ArrayLayout:
        """How the array is divided; ``print(module.layout)`` shows it as a table."""
        return self._layout

    @property
    def _accumulator(self) -> torch.dtype:
        """Of projections, of weights, and of what the op returns: fp32, of an fp64 array fp64."""
        return torch.promote_types(self.array.dtype, torch.float32)

    @property
    def hot_keys(self) -> torch.Tensor:
        """The layout's, int32 ``[K]``, a copy on the array's device."""
        return self._layout.hot_keys.to(self.array.device, copy=True)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws the array uniform in ``[-init_range, init_range]``; does nothing on the meta device.

        Every projection starts as the identity of its width, repeated over the embedding_dim and scaled to keep
        lengths: tables of one width start with the dot products of their reads, not with those of random rotations.
        With ``head="dot"`` unscaled, each coordinate counts as often as it is repeated, so that a dot product moves as fast as one
        of full rows; and shared coordinates beside a prefix start unread, at zero. A bias starts uniform in [-0.1, 0.1].
        Exact rows of at least half of the embedding_dim before a dot product are as full ones that end in zeros: see `_is_padded`.
        """
        if self.array.is_meta:
            return
        self._release_levels()
        self.array.uniform_(-self._config.init_range, self._config.init_range)
        is_padded = self._is_padded
        for table in self._layout.tables:
            if table.is_projected:
                projection, width, dim = self.projection(table.name), table.width, table.embedding_dim
                identity = torch.eye(width, device=projection.device).repeat(1, -(-dim // width))[:, :dim]
                projection[:width] = identity if self._config.head == "dot" else identity * (width / dim) ** 0.5
                if self._config.head == "dot" and table.prefix:
                    projection[table.prefix : width] = 0
                if is_padded:
                    projection[:, width:] = 0
                projection[width:].uniform_(-_BIAS_RANGE, _BIAS_RANGE)

    @property
    def _is_padded(self) -> bool:
        """Whether projections are identities that are not learned: of exact rows, each at least half as wide as its embedding_dim, before a dot
        product. There a projection that learns fits the training pairs (docs/research/2026-11-28-projections-before-a-dot-product.md)."""
        projected = [t for t in self._layout.tables if t.is_projected]
        wide = all(t.is_exact and not t.bias and 2 * t.width >= t.embedding_dim for t in projected)
        return self._config.head == "dot" and bool(projected) and wide

    def projection(self, table: str) -> torch.Tensor:
        """A table's part of `projections`, a view ``[width, embedding_dim]`` or, with a bias as last row, ``[width + 1,
        embedding_dim]``.

        Raises:
            ValueError: no such table, or one that is not projected.
        """
        layout, _ = self._table(table)
        if not layout.is_projected:
            raise ValueError(f"table {table!r} is read at its embedding_dim: it has no projection")
        rows, columns = layout.projection_shape
        assert self.projections is not None  # there is one a table that is projected
        return self.projections.narrow(0, self._layout.projection_places[table], rows * columns).view(rows, columns)

    def _read(
        self, features: "KeyedJaggedTensor", positions: Sequence[int], pooling: PoolingMode, weighted: bool
    ) -> torch.Tensor:
        """Embeddings of some features, by one lookup: ``[B, sum of embedding_dim]``, or ``[ids of the features,
        embedding_dim]`` for NONE. ``positions`` index the module's features, ``features`` are those."""
        weights = savable(features.weights().to(self._accumulator)) if weighted else None
        ids, offsets = savable(features.values()), savable(features.offsets())
        arguments = self._arguments(positions, pooling)
        try:
            read = self._reader()(self.array, indices=ids, offsets=offsets, per_sample_weights=weights, **arguments)
        except IndexError as error:
            tables = [self._layout.tables[self._table_of_feature[p]] for p in positions]
            raise explain_bad_input(error, features, tables, self._layout.hash) from error
        return read if read.dtype == self.output_dtype else read.to(self.output_dtype)

    def _reader(self) -> Callable[..., torch.Tensor]:
        """The lookup, with what its backward does with the array's gradient."""
        self._refuse_ddp()
        array = self.array
        if self._step_in_backward is not None and array.requires_grad:
            return partial(fused_lookup, update=self._step_in_backward.of_lookup(), bits=self._read_bits)
        if self._read_bits < 32 or not array.requires_grad:
            return self._plain_reader()
        is_half = array.dtype in (torch.float16, torch.bfloat16)
        if self._steps_at_end and (is_half or not torch.compiler.is_compiling()):
            wide = stand_in(array)
            return partial(fused_lookup, update=partial(gradient_only, wide), gradient_of=wide)
        if (
            array.dtype == torch.float16
            and torch.is_grad_enabled()
            and not (self._warned_of_half or torch.compiler.is_compiling())
        ):
            self._warned_of_half = True
            warnings.warn(
                "the array is fp16, and its optimizer is one of torch.optim that computes in fp16: the default eps=1e-8 is 0 there, "
                "and Adam and Adagrad make NaN of every element without a gradient. Give eps=1e-4 or more, or the optimizer to "
                "apply_optimizer_in_backward before DistributedModelParallel, or to step_in_backward: those compute in fp32",
                stacklevel=5,
            )
        return lookup

    def _plain_reader(self) -> Callable[..., torch.Tensor]:
        """The lookup in the array as it is read, with its gradient."""
        return lookup if self._read_bits == 32 else partial(lookup_trained, bits=self._read_bits)

    @property
    def _read_bits(self) -> int:
        """Of an element, where it must be made of what is trained; 32, if it is read as it is."""
        return 32 if self._holds_levels() else self._layout.bits

    def _holds_levels(self) -> bool:
        """Whether elements are what is read of them: `load_packed` has given them, and nothing has written to them or wanted a gradient
        since. A compiled module packs them again, which gives the same."""
        if self._levels is None or torch.compiler.is_compiling():
            return False
        if any(p.requires_grad for p in self.parameters(recurse=False)):
            self._levels = None  # for good: what is learned lies between levels
            return False
        return self._levels == self._marks()

    def _marks(self) -> list[tuple[int, int]] | None:
        """Of each parameter, where it lies and how often it was written to; None where nobody counts."""
        parameters = list(self.parameters(recurse=False))
        return None if any(p.is_inference() for p in parameters) else [(p.data_ptr(), p._version) for p in parameters]

    def _hold_levels(self, wanted_gradients: list[bool] | None = None) -> None:
        """The elements are from now on what is read, and not trained: until other ones are loaded or drawn."""
        parameters = list(self.parameters(recurse=False))
        if self._levels is None:
            self._wanted_gradients = wanted_gradients or [p.requires_grad for p in parameters]
        for parameter in parameters:
            parameter.requires_grad_(False)
        self._levels = self._marks()

    def _release_levels(self) -> None:
        if self._levels is not None:
            self._levels = None
            for parameter, wanted in zip(self.parameters(recurse=False), self._wanted_gradients, strict=True):
                parameter.requires_grad_(wanted)

    def _refuse_ddp(self) -> None:
        """That takes an optimizer in backward from a parameter, or makes it step before gradients are reduced."""
        if torch.compiler.is_compiling() or DistributedDataParallel._get_active_ddp_module() is None:
            return
        for name, parameter in self.named_parameters(recurse=False):
            if getattr(parameter, "_ddp_ignored", False):
                continue
            given: Any = parameter if hasattr(parameter, "_in_backward_optimizers") else self._meta_parameters.get(name)
            if hasattr(given, "_in_backward_optimizers"):
                raise RuntimeError(
                    f"the shared array's parameter {name!r} has an optimizer in backward ({given._optimizer_classes[0].__name__}), and "
                    "DistributedDataParallel has the parameter: give DistributedModelParallel, and the planner of the plan that it is "
                    "given, sharders=get_default_pss_sharders(), which replicate it and take along the optimizer that it has by then"
                )

    def _traced_read(
        self,
        ids: torch.fx.Proxy,
        offsets: torch.fx.Proxy,
        weights: torch.fx.Proxy | None,
        positions: Sequence[int],
        pooling: PoolingMode,
    ) -> torch.fx.Proxy:
        """As `_read`, of proxies: a call of a `TracedLookup`, which the traced module has in this one's place."""
        name, tracer = f"traced_lookup_{pooling.name.lower()}_{positions[0]}", cast(torch.fx.Tracer, ids.tracer)
        # No child of this module: one would be in its repr, and in what walks over modules.
        array = self._parameters["array"]  # of the attribute FX makes a proxy
        assert array is not None
        device = torch.device("cpu") if array.is_meta else array.device
        object.__setattr__(
            self,
            name,
            TracedLookup(self._of_the_layout(positions, pooling, device), self.output_dtype, self._layout.bits),
        )
        path = ".".join(part for part in (tracer.path_of_module(self), name) if part)
        return tracer.create_proxy("call_module", path, (self.array, self.projections, ids, offsets, weights), {})

    def _arguments(self, positions: Sequence[int], pooling: PoolingMode) -> dict[str, Any]:
        """What `lookup` is told beside the array and a batch."""
        array = self.array
        device, dtype = array.device, torch.promote_types(array.dtype, torch.float32)
        key = (tuple(positions), pooling, device, dtype)
        known = self._metadata.get(key)
        if known is None or not is_savable(known["features"]):
            with torch.inference_mode(False):  # or training could not save them
                known = self._of_the_layout(positions, pooling, device)
                known["projections"] = torch.empty(0, device=device, dtype=dtype)
            if type(known["features"]) is torch.Tensor:  # not one of torch.export's fakes
                self._metadata[key] = known
        projections: torch.Tensor | None = self.projections
        if projections is not None and self._read_bits < 32:
            projections = quantize(projections, PROJECTION_BITS)
        elif projections is not None and hasattr(projections, "_in_backward_optimizers"):
            projections = projections.clone()  # stepped perhaps between this lookup's forward and its backward
        return known | ({} if projections is None else {"projections": projections})

    def _of_the_layout(self, positions: Sequence[int], pooling: PoolingMode, device: torch.device) -> dict[str, Any]:
        """Those of the arguments that follow from the layout."""
        tables = [self._table_of_feature[p] for p in positions]
        dims = [self._layout.tables[t].embedding_dim for t in tables]
        rows = [self._feature_rows[t] for t in tables]
        return {
            "features": feature_matrix(rows, device),
            "hot_keys": self._hot_index.to(device, copy=True),
            "total_width": dims[0] if pooling == PoolingMode.NONE else sum(dims),
            "read_width": read_width([row.get(FeatureColumn.INNER, 0) for row in rows], pooling),
            "pooling_mode": pooling,
            "hash_kind": HASH_ROBE if self._layout.hash == "robe" else HASH_MIX64,
            "sign": self._layout.sign,
        }

    def __prepare_scriptable__(self) -> torch.fx.GraphModule:
        """What `torch.jit.script` takes in this module's place: TorchScript does not know Python objects such as the layout."""
        from torchrec.fx import symbolic_trace

        return symbolic_trace(self)

    @torch.no_grad()
    def materialize(self, table: str, ids: torch.Tensor) -> torch.Tensor:
        """Rows of a table as they are read.

        Args:
            ids: int32 or int64 ``[n]``, on the array's device.

        Returns:
            fp32 ``[n, embedding_dim]``.

        Raises:
            ValueError: no such table.
            IndexError: an id out of an exact table's range.
        """
        _, position = self._table(table)
        try:
            return self._read_rows(self.array, ids, self._arguments([position], PoolingMode.SUM), self._plain_reader())
        except IndexError as error:
            raise IndexError(str(error).replace("feature 0", f"table {table!r}")) from error

    def scatter(self, table: str, ids: torch.Tensor, coordinates: torch.Tensor, signed: bool = True) -> torch.Tensor:
        """Adds each row's coordinates to the elements that it is read from: the transpose of reading rows unprojected.

        Args:
            ids: as `materialize`'s.
            coordinates: ``[n, width]`` of the table's read width.
            signed: with the signs of hashed coordinates.

        Returns:
            fp64 ``[N]``, the sums.
        """
        layout, position = self._table(table)
        arguments = self._arguments([position], PoolingMode.SUM)
        features = arguments["features"].clone()
        features[:, FeatureColumn.INNER] = 0
        own = {"features": features, "projections": None, "total_width": layout.width, "read_width": 0}
        arguments = arguments | own | {"sign": signed and self._layout.sign}  # a copy: reads keep theirs
        with torch.enable_grad():
            array = torch.zeros(self._layout.numel, dtype=torch.float64, device=self.array.device, requires_grad=True)
            (sums,) = torch.autograd.grad(self._read_rows(array, ids, arguments), array, coordinates.double())
        return sums

    def _table(self, name: str) -> tuple[array_layout.TableLayout, int]:
        """Of a table: its layout, and the position of a feature that reads it."""
        for number, layout in enumerate(self._layout.tables):
            if layout.name == name:
                return layout, self._table_of_feature.index(number)
        raise ValueError(f"no table {name!r}; there are {[t.name for t in self._layout.tables]}")

    def _read_rows(
        self,
        array: torch.Tensor,
        ids: torch.Tensor,
        arguments: dict[str, Any],
        reader: Callable[..., torch.Tensor] = lookup,
    ) -> torch.Tensor:
        """One bag an id."""
        offsets = torch.arange(len(ids) + 1, device=ids.device)
        return reader(array, indices=ids, offsets=offsets, **arguments)

    def step_in_backward(self, optimizer: torch.optim.Optimizer | None) -> None:
        """Has backward take the optimizer's steps on the array, which then gets no gradient; None undoes it.

        Raises:
            ValueError: see `StepInBackward`; features pooled in different ways, which are read by two lookups.
        """
        if optimizer is not None and self._num_lookups() > 1:
            raise ValueError("no step in backward: features pooled by sum and by mean are read by two lookups")
        before = self._step_in_backward
        if before is not None and before.optimizer is optimizer:
            return
        self._step_in_backward = None if optimizer is None else StepInBackward(optimizer, self.array)
        if before is not None:
            before.release()

    def _num_lookups(self) -> int:
        """Lookups a forward makes."""
        return 1

    def _require(self, features: "KeyedJaggedTensor", weighted: bool) -> None:
        require_features(features, self._feature_names, self._table_of_feature, self._layout, weighted, self.array)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "Self":
        """
        Raises:
            TypeError: ``fn`` makes of the array what no lookup reads; nothing is changed.
        """
        made = fn(torch.empty(0, dtype=self.array.dtype, device=self.array.device))
        if made.dtype not in _APPLIED_DTYPES:
            raise TypeError(f"a shared array must be fp32, fp16, bf16 or fp64, not {made.dtype}")
        if self._layout.bits < 32 and made.dtype != torch.float32:
            raise TypeError(
                f"a shared array of bits={self._config.bits} is fp32, from which they are made, not {made.dtype}"
            )
        held = self._holds_levels()
        both = [] if self.projections is None else [self.projections, self.projections.grad]
        before = [t.detach() for t in both if t is not None]  # what `_apply` makes of them has other values
        super()._apply(fn, recurse)
        projections = self.projections
        if projections is not None and projections.dtype != self._accumulator:
            values, *gradient = [_in_dtype(t, projections, self._accumulator) for t in before]
            projections.grad = None
            projections.data = values
            projections.grad = next(iter(gradient), None)
        if held:
            self._levels = self._marks()
        self._describe_array()
        return self

    def _describe_array(self) -> None:
        """Has the layout say how large the array's elements are."""
        if self._layout.itemsize != self.array.element_size():
            self._layout = replace(self._layout, itemsize=self.array.element_size())

    def get_extra_state(self) -> torch.Tensor:
        """The layout as canonical JSON in a uint8 tensor."""
        return array_layout.encode_fingerprint(self._layout.fingerprint())

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Checks the layout; see `_load_from_state_dict`, which does so before anything is copied."""
        self._refuse_other_layout(state)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        saved = state_dict.get(prefix + "_extra_state")
        if saved is not None:
            self._refuse_other_layout(saved)
        if prefix + "codes" in state_dict:
            raise ValueError(
                f"{prefix or 'the state'} is packed, for reading alone: give it to torchrec_pss.load_packed; to train on, load the state dict "
                "of the array that was trained"
            )
        self._join_projections(state_dict, prefix)
        keys, own = state_dict.pop(prefix + "hot_keys", None), self._layout.hot_keys
        if keys is not None and not keys.is_meta and not (keys.shape == own.shape and bool((keys.cpu() == own).all())):
            warnings.warn(
                f"{prefix}hot_keys in the state dict are not those of its layout; the layout's are used", stacklevel=2
            )
        if prefix + "array" in state_dict:
            self._release_levels()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if self.projections is not None and self.projections.dtype != self._accumulator:  # assigned
            self.projections.data = self.projections.data.to(self._accumulator)
        self._describe_array()

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self._layout.hot_keys.numel():
            destination[prefix + "hot_keys"] = self.hot_keys

    def _join_projections(self, state_dict: dict[str, Any], prefix: str) -> None:
        """State dicts once had a matrix a table, ``projections.<table>``."""
        apart = [f"{prefix}projections.{name}" for name in self._layout.projection_places]
        if apart and all(key in state_dict for key in apart):
            state_dict[prefix + "projections"] = torch.cat([state_dict.pop(key).flatten() for key in apart])

    def _refuse_other_layout(self, saved: torch.Tensor) -> None:
        try:
            fingerprint = array_layout.decode_fingerprint(saved)
            difference = array_layout.describe_difference(fingerprint, self._layout.fingerprint())
        except RecursionError as error:
            raise ValueError("the checkpoint's layout of the shared array is unreadable: nested too deeply") from error
        except (AttributeError, KeyError, NotImplementedError, TypeError, ValueError) as error:
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


def _in_dtype(values: torch.Tensor, like: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """``values`` where ``like`` is; uninitialised where one of them has none."""
    if values.is_meta or like.is_meta:
        return torch.empty_like(like, dtype=dtype, requires_grad=False)
    return values.to(like.device, dtype)


def _feature_rows(layout: array_layout.ArrayLayout) -> tuple[list[dict[FeatureColumn, int]], torch.Tensor]:
    """The op's row of metadata of every table, and its hot_keys with their directories."""
    rows, parts, places = [], [layout.hot_keys], layout.projection_places
    for table in layout.tables:
        row = table.feature_row()
        if table.num_hot:
            directory, shift = hot_directory(layout.hot_keys[table.hot_begin : table.hot_end])
            row |= {FeatureColumn.HOT_DIRECTORY: sum(map(len, parts)), FeatureColumn.HOT_SHIFT: shift}
            parts.append(directory)
        if table.is_projected:
            inner, dim = table.projection_shape
            row |= {
                FeatureColumn.PROJECTION: places[table.name],
                FeatureColumn.INNER: inner,
                FeatureColumn.DIM: dim,
            }
        rows.append(row)
    return rows, torch.cat(parts)


def _common_dtype(tables: Sequence[TableConfig]) -> torch.dtype:
    if not tables:
        raise ValueError("at least one table is needed")
    dtype = dtype_of(tables[0])
    for table in tables:
        own = dtype_of(table)
        if own is None:
            raise ValueError(f"table {table.name!r}: data_type must be FP32, FP16 or BF16, got {table.data_type}")
        if own != dtype:
            raise ValueError(
                f"table {table.name!r}: data_type {table.data_type} differs from {tables[0].data_type} of table "
                f"{tables[0].name!r}; one array has one data type"
            )
    assert dtype is not None
    return dtype
