"""`unsharded` and `expanded`: a trained, sharded model as a plain one, to serve or to hand on."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.distributed.tensor import DTensor
from torchrec.distributed.embedding import ShardedEmbeddingCollection
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection
from torchrec.distributed.model_parallel import get_unwrapped_module
from torchrec.distributed.types import ShardedModule
from torchrec.modules.embedding_configs import BaseEmbeddingConfig, data_type_to_dtype
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection

from torchrec_pss.distributed.mixed_collection import MixedCollection, configs_of, weight_of
from torchrec_pss.distributed.mixed_embedding import MixedEmbeddingCollection
from torchrec_pss.distributed.mixed_embeddingbag import MixedEmbeddingBagCollection
from torchrec_pss.distributed.replicated_array import ReplicatedArray
from torchrec_pss.modules.embedding_bag_collection import PSSEmbeddingBagCollection
from torchrec_pss.modules.embedding_collection import PSSEmbeddingCollection
from torchrec_pss.modules.shared_array import SharedArrayModule
from torchrec_pss.ranges import checked

_CPU = torch.device("cpu")
_ROWS = 1 << 18  # read at a time
_TABLES = {  # TorchRec's name of the module that has a table, by the kind of collection
    PSSEmbeddingBagCollection: "embedding_bags",
    MixedEmbeddingBagCollection: "embedding_bags",
    PSSEmbeddingCollection: "embeddings",
    MixedEmbeddingCollection: "embeddings",
}


def unsharded(source: nn.Module | Mapping[str, Any]) -> Any:
    """A model, or a state dict, that needs no process group. To be called on all ranks; what is divided among them is gathered.

    Args:
        source: a model, under `DistributedModelParallel` or not; or its state dict.

    Returns:
        On the first rank a copy on the CPU, None on the others. Of a model: without wrappers; a sharded collection is a plain one of its
        kind (`PSSEmbeddingBagCollection`, `MixedEmbeddingBagCollection`, `EmbeddingBagCollection`, ...), frozen parts and
        `training` as they are, no optimizer. Of a state dict: the same names, with whole tensors; it loads into that copy.

    Raises:
        TypeError: a sharded module of another kind, names it; neither a model nor a state dict.
    """
    if isinstance(source, Mapping):
        return _gathered(source)
    if not isinstance(source, nn.Module):
        raise TypeError(f"unsharded takes a model or its state_dict(), got a {type(source).__name__}")
    root = get_unwrapped_module(source)
    plain = {
        id(module): _plain(path, module) for path, module in _outermost(root, (ShardedModule,))
    }  # deepcopy takes these for the copies
    return copy.deepcopy(root, plain).to(_CPU) if _is_first() else None


def expanded(model: nn.Module, max_bytes: int | str = "64GB") -> dict[str, torch.Tensor] | None:
    """The state dict of the model with full tables: what loads into the plain TorchRec model that was swapped or planned. To be called on
    all ranks.

    Args:
        model: as `unsharded`'s.
        max_bytes: of the full tables together, at most.

    Returns:
        On the first rank, None on the others: ``<collection>.embedding_bags.<table>.weight`` (``embeddings`` for sequences),
        ``[num_embeddings, embedding_dim]`` in the table's data type, its rows as they are read; everything else as it is.

    Raises:
        TypeError: no model.
        ValueError: full tables of more than ``max_bytes``.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"expanded takes a model, for a state dict does not say where a table's rows are in its array, got a {type(model).__name__}; "
            "make the model, load the state dict into it, and expand that"
        )
    collections = dict(_outermost(get_unwrapped_module(model), tuple(_TABLES)))
    full = {f"{p}.{c.name}": _full_bytes(c) for p, m in collections.items() for c in configs_of(m)}
    if sum(full.values()) > checked("max_bytes", max_bytes):
        largest = max(full, key=full.__getitem__)
        raise ValueError(
            f"the full tables have {sum(full.values()):,} bytes, max_bytes is {max_bytes}; the largest is {largest!r}, {full[largest]:,}"
        )
    plain = unsharded(model)
    if plain is None:
        return None
    state = dict(plain.state_dict())
    for path in collections:
        prefix = f"{path}." if path else ""
        for name in [n for n in state if n.startswith(prefix)]:
            del state[name]
        module = plain.get_submodule(path)
        kind = next(name for cls, name in _TABLES.items() if isinstance(module, cls))
        for config in configs_of(module):
            state[f"{prefix}{kind}.{config.name}.weight"] = _rows(module, config)
    return state


