"""What a step in backward lets into a CUDA graph: numbers that are the same at every step, and no others."""

import pytest
import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection
from torchrec_pss.ops.update_kinds import UpdateKind
from torchrec_pss.optim.step_in_backward import _require_constant

CHANGING = [
    (torch.optim.Adam, {"lr": 0.01}, UpdateKind.ADAM, "bias corrections"),
    (torch.optim.AdamW, {"lr": 0.01}, UpdateKind.ADAMW, "bias corrections"),
    (torch.optim.SGD, {"lr": torch.tensor(0.01)}, UpdateKind.SGD, "lr is a tensor"),
    (torch.optim.Adagrad, {"lr": 0.01, "lr_decay": 0.1}, UpdateKind.ADAGRAD, "lr_decay"),
]
CONSTANT = [(torch.optim.SGD, {"lr": 0.01}, UpdateKind.SGD), (torch.optim.Adagrad, {"lr": 0.01}, UpdateKind.ADAGRAD)]


@pytest.mark.parametrize(("optimizer_class", "options", "kind", "told"), CHANGING)
def test_numbers_that_change_are_refused(optimizer_class, options, kind, told):
    optimizer = optimizer_class([torch.nn.Parameter(torch.zeros(4))], **options)
    with pytest.raises(RuntimeError, match=told):
        _require_constant(kind, optimizer.param_groups[0])


@pytest.mark.parametrize(("optimizer_class", "options", "kind"), CONSTANT)
def test_numbers_that_stay_are_not(optimizer_class, options, kind):
    _require_constant(kind, optimizer_class([torch.nn.Parameter(torch.zeros(4))], **options).param_groups[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("optimizer_class", [torch.optim.SGD, torch.optim.Adam])
def test_a_captured_step_in_backward(optimizer_class):
    tables = [EmbeddingBagConfig(name="t", num_embeddings=1000, embedding_dim=8, feature_names=["f"])]
    ebc = PSSEmbeddingBagCollection(tables, False, "cuda", config=PSSConfig(array_bytes=1024))
    ebc.step_in_backward(optimizer_class([ebc.array], lr=0.01))
    ids, lengths = torch.arange(16, device="cuda"), torch.ones(16, dtype=torch.int32, device="cuda")

    def step():
        kjt = KeyedJaggedTensor(["f"], ids, lengths=lengths, stride=16)
        ebc(kjt).values().sum().backward()

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    if optimizer_class is torch.optim.Adam:
        with pytest.raises(RuntimeError, match="bias corrections"), torch.cuda.graph(graph):
            step()
        return
    before = ebc.array.detach().clone()
    with torch.cuda.graph(graph):
        step()
    graph.replay()
    once = ebc.array.detach().clone()
    graph.replay()
    torch.cuda.synchronize()
    assert not torch.equal(once, before)
    torch.testing.assert_close(ebc.array.detach() - once, once - before, rtol=1e-3, atol=1e-6)
