"""Command line of train_criteo.py: torchrec_dlrm's flag names, and what that script lacks."""

import argparse
import os

from torchrec_pss.datasets.rows import NUM_SPARSE

# By --embedding, the flags that it has no use for.
_SENSELESS = {
    "full": (
        "array_bytes",
        "compression",
        "width",
        "block_size",
        "init_range",
        "exact_fraction",
        "average_power",
        "layout",
        "array_reduction",
        "planner_pss",
        "watch",
        "keep_array",
    ),
    "hash": ("block_size", "exact_fraction", "layout", "planner_pss"),
    "narrow": ("width", "block_size", "exact_fraction", "layout", "planner_pss"),
}


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        description="Trains a DLRM on Criteo's click logs, or on generated ones, through TorchRec.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    # `torchx run dist.ddp -- train_criteo.py [flags]` hands the script its own name.
    p.add_argument("script", nargs="?", help=argparse.SUPPRESS)

    data = p.add_argument_group("data")
    data.add_argument("--data_path", help="a Criteo file or folder (see docs); without it, rows are generated")
    data.add_argument(
        "--in_memory_binary_criteo_path", help="folder of TorchRec's preprocessed <stage>_*.npy, memory-mapped"
    )
    data.add_argument(
        "--dataset_name",
        choices=["criteo_kaggle", "criteo_1t"],
        default="criteo_kaggle",
        help="whose cardinalities to generate, or (binary) to assume",
    )
    data.add_argument(
        "--num_embeddings", type=int, help="rows of every table; ids of files are taken modulo it for full tables"
    )
    data.add_argument(
        "--num_embeddings_per_feature", type=_numbers, help=f"{NUM_SPARSE} numbers of rows, comma-separated; likewise"
    )
    data.add_argument(
        "--train_fraction",
        type=float,
        default=6 / 7,
        help="of one file's rows; the rest is halved into validation and test",
    )
    data.add_argument("--max_bad_rows", type=int, default=100, help="malformed lines to leave out before giving up")
    data.add_argument("--cache_dir", default="runs/cache", help="for line counts and vocabularies")
    data.add_argument(
        "--synthetic_rows",
        type=int,
        default=4_000_000,
        help="generated training rows an epoch; a tenth of it each to validate and test",
    )
    data.add_argument(
        "--synthetic_scale", type=float, default=1.0, help="factor on the generated tables' cardinalities"
    )
    data.add_argument("--synthetic_skew", type=float, default=1.1, help="exponent of the generated ids' power law")
    data.add_argument("--shuffle_batches", action="store_true", help="shuffle the rows of each training batch")
    data.add_argument("--pin_memory", action="store_true", help="batches in pinned host memory (GPU only)")

    model = p.add_argument_group("model")
    model.add_argument(
        "--embedding",
        choices=["pss", "full", "hash", "narrow"],
        default="pss",
        help="one shared array; TorchRec's tables; or, at the array's bytes, row hashing or narrow exact tables",
    )
    model.add_argument("--array_bytes", type=int, help="bytes of the shared array with its projections")
    model.add_argument("--compression", type=float, help="instead: full tables' bytes over the array's (default 1000)")
    model.add_argument(
        "--layout",
        choices=["auto", "plain"],
        help="of the array (default auto): chosen from tables, budget and counts of ids, or PSS's own (full width, all hashed)",
    )
    model.add_argument(
        "--width", type=int, help="read width of the tables, projected to embedding_dim (default: by layout)"
    )
    model.add_argument("--block_size", type=int, help="Z, consecutive coordinates of a shared row (default: by layout)")
    model.add_argument("--init_range", type=float, help="the array starts uniform in [-init_range, init_range]")
    model.add_argument(
        "--exact_fraction", type=float, help="share of the array for exact tables (ids must be contiguous)"
    )
    model.add_argument(
        "--array_reduction",
        choices=["ddp", "bf16", "sparse"],
        help="of the array's gradient over processes (default ddp, with the dense layers'; see docs/performance.md)",
    )
    model.add_argument(
        "--planner_pss",
        choices=["auto", "always", "never"],
        help="the model keeps plain EmbeddingBagCollections, and the planner decides which tables share the array (docs/planner.md)",
    )
    model.add_argument(
        "--rank_memory", type=int, help="of --planner_pss: bytes of a rank's memory (default: TorchRec's)"
    )
    model.add_argument("--embedding_dim", type=int, default=16)
    model.add_argument(
        "--dense_arch_layer_sizes", type=_numbers, default=[64, 16], help="the last must be embedding_dim"
    )
    model.add_argument("--over_arch_layer_sizes", type=_numbers, default=[256, 128, 1], help="the last must be 1")
    model.add_argument("--interaction_type", choices=["original", "dcn", "projection"], default="original")
    model.add_argument("--interaction_branch1_layer_sizes", type=_numbers, default=[64, 64], help="projection only")
    model.add_argument("--interaction_branch2_layer_sizes", type=_numbers, default=[64, 64], help="projection only")
    model.add_argument("--dcn_num_layers", type=int, default=3, help="dcn only")
    model.add_argument("--dcn_low_rank_dim", type=int, default=64, help="dcn only")
    model.add_argument("--print_sharding_plan", action="store_true", help="and the array's division among tables")

    train = p.add_argument_group("training")
    train.add_argument(
        "--epochs",
        type=int,
        help="passes over the training rows (default: 3 over fewer than 250,000, 2 over fewer than 3,000,000, else 1; at most 2 with --interaction_type dcn; 1 for full, --planner_pss and --keep_array); of several, the last that did not lose is evaluated",
    )
    train.add_argument(
        "--keep_array",
        action="store_true",
        default=None,
        help="from epoch to epoch; without it, array and projections begin anew before each (docs/training.md)",
    )
    train.add_argument(
        "--batch_size",
        type=int,
        help="rows a process and step (default: 2048, or as few as 16 where an epoch would have less than 2000 steps)",
    )
    train.add_argument("--test_batch_size", type=int, default=2048)
    train.add_argument("--limit_train_batches", type=int, help="steps an epoch, at most")
    train.add_argument("--limit_val_batches", type=int)
    train.add_argument("--limit_test_batches", type=int)
    train.add_argument("--optimizer", choices=["adam", "adagrad"], help="default: adagrad for full, else adam")
    train.add_argument("--adagrad", action="store_true", help="the same as --optimizer adagrad")
    train.add_argument(
        "--learning_rate", type=float, help="of the dense layers (default: see criteo_model.learning_rates)"
    )
    train.add_argument(
        "--embedding_learning_rate", type=float, help="of the array or the full tables (default: likewise)"
    )
    train.add_argument(
        "--eps",
        type=float,
        help="of the optimizers (default 1e-8, and of the array's Adam see criteo_model.embedding_eps)",
    )
    train.add_argument(
        "--average_power",
        type=float,
        help="of the weights' average that is evaluated (default 8; 0 evaluates the last weights; not for full)",
    )
    train.add_argument("--lr_warmup_steps", type=int, default=0)
    train.add_argument("--lr_decay_start", type=int, help="step at which the decay to 0 begins")
    train.add_argument("--lr_decay_steps", type=int, help="how many steps it takes")
    train.add_argument(
        "--validation_freq_within_epoch", type=int, help="steps between validations (default: at the end of an epoch)"
    )
    train.add_argument("--target_auroc", type=float, help="stop once validation reaches it")
    train.add_argument("--seed", type=int, default=0)

    run = p.add_argument_group("run")
    run.add_argument("--output_dir", default="runs/criteo", help="results.json, curves.png, log.txt, checkpoint/")
    run.add_argument("--resume", action="store_true", help="go on from output_dir/checkpoint")
    run.add_argument(
        "--auto_resume",
        action="store_true",
        help="the same if there is a checkpoint, else from the beginning: for schedulers that start a job anew",
    )
    run.add_argument("--checkpoint_freq", type=int, help="steps between checkpoints (default: at every validation)")
    run.add_argument(
        "--check_replicas",
        type=int,
        metavar="N",
        help="compare all processes' replicas every N steps, and stop where they differ",
    )
    run.add_argument(
        "--collective_timeout_s",
        type=float,
        default=1800,
        help="fail where a process has not answered the others for so long",
    )
    run.add_argument(
        "--watch",
        type=int,
        metavar="N",
        help="every N steps, norms of array and gradient and the share of it that moved, into results.json and TensorBoard",
    )
    run.add_argument(
        "--ablation",
        action="store_true",
        help="at the end, evaluate the test rows once more for each feature, with its ids handed to other rows",
    )
    run.add_argument("--tensorboard", action="store_true", help="events in output_dir/tensorboard (extra: tensorboard)")
    run.add_argument("--log_freq", type=int, default=100, help="steps between log lines")
    return p


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses and checks flags; a combination that makes no sense ends the program with status 2 and a reason."""
    p = parser()
    args = p.parse_args(argv)
    if args.script is not None and os.path.basename(args.script) != "train_criteo.py":
        p.error(f"unexpected argument {args.script!r}")
    for flag in _SENSELESS.get(args.embedding, ()):
        if getattr(args, flag) is not None:
            p.error(f"--{flag} makes no sense with --embedding {args.embedding}")
    if args.adagrad and args.optimizer == "adam":
        p.error("--adagrad contradicts --optimizer adam")
    args.optimizer = (
        "adagrad" if args.adagrad else args.optimizer or ("adagrad" if args.embedding == "full" else "adam")
    )
    if args.array_bytes is not None and args.compression is not None:
        p.error("give --array_bytes or --compression, not both")
    if args.rank_memory is not None and not args.planner_pss:
        p.error("--rank_memory makes no sense without --planner_pss")
    if args.keep_array and args.planner_pss:
        p.error("--keep_array makes no sense with --planner_pss: what it shares is kept as the tables beside it are")
    if args.data_path and args.in_memory_binary_criteo_path:
        p.error("give --data_path or --in_memory_binary_criteo_path, not both")
    if args.num_embeddings and args.num_embeddings_per_feature:
        p.error("give --num_embeddings or --num_embeddings_per_feature, not both")
    if args.num_embeddings_per_feature and len(args.num_embeddings_per_feature) != NUM_SPARSE:
        p.error(f"--num_embeddings_per_feature needs {NUM_SPARSE} numbers, got {len(args.num_embeddings_per_feature)}")
    if args.dense_arch_layer_sizes[-1] != args.embedding_dim:
        p.error(
            f"--dense_arch_layer_sizes must end in embedding_dim {args.embedding_dim}, got {args.dense_arch_layer_sizes}"
        )
    if args.over_arch_layer_sizes[-1] != 1:
        p.error(f"--over_arch_layer_sizes must end in 1, got {args.over_arch_layer_sizes}")
    if args.interaction_type != "original" and len(args.over_arch_layer_sizes) < 2:
        p.error(f"--over_arch_layer_sizes needs two layers with --interaction_type {args.interaction_type}")
    if (args.lr_decay_start is None) != (args.lr_decay_steps is None):
        p.error("--lr_decay_start and --lr_decay_steps go together")
    if args.target_auroc is not None and not 0.5 < args.target_auroc < 1:
        p.error(f"--target_auroc must be between 0.5 and 1, got {args.target_auroc}")
    if not 0 < args.train_fraction < 1:
        p.error(f"--train_fraction must be between 0 and 1, got {args.train_fraction}")
    positive = ("epochs", "batch_size", "test_batch_size", "embedding_dim", "synthetic_rows", "synthetic_scale",
                "array_bytes", "compression", "num_embeddings", "learning_rate", "embedding_learning_rate", "log_freq",
                "validation_freq_within_epoch", "checkpoint_freq", "limit_train_batches", "limit_val_batches",
                "limit_test_batches", "lr_decay_steps", "eps", "width", "block_size", "init_range", "rank_memory",
                "check_replicas", "watch", "collective_timeout_s")  # fmt: skip
    for flag in positive:
        value = getattr(args, flag)
        if value is not None and value <= 0:
            p.error(f"--{flag} must be positive, got {value}")
    if args.embedding == "pss":
        args.layout = args.layout or "auto"
    if args.embedding != "full":
        if args.array_bytes is None and args.compression is None:
            args.compression = 1000.0
        args.average_power = 8.0 if args.average_power is None else args.average_power
        if args.average_power < 0:
            p.error(f"--average_power must not be negative, got {args.average_power}")
    return args
