"""Watching an array: figures against their definitions, permuted bags, and the report's page."""

import html
import json
import os
import re

import pytest
import torch
from mixed_model import MixedModel, batch
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection
from torchrec_pss.modules.id_counts import IdCounts
from torchrec_pss.report import drawn_layout, plots
from torchrec_pss.report.__main__ import main as report
from torchrec_pss.report.layout_bar import Place, places
from torchrec_pss.report.page import page
from torchrec_pss.watch import ArrayWatcher, collision_load, with_permuted_bags


def test_measured_norms_and_shares():
    module = MixedModel(0).pss
    watcher, before = ArrayWatcher(module), module.array.detach().clone()
    assert watcher.measure() == {
        "array_norm": pytest.approx(float(before.norm())), "array_moved_norm": 0.0, "array_moved_share": 0.0,
        "array_shared_moved_share": 0.0,
    }  # fmt: skip
    module(batch(0, 0)[0]).values().square().sum().backward()
    torch.optim.SGD(module.parameters(), lr=0.1).step()
    found, gradient = watcher.measure(), module.array.grad
    touched, shared = gradient != 0, module.layout.shared_numel
    assert 0 < touched[:shared].sum() < shared < module.layout.numel
    assert found["array_gradient_norm"] == pytest.approx(float(gradient.norm()))
    assert found["array_touched_share"] == pytest.approx(float(touched.float().mean()))
    assert found["array_moved_share"] == pytest.approx(float(touched.float().mean()))
    assert found["array_shared_moved_share"] == pytest.approx(float(touched[:shared].float().mean()))
    assert found["array_moved_norm"] == pytest.approx(0.1 * float(gradient.norm()), rel=1e-4)
    assert watcher.measure()["array_moved_norm"] == 0


def test_collision_load():
    layout = MixedModel(0).pss.layout
    load = collision_load(layout)
    json.dumps(load)
    small, huge, narrow = load["small"], load["huge"], load["narrow"]
    assert small["kind"] == "exact" and small["own_bytes"] == 10 * 8 * 4
    assert small["region_bytes"] == small["rows_per_element"] == small["unresolved"] == 0
    assert huge["kind"] == "shared" and huge["own_bytes"] == 0
    assert huge["rows_per_element"] == pytest.approx(10**11 * 8 * 4 / huge["region_bytes"])
    assert narrow["width"] == 4 and narrow["unresolved"] > 0.9
    # A table of which three ids are ever read loses less.
    few = IdCounts(torch.arange(3).numpy(), torch.full((3,), 5).numpy(), 15)
    assert collision_load(layout, {"narrow": few})["narrow"]["unresolved"] < narrow["unresolved"] / 2


def ragged():
    lengths = torch.tensor([2, 0, 1, 3, 1, 1, 1, 1])
    values = torch.arange(10) * 10
    return KeyedJaggedTensor(["a", "b"], values, torch.arange(10.0), lengths=lengths)


def test_permuted_bags():
    features = ragged()
    permuted = with_permuted_bags(features, "a", torch.Generator().manual_seed(3))
    assert permuted.keys() == ["a", "b"] and permuted.stride() == 4
    old, new = features["a"].to_dense(), permuted["a"].to_dense()
    assert sorted(b.tolist() for b in new) == sorted(b.tolist() for b in old)
    assert [b.tolist() for b in new] != [b.tolist() for b in old]
    weights = dict(zip(features.values().tolist(), features.weights().tolist(), strict=True))
    assert permuted.weights().tolist() == [weights[v] for v in permuted.values().tolist()]
    assert torch.equal(permuted["b"].values(), features["b"].values())
    assert torch.equal(permuted["b"].lengths(), features["b"].lengths())
    assert torch.equal(features.values(), ragged().values())


