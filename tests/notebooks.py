"""The tutorials (docs/tutorials): run, kept with what they printed and drew, and written as pages.

    make notebooks

A notebook is executed by a kernel of this environment. What it wrote to stderr, and when, is left out: it names paths and versions of one
machine. Its page is the same in Markdown, with pictures in a folder beside it, so that the site needs no notebook reader.
"""

import os
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

TUTORIALS = Path(__file__).parents[1] / "docs" / "tutorials"
_SECONDS = 600  # of a cell


def notebooks() -> list[Path]:
    return sorted(TUTORIALS.glob("*.ipynb"))


def execute(path: Path) -> None:
    """Runs all cells in the notebook's folder, and writes them with their new outputs."""
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=_SECONDS, resources={"metadata": {"path": str(path.parent)}}, record_timing=False).execute()  # fmt: skip
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", {}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    nbformat.write(notebook, path)


def page_of(path: Path) -> tuple[str, dict[str, bytes]]:
    """The notebook as Markdown; and its pictures, by their paths beside it."""
    exporter = MarkdownExporter()
    text, found = exporter.from_filename(
        str(path), resources={"unique_key": path.stem, "output_files_dir": f"{path.stem}_files"}
    )
    head = f"<!-- Made of {path.name} by `make notebooks`. -->\n\n"
    # On the site a tutorial's neighbours are pages.
    for other in notebooks():
        text = text.replace(f"({other.name})", f"({other.stem}.md)")
    return head + text.strip() + "\n", found["outputs"]


def write_page(path: Path) -> None:
    text, pictures = page_of(path)
    path.with_suffix(".md").write_text(text)
    folder = path.with_name(f"{path.stem}_files")
    for old in folder.glob("*"):
        old.unlink()
    for name, content in pictures.items():
        folder.mkdir(exist_ok=True)
        (path.parent / name).write_bytes(content)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for notebook in map(Path, sys.argv[1:]) if sys.argv[1:] else notebooks():
        print(notebook.name, flush=True)
        execute(notebook)
        write_page(notebook)
