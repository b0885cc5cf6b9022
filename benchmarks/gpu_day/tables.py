"""`report.md`: what a person reads of a day, from what `report.json` holds."""

from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.gpu_day.click_sides import DIFFERS, SIDES
from benchmarks.gpu_day.lines import said
from benchmarks.gpu_day.parts import PARTS

_GIB = 1 << 30
_MACHINE = ("devices", "torch", "triton", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", "cuda", "cores", "python")


def page(content: dict[str, Any]) -> str:
    """Markdown of the whole report; tables of at most 6 columns."""
    versions = ", ".join(f"{name} {content[name]}" for name in _MACHINE if content.get(name) is not None)
    calls = len(content["calls"])
    blocks = [f"# {content['device']}", f"{versions}; {calls} call{'s' if calls != 1 else ''}."]
    if content["dry_run"]:
        blocks.append("A dry run: the code ran, and no figure means anything.")
    rows = [
        [p.name, p.says, of["state"], f"{of['seconds']:.0f} of {of['limit']:.0f}", of.get("why", "")]
        for p in PARTS
        if (of := content["parts"].get(p.name))
    ]
    blocks.append(table(["part", "what", "state", "seconds", "why"], rows))
    for part in PARTS:
        of = content["parts"].get(part.name, {})
        blocks += _section(part.name, of)
    return "\n\n".join(blocks) + "\n"


def table(head: list[str], rows: Iterable[list[object]]) -> str:
    """Markdown's; a bar inside a cell would end it."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "/") for cell in line) + " |" for line in lines)


def _section(name: str, of: dict[str, Any]) -> list[str]:
    lines = of.get("lines", [])
    if not lines and of.get("json") is None and "last_lines" not in of:
        return []
    blocks = [f"## {name}"]
    good = [line for line in lines if "error" not in line and "left_out" not in line]
    if good and name in _TABLES:
        try:
            blocks += _TABLES[name](good)
        except Exception as error:  # a day goes on without a table; the figures are in report.json
            blocks.append(f"No table could be made: {said(error)}.")
    for kind, title in (("error", "failed"), ("left_out", "left out")):
        found = [line for line in lines if kind in line]
        if found:
            blocks.append(table([title, "why"], [[line["case"], line[kind]] for line in found]))
    if of.get("json") is not None:
        blocks.append(f"What it measured is in `{name}.json`, and in `report.json`.")
    if "last_lines" in of:
        blocks.append("Its last lines:\n\n```text\n" + "\n".join(of["last_lines"]) + "\n```")
    return blocks


def _correctness(lines: list[dict]) -> list[str]:
    kinds: dict[str, list[dict]] = {}
    for line in lines:
        kinds.setdefault(line["case"].rstrip("0123456789 ").split(" default")[0].split(" plain")[0], []).append(line)
    rows = [
        [kind, len(found), _extra(found), f"{sum(line['seconds'] for line in found):.0f}"]
        for kind, found in kinds.items()
    ]
    return [table(["check", "passed", "of them", "seconds of all processes"], rows)]


def _extra(lines: list[dict]) -> str:
    sums = [
        f"{sum(line[key] for line in lines):,} {key}" for key in ("addresses", "buffers", "elements") if key in lines[0]
    ]
    if "largest_difference" in lines[0]:
        sums.append(f"largest difference {max(line['largest_difference'] for line in lines):.1e}")
    return ", ".join(sums)


def _lookup(lines: list[dict]) -> list[str]:
    ratios = ("busy", "graph", "eager")
    blocks = ["Microseconds that the GPU is busy, and the time of a copy of as many bytes over the forward's."]
    rows = []
    for line in lines:
        busy = line["busy_milliseconds"]
        rows.append(
            [
                line["case"],
                *(f"{busy[k] * 1e3:.0f}" for k in ("forward", "step", "copy")),
                f"{line['ratio_vs_copy_forward']:.2f}",
            ]
        )
    blocks.append(table(["problem", "forward, us", "step", "copy", "copy / forward"], rows))
    for kind in ("forward", "step"):
        blocks.append(
            f"FBGEMM's {kind} over ours, above 1 ours is faster: GPU-busy time, ours as a CUDA graph, both in eager mode."
        )
        rows = [
            [line["case"], *(_ratio(line, how, kind) for how in ratios), _ratio(line, "triton", kind)] for line in lines
        ]
        blocks.append(table(["problem", *ratios, "busy, Triton TBE"], rows))
    notes = sorted({note for line in lines for note in line["notes"]})
    return blocks + [f"- {note}" for note in notes]


def _ratio(line: dict, how: str, kind: str) -> str:
    prefix = {"busy": "busy_ratio_vs_fbgemm", "graph": "graph_ratio_vs_fbgemm", "eager": "ratio_vs_fbgemm",
              "triton": "busy_ratio_vs_triton_tbe"}[how]  # fmt: skip
    value = line.get(f"{prefix}_{kind}")
    return "" if value is None else f"{value:.2f}"


def _script(lines: list[dict]) -> list[str]:
    rows = [
        [line["case"], f"{line['samples_per_second']:,.0f}", f"{line.get('data_wait_share') or 0:.0%}",
         f"{line['train_seconds']:.1f}", f"{line['outside_training_seconds']:.1f}", f"{line['auroc_test']:.5f}"]
        for line in lines
    ]  # fmt: skip
    head = ["run", "samples/s", "waited for data", "training, s", "all else, s", "test AUROC"]
    peaks = [[line["case"], key, f"{line[key] / _GIB:.2f}"] for line in lines for key in line if "memory" in key]
    blocks = [table(head, rows)]
    if peaks:
        blocks.append(table(["run", "what", "GiB"], peaks))
    return [*blocks, "Validation AUROC by steps.", _curves(lines)]


def _mlperf(lines: list[dict]) -> list[str]:
    sides = [line for line in lines if "curve" in line]
    cut = [name for name in SIDES if name not in {line["case"] for line in sides}]
    rows = [
        [line["case"], f"{line['embedding_bytes']:,}", _rate(line), f"{line.get('peak_memory_bytes', 0) / _GIB:.2f}",
         line["steps"], f"{line['auroc']:.5f}"]
        for line in sides
    ]  # fmt: skip
    blocks = [DIFFERS, table(["side", "bytes", "samples/s", "peak memory, GiB", "steps", "AUROC"], rows)]
    parts = [
        {"case": f"{name}, cut", "curve": [[int(line["case"].rsplit(" ", 1)[1]), line["auroc"]] for line in points]}
        for name in cut
        if (points := [line for line in lines if line["case"].startswith(f"{name}, step ")])
    ]
    return [*blocks, "AUROC of held-out rows by steps.", _curves(sides + parts)]


def _rate(line: dict) -> str:
    return f"{line['samples_per_second']:,.0f}" if "samples_per_second" in line else ""


def _curves(lines: list[dict]) -> str:
    rows = [[line["case"], step, f"{auroc:.5f}"] for line in lines for step, auroc in line["curve"]]
    return table(["of", "step", "AUROC"], rows)


def _update(lines: list[dict]) -> list[str]:
    passes = [line for line in lines if "pass_share" in line]
    hot = [line for line in lines if "busy_backward" in line]
    rows = [
        [line["case"], f"{line['busy_step'] * 1e3:.0f}", f"{line['busy_pass'] * 1e3:.0f}", f"{line['pass_share']:.1%}",
         f"{line['step'] * 1e3:.0f}", f"{line['graph_step'] * 1e3:.0f}" if "graph_step" in line else ""]
        for line in passes
    ]  # fmt: skip
    head = ["optimizer and array", "GPU busy, us", "of it the pass", "share", "eager step", "as a graph"]
    blocks = [table(head, rows)]
    rows = [[line["case"], *(f"{line[k] * 1e3:.0f}" for k in ("busy_backward", "busy_step", "step"))] for line in hot]
    return [*blocks, table(["ids", "backward's kernels, us", "GPU busy", "eager step"], rows)]


def _several(lines: list[dict]) -> list[str]:
    return [table(["test", "seconds"], [[line["case"], line["seconds"]] for line in lines])]


_TABLES: dict[str, Callable[[list[dict]], list[str]]] = {
    "correctness": _correctness,
    "lookup": _lookup,
    "script": _script,
    "mlperf": _mlperf,
    "update": _update,
    "several": _several,
}
