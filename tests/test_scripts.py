"""The scripts end to end, as a user starts them: torchx in both forms, resume, real data, bad input."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import kill_and_resume
import numpy as np
import pytest
import script_runs
import torch

from torchrec_pss.datasets.interactions import Interactions
from torchrec_pss.datasets.splits import split_files

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data"
SMALL = ["--synthetic_rows", "40000", "--synthetic_scale", "0.01", "--batch_size", "256", "--test_batch_size", "512",
         "--epochs", "1"]  # fmt: skip
KEYS = {"auroc_test", "auroc_val", "auroc_bayes", "steps", "samples_per_second", "embedding_bytes", "full_embedding_bytes",
        "compression", "world_size", "config"}  # fmt: skip


def call(command, cwd=ROOT, check=True):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=os.environ | {"PATH": path}, text=True, capture_output=True, timeout=400
    )
    assert not check or done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def train(*flags, **options):
    return script_runs.run("train_criteo.py", *flags, **options)


def results(folder):
    return json.loads((folder / "results.json").read_text())


def torchx_succeeded(done):
    return "SUCCEEDED" in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("cwd", [ROOT, ROOT / "examples"], ids=["root", "examples"])
def test_torchx_literal_form(tmp_path, cwd):
    done = call(["torchx", "run", "dist.ddp", "--", "train_criteo.py", *SMALL, "--output_dir", tmp_path], cwd)
    assert torchx_succeeded(done), done.stdout[-2000:] + done.stderr[-2000:]
    found = results(tmp_path)
    assert set(found) >= KEYS and found["world_size"] == 2 and found["steps"] == 79
    assert found["embedding_bytes"] * 1000 <= found["full_embedding_bytes"]
    assert 0.5 < found["auroc_test"] < found["auroc_bayes"] < 0.9
    assert (tmp_path / "curves.png").read_bytes()[1:4] == b"PNG"
    log = (tmp_path / "log.txt").read_text()
    assert "samples/s ETA" in log and "validation AUROC" in log


@pytest.mark.slow
def test_torchx_explicit_form(tmp_path):
    head = ["torchx", "run", "-s", "local_cwd", "dist.ddp", "-j", "1x2", "--script", "examples/train_criteo.py", "--"]
    done = call(
        [
            *head,
            *SMALL,
            "--array_reduction",
            "sparse",
            "--check_replicas",
            "10",
            "--watch",
            "30",
            "--ablation",
            "--limit_test_batches",
            "4",
            "--output_dir",
            tmp_path,
        ]
    )
    assert torchx_succeeded(done), done.stdout[-2000:] + done.stderr[-2000:]
    found = results(tmp_path)
    assert found["world_size"] == 2 and found["config"]["array_reduction"] == "sparse" and found["auroc_test"] > 0.55
    watched = [h["step"] for h in found["history"] if "array_gradient_norm" in h]
    assert watched == [30, 60]
    assert set(found["ablation"]) == set(found["collision_load"]) and len(found["ablation"]) == 26
    assert max(found["ablation"].values()) > 0.002  # no feature but is of some use
    done = call([sys.executable, "-m", "torchrec_pss.report", tmp_path, "--output", tmp_path / "report.html"])
    # AUROC and loss, norms and shares, the layout; six panels of bars
    told = (tmp_path / "report.html").read_text()
    assert "1 runs" in done.stdout and told.count("<svg ") == 5 and told.count('class="bars"') in (5, 6)
    assert found["schema"] is None and "Its schema" not in told


@pytest.mark.slow
def test_full_tables_and_dcn(tmp_path):
    """TorchRec's own tables, model-parallel on two ranks, with another interaction, by both recipes."""
    for recipe in ("equal", "torchrec_dlrm"):
        flags = ["--embedding", "full", "--recipe", recipe, "--interaction_type", "dcn", "--print_sharding_plan"]
        train(*SMALL, *flags, "--output_dir", tmp_path / recipe, ranks=2)
        found = results(tmp_path / recipe)
        assert found["compression"] == 1 and found["embedding"] == "full" and found["auroc_test"] > 0.55
        # Tables that learn in backward know no such flag: runs of before it had a default go on.
        assert found["config"]["keep_array"] == (False if recipe == "equal" else None)


