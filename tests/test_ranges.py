"""Numbers and sizes as constructors take them: one rule with the flags', and the field and the value in every refusal."""

import re

import numpy as np
import pytest
import torch
from torchrec.distributed.planner import Topology
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection, PSSShardingPlanner, compress
from torchrec_pss.distributed.planner.machines import topology
from torchrec_pss.modules.id_counts import IdCounts
from torchrec_pss.modules.rival_layouts import capped_rows, narrow_width
from torchrec_pss.ranges import RANGES
from torchrec_pss.watch import collision_load

NAN, INF = float("nan"), float("inf")
SIZES = {"80GB": 80 * 10**9, "10 MiB": 10 << 20, "4096": 4096, "1.5k": 1500, "0.1GB": 10**8,
         "9007199254740993": 9007199254740993, "1B": 1, "2tib": 2 << 40}  # fmt: skip


def test_sizes_are_read_alike_everywhere():
    for text, number in SIZES.items():
        assert RANGES["array_bytes"].parsed(text) == PSSConfig(array_bytes=text).array_bytes == number
    assert PSSShardingPlanner(Topology(1, "cpu"), array_bytes="10MB")._config == PSSConfig(array_bytes=10**7)
    table = EmbeddingBagConfig(name="t", num_embeddings=50, embedding_dim=8, feature_names=["f"])
    module, _ = compress(EmbeddingBagCollection([table]), "2kB")
    assert module.config.array_bytes == 2000 and type(module.config.array_bytes) is int
    assert narrow_width([table], "0.4kB") == narrow_width([table], 400) == 1
    assert capped_rows([table], "2kB", 1) == capped_rows([table], 2000, 1) == [50]
    assert topology("a100", 8, hbm="80GB").devices[0].storage.hbm == 80 * 10**9
    assert PSSConfig(array_bytes=np.int32(7), init_range=np.float64(0.5)) == PSSConfig(array_bytes=7, init_range=0.5)


NO_BYTES = [0, -5, 10**30, 10**6000, True, 1e7, NAN, None, b"10MB", "", "-5GB", "1e400GB", "10 megabytes", "0.5", "nan", "inf",
            "9" * 30 + "TB", "٣", np.zeros(2), torch.tensor(5)]  # fmt: skip


@pytest.mark.parametrize("arguments, message", [
        ({"world_size": 0}, "world_size must be positive, got 0"),
        ({"local_world_size": 3}, "world_size 8 is no multiple of local_world_size 3"),
        ({"local_world_size": 0}, "local_world_size must be positive, got 0"),
        ({"hbm": 0}, "hbm must be positive, got 0"),
        ({"ddr": "much"}, "ddr must be a size such as 80GB, 10MiB or 4096, got 'much'"),
    ])  # fmt: skip
def test_numbers_of_a_machine(arguments, message):
    with pytest.raises(ValueError, match=message):
        topology("a100", **{"world_size": 8} | arguments)


def test_bytes_that_are_none():
    for value in NO_BYTES:
        with pytest.raises(ValueError, match="^array_bytes must be .*, got "):
            PSSConfig(array_bytes=value)


