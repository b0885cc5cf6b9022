"""Command line of train_criteo.py: torchrec_dlrm's flag names, and what that script lacks."""

import argparse
import os

from torchrec_pss.flags import Parser, add_number
from torchrec_pss.modules.layout_candidates import CANDIDATES
from torchrec_pss.modules.pss_config import AUTO_BITS, BITS

# By --embedding, the flags that it has no use for.
_SENSELESS = {
    "full": (
        "array_bytes",
        "compression",
        "width",
        "block_size",
        "init_range",
        "exact_fraction",
        "layout",
        "array_reduction",
        "planner_pss",
        "watch",
        "bits",
        "vocabulary",
    ),
    "pss": ("recipe",),
    "hash": ("block_size", "exact_fraction", "layout", "planner_pss", "recipe", "vocabulary"),
    "narrow": ("width", "block_size", "exact_fraction", "layout", "planner_pss", "recipe", "vocabulary"),
}


def parser() -> Parser:
    p = Parser(
        description="Trains a DLRM on Criteo's click logs, or on generated ones, through TorchRec.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    # `torchx run dist.ddp -- train_criteo.py [flags]` hands the script its own name.
    p.add_argument("script", nargs="?", help=argparse.SUPPRESS)

    data = p.add_argument_group("data")
    data.add_argument(
        "--data_path", help="a Criteo file or folder, or its URL (see docs); without it, rows are generated"
    )
    data.add_argument(
        "--schema", help="of text that is not Criteo's: a JSON or YAML file, or its URL, that names its columns"
    )
    data.add_argument(
        "--in_memory_binary_criteo_path",
        help="folder of TorchRec's preprocessed <stage>_*.npy, read as rows are wanted",
    )
    data.add_argument(
        "--dataset_name",
        choices=["criteo_kaggle", "criteo_1t"],
        default="criteo_kaggle",
        help="whose cardinalities to generate, or (binary) to assume",
    )
    add_number(data, "--num_embeddings", help="rows of every table; ids of files are taken modulo it for full tables")
    add_number(data, "--num_embeddings_per_feature", help="rows of each table, comma-separated; likewise")
    add_number(
        data,
        "--train_fraction",
        default=6 / 7,
        help="of one file's rows; the rest is halved into validation and test",
    )
    add_number(data, "--max_bad_rows", default=100, help="malformed lines to leave out before giving up")
    data.add_argument("--cache_dir", default="runs/cache", help="for line counts and vocabularies")
    add_number(
        data,
        "--synthetic_rows",
        default=4_000_000,
        help="generated training rows an epoch; a tenth of it each to validate and test",
    )
    data.add_argument(
        "--vocabulary",
        action=argparse.BooleanOptionalAction,
        help="of text, number the ids of the training rows for the array too, as full tables need it, with one row for all others, or hash ids as they are (default: numbered where few ids are read 40 times in a pass; docs/how/layout.md)",
    )
    add_number(data, "--synthetic_scale", default=1.0, help="factor on the generated tables' cardinalities")
    add_number(data, "--synthetic_skew", default=1.1, help="exponent of the generated ids' power law")
    data.add_argument("--shuffle_batches", action="store_true", help="shuffle the rows of each training batch")
    data.add_argument(
        "--pin_memory",
        action=argparse.BooleanOptionalAction,
        help="batches in pinned host memory, copied while the GPU computes (default: on a GPU)",
    )

    model = p.add_argument_group("model")
    model.add_argument(
        "--embedding",
        choices=["pss", "full", "hash", "narrow"],
        default="pss",
        help="one shared array; TorchRec's tables; or, at the array's bytes, row hashing or narrow exact tables",
    )
    add_number(model, "--array_bytes", help="bytes of the shared array with its projections: 10000000, 10MB")
    add_number(model, "--compression", help="instead: full tables' bytes over the array's (default 1000)")
    model.add_argument(
        "--layout",
        choices=["auto", "rules", "plain", *CANDIDATES],
        help="of the array (default auto): chosen from tables, budget and counts of ids, and, where ids are numbered (--vocabulary), of the last four by validation after a pass; rules, as auto chose before it searched; PSS's own (plain: full width, all hashed); or one of the four (docs/how/layout.md)",
    )
    add_number(
        model,
        "--bits",
        [AUTO_BITS],
        choices=(*BITS, AUTO_BITS),
        help="of a stored element of the array (default 32; auto: 32, 8 or 4; docs/how/bits.md)",
    )
    add_number(model, "--width", help="read width of the tables, projected to embedding_dim (default: by layout)")
    add_number(model, "--block_size", help="Z, consecutive coordinates of a shared row (default: by layout)")
    add_number(model, "--init_range", help="the array starts uniform in [-init_range, init_range]")
    add_number(model, "--exact_fraction", help="share of the array for exact tables (ids must be contiguous)")
    model.add_argument(
        "--array_reduction",
        choices=["ddp", "bf16", "sparse"],
        help="of the array's gradient over processes (default ddp, with the dense layers'; see docs/results/performance.md)",
    )
    model.add_argument(
        "--planner_pss",
        choices=["auto", "always", "never"],
        help="the model keeps plain EmbeddingBagCollections, and the planner decides which tables share the array (docs/guides/planner.md)",
    )
    add_number(
        model, "--rank_memory", help="of --planner_pss: bytes of a rank's memory, such as 40GB (default: TorchRec's)"
    )
    add_number(model, "--embedding_dim", default=16)
    add_number(model, "--dense_arch_layer_sizes", default=[64, 16], help="the last must be embedding_dim")
    add_number(model, "--over_arch_layer_sizes", default=[256, 128, 1], help="the last must be 1")
    model.add_argument("--interaction_type", choices=["original", "dcn", "projection"], default="original")
    add_number(model, "--interaction_branch1_layer_sizes", default=[64, 64], help="projection only")
    add_number(model, "--interaction_branch2_layer_sizes", default=[64, 64], help="projection only")
    add_number(model, "--dcn_num_layers", default=3, help="dcn only")
    add_number(model, "--dcn_low_rank_dim", default=64, help="dcn only")
    model.add_argument("--print_sharding_plan", action="store_true", help="and the array's division among tables")

    train = p.add_argument_group("training")
    add_number(
        train,
        "--epochs",
        help="passes over the training rows (default: as validation says, at most 20 where embeddings are kept; else 3 over fewer than 250,000, 2 over fewer than 3,000,000, else 1; at most 2 with --interaction_type dcn; 1 for --recipe torchrec_dlrm and --planner_pss); of several, the last that did not lose is evaluated",
    )
    train.add_argument(
        "--keep_array",
        action=argparse.BooleanOptionalAction,
        help="keep array and projections, or full tables, from pass to pass, or have them begin anew before each (default: kept where a row is read 40 times in a pass; docs/guides/training.md)",
    )
    add_number(
        train,
        "--batch_size",
        help="rows a process and step (default: 2048, or as few as 16 where an epoch would have less than 2000 steps)",
    )
    add_number(train, "--test_batch_size", default=2048)
    add_number(train, "--limit_train_batches", help="steps an epoch, at most")
    add_number(train, "--limit_val_batches")
    add_number(train, "--limit_test_batches")
    train.add_argument(
        "--recipe",
        choices=["equal", "torchrec_dlrm"],
        help="of full tables (default equal): trained as an array is, by Adam on the rows that a batch touches and with an average of all weights; or torchrec_dlrm's, Adagrad in backward and the last weights",
    )
    train.add_argument(
        "--optimizer", choices=["adam", "adagrad"], help="default: adam; adagrad with --recipe torchrec_dlrm"
    )
    train.add_argument(
        "--compile", action="store_true", help="the dense layers by torch.compile; their last digits change"
    )
    train.add_argument(
        "--cuda_graph",
        action="store_true",
        help="replay training steps from a CUDA graph: one GPU, an array of all tables, Adam, one id a bag (docs/guides/gpu.md)",
    )
    train.add_argument("--adagrad", action="store_true", help="the same as --optimizer adagrad")
    add_number(train, "--learning_rate", help="of the dense layers (default: see criteo_model.learning_rates)")
    add_number(train, "--embedding_learning_rate", help="of the array or the full tables (default: likewise)")
    add_number(
        train,
        "--eps",
        help="of the optimizers (default 1e-8, and of the array's Adam see criteo_model.embedding_eps)",
    )
    add_number(
        train,
        "--average_power",
        help="of the weights' average that is evaluated (default 8; 0 evaluates the last weights; not of --recipe torchrec_dlrm)",
    )
    add_number(train, "--lr_warmup_steps", default=0)
    add_number(train, "--lr_decay_start", help="step at which the decay to 0 begins")
    add_number(train, "--lr_decay_steps", help="how many steps it takes")
    add_number(
        train, "--validation_freq_within_epoch", help="steps between validations (default: at the end of an epoch)"
    )
    add_number(train, "--target_auroc", help="stop once validation reaches it")
    add_number(train, "--seed", default=0)

    run = p.add_argument_group("run")
    run.add_argument("--output_dir", default="runs/criteo", help="results.json, curves.png, log.txt, checkpoint/")
    run.add_argument("--resume", action="store_true", help="go on from output_dir/checkpoint")
    run.add_argument(
        "--auto_resume",
        action="store_true",
        help="the same if there is a checkpoint, else from the beginning: for schedulers that start a job anew",
    )
    add_number(run, "--checkpoint_freq", help="steps between checkpoints (default: at every validation)")
    add_number(
        run,
        "--check_replicas",
        metavar="N",
        help="compare all processes' replicas every N steps, and stop where they differ",
    )
    add_number(
        run,
        "--collective_timeout_s",
        default=1800,
        help="fail where a process has not answered the others for so long",
    )
    add_number(
        run,
        "--watch",
        metavar="N",
        help="every N steps, norms of array and gradient and the share of it that moved, into results.json and TensorBoard",
    )
    run.add_argument(
        "--ablation",
        action="store_true",
        help="at the end, evaluate the test rows once more for each feature, with its ids handed to other rows",
    )
    run.add_argument("--tensorboard", action="store_true", help="events in output_dir/tensorboard (extra: tensorboard)")
    add_number(run, "--log_freq", default=100, help="steps between log lines")
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
    args.optimizer = "adagrad" if args.adagrad else args.optimizer
    if args.embedding == "full":
        args.recipe = args.recipe or ("torchrec_dlrm" if args.optimizer == "adagrad" else "equal")
        if args.recipe == "equal" and args.optimizer == "adagrad":
            p.error("--optimizer adagrad makes no sense with --recipe equal, which is Adam's")
        for flag in ("average_power", "keep_array"):
            if args.recipe == "torchrec_dlrm" and getattr(args, flag) is not None:
                p.error(f"--{flag} makes no sense with --recipe torchrec_dlrm: its tables learn in backward")
    args.optimizer = args.optimizer or ("adagrad" if args.recipe == "torchrec_dlrm" else "adam")
    if args.cuda_graph:
        for on, flag in (
            (args.embedding == "full", "--embedding full, whose exchange of ids waits for the GPU"),
            (args.planner_pss, "--planner_pss, whose tables' exchange of ids waits for the GPU"),
            (args.optimizer == "adagrad", "--optimizer adagrad, which torch.optim cannot capture"),
        ):
            if on:
                p.error(f"--cuda_graph makes no sense with {flag}")
    if args.array_bytes is not None and args.compression is not None:
        p.error("give --array_bytes or --compression, not both")
    if args.rank_memory is not None and not args.planner_pss:
        p.error("--rank_memory makes no sense without --planner_pss")
    if args.keep_array and args.planner_pss:
        p.error("--keep_array makes no sense with --planner_pss: what it shares is kept as the tables beside it are")
    if args.layout in CANDIDATES and (not args.data_path or args.vocabulary is False or args.planner_pss):
        p.error(f"--layout {args.layout} is of text whose ids are numbered: --data_path, --vocabulary")
    stated = [f"--{flag}" for flag in ("width", "block_size", "exact_fraction") if getattr(args, flag) is not None]
    if args.layout in CANDIDATES and stated:
        p.error(f"{stated[0]} makes no sense with --layout {args.layout}, which says it")
    if args.vocabulary is not None and (not args.data_path or args.planner_pss):
        p.error("--vocabulary makes no sense without --data_path, or with --planner_pss, which has one")
    if args.vocabulary and (args.num_embeddings or args.num_embeddings_per_feature):
        p.error("--vocabulary makes no sense with --num_embeddings: ids are taken modulo it")
    if args.data_path and args.in_memory_binary_criteo_path:
        p.error("give --data_path or --in_memory_binary_criteo_path, not both")
    if args.num_embeddings and args.num_embeddings_per_feature:
        p.error("give --num_embeddings or --num_embeddings_per_feature, not both")
    if args.schema is not None and not args.data_path:
        p.error("--schema makes no sense without --data_path")
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
    if args.bits == AUTO_BITS and (args.embedding != "pss" or args.planner_pss):
        p.error(
            f"--bits {AUTO_BITS} is of an array of all tables: give --embedding {args.embedding} and --planner_pss a number"
        )
    if args.embedding == "pss":
        args.layout = args.layout or "auto"
    if args.embedding != "full":
        args.bits = args.bits or 32
    if args.embedding != "full" and args.array_bytes is None and args.compression is None:
        args.compression = 1000.0
    if args.recipe != "torchrec_dlrm":
        args.average_power = 8.0 if args.average_power is None else args.average_power
    return args
