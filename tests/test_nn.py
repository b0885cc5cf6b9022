"""`SharedEmbeddingBag` is `PSSEmbeddingBagCollection` without TorchRec."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torchrec import EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.modules.embedding_configs import DataType, PoolingType

from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection
from torchrec_pss.nn import SharedEmbeddingBag, Table

TABLES = [("user", 10**9, 8, ["user"]), ("item", 10**6, 16, ["clicked", "bought"]), ("country", 50, 8, ["country"])]
LENGTHS = {
    "user": [1, 1, 1],
    "clicked": [2, 2, 2],
    "bought": [0, 3, 1],
    "country": [1, 0, 1],
}


def batch():
    generator = torch.Generator().manual_seed(3)
    flat = {name: torch.randint(0, 50, (sum(n),), generator=generator) for name, n in LENGTHS.items()}
    weights = {name: torch.rand(len(ids), generator=generator) for name, ids in flat.items()}
    begins = {name: torch.tensor([0, *n[:-1]]).cumsum(0) for name, n in LENGTHS.items()}
    ids = {
        "user": flat["user"],
        "clicked": flat["clicked"].view(3, 2),
        "bought": (flat["bought"], begins["bought"]),
        "country": (flat["country"], begins["country"].int()),
        "unread": torch.zeros(7),
    }
    return ids, weights, flat


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("bits", [32, 4])
def test_it_reads_and_learns_as_the_collection(mode, weighted, bits):
    config = PSSConfig(array_bytes=20_000, bits=bits)
    bag = SharedEmbeddingBag([Table(*table) for table in TABLES], config, mode=mode)
    configs = [
        EmbeddingBagConfig(
            name=name, num_embeddings=rows, embedding_dim=dim, feature_names=list(features), pooling=PoolingType[mode.upper()]
        )
        for name, rows, dim, features in TABLES
    ]  # fmt: skip
    ebc = PSSEmbeddingBagCollection(configs, is_weighted=weighted, config=config)
    ebc.load_state_dict(bag.state_dict())
    ids, weights, flat = batch()
    names = [name for _, _, _, features in TABLES for name in features]
    kjt = KeyedJaggedTensor(
        names,
        torch.cat([flat[n] for n in names]),
        torch.cat([weights[n] for n in names]) if weighted else None,
        lengths=torch.tensor([n for name in names for n in LENGTHS[name]]),
    )
    read, expected = bag(ids, weights if weighted else None), ebc(kjt).values()
    assert torch.equal(read, expected) and read.abs().sum() > 0
    up = torch.rand_like(read)
    read.backward(up)
    expected.backward(up)
    assert torch.equal(bag.array.grad, ebc.array.grad) and bag.array.grad.count_nonzero() > 0


def test_with_torch_alone(tmp_path):
    script = tmp_path / "alone.py"
    script.write_text(
        "import sys\n"
        "class Refused:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torchrec', 'fbgemm_gpu', 'torchmetrics', 'tensordict'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Refused())\n"
        "import torch, torchrec_pss\n"
        "from torchrec_pss.nn import SharedEmbeddingBag, Table\n"
        "tables = [Table('user', 10**9, 8), Table('country', 50, 8)]\n"
        "bag = SharedEmbeddingBag(tables, torchrec_pss.PSSConfig(array_bytes=20_000, bits='auto'))\n"
        "out = bag({'user': torch.tensor([-1, 5]), 'country': torch.tensor([1, 2])})\n"
        "out.sum().backward()\n"
        "again = SharedEmbeddingBag(tables, bag.config, device='meta')\n"
        "again.load_state_dict(bag.state_dict(), assign=True)\n"
        "assert torch.equal(again({'user': torch.tensor([-1, 5]), 'country': torch.tensor([1, 2])}), out)\n"
        "try:\n"
        "    torchrec_pss.PSSEmbeddingBagCollection\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, script], text=True, capture_output=True, cwd=Path(__file__).parent.parent, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "PSSEmbeddingBagCollection needs torchrec: install torchrec, and" in done.stdout


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        (lambda ids: ids.pop("bought"), KeyError, "'bought'"),
        (lambda ids: ids.update(user=torch.tensor([1, 2])), ValueError, "has 3 bags, and 'user' 2"),
        (lambda ids: ids.update(user=torch.tensor([1, 2, 3], dtype=torch.int32)), ValueError, "one dtype"),
        (lambda ids: ids.update(user=torch.zeros(1, 2, 3, dtype=torch.int64)), ValueError, r"'user'.*\[1, 2, 3\]"),
        (lambda ids: ids.update(user=(torch.tensor([1]), torch.tensor([0.0]))), ValueError, "'user'.*float32"),
        (lambda ids: ids.update(country=torch.tensor([0, 1, 50])), IndexError, "'country'.*50 is out of range"),
        (
            lambda ids: ids.update(country=(torch.tensor([0, 1]), torch.tensor([0, 2, 1]))),
            IndexError,
            "must not decrease",
        ),
        # Joined with other features', these would read theirs.
        (
            lambda ids: ids.update(country=(torch.tensor([0, 1]), torch.tensor([1, 1, 2]))),
            IndexError,
            "'country'.*start at 0",
        ),
        (
            lambda ids: ids.update(bought=(torch.tensor([0, 1]), torch.tensor([0, 1, 3]))),
            IndexError,
            "'bought'.*its 2 ids",
        ),
        (lambda ids: ids.update(user=[1, 2, 3]), TypeError, "'user': ids must be a tensor"),
        (lambda ids: ids.update(user=(torch.tensor([1]), [0])), TypeError, "'user': ids must be a tensor"),
    ],
)
def test_bad_input_is_named(change, error, told):
    bag = SharedEmbeddingBag([Table(*table) for table in TABLES], PSSConfig(array_bytes=20_000, exact=["country"]))
    ids, _, _ = batch()
    change(ids)
    with pytest.raises(error, match=told):
        bag(ids)


def test_bad_weights_and_tables_are_named():
    tables = [Table(*table) for table in TABLES]
    bag = SharedEmbeddingBag(tables, PSSConfig(array_bytes=20_000))
    ids, weights, _ = batch()
    with pytest.raises(KeyError, match="'bought' has ids, but no weights"):
        bag(ids, {name: w for name, w in weights.items() if name != "bought"})
    with pytest.raises(TypeError, match="'user': weights must be a tensor, got"):
        bag(ids, weights | {"user": [1.0, 1.0, 1.0]})
    with pytest.raises(TypeError, match="ids must be a mapping"):
        bag(torch.tensor([1]))
    with pytest.raises(ValueError, match="'user' has 2 weights for 3 ids"):
        bag(ids, weights | {"user": torch.rand(2)})
    with pytest.raises(ValueError, match="mode must be one of 'sum', 'mean', got 'max'"):
        SharedEmbeddingBag(tables, PSSConfig(array_bytes=20_000), mode="max")
    for dtype in (torch.float64, DataType.INT8, "fp16"):
        with pytest.raises(ValueError, match="table 'user': data_type must be FP32, FP16 or BF16"):
            SharedEmbeddingBag([Table("user", 10, 8, data_type=dtype)], PSSConfig(array_bytes=20_000))


def test_it_is_exported_for_any_batch():
    bag = SharedEmbeddingBag([Table("user", 10**6, 8), Table("item", 10**6, 8)], PSSConfig(array_bytes=20_000, bits=4))
    ids = {"user": torch.arange(4), "item": torch.arange(8).view(4, 2)}
    size = torch.export.Dim("B")
    program = torch.export.export(bag, (ids,), dynamic_shapes=({"user": {0: size}, "item": {0: size}},))
    more = {"user": torch.arange(7) * 3, "item": torch.arange(14).view(7, 2)}
    assert torch.equal(program.module()(more), bag(more))
