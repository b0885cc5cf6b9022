"""`ArrayWatcher`: norms and shares of an array in training, as scalars for a log or TensorBoard."""

import torch

from torchrec_pss.modules.shared_array import SharedArrayModule


class ArrayWatcher:
    """Measures a shared array, sharded or not, every now and then. Keeps a copy of it.

    Call `measure` after the optimizer's step and before ``zero_grad``. Under DDP the gradient is by then the mean over the ranks,
    so that one rank's figures stand for all.

    Args:
        module: of the array, on its device.
    """

    def __init__(self, module: SharedArrayModule) -> None:
        self._array = module.array
        self._shared_numel = module.layout.shared_numel
        self._last = self._array.detach().clone()

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Returns:
        - ``array_norm``: L2 norm of the array.
        - ``array_moved_norm``: of its change since the last call (at first, since construction).
        - ``array_moved_share``, ``array_shared_moved_share``: elements that changed since then, of all and of the shared ones.
        - ``array_gradient_norm``, ``array_touched_share``: of the last step's gradient, norm and share of elements that are not zero;
          left out where an optimizer in backward leaves no gradient.

        Norms are fp32; of an empty shared region the share is 0.
        """
        array, last = self._array.detach(), self._last
        moved = array.float() - last.float()
        changed = moved != 0
        found = {
            "array_norm": array.float().norm(),
            "array_moved_norm": moved.norm(),
            "array_moved_share": changed.float().mean(),
            "array_shared_moved_share": changed[: self._shared_numel].sum() / max(self._shared_numel, 1),
        }
        if self._array.grad is not None:
            gradient = self._array.grad.float()
            found["array_gradient_norm"] = gradient.norm()
            found["array_touched_share"] = (gradient != 0).float().mean()
        last.copy_(array)
        return {name: float(value) for name, value in found.items()}
