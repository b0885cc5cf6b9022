"""Random requests against a server while its file is replaced under it: ``python tests/serve_stress.py [--requests 10000] [--swaps 20]``.

A third of the requests are malformed: each must get its 4xx. A good one must be answered, as one of the models that were there says. After
each third swap a broken file is put in place, and must be refused.
"""

import argparse
import asyncio
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import numpy as np
import serving_case
import torch
from serving_case import NUM_DENSE, ROOT, ROWS

from torchrec_pss.export import __main__ as command

_AT_ONCE = 16
_BAD = (
    (400, b"{"), (400, b""), (422, b"[]"), (422, b'{"rows": []}'), (422, b'{"rows": [{"dense": [1, 2, 3]}]}'), (422, b'{"rows": [{"dense": [1, 2], "features": {}}]}'),
    (422, b'{"rows": [{"dense": [1, 2, NaN], "features": {}}]}'), (422, b'{"rows": [{"dense": [1, 2, 3], "features": {"few": 40}}]}'),
    (422, b'{"rows": [{"dense": [1, 2, 3], "features": {"none": 1}}]}'), (422, b'{"rows": [{"dense": [1, 2, 3], "features": {"few": 1.5}}]}'),
    (422, b'{"rows": [{"dense": ["1", 2, 3], "features": {}}]}'), (422, b'{"rows": [{"dense": [1, 2, 3], "features": {"many": 9223372036854775808}}]}'),
    (422, json.dumps({"rows": [{"dense": [1, 2, 3], "features": {"many": [1] * 1001}}]}).encode()),
    (422, json.dumps({"rows": [{"dense": [1, 2, 3], "features": {}}] * 4097}).encode()), (413, b" " * (9 << 20)),
)  # fmt: skip


def start(path: Path, port: int) -> subprocess.Popen:
    """A server; it answers by the time that this returns."""
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", ROOT / "examples/serving/server.py", path, "--port", str(port), "--look_every", "0.1"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for _ in range(600):
        try:
            httpx.get(f"http://127.0.0.1:{port}/health")
            return server
        except httpx.TransportError:
            assert server.poll() is None, server.stderr.read()
            asyncio.run(asyncio.sleep(0.1))
    raise TimeoutError("the server does not answer")


def good_request(draw: random.Random) -> tuple[dict, np.ndarray, list]:
    """And its rows, as a model takes them."""
    rows, dense, bags = [], [], []
    for _ in range(draw.choice([1, 1, 2, 5, 40])):
        raw = [draw.choice([None, 0, draw.randrange(1000), -1.5]) for _ in range(NUM_DENSE)]
        of_row = {n: [draw.randrange(25 if n != "many" else 1 << 60) for _ in range(draw.randrange(4))] for n in ROWS}
        left_out = draw.random() < 0.2
        rows.append(
            {
                "dense": raw,
                "features": {
                    n: ids[0] if len(ids) == 1 and draw.random() < 0.5 else ids
                    for n, ids in of_row.items()
                    if n != "more" or not left_out
                },
            }
        )
        numbers = np.array([v or 0.0 for v in raw])
        dense.append((np.sign(numbers) * np.log1p(np.abs(numbers))).astype(np.float32))
        bags.append([[0] if n == "more" and left_out else ids for n, ids in of_row.items()])
    return {"rows": rows}, np.stack(dense), bags


async def load(port: int, requests: int, models: list, files: list[Path], served: Path, swaps: int) -> dict:
    """Counts, and what went wrong."""
    draw, found = random.Random(0), {"good": 0, "bad": 0, "swaps": 0, "wrong": []}
    numbers = iter(range(requests))
    done = asyncio.Event()

    async def swap() -> None:
        for number in range(swaps):
            aside = served.with_suffix(".aside")
            if number % 3 == 2:
                aside.write_bytes(files[0].read_bytes()[: 100 + number])
            else:
                shutil.copy(files[number % len(files)], aside)
            aside.replace(served)
            found["swaps"] += 1
            await asyncio.sleep(1.5 if number % 3 == 2 else 0.3)  # a broken one is looked at
        done.set()

    async def client(http: httpx.AsyncClient) -> None:
        while (number := next(numbers, None)) is not None or not done.is_set():
            if number is None:
                number = requests
            if draw.random() < 1 / 3:
                status, body = draw.choice(_BAD)
                answer = await http.post("/predict", content=body, headers={"content-type": "application/json"})
                found["bad"] += 1
                if answer.status_code != status or "error" not in answer.json():
                    found["wrong"].append((status, answer.status_code, body[:80], answer.text[:200]))
                continue
            body, dense, bags = good_request(draw)
            answer = await http.post("/predict", json=body)
            found["good"] += 1
            expected = [serving_case.answers(m, dense, bags).numpy() for m in models]
            if answer.status_code != 200 or not any(
                np.allclose(answer.json()["probabilities"], e, rtol=0, atol=1e-6) for e in expected
            ):
                found["wrong"].append((200, answer.status_code, str(body)[:80], answer.text[:200]))

    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
        await asyncio.gather(swap(), *(client(http) for _ in range(_AT_ONCE)))
        found["health"] = (await http.get("/health")).json()["status"]
        found["metrics"] = {
            line.split(" ")[0]: float(line.split(" ")[1])
            for line in (await http.get("/metrics")).text.splitlines()
            if line.startswith("re")
        }
    return found


async def drained(port: int, server: subprocess.Popen) -> list[int]:
    """Statuses of large requests that are under way when SIGTERM comes."""
    body = {"rows": [{"dense": [1, None, 3], "features": {"many": list(range(20))}}] * 2000}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
        under_way = [asyncio.create_task(http.post("/predict", json=body)) for _ in range(6)]
        await asyncio.sleep(0.3)  # they are sent; not all are answered
        server.send_signal(signal.SIGTERM)
        return [answer.status_code for answer in await asyncio.gather(*under_way)]


def run(folder: Path, requests: int, swaps: int, port: int) -> dict:
    """What `load` counts, and what SIGTERM leaves."""
    models, files = [], []
    for seed in range(2):
        models.append(serving_case.save(folder / f"run{seed}", seed=seed))
        files.append(folder / f"{seed}.pt2")
        command.main([str(folder / f"run{seed}"), "--output", str(files[-1])])
    served = folder / "served.pt2"
    shutil.copy(files[0], served)
    server = start(served, port)
    try:
        found = asyncio.run(load(port, requests, models, files, served, swaps))
        return found | {"drained": asyncio.run(drained(port, server)), "exit": server.wait(60)}
    finally:
        server.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--port", type=int, default=8124)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder), args.requests, args.swaps, args.port)
    print(json.dumps(found | {"wrong": found["wrong"][:5], "number wrong": len(found["wrong"])}, indent=1, default=str))
    sys.exit(bool(found["wrong"]))


if __name__ == "__main__":
    main()
