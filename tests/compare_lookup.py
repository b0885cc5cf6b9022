"""The CPU kernel against the reference on random configurations: output, every gradient, every fused update; the same of packed elements.

    python tests/compare_lookup.py --number 10000 [--first 0]

`make sanitize` runs it on a build with AddressSanitizer and UndefinedBehaviorSanitizer.
"""

import os

import torch
from lookup_cases import damaged_case, of_backward, random_case
from tqdm import tqdm

import torchrec_pss
from torchrec_pss.flags import Parser, add_number
from torchrec_pss.ops import HAS_CPU_KERNEL, reference
from torchrec_pss.ops.update_kinds import UpdateKind, UpdateNumbers


def results(seed: int, function, backward, update) -> list[torch.Tensor]:
    case = random_case(seed)
    arguments = list(case.values())
    out, saved = function(*arguments)
    dtype, generator = out.dtype, torch.Generator().manual_seed(seed)
    grad = torch.randn(out.shape, generator=generator, dtype=dtype)
    behind = list(of_backward(case).values())
    grad_array, grad_projections, grad_weights = backward(grad, saved, *behind)
    found = [out, grad_array.to(dtype), grad_projections, grad_weights]
    for kind in UpdateKind:
        array = case["array"].clone()
        sink = torch.zeros(len(array), dtype=dtype)
        state, second = torch.full_like(sink, 0.5), torch.full_like(sink, 0.3)
        numbers = list(UpdateNumbers(0.1, 1e-3, 0.9, 0.99, 0.05, 0.4, 0.3))
        update(grad, saved, array, sink, state, second, *behind[1:], int(kind), numbers)
        found += [array.to(dtype), sink, state, second]
    return found


def compare(seed: int) -> None:
    """Raises AssertionError where kernel and reference differ."""
    ops = torch.ops.torchrec_pss
    ours = results(seed, ops.lookup, ops.lookup_backward, ops.lookup_backward_update_)
    truth = results(seed, reference.lookup, reference.lookup_backward, reference.lookup_backward_update_)
    low = random_case(seed)["array"].dtype in (torch.bfloat16, torch.float16)
    # Sums of up to a thousand products in another order; of half precision, one rounding more.
    tolerance = {"rtol": 3e-2, "atol": 3e-2} if low else {"rtol": 1e-3, "atol": 1e-3}
    for number, (actual, expected) in enumerate(zip(ours, truth, strict=True)):
        torch.testing.assert_close(
            actual, expected, **tolerance, msg=lambda m, n=number: f"seed {seed}, result {n}: {m}"
        )


def refuse(seed: int) -> None:
    """Damaged metadata: read within the array, or a ValueError or IndexError."""
    case, _ = damaged_case(seed)
    arguments = list(case.values())
    try:
        out, saved = torch.ops.torchrec_pss.lookup(*arguments)
    except (ValueError, IndexError):
        return
    torch.ops.torchrec_pss.lookup_backward(torch.ones_like(out), saved, *of_backward(case).values())


def main() -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    add_number(parser, "--number", default=10_000)
    add_number(parser, "--first", default=0)
    args = parser.parse_args()
    os.environ.setdefault("TORCHREC_PSS_PARALLEL_ELEMENTS", "16384")  # threads share the work of small cases too
    if not HAS_CPU_KERNEL:
        parser.error("the C++ kernel was not built")
    from test_packed_lookup import compare as compare_packed  # after the environment
    from test_packed_step import compare as compare_packed_step

    for seed in tqdm(range(args.first, args.first + args.number), mininterval=5):
        compare(seed)
        compare_packed(seed)
        compare_packed_step(seed, UpdateKind(seed % len(UpdateKind)))
        refuse(seed)
    print(f"{args.number} configurations equal the reference ({torchrec_pss.__file__})")


if __name__ == "__main__":
    main()
