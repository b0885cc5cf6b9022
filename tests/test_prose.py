"""Documents are for reading: sentences are short, figures stand in tables, and tables fit a page.

Code, tables, headings and the addresses of links are no prose. Research notes (docs/research) are read for the width of their tables alone.
"""

import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
LONGEST = 45  # words of a sentence
MEAN = 20  # words of a sentence, over a page
COLUMNS = 6
FIGURES = 6  # of a paragraph or a list's item
FOLDERS = ("start", "guides", "how", "results", "project")


class Limits(NamedTuple):
    mean: float = MEAN
    words: int | None = None  # of all, as wc counts them
    figures: int | None = None  # of a page's prose


README = Limits(mean=18, words=900, figures=25)

_FENCE = re.compile(r"^(\s*)(```|~~~).*?^\s*\2\s*$", re.MULTILINE | re.DOTALL)
_ITEM = re.compile(r"^\s*(?:[-*+]|\d+\.) +")
_ADMONITION = re.compile(r"^(?:!!!|\?\?\?\+?|===) ")
_ENDS = re.compile(r"(?<=[.!?])[\"')*\]]*\s+(?=[\"'(*\[`]*[A-Z0-9`])")
_FIGURE = re.compile(r"(?<![\w.,])[-+±]?[.]?\d[\d.,]*")


def without_code(text: str) -> str:
    """The page less its front matter, comments, and blocks of code, by fences or by four spaces. Admonitions are text."""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    text = _FENCE.sub("", re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL))
    lines, before, indent = [], "", 0
    for line in text.splitlines():
        if _ADMONITION.match(line):
            line, indent = re.sub(r'^\S+ +\w*|"', "", line), 4
            lines += ["", line, ""]
            continue
        if line.strip() and not line.startswith("    "):
            indent = 0
        line = line[indent:] if line.startswith(" " * indent) else line
        code = line.startswith("    ") and not _ITEM.match(line) and (not before.strip() or before == "code")
        before = "code" if code else line
        lines.append("" if code else line)
    return "\n".join(lines)


def tables(text: str) -> list[list[str]]:
    """Lines of each table."""
    found, before = [], False
    for line in without_code(text).splitlines():
        is_row = line.lstrip().startswith("|")
        if is_row:
            found += [] if before else [[]]
            found[-1].append(line.strip())
        before = is_row
    return found


def columns(row: str) -> int:
    return len(re.split(r"(?<!\\)\|", re.sub(r"`[^`]*`", "", row).strip().strip("|")))


def paragraphs(text: str) -> list[str]:
    """Prose: paragraphs, and items of lists one by one. Inline code is a word, an image nothing, and of a link its text stays."""
    found: list[list[str]] = [[]]
    for line in without_code(text).splitlines():
        if not line.strip() or re.match(r"^\s*(#|\||\[.+\]: |-{3,}\s*$|<)", line):
            found.append([])
        elif _ITEM.match(line):
            found.append([_ITEM.sub("", line)])
        else:
            found[-1].append(line.strip())
    prose = (re.sub(r"!\[[^\]]*\]\([^)]*\)", "", " ".join(lines)) for lines in found)
    prose = (re.sub(r"`+[^`]+`+", "Code", p) for p in prose)
    return [p for p in prose if p.strip()]


def shown(paragraph: str) -> str:
    """Links as they are read."""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", paragraph)


def sentences(text: str) -> list[str]:
    return [s for p in paragraphs(text) for s in _ENDS.split(shown(p)) if words(s)]


def words(text: str) -> int:
    return sum(any(c.isalnum() for c in word) for word in text.split())


def figures(paragraph: str) -> int:
    """Numbers in digits, outside links; letters before a digit make a name of it (fp32, D16)."""
    return len(_FIGURE.findall(re.sub(r"\[[^\]]*\]\([^)]*\)", "", paragraph)))


def faults(text: str, limits: Limits | None = None) -> list[str]:
    """What is wrong with a page. Without ``limits`` its tables alone are looked at."""
    widths = [(max(map(columns, table)), table[0]) for table in tables(text)]
    found = [f"{n} columns, {COLUMNS} are allowed: {head[:80]}" for n, head in widths if n > COLUMNS]
    if limits is None:
        return found
    lengths = [(words(s), s) for s in sentences(text)]
    mean = sum(n for n, _ in lengths) / max(len(lengths), 1)
    if mean > limits.mean:
        found.append(f"a sentence has {mean:.1f} words on the mean, {limits.mean} are allowed")
    found += [f"{n} words, {LONGEST} are allowed: {s[:80]}" for n, s in lengths if n > LONGEST]
    counts = [(figures(p), p) for p in paragraphs(text)]
    found += [f"{n} figures, {FIGURES} are allowed: {p[:80]}" for n, p in counts if n > FIGURES]
    if limits.figures is not None and (n := sum(n for n, _ in counts)) > limits.figures:
        found.append(f"{n} figures on the page, {limits.figures} are allowed")
    if limits.words is not None and (n := len(text.split())) > limits.words:
        found.append(f"{n} words on the page, {limits.words} are allowed")
    return found


