"""The suite on several versions of TorchRec: ``python tests/matrix.py [--versions 1.6.1,1.9.2] [-- ARGUMENTS OF PYTEST]`` (make matrix).

Every version is installed by itself into ``build/matrix/torchrec-VERSION`` and comes first in PYTHONPATH; torch, FBGEMM and the rest are
the environment's. pytest's output goes to ``build/matrix/torchrec-VERSION.log``.

Outcomes go to ``--json``, by version. ``--doc`` renews the table of that page (docs/project/parity.md) where the whole suite was run. The exit
status is 1 where a test failed.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from importlib.metadata import distributions
from pathlib import Path

from tqdm import tqdm
from upstream_parity import outcomes

from torchrec_pss.flags import Parser, add_number
from torchrec_pss.whole_file import read_json, write_json, write_text

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = "1.6.1,1.8.0,1.9.2"
_HEAD = "| TorchRec | passed | failed | skipped | minutes |"
_ROW = re.compile(r"^\| (?P<version>[\d.]+\w*) \|")
_PERCENT = re.compile(rb"\[ *(\d+)%\]")
_PROBE = (
    "import torchrec, torchrec_pss; print(torchrec.__file__, torchrec_pss.__file__, torchrec.__version__, sep='\\n')"
)
_POLL_S = 2


def installed(torchrec: str, folder: Path) -> Path:
    """A folder with that TorchRec and nothing else.

    Raises:
        subprocess.CalledProcessError: pip cannot install it, and says why.
    """
    target = folder.resolve() / f"torchrec-{torchrec}"
    if not (target / "torchrec").exists():
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        # --no-deps: TorchRec's metadata demands fbgemm-gpu, gigabytes of CUDA.
        subprocess.run([*pip, "--no-deps", "--target", str(target), f"torchrec=={torchrec}"], check=True)
    return target


def environment(target: Path) -> dict[str, str]:
    """Of processes that import TorchRec from ``target`` and the package from this checkout. One thread a process, as in make test."""
    path = os.pathsep.join([str(target), str(ROOT), os.environ.get("PYTHONPATH", "")])
    named = {
        "TORCHREC_PSS_MATRIX": target.name.removeprefix("torchrec-")
    }  # what test_package.py expects in place of the pinned version
    return {**os.environ, **named, "PYTHONPATH": path.rstrip(os.pathsep), "OMP_NUM_THREADS": "1"}


def check_imported(torchrec: str, target: Path) -> None:
    """
    Raises:
        RuntimeError: a process of that environment imports another TorchRec, or a package that is not this checkout's.
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _PROBE],
        env=environment(target), cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"TorchRec {torchrec} cannot be imported: {done.stderr.strip().splitlines()[-1]}")
    *files, found = done.stdout.split("\n")[:3]
    for file, folder in zip(files, (target / "torchrec", ROOT / "torchrec_pss"), strict=True):
        if Path(file).resolve().parent != folder.resolve():
            raise RuntimeError(f"{file} is imported, not {folder}")
    if found != torchrec:
        raise RuntimeError(f"{target} has TorchRec {found}, not {torchrec}")


def beside() -> dict[str, str]:
    """Versions of what TorchRec is run with."""
    found = {d.metadata["Name"]: d.version for d in distributions()}
    return {name: found[name] for name in sorted(found) if re.fullmatch(r"torch|fbgemm[-_]gpu([-_]cpu)?", name)}


def run(torchrec: str, target: Path, arguments: list[str], limit_s: float) -> dict:
    """What the suite says: numbers of tests that passed and were skipped, names of those that failed, ``error`` where pytest did not end."""
    log = target.with_name(f"{target.name}.log")
    begun = time.monotonic()
    found: dict = {"passed": 0, "failed": [], "skipped": 0, "arguments": arguments}
    with tempfile.TemporaryDirectory() as folder, log.open("wb") as out:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", "--dist", "worksteal"]
        process = subprocess.Popen(
            [*command, f"--junitxml={report}", *(arguments or ["tests"])],
            cwd=ROOT, env=environment(target), stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            _watch(process, log, f"TorchRec {torchrec}", begun + limit_s)
            error = "" if process.returncode in (0, 1) else f"pytest ended with {process.returncode}, see {log}"
        except TimeoutError:
            error = f"not done in {limit_s:g} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 9)
                process.wait()
        if error:
            found["error"] = error
        if report.exists():
            cases = outcomes(report)
            found |= {kind: len(cases.get(kind, [])) for kind in ("passed", "skipped")}
            found["failed"] = sorted(cases.get("failed", []))
    return found | {"seconds": round(time.monotonic() - begun)}


def _watch(process: subprocess.Popen, log: Path, work: str, deadline: float) -> None:
    """
    Raises:
        TimeoutError: it goes on after the deadline.
    """
    with tqdm(desc=work, total=100, unit="%") as bar:
        while process.poll() is None:
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(_POLL_S)
            percents = _PERCENT.findall(log.read_bytes())
            bar.update(int(percents[-1]) - bar.n if percents else 0)


def said(torchrec: str, found: dict) -> str:
    failed = ", ".join([*found["failed"], *([found["error"]] if "error" in found else [])]) or "none"
    return f"TorchRec {torchrec}: {found['passed']} passed, failed: {failed}; {found['skipped']} skipped, {found['seconds']} s"


def renew(page: Path, results: dict[str, dict]) -> None:
    """Puts whole runs of the suite into the page's table; rows of versions that were not run stay."""
    lines = page.read_text().splitlines()
    head = lines.index(_HEAD) + 2
    rows = {}
    while head < len(lines) and (row := _ROW.match(lines[head])):
        rows[row["version"]] = lines.pop(head)
    for torchrec, found in results.items():
        if not found["arguments"]:
            failed = [f"`{name}`" for name in found["failed"]] + ([found["error"]] if "error" in found else [])
            minutes = round(found["seconds"] / 60)
            rows[torchrec] = (
                f"| {torchrec} | {found['passed']} | {', '.join(failed) or 'none'} | {found['skipped']} | {minutes} |"
            )
    lines[head:head] = [rows[name] for name in sorted(rows, key=lambda v: [int(n) for n in re.findall(r"\d+", v)])]
    write_text(page, "\n".join(lines) + "\n")


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("arguments", nargs="*", help="of pytest, after --; the whole suite by default")
    parser.add_argument("--versions", default=VERSIONS, help="of TorchRec, separated by commas")
    parser.add_argument("--folder", type=Path, default=ROOT / "build/matrix", help="where they are installed")
    add_number(parser, "--limit_s", default=7200, help="of a version")
    parser.add_argument("--json", type=Path, help="outcomes by version; those of other versions stay")
    parser.add_argument("--doc", type=Path, help="a page whose table is renewed")
    args = parser.parse_args(argv)
    versions = [v.strip() for v in args.versions.split(",") if v.strip()]
    if not versions:
        parser.error("--versions must name a version, got ''")
    results = read_json(args.json) if args.json and args.json.exists() else {}
    for torchrec in versions:
        try:
            target = installed(torchrec, args.folder)
            check_imported(torchrec, target)
        except (subprocess.CalledProcessError, RuntimeError) as error:
            parser.error(str(error))
        results[torchrec] = run(torchrec, target, args.arguments, args.limit_s) | {"beside": beside()}
        tqdm.write(said(torchrec, results[torchrec]))
        if args.json:
            write_json(args.json, results)
        if args.doc:
            renew(args.doc, results)
    if any(results[v]["failed"] or "error" in results[v] for v in versions):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
