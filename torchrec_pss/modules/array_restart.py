"""`ArrayRestart`: the array taken back to its first values between two passes over the same rows."""

from torch import nn

from torchrec_pss.modules.shared_array import SharedArrayModule
from torchrec_pss.optim.parameter_restart import ParameterRestart


class ArrayRestart(ParameterRestart):
    """Of every shared array inside a module, with its projections.

    Args:
        module: sharded or not, before its first step (and before a checkpoint is loaded, so that a resumed run returns to the
            same values).

    Raises:
        ValueError: there is no shared array inside ``module``.
    """

    def __init__(self, module: nn.Module) -> None:
        arrays = [m for m in module.modules() if isinstance(m, SharedArrayModule)]
        if not arrays:
            raise ValueError(f"{type(module).__name__} has no shared array to begin anew")
        super().__init__(p for array in arrays for p in array.parameters())
