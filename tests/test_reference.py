"""Pages of reference are held against the code: fields of files, and the messages that errors.md explains."""

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest

from torchrec_pss.distributed.planner.report import PlanReport
from torchrec_pss.watch.collision_load import TableLoad

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/reference/file_formats.md").read_text()
ANY = "\0"  # in the place of what a message puts in


def section(title):
    """A page's part from a heading to the next of its rank."""
    rank = re.search(rf"^(#+) {re.escape(title)}$", PAGE, re.MULTILINE)[1]
    return re.split(rf"^#{{1,{len(rank)}}} ", PAGE.split(f"\n{rank} {title}\n")[1], flags=re.MULTILINE)[0]


def documented(title):
    cells = re.findall(r"^\| (`[^|]+`) \|", section(title), re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def written(file, function, *names):
    """Keys of the objects that a function makes: of those that it returns, or puts into variables (or arguments) of these names."""
    tree = ast.parse((ROOT / file).read_text())
    (found,) = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == function]
    dicts = []
    for node in ast.walk(found):
        targets = [node.target] if isinstance(node, ast.AugAssign | ast.AnnAssign) else getattr(node, "targets", [])
        named = any(isinstance(t, ast.Name) and t.id in names for t in targets)
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign) and named:
            dicts.append(node.value)
        if isinstance(node, ast.Assign):
            keys = [t for t in targets if isinstance(t, ast.Subscript) and getattr(t.value, "id", "") in names]
            yield from (t.slice.value for t in keys)
        if not names and isinstance(node, ast.Return):
            dicts.append(node.value)
        if not names and isinstance(node, ast.Call):
            dicts += node.args
    for node in dicts:
        yield from (k.value for k in getattr(node, "keys", []) if k is not None)


RESULTS = [
    *written("examples/criteo_trainer.py", "_results"),
    *written("examples/criteo_evaluation.py", "final"),
    *written("examples/criteo_evaluation.py", "_bayes"),
]
FORMATS = {
    "results.json of train_interactions.py": [*written("examples/train_interactions.py", "run", "results")],
    "collision_load": [f.name for f in fields(TableLoad)],
    "checkpoint": [*written("examples/criteo_trainer.py", "_save", "progress")],
    "model": [*written("torchrec_pss/export/saved_model.py", "save")],
    "A served model, .pt2": [
        *written("torchrec_pss/export/archive.py", "write", "whole"),
        *written("torchrec_pss/export/exporting.py", "export", "metadata"),
        *written("torchrec_pss/export/exporting.py", "_of_arrays"),
        *written("torchrec_pss/export/__main__.py", "export_run", "said"),
    ],
    "Prepared rows": [*written("torchrec_pss/datasets/preparing.py", "_prepared", "manifest")],
    "plan --json": [*(f.name for f in fields(PlanReport)), "total_milliseconds"],
    "advise --json": [
        *written("torchrec_pss/advise/__main__.py", "main", "found"),
        *written("torchrec_pss/advise/__main__.py", "_rows"),
    ],
}


def test_every_field_of_results_is_explained():
    page = section("results.json of train_criteo.py")
    parts = ("The test rows", "Training", "Model and data")
    assert all(f"### {part}" in page for part in parts)
    assert sorted(name for part in parts for name in documented(part)) == sorted(set(RESULTS))


def test_the_report_looks_at_fields_that_are_explained():
    from torchrec_pss.report.__main__ import _check, _check_others

    looked_at = [*_check.__closure__, *_check_others.__closure__]
    names = {name for cell in looked_at if isinstance(cell.cell_contents, dict) for name in cell.cell_contents}
    assert len(names) > 20 and names <= set(RESULTS)


@pytest.mark.parametrize("title", FORMATS)
def test_every_field_of_a_file_is_explained(title):
    assert len(FORMATS[title]) > 3
    assert sorted(set(documented(title))) == sorted(set(FORMATS[title]))


def messages():
    """Every text of the code, with `ANY` for what is put in."""
    for path in [*ROOT.glob("torchrec_pss/**/*.py"), *ROOT.glob("examples/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
            elif isinstance(node, ast.JoinedStr):
                yield "".join(v.value if isinstance(v, ast.Constant) else ANY for v in node.values)


def test_messages_that_are_explained_stand_in_the_code():
    page = (ROOT / "docs/reference/errors.md").read_text()
    quoted = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    texts = "\n".join(messages())
    assert len(quoted) > 30
    missing = [q for q in quoted if q.replace("…", ANY) not in texts]
    assert not missing, missing
