"""What ends `train_criteo.py` and `train_interactions.py`: one line, status 2, and what was there before stays."""

import json
import os
import random
import resource
import shutil
from contextlib import contextmanager

import forked
import pytest
import script_runs
import torch
from script_mains import end_of

SMALL = ["--synthetic_rows", 2000, "--synthetic_scale", 0.001, "--batch_size", 200, "--test_batch_size", 100, "--epochs", 1,
         "--array_bytes", 200_000]  # fmt: skip
FILES = (".metadata", "__0_0.distcp", "checksums.json", "progress.json")


def train(folder, *flags):
    small = SMALL[:-2] if "full" in flags else SMALL
    return end_of("train_criteo", *small, "--output_dir", folder, *flags)


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def damaged_checkpoints(folder):
    """What --resume says of a flipped bit, and of a cut, in each file of a checkpoint."""
    assert train(folder).status == 0
    found, rng = [], random.Random(0)
    for name in FILES:
        path = folder / "checkpoint" / name
        whole = path.read_bytes()
        position = rng.randrange(len(whole))
        for damaged in (_flipped(whole, position), whole[:position]):
            path.write_bytes(damaged)
            found.append((name, train(folder, "--resume").error))
        path.write_bytes(whole)
    assert train(folder, "--resume").status == 0
    return found


def _flipped(content, position):
    return content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :]


def test_resume_refuses_a_damaged_checkpoint_by_name(tmp_path):
    found = forked.call(damaged_checkpoints, tmp_path)
    assert len(found) == 2 * len(FILES)
    for name, error in found:
        assert str(tmp_path / "checkpoint") in error and f"file {name}" in error, (name, error)
        assert (name == "__0_0.distcp" and "truncated" not in error) == (", '" in error), error  # the tensor


ABSURD = {
    "step is -1": {"step": -1},
    "step is 1e+30": {"step": 1e30},
    "step is 'abc'": {"step": "abc"},
    "step is True": {"step": True},
    "step is 1000000000": {"step": 10**60},
    "it is of step 1000000000, but --epochs 1 ends at": {"step": 10**9},
    "history[0].auroc_val is 7.5, not a number from 0 to 1": {"history": [{"step": 1, "auroc_val": 7.5}]},
    "and step 3": {"step": 3},
    "rows is None": {"rows": None},
    "train_seconds is -3": {"train_seconds": -3},
    "history is {}, not a list": {"history": {}},
    "history[1] is 3, not an object": {"history": [{"step": 1}, 3]},
    "history[0] lacks step": {"history": [{"loss": 1.0}]},
    "history[0].auroc_val is 'x'": {"history": [{"step": 1, "auroc_val": "x"}]},
    "layout is [], not an object": {"layout": []},
    "layout is none": {"layout": ("tables", 3)},
    "config is 'x', not an object": {"config": "x"},
    "best_pass is 1.5": {"best_pass": 1.5},
    "progress.json: best_pass is 99; passes that have ended by its history: 1": {"best_pass": 99},
    "lacks config": {"config": ...},
    "the array's numel is x in the checkpoint": {"layout": ("numel", "x")},
    "--seed was 7 and is now 0": {"config": ("seed", 7)},
}
TEXTS = {
    "holds NaN": b'{"step": NaN}',
    "holds -Infinity": b"[-Infinity]",
    "nested too deeply": b"[" * 200_000,
    "invalid start byte": b'{"step": "\xff"}',
    "Expecting value": b"",
    "it is 3, not an object": b"3",
    "Exceeds the limit": b"1" * 5000,
}