@pytest.mark.slow
def test_the_planner_decides_what_is_shared(tmp_path):
    """Plain tables, of which a rank's memory holds only some; then one that holds none of a plan without the array."""
    flags = [
        *SMALL,
        "--compression",
        "100",
        "--rank_memory",
        "16000000",
        "--print_sharding_plan",
        "--output_dir",
        tmp_path,
    ]
    done = train(*flags, "--planner_pss", "auto", ranks=2)
    found = results(tmp_path)
    assert "shared_in_array" in done.output and found["layout"] and found["auroc_test"] > 0.6
    assert found["embedding_bytes"] < found["full_embedding_bytes"] / 2
    train(*flags, "--planner_pss", "auto", "--epochs", "2", "--auto_resume", ranks=2)
    assert results(tmp_path)["steps"] == 2 * found["steps"]
    refused = train(*flags, "--planner_pss", "never", ranks=2, check=False)
    assert refused.returncode != 0 and "insufficient storage" in refused.output


@pytest.mark.slow
def test_a_resumed_run_equals_an_undisturbed_one(tmp_path):
    """Stopped after the first of two epochs and resumed: the same parameters' metrics, to the bit."""
    # At the default rate three epochs of so few rows overfit, and the last assertion would see that instead.
    flags = [*SMALL, "--shuffle_batches", "--validation_freq_within_epoch", "30", "--embedding_learning_rate", "0.002"]
    flags += ["--learning_rate", "0.0015"]
    train(*flags, "--epochs", "2", "--output_dir", tmp_path / "whole", ranks=2)
    train(*flags, "--epochs", "1", "--auto_resume", "--output_dir", tmp_path / "parts", ranks=2)
    train(*flags, "--epochs", "2", "--resume", "--output_dir", tmp_path / "parts", ranks=2)
    whole, parts = results(tmp_path / "whole"), results(tmp_path / "parts")
    assert whole["steps"] == parts["steps"] == 158 and whole["of_pass"] == parts["of_pass"] == 2
    assert "ended at validation AUROC" not in (tmp_path / "whole" / "log.txt").read_text()
    assert whole["auroc_test"] == parts["auroc_test"] and whole["ne_test"] == parts["ne_test"]
    assert [h["auroc_val"] for h in whole["history"] if "auroc_val" in h] == [
        h["auroc_val"] for h in parts["history"] if "auroc_val" in h
    ]

    third = ["--epochs", "3", "--resume", "--output_dir", tmp_path / "parts"]
    refused = train(*flags, *third, "--compression", "500", ranks=2, check=False)
    assert refused.returncode != 0
    assert re.search(r"table 't_cat_\d+': width is \d+ in the checkpoint and \d+ here", refused.output)
    assert "--layout rules" in refused.output
    refused = train(*flags, *third, "--learning_rate", "1", ranks=2, check=False)
    assert refused.returncode != 0 and "--learning_rate was 0.0015 and is now 1.0" in refused.output
    refused = train(*flags, *third, check=False)
    assert refused.returncode == 2 and "--batch_size x processes was 512 and is now 256" in refused.output
    train(*flags, "--batch_size", "512", *third)
    found = results(tmp_path / "parts")
    assert found["world_size"] == 1 and found["steps"] == 237 and found["auroc_test"] > parts["auroc_test"] - 0.005


@pytest.mark.slow
def test_full_tables_resumed_equal_undisturbed_ones(tmp_path):
    """Stopped after the first of two passes, before the tables begin anew: weights, moments and averages of two ranks' parts."""
    flags = [*SMALL, "--embedding", "full", "--synthetic_scale", "0.0002", "--limit_train_batches", "12"]
    train(*flags, "--epochs", "2", "--output_dir", tmp_path / "whole", ranks=2)
    train(*flags, "--epochs", "1", "--output_dir", tmp_path / "parts", ranks=2)
    train(*flags, "--epochs", "2", "--resume", "--output_dir", tmp_path / "parts", ranks=2)
    whole, parts = results(tmp_path / "whole"), results(tmp_path / "parts")
    assert whole["steps"] == parts["steps"] == 24
    assert whole["auroc_test"] == parts["auroc_test"] and whole["ne_test"] == parts["ne_test"]


