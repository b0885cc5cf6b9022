"""`packed`: a collection whose elements have few bits in as many bytes as its layout counts; `load_packed`: such a one to read from.

docs/how/hashing.md, section 6, has the codes; here is how their bits lie: the first code in the lowest bits of the first byte.
"""

from collections.abc import Mapping

import numpy as np
import torch

from torchrec_pss.modules.array_layout import ArrayLayout
from torchrec_pss.modules.shared_array import SharedArrayModule
from torchrec_pss.ops.quantize import KEY_BITS, PROJECTION_BITS, codes_of, scales_of, values_of


def packed(module: SharedArrayModule) -> dict[str, torch.Tensor]:
    """What must be stored to read from a collection, on the CPU.

    Args:
        module: of ``PSSConfig(bits=...)`` below 32; under `DistributedModelParallel` of any rank, for all are equal.

    Returns:
        ``codes`` and ``projections.codes``, uint8; their ``scales``, bf16; ``hot_keys``, uint8; and the layout, ``_extra_state``. Without
        the layout they have `ArrayLayout.embedding_bytes`, or some bytes fewer.

    Raises:
        ValueError: elements of 32 bits, or that are not finite, or on the meta device.

    Examples:
        >>> from torchrec import EmbeddingBagConfig
        >>> from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection, packed
        >>> table = EmbeddingBagConfig(name="user", num_embeddings=10**6, embedding_dim=16, feature_names=["user"])
        >>> ebc = PSSEmbeddingBagCollection([table], config=PSSConfig(array_bytes="64kB", bits=4))
        >>> state = packed(ebc)
        >>> sum(t.nbytes for name, t in state.items() if name != "_extra_state") <= 64_000
        True
    """
    _refuse_meta(module)
    layout = module.layout
    if layout.bits == 32:
        raise ValueError(
            "there is nothing to pack: the collection's elements have 32 bits (PSSConfig(bits=4) has fewer)"
        )
    state = {"_extra_state": module.get_extra_state()}
    for name, parameter, bits in _parameters(module):
        values = parameter.detach().cpu()
        if not bool(torch.isfinite(values).all()):
            raise ValueError(
                f"{name} is not finite at {int((~torch.isfinite(values)).nonzero()[0])}: it cannot be packed"
            )
        scales = scales_of(values, bits)
        state |= {_key(name, "codes"): _pack(codes_of(values, scales, bits), bits), _key(name, "scales"): scales}
    return state | {"hot_keys": _packed_keys(layout)}


def load_packed(module: SharedArrayModule, state: Mapping[str, torch.Tensor]) -> None:
    """Gives a collection what was `packed`, for reading alone: it reads the same to the bit.

    The elements are made of their codes once, here: a forward is that of fp32 elements. Array and projections want no gradient any more. To
    train on, load the state dict of the array that was trained.

    Args:
        module: of the same tables and `PSSConfig`; its array is written.
        state: what `packed` returned, on any device.

    Raises:
        ValueError: another layout; a module on the meta device; a part that is missing, of another size or dtype, or a scale that is no
            positive number. Names it, and nothing is changed.

    Examples:
        >>> import torch
        >>> from torchrec import EmbeddingBagConfig
        >>> from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection, load_packed, packed
        >>> table = EmbeddingBagConfig(name="user", num_embeddings=10**6, embedding_dim=16, feature_names=["user"])
        >>> trained, serving = (
        ...     PSSEmbeddingBagCollection([table], config=PSSConfig(array_bytes="64kB", bits=4)) for _ in range(2)
        ... )
        >>> load_packed(serving, packed(trained))
        >>> ids = torch.arange(5)
        >>> torch.equal(serving.materialize("user", ids), trained.materialize("user", ids))
        True
    """
    _refuse_meta(module)
    if module.layout.bits == 32:
        raise ValueError(
            "a packed state is of elements of few bits: make the collection with the same PSSConfig(bits=...)"
        )
    missing = sorted(_names(module) - set(state))
    if missing:
        raise ValueError(f"the packed state has no {', '.join(missing)}")
    module.set_extra_state(state["_extra_state"])
    found = {}
    for name, parameter, bits in _parameters(module):
        codes, scales = state[_key(name, "codes")], state[_key(name, "scales")]
        expected = _pack(torch.zeros(parameter.numel(), dtype=torch.int8), bits)
        groups = scales_of(torch.zeros(parameter.numel()), bits)
        for part, given, wanted in (("codes", codes, expected), ("scales", scales, groups)):
            if (given.dtype, given.shape) != (wanted.dtype, wanted.shape):
                raise ValueError(
                    f"{_key(name, part)} must be {wanted.dtype} {list(wanted.shape)}, got {given.dtype} {list(given.shape)}"
                )
        bad = (~(torch.isfinite(scales) & (scales > 0))).nonzero()
        if len(bad):
            raise ValueError(
                f"{_key(name, 'scales')}[{int(bad[0])}] is {float(scales[bad[0]])}: a scale must be positive"
            )
        found[parameter] = values_of(_unpack(codes.cpu(), bits, parameter.numel()), scales.cpu())
    with torch.no_grad():
        for parameter, values in found.items():
            parameter.copy_(values)
    module._hold_levels()


