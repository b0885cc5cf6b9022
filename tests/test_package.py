"""The package as installed: imports quietly, does without its kernel, states its dependencies truly."""

import os
import re
import subprocess
import sys
from importlib.metadata import requires, version
from pathlib import Path

import pytest
import script_runs
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent


def python(code, *flags):
    done = subprocess.run([sys.executable, *flags, "-c", code], text=True, capture_output=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def test_import_touches_no_gpu_and_starts_nothing():
    python(
        "import multiprocessing, threading, torch, torchrec\n"
        "threads = threading.active_count()\n"
        "import torchrec_pss\n"
        "assert not torch.cuda.is_initialized() and not torch.distributed.is_initialized()\n"
        "assert threading.active_count() == threads and not multiprocessing.active_children()\n"
    )


def test_without_the_kernel_one_warning_and_the_reference():
    done = python(
        "import warnings, torch\n"
        "load = torch.ops.load_library\n"
        "def without(path):\n"
        "    if 'torchrec_pss' in str(path): raise OSError('no such library')\n"
        "    load(path)\n"
        "torch.ops.load_library = without\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    from torchrec_pss.ops import HAS_CPU_KERNEL, FeatureColumn, feature_matrix, lookup\n"
        "texts = [str(w.message) for w in caught if 'torchrec_pss' in str(w.message)]\n"
        "assert len(texts) == 1 and 'plain PyTorch reference' in texts[0] and not HAS_CPU_KERNEL, texts\n"
        "row = dict(zip(FeatureColumn, (5, 0, 4, 0, 0, 4, 25)))\n"
        "array = torch.rand(100, requires_grad=True)\n"
        "out = lookup(array, feature_matrix([row], array.device), torch.tensor([7, -1]), torch.tensor([0, 2]), total_width=4)\n"
        "out.sum().backward()\n"
        "print('gradients', int(array.grad.count_nonzero()))\n"
    )
    assert done.stdout.split()[0] == "gradients" and int(done.stdout.split()[1]) in (4, 8)


def declared():
    for line in requires("torchrec_pss"):
        requirement = Requirement(line)
        extra = re.search(r'extra == "(\w+)"', line)
        yield pytest.param(requirement, id=f"{requirement.name}-{extra[1] if extra else 'always'}")


@pytest.mark.parametrize("requirement", declared())
def test_pinned_versions_lie_in_the_declared_ranges(requirement):
    lines = (ROOT / "requirements/constraints.txt").read_text().lower().split()
    pins = dict(line.split("==") for line in lines if "==" in line)
    name = requirement.name.lower()
    assert requirement.specifier.contains(pins[name])
    if name == "torchrec" and "TORCHREC_PSS_MATRIX" in os.environ:  # another version on purpose: tests/matrix.py
        assert version(name) == os.environ["TORCHREC_PSS_MATRIX"]
    elif name not in ("fbgemm-gpu", "gcsfs", "tensorboard"):
        assert version(name).split("+")[0] == pins[name]


DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TUTORIALS = ROOT / "docs/tutorials"  # their blocks are cells of one program: tests/test_tutorials.py
SNIPPETS = [
    (path.name, s)
    for path in DOCUMENTS
    if path.parent != TUTORIALS
    for s in re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)
]


@pytest.mark.parametrize("number", range(len(SNIPPETS)), ids=[f"{i}-{name}" for i, (name, _) in enumerate(SNIPPETS)])
def test_snippets_of_readme_and_docs_run(number, tmp_path):
    snippet = tmp_path / "snippet.py"
    snippet.write_text(SNIPPETS[number][1])
    script_runs.run(snippet)


def test_there_are_snippets():
    names = [name for name, _ in SNIPPETS]
    assert names.count("README.md") == 2 and "planner.md" in names


def test_the_parity_page_leaves_nothing_out():
    text = "".join((ROOT / f"docs/project/{page}.md").read_text() for page in ("parity", "parity_files"))
    rows = re.findall(r"^\| `(torchrec/[^`]+)` \|(.*)\|$", text, re.MULTILINE)
    assert len(rows) == len({file for file, _ in rows}) >= 99
    for file, cells in rows:
        *outcomes, reason = [cell.strip() for cell in cells.split("|")]
        passes = outcomes[0] == outcomes[1] == outcomes[2] and "passed" in outcomes[0]
        assert len(outcomes) == 3 and (passes or reason.strip("?")), f"{file}: nothing said"
    ours = set(re.findall(r"`(?:tests/)?(test_\w+\.py)`", text))
    assert len(ours) > 8 and all((ROOT / "tests" / name).exists() for name in ours), ours
