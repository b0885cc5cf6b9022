"""`PSSParameterConstraints`: what a user pins about a table and the array, beside TorchRec's own constraints."""

from collections.abc import Mapping
from dataclasses import dataclass

from torchrec.distributed.planner.types import ParameterConstraints

from torchrec_pss.ranges import RANGES, Range

PINS = ("auto", "never", "always", "exact")
MODES = ("auto", "always", "never")
_POOLING = Range(float, 0.0, 1e9)  # mean ids a bag


@dataclass
class PSSParameterConstraints(ParameterConstraints):
    """TorchRec's constraints of a table, and its place.

    Attributes:
        pss: "auto" (the planner's choice), "never" (a table of its own, by TorchRec's sharding types), "always" (in the
            array) or "exact" (in the array, every row with elements of its own; where a table is pinned so, others are exact
            only if the planner's `PSSConfig` names them).

    Raises:
        ValueError: another word.

    Examples:
        >>> import torch
        >>> from torchrec import EmbeddingBagCollection, EmbeddingBagConfig
        >>> from torchrec.distributed.planner import Topology
        >>> from torchrec_pss import PSSParameterConstraints, PSSShardingPlanner, get_default_pss_sharders
        >>> tables = [
        ...     EmbeddingBagConfig(name="user", num_embeddings=10_000_000, embedding_dim=64, feature_names=["user"]),
        ...     EmbeddingBagConfig(name="country", num_embeddings=200, embedding_dim=64, feature_names=["country"]),
        ... ]
        >>> model = torch.nn.ModuleDict({"ebc": EmbeddingBagCollection(tables, device=torch.device("meta"))})
        >>> constraints = {"country": PSSParameterConstraints(pss="never"), "user": PSSParameterConstraints(pss="always")}
        >>> topology = Topology(world_size=2, compute_device="cuda")
        >>> planner = PSSShardingPlanner(topology, array_bytes="10MB", constraints=constraints)
        >>> planner.plan(model, get_default_pss_sharders()).plan["ebc"].shared_tables
        ['user']
    """

    pss: str = "auto"

    def __post_init__(self) -> None:
        if self.pss not in PINS:
            raise ValueError(f"pss must be one of {PINS}, got {self.pss!r}")

    def __hash__(self) -> int:
        return hash((super().__hash__(), self.pss))


def check_constraints(constraints: Mapping[str, ParameterConstraints]) -> None:
    """That they are some, and that the cost model can calculate with what they say of batches: it would rate a plan NaN, and choose at
    random.

    Raises:
        ValueError: what is no `ParameterConstraints`; a pooling factor or batch size out of range, or too few of them; names the table.
    """
    if not isinstance(constraints, Mapping):
        raise ValueError(f"constraints must map tables to PSSParameterConstraints, got {constraints!r}")
    ranges = {"pooling_factors": _POOLING, "num_poolings": _POOLING, "batch_sizes": RANGES["batch_size"]}
    for table, constraint in constraints.items():
        if constraint is None:
            continue
        if not isinstance(constraint, ParameterConstraints):
            raise ValueError(
                f"the constraint of table {table!r} must be a PSSParameterConstraints, such as PSSParameterConstraints(pss='never'), "
                f"got {constraint!r}"
            )
        number = len(constraint.pooling_factors) if isinstance(constraint.pooling_factors, list | tuple) else 0
        for field, range_ in ranges.items():
            numbers = getattr(constraint, field)
            if field != "pooling_factors" and (numbers is None or numbers == []):
                continue
            if not isinstance(numbers, list | tuple) or not numbers or len(numbers) != number:
                raise ValueError(
                    f"{field} of table {table!r} must be a list with a number for each feature, as long as pooling_factors, got {numbers!r}"
                )
            for one in numbers:
                range_.checked(f"{field} of table {table!r}", one)
