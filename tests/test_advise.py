"""The advisor: what it cannot hold, its calibration, its recommendation, and bad input."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from torchrec_pss import PSSConfig
from torchrec_pss.advise import __main__ as command
from torchrec_pss.advise.prediction import Calibration
from torchrec_pss.advise.tables import from_list, power_law_counts
from torchrec_pss.modules.allocation import allocate
from torchrec_pss.modules.auto_layout import choose
from torchrec_pss.modules.id_counts import IdCounts
from torchrec_pss.modules.lost_share import lost_share
from torchrec_pss.modules.unresolved import unresolved_share


def tables(*rows, dim=16):
    return [
        EmbeddingBagConfig(name=f"t{i}", num_embeddings=n, embedding_dim=dim, feature_names=[f"t{i}"])
        for i, n in enumerate(rows)
    ]


def layout_of(configs, **choices):
    return allocate(configs, choose(configs, PSSConfig(**choices), 4), 4)


def test_nothing_is_lost_where_every_row_is_exact():
    configs = tables(100, 1000)
    layout = layout_of(configs, array_bytes=1 << 20)
    assert unresolved_share(layout, {"t0": power_law_counts(100, 1.1)}) == 0


def test_an_evenly_read_shared_table_by_hand():
    """1000 rows of width 4 on 400 elements: 1 / (1 + 400 / 4000)."""
    configs = tables(1000)
    layout = layout_of(configs, array_bytes=1600, layout="plain", exact=(), width=4, block_size=1)
    # 256 bytes of projection leave 336 elements.
    assert layout.numel == 336
    assert unresolved_share(layout, {}) == pytest.approx(1 / (1 + 336 / 4000))
    counts = IdCounts(np.arange(1000), np.full(1000, 7), 7000)
    assert unresolved_share(layout, {"t0": counts}) == pytest.approx(1 / (1 + 336 / 4000))


def test_hot_rows_are_not_lost():
    """Half of the reads are of two hot ids."""
    configs = tables(1000)
    counts = IdCounts(np.array([5, 6]), np.array([250, 250]), 1000)
    layout = layout_of(
        configs, array_bytes=1704, layout="plain", exact=(), width=4, block_size=1, hot={"t0": [5, 6]}, segments=True
    )
    numel = layout.tables[0].slots
    cold = 0.5 / (1 + numel / (998 * 4))
    assert unresolved_share(layout, {"t0": counts}) == pytest.approx(cold)


@pytest.mark.parametrize("share", [unresolved_share, lost_share])
def test_more_bytes_lose_less(share):
    configs = tables(10**6, 10**5, 300)
    counts = {t.name: power_law_counts(t.num_embeddings, 1.1) for t in configs}
    shares = [share(layout_of(configs, array_bytes=b, counts=counts), counts) for b in (10**4, 10**5, 10**6, 10**7)]
    assert shares == sorted(shares, reverse=True) and shares[0] > 0.2 and shares[-1] < 0.2


def test_a_lost_share_by_hand():
    """40 ids read 90 times each, of which a coordinate of their own tells 90 / 100; the first has .98 of a row, four bits keep .99. Sharing, an
    id meets all 3,600 reads, in four coordinates, in 64 elements."""
    configs, counts = tables(40, dim=4), {"t0": IdCounts(np.arange(40), np.full(40, 90), 3600)}
    exact = {"layout": "plain", "exact": ["t0"], "array_bytes": 10_000}
    assert lost_share(layout_of(configs, **exact), counts) == pytest.approx(0)
    narrow = layout_of(configs, **exact, width={"t0": 1})
    assert narrow.tables[0].width == 1 and lost_share(narrow, counts) == pytest.approx(0.9 * 0.02)
    kept = 1 - (2.6 / 7.5) ** 2 / 12
    assert lost_share(layout_of(configs, **exact, bits=4), counts) == pytest.approx(0.9 * (1 - kept))
    shared = layout_of(configs, layout="plain", exact=(), array_bytes=64 * 4, block_size=1)
    for times in (1, 10):
        reads, load = 90 * times, 3600 * times * 4 / 64
        told = sum((reads * s) ** 2 / (reads * s + 10 * s + load) for s in (0.98, *[0.02 / 3] * 3)) / reads
        assert lost_share(shared, counts, reads_per_count=times) == pytest.approx(reads / (reads + 10) - told)


def runs(noise, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {"data": f"d{d}", "lost_share": x, "drop": 0.002 * x + 0.01 * x * x + noise * (x + 0.1) * rng.standard_normal(), "steps_ratio": 1 + x}
        for d in range(6)
        for x in np.linspace(0, 0.9, 8)
    ]  # fmt: skip


def test_a_calibration_recovers_its_curve_and_covers():
    exact = Calibration(runs(0))
    assert exact.drop(0.5).expected == pytest.approx(0.0035, abs=1e-9)
    noisy = Calibration(runs(0.002))
    prediction = noisy.drop(0.5)
    assert prediction.low < 0.0035 < prediction.high and 0.002 < prediction.high - prediction.low < 0.006
    assert 0.75 <= noisy.coverage() <= 1
    ratios = [noisy.steps_ratio(x) for x in (0, 0.45, 0.9)]
    assert ratios[0].expected < 1.15 and 1.35 < ratios[1].expected < 1.55 and ratios[2].expected > 1.75
    assert ratios[1].low < ratios[1].expected < ratios[1].high
    with pytest.raises(ValueError, match="two data sets or more"):
        Calibration(runs(0)[:8])


def test_intervals_grow_with_what_is_lost():
    """Data sets that differ by what a share costs them, and by nothing else."""
    slopes = np.linspace(0.01, 0.03, 20)
    of = [
        {"data": f"d{d:02}", "lost_share": x, "drop": slope * x, "steps_ratio": 1}
        for d, slope in enumerate(slopes)
        for x in (0.05, 0.1, 0.2, 0.4)
    ]
    found = Calibration(of)
    at = [found.drop(x) for x in (0, 0.1, 0.4)]
    assert at[0].expected == 0 and at[0].high < 0.001
    assert (
        at[1].low <= 0.0012 and 0.0028 <= at[1].high < 0.0035 and at[2].low <= 0.0048 and 0.0112 <= at[2].high < 0.014
    )
    assert found.coverage() >= 0.85


def test_the_calibration_that_ships():
    calibration = Calibration.load()
    assert len(calibration.runs) >= 20 and calibration.coverage() >= 0.85
    assert calibration.drop(0.9).expected > calibration.drop(0.1).expected


def left_out(name):
    """What is predicted of a data set's runs from the others', and what they lost."""
    shipped = Calibration.load().runs
    calibration = Calibration([r for r in shipped if r["data"] != name])
    return [
        {"drop": asdict(calibration.drop(r["lost_share"])), "bytes": r["compression"] ** -1.0, "lost": r["drop"]}
        for r in shipped
        if r["data"] == name
    ]


def test_it_is_right_to_advise_against_compression():
    """On the generator's flattest data set every budget of the lab lost more than .001."""
    rows = left_out("generated:200000:0.02:1.05")
    assert len(rows) == 7 and all(r["lost"] > 0.001 for r in rows)
    assert command.recommend(rows, 0.001) is None


