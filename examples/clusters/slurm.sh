#!/bin/sh
# train_criteo.py on a Slurm cluster, by torchx; run from the project's root on a node that has sbatch:
#     NODES=2 GPUS=8 PARTITION=gpu examples/clusters/slurm.sh --data_path /data/criteo_tb --array_bytes 10000000
# The project and its environment must be at the same place on all nodes; --output_dir and the data on a file system that all see.
# DRYRUN=1 prints the request instead of sending it.
set -e
: "${NODES:=2}" "${GPUS:=8}" "${CPUS:=64}" "${MEMORY_MB:=262144}" "${PARTITION:=gpu}" "${RETRIES:=1}"
PATH="$PWD/.venv/bin:$PATH"
exec torchx run ${DRYRUN:+--dryrun} -s slurm -cfg "partition=$PARTITION" \
	dist.ddp -j "${NODES}x${GPUS}" --gpu "$GPUS" --cpu "$CPUS" --memMB "$MEMORY_MB" --max_retries "$RETRIES" \
	--script examples/train_criteo.py -- --auto_resume "$@"
