"""`LazyAdam`: full tables under TorchRec's sharding trained as a shared array is: Adam, and an average of all weights.

FBGEMM has no Adam on a CPU, and keeps no average. So its kernels step the tables by plain SGD, which leaves each touched row's
gradient in it; `LazyAdam` takes that out again and steps by Adam's formula. Rows that no bag of the batch has stay as they are, and so
do their moments (torch.optim.SparseAdam); the average of a row that is not touched follows in closed form.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen
from torch import nn
from torch.distributed._shard.sharded_tensor import Shard, ShardedTensor, ShardedTensorMetadata
from torch.distributed._shard.sharding_spec import ShardMetadata
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer

from torchrec_pss.optim import WeightAverage

SGD_RATE = 4096.0  # a power of two, so that a row's difference loses no bit of its gradient to the row's own size


class ShardedTable:
    """A table's local rows, if this rank has any, and what a batch touches of them.

    Attributes:
        whole: its `ShardedTensor`.
        local: its rows on this rank ``[R, D]``, what FBGEMM reads; None where it has none.
        rows, before: of the last training forward, the rows it read, and what was in them.
    """

    def __init__(self, name: str, whole: ShardedTensor) -> None:
        shards = whole.local_shards()
        if len(shards) > 1 or any(s.metadata.shard_sizes[1] != whole.size(1) for s in shards):
            raise ValueError(f"{name}: rows must be whole on a rank (table_wise or row_wise)")
        self.name, self.whole = name, whole
        self.local = shards[0].tensor.detach() if shards else None
        self.rows: torch.Tensor | None = None
        self.before: torch.Tensor | None = None

    def like(self, columns: int | None = None, dtype: torch.dtype = torch.float32) -> ShardedTensor:
        """Zeros, sharded as the table; of another number of columns, if given."""
        metadata = self.whole.metadata()
        columns = metadata.size[1] if columns is None else columns
        shards = [
            ShardMetadata(s.shard_offsets, [s.shard_sizes[0], columns], s.placement) for s in metadata.shards_metadata
        ]
        local = self.whole.local_shards()
        mine = [
            Shard(torch.zeros(s.metadata.shard_sizes[0], columns, dtype=dtype, device=s.tensor.device), m)
            for s in local
            for m in shards
            if m.shard_offsets == s.metadata.shard_offsets
        ]
        properties = type(metadata.tensor_properties)(dtype=dtype)
        described = ShardedTensorMetadata(shards, torch.Size([metadata.size[0], columns]), properties)
        return ShardedTensor._init_from_local_shards_and_global_metadata(mine, described, self.whole._process_group)


def _mine(whole: ShardedTensor) -> torch.Tensor:
    """This rank's rows, of one that has some."""
    return whole.local_shards()[0].tensor


def sharded_tables(model: nn.Module) -> list[ShardedTable]:
    """Of all FBGEMM's kernels in a sharded model. Their forwards note from now on what they touch.

    Raises:
        ValueError: a table whose rows are divided among ranks.
    """
    tables = [
        ShardedTable(name, value) for name, value in model.state_dict().items() if isinstance(value, ShardedTensor)
    ]
    places = {t.local.data_ptr(): t for t in tables if t.local is not None and t.local.numel()}
    lookups = [lookup for module in model.modules() for lookup in getattr(module, "_lookups", [])]  # in no ModuleList
    for kernel in (module for lookup in lookups for module in lookup.modules()):
        if isinstance(kernel, SplitTableBatchedEmbeddingBagsCodegen):
            weights = kernel.split_embedding_weights()  # of a rank that a table's rows did not last for, empty
            own = [places.pop(weight.data_ptr()) if weight.numel() else None for weight in weights]
            of_feature = [own[table] for table in kernel.feature_table_map]
            kernel.register_forward_pre_hook(_noting(of_feature), with_kwargs=True)
    if places:
        raise ValueError(f"no kernel of FBGEMM has {', '.join(t.name for t in places.values())}")
    return tables


