"""The lab's contestants: equal bytes, their papers' formulas, and a study from start to end."""

import gzip
import json
import logging
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from benchmarks.quality import (
    click_data,
    conversion,
    files,
    headline,
    main_study,
    pair_files,
    pair_trial,
    rivals,
    run,
    script_run,
    sequence_trial,
    splits,
    tables,
)
from benchmarks.quality.click_trial import ClickTrial
from benchmarks.quality.click_trial import run as run_trial
from benchmarks.quality.composed import Clustered, DoubleHash, Quotient, TensorTrain, factors
from benchmarks.quality.jobs import Job, Results
from benchmarks.quality.other_pairs import OtherPairs, draw
from benchmarks.quality.other_rows import OtherRows, write
from benchmarks.quality.pair_trial import PairTrial
from benchmarks.quality.sequence_trial import SequenceTrial
from torchrec_pss.datasets.interactions import Interactions
from torchrec_pss.modules.id_counts import IdCounts
from torchrec_pss.optim.array_restart import ParameterRestart

ROWS = (5000, 1200, 700, 40, 3)


@pytest.fixture(scope="module")
def log():
    return click_data.generated(4000, 0.0005, 1.1)


def counts_of(log_):
    return {f"t{i}": c for i, c in enumerate(log_.counts)}


def stored_bytes(module):
    """Of parameters and hot rows' keys."""
    keys = [b for name, b in module.named_buffers() if name.endswith("hot_keys")]
    return 4 * sum(tensor.numel() for tensor in [*module.parameters(), *keys])


@pytest.mark.parametrize("compression", [4, 12, 60])
@pytest.mark.parametrize("name", rivals.ALL)
def test_no_contestant_exceeds_the_budget(name, compression, log):
    """And the bytes that it states are those of its parameters (and hot keys)."""
    configs = rivals.tables_of(log.num_embeddings, 16)
    budget = sum(log.num_embeddings) * 64 // compression
    contestant = rivals.ALL[name]
    for variant, _ in contestant.trials:
        try:
            module, size = contestant.build(configs, budget, counts_of(log), variant)
        except ValueError:
            continue
        assert size == stored_bytes(module)
        assert size <= budget or name == "full"
        ids = log.ids[:, :9]
        kjt = KeyedJaggedTensor([f"f{i}" for i in range(26)], ids.flatten(), lengths=torch.ones(ids.numel()).int())
        out = module(kjt).values()
        assert out.shape == (9, 26 * 16)
        out.square().sum().backward()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_quotient_remainder_tells_all_rows_apart():
    module = Quotient(1000, 8, 10)
    assert sum(p.numel() for p in module.parameters()) == Quotient.rows_needed(1000, 10) * 8 == 110 * 8
    out = module(torch.arange(1000))
    assert len(out.unique(dim=0)) == 1000
    torch.testing.assert_close(out[357], module.remainder.weight[57] * module.quotient.weight[3])