def pages() -> list:
    docs = ROOT / "docs"
    found = {ROOT / "README.md": README, ROOT / "CONTRIBUTING.md": Limits(), docs / "index.md": Limits()}
    found |= {page: Limits() for folder in FOLDERS for page in sorted((docs / folder).rglob("*.md"))}
    found |= dict.fromkeys(sorted((docs / "research").rglob("*.md")))
    return [pytest.param(p, limits, id=str(p.relative_to(ROOT))) for p, limits in found.items() if p.exists()]


def test_all_pages_are_read():
    read = {param.id: param.values[1] for param in pages()}
    assert read["README.md"] == README and read["docs/results/quality.md"] == Limits()
    assert {page.split("/")[1] for page in read if page.count("/") > 1} >= {
        "guides",
        "how",
        "results",
        "project",
        "research",
    }
    assert read["docs/research/index.md"] is None


@pytest.mark.parametrize(("page", "limits"), pages())
def test_pages_can_be_read(page, limits):
    assert not (found := faults(page.read_text(), limits)), "\n".join(found)


GOOD = """# A heading of any number of words, with 1, 2, 3, 4, 5, 6, 7 and 8 figures

An array has 4 bits an element. It is read through `lookup(1, 2, 3, 4, 5, 6, 7)`, as [2207.10731](https://arxiv.org/abs/2207.10731) has it.

| a | b | c | d | e | f |
|---|---|---|---|---|---|
| .1 | .2 | .3 | .4 `a | b` | .5 | .6 |

    code of any length, with 1 2 3 4 5 6 7 8 9 figures

- One item, fp32.
- Another item
"""


def test_a_good_page_has_no_faults():
    assert not faults(GOOD, Limits())
    assert len(sentences(GOOD)) == 4 and words(sentences(GOOD)[0]) == 7
    assert [figures(p) for p in paragraphs(GOOD)] == [1, 0, 0]


LONG = "It " + "is " * 44 + "long."
MANY = "They are .1, 2.5 %, -.0034, +.1, 1,000x, 12M and ±3."
WIDE = "| a | b | c | d | e | f | g |\n|---|---|---|---|---|---|---|\n| 1 | 2 | 3 | 4 | 5 | 6 | 7 |"


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (LONG, "46 words, 45"),
        (f"- {LONG}", "46 words, 45"),
        (f"!!! note\n    {LONG}", "46 words, 45"),
        (LONG.replace(" ", "\n", 20), "46 words, 45"),
        (MANY, "7 figures, 6"),
        (f"1. Few.\n2. {MANY}", "7 figures, 6"),
        (WIDE, "7 columns, 6"),
        (WIDE.replace(" g |", ""), "7 columns, 6"),  # a row longer than its head
        (f"{LONG[:-18]}. " * 9, "words on the mean, 20"),
    ],
)
def test_a_bad_page_is_told(bad, said):
    (found,) = faults(GOOD.replace("An array", f"{bad}\n\nAn array"), Limits())
    assert said in found


def test_a_page_is_told_all_of_its_faults():
    assert len(faults("\n\n".join([LONG, MANY, WIDE]), Limits(mean=18))) == 4
    assert len(faults("\n\n".join([LONG, MANY, WIDE]), None)) == 1  # a research note
    assert faults("It is 1, 2, 3.\n\n" * 10, README) == ["30 figures on the page, 25 are allowed"]
    assert faults("Six words stand in this sentence. " * 151, README) == ["906 words on the page, 900 are allowed"]


def test_the_readme_is_one_screen_and_a_half():
    """A sentence, a plot, three claims, an installation, three uses, limits, and where to go."""
    text = (ROOT / "README.md").read_text()
    assert words(sentences(text)[0]) <= 20 and len(re.findall(r"!\[[^\]]*\]\(", text)) == 1
    claims = [p for p in paragraphs(text[: text.index("## Install")]) if p.startswith("**")]
    assert len(claims) == 3 and all(words(shown(p)) <= 20 and "](docs/" in p for p in claims)
    install = text[text.index("## Install") : text.index("## Use")]
    assert len(re.findall(r"^    \w", install.split("On a fresh machine")[0], re.MULTILINE)) == 2
    uses = re.split(r"^\*\*\d\. ", text[text.index("## Use") : text.index("**Then serve")], flags=re.MULTILINE)[1:]
    code = [
        re.findall(r"```python\n(.*?)```", use, re.DOTALL) or re.findall(r"^    (.*)", use, re.MULTILINE)
        for use in uses
    ]
    assert len(uses) == 3 and all(blocks and all(block.count("\n") <= 12 for block in blocks) for blocks in code)
    limits = text[text.index("## Limits") : text.index("## Where to go next")]
    assert len(re.findall(r"^- ", limits, re.MULTILINE)) == 5
    assert all(len(table) - 2 <= 5 for table in tables(text))
