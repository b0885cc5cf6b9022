"""`from_robe`: an array that the authors' released code has trained (ROBE, arXiv 2108.02191)."""

from collections.abc import Mapping, Sequence

import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from torchrec_pss.modules.embedding_bag_collection import PSSEmbeddingBagCollection
from torchrec_pss.modules.pss_config import PSSConfig
from torchrec_pss.ops.hashing import ROBE_P, ROBE_R1, ROBE_R2, ROBE_R3

_ARRAY, _NUMBERS = "hashed_weight", "random_numbers"


def from_robe(
    state_dict: Mapping[str, torch.Tensor], tables: Sequence[EmbeddingBagConfig], block_size: int
) -> PSSEmbeddingBagCollection:
    """A collection that reads what their model reads: one array for all tables, their mapping, sum pooling.

    Args:
        state_dict: of their DLRM (what their script saves under "state_dict"), with the array, fp32 ``[N]``, as ``hashed_weight``.
        tables: in their model's order, with all the rows that they had there: the mapping counts them.
        block_size: their ``uma_chunk_size`` (Z), which a checkpoint does not have.

    Raises:
        KeyError: no array in the state dict.
        ValueError: several arrays (trained with one a table); random numbers of another seed; a table that is not pooled by sum;
            see `PSSConfig`.
    """
    arrays = {k: v for k, v in state_dict.items() if k.rsplit(".", 1)[-1] == _ARRAY}
    if not arrays:
        raise KeyError(f"no {_ARRAY!r} in the state dict; it has {sorted(state_dict)[:5]} ...")
    name, array = next(iter(arrays.items()))
    others = [k for k, v in arrays.items() if v.shape != array.shape or not torch.equal(v, array)]
    if others or array.ndim != 1:
        raise ValueError(f"{name} {tuple(array.shape)} is not one array for all tables; others are {others[:3]}")
    expected = [ROBE_P, ROBE_R1, ROBE_R2, ROBE_R3]
    for key, numbers in state_dict.items():
        if key.rsplit(".", 1)[-1] == _NUMBERS and numbers[:4].tolist() != expected:
            raise ValueError(f"{key} starts with {numbers[:4].tolist()}, not {expected}: another seed of their hash")
    for table in tables:
        if table.pooling.value != "SUM":
            raise ValueError(f"table {table.name!r} is pooled by {table.pooling.value}; theirs are summed")
    config = PSSConfig(array_bytes=4 * array.numel(), hash="robe", block_size=block_size)
    module = PSSEmbeddingBagCollection(list(tables), device=array.device, config=config)
    with torch.no_grad():
        module.array.copy_(array)
    return module
