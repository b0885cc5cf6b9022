"""Layouts among which a trial decides: what there is at a budget, and a dense log's run of the script, which numbers its ids."""

import json
from dataclasses import replace

import numpy as np
import pytest
import script_runs
import torch
from test_layout_search import counts_of, tables

from benchmarks.quality import dense_rows
from benchmarks.quality.dense_rows import Usage
from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection
from torchrec_pss.modules.allocation import allocate
from torchrec_pss.modules.layout_candidates import CANDIDATES, candidates

ROWS = [6001, 3701, 2597, 301, 81, 22, 3]


def found_at(array_bytes, bits, dim=16, **stated):
    configs = tables(ROWS, dim)
    counts = counts_of(configs, 640_000, 0.7)
    counts = {name: replace(c, ids=np.roll(np.arange(len(c.ids)), -1)) for name, c in counts.items()}
    given = PSSConfig(array_bytes=array_bytes, counts=counts, bits=bits, seed=3, **stated)
    return configs, given, candidates(configs, given)


@pytest.mark.parametrize("bits", [32, 4])
@pytest.mark.parametrize("dim, compression", [(8, 3), (16, 10), (16, 50), (48, 10), (48, 200)])
def test_each_fits_the_budget_and_is_what_its_name_says(bits, dim, compression):
    array_bytes = sum(ROWS) * dim * 4 // compression
    configs, _, found = found_at(array_bytes, bits, dim)
    assert next(iter(found)) == "searched" and set(found) <= set(CANDIDATES)
    widths = {name: config.width for name, (config, _) in found.items() if name in ("narrow", "hashed")}
    assert len(widths) < 2 or widths["narrow"] != widths["hashed"]
    for name, (config, rows) in found.items():
        own = [replace(t, num_embeddings=n) for t, n in zip(configs, rows, strict=True)]
        layout = allocate(own, config, 4)
        assert layout.embedding_bytes <= array_bytes and config.seed == 3 and config.bits == bits
        assert all(n <= t.num_embeddings for n, t in zip(rows, configs, strict=True))
        exact = [t.is_exact for t in layout.tables]
        if name in ("narrow", "hashed"):
            assert all(exact) and (rows == ROWS or name == "hashed")
        if name == "prefixed":
            assert rows == ROWS and all(t.width == t.embedding_dim for t in layout.tables)
            assert all(t.is_exact == (t.rows <= 100) and (t.is_exact or 4 * t.prefix >= dim) for t in layout.tables)
        ebc = PSSEmbeddingBagCollection(own, config=config)
        ids = torch.tensor([n - 1 for n in sorted(rows)])
        assert all(ebc.materialize(t.name, ids[:1]).shape == (1, dim) for t in own)


def test_what_is_tried_depends_on_what_fits():
    full = sum(ROWS) * 64
    assert list(found_at(full // 10, 4)[2]) == ["searched", "prefixed", "narrow", "hashed"]
    assert list(found_at(full // 10, 32)[2]) == ["searched", "narrow", "hashed"]
    assert list(found_at(full // 100, 32)[2]) == ["searched", "hashed"]


def test_nothing_is_tried_where_nothing_is_open():
    _, given, found = found_at(sum(ROWS) * 64 * 2, 32)
    assert list(found) == ["searched"] and found["searched"] == (given, ROWS)
    _, given, found = found_at(sum(ROWS) * 64 // 10, 4, width=4)
    assert list(found) == ["searched"] and found["searched"] == (given, ROWS)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    path = tmp_path_factory.mktemp("dense") / "usage.tsv"
    dense_rows.write(Usage(6000, users=30, items=100), path)
    return ["--data_path", path, "--train_fraction", "0.8", "--batch_size", "32", "--epochs", "2", "--bits", "4"]


def trained(folder, *flags, fails=False):
    there = ["--output_dir", folder, "--cache_dir", folder / "cache"]
    done = script_runs.run("train_criteo.py", *flags, *there, ranks=1 if fails else 2, check=not fails)
    return done if fails else json.loads((folder / "results.json").read_text())


@pytest.mark.slow
def test_a_dense_log_numbers_its_ids_and_takes_the_layout_that_validates_best(tmp_path, log):
    found = trained(tmp_path / "auto", *log, "--compression", "10")
    trials, chosen = found["layout_trials"], found["config"]["layout"]
    assert set(trials) == {"searched", "prefixed", "narrow", "hashed"} and trials[chosen] == max(trials.values())
    assert found["config"]["vocabulary"] and "counted exactly" in found["full_rows_counted"]
    ends = [h["auroc_val"] for h in found["history"] if "auroc_val" in h]
    assert ends[0] == trials[chosen] and len(ends) == 2
    # As a run that was told so from the beginning, and as one that goes on.
    told = trained(tmp_path / "told", *log, "--compression", "10", "--layout", chosen)
    assert told["auroc_test"] == found["auroc_test"] and told["layout_trials"] is None
    more = [*log, "--compression", "10", "--epochs", "3"]
    on = trained(tmp_path / "auto", *more, "--resume")
    assert (
        on["config"]["layout"] == chosen
        and on["layout_trials"] == trials
        and len([h for h in on["history"] if "auroc_val" in h]) == 3
    )
    hashed = trained(tmp_path / "hashed", *log, "--compression", "10", "--no-vocabulary", "--limit_train_batches", "2")
    assert hashed["layout_trials"] is None and not any(
        "rows" in t and not t.get("slots") and t["rows"] > 100 for t in hashed["layout"]["tables"].values()
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags, error",
    [
        (
            ["--no-vocabulary", "--layout", "narrow"],
            "--layout narrow is of text whose ids are numbered: --data_path, --vocabulary",
        ),
        (["--compression", "100", "--layout", "prefixed"], "--layout prefixed does not fit"),
        (["--layout", "narrow", "--width", "3"], "--width makes no sense with --layout narrow, which says it"),
        (["--embedding", "hash", "--vocabulary"], "--vocabulary makes no sense with --embedding hash"),
        (["--num_embeddings", "10", "--vocabulary"], "--vocabulary makes no sense with --num_embeddings"),
    ],
)
def test_what_does_not_go_with_numbered_ids(tmp_path, log, flags, error):
    given = [] if "--compression" in flags else ["--compression", "10"]
    done = trained(tmp_path, *log, *given, *flags, fails=True)
    assert done.returncode == 2 and error in done.output and not (tmp_path / "results.json").exists()
