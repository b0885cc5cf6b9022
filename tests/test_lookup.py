"""The op: the C++ kernel against the plain PyTorch reference, PyTorch's own checks, and bad input."""

from itertools import islice

import pytest
import torch
from lookup_cases import damaged_case, of_backward, on_threads, positional, random_case
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection
from torchrec_pss.ops import HAS_CPU_KERNEL, HASH_MIX64, FeatureColumn, PoolingMode, feature_matrix, lookup, reference

# Sums of fp32 products in another order.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
# Of n of them, an error of n * eps * size of a term is possible, and the largest sums are sqrt(n) terms: where an element of them
# cancels, sqrt(2000) * eps of the largest is left.
OF_THE_LARGEST = 3e-6


def reference_lookup(**case):
    return reference.lookup(**case)[0]


def with_gradients(function, case, grad):
    """The output, and the gradients of array, weights (None without) and projections."""
    array = case["array"].clone().requires_grad_()
    weights = case["per_sample_weights"]
    weights = None if weights is None else weights.clone().requires_grad_()
    projections = case["projections"].clone().requires_grad_()
    out = function(**case | {"array": array, "per_sample_weights": weights, "projections": projections})
    out.backward(grad)
    grad_projections = torch.zeros_like(projections) if projections.grad is None else projections.grad
    return out.detach(), array.grad, None if weights is None else weights.grad, grad_projections


def same(actual, expected, dtype):
    if expected is None:
        assert actual is None
        return
    low = dtype in (torch.bfloat16, torch.float16)
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if low else TOLERANCE | {"atol": max(1e-4, OF_THE_LARGEST * largest)}
    torch.testing.assert_close(actual, expected, **tolerance)


def test_the_suite_runs_with_the_kernel():
    assert HAS_CPU_KERNEL, "the C++ kernel was not built: the comparisons below would compare the reference with itself"


def test_kernel_equals_reference_on_1500_random_configurations():
    kinds, hot, projected = set(), 0, 0
    for seed in range(1500):
        case = random_case(seed)
        grad = torch.randn(reference_lookup(**case).shape, generator=torch.Generator().manual_seed(seed))
        grad = grad.to(torch.promote_types(case["array"].dtype, torch.float32))
        ours = on_threads(1 + seed % 3, lambda c=case, g=grad: with_gradients(lookup, c, g))
        truth = with_gradients(reference_lookup, case, grad)
        for actual, expected in zip(ours, truth, strict=True):
            same(actual, expected, case["array"].dtype)
        hot += case["hot_keys"].numel() > 0
        projected += case["read_width"] > 0
        kinds.add((case["pooling_mode"], case["hash_kind"], case["per_sample_weights"] is None, case["array"].dtype))
    assert len(kinds) == 3 * 2 * 2 * 4 and hot > 300 and projected > 550


def test_reference_backward_equals_autograd_of_reference_forward():
    for seed in range(200):
        case = random_case(seed, torch.float64)
        grad = torch.randn(reference_lookup(**case).shape, dtype=torch.float64)
        _, grad_array, grad_weights, grad_projections = with_gradients(reference_lookup, case, grad)
        ours = reference.lookup_backward(grad, reference.lookup(**case)[1], **of_backward(case))
        torch.testing.assert_close(ours[0], grad_array)
        torch.testing.assert_close(ours[1], grad_projections)
        torch.testing.assert_close(
            ours[2], torch.zeros(0, dtype=torch.float64) if grad_weights is None else grad_weights
        )


@pytest.mark.parametrize("seed", range(12))
def test_opcheck(seed):
    case = random_case(seed, torch.float32)
    for tensor in (case["array"], case["projections"]):
        tensor.requires_grad_()
    torch.library.opcheck(torch.ops.torchrec_pss.lookup.default, positional(case))


@pytest.mark.parametrize("pooling", list(PoolingMode))
@pytest.mark.parametrize("weighted", [False, True])
def test_gradcheck(pooling, weighted):
    fitting = (
        c
        for c in (random_case(s, torch.float64) for s in range(10_000))
        if c["pooling_mode"] == pooling
        and (c["per_sample_weights"] is not None) == weighted
        and c["indices"].numel() > 3
        and c["read_width"]
    )
    # Of several the one with the fewest elements: each takes two lookups.
    case = min(islice(fitting, 8), key=lambda c: c["array"].numel() + c["projections"].numel())
    names = ["array", "projections", "per_sample_weights"] if weighted else ["array", "projections"]
    inputs = [case[n].requires_grad_() for n in names]

    def read(*x):
        return lookup(**case | dict(zip(names, x, strict=True)))

    assert torch.autograd.gradcheck(read, inputs)


