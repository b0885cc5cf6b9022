"""Trains a two-tower model (dot product of a user's and an item's embedding) on implicit feedback.

    python examples/train_interactions.py --path interactions.npz --embedding pss --compression 10

The file holds integer arrays train_user, train_item, test_user, test_item. Each training pair is set against sampled
items that stand for dislikes; the test AUROC is against one uniformly sampled item a pair. Results land in --output_dir.
"""

import argparse
import logging
import time
from pathlib import Path

import _launcher  # noqa: F401
import threads  # before torch

# isort: split
import numpy as np
import run_folder
import torch
from interaction_model import LEARNING_RATES, build
from interaction_training import default_batch_size, evaluate, popularity_auroc, test_items, train_epoch
from script_end import one_line_errors

from torchrec_pss.datasets.interactions import Interactions
from torchrec_pss.datasets.rows import RowBlock
from torchrec_pss.export import saved_model
from torchrec_pss.flags import Parser, add_number
from torchrec_pss.models import TwoTower
from torchrec_pss.modules.pss_config import AUTO_BITS, BITS
from torchrec_pss.optim import WeightAverage
from torchrec_pss.whole_file import write_json

logger: logging.Logger = logging.getLogger("__main__")

_AVERAGE_EVERY = 4  # steps
_SERVED_PAIRS = 1 << 13  # kept with the model


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
    add_number(p, "--learning_rate", help=f"of Adam (default {LEARNING_RATES})")
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
