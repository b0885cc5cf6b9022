"""Times of calls on a device: medians by events, what the GPU was busy, and CUDA graphs. Without a GPU, the host's clock."""

import statistics
import time
from collections.abc import Callable

import torch

BATCHES = 4  # in turn, so that a batch's ids and rows are not in the cache from the last time
_WARM = 3


def captured(function: Callable[[], object], device: str = "cuda") -> Callable[[], object]:
    """``function`` as a CUDA graph, to be replayed by a call; it has run twice before. There are none on a CPU: the function itself."""
    if device == "cpu":
        return function
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())  # which may still be making what ``function`` reads
    with torch.cuda.stream(stream):
        for _ in range(2):  # compiles, and reads the metadata
            function()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


def milliseconds(
    functions: dict[str, Callable[[int], object]],
    repeats: int,
    device: str = "cuda",
    batches: int = BATCHES,
    warm: int = _WARM,
) -> dict[str, float]:
    """Medians of a call's time, in turn, around a call for each batch; compiled and warm before, by ``warm`` turns."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for repeat in range(repeats + warm):
        for name, function in functions.items():
            taken = _taken(function, device, batches)
            if repeat >= warm:
                times[name].append(taken / batches)
    return {name: statistics.median(values) for name, values in times.items()}


def _taken(function: Callable[[int], object], device: str, batches: int) -> float:
    """Milliseconds of a call for each batch."""
    if device == "cpu":
        started = time.perf_counter()
        for batch in range(batches):
            function(batch)
        return (time.perf_counter() - started) * 1e3
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for batch in range(batches):
        function(batch)
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def kernel_milliseconds(
    function: Callable[[int], object], device: str = "cuda", batches: int = BATCHES
) -> dict[str, float]:
    """By kernel (on a CPU: by operator), the time a call keeps the device busy, by the profiler."""
    activity = torch.profiler.ProfilerActivity.CUDA if device == "cuda" else torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[activity]) as profiled:
        for batch in range(batches):
            function(batch)
        if device == "cuda":
            torch.cuda.synchronize()
    kind = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    return {event.key: getattr(event, kind) / batches / 1e3 for event in profiled.key_averages()}


def busy_milliseconds(functions: dict[str, Callable[[int], object]], device: str = "cuda") -> dict[str, float]:
    """What a call keeps the device busy: its kernels' times."""
    return {name: sum(kernel_milliseconds(function, device).values()) for name, function in functions.items()}
