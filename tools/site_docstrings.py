"""A public name without a docstring fails the site's build; the tables of public names are made of the first sentences of them.

Public is what ``__all__`` of a part exports, and of its classes the functions and properties that they define. Attributes are said in the docstring of their class.
"""

import re
from pathlib import Path

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

PARTS = (
    "torchrec_pss",
    *(
        f"torchrec_pss.{part}"
        for part in ["modules", "nn", "distributed", "distributed.planner", "optim", "quant", "export"]
    ),
    *(f"torchrec_pss.{part}" for part in ["convert", "datasets", "models", "watch", "report", "ops"]),
)
# What guides name and no part exports, by the part whose page it stands on.
BESIDES = {
    "torchrec_pss": ("checked_safetensors.save_safetensors", "checked_safetensors.load_safetensors"),
    "torchrec_pss.modules": ("modules.id_counts.IdCounts",),
    "torchrec_pss.distributed": (
        "distributed.array_sharder.ReplicatedArraySharder",
        "distributed.mixed_collection.MixedCollection",
        "distributed.replica_check.check_replicas",
        "distributed.replica_check.ReplicaMismatchError",
    ),
    "torchrec_pss.optim": tuple(
        f"optim.recipe.{name}" for name in ["adam_learning_rates", "array_eps", "default_batch_size", "num_passes"]
    ),
    "torchrec_pss.datasets": ("datasets.criteo_lines.token_ids",),
}
_MARK = re.compile(r"<!-- (names|entries) of (\S+) -->")
_parts: dict[str, griffe.Module] = {}


def on_pre_build(config: MkDocsConfig) -> None:
    """Reads the package, without importing it, and ends the build where something has no docstring."""
    _parts.update(read(Path(config.config_file_path).parent))
    if missing := without_docstring(_parts):
        raise PluginError("public names without a docstring:\n" + "\n".join(missing))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Puts a table of names, or an entry of each, where a page has their mark."""
    return _MARK.sub(lambda match: {"names": table_of, "entries": entries_of}[match[1]](_parts, match[2]), markdown)


def read(root: Path) -> dict[str, griffe.Module]:
    """The public parts by name."""
    package = griffe.load("torchrec_pss", search_paths=[root], docstring_parser="google", resolve_aliases=True)
    return {part: at(package, part) for part in PARTS}


def exported(parts: dict[str, griffe.Module], part: str) -> dict[str, griffe.Object]:
    """What a part exports, by name, each as it is where it is defined."""
    package = parts["torchrec_pss"]
    return {name: at(package, defined(package, f"{part}.{name}")) for name in map(str, parts[part].exports or ())}


def besides(parts: dict[str, griffe.Module], part: str) -> list[griffe.Object]:
    """What is on a part's page and must be imported from its module."""
    return [at(parts["torchrec_pss"], f"torchrec_pss.{path}") for path in BESIDES.get(part, ())]


def without_docstring(parts: dict[str, griffe.Module]) -> list[str]:
    """Public names that have none."""
    found = [part for part, module in parts.items() if not module.docstring]
    for part in parts:
        for public in (*exported(parts, part).values(), *besides(parts, part)):
            members = public.all_members.values() if public.is_class else ()
            named = (m for m in members if not m.name.startswith("_") and m.name != "extra_repr")
            named = (m for m in named if m.is_function or "property" in m.labels)
            found += [each.path for each in (public, *named) if not each.docstring]
    return sorted(set(found))


def table_of(parts: dict[str, griffe.Module], part: str) -> str:
    """A Markdown table: what a part exports, each with the first sentence of its docstring."""
    rows = []
    for name, public in exported(parts, part).items():
        text = public.docstring.value.split("\n\n")[0].replace("\n", " ")
        sentence = re.split(r"(?<=\.) (?=[A-Z])", text)[0].rstrip(":").replace("|", r"\|")
        rows.append(f"| [`{name}`][{public.path}] | {re.sub(r'``?', '`', sentence)} |")
    return "\n".join(["| name | what it is |", "|---|---|", *rows])


def entries_of(parts: dict[str, griffe.Module], part: str) -> str:
    """What mkdocstrings writes an entry of: each name of a part that no part below it exports."""
    below = {o.path for p in parts if p.startswith(f"{part}.") for o in exported(parts, p).values()}
    entries = [f"::: {o.path}" for o in exported(parts, part).values() if o.path not in below]
    options = "\n    options:\n      heading_level: 3\n      show_root_full_path: true"
    others = [f"::: {o.path}{options}" for o in besides(parts, part)]
    return "\n\n".join([*entries, *(["## Imported from their modules", *others] if others else [])])


def defined(package: griffe.Module, path: str) -> str:
    """Where a name is defined that modules import from each other."""
    while True:
        module, _, name = path.rpartition(".")
        imported = at(package, module).imports.get(name, path)
        if imported == path or not imported.startswith(f"{package.path}."):
            return path
        path = imported


def at(package: griffe.Module, path: str) -> griffe.Object:
    """What a package has at a dotted path."""
    return package[path.removeprefix(f"{package.path}.")] if path != package.path else package
