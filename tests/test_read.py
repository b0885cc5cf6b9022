"""The lookup to serve: what `lookup` returns, from an array or from codes, by every implementation; its schema, and what it refuses."""

import pytest
import torch
from lookup_cases import random_case
from test_packed_lookup import packed_case

from torchrec_pss.ops import HAS_CPU_KERNEL, lookup, read
from torchrec_pss.ops.packed import lookup_packed
from torchrec_pss.ops.read import read_reference
from torchrec_pss.ops.schemas import schemas


def reading(case):
    """`lookup`'s arguments as those of `read`, but for the elements; the array."""
    case = dict(case)
    array = case.pop("array")
    like = torch.promote_types(array.dtype, torch.float32)
    case["hot_keys"] = torch.zeros(0, dtype=torch.int32) if case.get("hot_keys") is None else case["hot_keys"]
    case["projections"] = torch.zeros(0, dtype=like) if case.get("projections") is None else case["projections"]
    return array, {"read_width": 0} | case


@pytest.mark.parametrize("seeds", [range(first, first + 25) for first in range(0, 100, 25)], ids=str)
def test_it_reads_what_lookup_does(seeds):
    for seed in seeds:
        array, given = reading(random_case(seed))
        expected = lookup(array, **given)
        assert torch.equal(read(array, None, numel=len(array), bits=32, **given), expected)
        case, elements = packed_case(seed)
        array, given = reading(case)
        codes, scales, numel, bits = elements.values()
        found = read(codes, scales, numel=numel, bits=bits, **given)
        assert torch.equal(found, lookup_packed(**elements, **given)) and not found.requires_grad


def arguments(case, elements=None):
    array, given = reading(case)
    first = (array, None, len(array), 32) if elements is None else tuple(elements.values())
    names = (
        "features",
        "hot_keys",
        "projections",
        "indices",
        "offsets",
        "per_sample_weights",
        "total_width",
        "read_width",
        "pooling_mode",
    )
    flags = (given.get("hash_kind", 0), given.get("sign", True))
    return *first, *(given.get(n, 0) if n == "pooling_mode" else given.get(n) for n in names), *flags


def test_the_reference_and_opcheck():
    for seed in range(8):
        full, few = arguments(random_case(seed, torch.float32)), arguments(*packed_case(seed))
        for given in (full, few):
            torch.testing.assert_close(
                read_reference(*given), torch.ops.torchrec_pss.read(*given), rtol=1e-5, atol=1e-6
            )
            torch.library.opcheck(torch.ops.torchrec_pss.read.default, given)


def test_it_has_no_gradient():
    array, given = reading(random_case(1, torch.float32))
    out = read(array.requires_grad_(), None, numel=len(array), bits=32, **given)
    with pytest.raises(NotImplementedError, match="for serving and has no gradient"):
        out.sum().backward()


def test_elements_that_are_none():
    case, elements = packed_case(3)
    array, given = reading(case)
    codes, scales, numel, bits = elements.values()
    with pytest.raises(ValueError, match="32 bits have no scales"):
        read(array, scales, numel=numel, bits=32, **given)
    with pytest.raises(ValueError, match=f"elements of {bits} bits have scales"):
        read(codes, None, numel=numel, bits=bits, **given)
    with pytest.raises(ValueError, match=f"numel is {numel + 1}, and there are {numel} elements"):
        read(array, None, numel=numel + 1, bits=32, **given)
    with pytest.raises(ValueError, match="codes must be"):
        read(codes[:4], scales, numel=numel, bits=bits, **given)


@pytest.mark.skipif(not HAS_CPU_KERNEL, reason="the C++ library defines the operators")
def test_the_schemas_that_python_reads_are_those_that_cpp_defines():
    found = schemas()
    assert len(found) == 9
    for text in found:
        name = text.partition("(")[0]
        schema = getattr(torch.ops.torchrec_pss, name).default
        assert torch._C.parse_schema(f"torchrec_pss::{text}") == schema._schema
        assert (torch.Tag.pt2_compliant_tag in schema.tags) == (not name.endswith("_"))
