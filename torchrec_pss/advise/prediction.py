"""`Prediction`: the AUROC that a layout loses against full tables, from the lab's runs."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_NEAREST = 12
CALIBRATION = Path(__file__).with_name("calibration.json")


@dataclass(frozen=True)
class Prediction:
    """An expected value and the interval that 90 % of the lab's left-out runs fell into."""

    expected: float
    low: float
    high: float


class Calibration:
    """``drop = a x + b x^2 + c`` over the unresolved share ``x``, fitted to runs of the lab; see docs/quality.md.

    Args:
        runs: of the lab: ``data``, ``unresolved``, ``drop``, ``steps_ratio``.

    Raises:
        ValueError: fewer than two data sets.
    """

    def __init__(self, runs: list[dict]) -> None:
        self.runs = runs
        self._names = sorted({r["data"] for r in runs})
        if len(self._names) < 2:
            raise ValueError(f"a calibration needs runs on two data sets or more, got {self._names}")
        self._coefficients = _fit(runs)
        self._low, self._high = self._interval(leave_out=None)

    @classmethod
    def load(cls, path: Path = CALIBRATION) -> "Calibration":
        return cls(json.loads(path.read_text())["runs"])

    def drop(self, unresolved: float) -> Prediction:
        expected = _value(self._coefficients, unresolved)
        return Prediction(expected, expected + self._low, expected + self._high)

    def steps_ratio(self, unresolved: float) -> Prediction:
        """Steps to the AUROC that the worse of the array and full tables ends with, over full tables' steps: median and 5 to
        95 % of the `_NEAREST` runs whose unresolved share is nearest."""
        nearest = sorted(self.runs, key=lambda r: abs(r["unresolved"] - unresolved))[:_NEAREST]
        low, expected, high = np.quantile([r["steps_ratio"] for r in nearest], [0.05, 0.5, 0.95])
        return Prediction(float(expected), float(low), float(high))

    def coverage(self) -> float:
        """Share of runs inside the interval when all runs on their data set are left out of fit and interval."""
        inside = []
        for name in self._names:
            kept, left = self._split(name)
            coefficients = _fit(kept)
            low, high = self._interval(leave_out=name)
            for run in left:
                error = run["drop"] - _value(coefficients, run["unresolved"])
                inside.append(low <= error <= high)
        return float(np.mean(inside))

    def _split(self, name: str) -> tuple[list[dict], list[dict]]:
        return [r for r in self.runs if r["data"] != name], [r for r in self.runs if r["data"] == name]

    def _interval(self, leave_out: str | None) -> tuple[float, float]:
        """Quantiles of the errors on data sets that the fit did not see, so that they hold what changes between sets."""
        runs = [r for r in self.runs if r["data"] != leave_out]
        errors = []
        for name in sorted({r["data"] for r in runs}):
            coefficients = _fit([r for r in runs if r["data"] != name] or runs)
            errors += [r["drop"] - _value(coefficients, r["unresolved"]) for r in runs if r["data"] == name]
        low, high = np.quantile(errors, [0.05, 0.95])
        return float(low), float(high)


def _fit(runs: list[dict]) -> np.ndarray:
    x = np.array([r["unresolved"] for r in runs])
    design = np.stack([x, x * x, np.ones_like(x)], axis=1)
    return np.linalg.lstsq(design, np.array([r["drop"] for r in runs]), rcond=None)[0]


def _value(coefficients: np.ndarray, x: float) -> float:
    return float(coefficients @ np.array([x, x * x, 1.0]))