def test_it_is_right_to_advise_compression():
    best = command.recommend(left_out("generated:200000:0.02:1.4"), 0.002)
    assert best["bytes"] == 1 / 4 and best["lost"] <= 0.002


def test_power_law_counts():
    counts = power_law_counts(10**9, 1.1)
    assert counts.counts[0] / counts.counts[1] == pytest.approx(2**1.1, rel=1e-3)
    # 1 / zeta(1.1), less what lies beyond a thousand million rows.
    assert counts.counts[0] / counts.total == pytest.approx(1 / (10.584 - 10 * (10**9) ** -0.1), rel=1e-3)


def table_list(tmp_path, text, name="tables.csv"):
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


def test_table_lists(tmp_path):
    csv = from_list(table_list(tmp_path, "name,rows,dim,skew\nuser,1000000,32,1.3\nitem,5000,,\n"), 16, 1.1)
    js = from_list(
        table_list(tmp_path, json.dumps([{"name": "user", "rows": 10**6, "dim": 32, "skew": 1.3}, {"name": "item", "rows": 5000}]), "t.json"),
        16,
        1.1,
    )  # fmt: skip
    for found in (csv, js):
        assert [(t.name, t.num_embeddings, t.embedding_dim) for t in found.tables] == [
            ("user", 10**6, 32),
            ("item", 5000, 16),
        ]
        assert np.array_equal(found.counts["user"].counts, power_law_counts(10**6, 1.3).counts)


