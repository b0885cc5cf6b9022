"""The Triton kernels, run by Triton's interpreter against the reference, and compiled for GPUs that are not there.

On a machine with a GPU they run there instead.
"""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lookup_cases import of_backward, random_case

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytest.importorskip("triton")

from torchrec_pss.ops import FeatureColumn, PoolingMode, few_bits, packed, reference  # noqa: E402
from torchrec_pss.ops.triton import lookup as ours  # noqa: E402
from torchrec_pss.ops.triton import tiling  # noqa: E402
from torchrec_pss.ops.triton.candidates import (  # noqa: E402
    backward_candidates,
    forward_candidates,
    projection_candidates,
)
from torchrec_pss.ops.triton.launches import plan  # noqa: E402
from torchrec_pss.ops.update_kinds import UpdateKind, UpdateNumbers  # noqa: E402

TOLERANCE = {"rtol": 1e-4, "atol": 1e-3}  # sums of up to a thousand products in another order
LOW = {"rtol": 3e-2, "atol": 3e-2}
NUMBERS = list(UpdateNumbers(0.1, 1e-3, 0.9, 0.99, 0.05, 0.4, 0.3))


def small_cases(number, most_indices=300, seed=0):
    """Random cases that the interpreter, a millisecond an instruction, gets through."""
    while number:
        case = random_case(seed)
        seed += 1
        if case["indices"].numel() <= most_indices or DEVICE == "cuda":
            number -= 1
            yield seed, case


def on_device(case):
    return {key: value.to(DEVICE) if isinstance(value, torch.Tensor) else value for key, value in case.items()}


def close(actual, expected, dtype):
    low = dtype in (torch.bfloat16, torch.float16)
    torch.testing.assert_close(actual.cpu(), expected, **(LOW if low else TOLERANCE))


@pytest.fixture
def by_sorting():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def compare_forward_and_backward(number, first_seed=0):
    for seed, case in small_cases(number, seed=first_seed):
        out, saved = reference.lookup(**case)
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed), dtype=out.dtype)
        backward = of_backward(case)
        truth = reference.lookup_backward(grad, saved, **backward)
        there = on_device(case)
        found, found_saved = ours.lookup(*there.values())
        close(found, out, out.dtype)
        assert found_saved[0].shape == saved[0].shape
        found = ours.lookup_backward(grad.to(DEVICE), found_saved, *(there[k] for k in backward))
        close(found[0], truth[0], case["array"].dtype)
        close(found[1], truth[1], out.dtype)
        close(found[2], truth[2], out.dtype)


def test_kernels_equal_the_reference_on_random_configurations():
    compare_forward_and_backward(100)


def test_every_variant_equals_the_reference():
    """Each launch of a random configuration takes one of its candidates, in turn, so that each comes up several times."""
    turns = {name: itertools.count() for name in ("forward", "backward", "projection")}
    met = {name: set() for name in turns}

    def in_turn(name, candidates):
        def choose(*launch):
            found = candidates(*launch)
            variant = found[next(turns[name]) % len(found)]
            met[name].add(variant)
            return variant

        return choose

    functions = {
        "forward": in_turn("forward", forward_candidates),
        "backward": in_turn("backward", backward_candidates),
        "projection": in_turn("projection", projection_candidates),
    }
    with tiling.using(**functions):
        compare_forward_and_backward(150, first_seed=1000)
    assert any(v.ids > 1 and v.product for v in met["forward"]) and any(v.probes for v in met["forward"])
    assert any(v.merges and v.ids > 1 for v in met["backward"])
    assert {(v.adds, v.reads) for v in met["projection"]} == {(a, r) for a in (False, True) for r in (False, True)}


def test_sorted_backward_equals_the_reference(by_sorting):
    compare_forward_and_backward(60)


@pytest.mark.parametrize("kind", list(UpdateKind))
def test_fused_updates_equal_the_reference(kind):
    for seed, case in small_cases(40):
        out, _ = reference.lookup(**case)
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed), dtype=out.dtype)
        results = []
        for function, device in ((reference, "cpu"), (ours, DEVICE)):
            here = on_device(case) if function is ours else case
            _, saved = function.lookup(*here.values())
            array = here["array"].clone()
            sink = torch.zeros(len(array), dtype=out.dtype, device=device)
            state, second = torch.full_like(sink, 0.5), torch.full_like(sink, 0.3)
            arguments = list(of_backward(here).values())[1:]
            projections, weights = function.lookup_backward_update_(
                grad.to(device),
                saved,
                array,
                sink,
                state,
                second,
                *arguments,
                int(kind),
                NUMBERS,
            )
            assert kind == UpdateKind.NONE or not sink.any()
            results.append((array.to(out.dtype), sink, state, second, projections, weights))
        for expected, actual in zip(*results, strict=True):
            close(actual, expected, case["array"].dtype)


