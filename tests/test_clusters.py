"""The cluster examples' requests, as torchx would send them."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
FLAGS = ["--data_path", "/mnt/criteo_tb", "--array_bytes", "10000000"]


def request(script, **settings):
    """What a dry run prints after its heading."""
    environment = os.environ | {"DRYRUN": "1"} | settings
    command = [ROOT / "examples/clusters" / script, *FLAGS]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    return done.stdout.split("=== SCHEDULER REQUEST ===\n")[1]


@pytest.mark.slow
def test_slurm():
    found = request("slurm.sh", NODES="3", GPUS="4", PARTITION="long", RETRIES="2")
    jobs = [line for line in found.splitlines() if line.startswith("#SBATCH --job-name")]
    assert len(jobs) == 3 and all("--partition=long" in job and "--gpus-per-task=4" in job for job in jobs)
    assert "--nnodes 3 --nproc_per_node 4" in found and "export TORCHX_MAX_RETRIES=2" in found
    assert "examples/train_criteo.py --auto_resume --data_path /mnt/criteo_tb --array_bytes 10000000" in found


@pytest.mark.slow
def test_kubernetes():
    job = yaml.safe_load(request("kubernetes.sh", IMAGE="r/pss:7", CLAIM="data", NODES="2", GPUS="4", QUEUE="night"))
    assert job["spec"]["maxRetry"] == 1 and job["spec"]["queue"] == "night" and len(job["spec"]["tasks"]) == 2
    for task in job["spec"]["tasks"]:
        pod = task["template"]["spec"]
        (container,) = pod["containers"]
        assert container["image"] == "r/pss:7" and container["resources"]["limits"]["nvidia.com/gpu"] == "4"
        assert {"name": "mount-0", "persistentVolumeClaim": {"claimName": "data"}} in pod["volumes"]
        assert "--nnodes 2 --nproc_per_node 4" in container["command"][-1]
        assert "--auto_resume --output_dir /mnt/runs/criteo --data_path /mnt/criteo_tb" in container["command"][-1]


@pytest.mark.slow
def test_kubernetes_asks_for_what_it_needs():
    command = [ROOT / "examples/clusters/kubernetes.sh", *FLAGS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and "the image to run" in done.stderr
