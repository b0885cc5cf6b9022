"""What the site's build does to pages: tools/site_*.py."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytest.importorskip("mkdocs")
sys.path.insert(0, str(ROOT / "tools"))

import site_docstrings  # noqa: E402
from site_links import as_on_site  # noqa: E402
from site_nav import expanded  # noqa: E402


@pytest.mark.parametrize("written, shown", [
    ("[figures](../../benchmarks/results/a.json)", "figures (`benchmarks/results/a.json`)"),
    ("[a.py](../../torchrec_pss/a.py)", "`torchrec_pss/a.py`"),
    ("[`a.py`](../../torchrec_pss/a.py)", "`torchrec_pss/a.py`"),
    ("[rules](../../CONTRIBUTING.md#rules)", "[rules](../project/contributing.md#rules)"),
    ("[start](../../README.md)", "[start](../index.md)"),
    ("[few bits](../how/bits.md#limits)", "[few bits](../how/bits.md#limits)"),
    ("[paper](https://arxiv.org/abs/2207.10731)", "[paper](https://arxiv.org/abs/2207.10731)"),
    ("`[a](../../b.py)`", "`[a](../../b.py)`"),
    ("```\n[a](../../b.py)\n```", "```\n[a](../../b.py)\n```"),
    ("![plot](../results/a.png)", "![plot](../results/a.png)"),
])  # fmt: skip
def test_links_that_leave_docs_become_code(written, shown):
    assert as_on_site(written, "docs/guides/x.md", "guides/x.md") == shown


def test_links_of_the_root_lead_to_pages():
    text = as_on_site(
        "[hashing](docs/how/hashing.md), [loop](examples/train.py)", "CHANGELOG.md", "project/changelog.md"
    )
    assert text == "[hashing](../how/hashing.md), loop (`examples/train.py`)"


def test_the_navigation_has_pages_that_nobody_named(tmp_path):
    for page in ("a/index.md", "a/z.md", "a/b.md", "named.md"):
        (tmp_path / page).parent.mkdir(exist_ok=True)
        (tmp_path / page).touch()
    nav = ["named.md", {"A": [{"Last": "a/z.md"}, "a/*"]}, {"Missing": ["tutorials/*"]}]
    assert expanded(nav, tmp_path) == ["named.md", {"A": [{"Last": "a/z.md"}, "a/index.md", "a/b.md"]}]


def test_a_public_name_without_a_docstring_is_found():
    parts = site_docstrings.read(ROOT)
    assert not site_docstrings.without_docstring(parts)
    compress = site_docstrings.exported(parts, "torchrec_pss.convert")["compress"]
    forward = site_docstrings.exported(parts, "torchrec_pss.nn")["SharedEmbeddingBag"].members["forward"]
    compress.docstring = forward.docstring = None
    assert site_docstrings.without_docstring(parts) == sorted([compress.path, forward.path])
