"""Packed elements: codes and scales as they are stored, the lookup that reads them, and the gradient that goes past them to the array."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lookup_cases import of_backward, on_threads, random_case
from test_few_bits import batch, collection, random_array
from test_lookup import same, simple_case, with_gradients
from torch.utils.checkpoint import checkpoint

from torchrec_pss import packed
from torchrec_pss.convert import packing
from torchrec_pss.ops import HAS_CPU_KERNEL, FeatureColumn, PoolingMode, lookup
from torchrec_pss.ops import packed as ops
from torchrec_pss.ops.few_bits import CODES_BEHIND, FEW_BITS, GROUP, code_bytes
from torchrec_pss.ops.packed import lookup_packed, lookup_trained, pack, pack_reference, unpack_reference
from torchrec_pss.ops.quantize import PROJECTION_BITS, codes_of, quantize, stored_bytes

ROOT = Path(__file__).parents[1]


def trained_case(seed):
    """A random case in fp32, elements of unequal sizes, and bits."""
    case = random_case(seed, torch.float32)
    array = case["array"] * torch.rand(len(case["array"]), generator=torch.Generator().manual_seed(seed)) ** 4
    return case | {"array": array}, FEW_BITS[seed % len(FEW_BITS)]


def packed_case(seed):
    """A random case whose array is what its packed elements read as, and those."""
    case, bits = trained_case(seed)
    array = case["array"]
    codes, scales = pack_reference(array, bits)
    elements = {"codes": codes, "scales": scales, "numel": len(array), "bits": bits}
    return case | {"array": quantize(array, bits)}, elements


def reads_packed(elements):
    return lambda array, **case: lookup_packed(**elements, array=array, **case)


def compare(seed):
    """Raises AssertionError where kernel and reference differ."""
    case, elements = packed_case(seed)
    arguments = list(case.values())[1:]
    out, saved = ops.lookup_packed_reference(
        elements["codes"], elements["scales"], None, elements["numel"], elements["bits"], *arguments
    )
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed))
    found = on_threads(1 + seed % 3, lambda: with_gradients(reads_packed(elements), case, grad))
    behind = list(of_backward(case).values())[1:]
    grad_array, grad_projections, grad_weights = ops.lookup_packed_backward_reference(
        grad, saved, *elements.values(), *behind
    )
    unweighted = case["per_sample_weights"] is None
    truth = out, grad_array, None if unweighted else grad_weights, grad_projections
    in_fp32 = with_gradients(lookup, case, grad)
    for actual, expected, wide in zip(found, truth, in_fp32, strict=True):
        same(actual, expected, torch.float32)
        same(actual, wide, torch.float32)
    assert torch.equal(found[0], in_fp32[0]), "the same numbers, multiplied and added up in the same order"
    return case


@pytest.mark.parametrize("numel", [0, 1, 16, 63, 64, 65, 80, 1000, 300_000])
def test_pack_has_the_references_bits(numel):
    for bits in FEW_BITS:
        array = random_array(numel, seed=bits)
        codes, scales = pack(array, bits)
        expected = pack_reference(array, bits)
        assert torch.equal(codes, expected[0]) and torch.equal(scales, expected[1])
        assert torch.equal(unpack_reference(codes, scales, numel, bits), quantize(array, bits))
        assert len(codes) == code_bytes(numel, bits) and not codes[-CODES_BEHIND:].any()


def extreme_array(numel=1000):
    """Groups of numbers that scales hardly reach, or that are no numbers."""
    array = random_array(numel)
    array[:192:3] *= 2.0**-140  # denormal beside others
    array[192:256] *= 2.0**-140
    array[256:320] = 3.4e38 * array[256:320].sign()
    array[320:384] = 0
    array[384:448] = -1.5  # all at the least level
    array[450], array[520], array[590], array[660] = float("nan"), float("inf"), float("-inf"), -float("nan")
    array[700:704] = torch.tensor([float("inf"), float("nan"), float("-inf"), 0.0])
    return array


def test_pack_has_the_references_bits_at_the_extremes():
    """But where a group has no finite scale: then whatever codes say, no number is read."""
    array = extreme_array()
    for bits in FEW_BITS:
        (codes, scales), (expected_codes, expected_scales) = pack(array, bits), pack_reference(array, bits)
        torch.testing.assert_close(scales, expected_scales, rtol=0, atol=0, equal_nan=True)
        finite = scales.isfinite().repeat_interleave(8 * bits)  # by byte of the codes
        assert finite.sum() == 12 * 8 * bits
        end = len(finite)
        assert torch.equal(codes[:end][finite], expected_codes[:end][finite])
        assert torch.equal(codes[end:], expected_codes[end:])
        read = unpack_reference(codes, scales, len(array), bits)
        assert not read[~scales.isfinite().repeat_interleave(GROUP)[: len(array)]].isfinite().any()


@pytest.mark.parametrize("bits", FEW_BITS)
def test_what_is_read_begins_with_what_is_stored(bits):
    array = random_array(1000)
    codes, scales = pack(array, bits)
    stored = packing._pack(codes_of(array, scales, bits), bits)
    assert len(stored) + 2 * len(scales) == stored_bytes(1000, bits)
    assert torch.equal(codes[: len(stored)], stored) and not codes[len(stored) :].any()


def test_kernel_equals_reference_on_1000_random_configurations():
    kinds, straddling = set(), 0
    for seed in range(1000):
        case = compare(seed)
        kinds.add((seed % 4, case["pooling_mode"], case["per_sample_weights"] is None))
        straddling += any(row[FeatureColumn.BLOCK] == 4 and row[FeatureColumn.FIRST] % 4 for row in case["features"])
    assert len(kinds) == 4 * 3 * 2 and straddling > 50


@pytest.mark.skipif(not HAS_CPU_KERNEL, reason="the C++ kernels'")
@pytest.mark.parametrize("isa", ["portable", "avx2"])
def test_kernels_of_other_instruction_sets_equal_the_reference(isa):
    program = "import test_packed_lookup as t\nfor seed in range(250): t.compare(seed)\nt.test_pack_has_the_references_bits(1000)\nt.test_pack_has_the_references_bits_at_the_extremes()"
    environment = os.environ | {"TORCHREC_PSS_ISA": isa, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    command = [sys.executable, "-W", "ignore", "-c", program]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.mark.parametrize("seed", range(8))
def test_opcheck(seed):
    case, elements = packed_case(seed)
    codes, scales, numel, bits = elements.values()
    array, *arguments = case.values()
    case["projections"].requires_grad_()
    for trained in (array.requires_grad_(), None):
        torch.library.opcheck(
            torch.ops.torchrec_pss.lookup_packed.default, (codes, scales, trained, numel, bits, *arguments)
        )
    torch.library.opcheck(torch.ops.torchrec_pss.pack.default, (array, bits))


def test_a_backward_reads_what_its_own_forward_read():
    """Of two forwards before it, the array changed in between past PyTorch's notice."""
    case = simple_case(torch.arange(40) % 13, torch.arange(0, 41, 2))
    array = case.pop("array").requires_grad_()
    both = [torch.rand(40, requires_grad=True) for _ in range(2)]
    outs, truths = [], []
    for weights in both:
        outs.append(lookup_trained(array, bits=4, **case | {"per_sample_weights": weights}))
        values = quantize(array.detach(), 4)
        twin = weights.detach().clone().requires_grad_()
        lookup(values, **case | {"per_sample_weights": twin}).sum().backward()
        truths.append(twin.grad)
        array.data.neg_()
    sum(outs).sum().backward()
    for weights, truth in zip(both, truths, strict=True):
        torch.testing.assert_close(weights.grad, truth)
    assert array.grad.any()


