"""Runs files of tests for upstream_parity.py, each in a fork of this process, which has imported TorchRec already: that takes longer than
most files. A line of stdin is JSON with ``options`` of pytest, ``log`` (a path) and ``limit_s``; its answer is a line with the exit
status, or null where the time was up."""

import json
import os
import signal
import sys
import time

import pytest
import torchrec.distributed.model_parallel
import torchrec.distributed.planner
import torchrec.distributed.train_pipeline  # noqa: F401

_POLL_S = 0.05


def run(options: list[str], log: str, limit_s: float) -> int | None:
    pid = os.fork()
    if pid == 0:
        os.setsid()
        for flags, path, streams in (
            (os.O_RDONLY, os.devnull, [0]),
            (os.O_CREAT | os.O_TRUNC | os.O_WRONLY, log, [1, 2]),
        ):
            descriptor = os.open(path, flags, 0o666)
            for stream in streams:
                os.dup2(descriptor, stream)
        raise SystemExit(pytest.main(options))
    deadline = time.monotonic() + limit_s
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None
        time.sleep(_POLL_S)


if __name__ == "__main__":
    while asked := sys.stdin.readline():
        print(json.dumps(run(**json.loads(asked))), flush=True)
