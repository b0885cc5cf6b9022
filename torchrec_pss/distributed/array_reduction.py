"""How the gradient of a replicated array is averaged over the ranks: started in backward, finished at its end.

What is exchanged beside it (other layers' backward, their all-reduce) overlaps with it. Every way leaves the same bits on all ranks.
"""

from collections.abc import Callable
from enum import Enum

import torch
import torch.distributed as dist

Finish = Callable[[], None]


class ArrayReduction(str, Enum):
    """The ways, with the bytes that a rank sends of an array of N elements on W ranks.

    - ``DDP``: left to the data-parallel wrapper, with the dense layers': ``2 (W - 1) / W * 4 N``.
    - ``ALL_REDUCE``: the same sum, by the module itself and of its projections too: where no data-parallel wrapper is (FSDP2 for the dense
      layers, ``init_data_parallel=False``).
    - ``BF16``: rounded to bfloat16 before the sum: half of that.
    - ``SPARSE``: only elements whose gradient is not zero, index and value, n on the rank that has most: ``(W - 1) * 8 n``. Where that
      is more than the dense all-reduce sends, the step makes the dense one. Two small collectives more a step; on a GPU the host waits
      for the count.
    """

    DDP = "ddp"
    ALL_REDUCE = "all_reduce"
    BF16 = "bf16"
    SPARSE = "sparse"


def start(way: ArrayReduction, gradient: torch.Tensor, group: dist.ProcessGroup) -> Finish:
    """Starts to average ``gradient`` (``[N]``, any floating dtype, in place) over the ranks of ``group``; the function that is
    returned waits for it. As DDP, it divides before it sums, for a sum of fp16 may be infinite."""
    return _STARTS[way](gradient, group)


def _dense(gradient: torch.Tensor, group: dist.ProcessGroup) -> Finish:
    work = dist.all_reduce(gradient.div_(group.size()), group=group, async_op=True)

    def finish() -> None:
        work.wait()
        _used_here(gradient)

    return finish


def _bf16(gradient: torch.Tensor, group: dist.ProcessGroup) -> Finish:
    rounded = (gradient / group.size()).to(torch.bfloat16)
    work = dist.all_reduce(rounded, group=group, async_op=True)

    def finish() -> None:
        work.wait()
        gradient.copy_(rounded)
        _used_here(gradient, rounded)

    return finish


def _sparse(gradient: torch.Tensor, group: dist.ProcessGroup) -> Finish:
    touched = gradient.nonzero().squeeze(1)
    most = torch.tensor([len(touched)], device=gradient.device)
    dist.all_reduce(most, dist.ReduceOp.MAX, group=group)
    room, ranks = int(most), group.size()
    if ranks * room >= len(gradient):
        return _dense(gradient, group)
    number, value_dtype = (
        (torch.int64, torch.float64) if gradient.dtype == torch.float64 else (torch.int32, torch.float32)
    )
    own = torch.zeros(2, room, dtype=number, device=gradient.device)  # what is left over adds 0 to element 0
    own[0, : len(touched)] = touched
    own[1, : len(touched)] = (gradient[touched] / ranks).to(value_dtype).view(number)
    parts = [torch.empty_like(own) for _ in range(ranks)]
    work = dist.all_gather(parts, own, group=group, async_op=True)

    def finish() -> None:
        work.wait()
        gradient.zero_()
        for index, value in parts:  # one rank after the other, each index once: the same sums everywhere
            gradient.index_add_(0, index, value.view(value_dtype).to(gradient.dtype))
        _used_here(gradient, *parts)

    return finish


def _used_here(*tensors: torch.Tensor) -> None:
    """Keeps the memory of tensors that backward made on another stream (a pipeline's) until this one's work on them is done."""
    for tensor in tensors:
        if tensor.is_cuda:
            tensor.record_stream(torch.cuda.current_stream(tensor.device))


_STARTS = {
    ArrayReduction.DDP: _dense,
    ArrayReduction.ALL_REDUCE: _dense,
    ArrayReduction.BF16: _bf16,
    ArrayReduction.SPARSE: _sparse,
}
