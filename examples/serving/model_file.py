"""`ModelFile`: the file that is served. What takes its place is taken over if it is whole, and refused if not."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from torchrec_pss.datasets.criteo_lines import MISSING_ID
from torchrec_pss.export import DamagedFileError, Served

logger: logging.Logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Model:
    """What a file answers with.

    Attributes:
        file: of `torchrec_pss.export`, of a click model.
        features: in the order of its ids.
        dense: names of the dense values; None: nobody knows.
        texts: whether a feature was text when the model was trained, or whole numbers; None: nobody knows.
        plain: whether each dense value goes to the model as it is; of the others it takes ``sign(x) log(1 + |x|)``.
        empty: ids of each feature where a row says nothing of it: one that is missing, or none of bags.
        separators: of each feature, what divides the tokens of a text; None: nothing does.
        limits: int64 ``[F]``, rows of a feature's table where an id must be one of them; 0 where any id may come.
    """

    file: Served
    features: list[str]
    dense: list[str] | None
    texts: list[bool] | None
    plain: np.ndarray
    empty: list[list[int]]
    separators: list[str | None]
    limits: np.ndarray

    @classmethod
    def load(cls, path: Path) -> "Model":
        """
        Raises:
            FileNotFoundError, DamagedFileError: see `Served`; a file of another kind of model.
        """
        file = Served(path)
        try:
            return cls._checked(file)
        except DamagedFileError:
            raise
        except (KeyError, TypeError, AttributeError, AssertionError, IndexError, ValueError) as error:
            raise DamagedFileError(f"{path} says of itself what it is not: {type(error).__name__} {error}") from error

    @classmethod
    def _checked(cls, file: Served) -> "Model":
        said, path = file.metadata, file.path
        if said.get("part") != "probability":
            raise DamagedFileError(f"{path} is no click model's: its part is {said.get('part')!r}")
        if any(i["name"] == "weights" for i in said["inputs"]):
            raise DamagedFileError(f"{path} takes weights of ids, and this server's rows have none")
        rows = {feature: t["rows"] or 0 for t in said["tables"] for feature in t["features"]}
        limits = [rows[feature] for feature in said["features"]]
        asked = np.array(limits if said["out_of_range"] == "error" else [0] * len(limits), dtype=np.int64)
        transforms = said.get(
            "dense_transforms", ["log"] * said["num_dense"]
        )  # files of earlier versions have Criteo's
        plain = np.array([transform == "none" for transform in transforms])
        assert len(plain) == said["num_dense"]
        known = said.get("texts")
        texts = None if known is None else [feature in known for feature in said["features"]]
        bags = said.get("bags", [])
        empty = [[] if feature in bags else [MISSING_ID] for feature in said["features"]]
        separators = [said.get("separators", {}).get(feature) for feature in said["features"]]
        model = cls(file, said["features"], said.get("dense"), texts, plain, empty, separators, asked)
        model.run(
            np.zeros((1, said["num_dense"]), np.float32),
            np.zeros(len(limits), np.int64),
            np.ones((len(limits), 1), np.int64),
        )
        return model

    @property
    def num_dense(self) -> int:
        return self.file.metadata["num_dense"]

    def run(self, dense: np.ndarray, values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Probabilities, fp32 ``[B]``: of dense ``[B, d]``, ids ``[L]`` and lengths ``[F, B]``."""
        return self.file(*map(torch.from_numpy, (dense, values, lengths))).numpy()

    def about(self) -> dict:
        said = self.file.metadata
        names = ("created", "git_commit", "bits", "embedding_bytes", "check", "run")
        return {"file": str(self.file.path), "compiled": self.file.is_compiled} | {n: said.get(n) for n in names}


class ModelFile:
    """
    Raises:
        FileNotFoundError, DamagedFileError: there is no model to begin with.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = _identity(path)
        self.model = Model.load(path)
        self.refused = 0

    def look(self) -> bool:
        """Takes over a file that has changed; whether it did. Blocks while it loads; requests go on with the old model."""
        now = _identity(self._path)
        if now is None or now == self._seen:
            return False
        self._seen = now
        try:
            self.model = Model.load(self._path)
        except Exception as error:  # whatever is wrong with it, the old one answers on
            self.refused += 1
            logger.error("%s is not taken over, the model before it answers on: %s", self._path, error)
            return False
        logger.info("%s is taken over: %s", self._path, self.model.about()["created"])
        return True


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
