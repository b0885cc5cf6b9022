"""TorchRec's preprocessed Criteo: ``<stage>_{dense,sparse,labels}.npy``, memory-mapped.

A stage is ``day_0`` .. ``day_23`` (Criteo-1TB) or ``train`` (Kaggle), as `torchrec.datasets.criteo` writes them: dense
float ``[n, 13]``, transformed already; sparse int ``[n, 26]``; labels ``[n, 1]``.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from torchrec_pss.datasets.rows import NUM_DENSE, NUM_SPARSE, RowBlock, join_blocks


class BinaryCriteoReader:
    """A `RowSource` over a folder of preprocessed stages, in time order.

    Args:
        path: the folder.
        num_embeddings: rows of each table; ids are taken modulo these, as TorchRec's reader does (its ``hashes``).

    Raises:
        FileNotFoundError: no such folder, or no stage in it.
        ValueError: an array of the wrong shape.
    """

    def __init__(self, path: str | Path, num_embeddings: Sequence[int]) -> None:
        path = Path(path)
        if not path.is_dir():
            raise FileNotFoundError(f"--in_memory_binary_criteo_path {path} is not a folder")
        stages = [p.name.removesuffix("_dense.npy") for p in path.glob("*_dense.npy")]
        if not stages:
            raise FileNotFoundError(f"no <stage>_dense.npy in {path}")
        stages.sort(key=lambda name: [int(n) for n in re.findall(r"\d+", name)])
        self._stages = [_open_stage(path, stage) for stage in stages]
        self._moduli = np.array(num_embeddings, dtype=np.int64)[:, None]

    @property
    def rows_per_file(self) -> list[int]:
        return [len(dense) for dense, _, _ in self._stages]

    def read(self, windows: Iterator[range]) -> Iterator[RowBlock]:
        starts = np.concatenate([[0], np.cumsum(self.rows_per_file)])
        for window in windows:
            blocks = []
            for (dense, sparse, labels), start in zip(self._stages, starts, strict=False):
                here = slice(max(window.start - start, 0), max(window.stop - start, 0))
                if here.start < min(here.stop, len(dense)):
                    ids = np.asarray(sparse[here], dtype=np.int64).T % self._moduli
                    rows = np.asarray(dense[here], dtype=np.float32)
                    blocks.append(RowBlock(rows, ids, np.asarray(labels[here], dtype=np.float32).reshape(-1)))
            yield join_blocks(blocks)


def _open_stage(path: Path, stage: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    parts = [np.load(path / f"{stage}_{part}.npy", mmap_mode="r") for part in ("dense", "sparse", "labels")]
    dense, sparse, labels = parts
    for name, array, columns in (("dense", dense, NUM_DENSE), ("sparse", sparse, NUM_SPARSE)):
        if array.ndim != 2 or array.shape[1] != columns:
            raise ValueError(f"{path / stage}_{name}.npy has shape {array.shape}, not [n, {columns}]")
    if not len(dense) == len(sparse) == len(labels):
        raise ValueError(
            f"stage {stage} in {path}: {len(dense)} dense, {len(sparse)} sparse and {len(labels)} label rows"
        )
    return dense, sparse, labels
