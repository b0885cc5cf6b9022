"""Trains a two-tower model (dot product of a user's and an item's embedding) on implicit feedback.

    python examples/train_interactions.py --path interactions.npz --embedding pss --compression 10

The file holds integer arrays train_user, train_item, test_user, test_item. Each training pair is set against sampled
items that stand for dislikes; the test AUROC is against one uniformly sampled item a pair. Results land in --output_dir.
"""

import argparse
import logging
import math
import time
from dataclasses import replace
from pathlib import Path

import _launcher  # noqa: F401
import threads  # before torch

# isort: split
import numpy as np
import run_folder
import torch
from script_end import one_line_errors
from torch.nn.functional import binary_cross_entropy_with_logits
from torchmetrics.classification import BinaryAUROC
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection
from tqdm import tqdm

from torchrec_pss import PSSConfig, PSSEmbeddingCollection
from torchrec_pss.datasets.interactions import Interactions
from torchrec_pss.datasets.rows import RowBlock
from torchrec_pss.distributed import NotFiniteError, require_finite
from torchrec_pss.export import saved_model
from torchrec_pss.flags import Parser, add_number
from torchrec_pss.models import TwoTower
from torchrec_pss.modules.id_counts import IdCounts
from torchrec_pss.modules.pss_config import AUTO_BITS, BITS
from torchrec_pss.modules.rival_layouts import capped_rows, exact_tables, narrow_width, row_hashing_width
from torchrec_pss.optim import WeightAverage
from torchrec_pss.whole_file import write_json

logger: logging.Logger = logging.getLogger("__main__")

_TEST_BATCH = 1 << 15
_ROW_HASHING_WIDTH = 8  # at most
_AVERAGE_EVERY = 4  # steps
_SERVED_PAIRS = 1 << 13  # kept with the model
_LEARNING_RATES = {"pss": 0.007, "hash": 0.005, "narrow": 0.005, "full": 0.003}
_INIT_RANGES = {"pss": 0.03, "hash": 0.03, "narrow": 0.03, "full": 0.1}


def default_batch_size(num_pairs: int) -> int:
    """The largest power of two, 32 to 1024, that leaves an epoch over so many training pairs 300 steps."""
    return max(32, min(1024, 2 ** int(math.log2(max(num_pairs / 300, 1)))))


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
        args.learning_rate = args.learning_rate or _LEARNING_RATES["full"]
        return TwoTower(EmbeddingCollection(full), args.negatives), full_bytes, full_bytes, None
    config = array_config(args, full, max(int(full_bytes / args.compression), 1), data)
    embeddings, recipe = PSSEmbeddingCollection(full, config=config), args.embedding
    if all(t.is_exact and 2 * t.width >= t.embedding_dim for t in embeddings.layout.tables):
        recipe = "full"
        embeddings = PSSEmbeddingCollection(
            full, config=replace(embeddings.config, bias=False, init_range=_INIT_RANGES[recipe])
        )
    args.learning_rate = args.learning_rate or _LEARNING_RATES[recipe]
    logger.info("%s", embeddings.layout)
    return (
        TwoTower(embeddings, args.negatives),
        embeddings.layout.embedding_bytes,
        full_bytes,
        embeddings.layout.fingerprint(),
    )