@pytest.mark.parametrize("kind", list(UpdateKind))
def test_fused_updates_of_packed_elements_equal_the_reference(kind):
    for seed, case in small_cases(20):
        bits, numel = few_bits.FEW_BITS[seed % 4], len(case["array"])
        case = {n: v.float() if isinstance(v, torch.Tensor) and v.is_floating_point() else v for n, v in case.items()}
        elements = packed.pack_reference(case["array"], bits)
        grad, results = None, []
        for lookup, step, device in (
            (packed.lookup_packed_reference, packed.lookup_packed_backward_update_reference, "cpu"),
            (ours.lookup_packed, ours.lookup_packed_backward_update_, DEVICE),
        ):
            here = on_device(case) if lookup is ours.lookup_packed else case
            read = [e.to(device) for e in elements]
            out, saved = lookup(*read, None, numel, bits, *list(here.values())[1:])
            if grad is None:
                grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed))
            array = here["array"].clone()
            sink = torch.zeros_like(array)
            state, second = torch.full_like(sink, 0.5), torch.full_like(sink, 0.3)
            behind = list(of_backward(here).values())[1:]
            gradients = step(
                grad.to(device), saved, *read, bits, array, sink, state, second, *behind, int(kind), NUMBERS
            )
            assert kind == UpdateKind.NONE or not sink.any()
            results.append((array, sink, state, second, *gradients))
        for expected, actual in zip(*results, strict=True):
            close(actual, expected, torch.float32)


def test_the_same_bits_by_sorting(by_sorting):
    for _, case in small_cases(5):
        there = on_device(case)
        out, saved = ours.lookup(*there.values())
        backward = list(of_backward(there).values())
        first, second = (ours.lookup_backward(torch.ones_like(out), saved, *backward) for _ in range(2))
        assert torch.equal(first[0], second[0])


def test_packed_elements_have_the_references_bits_and_read_the_same():
    for bits in few_bits.FEW_BITS:
        for numel in (0, 1, 63, 65, 3000):
            array = torch.randn(numel, generator=torch.Generator().manual_seed(numel))
            array[: numel // 3] = 0
            found = ours.pack(array.to(DEVICE), bits)
            for actual, expected in zip(found, packed.pack_reference(array, bits), strict=True):
                assert torch.equal(actual.cpu(), expected)
    bad = torch.tensor([1.0, float("nan")])
    assert torch.equal(ours.pack(bad.to(DEVICE), 4)[1].cpu().isnan(), torch.tensor([True]))


def test_packed_lookups_equal_those_in_fp32(by_sorting):
    """By sorting, so that gradients are added up in one order."""
    for seed, case in small_cases(60, most_indices=150):
        bits = few_bits.FEW_BITS[seed % 4]
        codes, scales = packed.pack_reference(case["array"].float(), bits)
        numel = len(case["array"])
        values = packed.unpack_reference(codes, scales, numel, bits)
        if case["array"].dtype == torch.float64:
            case = case | {
                n: None if case[n] is None else case[n].float() for n in ("projections", "per_sample_weights")
            }
        there = on_device(case | {"array": values})
        arguments, behind = list(there.values())[1:], list(of_backward(there).values())[1:]
        elements = codes.to(DEVICE), scales.to(DEVICE)
        out, saved = ours.lookup_packed(*elements, None, numel, bits, *arguments)
        wide_out, wide_saved = ours.lookup(there["array"], *arguments)
        assert torch.equal(out, wide_out)
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)
        found = ours.lookup_packed_backward(grad, saved, *elements, numel, bits, *behind)
        wide = ours.lookup_backward(grad, wide_saved, there["array"], *behind)
        assert all(torch.equal(actual, expected) for actual, expected in zip(found, wide, strict=True))