def _full_bytes(config: BaseEmbeddingConfig) -> int:
    return config.num_embeddings * config.embedding_dim * data_type_to_dtype(config.data_type).itemsize


@torch.no_grad()
def _rows(module: nn.Module, config: BaseEmbeddingConfig) -> torch.Tensor:
    """All rows of a table."""
    if isinstance(module, MixedCollection):
        if module.tables is not None and config.name in (c.name for c in configs_of(module.tables)):
            return weight_of(module.tables, config.name).detach()
        module = module.array
    array = cast(SharedArrayModule, module)
    dtype = data_type_to_dtype(config.data_type)
    parts = [
        array.materialize(config.name, torch.arange(first, min(first + _ROWS, config.num_embeddings))).to(dtype)
        for first in range(0, config.num_embeddings, _ROWS)
    ]
    return torch.cat(parts)


def _is_first() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def _outermost(module: nn.Module, kinds: tuple[type, ...], path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The modules of these kinds, and nothing inside one."""
    if isinstance(module, kinds):
        yield path, module
        return
    for name, child in module._modules.items():  # `named_children` passes over what it has met
        if child is not None:
            yield from _outermost(child, kinds, f"{path}.{name}" if path else name)


def _plain(path: str, module: ShardedModule) -> nn.Module:
    """The module unsharded, on the CPU with its values; of other ranks than the first without."""
    device = _CPU if _is_first() else torch.device("meta")
    made: nn.Module
    if isinstance(module, ReplicatedArray):
        own = {"config": module.config, "output_dtype": module.output_dtype}
        if isinstance(module, PSSEmbeddingBagCollection):
            made = PSSEmbeddingBagCollection(configs_of(module), module.is_weighted(), device, **own)
        else:
            made = PSSEmbeddingCollection(configs_of(module), device, module.need_indices(), **own)
    elif isinstance(module, ShardedEmbeddingBagCollection):
        made = EmbeddingBagCollection(module._embedding_bag_configs, module._is_weighted, device)
    elif isinstance(module, ShardedEmbeddingCollection):
        made = EmbeddingCollection(module._embedding_configs, device, module._need_indices)
    else:
        raise TypeError(f"{path or 'the model'} is a {type(module).__name__}, which cannot be unsharded here")
    state = _gathered(module.state_dict())
    if state is not None:
        made.load_state_dict(state)
        learns = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
        for name, parameter in made.named_parameters():
            parameter.requires_grad_(learns.get(name, True))
    return made.train(module.training)


def _gathered(state: Mapping[str, Any]) -> dict[str, Any] | None:
    """On the first rank, the others take part."""
    found = _whole(state)
    return found if _is_first() else None


def _whole(value: Any) -> Any:
    if isinstance(value, Mapping):  # state dicts of optimizers are nested
        return {name: _whole(one) for name, one in value.items()}
    if isinstance(value, ShardedTensor):
        shards = value.local_shards()
        device = shards[0].tensor.device if shards else _CPU
        out = torch.empty(value.size(), dtype=value.dtype, device=device) if _is_first() else None
        value.gather(dst=0, out=out)
        return None if out is None else out.cpu()
    if isinstance(value, DTensor):
        return value.full_tensor().detach().cpu()
    return value.detach().cpu().clone() if isinstance(value, torch.Tensor) else copy.deepcopy(value)
