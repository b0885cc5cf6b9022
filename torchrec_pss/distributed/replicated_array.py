"""`ReplicatedArray`: a shared array that every rank holds whole.

Forward needs no communication. The gradient is averaged over the ranks, by one of two ways:

- ordinary optimizer: the array is left to `DistributedModelParallel`'s data-parallel wrapper (DDP), which
  buckets its all-reduce with the dense layers', unless the sharder asks for another `ArrayReduction`;
- optimizer in backward (`apply_optimizer_in_backward`): the array is kept out of DDP, its gradient is
  reduced from when it is accumulated to the end of backward, the optimizer steps once, and the gradient is dropped. On one rank
  the optimizer steps in the lookup's backward (`StepInBackward`) where it can, and there is no gradient at all.
"""

import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd import Variable
from torchrec.distributed.embedding_sharding import KJTListSplitsAwaitable
from torchrec.distributed.embedding_types import KJTList
from torchrec.distributed.types import (
    Awaitable,
    LazyAwaitable,
    LazyNoWait,
    NoWait,
    NullShardedModuleContext,
    ShardedModule,
    ShardingEnv,
)
from torchrec.optim.fused import FusedOptimizerModule
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer, KeyedOptimizerWrapper
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss.distributed import array_reduction
from torchrec_pss.distributed.array_reduction import ArrayReduction
from torchrec_pss.distributed.rank_agreement import require_agreement
from torchrec_pss.modules.shared_array import SharedArrayModule
from torchrec_pss.optim.counterparts import optimizer_of, set_optimizer
from torchrec_pss.optim.fresh_state import make_state
from torchrec_pss.optim.stand_in import stand_in, widened
from torchrec_pss.optim.step_in_backward import StepInBackward

if TYPE_CHECKING:
    from typing_extensions import Self  # typing's from Python 3.11 on


