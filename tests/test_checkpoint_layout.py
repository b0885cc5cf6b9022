"""State dicts carry the layout, and another layout is refused by name before anything is copied."""

import pytest
import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection
from torchrec_pss.modules import array_layout


def tables(dim=8, rows=40, names=("a", "b")):
    return [EmbeddingBagConfig(name=n, num_embeddings=rows, embedding_dim=dim, feature_names=[n]) for n in names]


def module(dim=8, rows=40, names=("a", "b"), **config):
    return PSSEmbeddingBagCollection(
        tables(dim, rows, names), config=PSSConfig(**{"array_bytes": 2048, "layout": "plain", "exact": ["a"]} | config)
    )


def test_round_trip_through_a_file(tmp_path):
    torch.save(module().state_dict(), tmp_path / "m.pt")
    other = module()
    other.load_state_dict(torch.load(tmp_path / "m.pt", weights_only=True))
    assert torch.equal(other.array, torch.load(tmp_path / "m.pt", weights_only=True)["array"])


def test_order_of_tables_does_not_matter():
    """The same rows, also where projections lie in one vector."""
    config = {"width": 4, "exact": ()}
    here, there = module(names=("a", "b"), **config), module(names=("b", "a"), **config)
    with torch.no_grad():
        there.projections.normal_()
    here.load_state_dict(there.state_dict())
    for name in ("a", "b"):
        ids = torch.arange(40)
        assert torch.equal(here.materialize(name, ids), there.materialize(name, ids))
    assert not torch.equal(here.projection("a"), here.projection("b"))


def test_projections_of_one_matrix_a_table_are_taken_in():
    here, there = (module(width=4, exact=(), names=("b", "a")) for _ in range(2))
    with torch.no_grad():
        there.projections.normal_()
    saved = there.state_dict()
    apart = {f"projections.{name}": there.projection(name).detach() for name in ("a", "b")}
    here.load_state_dict({k: v for k, v in saved.items() if k != "projections"} | apart)
    assert torch.equal(here.projections, there.projections)


def test_rows_of_a_shared_table_do_not_matter():
    saved = module(exact=()).state_dict()
    module(exact=(), rows=41).load_state_dict(saved)


DIFFERENCES = {
    "seed is 1 in the checkpoint and 0 here": dict(seed=1),
    "sign is False in the checkpoint and True here": dict(sign=False),
    "hash is 'robe' in the checkpoint": dict(hash="robe", exact=(), block_size=4),
    "table 'c' is in the checkpoint but not here": dict(names=("a", "b", "c")),
    "table 'b' is here but not in the checkpoint": dict(names=("a",)),
    "table 'a': embedding_dim is 4 in the checkpoint and 8 here": dict(dim=4),
    "table 'a': rows is 39 in the checkpoint and 40 here": dict(rows=39),
    "table 'a': prefix is 0 in the checkpoint and 8 here": dict(exact=()),
    "table 'b': block is 2 in the checkpoint and 4 here": dict(block_size=2),
    "table 'b': width is 4 in the checkpoint and 8 here": dict(width=4),
    "the array's numel is 1024 in the checkpoint and 512 here": dict(array_bytes=4096),
}


@pytest.mark.parametrize("message", DIFFERENCES)
def test_another_layout_is_refused(message):
    here = module()
    before = here.array.detach().clone()
    saved = module(**DIFFERENCES[message]).state_dict()
    with pytest.raises(ValueError, match=message):
        here.load_state_dict(saved)
    assert torch.equal(here.array, before)


def test_damaged_or_missing_layout():
    here, saved = module(), module().state_dict()
    with pytest.raises(ValueError, match="layout of the shared array is unreadable"):
        here.load_state_dict(saved | {"_extra_state": saved["_extra_state"][:40]})
    with pytest.raises(RuntimeError, match="_extra_state"):
        here.load_state_dict({k: v for k, v in saved.items() if k != "_extra_state"})


@pytest.mark.parametrize(
    "damaged",
    [torch.tensor(list(b"[" * 200_000), dtype=torch.uint8), torch.tensor(list(b'"\xff"'), dtype=torch.uint8), torch.zeros(3),
     torch.tensor([-1, 300]), torch.zeros(2, 2, dtype=torch.uint8), torch.tensor(list(b"[3]"), dtype=torch.uint8), b"{}",
     torch.empty(4, dtype=torch.uint8, device="meta")],
    ids=["deep", "no text", "floats", "no bytes", "matrix", "list", "no tensor", "meta"],
)  # fmt: skip
def test_a_layout_of_any_kind_that_is_none(damaged):
    here, saved = module(), module().state_dict()
    before = here.array.detach().clone()
    with pytest.raises(ValueError, match="layout of the shared array is unreadable") as error:
        here.load_state_dict(saved | {"_extra_state": damaged})
    assert torch.equal(here.array, before) and len(str(error.value)) < 300


def test_a_new_format_version_is_refused(monkeypatch):
    monkeypatch.setattr(array_layout, "FORMAT_VERSION", 3)
    saved = module().state_dict()
    monkeypatch.undo()
    with pytest.raises(ValueError, match="format_version is 3 in the checkpoint and 2 here"):
        module().load_state_dict(saved)


def test_a_version_1_checkpoint_loads():
    """As version 1 wrote it: no slices, no biases; every address is the same."""
    before, here = module(), module()
    saved = before.state_dict()
    here.load_state_dict(saved | {"_extra_state": _version_1(before)})
    assert torch.equal(here.array, saved["array"])
    with pytest.raises(ValueError, match="table 'b': bias is False in the checkpoint and True here"):
        module(width={"b": 4}, bias=True).load_state_dict(
            module(width={"b": 4}).state_dict() | {"_extra_state": _version_1(module(width={"b": 4}))}
        )


def _version_1(saved_module):
    old = saved_module.layout.fingerprint() | {"format_version": 1}
    old["tables"] = {n: {k: v for k, v in t.items() if k not in ("first", "bias")} for n, t in old["tables"].items()}
    return array_layout.encode_fingerprint(old)