def _noting(of_feature: list[ShardedTable | None]) -> Callable[[nn.Module, tuple, Mapping], None]:
    def note(module: nn.Module, args: tuple, kwargs: Mapping) -> None:
        if not torch.is_grad_enabled():
            return
        indices, offsets = (
            kwargs.get("indices", args[0] if args else None),
            kwargs.get("offsets", args[1] if len(args) > 1 else None),
        )
        bounds = offsets[:: max((len(offsets) - 1) // len(of_feature), 1)].tolist()
        ids: dict[ShardedTable, list[torch.Tensor]] = {}
        for table, first, last in zip(of_feature, bounds, bounds[1:], strict=False):
            if table is not None:
                ids.setdefault(table, []).append(indices[first:last])
        for table, parts in ids.items():
            table.rows = torch.cat(parts).long().unique()
            table.before = table.local[table.rows]

    return note


class LazyAdam(KeyedOptimizer):
    """Adam on the touched rows of ``tables``, whose kernels step by SGD at `SGD_RATE`; bias correction by the number of all steps.

    Args:
        tables: of `sharded_tables`.
        lr, eps: Adam's; betas are torch's defaults.

    Attributes:
        average: told of rows before they change, where there is one.
    """

    _BETAS = (0.9, 0.999)

    def __init__(self, tables: list[ShardedTable], lr: float, eps: float) -> None:
        self.tables = tables
        self.average: TableAverage | None = None
        state = {t.whole: {"step": torch.tensor(0.0), "exp_avg": t.like(), "exp_avg_sq": t.like()} for t in tables}
        super().__init__({t.name: t.whole for t in tables}, state, [{"params": list(state), "lr": lr, "eps": eps}])

    @torch.no_grad()
    def step(self, closure=None) -> None:
        (group,) = self.param_groups
        beta1, beta2 = self._BETAS
        for table in self.tables:
            state = self.state[table.whole]
            state["step"] += 1
            if table.rows is None:
                continue
            rows, before = table.rows, table.before
            table.rows = table.before = None
            if self.average is not None:
                self.average.before_change(table, rows, before)
            gradient = (before - table.local[rows]) / SGD_RATE
            mean, square = (_mine(state[key]) for key in ("exp_avg", "exp_avg_sq"))
            means = mean[rows].lerp_(gradient, 1 - beta1)
            squares = square[rows].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            mean[rows], square[rows] = means, squares
            step = float(state["step"])
            root = squares.sqrt_().div_((1 - beta2**step) ** 0.5).add_(group["eps"]).mul_(1 - beta1**step)
            table.local[rows] = before.addcdiv_(means, root, value=-group["lr"])

    def forget(self, table: ShardedTable) -> None:
        """Zeroes the moments of a table that is about to change whole."""
        if self.average is not None:
            self.average.before_change(table, torch.arange(len(table.local)), table.local)
        for key in ("exp_avg", "exp_avg_sq"):
            _mine(self.state[table.whole][key]).zero_()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """There is none."""

    def init_state(self, sparse_grad_parameter_names: set[str] | None = None) -> None:
        """It is there from the start."""


def lazy_adam(optimizer: CombinedOptimizer) -> LazyAdam | None:
    """That of full tables among a model's optimizers."""
    return next((part for _, part in optimizer.optimizers if isinstance(part, LazyAdam)), None)


class TableRestart:
    """Full tables taken back to their first values, as `ArrayRestart` does an array: a second copy of them in memory."""

    def __init__(self, optimizer: LazyAdam) -> None:
        self._tables = optimizer
        self._first = [(t, t.local.clone()) for t in optimizer.tables if t.local is not None]

    @torch.no_grad()
    def restart(self, optimizer: KeyedOptimizer) -> None:
        """Gives the tables their first values, and zeroes what their optimizer, a part of ``optimizer``, keeps of them."""
        for table, first in self._first:
            self._tables.forget(table)
            table.local.copy_(first)
        for table in self._tables.tables:
            self._tables.state[table.whole]["step"].zero_()


class TableAverage:
    """`WeightAverage` of tables: the same weights of the same steps, for every row.

    With ``n`` of its updates done and a row's average as it was after ``m``, the row having stayed ``w`` in between, it is ``w + (average -
    w) * F`` with ``F`` the product of ``(k - 1) / (k + power)`` for ``k = m + 1 .. n``.
    """

    def __init__(self, tables: list[ShardedTable], power: float, every: int) -> None:
        self._tables, self._power, self._every = tables, power, every
        self._average = {t.name: t.like() for t in tables}
        self._until = {t.name: t.like(1, torch.int32) for t in tables}
        self._steps = 0

    @property
    def _updates(self) -> int:
        return self._steps // self._every

    def step(self) -> None:
        """Counts a step."""
        self._steps += 1

    def _kept(self, until: torch.Tensor) -> torch.Tensor:
        """``F`` from ``until`` on, fp32 of its shape."""
        n, m = float(self._updates), until.to(torch.float64)
        p = self._power
        logarithm = math.lgamma(n) - math.lgamma(n + p + 1) + torch.lgamma(m + p + 1) - torch.lgamma(m)
        return logarithm.exp().to(torch.float32)  # of m = 0: exp(-inf)

    def before_change(self, table: ShardedTable, rows: torch.Tensor, values: torch.Tensor) -> None:
        """Brings the average of rows that have been ``values`` up to the last update."""
        if not self._updates:
            return
        average, until = (_mine(s[table.name]) for s in (self._average, self._until))
        average[rows] = torch.lerp(values, average[rows], self._kept(until[rows]))
        until[rows] = self._updates

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the tables hold their average (before the first update, their own values)."""
        if not self._updates:
            yield
            return
        self._exchange(bring=True)
        try:
            yield
        finally:
            self._exchange(bring=False)

    @torch.no_grad()
    def _exchange(self, bring: bool, rows: int = 1 << 18) -> None:
        """Tables and averages change places, some rows at a time: there is no memory for a third copy."""
        for table in self._tables:
            if table.local is None:
                continue
            average, until = (_mine(s[table.name]) for s in (self._average, self._until))
            for first in range(0, len(average), rows):
                part = slice(first, first + rows)
                live, mean = table.local[part].clone(), average[part]
                if bring:
                    mean = torch.lerp(live, mean, self._kept(until[part]))
                table.local[part] = mean
                average[part] = live
            if bring:
                until.fill_(self._updates)

    def state_dict(self) -> dict:
        return {
            **{f"{name}.average": value for name, value in self._average.items()},
            **{f"{name}.until": value for name, value in self._until.items()},
            "_table_steps": torch.tensor(self._steps),
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping) -> None:
        for name, value in self.state_dict().items():
            if isinstance(value, ShardedTensor):
                for to, saved in zip(value.local_shards(), state[name].local_shards(), strict=True):
                    to.tensor.copy_(saved.tensor)
        self._steps = int(state["_table_steps"])


class JointAverage(WeightAverage):
    """Of parameters, and of tables."""

    def __init__(self, parameters: Mapping[str, torch.Tensor], tables: TableAverage, power: float, every: int) -> None:
        super().__init__(parameters, power, every)
        self._tables = tables

    def step(self) -> None:
        super().step()
        self._tables.step()

    @contextmanager
    def applied(self) -> Iterator[None]:
        with super().applied(), self._tables.applied():
            yield

    def state_dict(self) -> dict:
        return super().state_dict() | self._tables.state_dict()

    def load_state_dict(self, state: Mapping) -> None:
        super().load_state_dict(state)
        self._tables.load_state_dict(state)
