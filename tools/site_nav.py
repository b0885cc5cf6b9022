"""The site's navigation: ``folder/*`` stands for every page of a folder that is not named, and a section without pages is left out."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Names all pages, so that one that is new is in the navigation without a line here."""
    config.nav = expanded(config.nav, Path(config.docs_dir))
    return config


def expanded(nav: list, docs: Path) -> list:
    """A navigation whose patterns are replaced by pages."""
    named = set(pages(nav))

    def section(entries: list) -> list:
        found: list = []
        for entry in entries:
            if isinstance(entry, str):
                if entry.endswith("/*"):
                    paths = sorted(
                        (docs / entry[:-2]).glob("*.md"), key=lambda path: (path.name != "index.md", path.name)
                    )
                    there = (str(path.relative_to(docs)) for path in paths)
                    found += [page for page in there if page not in named]
                else:
                    found.append(entry)
                continue
            ((title, inside),) = entry.items()
            inside = section(inside) if isinstance(inside, list) else inside
            if inside:
                found.append({title: inside})
        return found

    return section(nav)


def pages(nav: list) -> list[str]:
    """Of a navigation, its leaves in order."""
    found: list[str] = []
    for entry in nav:
        inside = entry if isinstance(entry, str) else next(iter(entry.values()))
        found += [inside] if isinstance(inside, str) else pages(inside)
    return found