@pytest.mark.parametrize("field, value, message", [
        ("exact_fraction", NAN, "must be a number, got nan"),
        ("exact_fraction", 1.5, "must be at most 1, got 1.5"),
        ("exact_fraction", True, "must be a number, got True"),
        ("init_range", NAN, "must be a number, got nan"),
        ("init_range", INF, "must be at most 10000, got inf"),
        ("init_range", 0, "must be positive, got 0"),
        ("init_range", "wide", "must be a number, got 'wide'"),
        ("width", 2.0, "must be a whole number, got 2.0"),
        ("width", True, "must be a whole number, got True"),
        ("width", {"t": NAN}, "of table 't' must be a whole number, got nan"),
        ("width", {3: 4}, "must be given by table name, got 3 for a name"),
        ("prefix", -1, "must be at least 0, got -1"),
        ("prefix", {"t": False}, "of table 't' must be a whole number, got False"),
        ("block_size", True, "must be a whole number, got True"),
        ("block_size", 0, "must be positive, got 0"),
        ("seed", 1.0, "must be a whole number, got 1.0"),
        ("seed", 1 << 63, "must be at most 9,223,372,036,854,775,807, got 9223372036854775808"),
        ("sign", 1, "must be True, False or None, got 1"),
        ("segments", "no", "must be True, False or None, got 'no'"),
        ("bias", NAN, "must be True, False or None, got nan"),
        ("hash", None, "must be one of ('mix64', 'robe'), got None"),
        ("layout", [], "must be one of ('auto', 'rules', 'plain'), got []"),
        ("exact", 3, 'must be "auto" or a list of table names, got 3'),
        ("exact", ["t", 3], 'must be "auto" or a list of table names, got 3 among them'),
        ("hot", [1], "must be given by table name, got [1]"),
        ("hot", {"t": [1, 2.5]}, "of table 't' must be whole numbers of 64 bits, got 2.5"),
        ("hot", {"t": [NAN]}, "of table 't' must be whole numbers of 64 bits, got nan"),
        ("hot", {"t": [True]}, "of table 't' must be whole numbers of 64 bits, got True"),
        ("hot", {"t": [1 << 63]}, "of table 't' must be whole numbers of 64 bits, got 9223372036854775808"),
        ("hot", {"t": [[1], [2]]}, "of table 't' must be a vector of whole numbers, got [[1], [2]]"),
        ("hot", {"t": 5}, "of table 't' must be a vector of whole numbers, got 5"),
    ])  # fmt: skip
def test_fields_of_a_config(field, value, message):
    with pytest.raises(ValueError, match=re.escape(f"{field} {message}")):
        PSSConfig(**{"array_bytes": 1000, field: value})


@pytest.mark.parametrize("ids, counts, total, message", [
        ([1.0], [3], 3, "ids must be whole numbers of 64 bits, got 1.0"),
        ([1, 2], [3, NAN], 9, "counts must be whole numbers of 64 bits, got nan"),
        ([True], [3], 3, "ids must be whole numbers of 64 bits, got True"),
        ([1], [3], NAN, "total must be a whole number, got nan"),
        ([1], [3], 3.0, "total must be a whole number, got 3.0"),
        ([1, 2], [1 << 62] * 2, (1 << 63) - 1, "the counts add up to 9223372036854775808, more than their total"),
    ])  # fmt: skip
def test_counts_that_are_none(ids, counts, total, message):
    for form in (np.array, list):
        with pytest.raises(ValueError, match=message):
            IdCounts(form(ids), form(counts), total)


def test_ids_that_are_no_whole_numbers_are_not_counted():
    assert IdCounts.of(torch.tensor([5, 5, 7])) == IdCounts([5, 7], [2, 1], 3) != IdCounts([5, 7], [2, 1], 4)
    with pytest.raises(ValueError, match="ids must be whole numbers of 64 bits, got 0.5"):
        IdCounts.of(np.array([0.5, 1.0]))


@pytest.mark.parametrize("counts", [{"t": {5: 3}}, {"t": [5, 5]}, {"t": None}])
def test_counts_by_other_means_than_id_counts(counts):
    table = EmbeddingBagConfig(name="t", num_embeddings=50, embedding_dim=8, feature_names=["f"])
    module = PSSEmbeddingBagCollection([table], config=PSSConfig(array_bytes=1000))
    message = r"counts of table 't' must be an IdCounts, got .*IdCounts\.of\(ids\)"
    for taken in (
        lambda: PSSConfig(array_bytes=1000, counts=counts),
        lambda: compress(EmbeddingBagCollection([table]), 1000, counts=counts),
        lambda: collision_load(module.layout, counts),
    ):
        with pytest.raises(TypeError, match=message):
            taken()
    with pytest.raises(TypeError, match="counts must be an IdCounts by table name"):
        PSSConfig(array_bytes=1000, counts=[3])
