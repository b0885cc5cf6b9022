"""FBGEMM's TBE of a problem: its CUDA kernels, on a CPU its CPU kernels, and its Triton TBE where one is installed."""

import importlib
from collections.abc import Callable

import torch
from torch import nn

# TorchRec's later sources have the second; no release of FBGEMM or TorchRec up to 1.8.0 has either.
_TRITON_TBE = (
    "deeplearning.fbgemm.fbgemm_gpu.fb.triton.triton_table_batched_embeddings",
    "torchrec.distributed.triton_tbe.triton_table_batched_embeddings",
)
NO_TRITON_TBE = "no Triton TBE is installed: neither FBGEMM nor TorchRec has one here"


def tables(
    rows: list[int], dim: int, device: str, optimizer: str = "EXACT_SGD", rate: float = 0.01, half: bool = False
) -> nn.Module:
    """A TBE of a table for each of ``rows``, all pooled by sum.

    Args:
        optimizer: name in `EmbOptimType`, fused into backward.
        half: fp16 rows instead of fp32.

    Raises:
        ImportError, OSError, RuntimeError: FBGEMM is missing, or was not built for this torch.
    """
    from fbgemm_gpu.split_embedding_configs import EmbOptimType, SparseType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    place = {
        "cuda": (EmbeddingLocation.DEVICE, ComputeDevice.CUDA),
        "cpu": (EmbeddingLocation.HOST, ComputeDevice.CPU),
    }[device]
    tbe = SplitTableBatchedEmbeddingBagsCodegen(
        [(n, dim, *place) for n in rows],
        optimizer=EmbOptimType[optimizer],
        learning_rate=rate,
        weights_precision=SparseType.FP16 if half else SparseType.FP32,
    )
    for weight in tbe.split_embedding_weights():
        weight.data.uniform_(-0.05, 0.05)
    return tbe


def triton_tables(rows: list[int], dim: int) -> nn.Module | None:
    """The Triton TBE with plain SGD; None where no installed package has one."""
    for name in _TRITON_TBE:
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        from fbgemm_gpu.split_embedding_configs import EmbOptimType

        tbe = module.TritonTableBatchedEmbeddingBags(
            embedding_specs=[(n, dim) for n in rows],
            feature_table_map=list(range(len(rows))),
            stochastic_rounding=False,
            learning_rate=0.01,
            optimizer=EmbOptimType.EXACT_SGD,
            device=torch.device("cuda"),
        )
        with torch.no_grad():
            tbe.weight.uniform_(-0.05, 0.05)
        return tbe
    return None


def steps_of(tbe: nn.Module, inputs: list[tuple], grad: torch.Tensor) -> tuple[Callable, Callable]:
    """Forward, and forward with backward and its step, of a batch by number."""
    forward = torch.no_grad()(lambda batch: tbe(*inputs[batch]))
    return forward, lambda batch: tbe(*inputs[batch]).backward(grad)
