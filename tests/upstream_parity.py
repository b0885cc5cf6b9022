"""TorchRec's own tests with its classes, and with ours in their place: ``python tests/upstream_parity.py CHECKOUT``.

CHECKOUT is a checkout of github.com/meta-pytorch/torchrec; its ``tests`` folders are run against the TorchRec that is imported, the
installed one or the first in PYTHONPATH, and need hypothesis, parameterized, expecttest and click. Of every test file of the folders
in `FOLDERS`, none left out, it counts what passes

- with TorchRec's classes as they are (on a machine without a GPU, many are skipped or fail);
- ``modules``, ``planner``: with ours in their place (upstream_in_place.py).

Results go to ``--json``; ``--doc`` renews the table of that page (docs/project/parity_files.md), keeps what it says of each file, and fails where
it says nothing of one whose outcome differs.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import torchrec
from tqdm import tqdm

from torchrec_pss.flags import Parser, add_number
from torchrec_pss.whole_file import write_json, write_text

FOLDERS = (
    "modules/tests",
    "models/tests",
    "distributed/planner/tests",
    "distributed/planner/dry_run/tests",
    "distributed/planner/estimator/tests",
    "distributed/composable/tests",
    "distributed/tests",
    "distributed/train_pipeline/tests",
    "distributed/model_tracker/tests",
    "distributed/maglev/tests",
)
SETTINGS = ("torchrec", "modules", "planner")
_HERE = Path(__file__).resolve().parent
_HOOK = "import os\nif os.environ.get('TORCHREC_PSS_IN_PLACE'):\n    import upstream_in_place\n"
_HEAD = "| file | TorchRec's classes | `modules` | `planner` | what ours does |"
_ROW = re.compile(r"^\| `(?P<file>[^`]+)` \|.*\| (?P<reason>[^|]*?) ?\|$")


def overlay(checkout: Path, into: Path) -> None:
    """The imported TorchRec, by links, with the checkout's folders of tests and of their helpers over it, and its packages that the
    wheel leaves out; and the hook of every process."""

    def link(source: Path, target: Path) -> None:
        target.mkdir(exist_ok=True)
        for path in source.iterdir():
            place = target / path.name
            if path.is_dir() and path.name not in ("__pycache__", "tests"):
                link(path, place)
            elif path.is_file():
                place.unlink(missing_ok=True)
                place.symlink_to(path)

    link(Path(torchrec.__file__).parent, into / "torchrec")
    for name in ("tests", "test_utils"):
        for folder in (checkout.resolve() / "torchrec").glob(f"**/{name}"):
            place = into / folder.relative_to(checkout.resolve())
            if place.parent.exists():
                link(folder, place)
    for package in sorted(path.parent for path in (checkout.resolve() / "torchrec").glob("**/*.py")):
        place = into / package.relative_to(checkout.resolve())
        if place.parent.exists() and not place.exists():
            link(package, place)
    (into / "sitecustomize.py").write_text(_HOOK)


class Runs:
    """Runs of files in one setting, by a process of upstream_files.py."""

    def __init__(self, setting: str, root: Path) -> None:
        path = os.pathsep.join([str(root), str(_HERE), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        if setting != "torchrec":
            environment["TORCHREC_PSS_IN_PLACE"] = setting
        self._setting, self._root = setting, root
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(_HERE / "upstream_files.py")],
            cwd=root, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, file: str, limit_s: float) -> dict[str, list[str]]:
        """Names of the file's tests by outcome: passed, failed, skipped; ``error`` where the file itself did not run; ``why``, the most
        frequent reason of those that did not pass."""
        report = self._root / "report.xml"
        report.unlink(missing_ok=True)
        log = self._root / "logs" / f"{self._setting}+{file.replace('/', '+')}.log"
        log.parent.mkdir(exist_ok=True)
        options = ["-q", "-p", "no:cacheprovider", f"--junitxml={report}", file]
        print(
            json.dumps({"options": options, "log": str(log), "limit_s": limit_s}), file=self._process.stdin, flush=True
        )
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self._setting}: upstream_files.py ended with {self._process.wait()}")
        if json.loads(answer) is None:
            return {"error": [f"not done in {limit_s:g} s"]}
        if not report.exists():
            return {"error": [f"pytest ended with {json.loads(answer)}"]}
        return outcomes(report)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def outcomes(report: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    reasons: Counter[str] = Counter()
    for case in ET.parse(report).iter("testcase"):
        reasons.update(_first_line(child) for child in case if child.tag in ("failure", "error", "skipped"))
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        found.setdefault(outcome, []).append(f"{case.get('classname').rsplit('.', 1)[-1]}.{case.get('name')}")
    return found | {"why": [reason for reason, _ in reasons.most_common(1)]}


def _first_line(outcome: ET.Element) -> str:
    """Of a test that did not pass: the exception's line of a traceback, or the message."""
    lines = [line[1:].strip() for line in (outcome.text or "").splitlines() if line.startswith("E ")]
    text = lines[0] if lines and outcome.tag != "skipped" else outcome.get("message") or ""
    return re.sub(r" \(/.*", "", " ".join(text.split()).replace("|", "/"))[:100]


