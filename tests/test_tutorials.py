"""The tutorials print what they are kept with, and their pages are those of the notebooks."""

import contextlib
import io
import os
import re
import warnings

import forked
import nbformat
import notebooks
import pytest

NOTEBOOKS = pytest.mark.parametrize("path", notebooks.notebooks(), ids=lambda path: path.stem)
_NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*")
_DISPLAYED = re.compile(r"^<.* object>\n", re.MULTILINE)  # by `display`, outside of a notebook


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def executed(path, sources, printed):
    """In a process of its own: all cells one after the other, and what each printed goes into the pipe."""
    os.environ["MPLBACKEND"] = "agg"
    os.chdir(path.parent)
    warnings.simplefilter("ignore")
    names = {"__name__": "__main__"}
    for number, source in enumerate(sources):
        with contextlib.redirect_stdout(io.StringIO()) as text:
            try:
                exec(compile(source, f"{path.name}, code cell {number}", "exec"), names)
            except BaseException as error:
                printed.send(f"cell {number}: {error!r}")
                raise
        printed.send(_DISPLAYED.sub("", text.getvalue()))


def same(kept, now):
    """Words alike, and figures but for what another processor rounds otherwise."""
    words = [" ".join(_NUMBER.sub("#", text).split()) for text in (kept, now)]
    numbers = [[float(n.replace(",", "")) for n in _NUMBER.findall(text)] for text in (kept, now)]
    return words[0] == words[1] and numbers[1] == pytest.approx(numbers[0], rel=0.03, abs=0.01)


@NOTEBOOKS
def test_a_tutorial_prints_what_it_is_kept_with(path):
    cells = code_cells(path)
    ours, theirs = forked.context().Pipe(duplex=False)
    process = forked.context().Process(target=executed, args=(path, [cell.source for cell in cells], theirs))
    process.start()
    theirs.close()
    try:
        for number, cell in enumerate(cells):
            assert ours.poll(300), f"cell {number} takes too long"
            kept = "".join(output.text for output in cell.outputs if output.output_type == "stream")
            now = ours.recv()
            assert same(kept, now), f"cell {number} printed\n{now}\nand is kept with\n{kept}"
        process.join(30)
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()


@NOTEBOOKS
def test_a_page_is_of_its_notebook(path):
    text, pictures = notebooks.page_of(path)
    assert path.with_suffix(".md").read_text() == text, "make notebooks"
    folder = path.with_name(f"{path.stem}_files")
    assert {f"{folder.name}/{file.name}": file.read_bytes() for file in folder.iterdir()} == pictures
    assert len(pictures) >= (1 if path.stem == "compress_and_serve" else 2)


@NOTEBOOKS
def test_a_notebook_is_whole_and_of_no_machine(path):
    cells, text = code_cells(path), path.read_text()
    assert all(cell.execution_count == number for number, cell in enumerate(cells, 1)), "not run from first to last"
    assert sum(bool(cell.outputs) for cell in cells) >= 5
    assert not re.search(r"/(home|root|work|Users)/", text) and '"stderr"' not in text and '"error"' not in text


def test_there_are_tutorials():
    assert {path.stem for path in notebooks.notebooks()} == {"swap_the_collection", "criteo_end_to_end", "compress_and_serve"}  # fmt: skip


def test_what_counts_as_the_same():
    assert same("AUROC 0.7571, 1,234 bytes\n", "AUROC 0.7574,  1,234 bytes")
    assert not same("AUROC 0.7571", "AUROC 0.7371 and more") and not same("AUROC 0.7571", "AUROC 0.7171")
    assert not same("1,234 bytes", "1,334 bytes") and not same("full tables 3", "the array 3")
