"""Docstrings of the public names: arguments, errors and tensors' shapes, as `inspect` and `ast` see the code."""

import ast
import doctest
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest

import torchrec_pss

ROOT = Path(torchrec_pss.__file__).parent
_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Example|Examples):$", re.MULTILINE)
_ENTRY = re.compile(r"^    ([*\w][\w*, ]*): ", re.MULTILINE)
_TENSOR = re.compile(r"\b(torch\.Tensor|ndarray)\b")
_CONTAINER = re.compile(r"Mapping|dict|Callable|Sequence")
_SHAPE = re.compile(r"``\[[^`]*\]``|as `")  # or another's
_DTYPE = re.compile(r"\b(fp|bf|u?int)\d*\b|[Aa]s `")


def _names() -> Iterator[tuple[str, Any]]:
    """Every public name once, with what it is."""
    seen = set()
    for file in sorted(ROOT.rglob("__init__.py")):
        if "__all__" in file.read_text():
            module = importlib.import_module(".".join(file.parent.relative_to(ROOT.parent).parts))
            for name in module.__all__:
                value = getattr(module, name)
                if (inspect.isclass(value) or inspect.isfunction(value)) and id(value) not in seen:
                    seen.add(id(value))
                    yield f"{value.__module__}.{name}", value


PUBLIC = dict(_names())


def _sections(value: Any) -> dict[str, str]:
    """Of a docstring, by name; "" is what stands before."""
    text = inspect.cleandoc(value.__doc__ or "")
    parts = _SECTION.split(text)
    return {"": parts[0]} | dict(zip(parts[1::2], parts[2::2], strict=True))


def _entries(section: str) -> dict[str, str]:
    """Text of each argument; several may stand before one colon."""
    parts = _ENTRY.split(section)
    return {n.strip(" *"): text for names, text in zip(parts[1::2], parts[2::2], strict=True) for n in names.split(",")}


def _code(value: Any) -> list[Callable[..., Any]]:
    """The functions of the package that a call of ``value`` is."""
    if inspect.isfunction(value):
        return [inspect.unwrap(value)]
    own = [vars(value).get(name) for name in ("__init__", "__post_init__", "__new__")]
    return [f for f in own if inspect.isfunction(f) and f.__module__.startswith("torchrec_pss") and f.__code__.co_filename.startswith(str(ROOT))]  # fmt: skip


def _parameters(value: Any) -> list[inspect.Parameter]:
    functions = [value] if inspect.isfunction(value) else _code(value)[:1]
    found = [p for f in functions for p in inspect.signature(f).parameters.values()]
    if inspect.isclass(value) and is_dataclass(value):
        found = [p for p in inspect.signature(value).parameters.values() if p.name in vars(value)["__annotations__"]]
    return [p for p in found if p.name not in ("self", "cls")]


def _described(value: Any) -> dict[str, str]:
    sections = _sections(value)
    found = _entries(sections.get("Attributes", "")) | _entries(sections.get("Args", ""))
    for function in _code(value) if inspect.isclass(value) else ():
        found |= _entries(_sections(function).get("Args", ""))
    for base in value.__mro__[1:] if inspect.isclass(value) else ():  # "see `Base`" stands for what it says
        if f"see `{base.__name__}`" in value.__doc__:
            found |= _entries(_sections(base).get("Args", ""))
    return found


@pytest.mark.parametrize("name", PUBLIC)
def test_a_docstring_says_what_it_takes(name: str) -> None:
    value = PUBLIC[name]
    assert vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
    assert _sections(value)[""].strip()
    described = _described(value)
    missing = [p.name for p in _parameters(value) if p.name not in described]
    assert not missing, f"{name}: nothing under Args is of {missing}"
    for p in _parameters(value):
        if _TENSOR.search(str(p.annotation)) and not _CONTAINER.search(str(p.annotation)):
            text = described[p.name]
            assert _SHAPE.search(text) and _DTYPE.search(text), f"{name}: {p.name} has no shape or dtype: {text!r}"


@pytest.mark.parametrize("name", [n for n, value in PUBLIC.items() if inspect.isclass(value)])
def test_a_class_says_what_its_own_methods_do(name: str) -> None:
    value = PUBLIC[name]
    inherited = {n for base in value.__mro__[1:] for n in vars(base)}
    own = {n: of for n, of in vars(value).items() if not n.startswith("_") and n not in inherited}
    methods = {n: of for n, of in own.items() if inspect.isfunction(of) or isinstance(of, property | classmethod)}
    assert not [n for n, of in methods.items() if not of.__doc__]


def _raised(function: Callable[..., Any]) -> set[str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    errors = [n.exc for n in ast.walk(tree) if isinstance(n, ast.Raise) and n.exc is not None]
    calls = [e.func for e in errors if isinstance(e, ast.Call)]
    return {f.id for f in calls if isinstance(f, ast.Name) and f.id[0].isupper()}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_docstring_says_what_it_raises(name: str) -> None:
    value = PUBLIC[name]
    said = _sections(value).get("Raises", "") + "".join(_sections(f).get("Raises", "") for f in _code(value))
    for function in _code(value):
        missing = {e for e in _raised(function) if e not in said}
        assert not missing, f"{name}: nothing under Raises is of {missing}"


def _with_examples() -> list[str]:
    return [name for name, value in PUBLIC.items() if ">>>" in (value.__doc__ or "")]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", _with_examples())
def test_examples_give_what_they_say(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one process; what they write lies in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    (example,) = doctest.DocTestFinder(recurse=False).find(PUBLIC[name], name, globs={})
    report: list[str] = []
    failed, tried = doctest.DocTestRunner(optionflags=flags).run(example, out=report.append)
    assert tried and not failed, "".join(report)


USED_MOST = [
    "PSSConfig",
    "PSSEmbeddingBagCollection",
    "PSSEmbeddingCollection",
    "PSSShardingPlanner",
    "PSSParameterConstraints",
    "compress",
    "migrate",
    "packed",
    "load_packed",
    "save_checkpoint",
    "load_checkpoint",
    "ClickDataset",
    "Schema",
    "export",
    "Served",
    "SharedEmbeddingBag",
]


def test_the_names_that_are_used_most_have_an_example() -> None:
    shown = {PUBLIC[name].__name__ for name in _with_examples()}
    assert not set(USED_MOST) - shown
