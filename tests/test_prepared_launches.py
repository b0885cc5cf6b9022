"""What is remembered of a lookup on a GPU between two batches: never of other metadata, and not for longer than those live."""

import gc
import weakref

import pytest
import torch
from lookup_cases import random_case

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytest.importorskip("triton")

from torchrec_pss.ops import FeatureColumn, PoolingMode, reference  # noqa: E402
from torchrec_pss.ops.triton import launch as launches  # noqa: E402
from torchrec_pss.ops.triton import lookup as ours  # noqa: E402
from torchrec_pss.ops.triton import prepared  # noqa: E402


def small_case(**wanted) -> dict:
    for seed in range(200):
        case = random_case(seed, torch.float32)
        same = all((case[name] is not None) == value for name, value in wanted.items())
        if 0 < case["indices"].numel() < 50 and case["pooling_mode"] == PoolingMode.SUM and same:
            return {n: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for n, v in case.items()}
    raise AssertionError("no such case")


def arguments_of(case: dict) -> list:
    array, features, hot_keys, projections, indices, offsets, weights, _, _, *flags = case.values()
    return [array, len(array), 32, features, hot_keys, projections, indices, offsets, weights, *flags]


def test_metadata_that_were_written_to_are_read_anew():
    case = small_case(per_sample_weights=False)
    ours.lookup(*case.values())
    before, _ = prepared.prepared(*arguments_of(case))
    assert prepared.prepared(*arguments_of(case))[0] is before
    features = case["features"]
    features[:, FeatureColumn.KEY] += 1
    out, _ = ours.lookup(*case.values())
    assert prepared.prepared(*arguments_of(case))[0] is not before
    here = {n: v.cpu() if isinstance(v, torch.Tensor) else v for n, v in case.items()}
    torch.testing.assert_close(out.cpu(), reference.lookup(**here)[0], rtol=1e-4, atol=1e-4)
    features.data = features.clone()  # other memory, of the same version
    case["features"][:, FeatureColumn.WIDTH] = 1 << 31
    with pytest.raises(ValueError, match="does not fit an array"):
        ours.lookup(*case.values())


def test_it_lives_no_longer_than_the_metadata():
    case = small_case()
    ours.lookup(*case.values())
    known, _ = prepared.prepared(*arguments_of(case))
    number, alive = id(case["features"]), weakref.ref(known)
    del known
    case.clear()
    gc.collect()
    assert number not in prepared._of_features and alive() is None


def test_each_batch_is_checked():
    case = small_case(per_sample_weights=True)
    ours.lookup(*case.values())
    weights, offsets, indices = case["per_sample_weights"], case["offsets"], case["indices"]
    for message, bad in {
        "per_sample_weights must be": {"per_sample_weights": weights[1:]},
        "per_sample_weights must be torch.float32": {"per_sample_weights": weights.double()},
        "offsets must hold": {"offsets": offsets[:0]},
        "indices must be an int32": {"indices": indices.float()},
        "projections must be": {"projections": case["projections"].double()},
        "read_width is": {"read_width": case["read_width"] + 8},
    }.items():
        with pytest.raises(ValueError, match=message):
            ours.lookup(*(case | bad).values())
    ours.lookup(*case.values())


class Compiled:
    """In the place of what Triton compiles."""

    def __init__(self) -> None:
        self.calls: list = []

    def __getitem__(self, grid):
        return lambda *arguments, stream: self.calls.append((grid, arguments, stream))


class Source:
    arg_names = ("second", "number", "first", "T")


def test_a_kernel_is_compiled_once_for_what_it_depends_on(monkeypatch):
    made: list = []

    def first_launch(kernel, programs, arguments, constants, warps):
        made.append((Compiled(), programs, arguments, constants, warps))
        return made[-1][0]

    monkeypatch.setattr(launches, "first_launch", first_launch)
    names = ("first", "unused", "second", "number")
    kernel = launches.Kernel(Source, names, {"T": 8, "OTHER": 1}, 4, lambda rows: rows * 2)
    tensors = (torch.zeros(4), torch.zeros(4), torch.zeros(8))
    values = (*(t.data_ptr() for t in tensors), 7)
    for _ in range(3):
        kernel.launch(kernel.programs(3), values, (*tensors, 7), 5)
    first, _, second, _ = values
    compiled, programs, arguments, constants, warps = made[0]
    assert (programs, constants, warps) == (6, {"T": 8}, 4) and arguments == (tensors[2], 7, tensors[0])
    assert compiled.calls == [((6, 1, 1), (second, 7, first, 8), 5)] * 2
    shifted = tensors[2][1:]
    for number, times in ((7, 2), (1 << 31, 2), (7, 1)):
        for _ in range(times):
            both = (tensors[0], tensors[1], shifted, number)
            kernel.launch_any(6, (first, 0, shifted.data_ptr(), number), both, 5)
    assert [len(m[0].calls) for m in made] == [2, 2, 1]


def test_no_ids_at_all_are_of_the_indices_dtype():
    """Or code that is compiled for offsets of 32 bits would be given ids of 64."""
    offsets = torch.zeros(3, dtype=torch.int32)
    indices, same = ours._ids(torch.zeros(0, dtype=torch.int64), offsets)
    assert indices.dtype == torch.int64 and indices.numel() and same is offsets


def test_metadata_made_in_inference_mode():
    """As a model's that was moved to its device there."""
    case = small_case()
    expected, _ = ours.lookup(*case.values())
    with torch.inference_mode():
        case["features"] = case["features"].clone()
        assert torch.equal(ours.lookup(*case.values())[0], expected)
    assert torch.equal(ours.lookup(*case.values())[0], expected)
