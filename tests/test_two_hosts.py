"""Two hosts (network namespaces, where allowed), two processes each, and a killed worker."""

import json
import os
import subprocess
import sys

import kill_and_resume
import pytest

from benchmarks.limited_network import ADDRESSES, two_namespaces

_PORT = 29617


def host(number, prefix, interface, folder):
    """torchrun on one of the hosts."""
    launcher = [*prefix, sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "2"]
    launcher += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{ADDRESSES[0]}:{_PORT}", "--rdzv-id", "two_hosts"]
    launcher += ["--rdzv-conf", f"is_host={1 - number}", "--local-addr", ADDRESSES[number], "--max-restarts", "1"]
    script = [str(kill_and_resume.ROOT / "examples/train_criteo.py"), *kill_and_resume.FLAGS, "--check_replicas", "5"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": interface}
    with open(folder / f"host{number}.txt", "w") as stream:
        return subprocess.Popen(
            [*launcher, *script, "--output_dir", str(folder)], env=environment, stdout=stream, stderr=stream
        )


@pytest.mark.slow
def test_two_hosts_train_and_survive_a_killed_worker(tmp_path):
    try:
        with two_namespaces(gbit=10) as ranks:
            hosts = [host(n, prefix, interface, tmp_path) for n, (prefix, interface) in enumerate(ranks)]
            try:
                kill_and_resume.wait_for(b"step 30: validation", hosts[0], tmp_path)
                kill_and_resume.kill_worker(hosts[1], rank=1)  # the last of that host's
                codes = [process.wait(timeout=300) for process in hosts]
            finally:
                for process in hosts:
                    if process.poll() is None:
                        kill_and_resume.kill_all(process)
    except RuntimeError as error:
        if "no network of limited bandwidth" not in str(error):
            raise
        pytest.skip(str(error))
    output = "".join((tmp_path / f"host{n}.txt").read_text()[-3000:] for n in range(2))
    assert codes == [0, 0], output
    assert "resumed at step" in (tmp_path / "log.txt").read_text()
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["world_size"] == 4 and found["auroc_test"] > 0.6
