"""Steps that are replayed equal those that are not: batches are copied in, other shapes go without, rates are seen, and nothing stale is
replayed. Without a GPU the graph is one that repeats what it has seen, with the numbers of then."""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper

from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection
from torchrec_pss.datasets.rows import RowBlock
from torchrec_pss.models import ClickModel, ClickModelConfig
from torchrec_pss.models.click_model import INTERACTIONS
from torchrec_pss.ops import quantize
from torchrec_pss.optim import WeightAverage

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import criteo_flags
from graphed_pipeline import CudaCapture, GraphedPipeline, leaf_optimizers

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
NAMES = ["a", "b"]
ROWS, BATCH = 50, 8
SIZES = [BATCH] * 9 + [3] + [BATCH] * 4


class Repeated:
    """Of an optimizer's groups a graph keeps what is no tensor; of a batch, the tensors that it was given."""

    def __init__(self, optimizer):
        self.optimizers, self.captures = leaf_optimizers(optimizer), 0

    def warm_up(self, step):
        return step()

    def capture(self, step):
        self.captures += 1
        then = [dict(group) for o in self.optimizers for group in o.param_groups]
        outputs = [torch.zeros(()), torch.zeros(BATCH), torch.zeros(BATCH)]

        def replay():
            groups = [group for o in self.optimizers for group in o.param_groups]
            now = [dict(group) for group in groups]
            for group, kept in zip(groups, then, strict=True):
                group.update(kept)
            for output, made in zip(outputs, step(), strict=True):
                output.copy_(made)
            for group, kept in zip(groups, now, strict=True):
                group.update(kept)

        return replay, outputs


def made(tensor_rate=True):
    """A model, its optimizer and the average of its weights."""
    torch.manual_seed(0)
    tables = [EmbeddingBagConfig(name=f"t_{n}", num_embeddings=ROWS, embedding_dim=4, feature_names=[n]) for n in NAMES]
    ebc = PSSEmbeddingBagCollection(tables, False, DEVICE, config=PSSConfig(array_bytes=400))
    model = ClickModel(ClickModelConfig(3, [4], [4, 1]).dlrm(ebc, DEVICE))
    rate = torch.tensor(0.01, device=DEVICE) if tensor_rate else 0.01
    options = {"fused": True} | ({"capturable": True} if tensor_rate else {})
    optimizer = KeyedOptimizerWrapper(dict(model.named_parameters()), partial(torch.optim.Adam, lr=rate, **options))
    return model, CombinedOptimizer([optimizer]), WeightAverage(dict(model.named_parameters()), every=2)


def batches(sizes=SIZES, lengths=False):
    rng = np.random.default_rng(0)
    for size in sizes:
        counts = rng.permutation([1, 3] * size).astype(np.int32).reshape(2, size) if lengths else None
        ids = rng.integers(0, ROWS, (2, size) if counts is None else counts.sum())
        dense, labels = rng.normal(size=(size, 3)).astype(np.float32), rng.integers(0, 2, size).astype(np.float32)
        batch = RowBlock(dense, ids, labels, counts).batch(NAMES)
        yield batch.pin_memory() if DEVICE.type == "cuda" else batch


def set_rate(optimizer, step):
    """A schedule."""
    for group in optimizer.param_groups:
        rate = 0.01 / (1 + step)
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def trained(progress, model, optimizer, average, given):
    """Losses of all steps, and parameters, moments and averages after them."""
    losses, iterator = [], iter(given)
    for step in range(len(SIZES)):
        set_rate(optimizer, step)
        losses.append(float(progress(iterator)[0]))
        average.step()
    moments = [v for p in model.parameters() for v in optimizer.optimizers[0][1].state[p].values()]
    return losses, [*model.state_dict().values(), *moments, *average.state_dict().values()]


def eager(model, optimizer):
    def progress(iterator):
        batch = next(iterator).to(DEVICE)
        optimizer.zero_grad()
        loss, outputs = model(batch)
        loss.backward()
        optimizer.step()
        return outputs

    return progress


def graphed(model, optimizer):
    capture = CudaCapture(DEVICE) if DEVICE.type == "cuda" else Repeated(optimizer)
    return GraphedPipeline(model, optimizer, DEVICE, capture)


@pytest.mark.parametrize("kind", INTERACTIONS)
def test_no_layer_is_left_on_another_device(kind, monkeypatch):
    """TorchRec's interaction takes no device; what is on the CPU would be copied in a captured step, which fails."""
    moved, branches = [], {f"interaction_branch{n}_layer_sizes": [4, 4] for n in (1, 2)}
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, device: moved.append((module, device)))
    tables = [EmbeddingBagConfig(name="t", num_embeddings=ROWS, embedding_dim=4, feature_names=["a"])]
    ebc = PSSEmbeddingBagCollection(tables, False, "cpu", config=PSSConfig(array_bytes=400))
    dlrm = ClickModelConfig(3, [4], [4, 4, 1], interaction_type=kind, **branches).dlrm(ebc, torch.device("cpu"))
    assert moved == [(dlrm.inter_arch, torch.device("cpu"))]


