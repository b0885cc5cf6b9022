#!/bin/sh
# train_criteo.py on Kubernetes (with Volcano), by torchx; pip install 'kubernetes>=25' first:
#     IMAGE=registry.example.com/torchrec_pss:1 CLAIM=training examples/clusters/kubernetes.sh --data_path /mnt/criteo_tb --array_bytes 10000000
# IMAGE is built from examples/clusters/Dockerfile; CLAIM is a persistent volume claim with the data, which all pods may write to.
# DRYRUN=1 prints the request instead of sending it.
set -e
: "${IMAGE:?the image to run, see examples/clusters/Dockerfile}" "${CLAIM:?a persistent volume claim, mounted at /mnt}"
: "${NODES:=2}" "${GPUS:=8}" "${CPUS:=64}" "${MEMORY_MB:=262144}" "${QUEUE:=default}" "${NAMESPACE:=default}" "${RETRIES:=1}"
PATH="$PWD/.venv/bin:$PATH"
# No workspace: the image has the code, and nothing is built here.
exec torchx run --workspace "" ${DRYRUN:+--dryrun} -s kubernetes -cfg "queue=$QUEUE,namespace=$NAMESPACE" \
	dist.ddp -j "${NODES}x${GPUS}" --gpu "$GPUS" --cpu "$CPUS" --memMB "$MEMORY_MB" --max_retries "$RETRIES" \
	--image "$IMAGE" --mounts "type=volume,src=$CLAIM,dst=/mnt" \
	--script examples/train_criteo.py -- --auto_resume --output_dir /mnt/runs/criteo "$@"