def write_rows(path, rows, delimiter="\t", bad=()):
    rng = np.random.default_rng(0)
    lines = []
    for r in range(rows):
        dense = [str(v) if v < 8 else "" for v in rng.integers(0, 9, 13)]
        tokens = [f"{v:x}" if v else "" for v in rng.integers(0, 50, 26)]
        lines.append("garbage" if r in bad else delimiter.join([str(int(rng.integers(0, 4) == 0)), *dense, *tokens]))
    path.write_bytes(gzip.compress("\n".join(lines).encode()) if path.suffix == ".gz" else "\n".join(lines).encode())
    return path


@pytest.mark.slow
@pytest.mark.parametrize("embedding", ["pss", "full", "hash", "narrow"])
def test_criteo_file_with_bad_lines(tmp_path, embedding):
    """1,001 rows over three ranks: ranks get unequal and empty batches, every good row counts once."""
    path = write_rows(tmp_path / "log.tsv.gz", 1001, bad=(5, 900))
    flags = ["--data_path", path, "--embedding", embedding, "--batch_size", 60, "--test_batch_size", 60, "--epochs", 1,
             "--cache_dir", tmp_path / "cache", "--output_dir", tmp_path / "out"]  # fmt: skip
    if embedding != "full":
        flags += ["--array_bytes", "16384"]
    done = train(*flags, ranks=3)
    assert [done.output.count(f"left out a malformed line: {path}:{number}: ") for number in (6, 901)] == [1, 1]
    found = results(tmp_path / "out")
    assert found["steps"] == 5 and found["auroc_bayes"] is None and found["bad_rows_read"] >= 2
    assert f"{path}:6: 1 fields instead of 40" in (tmp_path / "out" / "log.txt").read_text()
    assert "distinct ids of the training rows" in found["full_rows_counted"]
    if embedding != "full":
        assert 8192 < found["embedding_bytes"] <= 16384
        assert len(found["layout"]["tables"]) == 26
    if embedding == "pss":
        assert abs(found["full_embedding_bytes"] / (26 * 50 * 64) - 1) < 0.02


@pytest.mark.slow
def test_target_auroc_stops_early_and_one_process_needs_no_launcher(tmp_path):
    flags = [*SMALL, "--epochs", "5", "--validation_freq_within_epoch", "40", "--target_auroc", "0.51"]
    call([sys.executable, ROOT / "examples/train_criteo.py", *flags, "--output_dir", tmp_path])
    found = results(tmp_path)
    assert found["target_reached"] and found["steps"] < 5 * 157 and found["world_size"] == 1


