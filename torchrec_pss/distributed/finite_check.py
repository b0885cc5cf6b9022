"""`require_finite`: no tensor that is NaN or infinite goes into a checkpoint or a result."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.distributed.tensor import DTensor

from torchrec_pss.distributed.together import together

_CHUNK = 1 << 22  # elements


class NotFiniteError(ValueError):
    """A tensor, or a metric, that is NaN or infinite."""


def require_finite(state: Mapping[str, Any]) -> None:
    """Looks at every element of every floating-point or complex tensor. Collective: each rank looks at what it holds of sharded tensors, once
    over memory.

    Nothing else is looked at: a number of Python's may be anything, as ``best_loss=inf`` before the first epoch.

    Args:
        state: tensors by name, sharded or not, in mappings and sequences of any depth: a state dict, or several.

    Raises:
        NotFiniteError: on every rank; names the first such tensor of the first rank that has one, the element's index and its value.
        ValueError: on every rank; a tensor is not dense, see `require_dense`.
    """
    for rank, found in enumerate(together(lambda: first_not_finite(state))):
        if found is not None:
            raise NotFiniteError(f"{found} on rank {rank}")


def require_dense(state: Mapping[str, Any]) -> None:
    """That no tensor is sparse or nested: `torch.distributed.checkpoint` writes none, and would not say which it is. Collective.

    Raises:
        ValueError: on every rank; names the tensor and its kind.
    """

    def check() -> None:
        for name, value in _leaves("", state):
            for tensor, _ in _local(value):
                _check_dense(name, tensor)

    together(check)


def _check_dense(name: str, tensor: torch.Tensor) -> None:
    if tensor.is_nested or tensor.layout is not torch.strided:
        kind = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
        raise ValueError(f"{name} is a {kind} tensor: a checkpoint holds dense ones only, keep its parts")


def first_not_finite(state: Mapping[str, Any]) -> str | None:
    """Of what this rank holds: ``"model.array[17] is nan"``, or None. Raises ValueError where a tensor is not dense."""
    for name, value in _leaves("", state):
        for tensor, offsets in _local(value):
            _check_dense(name, tensor)
            found = _first(tensor)
            if found is not None:
                index, bad = found
                place = [i + o for i, o in zip(index, offsets, strict=True)] if offsets else list(index)
                return f"{name}{place if place else ''} is {bad}"
    return None


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor | ShardedTensor):
        yield prefix, value
    elif isinstance(value, Mapping):
        for key, inside in value.items():
            yield from _leaves(f"{prefix}.{key}" if prefix else str(key), inside)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for number, inside in enumerate(value):
            yield from _leaves(f"{prefix}.{number}", inside)


def _local(value: Any) -> list[tuple[torch.Tensor, Sequence[int]]]:
    """A tensor's parts on this rank, and where in it they begin (empty where that is not known or it is whole)."""
    if isinstance(value, ShardedTensor):
        return [(shard.tensor, shard.metadata.shard_offsets) for shard in value.local_shards()]
    if isinstance(value, DTensor):
        value = value.to_local()
    if hasattr(value, "local_shards"):  # TorchRec's, inside a DTensor
        return list(zip(value.local_shards(), value.local_offsets(), strict=True))
    return [(value, ())]


@torch.no_grad()
def _first(tensor: torch.Tensor) -> tuple[tuple[int, ...], float] | None:
    """Index and value of the first element that is not finite."""
    tensor = tensor.detach()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    if not tensor.is_floating_point() or tensor.is_meta or tensor.numel() == 0 or _is_finite(tensor):
        return None
    flat = tensor.reshape(-1)
    for start in range(0, len(flat), _CHUNK):
        bad = ~torch.isfinite(_comparable(flat[start : start + _CHUNK]))
        if bad.any():
            number = start + int(bad.int().argmax())
            index = tuple(int(i) for i in torch.unravel_index(torch.tensor(number), tensor.shape))
            return index, float(flat[number])
    return None


def _is_finite(tensor: torch.Tensor) -> bool:
    # Smallest and largest, both NaN where one is: one pass and no second tensor, where isfinite takes 25 times as long.
    return bool(torch.isfinite(torch.stack(torch.aminmax(_comparable(tensor)))).all())


def _comparable(tensor: torch.Tensor) -> torch.Tensor:
    """fp8 has neither order nor isfinite."""
    return tensor.float() if tensor.element_size() == 1 else tensor