def said(outcome: dict[str, list[str]]) -> str:
    if "error" in outcome:
        return outcome["error"][0]
    parts = [f"{len(outcome[kind])} {kind}" for kind in ("passed", "failed", "skipped") if kind in outcome]
    return ", ".join(parts) or "no tests"


def table(results: dict[str, dict], reasons: dict[str, str]) -> list[str]:
    """Rows of the page's table; "?" where an outcome with ours in place differs from TorchRec's own and the page says nothing. Where
    nothing passes with TorchRec's classes either, the reason that pytest gave."""
    lines = []
    for file, by_setting in sorted(results.items()):
        cells = [said(by_setting[setting]) for setting in SETTINGS]
        own = by_setting["torchrec"]
        default = "" if own.get("passed") else f"pytest: {' '.join(own.get('why', []))}" if "why" in own else ""
        same = cells[0] == cells[1] == cells[2]
        reason = reasons.get(file, "")
        if not reason or reason.startswith("pytest: "):
            reason = default if same else "?"
        lines.append(f"| `{file}` | {' | '.join(cells)} | {reason}".rstrip() + " |")
    return lines


def renew(page: Path, results: dict[str, dict]) -> list[str]:
    """Puts the results into the page's table; the files of which it says too little."""
    lines = page.read_text().splitlines()
    rows = [i for i, line in enumerate(lines) if _ROW.match(line)]
    reasons = {m["file"]: m["reason"] for m in map(_ROW.match, lines) if m}
    head = lines.index(_HEAD) + 2
    new = table(results, reasons)
    lines[head : head + len(rows)] = new
    write_text(page, "\n".join(lines) + "\n")
    return [m["file"] for m in map(_ROW.match, new) if m and m["reason"] == "?"]


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--only", default="", help="files whose path has this in it")
    add_number(parser, "--limit_s", default=300, help="of a file in one setting")
    parser.add_argument("--json", type=Path, help="results; files that it already has are not run again")
    parser.add_argument("--doc", type=Path, help="a page whose table is renewed")
    parser.add_argument("--logs", type=Path, help="a folder for what pytest printed")
    args = parser.parse_args()
    files = [
        str(path.relative_to(args.checkout))
        for folder in FOLDERS
        for path in sorted((args.checkout / "torchrec" / folder).glob("*.py"))
        if path.name.startswith("test_") or path.name.endswith("_test.py")
    ]
    if not files:
        parser.error(f"{args.checkout} has no torchrec/{FOLDERS[0]}: not a checkout of TorchRec")
    results = json.loads(args.json.read_text()) if args.json and args.json.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        overlay(args.checkout, root)
        if args.logs:
            args.logs.mkdir(parents=True, exist_ok=True)
            (root / "logs").symlink_to(args.logs.resolve())
        left = [f for f in files if args.only in f and f not in results]
        runs = {setting: Runs(setting, root) for setting in SETTINGS if left}
        for file in tqdm(left):
            results[file] = {setting: runs[setting].run(file, args.limit_s) for setting in SETTINGS}
            tqdm.write(f"{file}: " + "; ".join(f"{s}: {said(o)}" for s, o in results[file].items()))
            if args.json:
                write_json(args.json, results)
        for one in runs.values():
            one.close()
    if args.doc:
        unsaid = renew(args.doc, {f: results[f] for f in files if f in results})
        if unsaid:
            raise SystemExit(f"{args.doc} does not say what ours does in {', '.join(unsaid)}")


if __name__ == "__main__":
    main()
