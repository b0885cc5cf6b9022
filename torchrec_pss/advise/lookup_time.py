"""A short measurement of a layout's lookup on the machine at hand."""

import statistics
import time
from collections.abc import Mapping

import numpy as np
import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss.modules.allocation import cell_bytes
from torchrec_pss.modules.embedding_bag_collection import PSSEmbeddingBagCollection
from torchrec_pss.modules.id_counts import IdCounts
from torchrec_pss.modules.pss_config import PSSConfig

MOST_BYTES = 1 << 30
_ITEMSIZE, _REPEATS = 4, 5


def step_milliseconds(
    tables: list[EmbeddingBagConfig], config: PSSConfig, counts: Mapping[str, IdCounts], batch_size: int
) -> float | None:
    """Median time of forward and backward, one id a bag drawn as counted; None for an array above 1 GiB, in which it is trained."""
    if config.array_bytes / float(cell_bytes(config.element_bits, _ITEMSIZE)) * _ITEMSIZE > MOST_BYTES:
        return None
    module = PSSEmbeddingBagCollection(tables, config=config)
    ids = torch.cat([_draw(counts[t.name], t.num_embeddings, batch_size) for t in tables])
    keys = [name for t in tables for name in t.feature_names]
    kjt = KeyedJaggedTensor(keys, ids, lengths=torch.ones(len(ids), dtype=torch.int32), stride=batch_size)
    times = []
    for _ in range(_REPEATS + 1):
        module.zero_grad()
        started = time.perf_counter()
        module(kjt).values().sum().backward()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:]) * 1000


def _draw(known: IdCounts, rows: int, number: int) -> torch.Tensor:
    rng = np.random.default_rng(0)
    drawn = rng.random(number) * max(known.total, 1)
    at = np.searchsorted(np.cumsum(known.counts), drawn, side="right")
    # Ids that were not counted: evenly any.
    others = rng.integers(0, rows, number)
    counted = at < len(known.ids)
    return torch.from_numpy(np.where(counted, known.ids[np.minimum(at, len(known.ids) - 1)], others))
