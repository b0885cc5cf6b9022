"""The floor that `benchmarks/bench_lookup.py` shows under the lookup does the whole of it: the same output, the same array after a step."""

import pytest
import torch

from benchmarks.bench_lookup import trained
from benchmarks.lookup_cases import Case, draw_ids
from benchmarks.lookup_floor import floor
from benchmarks.shared_collection import batch_of, collection

ROWS = [3, 50, 4000, 20_000]


@pytest.mark.parametrize("layout", ["default", "plain"])
@pytest.mark.parametrize("dim, ids_per_bag", [(16, 1), (64, 7), (128, 1)])
def test_the_floor_is_the_whole_lookup(layout, dim, ids_per_bag):
    case = Case("kaggle", layout, 200_000, dim, 33, ids_per_bag, "power_law", 1)
    module = collection(case, ROWS, sign=False)  # signs are part of what the floor need not find out
    ids = draw_ids(ROWS, case.batch_size * ids_per_bag, case.ids)
    grad = torch.randn(case.batch_size, len(ROWS) * dim, generator=torch.Generator().manual_seed(0))
    least = floor(module, [ids], ids_per_bag, case.threads, grad)  # several threads race for elements that tables share
    if least is None:
        pytest.skip("no AVX2, or no g++")
    forward, step = trained(module, [batch_of(case, ids)], grad)
    torch.testing.assert_close(least[0](0), forward(0).detach(), rtol=1e-5, atol=1e-6)
    array = least[1](0)
    step(0)
    torch.testing.assert_close(array, module.array.detach(), rtol=1e-5, atol=1e-6)
    assert any(t.width > t.prefix for t in module.layout.tables)
