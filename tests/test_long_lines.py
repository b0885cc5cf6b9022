"""Lines of any length and content: bounded memory, the same ids to the bit, the same reports; quotes, marks and line ends."""

import gzip
import hashlib
import tracemalloc

import numpy as np
import pytest
from click_lines import line, row_of, write, write_rows

from torchrec_pss.datasets import line_stream
from torchrec_pss.datasets.criteo_files import CriteoReader, open_files
from torchrec_pss.datasets.criteo_lines import parse_lines, split_line, token_ids
from torchrec_pss.datasets.line_stream import LineStream, count_lines
from torchrec_pss.datasets.rows import NUM_DENSE

ROWS = 2048
MB = 1 << 20


def id_of(token):
    """As docs/guides/criteo_data.md has it."""
    own = token.ljust(8, b"\0") if len(token) <= 8 else hashlib.blake2b(token, digest_size=8).digest()
    return int.from_bytes(own, "little", signed=True)


def test_ids_of_random_tokens():
    rng = np.random.default_rng(0)
    for longest in (3, 8, 9, 40):
        tokens = [
            rng.integers(0, 3 if i % 2 else 256, rng.integers(0, longest + 1)).astype(np.uint8).tobytes()
            for i in range(3000)
        ]
        assert token_ids(tokens).tolist() == [id_of(t) for t in tokens]
    nul = [b"12345678", b"12345678\0", b"12345678\0\0", b"1\x002", b"1\0", b"1", b"\0" * 9, b"", b"\0"]
    for some in (nul, nul[:2], nul[4:6], nul[7:], nul[6:7], []):
        assert token_ids(some).tolist() == [id_of(t) for t in some]


def parsed_slowly(lines):
    """Rows and reports by the definition, a line at a time."""
    rows, bad = [], []
    for position, text in enumerate(lines):
        fields = text.split(b"\t")
        if len(fields) != 40:
            bad.append((position, f"{len(fields)} fields instead of 40"))
            continue
        if fields[0] not in (b"0", b"1"):
            bad.append((position, f"label is {fields[0][:40].decode('utf-8', 'replace')!r}, not 0 or 1"))
            continue
        numbers = []
        for i, field in enumerate(fields[1:14], start=1):
            try:
                numbers.append(float(np.array([field or b"0"]).astype(float)[0]))
            except ValueError:
                numbers.append(np.nan)
            if not np.isfinite(numbers[-1]):
                bad.append((position, f"I{i} is {field[:40].decode('utf-8', 'replace')!r}, not a finite number"))
                break
        else:
            dense = np.array(numbers)
            rows.append(((np.sign(dense) * np.log1p(abs(dense))).astype(np.float32), [id_of(t) for t in fields[14:]]))
    return rows, bad


def odd_lines(rng, number):
    values = [b"", b"5", b"-3", b"1e5", b" 7", b"1" * 300, b"1" * 400, b"0." + b"3" * 900, b"x", b"nan", b"9\0", b"\0"]
    tokens = [b"", b"68fd1e64", b"a" * 9, b"b" * 700, b"\0", b"c\0", b"d" * 8 + b"\0", b"\xff\xfe", b"e" * 5000]
    for _ in range(number):
        odd = rng.random() < 0.5
        dense = [
            values[i]
            for i in rng.integers(0, len(values) if odd and rng.random() < 0.3 else 8 if odd else 4, NUM_DENSE)
        ]
        dense = [b"8" if v == b"1" * 400 and rng.random() < 0.7 else v for v in dense]
        cats = [tokens[i] for i in rng.integers(0, len(tokens) if odd else 2, 26)]
        label = rng.choice([b"0", b"1"]) if rng.random() < 0.95 else b"2" * rng.integers(0, 90)
        yield b"\t".join([label, *dense, *cats][: 40 if rng.random() < 0.95 else rng.integers(1, 40)])