def test_bags_that_cannot_be_permuted():
    with pytest.raises(KeyError, match="no feature 'c'"):
        with_permuted_bags(ragged(), "c", torch.Generator())
    varying = KeyedJaggedTensor(
        ["a", "b"], torch.arange(3), lengths=torch.tensor([1, 1, 1]), stride_per_key_per_rank=[[2], [1]]
    )
    with pytest.raises(ValueError, match="batch size varies"):
        with_permuted_bags(varying, "a", torch.Generator())


def results(**more):
    history = [{"step": 1, "loss": 0.7}, {"step": 1, "array_norm": 1.0, "array_moved_norm": 0.1, "array_moved_share": 0.5,
               "array_shared_moved_share": 0.4}, {"step": 2, "auroc_val": 0.6}]  # fmt: skip
    layout = MixedModel(0).pss.layout
    load = collision_load(layout)
    found = {"layout": layout.fingerprint(), "history": history, "auroc_test": 0.61, "auroc_bayes": 0.8, "embedding": "pss", "embedding_bytes": 4096,
             "compression": 1000.0, "steps": 2, "collision_load": load, "ablation": {"small": 0.01, "huge": -0.0002}}  # fmt: skip
    return found | more


def test_the_report_is_one_page(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "results.json").write_text(json.dumps(results()))
    (tmp_path / "full.json").write_text(json.dumps(results(embedding="full", collision_load=None, ablation=None)))
    report([str(tmp_path / "a"), str(tmp_path / "full.json"), "--output", str(tmp_path / "page.html")])
    page = (tmp_path / "page.html").read_text()
    # AUROC and loss; norms, shares and layout; norms, shares and layout of the second
    assert page.count("<svg ") == page.count("</svg>") == 2 + 3 + 3 and page.count('class="bars"') == 5
    for text in ("0.61000", "1,000.0x", "+0.01000", "-0.00020", ">huge<", "No shared array in this run"):
        assert text in page
    # It stands alone, and no element's id comes twice.
    assert not re.search(r"<script|<link|src=|@import|url\((?!#)", page) and "2 runs" in capsys.readouterr().out
    clips = re.findall(r'<clipPath id="(\w+)">(.*?)</clipPath>', page, re.DOTALL)
    assert len({id_ for id_, _ in clips}) == len(set(clips)) and len(re.findall(r' id="', page)) >= len(clips)


UNREADABLE = {
    None: "does not exist",
    "{": "cannot be read",
    "{}": "lacks",
    "3": "cannot be read",
    '{"a": NaN}': "it holds NaN",
    "[" * 200_000: "nested too deeply",
    "\xff": "invalid start byte",
}


@pytest.mark.parametrize("content", UNREADABLE, ids=range(len(UNREADABLE)))
def test_the_report_refuses_what_is_no_run(tmp_path, capsys, content):
    file = tmp_path / "results.json"
    if content is not None:
        file.write_text(content, encoding="latin-1")
    error = refusal(tmp_path, capsys)
    assert UNREADABLE[content] in error and str(file) in error


def refusal(folder, capsys):
    with pytest.raises(SystemExit) as ended:
        report([str(folder), "--output", str(folder / "page.html")])
    assert ended.value.code == 2 and not (folder / "page.html").exists()
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error.split("error: ")[1]


