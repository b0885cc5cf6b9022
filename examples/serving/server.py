"""Answers HTTP requests with a file of `torchrec-pss export`.

    python examples/serving/server.py demo.pt2 --port 8000
    curl -s localhost:8000/predict -H 'content-type: application/json' -d '{"rows": [{"dense": [...], "features": {"cat_0": 7}}]}'

A new file at the same path takes over without a request dropped; a broken one is refused, and the old one answers on. SIGTERM answers what
has come in, then ends. POST /predict, GET /health, GET /metrics (Prometheus), GET /docs.
"""

import argparse
import asyncio
import gc
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: a request is small, and many come at once
sys.path.insert(0, str(Path(__file__).parent))

# isort: split
import uvicorn
from batching import Batcher, BusyError
from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, PlainTextResponse
from model_file import ModelFile
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import ValidationError
from rows import BadRowError, Request
from starlette.exceptions import HTTPException

from torchrec_pss.export import DamagedFileError
from torchrec_pss.export.archive import read_metadata

logger: logging.Logger = logging.getLogger("serving")

MOST_BYTES = 8 << 20  # of a request
_DROPPED = 4  # times as many are read and dropped
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)


class Metrics:
    """Of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("requests", "answered, by status", ["status"], registry=self.registry)
        self.rows = Counter("rows", "scored", registry=self.registry)
        self.batches = Histogram("batch_rows", "rows of a batch", registry=self.registry, buckets=_ROWS)
        self.seconds = Histogram("request_seconds", "from body to answer", registry=self.registry, buckets=_SECONDS)
        self.refused = Gauge("refused_files", "files that were not taken over", registry=self.registry)

    def batch(self, rows: int) -> None:
        self.rows.inc(rows)
        self.batches.observe(rows)


def app_of(path: Path, look_every: float = 1.0) -> FastAPI:
    """
    Args:
        path: of the file; loaded here, once.
        look_every: seconds between looks at whether it has changed.

    Raises:
        FileNotFoundError, DamagedFileError: see `ModelFile`.
    """
    file, metrics = ModelFile(path), Metrics()
    batcher = Batcher(file, metrics.batch)

    async def look() -> None:
        while True:
            await asyncio.sleep(look_every)
            await asyncio.to_thread(file.look)
            metrics.refused.set(file.refused)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        looking = asyncio.create_task(look())
        yield
        looking.cancel()
        await batcher.stop()

    app = FastAPI(title="torchrec_pss", lifespan=lifespan)

    @app.middleware("http")
    async def counted(request: HttpRequest, call_next):
        status = 500
        try:
            with metrics.seconds.time():
                response = _too_large(request.headers) or await call_next(request)
            status = response.status_code
            return response
        finally:
            metrics.requests.labels(status).inc()

    @app.exception_handler(HTTPException)
    async def refused(_: HttpRequest, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    schema = {"content": {"application/json": {"schema": Request.model_json_schema()}}, "required": True}

    @app.post("/predict", openapi_extra={"requestBody": schema})
    async def predict(http: HttpRequest) -> dict[str, list[float]]:
        body = await http.body()
        try:
            request = await asyncio.to_thread(Request.model_validate_json, body)
            return {"probabilities": (await batcher.answer(request.rows)).tolist()}
        except ValidationError as error:
            raise HTTPException(*_said(error)) from error
        except BadRowError as error:
            raise HTTPException(422, str(error)) from error
        except BusyError as error:
            raise HTTPException(503, str(error), {"retry-after": "1"}) from error

    @app.get("/health")
    async def health() -> dict:
        return {"status": "ready", "refused_files": file.refused, "model": file.model.about()}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> bytes:
        return generate_latest(metrics.registry)

    return app


def _too_large(headers: Mapping[str, str]) -> JSONResponse | None:
    """Why a body is not taken: it must say how long it is, and be short enough. One that is a little too long is read on and dropped, or its sender
    would not see the answer."""
    length = headers.get("content-length", "0")
    known = length.isdecimal() and "transfer-encoding" not in headers
    if known and int(length) <= MOST_BYTES:
        return None
    said = f"a request has a content-length of at most {MOST_BYTES} bytes, got {length if known else 'none'}"
    return JSONResponse(
        {"error": said}, 413, {} if known and int(length) <= _DROPPED * MOST_BYTES else {"connection": "close"}
    )


def _said(error: ValidationError) -> tuple[int, str]:
    """Status and message of a request's first fault."""
    first = error.errors(include_url=False, include_context=False)[0]
    if first["type"] == "json_invalid":
        return 400, f"the body is no JSON: {first['msg'].removeprefix('Invalid JSON: ')}"
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    told = first["msg"].removeprefix("Value error, ")
    return 422, f"{where[:200] or 'the body'}: {told}" + (
        "" if first["type"] == "value_error" else f", got {repr(first['input'])[:80]}"
    )


def curl_line(path: Path, host: str, port: int) -> str:
    """That scores a row of the model's."""
    said = read_metadata(path)
    texts = said.get("texts") or ()
    dense = dict.fromkeys(said["dense"], 1) if said.get("dense") else [1] * said["num_dense"]
    row = {"dense": dense, "features": {name: "1" if name in texts else 1 for name in said["features"]}}
    return (
        f"curl -s http://{host}:{port}/predict -H 'content-type: application/json' -d '{json.dumps({'rows': [row]})}'"
    )


class _Server(uvicorn.Server):
    """Ends by itself once it is told to: uvicorn's kills the process by the signal, and a compiled model leaves its folder in /tmp."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.handle_exit)
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path, help="of torchrec-pss export, .pt2")
    parser.add_argument("--host", default="127.0.0.1", help="to listen on; the loopback unless told otherwise")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument(
        "--look_every", type=float, default=1.0, help="seconds between looks at whether the file has changed"
    )
    args = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    try:
        app = app_of(args.file, args.look_every)
    except (FileNotFoundError, DamagedFileError) as error:
        parser.error(str(error))
    # Of all that was imported nothing will be garbage, and a full collection that looks at it stops every request for a fifth of a second.
    gc.collect()
    gc.freeze()
    print(curl_line(args.file, args.host, args.port), flush=True)
    _Server(
        uvicorn.Config(app, host=args.host, port=args.port, log_level="warning", timeout_graceful_shutdown=30)
    ).run()


if __name__ == "__main__":
    main()