@pytest.mark.parametrize("seed", range(3))
def test_odd_lines_are_parsed_by_the_definition(seed):
    lines = list(odd_lines(np.random.default_rng(seed), 400))
    for these in (lines, [text for text in lines if len(text) < 500]):
        block, bad = parse_lines(these, b"\t")
        rows, expected = parsed_slowly(these)
        assert [(b.position, b.reason) for b in bad] == expected and len(block) == len(rows) > 20
        assert np.array_equal(block.dense, np.array([dense for dense, _ in rows]))
        assert block.ids.T.tolist() == [ids for _, ids in rows]


def peak_of(work):
    tracemalloc.start()
    try:
        found = work()
        return found, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


LONG = {
    "a token of a megabyte": lambda rows: rows[7] + "x" * 10**6,
    "a number of a megabyte": lambda rows: rows[7].replace("\t", "\t" + "1" * 10**6, 1),
    "a label of a megabyte": lambda rows: "1" * 10**6 + rows[7],
    "a million fields": lambda rows: "\t" * 10**6,
    "a line of 20 megabytes": lambda rows: rows[7] + "x" * 20 * 10**6,
    "a quote that is not closed": lambda rows: rows[7] + '"\t"' * 10**5,
}


@pytest.mark.parametrize("kind", LONG)
def test_memory_is_bounded_whatever_a_line_holds(tmp_path, kind):
    """One line among others: they used to be padded to it, to gigabytes."""
    rows = [line(r) for r in range(ROWS)]
    long = LONG[kind](rows)
    rows[7] = long
    path = write(tmp_path / "log.tsv", rows)
    del rows
    reader = CriteoReader(open_files(path))
    block, peak = peak_of(lambda: next(reader.read(iter([range(ROWS)]))))
    assert peak < 100 * MB
    good = kind == "a token of a megabyte"
    assert len(block) == ROWS - (not good) and reader.num_bad_rows == (not good)
    if good:
        assert block.ids[25, 7] == id_of(long.split("\t")[-1].encode())


def test_many_long_tokens(tmp_path):
    path = write(tmp_path / "log.tsv", [line(r) + "x" * 50_000 for r in range(2000)])
    reader = CriteoReader(open_files(path))
    block, peak = peak_of(lambda: next(reader.read(iter([range(2000)]))))
    assert peak < 130 * MB and row_of(block.ids[0]) == list(range(2000)) and len(set(block.ids[25].tolist())) > 900


def test_a_line_without_an_end(tmp_path, monkeypatch, caplog):
    """Its place is kept, and what follows it."""
    monkeypatch.setattr(line_stream, "LONGEST_LINE", 3 * MB)
    path = write(tmp_path / "log.tsv.gz", [line(0), "x" * 40 * MB, line(2), line(3)])
    reader = CriteoReader(open_files(path))
    blocks, peak = peak_of(lambda: list(reader.read(iter([range(1), range(1, 3), range(3, 4)]))))
    assert [row_of(b.ids[0]) for b in blocks] == [[0], [2], [3]] and peak < 20 * MB
    assert f"{path}:2: a line of {40 * MB:,} bytes, more than" in caplog.text
    assert [row_of(b.ids[0]) for b in reader.read(iter([range(2, 4)]))] == [[2, 3]]
    path = write(tmp_path / "alone.tsv", ["x" * 4 * MB])
    with pytest.raises(ValueError, match=r"alone\.tsv is no Criteo file: its first line has 4,194,304 bytes"):
        open_files(path)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_lines_are_those_of_split(tmp_path, monkeypatch, end):
    """Skipped and taken in any amounts, over chunks of any size, with a mark at the beginning or without."""
    monkeypatch.setattr(line_stream, "LONGEST_LINE", 100)
    rng = np.random.default_rng(0)
    for case in range(60):
        monkeypatch.setattr(line_stream, "_CHUNK", int(rng.integers(8, 100)))
        lines = [b"ab", *(b"x" * int(n) for n in rng.choice([0, 1, 5, 99, 101, 300], rng.integers(0, 40)))]
        content = end.join(lines) + (end if case % 2 else b"")
        lines = content.split(end[-1:])
        lines = lines[:-1] if not lines[-1] else lines
        path = tmp_path / "f"
        marked = b"\xef\xbb\xbf" + content if case % 3 else content
        path.write_bytes(gzip.compress(marked) if case % 5 else marked)
        assert count_lines(path) == len(lines)
        stream, at = LineStream(path), 0
        while at < len(lines):
            if rng.random() < 0.5:
                at += stream.skip(int(rng.integers(0, 9)))
            for text in stream.take(int(rng.integers(1, 9))).split():
                whole = lines[at]
                assert (text == whole) if len(whole) <= 100 else (text == b"" and text.length == len(whole))
                at += 1
        assert len(stream.take(1)) == 0 and stream.skip(5) == 0
        stream.close()