WRONG = {
    "history is 3, not a list": {"history": 3},
    "history[0].loss is 'x', not a number": {"history": [{"step": 1, "loss": "x"}]},
    "history[0].step is -1, not a whole number": {"history": [{"step": -1}]},
    "auroc_test is None, not a number": {"auroc_test": None},
    "auroc_test is 61, not a number from 0 to 1": {"auroc_test": 61},
    "auroc_bayes is 'x'": {"auroc_bayes": "x"},
    "embedding is [], not a text": {"embedding": []},
    "embedding_bytes is 1.5, not a whole number": {"embedding_bytes": 1.5},
    "compression is True": {"compression": True},
    "compression is 1000000000": {"compression": 10**400},
    "steps is '2'": {"steps": "2"},
    "collision_load is [1], not an object": {"collision_load": [1]},
    "collision_load.t lacks kind": {"collision_load": {"t": {}}},
    "ablation.huge is None, not a number": {"ablation": {"huge": None}},
    "auroc_held_out is 'x', not a number": {"auroc_held_out": "x"},
    "auroc_held_out is None, not a number": {"auroc_held_out": None},
    "auroc_val is [], not a number": {"auroc_val": []},
    "auroc_val_best is 1.5, not a number from 0 to 1": {"auroc_val_best": 1.5},
    "auroc_dense_only is True, not a number": {"auroc_dense_only": True},
    "ne_test is -0.1, not a number of at least 0": {"ne_test": -0.1},
    "calibration_test is -1, not a number of at least 0": {"calibration_test": -1},
    "grouped_auroc_test is 2, not a number from 0 to 1": {"grouped_auroc_test": 2},
    "grouped_by is 3, not a text": {"grouped_by": 3},
    "of_pass is 'two', not a whole number": {"of_pass": "two"},
    "target_reached is 1, not true or false": {"target_reached": 1},
    "samples_per_second is 'x', not a number": {"samples_per_second": "x"},
    "train_seconds is None, not a number": {"train_seconds": None},
    "layout is 3, not an object": {"layout": 3},
    "layout.tables.t.width is -8, not a whole number": {
        "layout": {"numel": 8, "shared_numel": 8, "tables": {"t": {"width": -8, "prefix": 0}}}
    },
    "layout.tables.t.hot_base is 'x', not a whole number": {
        "layout": {"numel": 8, "shared_numel": 8, "tables": {"t": {"width": 8, "prefix": 0, "hot_base": "x"}}}
    },
    "schema is 3, not an object": {"schema": 3},
    "full_embedding_bytes is 0.5, not a whole number": {"full_embedding_bytes": 0.5},
    "full_rows_counted is {}, not a text": {"full_rows_counted": {}},
    "world_size is '2', not a whole number": {"world_size": "2"},
    "device is None, not a text": {"device": None},
    "bad_rows_read is -1, not a whole number": {"bad_rows_read": -1},
    "config is [], not an object": {"config": []},
}


@pytest.mark.parametrize("message", WRONG)
def test_the_report_refuses_wrong_fields_by_name(tmp_path, capsys, message):
    (tmp_path / "results.json").write_text(json.dumps(results(**WRONG[message])))
    error = refusal(tmp_path, capsys)
    assert message in error and str(tmp_path / "results.json") in error


NAMES = ["$x_$", "_a", "\\frac{", "<b>&", "a$b$c", "\\$", "$\\undefined$", "x\ny"]


def test_where_each_table_is_drawn():
    """Every element of the array that a table reads, and no other: of exact, prefixed, hot and shared ones."""
    tables = [EmbeddingBagConfig(name=n, num_embeddings=r, embedding_dim=8, feature_names=[n]) for n, r in {"a": 10, "b": 5000, "c": 900}.items()]  # fmt: skip
    config = PSSConfig(
        array_bytes=16_000, layout="rules", exact=("a",), prefix={"c": 1}, hot={"b": list(range(30))}, slices={"b": 320}
    )
    ebc = PSSEmbeddingBagCollection(tables, config=config)
    found = {n: places(t, ebc.layout.shared_numel) for n, t in ebc.layout.fingerprint()["tables"].items()}
    for table in ebc.layout.tables:
        read = torch.zeros(ebc.layout.numel, dtype=torch.bool)
        ids = torch.arange(table.rows)
        at = ebc.scatter(table.name, ids, torch.ones(len(ids), table.width, dtype=torch.float64), signed=False)
        drawn = torch.zeros_like(read)
        for place in found[table.name]:
            drawn[place.first : place.stop] = True
        assert not (at.bool() & ~drawn).any() and at.bool().sum() > 0.5 * drawn.sum(), table.name
    assert [p.kind for p in found["a"]] == ["exact"] and {p.kind for p in found["b"]} == {"hot", "shared"}
    assert {p.kind for p in found["c"]} == {"prefix", "shared"}
    assert places({"width": 8, "prefix": 2, "base": 100, "rows": 5}, 50) == [Place("shared", 0, 50), Place("prefix", 100, 110)]  # fmt: skip
    text = drawn_layout(ebc.layout.fingerprint(), "600")
    assert all(text.count(f'data-table="{name}"') == len(of) for name, of in found.items())
    assert text.startswith("<svg ") and 'width="600"' in text