def test_compiles_to_one_graph_with_dynamic_shapes():
    compiled = torch.compile(lambda **kw: lookup(**kw).square(), fullgraph=True, dynamic=True)
    cases = [c for c in (random_case(s, torch.float32) for s in range(60)) if c["pooling_mode"] == 0][:4]
    for case in cases:
        torch.testing.assert_close(compiled(**case), reference_lookup(**case).square(), **TOLERANCE)


CONFIGS = {
    "slices and hot rows": {"width": 6, "segments": True, "sign": False, "hot": {"t0": list(range(0, 3000, 7))}},
    "one region": {"block_size": 4},
    "one region, projected": {"width": 6, "block_size": 1, "bias": True},
    "blocks that no page holds whole": {"width": 12, "block_size": 3, "exact": ()},
    "robe": {"hash": "robe", "exact": (), "block_size": 8},
}


@pytest.mark.parametrize("bags", ["weighted", "pooled", "of one id"])
@pytest.mark.parametrize("choices", CONFIGS.values(), ids=CONFIGS)
def test_the_same_bits_on_any_number_of_threads(choices, bags):
    """Weighted bags are read id by id; of the others, whose ids repeat, distinct rows are."""
    rows = (50_000, 9000, 300)
    tables = [
        EmbeddingBagConfig(name=f"t{i}", num_embeddings=n, embedding_dim=16, feature_names=[f"f{i}"])
        for i, n in enumerate(rows)
    ]
    config = PSSConfig(array_bytes=100_000, layout="plain", **choices)
    ebc = PSSEmbeddingBagCollection(tables, config=config, is_weighted=bags == "weighted")
    generator = torch.Generator().manual_seed(0)
    number = 20_000 if bags == "of one id" else 10_000  # more than a chunk
    lengths = torch.randint(0, 4, (3, number), generator=generator, dtype=torch.int32)
    if bags == "of one id":
        lengths.fill_(1)
    drawn = [torch.rand(int(k), generator=generator) ** 4 for k in lengths.sum(1)]
    ids = [(uniform * n).long() for uniform, n in zip(drawn, rows, strict=True)]
    weights = torch.rand(int(lengths.sum()), generator=generator, requires_grad=True) if bags == "weighted" else None
    kjt = KeyedJaggedTensor(["f0", "f1", "f2"], torch.cat(ids), weights, lengths.flatten())
    grad = torch.randn(number, 48, generator=generator)

    def results():
        ebc.zero_grad()
        if weights is not None:
            weights.grad = None
        out = ebc(kjt).values()
        out.backward(grad)
        grads = [p.grad for p in ebc.parameters()] + ([] if weights is None else [weights.grad])
        return [out.detach(), *(g.clone() for g in grads)]

    alone = on_threads(1, results)
    assert alone[1].count_nonzero() > 5000
    for threads in (1, 2, 5):
        for first, second in zip(alone, on_threads(threads, results), strict=True):
            assert torch.equal(first, second)


def test_a_bag_of_one_id_after_longer_ones_is_its_mean():
    """Tiles of 64 bags are read differently where all hold one id; a tile must not inherit the lengths of the one before."""
    lengths = torch.tensor([1] * 63 + [500] + [1] * 64)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    indices = torch.arange(int(lengths.sum()))
    case = simple_case(indices, offsets) | {"pooling_mode": PoolingMode.MEAN, "per_sample_weights": torch.rand(627)}
    torch.testing.assert_close(lookup(**case), reference_lookup(**case), **TOLERANCE)


@pytest.mark.skipif(not HAS_CPU_KERNEL, reason="numbers are the C++ kernel's")
def test_numbers_that_are_not_forwards_are_not_followed():
    """`lookup_backward` can be called with anything: what forward cannot have left counts as nothing left."""
    indices = torch.arange(500) % 20
    case = simple_case(indices, torch.arange(501))
    arguments = list(case.values())
    op = torch.ops.torchrec_pss
    out, (reads, numbers) = op.lookup(*arguments)
    assert numbers.tolist() == indices.tolist()
    backward = list(of_backward(case).values())
    expected = op.lookup_backward(torch.ones_like(out), [reads, numbers], *backward)[0]
    for wrong in (torch.full_like(numbers, 7), numbers + 1, numbers.flip(0), torch.full_like(numbers, 1 << 30)):
        gradient = op.lookup_backward(torch.ones_like(out), [reads, wrong], *backward)[0]
        torch.testing.assert_close(gradient, expected)
    for saved in ([reads], [reads[:3], numbers], [reads.double(), numbers]):
        with pytest.raises(ValueError, match="what forward left is Float \\[500, 0\\], and int32"):
            op.lookup_backward(torch.ones_like(out), saved, *backward)
    with pytest.raises(ValueError, match="a number for each of 500 indices"):
        op.lookup_backward(torch.ones_like(out), [reads, numbers[:3]], *backward)


