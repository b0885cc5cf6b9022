"""Metrics of test rows: against scikit-learn, brute force and the definitions, the same on one process and on two."""

import json
import math
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import script_runs
import torch
import two_ranks
from sklearn.metrics import log_loss, roc_auc_score

from torchrec_pss.datasets import ClickDataset
from torchrec_pss.datasets.schema import Schema
from torchrec_pss.export import saved_model
from torchrec_pss.export.runs import part_of
from torchrec_pss.ranks import auroc, midranks

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))


def log(number, seed=0, users=40):
    """Logits fp32 with ties, labels, users: some of one class."""
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, users, number) * 7 - 100
    labels = (rng.random(number) < 0.1 + 0.2 * (groups % 3)).astype(np.float32)
    labels[groups < -70] = 0
    return np.round(rng.normal(size=number) + labels - 1, 1).astype(np.float32), labels, groups


def in_pairs(scores, labels):
    """AUROC by its definition, every pair."""
    pairs = list(product(scores[labels == 1], scores[labels == 0]))
    return sum((p > n) + (p == n) / 2 for p, n in pairs) / len(pairs)


@pytest.mark.parametrize("seed", range(5))
def test_ranks_and_auroc(seed):
    scores, labels, _ = log(300, seed)
    assert midranks(np.array([3, 1, 3, 0])).tolist() == [3.5, 2, 3.5, 1] and midranks(np.zeros(0)).tolist() == []
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert auroc(scores, labels) == pytest.approx(in_pairs(scores, labels), abs=1e-12)
    with pytest.raises(ValueError, match="AUROC needs both classes: 0 of 300"):
        auroc(scores, np.zeros(300))


@pytest.mark.parametrize("seed", range(5))
def test_grouped_auroc_is_that_of_each_group(seed):
    from grouped_auroc import GroupedAuroc, grouped_auroc

    scores, labels, groups = log(600, seed)
    found = grouped_auroc(scores, labels, groups)
    weighed, by_pairs, rows, number = 0.0, 0.0, 0, 0
    for group in set(groups.tolist()):
        of = groups == group
        if 0 < labels[of].sum() < of.sum():
            weighed += of.sum() * roc_auc_score(labels[of], scores[of])
            by_pairs += of.sum() * in_pairs(scores[of], labels[of])
            rows, number = rows + of.sum(), number + 1
    assert (found.groups, found.rows) == (number, rows) and 0 < rows < 600
    assert found.auroc == pytest.approx(weighed / rows, abs=1e-12) == pytest.approx(by_pairs / rows, abs=1e-12)
    order = np.random.default_rng(seed).permutation(600)
    assert grouped_auroc(scores[order], labels[order], groups[order]) == found
    assert grouped_auroc(scores, labels, np.zeros(600, int)).auroc == pytest.approx(auroc(scores, labels), abs=1e-12)
    nothing = GroupedAuroc(None, 0, 0)
    assert grouped_auroc(scores, labels, np.arange(600)) == nothing
    assert grouped_auroc(scores[:0], labels[:0], groups[:0]) == nothing


def test_the_interval_is_delongs():
    from auroc_interval import half_interval

    scores, labels, _ = log(200)
    above, below = scores[labels == 1], scores[labels == 0]
    wins = (above[:, None] > below) + (above[:, None] == below) / 2
    variance = wins.mean(axis=1).var(ddof=1) / len(above) + wins.mean(axis=0).var(ddof=1) / len(below)
    assert half_interval(scores, labels) == pytest.approx(1.96 * math.sqrt(variance), rel=1e-4)
    assert half_interval(scores[:3], np.array([0, 0, 1])) is None
    assert half_interval(np.arange(4), np.array([0, 0, 1, 1])) == 0


def test_the_interval_covers_the_true_auroc():
    """Of 400 samples whose true AUROC is known about 95 %."""
    from auroc_interval import half_interval

    rng, true, covered = np.random.default_rng(0), 0.5 * (1 + math.erf(0.5)), 0
    for _ in range(400):
        labels = (rng.random(300) < 0.3).astype(int)
        scores = rng.normal(size=300) + labels
        covered += abs(auroc(scores, labels) - true) <= half_interval(scores, labels)
    assert 0.92 < covered / 400 < 0.98


def measured(rank, world_size, logits, labels, groups):
    """Batches of 50 rows in turn, as `rank_windows` hands them out, and a row of padding of a rank that has none left."""
    from click_metrics import ClickMetrics

    metrics = ClickMetrics(by_row=True)
    for start in range(0, len(logits) + 50, 50 * world_size):
        window = slice(start + 50 * rank, start + 50 * (rank + 1))
        own = [torch.from_numpy(x[window]) for x in (logits, labels, groups)]
        if not len(own[0]):
            own = torch.zeros(1), torch.full((1,), -1.0), torch.zeros(1, dtype=torch.int64)
        metrics.update(own[0], own[1], own[2].numpy())
    return metrics.compute()


