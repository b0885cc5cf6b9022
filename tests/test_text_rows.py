"""The C++ kernel for lines of text against `criteo_lines`, which says what is meant: rows to the bit, and the same lines left out for the same reasons."""

import numpy as np
import pytest

from torchrec_pss.datasets import text_rows
from torchrec_pss.datasets.criteo_lines import NUM_FIELDS, dense_values, parse_lines, token_ids
from torchrec_pss.datasets.line_stream import CutLine, Lines
from torchrec_pss.datasets.rows import NUM_DENSE
from torchrec_pss.ops import HAS_CPU_KERNEL

pytestmark = pytest.mark.skipif(not HAS_CPU_KERNEL, reason="the C++ kernel was not built")

NUMBERS = [
    b"", b"0", b"-0", b"1", b"-1", b"7", b"65535", b"999999999999999", b"-999999999999999", b"1000000000000000", b"9007199254740993", b"9" * 18, b"9" * 30,
    b"0.5", b"-.5", b"5.", b"1e3", b"1E-7", b"1.7976931348623157e308", b"4.9e-324", b"0.1", b"123456789.123456789", b"007", b"00", b"1" * 70,
]  # fmt: skip
ODD_NUMBERS = [
    b"+1",
    b" 1",
    b"1 ",
    b"1_000",
    b"-",
    b".",
    b"--1",
    b"1e400",
    b"inf",
    b"-nan",
    b"nan",
    b"0x10",
    b"a",
    b"1\0",
    b"1,5",
    b"\xff",
]
TOKENS = [
    b"",
    b"a",
    b"68fd1e64",
    b"\0",
    b"a\0",
    b"\xff" * 8,
    b"x" * 9,
    b"y" * 127,
    b"z" * 128,
    b"w" * 129,
    b"v" * 1000,
    b" ",
    b"\r",
    b"a\rb",
]


def given(lines, end=b"\n"):
    """The lines as a stream would hand them out, others around them."""
    text, ends = b"before" + end, []
    for line in lines:
        text += line
        ends.append(len(text))
        text += end
    return Lines(text + b"after", 7, np.array(ends, dtype=np.int64))


def same(lines, delimiter):
    found, found_bad = text_rows.parse_text(given(lines), delimiter)
    expected, expected_bad = parse_lines(lines, delimiter)
    assert found.dense.tobytes() == expected.dense.tobytes() and found.dense.dtype == np.float32
    assert np.array_equal(found.ids, expected.ids) and np.array_equal(found.labels, expected.labels)
    assert [(b.position, b.reason) for b in found_bad] == [(b.position, b.reason) for b in expected_bad]
    return found, found_bad


def row(rng, numbers=NUMBERS, tokens=TOKENS):
    pick = lambda of: of[int(rng.integers(len(of)))]  # noqa: E731
    return [pick([b"0", b"1"]), *(pick(numbers) for _ in range(NUM_DENSE)), *(pick(tokens) for _ in range(26))]


@pytest.mark.parametrize("delimiter", [b"\t", b","])
def test_plain_lines(delimiter):
    rng = np.random.default_rng(0)
    for number in (0, 1, 2, 500):
        lines = [delimiter.join(row(rng)) + (b"\r" if rng.random() < 0.3 else b"") for _ in range(number)]
        block, bad = same(lines, delimiter)
        assert len(block) == number and not bad


@pytest.mark.parametrize("delimiter", [b"\t", b","])
def test_lines_of_every_kind(delimiter):
    """Labels, numbers, quotes and lengths that are not plain, between lines that are."""
    rng = np.random.default_rng(1)
    for _ in range(30):
        lines = []
        for _ in range(40):
            fields, kind = row(rng), rng.integers(8)
            if kind == 0:
                fields[0] = rng.choice([b"", b"2", b"-1", b"01", b"1.0", b" 1", b"x"])
            elif kind == 1:
                fields[int(rng.integers(1, 14))] = ODD_NUMBERS[int(rng.integers(len(ODD_NUMBERS)))]
            elif kind == 2:
                place = int(rng.integers(1, NUM_FIELDS))
                fields[place] = [b'"' + fields[place] + b'"', b'"a' + delimiter + b'b"', b'"', b'a"b', b'""""'][
                    int(rng.integers(5))
                ]
            elif kind == 3:
                fields = fields[: int(rng.integers(0, NUM_FIELDS))]
            elif kind == 4:
                fields += [b"x"] * int(rng.integers(1, 4))
            lines.append(delimiter.join(fields))
        block, bad = same(lines, delimiter)
        assert len(block) + len(bad) == 40 and bad


def test_lines_that_were_too_long():
    cut = CutLine()
    cut.length = 1 << 25
    rng = np.random.default_rng(2)
    plain = b"\t".join(row(rng))
    lines = given([b"", plain])
    lines.cut = cut
    block, bad = text_rows.parse_text(lines, b"\t")
    assert len(block) == 1 and bad[0].position == 0 and "a line of 33,554,432 bytes" in bad[0].reason
    assert lines[0] is cut and lines[1] == plain


def test_numbers_become_what_numpy_makes_of_them():
    rng = np.random.default_rng(3)
    raw = np.concatenate(
        [rng.normal(size=2000) * 10.0 ** rng.integers(-300, 300, 2000), rng.integers(-(1 << 60), 1 << 60, 2000)]
    )
    texts = [repr(float(x)).encode() for x in raw[:2000]] + [str(int(x)).encode() for x in raw[2000:]]
    lines = [b"\t".join([b"1", *texts[i : i + NUM_DENSE], *[b"a"] * 26]) for i in range(0, 3900, NUM_DENSE)]
    block, bad = same(lines, b"\t")
    assert not bad
    assert np.array_equal(block.dense.ravel(), dense_values(raw[: len(block) * NUM_DENSE]))


def test_ids_of_tokens_in_a_text():
    """Every length around the hash's blocks, against hashlib."""
    rng = np.random.default_rng(4)
    tokens = [bytes(rng.integers(0, 256, n, dtype=np.uint8)) for n in (*range(0, 300), 1000, 4096, 0, 8, 9)]
    offsets = np.cumsum([0, *map(len, tokens)])
    assert np.array_equal(text_rows.ids_in(b"".join(tokens), offsets), token_ids(tokens))
    assert len(text_rows.ids_in(b"", np.zeros(1, np.int64))) == 0
