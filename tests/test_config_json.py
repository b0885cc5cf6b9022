"""A config kept beside a checkpoint: as JSON, and in `torch.save`, read back equal by a process that trusts no pickle."""

import copy
import json
import pickle
import re
from dataclasses import replace

import forked
import numpy as np
import pytest
import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection
from torchrec_pss.distributed import load_checkpoint, save_checkpoint
from torchrec_pss.modules.id_counts import IdCounts
from torchrec_pss.ops import hashing

COUNTS = {"a": IdCounts(np.array([7, -8, 1 << 62]), np.array([900, 800, 700]), 10_000)}
CONFIGS = {
    "defaults": PSSConfig(array_bytes=1000),
    "counts": PSSConfig(array_bytes="10kB", exact=(), counts=COUNTS, seed=-(1 << 63), init_range=0.1 + 0.2),
    "everything": PSSConfig(
        array_bytes=1 << 14, layout="plain", head="dot", block_size=2, seed=3, sign=False, exact=["b"], exact_fraction=0.25,
        width={"a": 6, "b": 4}, prefix={"a": 2}, hot={"a": np.array([5, 3]), "ä": []}, segments=True, bias=True, counts=COUNTS,
    ),
    "robe": PSSConfig(array_bytes=1000, hash="robe", block_size=8, exact=()),
}  # fmt: skip


def tables():
    return [
        EmbeddingBagConfig(name=n, num_embeddings=r, embedding_dim=8, feature_names=[f"f_{n}"])
        for n, r in {"a": 10_000, "b": 20}.items()
    ]


@pytest.mark.parametrize("name", CONFIGS)
def test_there_and_back(name):
    config = CONFIGS[name]
    for other in (
        PSSConfig.from_json(config.to_json()),
        PSSConfig.from_json(config.to_json().encode()),
        pickle.loads(pickle.dumps(config)),
        copy.deepcopy(config),
        replace(config),
    ):
        assert other == config and hash(other) == hash(config) and other.to_json() == config.to_json()
        assert type(other.exact) is type(config.exact)


def test_what_differs_is_not_equal():
    config = CONFIGS["everything"]
    changes = [{"seed": 4}, {"hot": {"a": [3, 5]}}, {"hot": {"a": [5, 3]}}, {"hot": None}, {"width": 6}, {"bias": None},
               {"counts": {"a": IdCounts([7], [900], 10_000)}}, {"exact": "auto"}, {"init_range": 0.1}]  # fmt: skip
    for change in changes:
        assert replace(config, **change) != config
    assert replace(config, exact=("b",), hot={"ä": torch.tensor([], dtype=torch.int64), "a": [5, 3]}) == config
    assert config != config.to_json()


def test_a_chosen_config_gives_the_same_addresses():
    chosen = PSSEmbeddingBagCollection(
        tables(), config=PSSConfig(array_bytes=9000, counts={"a": IdCounts.of(np.arange(900) % 30)})
    )
    assert chosen.config.hot["a"].size  # something beyond numbers and words
    again = PSSEmbeddingBagCollection(tables(), config=PSSConfig.from_json(chosen.config.to_json()))
    assert again.config == chosen.config and again.layout.fingerprint() == chosen.layout.fingerprint()
    assert torch.equal(again.layout.hot_keys, chosen.layout.hot_keys)
    assert hashing.table_key("a", again.config.seed) == chosen.layout.tables[0].key


def load_and_tell(path, told):
    kept = torch.load(path, weights_only=True)
    told.write_text("\n".join([kept["config"].to_json(), str(kept["counts"].total), str(kept["weights"].tolist())]))


def test_a_checkpoint_with_its_config_loads_with_weights_only(tmp_path):
    """In another process, where this package is imported and nothing of this test registered."""
    kept = {"config": CONFIGS["everything"], "counts": COUNTS["a"], "weights": torch.arange(3)}
    torch.save(kept, tmp_path / "kept.pt")
    process = forked.context().Process(target=load_and_tell, args=(tmp_path / "kept.pt", tmp_path / "told"))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    config, total, weights = (tmp_path / "told").read_text().splitlines()
    assert PSSConfig.from_json(config) == CONFIGS["everything"] and (total, weights) == ("10000", "[0, 1, 2]")


def test_a_distributed_checkpoint_may_hold_a_config(tmp_path):
    """Read by what refuses whatever a pickle should not call."""
    save_checkpoint({"config": CONFIGS["everything"], "weights": torch.ones(3)}, tmp_path / "c")
    kept = {"config": PSSConfig(array_bytes=1), "weights": torch.zeros(3)}
    load_checkpoint(kept, tmp_path / "c")
    assert kept["config"] == CONFIGS["everything"] and kept["weights"].tolist() == [1, 1, 1]


def test_many_hot_ids_stay_compact():
    config = PSSConfig(array_bytes=1 << 30, hot={"a": np.arange(100_000)})
    assert len(config.to_json()) < 100_000 * 6 + 1000 and PSSConfig.from_json(config.to_json()) == config


GOOD = json.loads(CONFIGS["everything"].to_json())
BAD_JSON = {
    "the config is no JSON": "{",
    "the config is no JSON: maximum recursion": "[" * 200_000,
    "the config is no JSON: 'seed' comes twice": '{"array_bytes": 5, "seed": 1, "seed": 2}',
    "must be an object, got '[1]'": "[1]",
    "has no array_bytes": "{}",
    "has a field 'size', which is none of": json.dumps(GOOD | {"size": 1}),
    "array_bytes must be a whole number of bytes, got None": json.dumps(GOOD | {"array_bytes": None}),
    "init_range must be a number, got nan": json.dumps(GOOD | {"init_range": float("nan")}),
    "exact_fraction must be a number, got '0.3'": json.dumps(GOOD | {"exact_fraction": "0.3"}),
    "width of table 'a' must be a whole number, got [1]": json.dumps(GOOD | {"width": {"a": [1]}}),
    "hot of table 'a' must be whole numbers of 64 bits, got '5'": json.dumps(GOOD | {"hot": {"a": ["5"]}}),
    "counts must be given by table name, got [1]": json.dumps(GOOD | {"counts": [1]}),
    "counts of table 'a' must have ids, counts, total, got {'ids': []}": json.dumps(GOOD | {"counts": {"a": {"ids": []}}}),
    "counts of table 'a': counts must be whole numbers of 64 bits, got 1.5": json.dumps(
        GOOD | {"counts": {"a": {"ids": [1], "counts": [1.5], "total": 5}}}
    ),
}  # fmt: skip


@pytest.mark.parametrize("message", BAD_JSON)
def test_malformed_json_is_refused_by_field(message):
    with pytest.raises(ValueError, match=re.escape(message)):
        PSSConfig.from_json(BAD_JSON[message])