def _refuse_meta(module: SharedArrayModule) -> None:
    if module.array.is_meta:
        raise ValueError(
            "the collection is on the meta device, where it has no elements: call to_empty(device=...) first"
        )


def _parameters(module: SharedArrayModule) -> list[tuple[str, torch.nn.Parameter, int]]:
    array = [("array", module.array, module.layout.bits)]
    return array if module.projections is None else [*array, ("projections", module.projections, PROJECTION_BITS)]


def _key(name: str, part: str) -> str:
    return part if name == "array" else f"{name}.{part}"


def _names(module: SharedArrayModule) -> set[str]:
    parts = {_key(name, part) for name, _, _ in _parameters(module) for part in ("codes", "scales")}
    return parts | {"_extra_state"}


def _pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    unsigned = (codes.to(torch.int16) + 2 ** (bits - 1)).to(torch.uint8).numpy()
    each = np.unpackbits(unsigned[:, None], axis=1, count=bits, bitorder="little")
    return torch.from_numpy(np.packbits(each.ravel(), bitorder="little"))


def _unpack(stored: torch.Tensor, bits: int, number: int) -> torch.Tensor:
    each = np.unpackbits(stored.numpy(), count=number * bits, bitorder="little").reshape(number, bits)
    unsigned = np.packbits(each, axis=1, bitorder="little").ravel()
    return (torch.from_numpy(unsigned).to(torch.int16) - 2 ** (bits - 1)).to(torch.int8)


def _packed_keys(layout: ArrayLayout) -> torch.Tensor:
    """Of each table in the order of names, the lower 9 bits of its keys; then, of the upper ones, how often each number comes, as so many
    ones and a zero."""
    streams = []
    for table in sorted(layout.tables, key=lambda t: t.name):
        keys = layout.hot_keys[table.hot_begin : table.hot_end].to(torch.int64).numpy()
        if len(keys):
            short = keys + (1 << 31) >> table.hot_drop
            lower = short[:, None] >> np.arange(KEY_BITS) & 1
            counts = np.bincount(short >> KEY_BITS, minlength=1 << 32 - table.hot_drop - KEY_BITS)
            upper = np.ones(len(keys) + len(counts), np.uint8)
            upper[np.cumsum(counts) + np.arange(len(counts))] = 0
            streams += [lower.ravel().astype(np.uint8), upper]
    return (
        torch.from_numpy(np.packbits(np.concatenate(streams), bitorder="little"))
        if streams
        else torch.zeros(0, dtype=torch.uint8)
    )
