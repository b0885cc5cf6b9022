"""The problems that the lookup is timed on."""

from dataclasses import asdict, dataclass, replace

import torch
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from benchmarks.gpu_day.steps import case_ids
from benchmarks.lookup_cases import MB, TABLE_SETS, Case, draw_ids
from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection
from torchrec_pss.modules.id_counts import IdCounts

LAYOUTS = ("default", "plain")
_COUNTED = 131_072  # ids a table by which the default layout is chosen
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
        """One feature ``f<i>`` a table, in the case's layout."""
        case = self.case
        dtype = {"float32": DataType.FP32, "bfloat16": DataType.BF16}[self.array_dtype]
        tables = [
            EmbeddingBagConfig(
                num_embeddings=n, embedding_dim=case.embedding_dim, name=f"t{i}", feature_names=[f"f{i}"], data_type=dtype
            )
            for i, n in enumerate(self.rows)
        ]  # fmt: skip
        config = {"array_bytes": case.array_bytes, "bits": self.bits}
        if case.layout == "plain":
            config["layout"] = "plain"
        else:
            # The same for every kind of ids: a real log's.
            drawn = draw_ids(self.rows, _COUNTED if self.most_rows is None else 1000, "power_law", seed=1).numpy()
            config["counts"] = {t.name: IdCounts.of(ids) for t, ids in zip(tables, drawn, strict=True)}
        return PSSEmbeddingBagCollection(tables, self.weighted, torch.device(device), config=PSSConfig(**config))

    def batch(self, seed: int, device: str) -> KeyedJaggedTensor:
        """The ids of a seed, offsets computed."""
        case = self.case
        ids = case_ids(case, self.rows, seed).flatten().to(getattr(torch, self.id_dtype))
        lengths = torch.full((len(self.rows) * case.batch_size,), case.ids_per_bag, dtype=torch.int32)
        weights = torch.rand(len(ids), generator=torch.Generator().manual_seed(seed)) if self.weighted else None
        keys = [f"f{i}" for i in range(len(self.rows))]
        kjt = KeyedJaggedTensor(keys, ids, weights, lengths=lengths).to(torch.device(device))
        kjt.offsets()
        return kjt


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