def test_gradient_checkpointing_learns_the_same():
    results = []
    for function in (lambda f, x: f(x), lambda f, x: checkpoint(f, x, use_reentrant=False)):
        ebc = collection(weighted=False)
        function(lambda b, e=ebc: e(b).values().square().sum(), batch(weighted=False)).backward()
        results.append(ebc.array.grad)
    assert torch.equal(*results)


@pytest.mark.parametrize("bits", FEW_BITS)
def test_a_packed_state_is_read_without_an_array(bits):
    ebc = collection(bits, weighted=False)
    state, features = packed(ebc), batch(weighted=False)
    given = ebc._arguments(range(3), PoolingMode.SUM)
    numel = ebc.layout.numel
    codes = torch.zeros(code_bytes(numel, bits), dtype=torch.uint8)
    codes[: len(state["codes"])] = state["codes"]
    given["projections"] = quantize(ebc.projections.detach(), PROJECTION_BITS)
    read = lookup_packed(
        codes, state["scales"], indices=features.values(), offsets=features.offsets(), numel=numel, bits=bits, **given
    )  # fmt: skip
    assert not read.requires_grad and torch.equal(read, ebc(features).values())


@pytest.mark.parametrize("bits", FEW_BITS)
@pytest.mark.parametrize("block", [1, 2, 4])
@pytest.mark.parametrize("length", [1, 3])
def test_many_bags_are_those_that_are_read_one_by_one(bits, block, length):
    """Of many reads the kernel makes a feature's region into numbers first, of few it reads codes."""
    indices, offsets = torch.arange(900) * 7919, torch.arange(0, 901, length)
    case = simple_case(indices, offsets)
    case["features"][0, FeatureColumn.BLOCK], case["features"][0, FeatureColumn.SLOTS] = block, 1000 // block
    codes, scales = pack(case.pop("array"), bits)

    def read(**of):
        return lookup_packed(codes, scales, numel=1000, bits=bits, **case | of)

    one_by_one = [read(indices=indices[a:b], offsets=torch.tensor([0, b - a])) for a, b in offsets.unfold(0, 2, 1)]
    assert torch.equal(read(), torch.cat(one_by_one))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_not_finite_elements_are_read_as_such(bad):
    case = simple_case(torch.arange(2000), torch.arange(2001))
    array = random_array(1000)
    array[70] = bad
    read = lookup_trained(**case | {"array": array}, bits=4)
    assert not torch.isfinite(read).all()
    assert torch.equal(read.isfinite(), lookup(**case | {"array": quantize(array, 4)}).isfinite())


