"""The server: answers, errors that name field and value, and, in a process of its own, swaps of the file under load and the end."""

import asyncio
import math
import shutil
import socket
from dataclasses import replace

import httpx
import pytest
import serve_stress
import serving_case
import torch

from torchrec_pss.datasets.schema import Schema
from torchrec_pss.export import DamagedFileError
from torchrec_pss.export import __main__ as command

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    for seed, how in ((0, "error"), (1, "mean")):
        serving_case.save(folder / f"run{seed}", seed=seed)
        command.main([str(folder / f"run{seed}"), "--output", str(folder / f"{seed}.pt2"), "--out_of_range", how])
    return folder


def asked(app, *requests):
    """Answers in one event loop, the server started and stopped around them."""

    async def ask():
        http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server")
        async with http, app.router.lifespan_context(app):
            return [await http.request(method, path, **given) for method, path, given in requests]

    return asyncio.run(ask())


def row(dense=(1, None, -3.5), **features):
    return {"dense": list(dense), "features": features}


def test_it_answers_as_the_model(folder):
    import server

    model = serving_case.save(folder / "again", seed=0)
    rows = [row(few=3, many=[5, -7], more=[]), row(few=[1, 2]), row(many="68fd1e64", more=["ab", 4])]
    (answer, health, metrics) = asked(
        server.app_of(folder / "0.pt2"), ("POST", "/predict", {"json": {"rows": rows}}), ("GET", "/health", {}), ("GET", "/metrics", {}),
    )  # fmt: skip
    raw = torch.tensor([1, 0, -3.5], dtype=torch.float64)
    dense = (raw.sign() * raw.abs().log1p()).float().expand(3, 3)
    token = [int.from_bytes(t.ljust(8, b"\0"), "little", signed=True) for t in (b"68fd1e64", b"ab")]
    bags = [[[3], [5, -7], []], [[1, 2], [0], [0]], [[0], token[:1], [token[1], 4]]]
    assert answer.json()["probabilities"] == pytest.approx(serving_case.answers(model, dense, bags).tolist(), abs=1e-7)
    assert health.json()["status"] == "ready" and health.json()["model"]["check"]["rows"] == 600
    assert 'requests_total{status="200"} 2.0' in metrics.text and "rows_total 3.0" in metrics.text


BAD = {
    "the body is no JSON": (400, {"content": b"{"}),
    "rows: List should have at least 1 item": (422, {"json": {"rows": []}}),
    "rows[0].dense has 2 values, and the model takes 3": (422, {"json": {"rows": [row([1, 2])]}}),
    "rows[1].dense: a dense value is a finite number or null, got inf at 1": (422, {"content": b'{"rows": [{"dense": [1, 2, 3], "features": {}}, {"dense": [1, Infinity, 3], "features": {}}]}'}),
    "rows[0].features has 'other'; the model's are few, many, more": (422, {"json": {"rows": [row(other=1)]}}),
    "rows[1].features.few: id 40 is out of range [0, 40)": (422, {"json": {"rows": [row(few=[1, 2]), row(few=[39, 40])]}}),
    "rows[0].features.many: has 1001 ids, and at most 1000 are read": (422, {"json": {"rows": [row(many=[1] * 1001)]}}),
    "rows[0].features.many: an id is a whole number of 64 bits, or a token as text, got 9223372036854775808 at 1": (422, {"json": {"rows": [row(many=[1, 1 << 63])]}}),
    "rows[0].extra: Extra inputs are not permitted, got 1": (422, {"json": {"rows": [row() | {"extra": 1}]}}),
    "rows[0].dense: a dense value is a finite number or null, got '1' at x": (422, {"json": {"rows": [row() | {"dense": {"x": "1"}}]}}),
    "rows[0].dense: dense values are a list, or by name, got 3": (422, {"json": {"rows": [row() | {"dense": 3}]}}),
    "rows[0].dense has 'x'; the model's are not named: give a list": (422, {"json": {"rows": [row() | {"dense": {"x": 1}}]}}),
    "content-length of at most": (413, {"content": b" " * (9 << 20)}),
}  # fmt: skip