def simple_case(indices, offsets, prefix=0, rows=10):
    feature = dict(zip(FeatureColumn, (123, rows, 8, prefix, 0, 4, 250), strict=False))
    return {
        "array": torch.randn(1000),
        "features": feature_matrix([feature], torch.device("cpu")),
        "hot_keys": torch.zeros(0, dtype=torch.int32),
        "projections": torch.zeros(0),
        "indices": indices,
        "offsets": offsets,
        "per_sample_weights": None,
        "total_width": 8,
        "read_width": 0,
        "pooling_mode": PoolingMode.SUM,
        "hash_kind": HASH_MIX64,
        "sign": True,
    }


BAD = {
    "offsets must start at 0": {"offsets": torch.tensor([1, 3])},
    "offsets must not decrease": {"offsets": torch.tensor([0, 2, 1, 3])},
    "offsets end at 2": {"offsets": torch.tensor([0, 2])},
    "offsets must be an int32": {"offsets": torch.tensor([0.0, 3.0])},
    "indices must be an int32": {"indices": torch.tensor([1.0, 2.0, 3.0])},
    "per_sample_weights must be": {"per_sample_weights": torch.ones(2)},
    "array must be a floating": {"array": torch.ones(10, dtype=torch.int64)},
    "pooling_mode must be": {"pooling_mode": 3},
    "hot_keys must be an int32": {"hot_keys": torch.zeros(1)},
    "projections must be": {"projections": torch.zeros(2, 3)},
}


@pytest.mark.parametrize("function", [lookup, reference_lookup], ids=["op", "reference"])
@pytest.mark.parametrize("message", list(BAD)[:3])
def test_bad_offsets(function, message):
    case = simple_case(torch.tensor([1, 2, 3]), torch.tensor([0, 1, 3]))
    with pytest.raises(IndexError, match=message):
        function(**case | BAD[message])


@pytest.mark.skipif(not HAS_CPU_KERNEL, reason="the C++ kernel's own check")
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_no_offsets_at_all(dtype):
    case = simple_case(torch.tensor([1, 2, 3]), torch.zeros(0, dtype=dtype))
    with pytest.raises(ValueError, match="offsets must hold F \\* B \\+ 1 values, got 0 for 1 features"):
        torch.ops.torchrec_pss.lookup(*positional(case))


@pytest.mark.parametrize("message", list(BAD)[3:])
def test_bad_arguments(message):
    case = simple_case(torch.tensor([1, 2, 3]), torch.tensor([0, 1, 3]))
    with pytest.raises(ValueError, match=message):
        lookup(**case | BAD[message])


@pytest.mark.parametrize("function", [lookup, reference_lookup], ids=["op", "reference"])
@pytest.mark.parametrize("bad", [-1, 10, 1 << 40])
def test_id_out_of_an_exact_range(function, bad):
    case = simple_case(torch.tensor([1, bad]), torch.tensor([0, 2]), prefix=4)
    with pytest.raises(IndexError, match=f"feature 0: id {bad} is out of range"):
        function(**case)


@pytest.mark.parametrize(
    "column, value",
    [
        ("BASE", 999),
        ("SLOTS", 251),
        ("SLOTS", 0),
        ("WIDTH", 16),
        ("PREFIX", 9),
        ("BLOCK", 3),
        ("ROWS", 10**9),
        ("FIRST", 4),
        ("FIRST", -1),
        ("HOT_END", 1),
        ("HOT_BEGIN", -1),
        ("HOT_SHIFT", 32),
        ("HOT_SHIFT", 31),
        ("HOT_DROP", -1),
        ("HOT_DROP", 32),
        ("INNER", 7),
        ("INNER", 8),
        ("PROJECTION", -1),
    ],
)
def test_metadata_that_leaves_the_array_is_refused(column, value):
    case = simple_case(torch.tensor([1, 2]), torch.tensor([0, 2]), prefix=4)
    if column == "PROJECTION":
        case |= {"projections": torch.zeros(100), "total_width": 4, "read_width": 8}
        case["features"][0, FeatureColumn.INNER :] = torch.tensor([8, 4])
        lookup(**case)
    case["features"][0, FeatureColumn[column]] = value
    with pytest.raises(ValueError, match="does not fit an array|add up to|has 7 rows|are not within projections of"):
        lookup(**case)


def test_any_metadata_are_read_within_the_array_or_refused():
    """Op and reference refuse the same, and nothing ends the process."""
    refused = 0
    for seed in range(4000):
        case, told_apart = damaged_case(seed)
        found = []
        for function in (lookup, reference_lookup):
            try:
                found.append(function(**case))
            except (ValueError, IndexError) as error:
                found.append(type(error))
        op, truth = found
        if isinstance(op, type):
            assert op is truth, seed
            refused += 1
        else:
            assert not isinstance(truth, type), seed
            if told_apart:
                same(op, truth, case["array"].dtype)
    assert 2000 < refused < 3900


