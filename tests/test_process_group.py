"""Workers that torchrun starts anew find each other, whatever their predecessors left in the store."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import forked
import kill_and_resume
import pytest
import script_runs
import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
import _launcher
import process_group
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


WRONG = {
    "RANK=5 is not a whole number from 0 to 1 of WORLD_SIZE=2": {"RANK": "5"},
    "RANK=-1 is not a whole number": {"RANK": "-1"},
    "RANK=abc is not a whole number": {"RANK": "abc"},
    "RANK=0 is set, but WORLD_SIZE is not": {"WORLD_SIZE": None},
    "WORLD_SIZE=2 is set, but RANK is not": {"RANK": None},
    "WORLD_SIZE=0 is not a whole number from 1 to 1048576": {"WORLD_SIZE": "0"},
    "WORLD_SIZE=1_0 is not a whole number": {"WORLD_SIZE": "1_0"},
    "MASTER_PORT=٢٩٥ is not a whole number": {"MASTER_PORT": "٢٩٥"},
    "WORLD_SIZE=1e3 is not a whole number": {"WORLD_SIZE": "1e3"},
    "LOCAL_RANK=x is not a whole number": {"LOCAL_RANK": "x"},
    "LOCAL_RANK=2 is not a whole number from 0 to 1 of 2 on a host": {"LOCAL_RANK": "2"},
    "LOCAL_RANK=-3 is not": {"RANK": None, "WORLD_SIZE": None, "LOCAL_RANK": "-3"},
    "LOCAL_WORLD_SIZE=3 is not a whole number from 1 to 2": {"LOCAL_WORLD_SIZE": "3"},
    "MASTER_ADDR is not set": {"MASTER_ADDR": None},
    "MASTER_PORT= is not a whole number from 1 to 65535": {"MASTER_PORT": None},
    "MASTER_PORT=99999 is not": {"MASTER_PORT": "99999"},
    "MASTER_PORT=0 is not": {"MASTER_PORT": "0"},
    "MASTER_PORT=http is not": {"MASTER_PORT": "http"},
    "TORCHELASTIC_RESTART_COUNT=many is not": {"TORCHELASTIC_RESTART_COUNT": "many"},
}


def told(monkeypatch, **changes):
    for name, value in (script_runs.launched(2)[0] | changes).items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)


@pytest.mark.parametrize("message", WRONG)
def test_a_launcher_that_says_what_cannot_be(monkeypatch, message):
    told(monkeypatch, **WRONG[message])
    with pytest.raises(ValueError, match=message):
        _launcher.check_environment()
    told(monkeypatch, RANK=None, WORLD_SIZE=None)
    _launcher.check_environment()


@pytest.mark.parametrize("script", ["train_criteo.py", "train_interactions.py"])
def test_it_is_said_in_one_line_before_anything_is_imported(script):
    """torchmetrics reads LOCAL_RANK when it is imported."""
    command = [sys.executable, Path(__file__).parent.parent / "examples" / script]
    done = subprocess.run(command, env=os.environ | {"LOCAL_RANK": "x"}, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error: LOCAL_RANK=x is not a whole number of at least 0\n"


def test_a_gpu_that_is_not_there(monkeypatch):
    told(monkeypatch, LOCAL_RANK="1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="LOCAL_RANK=1, but this host has 1 GPUs"):
        process_group.own_device()


def test_rank_0_cannot_listen_or_is_unknown(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        told(monkeypatch, MASTER_PORT=port)
        with pytest.raises(
            ValueError, match=f"MASTER_ADDR=localhost MASTER_PORT={port}: rank 0 cannot listen there: Address"
        ):
            process_group._store(0, 2, timedelta(seconds=5))
    monkeypatch.setattr(process_group, "_NAME_SECONDS", 0.1)
    told(monkeypatch, MASTER_ADDR="no.such.host.invalid")
    with pytest.raises(ValueError, match="MASTER_ADDR=no.such.host.invalid is unknown: "):
        process_group._store(1, 2, timedelta(seconds=5))
    told(monkeypatch)
    with pytest.raises(process_group.LostPeerError, match="the ranks do not find each other: .*1/2 clients joined"):
        process_group._store(0, 2, timedelta(seconds=1))


def listening(environment):
    """Addresses that this process listens at, once it has joined."""
    os.environ.update(environment)
    process_group.join("gloo", timedelta(seconds=30))
    dist.all_reduce(torch.ones(1))
    own = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            own.add(os.readlink(f"/proc/self/fd/{descriptor}"))
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in own:
                found.append(fields[1].split(":")[0])
    dist.barrier()
    dist.destroy_process_group()
    return found


def test_a_process_alone_listens_at_loopback_only():
    one = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29555"}
    for environment in ({}, one):  # without a launcher, and told by one
        assert set(forked.call(listening, environment)) == {"0100007F"}


def test_ranks_of_one_host_listen_at_loopback_only():
    """Where the launcher says localhost, and rank 0 has the store."""
    with ThreadPoolExecutor() as pool:
        for found in pool.map(lambda told: forked.call(listening, told), script_runs.launched(2)):
            assert set(found) == {"0100007F"}


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
