"""`compress`: a trained full model's tables as one shared array."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from torchrec_pss.convert.fit import FitReport, TableRows, fit
from torchrec_pss.modules.embedding_bag_collection import PSSEmbeddingBagCollection
from torchrec_pss.modules.id_counts import IdCounts, checked_counts
from torchrec_pss.modules.pss_config import PSSConfig

_UNSEEN = 0.1  # reads for which a row stands that was never seen, beside those that were


def compress(
    source: EmbeddingBagCollection | Mapping[str, torch.Tensor],
    array_bytes: int | str | None = None,
    *,
    config: PSSConfig | None = None,
    tables: Sequence[EmbeddingBagConfig] | None = None,
    counts: Mapping[str, IdCounts] | None = None,
    is_weighted: bool = False,
) -> tuple[PSSEmbeddingBagCollection, FitReport]:
    """Puts trained tables into an array by weighted least squares (`fit`), and says how well their rows are met.

    Args:
        source: an unsharded EBC; or a state dict that has, under any prefix, ``embedding_bags.<table>.weight``.
        array_bytes: budget, bytes or text such as "10MB"; or
        config: a whole `PSSConfig`.
        tables: the tables of a state dict. An EBC knows its own.
        counts: by table, how often ids are read: rows count accordingly, and the automatic layout has hot rows to choose.
        is_weighted: of a state dict; an EBC knows.

    Raises:
        ValueError: no budget or two; no tables; a table that the state dict does not have, or that is sharded; weights of another
            shape or on "meta"; a budget that is too small.
        TypeError: counts that are no `IdCounts`.

    Examples:
        >>> from torchrec import EmbeddingBagCollection, EmbeddingBagConfig
        >>> from torchrec_pss import compress
        >>> table = EmbeddingBagConfig(name="user", num_embeddings=10_000, embedding_dim=16, feature_names=["user"])
        >>> trained = EmbeddingBagCollection([table])
        >>> ebc, report = compress(trained, array_bytes="64kB")
        >>> ebc.layout.embedding_bytes <= 64_000, report.tables["user"].rows
        (True, 10000)
    """
    if (array_bytes is None) == (config is None):
        raise ValueError("give array_bytes or config, one of them")
    if counts is not None:
        counts = checked_counts(counts)
    if isinstance(source, EmbeddingBagCollection):
        configs, is_weighted = list(source.embedding_bag_configs()), source.is_weighted()
        weights = {c.name: source.embedding_bags[c.name].weight.detach() for c in configs}
    else:
        if not tables:
            raise ValueError("a state dict does not say what its tables are: give tables")
        configs = list(tables)
        weights = {c.name: _weight(source, c.name) for c in configs}
    for c in configs:
        weight = weights[c.name]
        if weight.is_meta:
            raise ValueError(f'table {c.name!r} is on "meta" and has no values')
        if tuple(weight.shape) != (c.num_embeddings, c.embedding_dim):
            raise ValueError(
                f"table {c.name!r}: weights of shape {list(weight.shape)}, configured as [{c.num_embeddings}, {c.embedding_dim}]"
            )
    if config is None:
        assert array_bytes is not None
        config = PSSConfig(array_bytes=array_bytes, counts=counts)
    module = PSSEmbeddingBagCollection(configs, is_weighted, config=config)
    counts = counts or config.counts or {}
    rows = {
        c.name: TableRows(
            torch.arange(c.num_embeddings),
            weights[c.name].cpu().__getitem__,
            row_weights(c.num_embeddings, counts.get(c.name)),
        )
        for c in configs
    }
    return module, fit(module, rows)


def row_weights(num_rows: int, counts: IdCounts | None) -> torch.Tensor | None:
    """What each row ``[num_rows]`` counts: its reads; of rows not among the counted, an equal share of the other reads. None
    without counts."""
    if counts is None:
        return None
    inside = (counts.ids >= 0) & (counts.ids < num_rows)
    ids, reads = counts.ids[inside], counts.counts[inside]
    others = max(num_rows - len(ids), 1)
    weights = np.full(num_rows, max((counts.total - reads.sum()) / others, _UNSEEN))
    weights[ids] = reads
    return torch.from_numpy(weights)


def _weight(state: Mapping[str, torch.Tensor], table: str) -> torch.Tensor:
    suffix = f"embedding_bags.{table}.weight"
    keys = [key for key in state if key == suffix or key.endswith(f".{suffix}")]
    if len(keys) != 1:
        raise ValueError(f"the state dict has {len(keys)} entries {suffix!r} for table {table!r}: {keys}")
    weight = state[keys[0]]
    if type(weight) is not torch.Tensor and not isinstance(weight, torch.nn.Parameter):
        raise ValueError(f"table {table!r} is a {type(weight).__name__}: gather it into one tensor first")
    return weight.detach()