def test_tensor_train_is_the_product_of_its_cores():
    module = TensorTrain(1000, 16, 3)
    n1, n2, n3 = factors(1000)
    assert n1 * n2 * n3 >= 1000
    assert sum(p.numel() for p in module.parameters()) == TensorTrain.numel_needed(1000, 16, 3)
    rows = torch.tensor([777, 3, 999, 777, 0, 421])
    a, b, c = (core[i] for core, i in zip(module.cores, (rows // (n2 * n3), rows // n3 % n2, rows % n3), strict=True))
    torch.testing.assert_close(module(rows), torch.einsum("nxpr,nrqs,nsty->npqt", a, b, c).flatten(1))
    assert module(rows[:0]).shape == (0, 16)
    assert 0.01 < float(module(torch.arange(1000)).std()) < 0.1


def test_double_hashing_sums_two_rows():
    module = DoubleHash("t", 5000, 100, 8)
    places = module._places
    assert (places[:, 0] != places[:, 1]).float().mean() > 0.95
    torch.testing.assert_close(module(torch.tensor([4321]))[0], module.table.weight[places[4321]].sum(0))


def test_clustering_keeps_what_was_learnt():
    """Rows that form 4 groups are read back after clustering into 64; odds of 1e-7 that no centre starts in one."""
    module = Clustered("t", 2000, 64, 8)
    groups = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for column in range(4):
            module._places[:, 2 * column] = torch.arange(2000) % 4
            module.tables[2 * column].weight[:4] = groups
            module.tables[2 * column + 1].weight.zero_()
    before = module(torch.arange(2000))
    module.cluster(torch.Generator().manual_seed(0))
    torch.testing.assert_close(module(torch.arange(2000)), before, rtol=1e-4, atol=1e-5)  # a mean of hundreds of equals
    assert all(float(module.tables[2 * c + 1].weight.detach().abs().sum()) == 0 for c in range(4))


def test_a_trial_learns_and_repeats(log):
    first, second = (run_trial(log, ClickTrial("pss", 30.0, batch_size=64, points=2)) for _ in range(2))
    assert first == second and len(first["curve"]) == 2 and first["curve"][-1][1] > 0.55
    assert 0 < first["unresolved"] < 1 and first["bytes"] <= first["budget"]


@pytest.mark.parametrize("name", ["QR", "pss"])
def test_several_passes_begin_anew(name, log, monkeypatch):
    """The last pass begins with the first values of what the contestant stores, be it a layout of the array or not."""
    seen = []
    restart = ParameterRestart.restart

    def watched(self, optimizer):
        moved = [p.detach().clone() for p in self._first]
        restart(self, optimizer)
        seen.append((moved, [p.detach().clone() for p in self._first]))

    monkeypatch.setattr(ParameterRestart, "restart", watched)
    once, thrice = (run_trial(log, ClickTrial(name, 10.0, batch_size=64, passes=n)) for n in (1, 3))
    (moved, first), (_, first_again) = seen
    assert first and all(torch.equal(a, b) for a, b in zip(first, first_again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, moved, strict=True))
    assert once["auroc_test"] != thrice["auroc_test"] and once["bytes"] == thrice["bytes"]


def test_of_several_passes_the_last_clusters(log, monkeypatch):
    events = []
    monkeypatch.setattr(ParameterRestart, "restart", lambda self, optimizer: events.append("restart"))
    monkeypatch.setattr(Clustered, "cluster", lambda self, generator: events.append("cluster"))
    run_trial(log, ClickTrial("CCE", 10.0, batch_size=64, passes=3))
    assert events == ["restart"] * 2 + ["cluster"] * len(log.num_embeddings)


@pytest.fixture(scope="module")
def pairs():
    """Users of two kinds, who like the even or the odd items, and low numbers more."""
    rng = np.random.default_rng(0)
    users = rng.integers(0, 300, 60_000)
    items = (200 * rng.random(60_000) ** 3).astype(np.int64) * 2 + users % 2
    return Interactions(users[:55_000], items[:55_000], users[55_000:], items[55_000:], 300, 400)


@pytest.mark.parametrize("name", rivals.CONTESTANTS)
def test_sequence_contestants_keep_the_budget(name, pairs):
    """And each, on two users' items, gives a logit a candidate; a user's own target is hidden from its history."""
    counts = IdCounts.of(pairs.train_item)
    for variant, _ in sequence_trial.CONTESTANTS[name]:
        table = EmbeddingConfig(
            name="item", num_embeddings=400, embedding_dim=64, feature_names=["history", "candidate"]
        )
        budget = 400 * 64 * 4 // 10
        if name == "mixed dimensions":  # the one table is the smallest
            with pytest.raises(ValueError, match="no alpha up to 2 fits"):
                sequence_trial.build(name, table, budget, counts, variant)
            continue
        embeddings, size = sequence_trial.build(name, table, budget, counts, variant)
        assert size == stored_bytes(embeddings) and (name == "full" or size <= budget)
        model = sequence_trial.SequenceModel(embeddings, 400)
        histories = sequence_trial.Histories(pairs.train_user, pairs.train_item, 300)
        users, targets = torch.tensor([3, 4]), torch.tensor([9, 8])
        history, known = histories.sample(users, targets, torch.Generator().manual_seed(0))
        assert (history % 2 == torch.tensor([[1], [0]])).all() and not (history[known] == 9).any()
        logits = model(history, known, torch.tensor([[9, 1, 2], [8, 5, 7]]))
        assert logits.shape == (2, 3)
        logits.sum().backward()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in embeddings.parameters())


@pytest.mark.parametrize("name", rivals.CONTESTANTS)
def test_two_tower_contestants_learn_within_the_budget(name, pairs):
    trial = PairTrial(name, 1.0 if name == "full" else 10.0, epochs=2)
    if name in ("QR", "mixed dimensions"):
        with pytest.raises(ValueError, match="fit"):
            pair_trial.run(pairs, trial)
        trial = replace(trial, compression=1.2)
    found = pair_trial.run(pairs, trial)
    assert found["bytes"] <= found["budget"] and found["curve"][-1][1] == found["auroc_test"] > 0.6


@pytest.mark.parametrize("lab, trial", [(pair_trial, PairTrial), (sequence_trial, SequenceTrial)])
def test_pairs_are_clustered_halfway(lab, trial, pairs, monkeypatch):
    events = []
    monkeypatch.setattr(Clustered, "cluster", lambda self, generator: events.append("cluster"))
    evaluated = "evaluate" if lab is pair_trial else "_auroc"
    owner = pair_trial.train_interactions if lab is pair_trial else lab
    judged = getattr(owner, evaluated)
    monkeypatch.setattr(owner, evaluated, lambda *a: events.append("judged") or judged(*a))
    lab.run(pairs, trial("CCE", 10.0, epochs=4))
    tables = 2 if lab is pair_trial else 1
    assert events == ["judged"] * 2 + ["cluster"] * tables + ["judged"] * 3


def test_a_sequence_trial_learns_and_repeats(pairs):
    first, second = (sequence_trial.run(pairs, SequenceTrial("pss", 10.0, epochs=2)) for _ in range(2))
    assert first == second and first["curve"][-1][1] > 0.7
    with pytest.raises(ValueError, match="width 1"):
        sequence_trial.run(pairs, SequenceTrial("narrow", 100.0))


def test_intervals_are_students():
    mean, half = tables.interval([1.0, 2.0, 3.0])
    assert mean == 2 and half == pytest.approx(4.303 / 3**0.5, rel=1e-3)
    assert tables.interval([1.5]) == (1.5, 0.0)


def test_how_pss_stands():
    def row(**found):
        return {"contestants": {n: {"mean": m, "half": 0.002} for n, m in found.items()} | {"tt": {"impossible": ""}}}

    assert tables.standing(row(pss=0.78, full=0.78, narrow=0.77)) == "best"
    assert tables.standing(row(pss=0.78, full=0.79, narrow=0.78)) == "level with narrow"
    assert tables.standing(row(pss=0.78, full=0.79, narrow=0.7815)) == "within its interval"
    assert tables.standing(row(pss=0.78, full=0.79, narrow=0.785)) == ".0050 below"
    assert tables.standing(row(full=0.79, narrow=0.785)) == "impossible"


@pytest.mark.slow
def test_a_study_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setitem(main_study.MAIN, "generated:2000:0.0005:1.1", (("dlrm",), (10,), 64))
    results = Results(tmp_path / "trials.jsonl")
    rows = main_study.study(["generated:2000:0.0005:1.1"], results, workers=2, quick=True)
    found = rows[0]["contestants"]
    assert set(found) == set(rivals.CONTESTANTS) and "mean" in found["pss"] and rows[0]["bayes"] > 0.6
    (passed,) = main_study.study_passes(rows, Results(tmp_path / "passes.jsonl"), workers=2, quick=True)
    assert passed["passes"] == 3 and passed["bayes"] == rows[0]["bayes"]
    for name, result in passed["contestants"].items():
        if "impossible" in found[name]:
            assert result == found[name]
        else:
            assert (result["trial"], result["bytes"]) == (found[name]["trial"], found[name]["bytes"])
            assert result["auroc_test"] != found[name]["auroc_test"]
    again = Results(tmp_path / "trials.jsonl")
    monkeypatch.setattr("benchmarks.quality.jobs._run", None)  # nothing is left to run
    assert main_study.study(["generated:2000:0.0005:1.1"], again, workers=2, quick=True) == rows
    text = tables.markdown(rows, list(rivals.CONTESTANTS))
    assert "**" in text and len(text.splitlines()) == 3
    tables.plot(tmp_path / "p.png", rows)
    assert (tmp_path / "p.png").stat().st_size > 5000


def test_an_impossible_budget_is_a_result(tmp_path):
    results = Results(tmp_path / "trials.jsonl")
    job = Job("generated:2000:0.0005:1.1", ClickTrial("narrow", 1000.0, batch_size=64))
    results.run([job], 1, "one")
    assert "width 1 needs" in results.of(job)["impossible"]
    assert json.loads((tmp_path / "trials.jsonl").read_text())["job"]["contestant"] == "narrow"


@pytest.mark.slow
def test_the_headline_study_runs_the_script_once(tmp_path, monkeypatch):
    flags = ("--synthetic_rows", "3000", "--synthetic_scale", "0.0005", "--compression", "50", "--batch_size", "64")
    monkeypatch.setattr(headline, "runs", lambda quick: [headline.Run("a b", "kaggle", flags)])
    (line,) = headline.study(tmp_path, 2, quick=True)
    assert line["compression"] >= 50 and line["auroc_test"] > 0.5 and line["curve"][-1][0] == line["steps"]
    assert 0 < line["share_of_bayes"] < 1 and (tmp_path / "headline_kaggle.png").stat().st_size > 5000
    monkeypatch.setattr(script_run, "_train", None)  # nothing is left to run
    assert headline.study(tmp_path, 2, quick=True) == [line]


def test_headline_runs_pair_up_by_seed():
    found = headline.runs(quick=False)
    assert len({r.folder for r in found}) == len(found)
    assert all(r.full is None or (r.full, r.seed) in {(f.name, f.seed) for f in found} for r in found)

    def line(name, seed, auroc, full=None):
        return {"name": name, "seed": seed, "full": full, "auroc_test": auroc, "bayes": 0.8, "share_of_bayes": 0.9,
                "bytes": 4000, "compression": 2.0, "steps": 7}  # fmt: skip

    lines = [
        line("full", 0, 0.75),
        line("full", 1, 0.77),
        line("half", 0, 0.751, "full"),
        line("half", 1, 0.768, "full"),
    ]
    *_, full, half = tables.headline(lines).splitlines()
    assert full == "| full | 4,000 | 2x | 0.7600 ±0.1271 | - | 0.8000 | 90.0 % | 7 |"
    assert half.startswith("| half | 4,000 | 2x | 0.7595 ±") and "| +0.0010, -0.0020 |" in half


def test_conversion_study():
    """Rows migrated into exact tables are the array's; a larger array explains more."""
    found = {r["what"]: r for r in conversion.study(click_data.generated(6_000, 0.001, 1.1))}
    explained = [found[f"compressed {c}x"]["explained"] for c in (2, 4, 10)]
    assert explained == sorted(explained, reverse=True) and explained[0] > 0.95
    exact = found["10x array, migrated to exact"]
    assert exact["explained"] > 0.9999
    assert exact["auroc_test"] == pytest.approx(found["compressed 10x"]["auroc_test"], abs=1e-4)


class ByName:
    """Results of jobs that nobody ran: an AUROC by contestant and split."""

    def run(self, jobs, workers, description):
        self.keys = {job.key for job in jobs}

    def of(self, job):
        assert job.key in self.keys
        base = {"pss": 0.75, "row hashing": 0.74, "narrow": 0.76, "full": 0.77}[job.trial.contestant]
        own = base + (0.02 if job.trial.contestant == "narrow" and job.data == "shuffled:0" else 0)
        return {"auroc_val": own - 0.01, "auroc_test": own + 0.01}


def test_splits_are_compared_one_by_one():
    rows = splits.study(ByName(), workers=2, quick=True)
    by_name = {(r["compression"], r["contestant"]): r for r in rows}
    assert set(by_name) == {(10.0, n) for n in ("pss", "row hashing", "narrow", "full")} | {
        (100.0, n) for n in ("pss", "row hashing")
    }
    hashing, narrow = by_name[10.0, "row hashing"], by_name[10.0, "narrow"]
    assert hashing["pss_above_by"] == pytest.approx(0.01) and hashing["pss_above_in"] == hashing["splits"] == 2
    assert narrow["pss_above_by"] == pytest.approx(-0.02) and narrow["pss_above_in"] == 0
    assert narrow["half"] == pytest.approx(12.71 * 0.01, rel=1e-3)  # of -.03 and -.01
    text = splits.markdown(rows)
    assert (
        "| 10x | row hashing | 0.7400 | +0.0100 ±0.0000 | 2 of 2 |" in text and "| 10x | pss | 0.7500 | - | - |" in text
    )


def test_kinds_are_split_likewise(tmp_path, monkeypatch):
    """Each made once, with the steps of a file of its size, and a rival that does not fit."""
    source = tmp_path / "rows.tsv.gz"
    row = "\t".join(["1", *"0" * 13, *["7d7"] * 26])
    source.write_bytes(gzip.compress(f"{row}\n".encode() * 2))
    monkeypatch.setattr(files, "CRITEO_ROWS", source)
    kinds = {
        "all": files.Kind(list),
        "few": files.Kind(list, limit=20_000),
        "modulo": files.Kind(files._modulo(1000)),
        "generated": files._generated(1.1),
    }
    monkeypatch.setattr(files, "KINDS", kinds)
    ran = []

    class Found:
        def run(self, jobs, workers, description):
            ran.extend(jobs)

        def of(self, job):
            assert job in ran
            if job.trial.contestant == "narrow":
                return {"impossible": "too small"}
            of_split = 0.01 * int(job.data.split(":")[1])
            ours = 0.02 if job.trial.contestant == "pss" else 0
            return {"auroc_val": 0.7 + of_split + ours, "auroc_test": 0.72 + of_split + ours}

    rows = splits.study_kinds(Found(), tmp_path, workers=1, quick=False)
    assert [r["data"] for r in rows] == ["few"] * 5 + ["modulo"] * 5
    hashing = next(r for r in rows if r["contestant"] == rivals.UNTUNED_ROW_HASHING)
    assert hashing["pss_above_by"] == pytest.approx(0.02) and hashing["pss_above_in"] == hashing["splits"] == 6
    steps = {job.data.split(":")[2]: job.trial.batch_size for job in ran}
    assert steps == {
        str(tmp_path / "files" / "few" / "rows.tsv"): 16,
        str(tmp_path / "files" / "modulo" / "rows.tsv"): 32,
    }
    assert "\t7\t7" in (tmp_path / "files" / "modulo" / "rows.tsv").read_text()
    text = splits.markdown(rows)
    assert "| few | 10x | narrow | does not fit | - | - |" in text
    assert "| modulo | 100x | row hashing, untuned | 0.7350 | +0.0200 ±0.0000 | 6 of 6 |" in text


def test_a_study_says_what_it_does_in_its_log(tmp_path, monkeypatch, capfd):
    def study(results, workers, quick):
        logging.getLogger(splits.__name__).info("half of it")
        return []

    monkeypatch.setattr(splits, "study", study)
    monkeypatch.setattr(sys, "argv", ["run", "splits", "--out", str(tmp_path)])
    monkeypatch.setattr(logging.root, "handlers", [logging.StreamHandler()])  # as imports leave it
    run.main()
    assert "half of it" in capfd.readouterr().err and (tmp_path / "splits.json").exists()


def test_files_are_made_and_the_script_runs_on_them(tmp_path, monkeypatch):
    """What the script is told, and a rival that it refuses."""
    row = ["1", *(str(i) for i in range(13)), *(format(1000 * i + 7, "x") for i in range(25)), ""]
    source = tmp_path / "rows.tsv.gz"
    source.write_bytes(gzip.compress(("\t".join(row) + "\n").encode() * 3))
    monkeypatch.setattr(files, "CRITEO_ROWS", source)
    kinds = {
        "a b": files.Kind(files._modulo(1000), limit=2),
        "c": files._generated(1.4),
        "d": files._other(20, (3, 9), (0.7, 1.5), clusters=True, seed=1),
    }
    monkeypatch.setattr(files, "KINDS", kinds)
    calls = []

    def results_of(folder, flags):
        calls.append(" ".join(flags))
        if "--embedding narrow" in calls[-1]:
            raise ValueError("too small")
        return {"auroc_held_out": 0.75 if "--embedding pss" in calls[-1] else 0.74}

    monkeypatch.setattr(files, "results_of", results_of)
    found = files.study(tmp_path, workers=1, quick=False)
    made = (tmp_path / "files" / "a_b" / "rows.tsv").read_text().splitlines()
    assert made == ["\t".join([*row[:14], *["7"] * 25, ""])] * 2
    assert len((tmp_path / "files" / "d" / "rows.tsv").read_text().splitlines()) == 20
    assert len(set(calls)) == (2 + 1 + 1) * 5 and sum("--synthetic_skew 1.4" in call for call in calls) == 5
    assert [(r["data"], r["compression"], r["rival"]) for r in found[:3]] == [
        ("a b", 10, "hash"),
        ("a b", 10, "narrow"),
        ("a b", 100, "hash"),
    ]
    assert found[0]["pss_above_by"] == pytest.approx([0.01, 0.01]) and found[1]["impossible"] == "too small"
    text = files.markdown(found)
    assert "| a b | 10x | .7500 | hash | .7400 | +0.0100, +0.0100 |" in text and "| narrow | does not fit | - |" in text


@pytest.mark.parametrize("of_ids", [{}, {"clusters": True}, {"pairs": 0}])
def test_another_generator_writes_criteo_files(tmp_path, of_ids):
    rows = OtherRows(4000, (3, 300), (0.7, 1.5), seed=5, **of_ids)
    for name, written in (("a", rows), ("again", rows), ("b", replace(rows, seed=6))):
        write(written, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "again").read_bytes() != (tmp_path / "b").read_bytes()
    log = click_data.criteo(tmp_path / "a")
    assert log.dense.shape == (4000, 13) and log.ids.shape == (26, 4000) and 0.1 < log.labels.mean() < 0.6
    tokens = [line.split("\t")[14:] for line in (tmp_path / "a").read_text().splitlines()]
    assert np.mean([[not t for t in line] for line in tokens]) == pytest.approx(0.03, abs=0.005)
    distinct = [len({t for t in column if t}) for column in zip(*tokens, strict=True)]
    assert 3 <= min(distinct) < 20 and 100 < max(distinct) <= 300
    # Ids say something of the label: squared errors of click rates are 1 on average by chance.
    squares = []
    for ids in log.ids.numpy():
        of_id = [log.labels.numpy()[ids == k] for k in np.unique(ids) if (ids == k).sum() >= 200]
        squares += [(float(c.mean() - log.labels.mean()) / (c.std() / len(c) ** 0.5)) ** 2 for c in of_id]
    assert len(squares) > 30 and np.mean(squares) > 2


@pytest.mark.parametrize("of_tastes", [{"factors": 3}, {"clusters": 5}])
def test_another_generator_draws_pairs(of_tastes):
    of = OtherPairs(400, 300, 12_000, effect=2.0, popularity=1.0, seed=1, **of_tastes)
    first, again, other = draw(of), draw(of), draw(replace(of, seed=2))
    assert np.array_equal(first.train_item, again.train_item) and len(first.train_item) != len(other.train_item)
    users = np.concatenate([first.train_user, first.test_user])
    items = np.concatenate([first.train_item, first.test_item])
    assert len(np.unique(users * 300 + items)) == len(users) and len(first.test_user) == pytest.approx(
        len(users) / 5, abs=1
    )
    number = np.bincount(users, minlength=400)
    assert number.min() == 3 and number.max() <= 100 and number.sum() == pytest.approx(12_000, rel=0.15)
    # Few directions explain who likes what, beyond how popular items are.
    likes = np.zeros((400, 300))
    likes[users, items] = 1
    independent = number[:, None] * likes.sum(0) / number.sum()
    strengths = np.linalg.svd((likes - independent) / np.sqrt(independent + 1e-9), compute_uv=False)
    assert strengths[2] > 1.15 * strengths[6]


def test_pairs_are_made_and_the_script_runs_on_them(tmp_path, monkeypatch):
    monkeypatch.setattr(pair_files, "PAIRS", {"a b": OtherPairs(60, 40, 600, 2.0, 1.0, seed=1, factors=2)})
    calls = []

    def results_of(folder, flags, script):
        assert script.name == "train_interactions.py" and folder.parent == tmp_path / "pair_files" / "a_b"
        calls.append(" ".join(flags))
        return {"auroc_test": 0.75 if "--embedding pss" in calls[-1] else 0.74}

    monkeypatch.setattr(pair_files, "results_of", results_of)
    found = pair_files.study(tmp_path, workers=1, quick=False)
    made = Interactions.load(tmp_path / "pair_files" / "a_b" / "pairs.npz")
    assert (made.num_users, made.num_items) == (60, 40)
    assert len(set(calls)) == 2 * 2 * 3 and all("--compression 10 " in call for call in calls)
    assert [(r["data"], r["rival"]) for r in found[1:3]] == [("a b, D = 64", "hash"), ("a b, D = 32", "narrow")]
    assert found[0]["pss_above_by"] == pytest.approx([0.01, 0.01])


def test_scripts_are_told_apart(tmp_path):
    script = tmp_path / "other.py"
    script.write_text("import pathlib, sys\npathlib.Path(sys.argv[-1], 'results.json').write_text('{\"a\": 1}')\n")
    assert script_run.results_of(tmp_path / "out", (), script=script) == {"a": 1}


def test_what_the_script_refuses_is_told_from_a_failure(tmp_path, monkeypatch):
    script = tmp_path / "script.py"
    monkeypatch.setattr(script_run, "SCRIPT", script)
    script.write_text("print('12:00:00 error: too small')\nraise SystemExit(2)\n")
    with pytest.raises(ValueError, match="error: too small"):
        script_run.results_of(tmp_path / "refused", ())
    script.write_text("raise SystemExit(3)\n")
    with pytest.raises(subprocess.CalledProcessError, match="exit status 3"):
        script_run.results_of(tmp_path / "failed", ())