def absurd_progress(folder):
    """What --resume says of each, in a checkpoint without checksums: those would be refused for another reason."""
    assert train(folder).status == 0
    checkpoint = folder / "checkpoint"
    (checkpoint / "checksums.json").unlink()
    progress = json.loads((checkpoint / "progress.json").read_text())
    found = {}
    for wanted, changes in ABSURD.items():
        (key, value), *_ = changes.items()
        changed = dict(progress)
        if value is ...:
            del changed[key]
        elif isinstance(value, tuple):
            changed[key] = progress[key] | dict([value])
        else:
            changed[key] = value
        (checkpoint / "progress.json").write_text(json.dumps(changed))
        found[wanted] = train(folder, "--resume").error
    for wanted, text in TEXTS.items():
        (checkpoint / "progress.json").write_bytes(text)
        found[wanted] = train(folder, "--resume").error
    # Where the checkpoint has none, and where it has another.
    (checkpoint / "progress.json").write_text(json.dumps(progress | {"best_pass": 98}))
    found["best_pass is 98; passes that have ended by its history: 1"] = train(folder, "--resume", "--epochs", 2).error
    found["best_pass is 1, and the pass whose weights are kept is 2"] = another_best_pass(folder / "two")
    (checkpoint / "progress.json").unlink()
    found["No such file"] = train(folder, "--resume").error
    (checkpoint / "progress.json").mkdir()
    found["progress.json is no regular file"] = train(folder, "--auto_resume").error
    return found


def another_best_pass(folder):
    flags = ["--epochs", 2, "--keep_array", "--limit_train_batches", 2]
    assert train(folder, *flags).status == 0
    (folder / "checkpoint" / "checksums.json").unlink()
    file = folder / "checkpoint" / "progress.json"
    progress = json.loads(file.read_text())
    assert progress["best_pass"] == 2
    file.write_text(json.dumps(progress | {"best_pass": 1}))
    return train(folder, *flags, "--resume").error


def test_resume_refuses_an_absurd_progress_by_field(tmp_path):
    for wanted, error in forked.call(absurd_progress, tmp_path).items():
        assert wanted in error, (wanted, error)


NOT_FINITE = {
    "pss": [],
    "narrow": ["--embedding", "narrow"],
    "hash": ["--embedding", "hash"],
    "full": ["--embedding", "full"],
    "torchrec_dlrm": ["--embedding", "full", "--recipe", "torchrec_dlrm"],
    "planner": ["--planner_pss", "auto"],
}


def diverging(folder):
    """What it says of a learning rate that no weight outlives, having saved a good checkpoint before."""
    found = {}
    for name, flags in NOT_FINITE.items():
        here, flags = folder / name, [*flags, "--limit_train_batches", 1]
        assert train(here, *flags).status == 0, name
        (here / "results.json").unlink()
        before = content(here / "checkpoint")
        for rate in ("--learning_rate", "--embedding_learning_rate"):
            ended = train(here, *flags, rate, 1e38)
            assert not (here / "results.json").exists() and content(here / "checkpoint") == before
            assert "validation AUROC" not in ended.output
            found[name, rate] = ended.error
    return found


def test_nothing_that_is_not_finite_is_saved_or_reported(tmp_path):
    for (name, rate), error in forked.call(diverging, tmp_path).items():
        assert "seen at step 1; " in error and f"{tmp_path / name / 'checkpoint'} is of the last" in error, error
        assert "is not finite" in error or "are not finite" in error or " on rank 0" in error, (name, rate, error)


ONE_RANK_DIVERGES = """
import sys
import torch
sys.path.insert(0, {examples!r})
import train_criteo
from script_end import one_line_errors
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist as Pipeline

progress = Pipeline.progress

def spoiled(self, batches):
    loss, logits, labels = progress(self, batches)
    self.steps = getattr(self, "steps", 0) + 1
    return loss * (torch.nan if self.steps == 3 and torch.distributed.get_rank() == 1 else 1), logits, labels

Pipeline.progress = spoiled
with one_line_errors():
    train_criteo.main()
"""


