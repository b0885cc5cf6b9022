"""The shared array of a benchmark's case, and its batches."""

from typing import Any

import torch
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from benchmarks.lookup_cases import Case, draw_ids
from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection
from torchrec_pss.modules.id_counts import IdCounts

_COUNTED = 131_072  # ids a table by which the default layout is chosen
_STAND_FOR = 100  # times as many: fewer reads would have the layout of few examples, rows of full width


def collection(
    case: Case,
    rows: list[int],
    device: str = "cpu",
    *,
    is_weighted: bool = False,
    data_type: DataType = DataType.FP32,
    counted: int = _COUNTED,
    **config: Any,
) -> PSSEmbeddingBagCollection:
    """One feature ``f<i>`` a table of ``rows[i]`` rows, in the case's layout.

    Args:
        counted: ids a table by which the default layout is chosen.
        config: more of `PSSConfig`.
    """
    tables = [
        EmbeddingBagConfig(
            num_embeddings=n, embedding_dim=case.embedding_dim, name=f"t{i}", feature_names=[f"f{i}"], data_type=data_type
        )
        for i, n in enumerate(rows)
    ]  # fmt: skip
    if case.layout == "plain":
        config["layout"] = "plain"
    else:
        drawn = draw_ids(rows, counted, case.ids, seed=1).numpy()
        config["counts"] = {t.name: _of_more(IdCounts.of(ids)) for t, ids in zip(tables, drawn, strict=True)}
    made = PSSConfig(array_bytes=case.array_bytes, **config)
    return PSSEmbeddingBagCollection(tables, is_weighted, torch.device(device), config=made)


def _of_more(counts: IdCounts) -> IdCounts:
    return IdCounts(counts.ids, counts.counts * _STAND_FOR, counts.total * _STAND_FOR)


def batch_of(
    case: Case, ids: torch.Tensor, device: str = "cpu", weights: torch.Tensor | None = None
) -> KeyedJaggedTensor:
    """The ids (integers ``[tables, batch_size * ids_per_bag]``) as the collection takes them, offsets computed.

    Args:
        weights: fp32, one an id.
    """
    lengths = torch.full((len(ids) * case.batch_size,), case.ids_per_bag, dtype=torch.int32)
    keys = [f"f{i}" for i in range(len(ids))]
    kjt = KeyedJaggedTensor(keys, ids.flatten(), weights, lengths=lengths).to(torch.device(device))
    kjt.offsets()
    return kjt
