"""Links that leave docs/ are made for readers of the repository: on the site, which has no repository behind it, they are code.

CHANGELOG.md and CONTRIBUTING.md, which lie at the root, are pages of *Project*; README.md is the start page.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT_PAGES = {"CHANGELOG.md": "project/changelog.md", "CONTRIBUTING.md": "project/contributing.md"}
_ELSEWHERE = {**ROOT_PAGES, "README.md": "index.md"}
_PARTS = re.compile(
    r"^(?P<indent> *)```.*?^(?P=indent)```"  # code stays as it is
    r"|`[^`\n]+`"
    r"|(?<!!)\[(?P<text>[^\]]+)\]\((?P<path>[^)#:\s]+)(?P<anchor>#[^)\s]*)?\)",
    re.MULTILINE | re.DOTALL,
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the root's pages."""
    root = Path(config.config_file_path).parent
    for source, page in ROOT_PAGES.items():
        text = as_on_site((root / source).read_text(), source, page)
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrites a page of docs/."""
    here = page.file.src_uri
    return markdown if here in ROOT_PAGES.values() else as_on_site(markdown, f"docs/{here}", here)


def as_on_site(markdown: str, source: str, page: str) -> str:
    """A page's text with links as the site has them.

    Args:
        markdown: the text.
        source: where it lies in the repository.
        page: where it lies on the site.
    """

    def part(match: re.Match) -> str:
        text, target, anchor = match["text"], match["path"], match["anchor"] or ""
        if text is None:
            return match[0]
        in_repository = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        on_page = _ELSEWHERE.get(in_repository)
        if in_repository.startswith("docs/"):
            on_page = in_repository.removeprefix("docs/")
        if on_page:
            return f"[{text}]({posixpath.relpath(on_page, posixpath.dirname(page) or '.')}{anchor})"
        plain = text.strip("`")
        return f"`{in_repository}`" if in_repository.endswith(plain) else f"{text} (`{in_repository}`)"

    return _PARTS.sub(part, markdown)