def test_metadata_that_leaves_the_array_is_refused():
    case = on_device(next(c for _, c in small_cases(40) if c["array"].dtype == torch.float32 and len(c["indices"])))
    with pytest.raises(ValueError, match="add up to|must all have width"):
        ours.lookup(*(case | {"total_width": case["total_width"] + 1}).values())
    for column, value in ((FeatureColumn.WIDTH, 1 << 31), (FeatureColumn.PREFIX, -1), (FeatureColumn.HOT_END, 10**6)):
        features = case["features"].clone()
        features[0, column] = value
        with pytest.raises(ValueError, match="row 0 of `features` does not fit an array"):
            ours.lookup(*(case | {"features": features}).values())


def test_metadata_is_planned_once():
    case = random_case(3)
    names = ("features", "array", "hot_keys", "projections", "pooling_mode", "hash_kind")
    arguments = [case[name] for name in names]
    assert plan(*arguments) is plan(*arguments)
    other = case["features"].clone()
    assert plan(other, *arguments[1:]) is not plan(*arguments)


@pytest.mark.skipif(DEVICE == "cuda", reason="a failed assertion on the GPU ends the process")
def test_bad_ids_and_offsets_fail_an_assertion():
    cases = [c for _, c in small_cases(100) if c["array"].dtype != torch.float64 and len(c["indices"])]
    case = next(c for c in cases if int(c["features"][:, FeatureColumn.PREFIX].min()) > 0)
    case["indices"][0] = int(case["features"][0, FeatureColumn.ROWS])
    with pytest.raises(RuntimeError, match="out of range of its exact table"):
        ours.lookup(*case.values())
    case = next(c for c in cases if c["pooling_mode"] != PoolingMode.NONE and len(c["offsets"]) > 2)
    good = case["offsets"].clone()
    for wrong in (10_000, -10_000):
        case["offsets"] = good.clone()
        case["offsets"][1] += wrong
        with pytest.raises(RuntimeError, match="offsets do not describe bags"):
            ours.lookup(*case.values())


@pytest.fixture(scope="module")
def compiled():
    """What `compile_triton.py` reports; Triton's own cache is kept out of the home."""
    script = Path(__file__).parent / "compile_triton.py"
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, str(script), "80", "90"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout)


def test_compiled_for_sm_80_and_sm_90_without_local_memory(compiled):
    assert {r["capability"] for r in compiled} == {80, 90}
    assert {r["kernel"] for r in compiled} == {
        "forward_kernel",
        "backward_kernel",
        "projection_kernel",
        "update_kernel",
        "pack_kernel",
    }
    for report in compiled:
        assert report["STACK"] == 0 and report["LOCAL"] == 0 and report["REG"] <= 255, report


def test_blocks_are_loaded_and_reduced_16_bytes_at_once(compiled):
    updates = [r for r in compiled if r["kernel"] == "update_kernel" and r["array"] == "*fp32"]
    assert len(updates) == 2 * len(UpdateKind) and all(r["loads"].keys() == {"4"} for r in updates)
    blocks = [r for r in compiled if r["layout"] in ("blocks", "wide") and r["kernel"] != "projection_kernel"]
    assert len(blocks) == 8
    for report in blocks:
        assert report["loads"].get("4"), report
        if report["kernel"] == "backward_kernel":
            # sm_80 has no vector reductions.
            assert report["reductions"].keys() == ({"4"} if report["capability"] == 90 else {"1"}), report
        else:
            assert report["stores"].get("4"), report


def test_updates_read_the_gradient_before_another_thread_zeroes_it(compiled):
    """Of 16-bit arrays Triton reads the sink eight elements a thread and writes it four: a race on a GPU, unseen in the interpreter."""
    updates = [r for r in compiled if r["kernel"] == "update_kernel"]
    assert {r["array"] for r in updates} == {"*fp32", "*bf16"}
    assert all(r["waits before it writes"] for r in updates)


@pytest.mark.skipif(DEVICE == "cuda", reason="benchmarks/gpu_check.py itself is for that")
def test_gpu_check_runs_in_the_interpreter(tmp_path):
    root, report = Path(__file__).parents[1], tmp_path / "report.json"
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu_check", "--interpret", "--configurations", "10"]
    result = subprocess.run([*command, "--json", report], cwd=root, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(report.read_text())
    assert found["configurations"] == 10 and found["addresses"] > 0