class ReplicatedArray(ShardedModule, FusedOptimizerModule):
    """TorchRec's `ShardedModule` protocol for a replicated `SharedArrayModule`.

    A subclass names the module's class before this one in its bases, and calls `replicate` on construction.
    The parameters keep their names, so a state dict is the same sharded, unsharded, and at any world size.
    """

    def replicate(
        self, module: SharedArrayModule, env: ShardingEnv, device: torch.device | None, reduction: ArrayReduction
    ) -> None:
        """Takes over the parameters of ``module``, on ``device``, equal on all ranks of ``env`` (broadcast from the
        group's first rank).

        Raises:
            ValueError: ranks disagree, see `require_agreement`; a parameter has several optimizers in backward, or one without a
                counterpart (`torchrec_pss.optim.counterparts`).
        """
        device = module.array.device if device is None else device
        self._process_group = env.process_group
        if self._process_group is not None and self._process_group.size() > 1:
            require_agreement(module.layout, module.array.dtype, self._process_group)
        self._reduction = reduction
        self._in_backward_optims: list[tuple[str, KeyedOptimizer]] = []
        self.array = _moved(module.array, device)
        self.projections = None if module.projections is None else _moved(module.projections, device)
        self._describe_array()
        self._reduced_here: set[str] = set()
        self._unfinished: set[nn.Parameter] = set()  # whose gradient is being reduced
        if module.array.is_meta:
            self.reset_parameters()
        old = dict(module.named_parameters())
        for name, parameter in self.named_parameters():
            if self._process_group is not None:
                first = dist.get_global_rank(self._process_group, 0)
                dist.broadcast(parameter.data, first, group=self._process_group)
            self._adopt_in_backward_optimizer(name, old[name], parameter)
            if self._is_reduced_here(parameter):
                self._reduce_here(name, parameter)
        if module._holds_levels():
            self._hold_levels(module._wanted_gradients)

    def _is_reduced_here(self, parameter: nn.Parameter) -> bool:
        """Whether it is this module that reduces the gradient of a parameter without an optimizer in backward."""
        if parameter is self.array:
            return self._reduction != ArrayReduction.DDP
        return self._reduction == ArrayReduction.ALL_REDUCE

    def _reduce_here(self, name: str, parameter: nn.Parameter) -> None:
        """Has this module reduce the gradient of a parameter, instead of the data-parallel wrapper."""
        if name not in self._reduced_here and not hasattr(parameter, "_in_backward_optimizers"):
            self._on_gradient(parameter, parameter)
        self._reduced_here.add(name)

    def _adopt_in_backward_optimizer(self, name: str, old: nn.Parameter, new: nn.Parameter) -> None:
        """Re-creates the optimizer that `apply_optimizer_in_backward` put on ``old`` so that it runs on ``new``
        once, after the all-reduce."""
        found = optimizer_of(old, None, name)
        if found is None:
            return
        optimizer_class, kwargs = found

        def make(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
            try:
                return optimizer_class(parameters, **kwargs)
            except (AttributeError, TypeError, ValueError) as error:
                raise ValueError(f"{name}: {optimizer_class.__name__} in backward with {kwargs}: {error}") from error

        alone = self._process_group is None or self._process_group.size() == 1
        in_lookup = (
            alone and new is self.array and self._num_lookups() == 1 and not StepInBackward.obstacle(make([new]), new)
        )
        stepped = new if in_lookup else stand_in(new)
        keyed = KeyedOptimizerWrapper({name: stepped}, make)
        make_state(keyed._optimizer)
        self._in_backward_optims.append(("", keyed))
        marked: Any = new
        marked._in_backward_optimizers = [keyed._optimizer]
        set_optimizer(new, found)
        if in_lookup:
            self.step_in_backward(keyed._optimizer)
            return
        self._steps_at_end |= new is self.array
        self._on_gradient(stepped, new)

    def _on_gradient(self, receives: nn.Parameter, parameter: nn.Parameter) -> None:
        """Has `_reduce_and_step` called when a gradient is accumulated, also where that is not before the parameter is thawed."""
        # The garbage collector does not see what a hook refers to: a module that its parameter's hook held would stay for ever, with
        # its process group.
        this, its = weakref.ref(self), weakref.ref(parameter)

        def hook(received: nn.Parameter) -> None:
            module, stepped = this(), its()
            if module is not None and stepped is not None:
                module._reduce_and_step(stepped, received)

        learns = receives.requires_grad
        receives.requires_grad_().register_post_accumulate_grad_hook(hook)
        receives.requires_grad_(learns)

    @torch.no_grad()
    def _reduce_and_step(self, parameter: nn.Parameter, received: nn.Parameter) -> None:
        """Reduces the gradient until the end of backward; then steps the optimizer in backward, if any. ``received``: where the
        gradient is, of an fp16 or bf16 array its stand-in. What was frozen after forward has none, or loses it."""
        if received.grad is None or not parameter.requires_grad:
            received.grad = None
            return
        if parameter in self._unfinished:
            raise RuntimeError(
                "a shared array's gradient is accumulated twice in one backward, while it is being reduced: read it in a "
                "checkpoint(use_reentrant=False), whose backward is part of the whole's"
            )
        self._unfinished.add(parameter)
        finish = None
        if self._process_group is not None and self._process_group.size() > 1:
            way = self._reduction if parameter is self.array else ArrayReduction.DDP
            finish = array_reduction.start(way, received.grad, self._process_group)

        @torch.no_grad()
        def at_end() -> None:
            if finish is not None:
                finish()
            self._unfinished.discard(parameter)
            for optimizer in getattr(parameter, "_in_backward_optimizers", ()):
                with widened(parameter):
                    optimizer.step()
                received.grad = None

        Variable._execution_engine.queue_callback(at_end)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "Self":
        """
        Raises:
            TypeError: another dtype; data-parallel wrapper and optimizers were made for this one.
        """
        made = fn(torch.empty(0, dtype=self.array.dtype, device=self.array.device))
        if made.dtype != self.array.dtype:
            raise TypeError(
                f"a sharded array stays {self.array.dtype}: convert the module to {made.dtype} before it is sharded"
            )
        return super()._apply(fn, recurse)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        if local_metadata.get("assign_to_params_buffers", False):
            raise ValueError(
                f"{prefix or 'a sharded array'}: load_state_dict(assign=True) would take the parameters from the optimizers and reductions "
                "that were made for them; load without assign, or before sharding"
            )
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args, **kwargs)

    @property
    def fused_optimizer(self) -> KeyedOptimizer:
        """The optimizers in backward, for state dicts and learning rates; its ``step`` finds no gradient to apply."""
        return CombinedOptimizer(self._in_backward_optims)

    def sharded_parameter_names(self, prefix: str = "") -> Iterator[str]:
        """The parameters that the data-parallel wrapper must leave alone: those with an optimizer in backward, and what this
        module reduces itself. So it does from now on what is frozen: the wrapper, which asks when it is made, takes no part in that,
        and would miss it once it is thawed."""
        for name, parameter in self.named_parameters(prefix):
            own = name.removeprefix(f"{prefix}.") if prefix else name
            if not parameter.requires_grad:
                self._reduce_here(own, parameter)
            if own in self._reduced_here or hasattr(parameter, "_in_backward_optimizers"):
                yield name

    def _drop_unfinished(self) -> None:
        """Of a backward that failed before its end: no ``zero_grad`` knows of a stand-in, and users of optimizers in backward need none."""
        if torch._C._current_graph_task_id() != -1:  # a forward within a backward, of an activation checkpoint
            return
        self._unfinished.clear()
        for parameter in self.parameters():
            if hasattr(parameter, "_in_backward_optimizers") and (parameter is not self.array or self._steps_at_end):
                parameter.grad = stand_in(parameter).grad = None

    def create_context(self) -> NullShardedModuleContext:
        """An empty one; see TorchRec's `ShardedModule`."""
        return NullShardedModuleContext()

    def input_dist(self, ctx: NullShardedModuleContext, features: KeyedJaggedTensor) -> Awaitable[Awaitable[KJTList]]:
        """No exchange: each rank looks its own batch up. Shaped as train pipelines expect it."""
        self._drop_unfinished()
        return KJTListSplitsAwaitable([NoWait(NoWait(features))], ctx)

    def output_dist(self, ctx: NullShardedModuleContext, output: Any) -> LazyAwaitable[Any]:
        """Nothing is exchanged: the output as it is, as something to wait for."""
        return LazyNoWait(output)


def _moved(parameter: nn.Parameter, device: torch.device) -> nn.Parameter:
    if parameter.is_meta:
        return nn.Parameter(torch.empty_like(parameter, device=device), parameter.requires_grad)
    return nn.Parameter(parameter.detach().to(device), parameter.requires_grad)
