"""`migrate`: an array's rows in an array of another layout."""

from collections.abc import Mapping, Sequence

import torch
from torchrec.modules.embedding_configs import BaseEmbeddingConfig

from torchrec_pss.convert.compress import row_weights
from torchrec_pss.convert.fit import FitReport, TableRows, fit
from torchrec_pss.modules.embedding_bag_collection import PSSEmbeddingBagCollection
from torchrec_pss.modules.embedding_collection import PSSEmbeddingCollection
from torchrec_pss.modules.pss_config import PSSConfig

_ALL_ROWS = 1 << 26  # of a table whose ids are not given, at most

ModuleT = PSSEmbeddingBagCollection | PSSEmbeddingCollection


def migrate(
    module: ModuleT,
    config: PSSConfig,
    *,
    tables: Sequence[BaseEmbeddingConfig] | None = None,
    ids: Mapping[str, torch.Tensor] | None = None,
) -> tuple[ModuleT, FitReport]:
    """A new module with the old one's rows as well as its array can hold them: another budget, another layout, tables more or less,
    tables that were shared exact now.

    Args:
        module: the old one, loaded; it is not changed.
        config: of the new array. Its ``counts`` say what rows count.
        tables: of the new module (default: the same). One that the old module does not have starts as any new table.
        ids: by table, int64, those whose rows are carried over. Default: all of ``[0, num_embeddings)``.

    Raises:
        ValueError: ids of an unknown table; a table of more than 2^26 rows without ids; see `PSSConfig`.

    Examples:
        >>> from torchrec import EmbeddingBagConfig
        >>> from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection, migrate
        >>> table = EmbeddingBagConfig(name="user", num_embeddings=10_000, embedding_dim=16, feature_names=["user"])
        >>> small = PSSEmbeddingBagCollection([table], config=PSSConfig(array_bytes="64kB"))
        >>> large, report = migrate(small, PSSConfig(array_bytes="1MB"))
        >>> round(report.tables["user"].explained, 3)
        1.0
    """
    configs = (
        module.embedding_bag_configs() if isinstance(module, PSSEmbeddingBagCollection) else module.embedding_configs()
    )
    old = {c.name for c in configs}
    new = list(tables or configs)
    kept = [c for c in new if c.name in old]
    unknown = sorted(set(ids or {}) - {c.name for c in kept})
    if unknown:
        raise ValueError(
            f"ids are given of the tables {unknown}; those in both modules are {sorted(c.name for c in kept)}"
        )
    if isinstance(module, PSSEmbeddingBagCollection):
        migrated = PSSEmbeddingBagCollection(new, module.is_weighted(), config=config)
    else:
        migrated = PSSEmbeddingCollection(new, need_indices=module.need_indices(), config=config)
    rows = {c.name: _rows(module, c, config, None if ids is None else ids.get(c.name)) for c in kept}
    return migrated, fit(migrated, rows)


def _rows(module: ModuleT, table: BaseEmbeddingConfig, config: PSSConfig, ids: torch.Tensor | None) -> TableRows:
    counts = (config.counts or {}).get(table.name)
    weights = None
    if ids is None:
        if table.num_embeddings > _ALL_ROWS:
            raise ValueError(f"table {table.name!r} has {table.num_embeddings:,} rows: give the ids to carry over")
        ids = torch.arange(table.num_embeddings)
        weights = row_weights(table.num_embeddings, counts)
    elif counts is not None:
        reads = dict(zip(counts.ids.tolist(), counts.counts.tolist(), strict=True))
        weights = torch.tensor([float(reads.get(i, 1)) for i in ids.tolist()])
    return TableRows(ids, lambda some: module.materialize(table.name, some.to(module.device)).cpu(), weights)