def test_no_second_derivative():
    case, elements = packed_case(0)
    array = case.pop("array").requires_grad_()
    grad = torch.autograd.grad(lookup_packed(**elements, array=array, **case).square().sum(), array, create_graph=True)[
        0
    ]
    with pytest.raises(NotImplementedError, match="no second derivative"):
        grad.sum().backward()


def test_codes_and_scales_of_other_sizes_are_refused():
    case = simple_case(torch.tensor([1, 2, 3]), torch.tensor([0, 1, 3]))
    array = case.pop("array")
    codes, scales = pack(array, 4)
    good = {"codes": codes, "scales": scales, "numel": 1000, "bits": 4}
    lookup_packed(**good, **case)
    bad = {
        "bits must be one of": {"bits": 5},
        "codes must be a uint8 vector of at least 520 bytes": {"codes": codes[:-1]},
        r"scales must be bf16 \[16\]": {"scales": scales[1:]},
        r"scales must be bf16 \[17\]": {"numel": 1025, "codes": torch.zeros(1000, dtype=torch.uint8)},
        r"array must be fp32 \[1000\]": {"array": array[1:]},
    }
    for message, change in bad.items():
        with pytest.raises(ValueError, match=message):
            lookup_packed(**good | change, **case)
    arguments = list(case.values())
    for change in list(bad.values())[:4]:
        codes, scales, numel, bits = (good | change).values()
        with pytest.raises(ValueError, match="bits must|codes must|scales must"):
            torch.ops.torchrec_pss.lookup_packed(codes, scales, None, numel, bits, *arguments)
    with pytest.raises(ValueError, match="array must be an fp32 vector"):
        pack(torch.zeros(2, 2), 4)
    with pytest.raises(ValueError, match="scales must be on cpu as the codes are, got meta"):
        lookup_packed(**good | {"scales": good["scales"].to("meta")}, **case)