@pytest.mark.slow
def test_few_rows_are_passed_several_times_with_the_array_begun_anew(tmp_path):
    """By default; with --keep_array the second pass starts from the first's array, and learns its rows by heart."""
    flags = [*SMALL[:-2], "--compression", "10", "--limit_test_batches", "1"]
    wide = [*flags, "--width", "16"]  # of what "auto" takes, a second pass does not lose enough
    train(*wide, "--output_dir", tmp_path / "anew")
    keep = [*wide, "--keep_array", "--output_dir", tmp_path / "kept"]
    train(*keep, "--epochs", "1")
    one = results(tmp_path / "kept")
    train(*keep, "--epochs", "2", "--resume")
    anew, kept = results(tmp_path / "anew"), results(tmp_path / "kept")
    assert anew["config"]["epochs"] == 3 and anew["steps"] == 3 * 157 and kept["steps"] == 2 * 157
    first, second, third = ends = [h["auroc_val"] for h in anew["history"] if "auroc_val" in h]
    kept_first, kept_second = (h["auroc_val"] for h in kept["history"] if "auroc_val" in h)
    assert first == kept_first and second > kept_second and kept_second < kept_first - 0.001
    # A pass that lost is not the one that is evaluated, nor after resuming when all is done.
    assert anew["of_pass"] == (2 if third < second - 0.001 else 3) and anew["auroc_val"] == ends[anew["of_pass"] - 1]
    assert kept["of_pass"] == 1 and kept["auroc_val"] == kept_first
    assert kept["auroc_test"] == one["auroc_test"] and kept["ne_test"] == one["ne_test"] and one["of_pass"] is None
    train(*keep, "--epochs", "2", "--resume")
    assert results(tmp_path / "kept")["auroc_test"] == one["auroc_test"]
    assert (
        "the earlier one's weights are taken; --epochs 1 would have been enough"
        in (tmp_path / "kept" / "log.txt").read_text()
    )
    assert ("pass 3 ended at" in (tmp_path / "anew" / "log.txt").read_text()) == (anew["of_pass"] == 2)
    short = [*flags, "--limit_train_batches", "20"]
    train(*short, "--embedding", "narrow", "--output_dir", tmp_path / "narrow")
    train(*short, "--interaction_type", "dcn", "--output_dir", tmp_path / "dcn")
    assert [results(tmp_path / name)["steps"] for name in ("narrow", "dcn")] == [60, 40]


BAD_FLAGS = {
    "--keep_array makes no sense with --recipe torchrec_dlrm": ["--embedding", "full", "--adagrad", "--keep_array"],
    "--optimizer adagrad makes no sense with --recipe equal": ["--embedding", "full", "--recipe", "equal", "--adagrad"],
    "--recipe makes no sense with --embedding pss": ["--recipe", "equal"],
    "--keep_array makes no sense with --planner_pss": ["--planner_pss", "auto", "--keep_array"],
    "--compression makes no sense with --embedding full": ["--embedding", "full", "--compression", "10"],
    "--watch makes no sense with --embedding full": ["--embedding", "full", "--watch", "10"],
    "--width makes no sense with --embedding narrow": ["--embedding", "narrow", "--width", "2"],
    "--layout makes no sense with --embedding hash": ["--embedding", "hash", "--layout", "plain"],
    "width 1 needs": ["--embedding", "narrow", "--compression", "100"],
    "one row a table needs": ["--embedding", "hash", "--array_bytes", "1600"],
    "not both": ["--array_bytes", "10000", "--compression", "10"],
    "must end in embedding_dim": ["--embedding_dim", "8"],
    "needs 26 numbers": ["--num_embeddings_per_feature", "1,2"],
    "--batch_size must be positive": ["--batch_size", "0"],
    "unexpected argument": ["something.py"],
    "does not exist": ["--data_path", "/no/such/file"],
    "too small": ["--array_bytes", "16"],
    "no checkpoint in": ["--resume"],
    "needs a GPU": [
        "--embedding",
        "full",
        "--recipe",
        "torchrec_dlrm",
        "--optimizer",
        "adam",
        "--synthetic_scale",
        "0.001",
    ],
    "block_size 5 does not divide": ["--block_size", "5"],
}


@pytest.mark.parametrize("message", BAD_FLAGS)
def test_bad_flags_end_with_a_reason(tmp_path, message):
    done = train(*SMALL, *BAD_FLAGS[message], "--output_dir", tmp_path / "out", check=False)
    assert done.returncode == 2 and message in done.output and "Traceback" not in done.output
    assert not (tmp_path / "out" / "results.json").exists()