def test_lists_known_by_name():
    """And the dim of a list that has none."""
    mlperf, kaggle = (from_list(name, None, 1.1) for name in ("mlperf", "kaggle"))
    assert sum(t.num_embeddings for t in mlperf.tables) == 204_184_588
    assert {t.embedding_dim for t in mlperf.tables} == {128} and {t.embedding_dim for t in kaggle.tables} == {16}
    assert {t.embedding_dim for t in from_list("kaggle", 32, 1.1).tables} == {32}
    smallest = min(mlperf.tables, key=lambda t: t.num_embeddings)
    expected = power_law_counts(smallest.num_embeddings, 1.1)
    assert np.array_equal(mlperf.counts[smallest.name].counts, expected.counts)


@pytest.mark.parametrize("flag", ["--embedding_dim", "--sample_rows", "--batch_size"])
def test_numbers_that_are_not_positive(capsys, flag):
    with pytest.raises(SystemExit) as error:
        command.main(["--tables", "kaggle", flag, "0"])
    assert error.value.code == 2 and f"{flag} must be positive, got 0" in capsys.readouterr().err


def test_it_recommends_compression_and_against_it(tmp_path, capsys):
    """Skewed giants can be shared; the smallest loss that anyone could ask for cannot be promised."""
    path = table_list(tmp_path, "name,rows,skew\na,1000000,1.4\nb,300000,1.4\nc,100,1.4\n")
    command.main(["--tables", path, "--target_drop", "0.02", "--batch_size", "64", "--json", str(tmp_path / "a.json"),
                  "--plot", str(tmp_path / "a.png")])  # fmt: skip
    out = capsys.readouterr().out
    assert "compress" in out.splitlines()[-1] and "do not" not in out.splitlines()[-1]
    found = json.loads((tmp_path / "a.json").read_text())
    best = found["recommended"]
    assert best["drop"]["high"] <= 0.02 and best["bytes"] * best["compression"] <= found["full_bytes"]
    assert all(r["lookup_ms"] > 0 for r in found["rows"]) and (tmp_path / "a.png").read_bytes()[1:4] == b"PNG"
    command.main(["--tables", path, "--target_drop", "-0.05", "--batch_size", "64"])
    nearest = min(found["rows"], key=lambda row: row["drop"]["high"])
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("do not compress") and last.endswith(
        f"; {nearest['compression']:,}x does within {nearest['drop']['high']:.4f}"
    )


BAD = {
    "does not exist": "",
    "neither a JSON list nor a CSV: no entries": "name,rows\n",
    "entry 2: needs name and rows": "name,rows\na,5\nb,x\n",
    "the first line must be the header, with name and rows; it is 'rows'": "rows\n5\n",
}


@pytest.mark.parametrize("message", BAD)
def test_bad_lists(tmp_path, capsys, message):
    path = table_list(tmp_path, BAD[message]) if BAD[message] else str(tmp_path / "nothing.csv")
    with pytest.raises(SystemExit) as error:
        command.main(["--tables", path])
    assert error.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize("flag, name", [("--json", "file/a.json"), ("--plot", "file/a.png")])
def test_outputs_that_cannot_be_written(tmp_path, capsys, flag, name):
    (tmp_path / "file").write_text("")
    path = table_list(tmp_path, "name,rows\na,1000\n")
    with pytest.raises(SystemExit) as error:
        command.main(["--tables", path, "--batch_size", "8", flag, str(tmp_path / name)])
    assert error.value.code == 2 and f"error: {flag} {tmp_path / name} cannot be written: " in capsys.readouterr().err
    assert not (tmp_path / name).exists()
