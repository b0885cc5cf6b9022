"""TorchRec's preprocessed Criteo: ``<stage>_{dense,sparse,labels}.npy``, read a window at a time.

A stage is ``day_0`` .. ``day_23`` (Criteo-1TB), ``train`` (Kaggle), or what `file_roles.arrange` understands, as
`torchrec.datasets.criteo` writes them: dense float ``[n, 13]``, transformed already; sparse int ``[n, 26]``; labels ``[n, 1]``.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from torchrec_pss.datasets.errors import BadRowsError
from torchrec_pss.datasets.file_roles import TRAIN, arrange, check_doubled, roles_of
from torchrec_pss.datasets.file_signature import FileSignature
from torchrec_pss.datasets.npy_rows import NpyRows
from torchrec_pss.datasets.rows import NUM_DENSE, NUM_SPARSE, RowBlock, empty_block, join_blocks

logger: logging.Logger = logging.getLogger(__name__)

_END = "_dense.npy"


@dataclass(frozen=True)
class _Stage:
    name: str
    role: str | None
    dense: NpyRows
    sparse: NpyRows
    labels: NpyRows

    @property
    def parts(self) -> tuple[NpyRows, NpyRows, NpyRows]:
        return self.dense, self.sparse, self.labels


class BinaryCriteoReader:
    """A `RowSource` over a folder of preprocessed stages, in time order, or those to train on first.

    Args:
        path: the folder.
        num_embeddings: rows of each table; ids are taken modulo these, as TorchRec's reader does (its ``hashes``).

    Raises:
        FileNotFoundError: no such folder, or no stage in it, or a file of a stage is missing.
        ValueError: an array of the wrong shape or type, or names of stages that cannot be understood together.
    """

    def __init__(self, path: str | Path, num_embeddings: Sequence[int]) -> None:
        path = Path(path)
        try:
            if not path.is_dir():
                raise FileNotFoundError(f"--in_memory_binary_criteo_path {path} is not a folder")
            names = [p.name.removesuffix(_END) for p in path.glob(f"*{_END}")]
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise ValueError(f"--in_memory_binary_criteo_path {path} is unreadable: {error}") from error
        names = [name for name in names if _is_used(path, name)]
        if not names:
            raise FileNotFoundError(f"no <stage>{_END} in {path}")
        try:
            check_doubled(names)
            arranged = arrange(names)
        except ValueError as error:
            raise ValueError(f"--in_memory_binary_criteo_path {path}: {error}") from error
        self._stages = [_open_stage(path, name, role) for name, role in arranged]
        self._check_links()
        self._moduli = np.array(num_embeddings, dtype=np.int64)[:, None]

    @property
    def names(self) -> list[str]:
        return [stage.name for stage in self._stages]

    @property
    def roles(self) -> list[str | None]:
        """What each stage is for, see `file_roles.arrange`."""
        return [stage.role for stage in self._stages]

    @property
    def rows_per_file(self) -> list[int]:
        return [len(stage.dense) for stage in self._stages]

    @property
    def signatures(self) -> list[FileSignature]:
        return [part.signature for stage in self._stages for part in stage.parts]

    def read(self, windows: Iterator[range]) -> Iterator[RowBlock]:
        """One block for each window.

        Raises:
            BadRowsError: a label that is not 0 or 1, or a number that is not finite; names file and row.
            DataChangedError: a file that is not what it was when it was opened.
            DataError: a file that is unreadable.
        """
        starts = np.concatenate([[0], np.cumsum(self.rows_per_file)]).tolist()
        for window in windows:
            blocks = []
            for stage, start in zip(self._stages, starts, strict=False):
                here = slice(max(window.start - start, 0), min(max(window.stop - start, 0), len(stage.dense)))
                if here.start < here.stop:
                    blocks.append(self._block(stage, here))
            yield join_blocks(blocks or [empty_block()])

    def _block(self, stage: _Stage, rows: slice) -> RowBlock:
        dense = stage.dense.read(rows).astype(np.float32, copy=False)
        labels = stage.labels.read(rows).astype(np.float32, copy=False).reshape(-1)
        finite: Any = np.isfinite(dense).all(axis=1)
        _check_rows(stage.dense, rows, finite, dense, "a number that is not finite")
        _check_rows(stage.labels, rows, (labels == 0) | (labels == 1), labels, "a label that is not 0 or 1")
        ids = stage.sparse.read(rows).astype(np.int64, copy=False).T % self._moduli
        return RowBlock(dense, ids, labels)

    def _check_links(self) -> None:
        seen: dict[tuple[int, int], Path] = {}
        for stage in self._stages:
            status = stage.dense.path.stat()
            first = seen.setdefault((status.st_dev, status.st_ino), stage.dense.path)
            if first != stage.dense.path:
                raise ValueError(
                    f"{first} and {stage.dense.path} are one file by a link: take one stage out of the folder"
                )


def _is_used(folder: Path, name: str) -> bool:
    """Hidden files, editors' copies and test stages without labels are not."""
    if name.startswith((".", "~", "#")):
        return False
    labelled = (folder / f"{name}_labels.npy").exists()
    if not labelled and roles_of(name) and TRAIN not in roles_of(name):
        logger.info("left out %s%s: it has no labels", folder / name, _END)
        return False
    return True


def _open_stage(folder: Path, name: str, role: str | None) -> _Stage:
    dense = NpyRows(folder / f"{name}_dense.npy", NUM_DENSE)
    sparse = NpyRows(folder / f"{name}_sparse.npy", NUM_SPARSE)
    labels = NpyRows(folder / f"{name}_labels.npy", 1)
    if sparse.dtype.kind not in "iu":
        raise ValueError(f"data file {sparse.path} holds {sparse.dtype}, not integers")
    if not len(dense) == len(sparse) == len(labels):
        raise ValueError(
            f"stage {name} in {folder}: {len(dense)} dense, {len(sparse)} sparse and {len(labels)} label rows"
        )
    if not len(dense):
        raise ValueError(f"data file {dense.path} has no rows")
    return _Stage(name, role, dense, sparse, labels)


def _check_rows(file: NpyRows, rows: slice, good: np.ndarray, values: np.ndarray, what: str) -> None:
    if not good.all():
        bad = int(np.argmin(good))
        value = np.atleast_1d(values[bad])
        shown = value[~np.isfinite(value)] if not np.isfinite(value).all() else value
        raise BadRowsError(f"{file.path}, row {rows.start + bad}: {what}: {shown[0]}")