def train_epoch(
    model: TwoTower,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage,
    data: Interactions,
    args: argparse.Namespace,
    epoch: int,
) -> float:
    """One pass over the pairs in random order; the mean loss."""
    rng = np.random.default_rng([args.seed, epoch])
    order = rng.permutation(len(data.train_user))
    losses = []
    starts = range(0, len(order), args.batch_size)
    for start in tqdm(starts, desc=f"epoch {epoch + 1}", unit="step", mininterval=5):
        rows = order[start : start + args.batch_size]
        negatives = rng.integers(0, data.num_items, (len(rows), args.negatives))
        items = torch.from_numpy(np.concatenate([data.train_item[rows, None], negatives], axis=1))
        logits = model(torch.from_numpy(data.train_user[rows]), items)
        labels = torch.zeros_like(logits)
        labels[:, 0] = 1
        loss = binary_cross_entropy_with_logits(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.step()
        losses.append(float(loss.detach()))
        if not np.isfinite(losses[-1]):
            raise NotFiniteError(f"the loss is {losses[-1]} at step {len(losses)} of epoch {epoch + 1}")
    require_finite({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "average": average.state_dict()})
    return float(np.mean(losses))


def test_items(data: Interactions, seed: int) -> np.ndarray:
    """``[m, 2]``: every test pair's item beside a uniformly sampled one; the same ones at every call."""
    rng = np.random.default_rng([seed, 1 << 20])
    return np.stack([data.test_item, rng.integers(0, data.num_items, len(data.test_item))], axis=1)


@torch.no_grad()
def evaluate(model: TwoTower, data: Interactions, seed: int) -> float:
    """AUROC of the test pairs against as many sampled ones.

    Raises:
        NotFiniteError: a pair's logit is NaN or infinite.
    """
    items = torch.from_numpy(test_items(data, seed))
    auroc = BinaryAUROC(thresholds=None)
    for start in range(0, len(items), _TEST_BATCH):
        here = slice(start, start + _TEST_BATCH)
        logits = model(torch.from_numpy(data.test_user[here]), items[here])
        if not torch.isfinite(logits).all():
            raise NotFiniteError(f"logits of the test pairs {here.start} to {here.stop - 1} are not finite")
        labels = torch.tensor([1, 0]).expand_as(logits)
        auroc.update(torch.sigmoid(logits.double()).flatten(), labels.flatten())
    return float(auroc.compute())


def popularity_auroc(data: Interactions, seed: int) -> float:
    """The same AUROC of a ranking that knows no users: items by their number of training pairs."""
    pairs = np.bincount(data.train_item, minlength=data.num_items)
    scores = torch.from_numpy(pairs / pairs.max())[test_items(data, seed)]
    return float(BinaryAUROC(thresholds=None)(scores.flatten(), torch.tensor([1, 0]).expand_as(scores).flatten()))


def parse(argv: list[str] | None) -> argparse.Namespace:
    p = Parser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--path", required=True, help=".npz with train_user, train_item, test_user, test_item")
    p.add_argument("--embedding", choices=["pss", "full", "hash", "narrow"], default="pss")
    add_number(p, "--compression", help="full tables' bytes over the array's (default 10; not for full)")
    add_number(
        p,
        "--bits",
        [AUTO_BITS],
        choices=(*BITS, AUTO_BITS),
        help="of a stored element (default 32; auto, of the array: 32, 8 or 4; not for full)",
    )
    add_number(p, "--embedding_dim", default=64)
    add_number(p, "--epochs", default=4)
    add_number(p, "--negatives", default=4, help="sampled items a pair")
    add_number(p, "--batch_size", help="pairs a step (default: by the number of training pairs, 32 to 1024)")
    add_number(p, "--learning_rate", help=f"of Adam (default {_LEARNING_RATES})")
    add_number(p, "--seed", default=0)
    p.add_argument("--output_dir", default="runs/interactions")
    args = p.parse_args(argv)
    for flag, default in (("compression", 10.0), ("bits", 32)):
        if args.embedding == "full" and getattr(args, flag) is not None:
            p.error(f"--{flag} makes no sense with --embedding full")
        if args.embedding != "full" and getattr(args, flag) is None:
            setattr(args, flag, default)
    if args.bits == AUTO_BITS and args.embedding != "pss":
        p.error(f"--bits {AUTO_BITS} is of an array: give --embedding {args.embedding} a number")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    folder = run_folder.prepare(args.output_dir)
    with run_folder.locked(folder):
        run_folder.set_up_logging(folder, rank=0)
        run(args, folder)


def run(args: argparse.Namespace, folder: Path) -> None:
    torch.manual_seed(args.seed)
    data = Interactions.load(args.path)
    saved_model.remove(folder)
    args.batch_size = args.batch_size or default_batch_size(len(data.train_user))
    model, embedding_bytes, full_bytes, layout = build(args, data)
    logger.info(
        "%s: %s bytes of embeddings instead of %s (%.1fx), %d users, %d items, %d pairs",
        args.embedding, f"{embedding_bytes:,}", f"{full_bytes:,}", full_bytes / embedding_bytes,
        data.num_users, data.num_items, len(data.train_user),
    )  # fmt: skip
    threads.choose(args.batch_size * (1 + args.negatives) * args.embedding_dim)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate)
    average = WeightAverage(dict(model.named_parameters()), every=_AVERAGE_EVERY)
    aurocs, started = [], time.perf_counter()
    for epoch in range(args.epochs):
        loss = train_epoch(model, optimizer, average, data, args, epoch)
        with average.applied():
            aurocs.append(evaluate(model, data, args.seed))
        logger.info("epoch %d/%d loss %.5f test AUROC %.5f", epoch + 1, args.epochs, loss, aurocs[-1])
    popularity = popularity_auroc(data, args.seed)
    results = {
        "auroc_test": aurocs[-1],
        "auroc_test_per_epoch": aurocs,
        "auroc_popularity": popularity,
        "embedding": args.embedding,
        "layout": layout,
        "embedding_bytes": embedding_bytes,
        "full_embedding_bytes": full_bytes,
        "compression": full_bytes / embedding_bytes,
        "train_seconds": time.perf_counter() - started,
        "config": vars(args),
    }
    write_json(folder / "results.json", results)
    logger.info(
        "test AUROC %.5f (items by popularity alone: %.5f); results in %s",
        aurocs[-1], popularity, folder / "results.json",
    )  # fmt: skip
    if args.embedding == "pss":
        with average.applied():
            save_model(folder, model, data, results)
    if aurocs[-1] < popularity:
        logger.warning(
            "the model ranks test pairs worse than the items' popularity alone does: "
            "train longer, or give the embeddings more than their %s bytes", f"{embedding_bytes:,}",
        )  # fmt: skip


def save_model(folder: Path, model: TwoTower, data: Interactions, results: dict) -> None:
    """What `torchrec_pss.export` needs, with test pairs and as many sampled ones."""
    items = test_items(data, results["config"]["seed"])[:_SERVED_PAIRS]
    users = np.broadcast_to(data.test_user[:_SERVED_PAIRS, None], items.shape)
    labels = np.broadcast_to(np.array([1, 0], np.float32), items.shape)
    held_out = RowBlock(
        np.zeros((items.size, 0), np.float32), np.stack([users.ravel(), items.ravel()]).astype(np.int64), labels.ravel().copy()
    )  # fmt: skip
    said = {name: results[name] for name in ("auroc_test", "compression", "embedding_bytes")}
    negatives = {"negatives": results["config"]["negatives"]}
    saved_model.save(folder, "two_tower", negatives, model.embeddings, model.state_dict(), held_out, said)


if __name__ == "__main__":
    with one_line_errors():
        main()
