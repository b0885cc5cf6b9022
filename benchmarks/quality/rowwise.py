"""What stands on an array for FBGEMM's row-wise Adagrad: ``python -m benchmarks.quality.rowwise``.

A DLRM, one pass, last weights: full tables with FBGEMM's row-wise and exact Adagrad in backward, and an array with
`torchrec.optim.RowWiseAdagrad`, which is exact Adagrad there. The same rates for all; dense layers by Adam. Test AUROC, means over the
seeds, by rate.
"""

import logging
import statistics
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torchrec.optim as torchrec_optim
from torch.distributed.optim import _apply_optimizer_in_backward
from torch.nn.functional import binary_cross_entropy_with_logits
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim.optimizers import in_backward_optimizer_filter
from tqdm import tqdm

from benchmarks.quality import rivals
from benchmarks.quality.click_data import CRITEO_ROWS, ClickLog, criteo, generated
from benchmarks.quality.click_trial import ClickTrial, _logits, _model, auroc
from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection, get_default_pss_sharders
from torchrec_pss.flags import Parser, add_number
from torchrec_pss.optim.recipe import adam_learning_rates
from torchrec_pss.whole_file import write_json

logger: logging.Logger = logging.getLogger(__name__)

RATES = (0.01, 0.02, 0.05, 0.1)
WAYS = {
    "full tables, row-wise": torchrec_optim.RowWiseAdagrad,
    "full tables, exact": torchrec_optim.Adagrad,
    "array 10x, `RowWiseAdagrad`": torchrec_optim.RowWiseAdagrad,
}
BATCH_SIZE, COMPRESSION = 64, 10.0


def test_auroc(log: ClickLog, way: str, rate: float, seed: int) -> float:
    torch.manual_seed(seed)
    trial = ClickTrial("full", 1.0, seed=seed, batch_size=BATCH_SIZE)
    tables = rivals.tables_of(log.num_embeddings, trial.embedding_dim)
    if way.startswith("full"):
        collection = EmbeddingBagCollection(tables, device=torch.device("cpu"))
    else:
        counts = {t.name: c for t, c in zip(tables, log.counts, strict=True)}
        budget = int(sum(log.num_embeddings) * trial.embedding_dim * 4 / COMPRESSION)
        collection = PSSEmbeddingBagCollection(tables, config=PSSConfig(array_bytes=budget, counts=counts))
    model = _model(trial, collection)
    _apply_optimizer_in_backward(WAYS[way], collection.parameters(), {"lr": rate})
    kept = {t.name: ParameterConstraints(sharding_types=["table_wise"]) for t in tables}  # FBGEMM's fused kernel
    planner = EmbeddingShardingPlanner(Topology(1, "cpu"), constraints=kept)
    sharders = get_default_pss_sharders()
    plan = planner.plan(model, sharders)
    model = DistributedModelParallel(model, plan=plan, sharders=sharders, device=torch.device("cpu"))
    dense = [p for _, p in in_backward_optimizer_filter(model.named_parameters())]
    optimizer = torch.optim.Adam(dense, lr=adam_learning_rates(BATCH_SIZE)[0])
    for first in range(0, log.num_train - BATCH_SIZE + 1, BATCH_SIZE):
        rows = slice(first, first + BATCH_SIZE)
        loss = binary_cross_entropy_with_logits(_logits(model, log, rows), log.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return auroc(model, log, log.num_train + log.num_val, len(log.labels))


def main() -> None:
    parser = Parser(prog="python -m benchmarks.quality.rowwise", description=__doc__.split("\n")[0])
    add_number(parser, "--seeds", default=3)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/quality/rowwise.json"))
    args = parser.parse_args()
    logging.basicConfig(level=logging.ERROR, format="%(message)s", force=True)
    logger.setLevel(logging.INFO)
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        logs = [generated(200_000, scale=0.02, skew=1.1)]
        if CRITEO_ROWS.exists():
            logs.append(criteo(shuffle=0))
        found: dict[str, dict[str, dict[str, float]]] = {}
        for log in logs:
            cells = [(way, rate) for way in WAYS for rate in RATES]
            for way, rate in tqdm(cells, desc=log.name):
                mean = statistics.mean(test_auroc(log, way, rate, seed) for seed in range(args.seeds))
                found.setdefault(log.name, {}).setdefault(way, {})[f"{rate:g}"] = mean
                logger.info("%s, %s, rate %g: AUROC %.4f", log.name, way, rate, mean)
        write_json(args.json, {"seeds": args.seeds, "rows": {log.name: log.num_train for log in logs}, "auroc": found})
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
