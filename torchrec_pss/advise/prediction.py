"""`Prediction`: the AUROC that a layout loses against full tables, from the lab's runs."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

_NEAREST = 12
_Share = TypeVar("_Share", float, np.ndarray)
_NOISE_SHARE = 0.1  # lost share at which half of an error is what two runs differ by anyway
CALIBRATION = Path(__file__).with_name("calibration.json")


@dataclass(frozen=True)
class Prediction:
    """An expected value and a 90 % interval, of the lab's runs on data sets left out of the fit."""

    expected: float
    low: float
    high: float


class Calibration:
    """``drop = a x + b x^2`` over the share ``x`` that a layout loses (`torchrec_pss.modules.lost_share`), fitted to runs of the lab; see docs/research/2026-11-30-advisor.md.

    What data sets differ by is how much a share costs them: errors, weights of the fit and intervals are in proportion to
    ``x + _NOISE_SHARE``.

    Args:
        runs: of the lab: ``data``, ``lost_share``, ``drop``, ``steps_ratio``.

    Raises:
        ValueError: fewer than two data sets.
    """

    def __init__(self, runs: list[dict[str, Any]]) -> None:
        self.runs = runs
        self._names = sorted({r["data"] for r in runs})
        if len(self._names) < 2:
            raise ValueError(f"a calibration needs runs on two data sets or more, got {self._names}")
        self._coefficients = _fit(runs)
        self._low, self._high = self._interval(leave_out=None)

    @classmethod
    def load(cls, path: Path = CALIBRATION) -> "Calibration":
        return cls(json.loads(path.read_text())["runs"])

    def drop(self, lost: float) -> Prediction:
        expected, scale = _value(self._coefficients, lost), _scale(lost)
        return Prediction(expected, expected + self._low * scale, expected + self._high * scale)

    def steps_ratio(self, lost: float) -> Prediction:
        """Steps to the AUROC that the worse of the array and full tables ends with, over full tables' steps: median and 5 to
        95 % of the `_NEAREST` runs whose lost share is nearest."""
        nearest = sorted(self.runs, key=lambda r: abs(r["lost_share"] - lost))[:_NEAREST]
        low, expected, high = np.quantile([r["steps_ratio"] for r in nearest], [0.05, 0.5, 0.95])
        return Prediction(float(expected), float(low), float(high))

    def coverage(self) -> float:
        """Share of runs inside the interval when all runs on their data set are left out of fit and interval."""
        inside = []
        for name in self._names:
            kept, left = self._split(name)
            coefficients = _fit(kept)
            low, high = self._interval(leave_out=name)
            inside += [low <= _error(coefficients, run) <= high for run in left]
        return float(np.mean(inside))

    def _split(self, name: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        return [r for r in self.runs if r["data"] != name], [r for r in self.runs if r["data"] == name]

    def _interval(self, leave_out: str | None) -> tuple[float, float]:
        """Quantiles of the errors, as shares of their scale, on data sets that the fit did not see, so that they hold what
        changes between sets; of so few errors a little further out (split conformal prediction's (n + 1) / n)."""
        runs = [r for r in self.runs if r["data"] != leave_out]
        errors = []
        for name in sorted({r["data"] for r in runs}):
            coefficients = _fit([r for r in runs if r["data"] != name] or runs)
            errors += [_error(coefficients, r) for r in runs if r["data"] == name]
        level = min(0.95 * (len(errors) + 1) / len(errors), 1)
        low, high = np.quantile(errors, [1 - level, level])
        return float(low), float(high)


def _scale(lost: _Share) -> _Share:
    return lost + _NOISE_SHARE


def _fit(runs: list[dict[str, Any]]) -> np.ndarray:
    x = np.array([r["lost_share"] for r in runs])
    weights = 1 / _scale(x)
    design = np.stack([x, x * x], axis=1) * weights[:, None]
    return np.linalg.lstsq(design, np.array([r["drop"] for r in runs]) * weights, rcond=None)[0]


def _value(coefficients: np.ndarray, x: float) -> float:
    return float(coefficients @ np.array([x, x * x]))


def _error(coefficients: np.ndarray, run: dict[str, Any]) -> float:
    """Of a prediction, as a share of its scale."""
    return (run["drop"] - _value(coefficients, run["lost_share"])) / _scale(run["lost_share"])