def test_output_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    done = train("--output_dir", tmp_path / "file" / "out", check=False)
    assert done.returncode == 2 and "is not writable" in done.output


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path):
    flags = [*SMALL, "--validation_freq_within_epoch", "50", "--output_dir", tmp_path]
    train(*flags, "--limit_train_batches", "50")
    before = json.loads((tmp_path / "checkpoint" / "progress.json").read_text())
    done = train(*flags, "--learning_rate", "1e30", "--log_freq", "30", check=False)
    assert done.returncode == 2 and "Traceback" not in done.output
    step = int(done.output.split("the loss is not finite at step ")[1].split(";")[0])
    assert 1 < step <= 30
    assert json.loads((tmp_path / "checkpoint" / "progress.json").read_text()) == before
    done = train_interactions(
        "--path", interactions(tmp_path), "--learning_rate", "1e30", "--output_dir", tmp_path / "i", check=False
    )
    assert done.returncode == 2 and "the loss is nan at step" in done.output


@pytest.mark.slow
def test_data_of_one_class(tmp_path):
    path = write_rows(tmp_path / "log.tsv", 300)
    lines = path.read_bytes().splitlines()
    splits = split_files([len(lines)], 6 / 7)
    flags = ["--data_path", path, "--array_bytes", "8192", "--output_dir", tmp_path / "o"]
    for part, name in (("test", "test"), ("val", "validation"), ("train", "training")):
        rows = getattr(splits, part)
        changed = [b"0" + line[1:] if i in rows else line for i, line in enumerate(lines)]
        path.write_bytes(b"\n".join(changed))
        done = train(*flags, check=False)
        assert done.returncode == 2 and "step" not in done.output
        assert f"AUROC needs both classes: all {len(rows)} {name} rows are labelled 0" in done.output


@pytest.mark.slow
def test_too_many_bad_rows(tmp_path):
    path = write_rows(tmp_path / "log.tsv", 300, bad=range(100, 150))
    flags = ["--data_path", path, "--array_bytes", "8192", "--max_bad_rows", "10", "--output_dir", tmp_path / "o"]
    done = train(*flags, check=False)
    assert (
        done.returncode == 2
        and f"11 malformed lines, more than --max_bad_rows 10; the first: {path}:101" in done.output
    )


def interactions(tmp_path, **changes):
    """Users like items of their own third."""
    rng = np.random.default_rng(0)
    users = rng.integers(0, 300, 30_000)
    items = rng.integers(0, 100, 30_000) * 3 + users % 3
    arrays = {
        "train_user": users[:25_000],
        "train_item": items[:25_000],
        "test_user": users[25_000:],
        "test_item": items[25_000:],
    }
    np.savez(tmp_path / "data.npz", **{k: v for k, v in (arrays | changes).items() if v is not None})
    return tmp_path / "data.npz"


def train_interactions(*flags, **options):
    return script_runs.run("train_interactions.py", *flags, **options)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [
        ["--compression", 10], ["--compression", 30], ["--embedding", "full"],
        ["--compression", 10, "--embedding", "narrow"], ["--compression", 5, "--embedding", "hash"],
    ])  # fmt: skip
def test_train_interactions(tmp_path, flags):
    path = interactions(tmp_path)
    train_interactions("--path", path, "--epochs", 6, "--output_dir", tmp_path / "out", *flags)
    found = results(tmp_path / "out")
    assert found["config"]["batch_size"] == 64  # the power of two that leaves 25,000 pairs 300 steps
    assert len(found["auroc_test_per_epoch"]) == 6 and found["auroc_test"] == found["auroc_test_per_epoch"][-1]
    assert found["embedding_bytes"] * (1 if "full" in flags else flags[1]) <= 600 * 64 * 4
    # Items of the other two thirds are told apart: at best 5/6. Less than a float a row, and rows that share, do less.
    assert found["auroc_test"] > (0.5 if 30 in flags or "hash" in flags else 0.75)
    assert 0.47 < found["auroc_popularity"] < 0.53  # all items are equally popular


def test_a_model_worse_than_popularity_is_told_so(tmp_path):
    """Everybody likes the same five of 300 items, and at so low a rate nothing is learned."""
    users = np.arange(3000) % 60
    items = np.append(users[1:] % 5, 299)
    path = interactions(tmp_path, train_user=users, train_item=items, test_user=users, test_item=items)
    flags = ["--epochs", 1, "--learning_rate", 1e-9, "--output_dir", tmp_path / "o"]
    done = train_interactions("--path", path, *flags)
    assert "worse than the items' popularity alone" in done.output
    found = results(tmp_path / "o")
    assert found["auroc_test"] < found["auroc_popularity"]


