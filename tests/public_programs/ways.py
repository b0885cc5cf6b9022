"""The three ways of a public program (plain TorchRec, swapped, planned), what they are compared by, and how their lines are counted.

A test's module holds the program. A line that a user adds or changes ends with ``# swap`` or ``# planner``, or with both names; the
``if way == ...`` around it is the test's.
"""

import inspect
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec.distributed.model_parallel import get_unwrapped_module
from torchrec.modules.embedding_configs import data_type_to_dtype

from torchrec_pss import expanded, unsharded
from torchrec_pss.distributed.replica_check import check_replicas
from torchrec_pss.modules.shared_array import SharedArrayModule

CPU, META = torch.device("cpu"), torch.device("meta")
STEPS = 8
_ROOM = 4096  # bytes a table, for alignment


@dataclass
class Program:
    """A program as far as its loop.

    Attributes:
        model: what it trains.
        step: trains by one batch, returns the loss.
        read: the model's outputs for a batch that is always the same; of any model that is called as this one.
        end: what the program does after its loop.
    """

    model: nn.Module
    step: Callable[[], Any]
    read: Callable[[nn.Module], torch.Tensor]
    end: Callable[[], None] = lambda: None


def exact_bytes(tables: Sequence) -> int:
    """A budget at which every table is exact."""
    return sum(t.num_embeddings * t.embedding_dim * data_type_to_dtype(t.data_type).itemsize + _ROOM for t in tables)


def small_bytes(tables: Sequence) -> int:
    """One at which tables share."""
    return sum(t.num_embeddings * t.embedding_dim * data_type_to_dtype(t.data_type).itemsize for t in tables) // 8


def budgets_of(tables: Sequence, ways: Sequence[str] = ("swap", "planner")) -> list[tuple[str, int]]:
    """All ways, with the array's bytes."""
    return [("plain", 0), *((way, size(tables)) for size in (exact_bytes, small_bytes) for way in ways)]


def compared(
    rank: int,
    world_size: int,
    make: Callable[[str, int], Program],
    plain: Callable[[], nn.Module] | None,
    tables: Sequence,
    folder: str,
    ways: Sequence[str] = ("swap", "planner"),
) -> dict:
    """Losses of a program by way and budget. Each is trained from the same values, saved, loaded into a fresh model, and gathered.

    Args:
        make: makes the program in one of the ways, with so many bytes for the array.
        plain: the untouched model, unsharded, which loads what `expanded` gathers.
    """
    found = {}
    for way, array_bytes in budgets_of(tables, ways):
        program = make(way, array_bytes)
        write_values(program.model)
        losses = [float(program.step()) for _ in range(STEPS)]
        found[way, "exact" if array_bytes == exact_bytes(tables) else "small" if array_bytes else ""] = losses
        program.end()
        if way == "plain":
            continue
        check_replicas(sorted(program.model.named_parameters()))
        expected = outputs(program, program.model)
        path = f"{folder}/{way}-{array_bytes}-{rank}.pt"
        torch.save(program.model.state_dict(), path)
        fresh = make(way, array_bytes).model
        fresh.load_state_dict(torch.load(path, weights_only=True))
        torch.testing.assert_close(outputs(program, fresh), expected)
        gathered, full = unsharded(program.model), expanded(program.model)
        if rank == 0:
            torch.testing.assert_close(outputs(program, gathered), expected)
            if plain is not None:
                original = plain()
                original.load_state_dict(full)  # strictly: TorchRec's names and no other
                torch.testing.assert_close(outputs(program, original), expected, rtol=1e-4, atol=1e-5)
    return found


def check(found: Sequence[dict], same_optimizer: bool = False) -> None:
    """The losses of all ranks: finite, falling, and with exact tables at first those of the plain run."""
    for losses in found:
        plain = losses["plain", ""]
        for (way, kind), own in losses.items():
            assert all(torch.tensor(own).isfinite()), (way, kind, own)
            assert min(own[-2:]) < own[0], (way, kind, own)
            if kind == "exact":
                close = len(own) if same_optimizer else 1
                torch.testing.assert_close(
                    own[:close], plain[:close], rtol=1e-3, atol=1e-4, msg=f"{way}: {own}\n{plain}"
                )


@torch.no_grad()
def outputs(program: Program, model: nn.Module) -> torch.Tensor:
    was = model.training
    model.eval()
    found = program.read(model).detach().clone()
    model.train(was)
    return found


def pattern(table: str, rows: torch.Tensor, dim: int) -> torch.Tensor:
    """Rows of a table that are the same in every way."""
    first = zlib.crc32(table.encode()) % 1000
    return 0.1 * torch.sin(first + rows.unsqueeze(1) * 7.3 + torch.arange(dim) * 1.7)


@torch.no_grad()
def write_values(model: nn.Module) -> None:
    """The same values into dense layers, tables, and arrays of which every table is exact."""
    root = get_unwrapped_module(model)
    arrays = [m for m in root.modules() if isinstance(m, SharedArrayModule)]
    for name, value in _whole_or_shards(model):
        for tensor, first in value:
            table = re.search(r"(?:embedding_bags|embeddings)\.(\w+)\.weight$", name)
            if table:
                rows = torch.arange(first[0], first[0] + tensor.shape[0])
                columns = slice(first[1], first[1] + tensor.shape[1])
                tensor.copy_(pattern(table[1], rows, first[1] + tensor.shape[1])[:, columns])
            elif tensor.is_floating_point() and not re.search(r"(^|\.)(array|projections)$", name):
                generator = torch.Generator().manual_seed(zlib.crc32(re.sub(r"\b(module|model)\.", "", name).encode()))
                bound = 1 / max(tensor.shape[-1], 1) ** 0.5
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 2 * bound - bound)
    for module in arrays:
        tables = module.layout.tables
        if all(t.is_exact and not t.is_projected for t in tables):
            ids = [torch.arange(t.rows) for t in tables]
            parts = zip(tables, ids, strict=True)
            module.array.copy_(sum(module.scatter(t.name, i, pattern(t.name, i, t.embedding_dim)) for t, i in parts))


def _whole_or_shards(model: nn.Module) -> Iterator[tuple[str, list[tuple[torch.Tensor, tuple[int, ...]]]]]:
    """Of each entry of the state the tensors here, and where they start."""
    for name, value in model.state_dict().items():
        if isinstance(value, ShardedTensor):
            yield name, [(s.tensor, tuple(s.metadata.shard_offsets)) for s in value.local_shards()]
        elif isinstance(value, torch.Tensor):
            yield name, [(value, (0, 0))]


def changed_lines(module: Any, way: str) -> int:
    """Lines of a program that a way adds or changes; each a whole statement."""
    number = 0
    for line in inspect.getsource(module).splitlines():
        marks = re.search(r"^(.*)  # ((?:swap|planner)(?:, \w+)*)$", line)
        if marks and way in marks[2].split(", "):
            assert marks[1].count("(") == marks[1].count(")"), line
            number += 1
    return number
