"""The shared array of a benchmark's case, and its batches."""

import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from benchmarks.lookup_cases import Case, draw_ids
from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection
from torchrec_pss.modules.id_counts import IdCounts

_COUNTED = 131_072  # ids a table by which the default layout is chosen
_STAND_FOR = 100  # times as many: fewer reads would have the layout of few examples, rows of full width


def collection(case: Case, rows: list[int], device: str = "cpu", sign: bool | None = None) -> PSSEmbeddingBagCollection:
    """One feature ``f<i>`` a table of ``rows[i]`` rows, in the case's layout."""
    tables = [
        EmbeddingBagConfig(num_embeddings=n, embedding_dim=case.embedding_dim, name=f"t{i}", feature_names=[f"f{i}"])
        for i, n in enumerate(rows)
    ]
    if case.layout == "plain":
        config = PSSConfig(array_bytes=case.array_bytes, layout="plain", sign=sign)
    else:
        counted = draw_ids(rows, _COUNTED, case.ids, seed=1).numpy()
        counts = {t.name: _of_more(IdCounts.of(drawn)) for t, drawn in zip(tables, counted, strict=True)}
        config = PSSConfig(array_bytes=case.array_bytes, counts=counts, sign=sign)
    return PSSEmbeddingBagCollection(tables, config=config, device=torch.device(device))


def _of_more(counts: IdCounts) -> IdCounts:
    return IdCounts(counts.ids, counts.counts * _STAND_FOR, counts.total * _STAND_FOR)


def batch_of(case: Case, ids: torch.Tensor, device: str = "cpu") -> KeyedJaggedTensor:
    """The ids (int64 ``[tables, batch_size * ids_per_bag]``) as the collection takes them, offsets computed."""
    lengths = torch.full((len(ids) * case.batch_size,), case.ids_per_bag, dtype=torch.int32)
    kjt = KeyedJaggedTensor([f"f{i}" for i in range(len(ids))], ids.flatten(), lengths=lengths).to(torch.device(device))
    kjt.offsets()
    return kjt
