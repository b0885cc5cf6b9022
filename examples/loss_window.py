"""`LossWindow`: the losses of the steps since the last log line, kept on the device, so that no step waits for it."""

import numpy as np
import torch


class LossWindow:
    """At most ``capacity`` losses, on ``device``."""

    def __init__(self, capacity: int, device: torch.device) -> None:
        self._losses = torch.zeros(capacity, device=device)
        self._length = 0
        self._first_bad: int | None = None  # of this window, what `mark_not_finite` was told

    def add(self, loss: torch.Tensor) -> None:
        """A step's; a scalar tensor, which is copied."""
        self._losses[self._length].copy_(loss)
        self._length += 1

    def mark_not_finite(self) -> None:
        """Something beside the loss was NaN or infinite after the last step that was added."""
        if self._first_bad is None:
            self._first_bad = self._length

    def close(self) -> tuple[float, int | None]:
        """The mean, and of the steps since the last call the first, from 1, after which their sum was not finite; waits for the device.
        The window is empty then."""
        sums = np.add.accumulate(self._losses[: self._length].cpu().numpy())  # one after the other, in fp32
        bad = [*(np.flatnonzero(~np.isfinite(sums)) + 1).tolist()[:1], *([self._first_bad] if self._first_bad else [])]
        mean = float(sums[-1]) / self._length
        self._length, self._first_bad = 0, None
        return mean, min(bad, default=None)
