"""What a trained model loses when its tables are put into an array, or its array into another one, without training again.

    python -m benchmarks.quality.conversion [--rows 200000] [--scale 0.02] [--json FILE]

Trains a DLRM with full tables on generated rows, compresses them (`torchrec_pss.compress`, with the training rows' counts), migrates the
10x array to others, and prints test AUROC and the share of the rows' variance that is left, over all tables, weighted by reads.
"""

from pathlib import Path

import torch
from torch import nn
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from benchmarks.quality.click_data import ClickLog, generated
from benchmarks.quality.click_trial import ClickTrial, auroc, train
from benchmarks.quality.rivals import FULL, tables_of
from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection, compress, migrate
from torchrec_pss.convert import FitReport
from torchrec_pss.flags import Parser, add_number
from torchrec_pss.whole_file import write_json

_COMPRESSIONS = (2, 4, 10, 30, 100)
_MIGRATED = 10
_BATCH_SIZE = 256


def explained(report: FitReport) -> float:
    """Mean of the tables, each counting alike: every table is read once a row."""
    return sum(t.explained for t in report.tables.values()) / len(report.tables)


def test_auroc(model: nn.Module, log: ClickLog, embeddings: nn.Module) -> float:
    model.sparse_arch.embedding_bag_collection = embeddings
    return auroc(model, log, log.num_train + log.num_val, len(log.labels))


def study(log: ClickLog) -> list[dict]:
    torch.manual_seed(0)
    tables = tables_of(log.num_embeddings, 16)
    counts = {t.name: c for t, c in zip(tables, log.counts, strict=True)}
    full_bytes = sum(log.num_embeddings) * 16 * 4
    ebc = EmbeddingBagCollection(tables)
    model, average, _ = train(log, ClickTrial("full", FULL, batch_size=_BATCH_SIZE), ebc)
    rows = []

    def add(name: str, embeddings: nn.Module, report: FitReport | None) -> None:
        size = embeddings.layout.embedding_bytes if isinstance(embeddings, PSSEmbeddingBagCollection) else full_bytes
        rows.append({
            "what": name, "bytes": size, "auroc_test": test_auroc(model, log, embeddings),
            "explained": None if report is None else explained(report),
        })  # fmt: skip
        print(
            f"{name:34} {size:>12,} bytes  AUROC {rows[-1]['auroc_test']:.4f}  explained {rows[-1]['explained']}",
            flush=True,
        )

    with average.applied():
        add("full tables", ebc, None)
        for compression in _COMPRESSIONS:
            array, report = compress(ebc, config=PSSConfig(array_bytes=full_bytes // compression, counts=counts))
            add(f"compressed {compression}x", array, report)
            if compression == _MIGRATED:
                kept = array
        for name, config in {
            f"{_MIGRATED}x array, migrated to 30x": PSSConfig(array_bytes=full_bytes // 30, counts=counts),
            f"{_MIGRATED}x array, migrated to exact": PSSConfig(
                array_bytes=2 * full_bytes, layout="plain", exact=[t.name for t in tables]
            ),
        }.items():
            array, report = migrate(kept, config)
            add(name, array, report)
    return rows


def main() -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    add_number(parser, "--rows", default=200_000, help="to train on")
    add_number(parser, "--scale", default=0.02, help="factor on Kaggle's cardinalities")
    add_number(parser, "--skew", default=1.1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = study(generated(args.rows, args.scale, args.skew))
    if args.json:
        write_json(args.json, {"rows": args.rows, "scale": args.scale, "skew": args.skew, "found": rows})


if __name__ == "__main__":
    main()
