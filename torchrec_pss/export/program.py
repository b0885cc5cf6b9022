"""`to_program`: a model with our collections as a `torch.export` program of plain tensors, to read from alone."""

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as shapes
from torch.utils._pytree import tree_map
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor, KeyedTensor

from torchrec_pss import quant
from torchrec_pss.modules.embedding_bag_collection import PSSEmbeddingBagCollection
from torchrec_pss.modules.embedding_collection import PSSEmbeddingCollection


@dataclass(frozen=True)
class Input:
    """One argument of a program.

    Attributes:
        name: of the argument.
        dtype: "float32", "int64", ...
        shape: a number, or "B" (rows) or "L" (ids of all features; of several KJTs "L_" and the argument), for each dimension.
        features: whose bags ``lengths`` ``[F, B]`` has, in their order; ``values`` and ``weights`` ``[L]`` have feature after feature, row after row.
    """

    name: str
    dtype: str
    shape: list[int | str]
    features: list[str] | None = None

    def as_json(self) -> dict[str, Any]:
        return {k: v for k, v in asdict(self).items() if v is not None}


class _PlainInputs(nn.Module):
    """The model's KJTs as tensors."""

    def __init__(
        self, model: nn.Module, example: Sequence[torch.Tensor | KeyedJaggedTensor], dense_dtype: torch.dtype | None
    ) -> None:
        super().__init__()
        self.model = model
        self._dense_dtype = dense_dtype
        self._kinds = [
            None if isinstance(e, torch.Tensor) else (list(e.keys()), e.weights_or_none() is not None) for e in example
        ]

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        given, left = [], list(tensors)
        for kind in self._kinds:
            if kind is None:
                tensor = left.pop(0)
                given.append(tensor.to(self._dense_dtype) if self._is_cast(tensor) else tensor)
                continue
            keys, weighted = kind
            values, lengths = left.pop(0), left.pop(0)
            flat = lengths.flatten()
            offsets = torch.cat([flat.new_zeros(1), flat.cumsum(0)])  # given, so that no other library is asked
            weights = left.pop(0) if weighted else None
            given.append(
                KeyedJaggedTensor(keys, values, weights, lengths=flat, offsets=offsets, stride=lengths.shape[1])
            )
        out = plain(self.model(*given))
        return tree_map(lambda tensor: tensor.float() if self._is_cast(tensor) else tensor, out)

    def _is_cast(self, tensor: torch.Tensor) -> bool:
        return self._dense_dtype is not None and tensor.is_floating_point()


def plain(out: object) -> object:
    """An output without KeyedTensors and JaggedTensors."""
    if isinstance(out, KeyedTensor | JaggedTensor):
        return out.values()
    if isinstance(out, dict):
        return {name: plain(value) for name, value in out.items()}
    return type(out)(map(plain, out)) if isinstance(out, tuple | list) else out


def flattened(example: Sequence[torch.Tensor | KeyedJaggedTensor]) -> list[torch.Tensor]:
    """Arguments of the program for those of the model.

    Raises:
        TypeError: an argument that is neither a tensor nor a KJT.
    """
    found = []
    for e in example:
        if isinstance(e, torch.Tensor):
            found.append(e)
        elif isinstance(e, KeyedJaggedTensor) and e.variable_stride_per_key():
            raise ValueError("an exported model takes no batch size that varies by feature (VBE)")
        elif isinstance(e, KeyedJaggedTensor):
            weights = e.weights_or_none()
            found += [e.values(), e.lengths().view(len(e.keys()), -1).long(), *([] if weights is None else [weights])]
        else:
            raise TypeError(f"an exported model takes tensors and KeyedJaggedTensors, got {type(e).__name__}")
    return found


def inputs_of(example: Sequence[torch.Tensor | KeyedJaggedTensor], names: Sequence[str] | None = None) -> list[Input]:
    """What the program's arguments are. ``names``: of the model's arguments, for tensors and in front of a second KJT's parts."""
    names = names or [f"input_{n}" for n in range(len(example))]
    several = sum(isinstance(e, KeyedJaggedTensor) for e in example) > 1
    found = []
    for e, name in zip(example, names, strict=True):
        if isinstance(e, torch.Tensor):
            found.append(Input(name, _dtype(e), ["B", *e.shape[1:]]))
            continue
        keys, before = list(e.keys()), f"{name}_" if several else ""
        number = f"L_{name}" if several else "L"
        found.append(Input(f"{before}values", _dtype(e.values()), [number]))
        found.append(Input(f"{before}lengths", "int64", [len(keys), "B"], keys))
        if e.weights_or_none() is not None:
            found.append(Input(f"{before}weights", _dtype(e.weights()), [number]))
    return found


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def to_serve(
    model: nn.Module, bits: int | None = None, out_of_range: str = "error", dense_dtype: torch.dtype | None = None
) -> nn.Module:
    """A copy with collections that only read (`torchrec_pss.quant`), in eval mode, without gradients.

    Args:
        dense_dtype: of all else: its floating-point parameters and buffers, and what the collections return. None: as it is.

    Raises:
        ValueError: none of our collections in it; else see `torchrec_pss.quant`.
    """

    def reading(module: PSSEmbeddingBagCollection | PSSEmbeddingCollection) -> nn.Module:
        if isinstance(module, PSSEmbeddingBagCollection):
            return quant.PSSEmbeddingBagCollection(module, bits, dense_dtype, out_of_range)
        return quant.PSSEmbeddingCollection(module, bits, dense_dtype)

    ours = {
        id(m): reading(m) for m in model.modules() if isinstance(m, PSSEmbeddingBagCollection | PSSEmbeddingCollection)
    }
    if not ours:
        raise ValueError(
            "the model has no collection of a shared array: there is nothing to export that torch.export does not"
        )
    served = copy.deepcopy(model, ours).eval().requires_grad_(False)  # deepcopy takes these for the copies
    if dense_dtype is not None:
        _cast(served, dense_dtype)
    return served


def _cast(module: nn.Module, dtype: torch.dtype) -> None:
    """All but our collections."""
    if isinstance(module, quant.PSSEmbeddingBagCollection | quant.PSSEmbeddingCollection):
        return
    for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)
    for child in module.children():
        _cast(child, dtype)


def to_program(
    served: nn.Module,
    example: Sequence[torch.Tensor | KeyedJaggedTensor],
    dense_dtype: torch.dtype | None = None,
) -> ExportedProgram:
    """Of what `to_serve` returned for that ``dense_dtype``; inputs and outputs are as the model's, or fp32. Rows and ids may be any number, 0 too.

    Args:
        example: arguments of the model, of two rows or more; every feature that is read, in the collections' order, or KJTs are permuted by FBGEMM.
    """
    tensors = tuple(flattened(example))
    wrapped = _PlainInputs(served, example, dense_dtype).eval()
    shape = [{d: Dim.DYNAMIC for d, size in enumerate(i.shape) if isinstance(size, str)} for i in inputs_of(example)]
    with torch.no_grad(), shapes.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]  # torch adds it. Or a batch of one would be another program
        return torch.export.export(wrapped, tensors, dynamic_shapes=(tuple(shape),), strict=False)
