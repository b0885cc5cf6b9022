"""The parts of the day, in the order of their value, each with the seconds it may take over all calls."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Call:
    """What a part is told: ``folder`` of the day, ``number`` of the call, ``seconds`` it has, and whether it is a dry run."""

    folder: Path
    number: int
    seconds: float
    dry_run: bool


def _nothing_lacks() -> str | None:
    return None


@dataclass(frozen=True)
class Part:
    """
    Attributes:
        name: of it, and of its files.
        says: what it does.
        seconds: it may take, over all calls, before the others have had their turn.
        command: of a call; without the interpreter.
        lacks: why it cannot run here; None where it can.
        fine: exit statuses of a part that has passed.
    """

    name: str
    says: str
    seconds: float
    command: Callable[[Call], list[str]]
    lacks: Callable[[], str | None] = _nothing_lacks
    fine: tuple[int, ...] = (0,)

    def lines(self, folder: Path) -> Path:
        """Its JSON lines, of parts that write some."""
        return folder / f"{self.name}.jsonl"

    def json(self, folder: Path) -> Path:
        """The file of a benchmark that writes one."""
        return folder / f"{self.name}.json"

    def log(self, folder: Path) -> Path:
        return folder / f"{self.name}.log"


def _ours(name: str, says: str, seconds: float, lacks: Callable[[], str | None] = _nothing_lacks) -> Part:
    """A module of this package."""

    def command(call: Call) -> list[str]:
        flags = ["--lines", str(call.folder / f"{name}.jsonl"), "--call", str(call.number)]
        return ["-m", f"benchmarks.gpu_day.{name}", *flags, *(["--dry-run"] if call.dry_run else [])]

    return Part(name, says, seconds, command, lacks)


def _lacks_module(name: str) -> Callable[[], str | None]:
    return lambda: None if importlib.util.find_spec(name) else f"there is no {name}"


def _lacks_datasets() -> str | None:
    """TorchRec 1.6 imports iopath there, which its own metadata asks for and `pip install --no-deps` leaves out."""
    try:
        importlib.import_module("torchrec.datasets.utils")
    except ImportError as error:
        return f"torchrec.datasets cannot be imported: {error}"
    return None


def _host(call: Call) -> list[str]:
    repeats = ["--repeats", "1"] if call.dry_run else []
    return ["-m", "benchmarks.bench_launch", "--json", str(call.folder / "host.json"), *repeats]


def _tournament(call: Call) -> list[str]:
    # It ends by itself, with its table written, before it is ended.
    seconds = str(max(int(call.seconds * 0.9), 1))
    flags = ["--json", str(call.folder / "tournament.json"), "--seconds", seconds]
    return ["-m", "benchmarks.gpu_tournament", *flags, *(["--dry-run"] if call.dry_run else [])]


def cuda_tests() -> list[Path]:
    """Those that need devices, or are of more worth on one: the pipeline's steps are replayed from a real graph there."""
    return [*sorted((ROOT / "tests").glob("test_cuda_*.py")), *(ROOT / "tests").glob("test_graphed_pipeline.py")]


def _lacks_tests() -> str | None:
    if not cuda_tests():
        return "there are no tests/test_cuda_*.py"
    return _lacks_module("pytest")() or _lacks_datasets()


def _several(call: Call) -> list[str]:
    tests = [str(path.relative_to(ROOT)) for path in cuda_tests()]
    return [
        "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", "-p", "benchmarks.gpu_day.pytest_lines",
        f"--lines={call.folder / 'several.jsonl'}", f"--call={call.number}",
        *(["--collect-only"] if call.dry_run else []), *tests,
    ]  # fmt: skip


_NO_TESTS_LEFT = 5  # pytest's exit status

PARTS = [
    _ours("correctness", "random configurations, bounds, bits, races, few bits, a CUDA graph", 240),
    Part("host", "Python's share of a step, `benchmarks.bench_launch`", 60, _host, _lacks_module("benchmarks.bench_launch")),
    _ours("lookup", "forward and step against FBGEMM's TBE and the copy limit", 330),
    Part("tournament", "every kernel variant's time, `benchmarks.gpu_tournament`", 240, _tournament,
         _lacks_module("benchmarks.gpu_tournament")),
    _ours("script", "`train_criteo.py` whole, array and full tables", 330, _lacks_datasets),
    _ours("mlperf", "MLPerf's tables in full against 10 MB", 270, _lacks_datasets),
    Part("several", "several processes, and captured steps: `tests/test_cuda_*.py`, `tests/test_graphed_pipeline.py`", 150, _several,
         _lacks_tests, (0, _NO_TESTS_LEFT)),
    _ours("update", "the optimizer's pass, and gradients of hot elements", 90),
]  # fmt: skip
INTERPRETER = sys.executable
