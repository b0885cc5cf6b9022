"""The cost model of lookups in a replicated array: bytes over bandwidth.

What a rank does in a step, in the bandwidths' unit of time (seconds for bytes a second):

- forward: ids and array elements read, embeddings written, at the memory's bandwidth;
- backward: the embeddings' gradients and the ids read again, and what was read kept for the projections;
- reduce: the array's gradient through a ring, ``2 (W - 1) / W`` of its bytes, at the slowest link's bandwidth;
- optimizer: weight, gradient and states read, weight and states written.

Latencies are left out, as TorchRec's estimates for its own tables leave them out. `benchmarks/bench_step.py` measures steps.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class ArrayStepTime:
    """Times of the parts of a step, in the unit of the bandwidths."""

    forward: float
    backward: float
    reduce: float
    optimizer: float

    @property
    def total(self) -> float:
        return self.forward + self.backward + self.reduce + self.optimizer


def array_step_time(
    *,
    input_bytes: float,
    output_bytes: float,
    array_bytes: float,
    world_size: int,
    memory_bandwidth: float,
    link_bandwidth: float,
    optimizer_states: int = 2,
    bits: int = 32,
) -> ArrayStepTime:
    """The model above.

    Args:
        input_bytes: of the ids of a rank's batch.
        output_bytes: of its embeddings.
        array_bytes: of the array, read and written as it is stored.
        memory_bandwidth, link_bandwidth: bytes a unit of time.
        optimizer_states: tensors as long as the array (Adam 2, Adagrad 1, SGD 0).
        bits: of a stored element; if they are few, forward reads the array and writes what is read of it.
    """
    reduce = 2 * array_bytes * (world_size - 1) / world_size / link_bandwidth if world_size > 1 else 0.0
    passes = 3 + 2 * optimizer_states
    packing = array_bytes * (1 + bits / 32) if bits < 32 else 0.0
    return ArrayStepTime(
        forward=(input_bytes + output_bytes + packing) / memory_bandwidth,
        backward=(input_bytes + output_bytes) / memory_bandwidth,
        reduce=reduce,
        optimizer=passes * array_bytes / memory_bandwidth,
    )