def test_a_file_knows_its_columns(tmp_path):
    """Numbers by name, and which features were text: the token 17 and the number 17 are two ids."""
    import server

    schema = Schema("y", tuple(serving_case.ROWS), ("a", "b", "c"), ("log", "none", "log"))
    model = serving_case.save(tmp_path, schema=schema, texts=["many"])
    command.main([str(tmp_path), "--output", str(tmp_path / "m.pt2")])
    by_name = row(few=3, many="ab", more=[1]) | {"dense": {"c": -3.5, "a": 1}}
    in_order = row((1, None, -3.5), few=3, many="ab", more=[1])
    wrong = {
        'rows[0].features.many: it was text when the model was trained, got 17: give "17"': row(many=[17]),
        "rows[0].features.more: it was whole numbers when the model was trained, got '17': give a number": row(
            more="17"
        ),
        "rows[0].dense has 'd'; the model's are a, b, c": row() | {"dense": {"d": 1}},
        "rows[0].dense has 1 values, and the model takes 3: a, b, c": row() | {"dense": [1]},
    }
    app = server.app_of(tmp_path / "m.pt2")
    good, *bad = asked(
        app,
        *(
            ("POST", "/predict", {"json": {"rows": rows}})
            for rows in ([by_name, in_order], *([w] for w in wrong.values()))
        ),
    )
    dense = torch.tensor([[math.log1p(1), 0.0, -math.log1p(3.5)]])
    token = int.from_bytes(b"ab".ljust(8, b"\0"), "little")
    expected = serving_case.answers(model, dense, [[[3], [token], [1]]]).tolist()
    assert good.json()["probabilities"] == pytest.approx(expected * 2, abs=1e-6)
    for said, answer in zip(wrong, bad, strict=True):
        assert answer.status_code == 422 and said in answer.json()["error"], answer.text
    line = server.curl_line(tmp_path / "m.pt2", "h", 1)
    assert '"dense": {"a": 1, "b": 1, "c": 1}' in line and '"few": 1, "many": "1", "more": 1' in line


def test_bad_requests_are_named(folder):
    import server

    given = [("POST", "/predict", {"headers": {"content-type": "application/json"}} | sent) for _, sent in BAD.values()]
    answers = asked(
        server.app_of(folder / "0.pt2"), *given, ("POST", "/predict", {"json": {"rows": [row()]}}), ("GET", "/none", {})
    )
    for (said, (status, _)), answer in zip(BAD.items(), answers, strict=False):
        assert answer.status_code == status and said in answer.json()["error"], answer.text
    assert answers[-2].status_code == 200 and answers[-1].status_code == 404
    (mean,) = asked(server.app_of(folder / "1.pt2"), ("POST", "/predict", {"json": {"rows": [row(few=[40, -1])]}}))
    assert mean.status_code == 200


def test_a_request_does_not_spoil_its_batch(folder):
    import batching
    import model_file

    async def ask():
        seen = []
        batcher = batching.Batcher(model_file.ModelFile(folder / "0.pt2"), seen.append)
        requests = [batching.Row(**row(few=few)) for few in (1, 50, 2)] * 20
        waiting = [asyncio.create_task(batcher.answer([r])) for r in requests]
        await asyncio.sleep(0)
        batcher.start()
        found = await asyncio.gather(*waiting, return_exceptions=True)
        await batcher.stop()
        return seen, found

    seen, found = asyncio.run(ask())
    assert seen == [60] and all(isinstance(f, batching.BadRowError) == (n % 3 == 1) for n, f in enumerate(found))
    assert all(float(f[0]) == float(found[n % 3][0]) for n, f in enumerate(found) if n % 3 != 1)


def test_text_of_bags_is_divided_as_training_did(folder):
    import model_file
    import rows

    model = replace(model_file.Model.load(folder / "0.pt2"), separators=[None, "|", None], empty=[[0], [], [0]])
    given = [
        rows.Row(dense=[1, 2, 3], features={"many": "a|b||c", "more": "d|e"}),
        rows.Row(dense=[1, 2, 3], features={}),
    ]
    found = rows.arrays_of(given, model)
    assert found.lengths.tolist() == [[1, 1], [3, 0], [1, 1]] and found.ids[1].tolist() == [ord(c) for c in "abc"]


def test_a_new_file_takes_over_and_a_broken_one_does_not(folder, tmp_path):
    import model_file

    served = tmp_path / "served.pt2"
    shutil.copy(folder / "0.pt2", served)
    file = model_file.ModelFile(served)
    first = file.model
    assert not file.look() and file.model is first
    for broken in (b"", b"PK", (folder / "1.pt2").read_bytes()[:-9]):
        served.write_bytes(broken)
        assert not file.look() and file.model is first
    served.unlink()
    assert not file.look() and file.refused == 3
    shutil.copy(folder / "1.pt2", served)
    assert file.look() and file.model is not first and file.model.limits.tolist() == [0, 0, 0]
    with pytest.raises(DamagedFileError):
        served.write_bytes(b"")
        model_file.ModelFile(served)


@pytest.mark.slow
def test_swaps_under_load_and_the_end(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    found = serve_stress.run(tmp_path, requests=300, swaps=4, port=port)
    assert not found["wrong"] and found["good"] > 150 and found["bad"] > 50 and found["swaps"] == 4
    assert found["metrics"]["refused_files"] == 1 and found["drained"] == [200] * 6 and found["exit"] == 0
