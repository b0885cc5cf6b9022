"""`advice`: what to do with a column of labels that is not of 0 and 1."""

import math
from collections.abc import Iterable

SUPPORTED = "a label is 0 or 1; a rating: make it 0/1 in the file first, such as rating >= 4"
_CLASSES = 100  # distinct whole numbers; more are an amount
_TRUTHS = ({"true", "false"}, {"yes", "no"}, {"t", "f"}, {"y", "n"})


def advice(values: Iterable[bytes]) -> str:
    """What the distinct ``values`` look like, and what is supported."""
    texts = {value.decode("utf-8", "replace").strip() for value in values} - {""}
    numbers = _numbers(texts)
    if numbers is None:
        if any({text.lower() for text in texts} <= both for both in _TRUTHS):
            return "it holds words for yes and no: write 1 and 0 in the file"
        return SUPPORTED
    low, high = min(numbers, default=0), max(numbers, default=0)
    if set(numbers) <= {0, 1}:
        return "it holds 0 and 1 written otherwise, or nothing: write 0 or 1 in the file"
    if len(numbers) <= 2:
        return f"it holds {low:g} and {high:g}: write 0 and 1 for them in the file"
    if all(number.is_integer() for number in numbers) and len(numbers) <= _CLASSES:
        return f"it holds {len(numbers)} whole numbers from {low:g} to {high:g}, like ratings or classes; {SUPPORTED}"
    return f"it holds numbers from {low:g} to {high:g}, like amounts or prices; a label is 0 or 1: make it 0/1 in the file first, such as price > 0"


def _numbers(texts: set[str]) -> list[float] | None:
    try:
        found = sorted({float(text) for text in texts})
    except ValueError:
        return None
    return found if all(map(math.isfinite, found)) else None
