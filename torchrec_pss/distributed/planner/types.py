"""`PSSParameterConstraints`: what a user pins about a table and the array, beside TorchRec's own constraints."""

from dataclasses import dataclass

from torchrec.distributed.planner.types import ParameterConstraints

PINS = ("auto", "never", "always", "exact")
MODES = ("auto", "always", "never")


@dataclass
class PSSParameterConstraints(ParameterConstraints):
    """TorchRec's constraints of a table, and its place.

    Attributes:
        pss: "auto" (the planner's choice), "never" (a table of its own, by TorchRec's sharding types), "always" (in the
            array) or "exact" (in the array, every row with elements of its own; where a table is pinned so, others are exact
            only if the planner's `PSSConfig` names them).

    Raises:
        ValueError: another word.
    """

    pss: str = "auto"

    def __post_init__(self) -> None:
        if self.pss not in PINS:
            raise ValueError(f"pss must be one of {PINS}, got {self.pss!r}")

    def __hash__(self) -> int:
        return hash((super().__hash__(), self.pss))
