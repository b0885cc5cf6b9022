"""`examples/train_interactions.py`, nothing tuned, on several sets of pairs: the array against narrow tables and row hashing at 10x."""

import logging
from pathlib import Path

from benchmarks.quality import files, other_pairs
from benchmarks.quality.other_pairs import OtherPairs
from benchmarks.quality.pair_trial import GOWALLA
from benchmarks.quality.script_run import EXAMPLES, each, results_of

logger: logging.Logger = logging.getLogger(__name__)

COMPRESSION = 10
RIVALS = ("narrow", "hash")
SEEDS = (0, 1)
DIMS = (64, 32)
PAIRS: dict[str, OtherPairs | None] = {  # None: Gowalla's own
    "Gowalla": None,
    "6,040 users": OtherPairs(6040, 3706, 600_000, 1.5, 1.3, seed=1, factors=8),
    "15,000 users": OtherPairs(15_000, 8000, 300_000, 2.0, 1.0, seed=2, factors=6),
    "2,000 users": OtherPairs(2000, 5000, 60_000, 2.5, 1.0, seed=3, factors=4),
    "clusters": OtherPairs(10_000, 3000, 200_000, 2.0, 1.0, seed=4, clusters=30),
    "unseen, 8,000 users": OtherPairs(8000, 12_000, 400_000, 1.8, 1.2, seed=11, factors=10),
    "unseen, 3,000 users": OtherPairs(3000, 2000, 100_000, 2.0, 0.8, seed=12, factors=5),
    "unseen, clusters": OtherPairs(6000, 6000, 150_000, 2.5, 1.0, seed=13, clusters=50),
    "unseen, 10,000 users": OtherPairs(10_000, 5000, 250_000, 2.0, 1.0, seed=31, factors=5),
    "unseen, 4,000 users": OtherPairs(4000, 8000, 100_000, 2.5, 0.8, seed=32, factors=8),
    "unseen, other clusters": OtherPairs(8000, 4000, 180_000, 2.0, 1.0, seed=33, clusters=40),
}


def study(out: Path, workers: int, quick: bool) -> list[dict]:
    """As `files.study`, of the test AUROC; a row for each set of pairs, embedding_dim and rival.

    Raises:
        subprocess.CalledProcessError, ValueError: the script failed or refused; its output is in its folder.
    """
    names = list(PAIRS)[3:4] if quick else list(PAIRS)
    seeds, dims = (SEEDS[:1], DIMS[:1]) if quick else (SEEDS, DIMS)
    paths = {name: make(name, out / "pair_files") for name in names}
    runs = [(n, dim, embedding, s) for n in names for dim in dims for s in seeds for embedding in ("pss", *RIVALS)]

    def run(name: str, dim: int, embedding: str, seed: int) -> float:
        folder = out / "pair_files" / files.folder_name(name) / f"{embedding}_{dim}_{seed}"
        flags = ["--path", str(paths[name]), "--embedding", embedding, "--compression", str(COMPRESSION)]
        flags += ["--embedding_dim", str(dim), "--seed", str(seed)]
        found = results_of(folder, flags, script=EXAMPLES / "train_interactions.py")["auroc_test"]
        logger.info("%s, D = %s, %s, seed %s: %s", name, dim, embedding, seed, found)
        return found

    found = each(run, runs, workers, "pair_files")
    return [
        files.row(
            f"{name}, D = {dim}",
            COMPRESSION,
            rival,
            [(found[name, dim, "pss", s], found[name, dim, rival, s]) for s in seeds],
        )
        for name in names
        for dim in dims
        for rival in RIVALS
    ]


def make(name: str, folder: Path) -> Path:
    """The file; once made, it is left."""
    of = PAIRS[name]
    if of is None:
        return GOWALLA
    path = folder / files.folder_name(name) / "pairs.npz"
    if not path.exists():
        other_pairs.write(of, path)
    return path