@pytest.mark.parametrize("lengths", [False, True])
def test_replayed_steps_equal_others(lengths):
    plain, own = made(), made()
    expected = trained(eager(*plain[:2]), *plain, batches(lengths=lengths))
    pipeline = graphed(*own[:2])
    found = trained(pipeline.progress, *own, batches(lengths=lengths))
    tolerance = {"rtol": 0, "atol": 0} if DEVICE.type == "cpu" else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(found, expected, **tolerance)
    assert (pipeline.replayed, pipeline.eager) == (len(SIZES) - 4, 4)


@pytest.mark.skipif(DEVICE.type == "cuda", reason="torch itself refuses to capture numbers")
def test_a_rate_that_is_a_number_is_captured_anew():
    plain, own = made(tensor_rate=False), made(tensor_rate=False)
    expected = trained(eager(*plain[:2]), *plain, batches())
    pipeline = graphed(*own[:2])
    torch.testing.assert_close(trained(pipeline.progress, *own, batches()), expected, rtol=0, atol=0)
    assert pipeline._capture.captures == pipeline.replayed


def test_a_state_that_has_moved_is_captured_anew():
    model, optimizer, _ = made()
    pipeline, iterator = graphed(model, optimizer), iter(batches([BATCH] * 6))
    for _ in range(5):
        pipeline.progress(iterator)
    first, state = pipeline._replay, optimizer.optimizers[0][1].state[next(model.parameters())]
    state["exp_avg"] = torch.zeros_like(state["exp_avg"])
    pipeline.progress(iterator)
    assert pipeline._replay is not first and state["exp_avg"].any()


def test_outputs_gradients_and_evaluation():
    model, optimizer, _ = made()
    pipeline, iterator = graphed(model, optimizer), iter(batches([BATCH] * 5 + [2, BATCH]))
    kept = [pipeline.progress(iterator) for _ in range(5)]
    assert not torch.equal(kept[3][1], kept[4][1])  # not one tensor, overwritten
    pipeline.progress(iterator)
    assert pipeline.eager == 4
    pipeline.progress(iterator)
    with pytest.raises(StopIteration):
        pipeline.progress(iterator)
    model.eval()
    before = [p.clone() for p in model.parameters()]
    (batch,) = batches([4])
    with torch.no_grad():
        _, logits, labels = pipeline.progress(iter([batch]))
        assert torch.equal(logits, model(batch.to(DEVICE))[1][1]) and torch.equal(labels.cpu(), batch.labels)
    assert all(map(torch.equal, before, model.parameters())) and pipeline.eager == 4


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--embedding", "full"], "--embedding full"),
        (["--planner_pss", "auto"], "--planner_pss"),
        (["--adagrad"], "--optimizer adagrad"),
    ],
)
def test_what_is_not_captured_is_refused(flags, told, capsys):
    with pytest.raises(SystemExit):
        criteo_flags.parse(["--cuda_graph", *flags])
    assert f"--cuda_graph makes no sense with {told}" in capsys.readouterr().err


@pytest.mark.skipif(DEVICE.type == "cuda", reason="there is a GPU")
@pytest.mark.parametrize("flag", ["--cuda_graph", "--pin_memory"])
def test_flags_that_need_a_gpu_say_so(flag, tmp_path):
    from script_mains import end_of

    ended = end_of("train_criteo", "--synthetic_rows", 2000, "--synthetic_scale", 0.001, "--output_dir", tmp_path, flag)
    assert ended.error == f"{flag} needs a GPU, and there is none"


class Recorded(TorchDispatchMode):
    """The operators that are called within."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **kwargs or {})


def test_a_step_waits_for_nothing():
    """No tensor is made of numbers on the host, no number and no shape is asked of the device: neither can be captured."""
    model, optimizer, _ = made()
    pipeline, iterator = graphed(model, optimizer), iter(batches([BATCH] * 4))
    for _ in range(4):
        pipeline.progress(iterator)
    with Recorded() as of_step:
        pipeline._step()
    with Recorded() as of_bits:  # what serves a GPU
        quantize.reference(torch.randn(100, device=DEVICE), 4)
    waiting = {"lift_fresh", "_local_scalar_dense", "nonzero", "masked_select", "_unique2", "repeat_interleave"}
    assert {"lookup", "lookup_backward"} <= of_step.names and "full" in of_bits.names
    assert not waiting & (of_step.names | of_bits.names)