@pytest.mark.parametrize("function", [lookup, reference_lookup], ids=["op", "reference"])
def test_a_row_of_metadata_of_2_to_the_31_coordinates_is_refused(function):
    case = simple_case(torch.tensor([1]), torch.tensor([0, 1]))
    case["features"][0, FeatureColumn.WIDTH] = 1 << 31
    case["features"][0, FeatureColumn.BLOCK] = 1
    with pytest.raises(ValueError, match="row 0 of `features` does not fit an array of 1000 elements"):
        function(**case | {"total_width": 1 << 31})


@pytest.mark.parametrize("function", [lookup, reference_lookup], ids=["op", "reference"])
def test_a_read_width_of_other_features_is_refused(function):
    with pytest.raises(ValueError, match="read_width is 8, but the projected features are read 0 columns wide"):
        function(**simple_case(torch.tensor([1]), torch.tensor([0, 1])) | {"read_width": 8})


@pytest.mark.parametrize("hot_base", [-1, 1000 - 3])
def test_hot_rows_that_leave_the_array_are_refused(hot_base):
    case = simple_case(torch.tensor([1, 2]), torch.tensor([0, 2]), prefix=4)
    case["hot_keys"] = torch.zeros(1, dtype=torch.int32)
    case["features"][0, FeatureColumn.HOT_END] = 1
    lookup(**case)
    case["features"][0, FeatureColumn.HOT_BASE] = hot_base
    with pytest.raises(ValueError, match="does not fit an array"):
        lookup(**case)


def test_no_features_no_bags():
    features = torch.zeros(0, len(FeatureColumn), dtype=torch.int64)
    empty = torch.zeros(0, dtype=torch.int64)
    case = simple_case(empty, torch.zeros(1, dtype=torch.int64)) | {"features": features, "total_width": 0}
    assert lookup(**case).shape == (0, 0)


BAD_ARGUMENTS = {
    "array must be": {"array": torch.zeros(10, 100)},
    "features must be int64": {"features": torch.zeros(1, 3, dtype=torch.int64)},
    "features must be int64 ": {"features": torch.zeros(1, len(FeatureColumn), dtype=torch.int32)},
    "hot_keys must be": {"hot_keys": torch.zeros(3, dtype=torch.int64)},
    "projections must be": {"projections": torch.zeros(3, dtype=torch.float64)},
    "indices must be": {"indices": torch.zeros(2)},
    "indices must be an": {"indices": torch.zeros(2, 1, dtype=torch.int64)},
    "offsets must be": {"offsets": torch.tensor([0.0, 2.0])},
    "offsets must hold": {"offsets": torch.zeros(0, dtype=torch.int64)},
    "per_sample_weights must be": {"per_sample_weights": torch.zeros(1)},
    "per_sample_weights must be ": {"per_sample_weights": torch.zeros(2, dtype=torch.float64)},
    "pooling_mode must be": {"pooling_mode": 7},
    "hash must be": {"hash_kind": 5},
}


@pytest.mark.parametrize("message", BAD_ARGUMENTS)
def test_the_bare_op_refuses_what_its_wrapper_does(message):
    case = simple_case(torch.tensor([1, 2]), torch.tensor([0, 2]))
    whole = {name: case[name] for name in random_case(0) if name in case}
    whole |= {
        "hot_keys": torch.zeros(0, dtype=torch.int32),
        "projections": torch.zeros(0),
        "per_sample_weights": None,
        "read_width": 0,
    }
    whole = {name: (whole | BAD_ARGUMENTS[message])[name] for name in random_case(0)}
    for function in (
        torch.ops.torchrec_pss.lookup,
        reference.lookup,
        lambda *a: lookup(**dict(zip(whole, a, strict=True))),
    ):
        with pytest.raises(ValueError, match=message.strip()):
            function(*whole.values())


@pytest.mark.parametrize("name", ["features", "hot_keys", "projections", "indices", "offsets", "per_sample_weights"])
def test_a_tensor_on_another_device_is_refused_by_name(name):
    case = simple_case(torch.tensor([1, 2]), torch.tensor([0, 2])) | {"per_sample_weights": torch.ones(2)}
    damaged = case | {name: case[name].to("meta")}
    with pytest.raises(ValueError, match=f"{name} is on meta, but the array is on cpu"):
        lookup(**damaged)
    with pytest.raises(ValueError, match=f"{name} is on meta, but the array is on cpu"):
        torch.ops.torchrec_pss.lookup(*(damaged[key] for key in random_case(0)))