def test_all_ranks_end_where_one_diverges(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(ONE_RANK_DIVERGES.format(examples=str(script_runs.EXAMPLES)))
    flags = [*SMALL, "--batch_size", 100, "--log_freq", 5, "--output_dir", tmp_path / "o"]
    done = script_runs.run(script, *flags, ranks=2, check=False, timeout=60)
    assert done.returncode == 2 and done.output.count("error: the loss is not finite at step 3; seen at step 5;") == 2
    assert not (tmp_path / "o" / "checkpoint").exists()


# Where one element is spoiled that no row of a validation reads, and how the message begins.
SPOILED = {
    "array": ([], "model", "embedding_bag_collection.array"),
    "average": ([], "average", "embedding_bag_collection.array"),
    "moment": ([], "optimizer", "array.exp_avg_sq"),
    "best pass": (["--epochs", 2], "best_pass", "over_arch.model.1.bias"),
    "table": (["--embedding", "full"], "model", "t_cat_3.weight"),
    "table's state": (["--embedding", "full"], "optimizer", "t_cat_3.weight.exp_avg_sq"),
    "table's average": (["--embedding", "full"], "average", "t_cat_3.weight.average"),
    "table's sum": (["--embedding", "full", "--recipe", "torchrec_dlrm"], "optimizer", "t_cat_3.momentum1"),
    "planned table": (["--planner_pss", "never"], "model", "t_cat_3.weight"),
}


def spoiled(folder):
    import criteo_trainer

    trained, found = criteo_trainer.Trainer._train, {}
    for case, (flags, part, name) in SPOILED.items():

        def spoil(self, *args, part=part, name=name):
            trained(self, *args)
            value = next(value for key, value in leaves(self._state()[part]) if key.endswith(name))
            local = value.local_shards()[0].tensor if hasattr(value, "local_shards") else value
            local.view(-1)[-1] = float("nan")

        criteo_trainer.Trainer._train = spoil
        ended = train(folder / case, *flags, "--limit_train_batches", 1)
        assert not (folder / case / "checkpoint").exists() and "validation AUROC" not in ended.output
        found[case] = ended.error
    return found


def leaves(value, prefix=""):
    if isinstance(value, dict):
        for key, inside in value.items():
            yield from leaves(inside, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def test_one_element_that_no_validation_reads_is_found(tmp_path):
    for case, error in forked.call(spoiled, tmp_path).items():
        _, part, name = SPOILED[case]
        assert error.startswith(f"{part}.") and f"{name}[" in error and " is nan on rank 0; seen at step 1; " in error


@contextmanager
def largest_file(size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def full_disks(folder):
    """What it says where no file may be larger: of the log, the checkpoint, and what comes at the end."""
    assert train(folder).status == 0
    before = content(folder / "checkpoint")
    found = {}
    sizes = {"log.txt": 100, "checkpoint": 4000, "results.json": 0}
    largest = max(len(value) for value in before.values())
    os.truncate(folder / "log.txt", 0)
    with largest_file(sizes["log.txt"]):
        found["log.txt"] = train(folder).error
    os.truncate(folder / "log.txt", 0)
    with largest_file(sizes["checkpoint"]):
        found["checkpoint"] = train(folder).error
        assert content(folder / "checkpoint") == before and not (folder / "checkpoint.new").exists()
    (folder / "results.json").unlink()
    import train_criteo

    write = train_criteo.write_results
    for name, size in (("results.json", 1000), ("curves.png", 20_000)):

        def limited(*args, size=size):
            with largest_file(size):
                write(*args)

        train_criteo.write_results = limited
        found[name] = train(folder).error
    assert largest > 4000 and json.loads((folder / "results.json").read_text())["steps"] == 10
    assert not [path for path in folder.rglob("*") if path.suffix == ".tmp"]
    return found


def test_a_full_disk(tmp_path):
    """EFBIG stands for ENOSPC: both come from `write`."""
    for name, error in forked.call(full_disks, tmp_path).items():
        assert "File too large" in error and str(tmp_path / name) in error, error


def links(folder):
    """What it says of a link in each of the places that it writes to."""
    found, outside = {}, folder / "outside"
    outside.mkdir()
    (outside / "file").write_text("precious")
    there = folder / "out"
    for name in (".lock", "log.txt", "results.json", "curves.png"):
        there.mkdir()
        (there / name).symlink_to(outside / "file")
        found[name] = train(there).error
        shutil.rmtree(there)
    for name in ("checkpoint", "checkpoint.new", "checkpoint.old", "tensorboard"):
        there.mkdir()
        (there / name).symlink_to(outside)
        found[name] = train(there).error
        shutil.rmtree(there)
    for name in ("log.txt", ".lock"):
        there.mkdir()
        (there / name).symlink_to(outside / "not there yet")
        found[name] = train(there).error
        shutil.rmtree(there)
    (folder / "real").mkdir()
    there.symlink_to(folder / "real")  # the folder itself may be one
    assert train(there).status == 0 and (folder / "real" / "results.json").exists()
    assert [path.name for path in outside.iterdir()] == ["file"] and (outside / "file").read_text() == "precious"
    return found


def test_links_in_the_output_folder_are_refused(tmp_path):
    for name, error in forked.call(links, tmp_path).items():
        assert f"{tmp_path / 'out' / name} is a symbolic link to {tmp_path / 'outside'}" in error, error


def test_both_scripts_take_the_lock(tmp_path):
    from run_folder import lock
    from test_scripts import interactions

    with lock(tmp_path):
        for error in forked.call(in_use, tmp_path, interactions(tmp_path)):
            assert f"another run, process {os.getpid()}, is writing to {tmp_path}" in error


def in_use(folder, path):
    import run_folder

    run_folder._LOCK_SECONDS = 1
    cases = {"train_criteo": SMALL, "train_interactions": ["--path", path]}
    return [end_of(script, *flags, "--output_dir", folder).error for script, flags in cases.items()]


def diverging_interactions(folder, path):
    import train_interactions

    errors = [
        end_of("train_interactions", "--path", path, "--output_dir", folder, *flags).error
        for flags in (["--learning_rate", 1e30], ["--learning_rate", 1e38, "--embedding", "full"])
    ]
    # Weights that only the last epoch's last step has spoiled, and only in a row that no pair reads.
    step, build, built = torch.optim.Adam.step, train_interactions.build, []

    def keeping(*args):
        built.append(build(*args))
        return built[-1]

    def spoiling(*args, **kwargs):
        found = step(*args, **kwargs)
        built[0][0].embeddings.array.data[-1] = float("nan")
        return found

    train_interactions.build, torch.optim.Adam.step = keeping, spoiling
    flags = ["--embedding", "narrow", "--compression", 2, "--epochs", 1]
    errors.append(end_of("train_interactions", "--path", path, "--output_dir", folder, *flags).error)
    return errors


def test_interactions_that_diverge_have_no_result(tmp_path):
    from test_scripts import interactions

    first, second, third = forked.call(diverging_interactions, tmp_path / "o", interactions(tmp_path))
    assert "the loss is nan at step" in first and "a step is too large for the weights' type" in second
    assert "embeddings.array[" in third and "is nan" in third
    assert not (tmp_path / "o" / "results.json").exists()


@pytest.mark.parametrize("limit", [resource.RLIMIT_AS, resource.RLIMIT_NOFILE], ids=["memory", "files"])
def test_limits_of_the_process(tmp_path, limit):
    error = forked.call(limited, tmp_path, limit)
    assert ("out of memory: " if limit == resource.RLIMIT_AS else "Too many open files") in error


def limited(folder, limit):
    import criteo_trainer  # noqa: F401

    if limit == resource.RLIMIT_AS:
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        # Room for threads, whose start glibc aborts without; none for the array.
        resource.setrlimit(limit, (used + (1 << 30), resource.RLIM_INFINITY))
        return train(folder, "--array_bytes", 1 << 32, "--synthetic_scale", 10).error
    resource.setrlimit(limit, (len(os.listdir("/proc/self/fd")) + 2, 4096))
    return train(folder).error
