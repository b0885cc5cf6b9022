"""The example server under load: ``python -m benchmarks.bench_server FILE.pt2 [--quick] [--json FILE]``.

Starts `examples/serving/server.py` on a file of `torchrec-pss export` with ``--aoti`` or without, and has ApacheBench (``ab``, of the
package apache2-utils) send requests over the loopback, kept alive, from 1 and 16 connections, of 1 and 64 rows. Client and server share the cores.
"""

import csv
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
from tqdm import tqdm

from torchrec_pss.export.archive import read_metadata
from torchrec_pss.flags import Parser
from torchrec_pss.whole_file import write_json

CONNECTIONS, ROWS = (1, 16), (1, 64)
_SERVER = Path(__file__).parents[1] / "examples" / "serving" / "server.py"
_START_SECONDS = 120


def body_of(file: Path, rows: int) -> bytes:
    """Random rows, with ids that every table has."""
    said, rng = read_metadata(file), np.random.default_rng(0)
    most = {name: t["rows"] or 1 << 40 for t in said["tables"] for name in t["features"]}
    return json.dumps({
        "rows": [
            {
                "dense": rng.integers(0, 100, said["num_dense"]).tolist(),
                "features": {name: int(rng.integers(0, most[name])) for name in said["features"]},
            }
            for _ in range(rows)
        ]
    }).encode()  # fmt: skip


def started(file: Path) -> tuple[subprocess.Popen, str]:
    """A server that answers, and where.

    Raises:
        RuntimeError: it ends, or does not answer within two minutes.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-W", "ignore", _SERVER, file, "--port", str(port)], stdout=subprocess.DEVNULL)  # fmt: skip
    deadline = time.monotonic() + _START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
            return server, f"http://127.0.0.1:{port}"
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    server.kill()
    raise RuntimeError(f"{_SERVER} on {file} does not answer")


def load(url: str, body: Path, requests: int, connections: int) -> dict[str, float]:
    """Requests a second, and milliseconds of one.

    Raises:
        RuntimeError: ab failed, or not every answer was good.
    """
    with tempfile.TemporaryDirectory() as folder:
        shares = Path(folder) / "shares.csv"
        command = ["ab", "-q", "-k", "-l", "-n", str(requests), "-c", str(connections), "-p", str(body), "-T", "application/json", "-e", str(shares)]  # fmt: skip
        done = subprocess.run([*command, f"{url}/predict"], capture_output=True, text=True)
        if done.returncode or "Non-2xx" in done.stdout or not re.search(r"Failed requests: +0$", done.stdout, re.M):
            raise RuntimeError(f"ab: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        with open(shares) as stream:
            milliseconds = {share: float(ms) for share, ms in list(csv.reader(stream))[1:]}
    rate = float(re.search(r"Requests per second: +([\d.]+)", done.stdout).group(1))
    return {"requests": requests, "requests_per_second": rate, "p50_ms": milliseconds["50"], "p99_ms": milliseconds["99"]}  # fmt: skip


def measure(file: Path, requests: int) -> list[dict]:
    server, url = started(file)
    try:
        found = []
        with tempfile.TemporaryDirectory() as folder:
            cases = [(r, c) for r in ROWS for c in CONNECTIONS]
            for rows, connections in tqdm(cases, desc="load"):
                body = Path(folder) / "body.json"
                body.write_bytes(body_of(file, rows))
                load(url, body, 200, connections)
                found.append({"rows": rows, "connections": connections} | load(url, body, requests // (1 if rows == 1 else 4), connections))  # fmt: skip
        return found
    finally:
        server.terminate()
        server.wait(30)


def markdown(found: list[dict]) -> str:
    lines = ["| rows a request | connections | requests/s | rows/s | p50 | p99 |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {f['rows']} | {f['connections']} | {f['requests_per_second']:,.0f} | {f['requests_per_second'] * f['rows']:,.0f} | {f['p50_ms']:.1f} ms | {f['p99_ms']:.1f} ms |"
        for f in found
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = Parser(prog="python -m benchmarks.bench_server", description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path, help="of a click model, .pt2")
    parser.add_argument("--quick", action="store_true", help="2,000 requests a case instead of 20,000")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/bench_server.json"))
    args = parser.parse_args()
    if shutil.which("ab") is None:
        parser.error("ApacheBench is not installed: apt-get install apache2-utils")
    found = measure(args.file, 2_000 if args.quick else 20_000)
    print(markdown(found))
    write_json(args.json, found)


if __name__ == "__main__":
    main()
