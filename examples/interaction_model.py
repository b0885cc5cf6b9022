"""train_interactions.py's model: its tables, whole or in an array, and a rival's layout at the same bytes."""

import argparse
import logging
from dataclasses import replace

from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection

from torchrec_pss import PSSConfig, PSSEmbeddingCollection
from torchrec_pss.datasets.interactions import Interactions
from torchrec_pss.models import TwoTower
from torchrec_pss.modules.id_counts import IdCounts
from torchrec_pss.modules.rival_layouts import capped_rows, exact_tables, narrow_width, row_hashing_width

logger: logging.Logger = logging.getLogger("__main__")

_ROW_HASHING_WIDTH = 8  # at most
LEARNING_RATES = {"pss": 0.007, "hash": 0.005, "narrow": 0.005, "full": 0.003}
_INIT_RANGES = {"pss": 0.03, "hash": 0.03, "narrow": 0.03, "full": 0.1}


def tables(data: Interactions, embedding_dim: int, init_range: float) -> list[EmbeddingConfig]:
    sizes = {"user": data.num_users, "item": data.num_items}
    return [
        EmbeddingConfig(
            name=f"t_{name}",
            num_embeddings=rows,
            embedding_dim=embedding_dim,
            feature_names=[name],
            weight_init_min=-init_range,
            weight_init_max=init_range,
        )
        for name, rows in sizes.items()
    ]


def array_config(
    args: argparse.Namespace, full: list[EmbeddingConfig], array_bytes: int, data: Interactions
) -> PSSConfig:
    """The array's layout: ours, or a rival's at the same bytes. Row hashing caps the tables' rows."""
    init_range = _INIT_RANGES[args.embedding]
    if args.embedding == "narrow":
        width = narrow_width(full, array_bytes, args.bits)
        return exact_tables(full, array_bytes, width, init_range, head="dot", bits=args.bits)
    if args.embedding == "hash":
        width = row_hashing_width(full, array_bytes, _ROW_HASHING_WIDTH, args.bits)
        for table, capped in zip(full, capped_rows(full, array_bytes, width, args.bits), strict=True):
            table.num_embeddings = capped
        return exact_tables(full, array_bytes, width, init_range, head="dot", bits=args.bits)
    counts = {t.name: IdCounts.of(ids) for t, ids in zip(full, (data.train_user, data.train_item), strict=True)}
    # The bias is what can say that an item is popular.
    return PSSConfig(
        array_bytes=array_bytes,
        head="dot",
        bias=True,
        counts=counts,
        seed=args.seed,
        init_range=init_range,
        bits=args.bits,
    )


def build(args: argparse.Namespace, data: Interactions) -> tuple[TwoTower, int, int, dict | None]:
    """The model, its embeddings' bytes, the full tables', and the array's layout; and the rate, where none is given: rows of their own, at least half
    as wide as full ones, learn as those do."""
    full = tables(data, args.embedding_dim, _INIT_RANGES["full"])
    rows = data.num_users + data.num_items
    full_bytes = rows * args.embedding_dim * 4
    if args.embedding == "full":
        args.learning_rate = args.learning_rate or LEARNING_RATES["full"]
        return TwoTower(EmbeddingCollection(full), args.negatives), full_bytes, full_bytes, None
    config = array_config(args, full, max(int(full_bytes / args.compression), 1), data)
    embeddings, recipe = PSSEmbeddingCollection(full, config=config), args.embedding
    if all(t.is_exact and 2 * t.width >= t.embedding_dim for t in embeddings.layout.tables):
        recipe = "full"
        embeddings = PSSEmbeddingCollection(
            full, config=replace(embeddings.config, bias=False, init_range=_INIT_RANGES[recipe])
        )
    args.learning_rate = args.learning_rate or LEARNING_RATES[recipe]
    logger.info("%s", embeddings.layout)
    return (
        TwoTower(embeddings, args.negatives),
        embeddings.layout.embedding_bytes,
        full_bytes,
        embeddings.layout.fingerprint(),
    )
