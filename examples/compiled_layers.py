"""`compile_dense`: the dense layers of a DLRM by torch.compile, in place."""

import torch
from torchrec.models.dlrm import DLRM


def compile_dense(model: DLRM) -> None:
    """Compiles bottom MLP, interaction and top MLP, which keep their names in state dicts. The lookup is one operator already, and TorchRec's
    pipelines must see the collection by itself."""
    # Pipelines trace the model by FX to find its collections, and run the compiled layers as they are.
    torch._dynamo.config.error_on_nested_fx_trace = False
    for layer in (model.dense_arch, model.inter_arch, model.over_arch):
        layer.compile()
