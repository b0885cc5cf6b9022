"""A problem's steps on an array: forward, backward and SGD; and that a CUDA graph of one is replayed right."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from benchmarks.gpu_day.timing import captured
from benchmarks.lookup_cases import MB, TABLE_SETS, Case, draw_ids
from benchmarks.shared_collection import batch_of, collection
from torchrec_pss import PSSEmbeddingBagCollection

RATE = 0.01
_GRAPH = Case("kaggle", "default", 2 * MB, 16, 2048, 1, "power_law", 0)


def case_ids(case: Case, rows: list[int], seed: int = 0) -> torch.Tensor:
    """int64 ``[tables, batch_size * ids_per_bag]``; ``ids`` may be "equal" too."""
    number = case.batch_size * case.ids_per_bag
    if case.ids == "equal":
        return torch.zeros(len(rows), number, dtype=torch.int64) + torch.tensor([min(7, n - 1) for n in rows])[:, None]
    return draw_ids(rows, number, case.ids, seed)


def step_of(module: PSSEmbeddingBagCollection, grad: torch.Tensor) -> Callable[[KeyedJaggedTensor], None]:
    """Forward, backward and SGD, of a batch; SGD in backward where elements have all their bits."""
    optimizer = torch.optim.SGD([module.array], lr=RATE)
    in_backward = module.layout.bits == 32
    if in_backward:
        module.step_in_backward(optimizer)

    def step(kjt: KeyedJaggedTensor) -> None:
        module(kjt).values().backward(grad)
        if not in_backward:
            optimizer.step()
        module.zero_grad()

    return step


def verify_graph(device: str = "cuda", batch_size: int = 2048, most_rows: int = 100_000) -> float:
    """Three steps by replaying a CUDA graph against three without; the largest difference of an element.

    Raises:
        AssertionError: it is more than the order of atomic additions explains.
    """
    case = replace(_GRAPH, batch_size=batch_size)
    rows = [min(n, most_rows) for n in TABLE_SETS[case.tables]]
    torch.manual_seed(0)
    plain = collection(case, rows, device)
    graphed = collection(case, rows, device)
    graphed.load_state_dict(plain.state_dict())
    kjt = batch_of(case, case_ids(case, rows), device)
    grad = torch.randn(case.batch_size, len(rows) * case.embedding_dim, device=device)
    step, graphed_step = step_of(plain, grad), step_of(graphed, grad)
    replay = captured(lambda: graphed_step(kjt), device)
    for _ in range(3):
        replay()
    for _ in range(3 if device == "cpu" else 5):  # two were made before the capture
        step(kjt)
    if device == "cuda":
        torch.cuda.synchronize()
    difference = float((plain.array - graphed.array).abs().max())
    assert difference < 1e-4, f"a replayed graph differs by {difference}"
    return difference