QUOTED = {
    b'a,"b",c': [b"a", b"b", b"c"],
    b'"a,b","c ""d""",""': [b"a,b", b'c "d"', b""],
    b'a"b,c': [b'a"b', b"c"],
    b'"a,b': None,
    b'"a"b,c': None,
    b'""""': [b'"'],
    b'"a\r': None,
    b'"a"\r\n': [b"a"],
}


@pytest.mark.parametrize("text", QUOTED)
def test_quotes_in_comma_separated_fields(text):
    assert split_line(text, b",") == (QUOTED[text] or [text.rstrip(b"\r\n")])


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_quotes_change_nothing(delimiter):
    plain = [line(r, delimiter).encode() for r in range(6)]
    quoted = [
        b",".join(b'"%s"' % f for f in text.split(b",")) if delimiter == "," else
        b"\t".join(b'"%s"' % f if i % 3 else f for i, f in enumerate(text.split(b"\t")))
        for text in plain
    ]  # fmt: skip
    one, two = (parse_lines(lines, delimiter.encode()) for lines in (plain, quoted))
    assert not one[1] and not two[1]
    assert np.array_equal(one[0].ids, two[0].ids) and np.array_equal(one[0].dense, two[0].dense)
    inside = plain[0].replace(b"00000000", f'"a{delimiter}""b"'.encode())
    (block, bad) = parse_lines([inside, *plain[1:]], delimiter.encode())
    assert not bad and block.ids[0, 0] == id_of(f'a{delimiter}"b'.encode())
    # A quote alone: nobody can tell where it ends, where commas divide; where tabs do, it is a character.
    alone = plain[0].replace(b"00000000", b'"0000000')
    block, bad = parse_lines([alone, *plain[1:]], delimiter.encode())
    if delimiter == ",":
        assert [b.reason for b in bad] == ["a quote is not closed, or something follows it"]
    else:
        assert not bad and block.ids[0, 0] == id_of(b'"0000000')


@pytest.mark.parametrize("name", ["a.tsv", "a.csv.gz"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_marks_and_ends_of_lines(tmp_path, name, mark, end):
    delimiter = "," if "csv" in name else "\t"
    header = ["label," + ",".join(["x"] * 39)] if delimiter == "," else []
    content = mark + end.join([*(h.encode() for h in header), *(line(r, delimiter).encode() for r in range(5))]) + end
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if "gz" in name else content)
    reader = CriteoReader(open_files(path), 0)
    assert reader.rows_per_file == [5]
    assert row_of(next(reader.read(iter([range(5)]))).ids[0]) == list(range(5))


def test_gzip_of_several_members_and_with_more_behind(tmp_path):
    path = tmp_path / "a.tsv.gz"
    members = [gzip.compress(f"{line(r)}\n".encode()) for r in range(3)]
    path.write_bytes(b"".join(members))
    assert row_of(next(CriteoReader(open_files(path)).read(iter([range(3)]))).ids[0]) == [0, 1, 2]
    path.write_bytes(b"".join(members) + b"more")
    with pytest.raises(ValueError, match=r"a\.tsv\.gz is unreadable: Not a gzipped file"):
        open_files(path)


def test_row_positions_do_not_depend_on_windows(tmp_path):
    path = write_rows(tmp_path / "log.tsv", range(9000))
    reader = CriteoReader(open_files(path))
    for size in (1, 17, 4096, 5000, 9000):
        ranges = [range(s, min(s + size, 9000)) for s in range(0, 9000, size)][::3]
        read = [row_of(block.ids[0]) for block in reader.read(iter(ranges[:300]))]
        assert read == [list(r) for r in ranges[:300]]