def test_the_same_on_one_process_and_on_two(tmp_path):
    logits, labels, groups = log(460)
    (alone,) = two_ranks.run(measured, tmp_path, logits, labels, groups, world_size=1)
    first, second = two_ranks.run(measured, tmp_path, logits, labels, groups)
    assert first == second
    for name in ("auroc", "auroc_half_interval", "grouped_auroc", "grouped_groups", "grouped_rows_share"):
        assert first[name] == alone[name]
    for name in ("ne", "logloss", "calibration"):  # sums, in another order
        assert first[name] == pytest.approx(alone[name], rel=1e-12)
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    assert alone["auroc"] == pytest.approx(roc_auc_score(labels, logits), abs=1e-6)
    assert alone["logloss"] == pytest.approx(log_loss(labels, probabilities), rel=1e-9)
    assert alone["calibration"] == pytest.approx(probabilities.sum() / labels.sum(), rel=1e-12)
    from grouped_auroc import grouped_auroc

    expected = grouped_auroc(logits, labels, groups)
    assert alone["grouped_auroc"] == expected.auroc and alone["grouped_rows_share"] == expected.rows / 460


def test_calibration_is_torchrecs():
    from click_metrics import ClickMetrics
    from torchrec.metrics.calibration import compute_calibration

    logits, labels, _ = log(300)
    metrics = ClickMetrics()
    metrics.update(torch.from_numpy(logits), torch.from_numpy(labels))
    predicted = torch.sigmoid(torch.from_numpy(logits).double()).sum()
    found = metrics.compute()
    assert found["calibration"] == float(compute_calibration(predicted, torch.tensor(labels).double().sum()))
    assert found.keys() == {"auroc", "ne", "logloss", "calibration"}  # without rows kept


@pytest.mark.parametrize("ranks", [1, 2])
def test_groups_meet_their_logits(tmp_path, ranks):
    """Through pipeline and read-ahead, though rows of the numbering are shared: as the model that is kept says of its test rows."""
    from grouped_auroc import grouped_auroc

    rng = np.random.default_rng(0)
    users, sites = rng.integers(0, 60, 3000), rng.integers(0, 300, 3000)
    labels = (rng.random(3000) < 1 / (1 + np.exp(-rng.normal(size=60)[users] - rng.normal(size=300)[sites]))).astype(
        int
    )
    lines = [f"{y},user-{u},{s},{p:.3f}" for y, u, s, p in zip(labels, users, sites, rng.random(3000), strict=True)]
    (tmp_path / "log.csv").write_text("\n".join(["y,user,site,price", *lines]) + "\n")
    said = {"label": "y", "dense": ["price"], "sparse": ["site", "user"], "group": "user"}
    (tmp_path / "s.json").write_text(json.dumps(said))
    done = script_runs.run(
        "train_criteo.py", "--data_path", tmp_path / "log.csv", "--schema", tmp_path / "s.json", "--array_bytes", 3000,
        "--batch_size", 64, "--test_batch_size", 32, "--epochs", 1, "--embedding_dim", 8, "--dense_arch_layer_sizes", "16,8",
        "--vocabulary", "--layout", "plain", "--output_dir", tmp_path / "run", "--cache_dir", tmp_path / "cache", ranks=ranks,
    )  # fmt: skip
    found, saved = json.loads((tmp_path / "run" / "results.json").read_text()), saved_model.load(tmp_path / "run")
    assert Schema.of(found["schema"]) == saved.schema and found["schema"] == said | {"dense": {"price": "log"}}
    module, _ = part_of(saved, "probability")
    test = ClickDataset(tmp_path / "log.csv", 3000, "test", schema=tmp_path / "s.json")
    (rows,) = test  # of all ranks
    with torch.no_grad():
        scores = module(rows.dense_features, rows.sparse_features).numpy()
    labels, groups = rows.labels.numpy(), rows.sparse_features["user"].values().numpy()
    expected = grouped_auroc(scores, labels, groups)
    assert len(labels) == 215 and found["grouped_by"] == "user" and found["grouped_groups"] == expected.groups > 30
    assert found["grouped_auroc_test"] == pytest.approx(expected.auroc, abs=1e-6)
    assert found["grouped_rows_share"] == expected.rows / 215
    assert found["logloss_test"] == pytest.approx(log_loss(labels, scores), rel=1e-5)
    assert found["calibration_test"] == pytest.approx(scores.sum() / labels.sum(), rel=1e-5)
    assert 0.01 < found["auroc_test_half_interval"] < 0.1
    assert f"AUROC by user {found['grouped_auroc_test']:.5f}" in done.output and "test log loss" in done.output
