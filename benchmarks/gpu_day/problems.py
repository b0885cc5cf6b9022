"""The problems that the lookup is timed on."""

from dataclasses import asdict, dataclass, replace

import torch
from torchrec.modules.embedding_configs import DataType
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from benchmarks.gpu_day.steps import case_ids
from benchmarks.lookup_cases import MB, TABLE_SETS, Case
from benchmarks.shared_collection import batch_of, collection
from torchrec_pss import PSSEmbeddingBagCollection

LAYOUTS = ("default", "plain")
_SHRUNK_ROWS = 300


@dataclass(frozen=True)
class Problem:
    """A case, and what the kernels are compiled for.

    Attributes:
        weighted: whether bags have weights.
        id_dtype, array_dtype: torch's names.
        bits: of an element that is read.
        most_rows: of a table.
    """

    case: Case
    weighted: bool = False
    id_dtype: str = "int64"
    array_dtype: str = "float32"
    bits: int = 32
    most_rows: int | None = None

    @property
    def name(self) -> str:
        """As tables show it."""
        case = self.case
        size = f"{case.array_bytes / MB:g} MB, D {case.embedding_dim}"
        batch = f"{case.batch_size} x {case.ids_per_bag} {case.ids.replace('_', '-')}"
        extras = [text for is_so, text in (
            (self.weighted, "weighted"), (self.id_dtype != "int64", self.id_dtype),
            (self.array_dtype != "float32", self.array_dtype), (self.bits != 32, f"{self.bits} bits"),
        ) if is_so]  # fmt: skip
        return ", ".join([case.layout, size, batch, *extras])

    @property
    def rows(self) -> list[int]:
        """Of each table."""
        return [min(n, self.most_rows or n) for n in TABLE_SETS[self.case.tables]]

    def shrunk(self) -> "Problem":
        """As small as a CPU gets through at once."""
        bag = min(self.case.ids_per_bag, 3)
        case = replace(self.case, array_bytes=60_000, embedding_dim=8, batch_size=8, ids_per_bag=bag)
        return replace(self, case=case, most_rows=_SHRUNK_ROWS)

    def described(self) -> dict:
        """As JSON."""
        return asdict(self.case) | {name: value for name, value in asdict(self).items() if name != "case"}

    def collection(self, device: str) -> PSSEmbeddingBagCollection:
        """One feature ``f<i>`` a table, in the case's layout, which is the same for every kind of ids: a real log's."""
        data_type = {"float32": DataType.FP32, "bfloat16": DataType.BF16}[self.array_dtype]
        few = {} if self.most_rows is None else {"counted": 1000}
        case = replace(self.case, ids="power_law")
        return collection(
            case, self.rows, device, is_weighted=self.weighted, data_type=data_type, bits=self.bits, **few
        )

    def batch(self, seed: int, device: str) -> KeyedJaggedTensor:
        """The ids of a seed, offsets computed."""
        ids = case_ids(self.case, self.rows, seed).to(getattr(torch, self.id_dtype))
        weights = torch.rand(ids.numel(), generator=torch.Generator().manual_seed(seed)) if self.weighted else None
        return batch_of(self.case, ids, device, weights)


def _case(layout: str, size: int, dim: int, batch: int, bag: int = 1, ids: str = "power_law") -> Case:
    return Case("kaggle", layout, size * MB, dim, batch, bag, ids, 0)


# As committed tables have them: the first ten of every day, in this order.
CASES = [
    _case(layout, *rest)
    for layout in LAYOUTS
    for rest in (
        (2, 16, 16384, 1, "power_law"),
        (10, 64, 16384, 1, "power_law"),
        (10, 128, 65536, 1, "power_law"),
        (10, 64, 4096, 20, "power_law"),
        (100, 128, 16384, 1, "uniform"),
    )
]
PROBLEMS = [
    *map(Problem, CASES),
    *(Problem(_case(layout, 10, 64, 4096, 20), weighted=True) for layout in LAYOUTS),
    *(Problem(_case(layout, 10, 64, batch, bag)) for layout in LAYOUTS for batch, bag in ((2048, 50), (2048, 100))),
    *(Problem(_case(layout, 10, 64, 2048, 100), weighted=True) for layout in LAYOUTS),
    *(Problem(_case(layout, 10, 64, 16384), weighted=True) for layout in LAYOUTS),
    *(Problem(_case(layout, 10, 64, 16384), id_dtype="int32") for layout in LAYOUTS),
    *(Problem(_case(layout, 10, 64, 16384), array_dtype="bfloat16") for layout in LAYOUTS),
    Problem(_case("default", 10, 64, 16384), bits=4),
    Problem(_case("default", 10, 64, 4096, 20), bits=4),
]
# A dry run's: one of every kind.
DRY = [p.shrunk() for p in (PROBLEMS[0], PROBLEMS[8], PROBLEMS[10], PROBLEMS[20], PROBLEMS[22], PROBLEMS[-2])]
