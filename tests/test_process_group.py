"""Workers that torchrun starts anew find each other, whatever their predecessors left in the store."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import kill_and_resume
import pytest
import script_runs
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from process_group import agree_on_start


def start(store, world_size, delays):
    """What each rank arrives at, when it comes after so many seconds."""
    found = [None] * world_size

    def worker(rank):
        time.sleep(delays[rank])
        found[rank] = agree_on_start(store, rank, world_size)

    threads = [threading.Thread(target=worker, args=(rank,), daemon=True) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert None not in found, f"ranks {[r for r, f in enumerate(found) if f is None]} have not agreed"
    return found


@pytest.mark.parametrize(
    "delays", [(0, 0, 0, 0), (0.3, 0, 0, 0), (0, 0.3, 0.2, 0.4)], ids=["together", "last", "first"]
)
def test_each_start_has_one_name_of_its_own(delays):
    store, names = dist.HashStore(), []
    for _ in range(3):
        found = start(store, 4, delays)
        assert len(set(found)) == 1
        names.append(found[0])
    assert len({name for name, _ in names}) == 3 and [number for _, number in names] == [1, 2, 3]


def test_a_start_that_was_cut_short_disturbs_no_later_one():
    store = dist.HashStore()
    start(store, 3, (0, 0, 0))
    for rank in (1, 2):  # killed before rank 0 came
        store.set(f"rank/{rank}", f"dead {rank}")
    found = start(store, 3, (0, 0.3, 0.3))
    assert len(set(found)) == 1 and found[0][1] == 2


def test_one_process_alone():
    assert agree_on_start(dist.HashStore(), 0, 1)[1] == 1


@pytest.mark.slow
def test_a_process_that_does_not_answer_ends_the_others(tmp_path):
    root = Path(__file__).parent.parent
    command = [sys.executable, root / "examples/train_criteo.py", *kill_and_resume.FLAGS, "--collective_timeout_s", "4"]
    ranks = [
        subprocess.Popen(
            [*command, "--output_dir", tmp_path], env=os.environ | told | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )
        for told in script_runs.launched(2)
    ]  # fmt: skip
    try:
        kill_and_resume.wait_for(b" samples/s", ranks[0], tmp_path)
        os.kill(ranks[1].pid, signal.SIGSTOP)
        output, _ = ranks[0].communicate(timeout=60)
    finally:
        for process in ranks:
            process.kill()
    assert ranks[0].returncode not in (0, -signal.SIGKILL)
    assert "another process has died, or has not answered for 4 s (--collective_timeout_s), at step" in output
