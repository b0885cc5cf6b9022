"""`GraphedPipeline`: training steps captured once in a CUDA graph and replayed, in the place of TorchRec's pipeline.

A replayed step is one launch, so that small batches no longer wait for the host. A graph keeps addresses, shapes and numbers as they
were at capture. Hence batches are copied into tensors of its own, a batch of another shape takes the step without the graph, and
before every replay is looked whether what the optimizers keep has moved or changed; then the step is captured anew.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import nn
from torchrec.datasets.utils import Batch
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

logger: logging.Logger = logging.getLogger("__main__")

Outputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
_WARM_STEPS = 3  # before capture: kernels are compiled, states and buffers made


class Capture(Protocol):
    """How steps are captured."""

    def warm_up(self, step: Callable[[], Outputs]) -> Outputs:
        """Takes the step, as one to come before capture must be taken."""
        ...

    def capture(self, step: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        """What takes the step anew whenever it is called, and the tensors that then hold its outputs."""
        ...


class CudaCapture:
    """Capture in a `torch.cuda.CUDAGraph`."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)

    def warm_up(self, step: Callable[[], Outputs]) -> Outputs:
        """On a stream that is not the default one, as `torch.cuda.make_graphed_callables` does."""
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            outputs = step()
        here = torch.cuda.current_stream(self._device)
        here.wait_stream(self._stream)
        for tensor in outputs:
            tensor.record_stream(here)
        return outputs

    def capture(self, step: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        torch.cuda.synchronize(self._device)
        graph = torch.cuda.CUDAGraph()
        # Another thread reads ahead meanwhile, and pins memory.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            outputs = step()
        return graph.replay, outputs


class GraphedPipeline:
    """`progress` as of `torchrec.distributed.train_pipeline.TrainPipelineBase`. For a model on one process, whose forward and backward
    exchange nothing.

    Args:
        model: returns the loss, and outputs that are detached (`torchrec_pss.models.ClickModel`).
        optimizer: its numbers are frozen in a graph unless they are tensors: a rate that changes must be one, on the device.
        device: of model and steps.
        capture: how; None for `CudaCapture`.

    Attributes:
        replayed, eager: training steps so far, with and without the graph.
    """

    def __init__(
        self, model: nn.Module, optimizer: KeyedOptimizer, device: torch.device, capture: Capture | None = None
    ) -> None:
        self._model, self._optimizer, self._device = model, optimizer, device
        self._capture: Capture = CudaCapture(device) if capture is None else capture
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._optimizers = leaf_optimizers(optimizer)
        self._iterator: Iterator[Batch] | None = None
        self._next: Batch | None = None
        self._static: Batch | None = None
        self._replay: Callable[[], None] | None = None
        self._outputs: Outputs | None = None
        self._frozen: tuple[Any, ...] = ()
        self._gradients: list[tuple[nn.Parameter, torch.Tensor | None]] = []
        self._warm = 0  # steps of the present shapes
        self.replayed = self.eager = 0

    def progress(self, iterator: Iterator[Batch]) -> Outputs:
        """A training step, or in evaluation forward, of the next batch; the model's outputs, not those of another step.

        Raises:
            StopIteration: there is no batch left.
            RuntimeError: another iterator was not read to its end.
        """
        batch = self._read(iterator)
        if not self._model.training:
            return self._model(batch)[1]
        if self._static is None or not _same_shapes(batch, self._static):
            if self._replay is not None:
                return self._without_graph(batch)
            self._static, self._warm = _emptied(batch), 0
        _fill(self._static, batch)
        if self._replay is not None and self._frozen != self._numbers():
            logger.info("a number or a tensor of the optimizer has changed: the step is captured anew")
            self._replay = None
        if self._replay is None:
            if self._warm < _WARM_STEPS:
                self._warm, self.eager = self._warm + 1, self.eager + 1
                return self._capture.warm_up(self._step)
            self._optimizer.zero_grad(set_to_none=True)  # backward then makes them in the graph's memory
            self._replay, self._outputs = self._capture.capture(self._step)
            self._gradients = [(p, p.grad) for p in self._model.parameters()]
            self._frozen = self._numbers()
        self._replay()
        self.replayed += 1
        return tuple(output.clone() for output in self._outputs)

    def _without_graph(self, batch: Batch) -> Outputs:
        """A step of a batch whose shapes are not the graph's."""
        self.eager += 1
        self._optimizer.zero_grad()
        outputs = _stepped(self._model, self._optimizer, batch)
        for parameter, gradient in self._gradients:  # those that replays write
            parameter.grad = gradient
        return outputs

    def _step(self) -> Outputs:
        self._optimizer.zero_grad(set_to_none=True)
        return _stepped(self._model, self._optimizer, _anew(self._static))

    def _numbers(self) -> tuple[Any, ...]:
        """All that a graph of the optimizer's step has frozen: options of groups, and where parameters and states lie."""
        return tuple(
            value.data_ptr() if isinstance(value, torch.Tensor) else value
            for optimizer in self._optimizers
            for group in optimizer.param_groups
            for value in (
                *(value for name, value in group.items() if name != "params"),
                *(value for p in group["params"] for value in (p, *optimizer.state.get(p, {}).values())),
            )
        )

    def _read(self, iterator: Iterator[Batch]) -> Batch:
        """The next batch, on the device; the one after it is copied there meanwhile."""
        if iterator is not self._iterator:
            if self._next is not None:
                raise RuntimeError(
                    "another iterator, before the end of the last one: its batch that was read ahead would be lost"
                )
            self._iterator, self._next = iterator, self._moved(next(iterator, None))
        batch = self._next
        if batch is None:
            raise StopIteration
        if self._copies is not None:
            here = torch.cuda.current_stream(self._device)
            here.wait_stream(self._copies)
            batch.record_stream(here)
        self._next = self._moved(next(iterator, None))
        return batch

    def _moved(self, batch: Batch | None) -> Batch | None:
        if batch is None or self._copies is None:
            return batch
        with torch.cuda.stream(self._copies):
            return batch.to(self._device, non_blocking=True)


def leaf_optimizers(optimizer: torch.optim.Optimizer) -> list[torch.optim.Optimizer]:
    """Those of torch.optim (or FBGEMM) that TorchRec's wrappers hold."""
    if isinstance(optimizer, CombinedOptimizer):
        return [leaf for _, part in optimizer.optimizers for leaf in leaf_optimizers(part)]
    if hasattr(optimizer, "_optimizer"):
        return leaf_optimizers(optimizer._optimizer)
    return [optimizer]


def _stepped(model: nn.Module, optimizer: KeyedOptimizer, batch: Batch) -> Outputs:
    losses, outputs = model(batch)
    torch.sum(losses, dim=0).backward()  # as TorchRec's pipelines
    optimizer.step()
    return outputs


def _tensors(batch: Batch) -> list[torch.Tensor]:
    features = batch.sparse_features
    weights = features.weights_or_none()
    return [
        batch.dense_features, batch.labels, features.values(), features.lengths(), *([] if weights is None else [weights]),
    ]  # fmt: skip


def _same_shapes(batch: Batch, static: Batch) -> bool:
    given, own = _tensors(batch), _tensors(static)
    return len(given) == len(own) and all(g.shape == o.shape for g, o in zip(given, own, strict=True))


def _fill(static: Batch, batch: Batch) -> None:
    for to, given in zip(_tensors(static), _tensors(batch), strict=True):
        to.copy_(given)


def _emptied(batch: Batch) -> Batch:
    """Tensors of a batch's shapes and dtypes."""
    return _with(batch, [torch.empty_like(tensor) for tensor in _tensors(batch)])


def _anew(batch: Batch) -> Batch:
    """The same tensors; a KJT keeps what it has computed of its lengths, which a replay would not compute again."""
    return _with(batch, _tensors(batch))


def _with(batch: Batch, tensors: list[torch.Tensor]) -> Batch:
    dense, labels, values, lengths, *weights = tensors
    features = batch.sparse_features
    kjt = KeyedJaggedTensor(
        features.keys(), values, weights[0] if weights else None, lengths=lengths, stride=features.stride()
    )
    return Batch(dense, kjt, labels)