@pytest.mark.parametrize("broken", ["truncated", "changed"])
def test_broken_interactions(tmp_path, broken):
    path = interactions(tmp_path)
    stored = path.read_bytes()
    middle = len(stored) // 2
    path.write_bytes(
        stored[:middle] if broken == "truncated" else stored[:middle] + bytes(999) + stored[middle + 999 :]
    )
    with pytest.raises(ValueError, match=f"data file {path} is no readable .npz"):
        Interactions.load(path)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"train_item": None}, "has no array train_item"),
        ({"test_user": np.zeros(3)}, "test_user must be a non-empty integer vector"),
        ({"test_user": np.zeros(3, int)}, "3 test_user but 5000 test_item"),
        ({"train_user": np.full(25_000, -1)}, "train_user holds the negative id -1"),
        ({"test_user": np.full(5_000, 10**12)}, "user ids go up to 1000000000000, but only 301 are distinct"),
    ],
)
def test_bad_interactions(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        Interactions.load(interactions(tmp_path, **changes))


def test_bad_interactions_end_the_script(tmp_path):
    path = interactions(tmp_path, train_item=None)
    done = train_interactions("--path", path, "--output_dir", tmp_path / "o", check=False)
    assert done.returncode == 2 and f"error: data file {path} has no array train_item" in done.output


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")
def test_real_criteo_rows_are_learnt(tmp_path):
    """A tenth of the rows, on a plain copy: enough to see that features reach the model."""
    copy = tmp_path / "head.tsv"
    with gzip.open(SHARED / "criteo_80k.tsv.gz", "rb") as source, open(copy, "wb") as target:
        shutil.copyfileobj(source, target)
    flags = [
        "--data_path",
        copy,
        "--compression",
        "100",
        "--limit_train_batches",
        "500",
        "--cache_dir",
        tmp_path / "cache",
    ]
    train(*flags, "--train_fraction", "0.8", "--output_dir", tmp_path / "out", ranks=2)
    assert results(tmp_path / "out")["auroc_held_out"] > 0.70


def test_a_folder_that_another_run_writes_to_is_refused(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import run_folder

    monkeypatch.setattr(run_folder, "_LOCK_SECONDS", 1)
    with (
        run_folder.lock(tmp_path),
        pytest.raises(run_folder.FolderInUseError, match=f"process {os.getpid()}, is writing"),
    ):
        run_folder.lock(tmp_path)
    run_folder.lock(tmp_path).close()


@pytest.mark.slow
def test_a_run_killed_three_times_ends_as_one_left_alone(tmp_path):
    train(*kill_and_resume.FLAGS, "--output_dir", tmp_path / "whole", ranks=2)
    # One worker dies: torchrun starts both anew, and they go on from the checkpoint.
    survivor = kill_and_resume.start(tmp_path / "survivor", restarts=1)
    kill_and_resume.wait_for(b"step 60: validation", survivor, tmp_path / "survivor")
    kill_and_resume.kill_worker(survivor, rank=1)
    assert survivor.wait(timeout=300) == 0
    assert "resumed at step" in (tmp_path / "survivor" / "log.txt").read_text()
    assert kill_and_resume.differences(tmp_path / "whole", tmp_path / "survivor") == []
    # All are killed, and started again by hand.
    kills = kill_and_resume.disturbed(tmp_path / "killed", 3, seed=1)
    assert kills >= 2
    assert kill_and_resume.differences(tmp_path / "whole", tmp_path / "killed") == []
    # The comparison sees a difference where there is one.
    first, second = (torch.tensor([0.0]), torch.tensor([-0.0]))
    assert not kill_and_resume._same_bits(first, second) and kill_and_resume._same_bits(first, first.clone())