def test_a_schema_is_shown_where_there_was_one():
    schema = {
        "label": "clicked",
        "dense": {"price": "log"},
        "sparse": ["<user>"],
        "bags": {"genres": {"pooling": "mean"}},
    }
    text = page({"a": results(schema=schema)})
    for told in (
        "<dd>clicked</dd>",
        "<dd>price (log)</dd>",
        "<dd>&lt;user&gt;</dd>",
        "<dd>genres: pooling (mean)</dd>",
    ):
        assert told in text
    assert "Its schema" not in page({"a": results(schema=None)}) and "Its schema" not in page({"a": results()})


def test_names_are_printed_as_they_are(tmp_path, monkeypatch):
    """No mathematics, nothing left out, no HTML; and folders whose names are no text."""
    drawn = []
    monkeypatch.setattr(plots, "_png", lambda figure: drawn.append(figure) or real(figure))
    load, layout = next(iter(results()["collision_load"].values())), results()["layout"]
    runs = {name: results(collision_load=None, layout=None, history=[{"step": 1, "auroc_val": 0.6}]) for name in NAMES}
    runs[NAMES[-1]]["collision_load"] = dict.fromkeys(NAMES, load)
    runs[NAMES[-1]]["layout"] = layout | {"tables": dict.fromkeys(NAMES, layout["tables"]["huge"])}
    plots.curves(runs)
    legend = list(drawn[0].axes[0].get_legend().get_texts())
    assert [text.get_text() for text in legend] == [*NAMES, "Bayes"]
    assert not any(label.get_parse_math() for label in legend)
    text = page(runs)
    for name in NAMES:
        escaped = html.escape(name)
        assert f"</i>{escaped}</li>" in text and f"<h2>{escaped}</h2>" in text  # its curve, and its own part
        assert f"<em>{escaped}</em>" in text and f'data-table="{escaped}"' in text  # as a table: bars, and the layout
    assert "<b>" not in text
    folder = os.fsencode(tmp_path) + b"/\xff"
    os.mkdir(folder)
    with open(folder + b"/results.json", "w") as file:
        json.dump(results(), file)
    report([os.fsdecode(folder), "--output", str(tmp_path / "page.html")])
    assert "\ufffd" in (tmp_path / "page.html").read_text()


real = plots._png


def test_thousands_of_tables_fit_on_a_page():
    load = results()["collision_load"]["huge"]
    text = page({"a": results(ablation=None, layout=None, collision_load={f"t{n}": load for n in range(3000)})})
    assert text.count("<td data-head=\"table\">") == 3000 and "2,970 smaller" in text  # fmt: skip
    assert text.count("<u>") == 3 * 30 and "3,000 are 0" in text  # region, load and share have bars, own bytes none


def test_more_hot_rows_than_the_estimated_rows():
    """A log's rows are estimated, by a sketch: 48 where there are 49 ids, all of them hot."""
    table = EmbeddingBagConfig(name="a", num_embeddings=48, embedding_dim=8, feature_names=["a"])
    config = PSSConfig(array_bytes=4000, layout="rules", exact=(), hot={"a": list(range(49))})
    load = collision_load(PSSEmbeddingBagCollection([table], config=config).layout)
    assert load["a"]["rows_per_element"] == 0 and load["a"]["kind"] == "hot"
