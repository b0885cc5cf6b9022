"""Files that serve: what is in them, that they answer as the model does, for every number of rows, and every way in which one can be bad."""

import json
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import serving_case
import torch
from serving_case import NUM_DENSE, ROOT, ROWS
from torch import nn
from torch.export.pt2_archive._package import load_pt2
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection, PSSEmbeddingCollection
from torchrec_pss.datasets.numbering import Numbering
from torchrec_pss.datasets.rows import RowBlock
from torchrec_pss.export import DamagedFileError, Served, export, saved_model
from torchrec_pss.export import __main__ as command
from torchrec_pss.models import TwoTower

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run's model, and its file, not compiled."""
    folder = tmp_path_factory.mktemp("run")
    model = serving_case.save(folder)
    command.main([str(folder), "--output", str(folder / "model.pt2")])
    return model, folder, folder / "model.pt2"


def tensors(dense, bags):
    lengths = torch.tensor([[len(row[f]) for row in bags] for f in range(len(ROWS))], dtype=torch.int64).view(
        len(ROWS), -1
    )
    values = torch.tensor([i for f in range(len(ROWS)) for row in bags for i in row[f]], dtype=torch.int64)
    return torch.as_tensor(dense), values, lengths


def some_rows(number, seed=0):
    rng = np.random.default_rng(seed)
    bags = [[rng.integers(0, 25, rng.integers(0, 4)).tolist() for _ in ROWS] for _ in range(number)]
    return rng.normal(size=(number, NUM_DENSE)).astype(np.float32), bags


def test_a_file_answers_as_its_model_does(exported):
    model, _, path = exported
    file = Served(path)
    for number in (1, 2, 7, 300, 0):
        dense, bags = some_rows(number, number)
        given = tensors(dense, bags)
        file.check(given)
        assert torch.equal(file(*given), serving_case.answers(model, dense, bags))
    dense, nothing = some_rows(3)[0], [[[], [], []]] * 3
    assert torch.equal(file(*tensors(dense, nothing)), serving_case.answers(model, dense, nothing))
    with pytest.raises(IndexError, match="id 40 is out of range"):
        file(*tensors(some_rows(1)[0], [[[40], [], []]]))


def test_ids_that_training_numbered(tmp_path):
    """Each id reads the row that it had, any other one row 0; in every 64-bit id."""
    rng = np.random.default_rng(1)
    held_out = serving_case.rows_of(600, 0)
    known = [np.unique(ids[:n]) for ids, n in zip(held_out.ids, (300, 500, 600), strict=True)]
    edges = np.array([-(1 << 63), (1 << 63) - 1, 0, -1])
    known = [rng.permutation(np.union1d(ids, edges)[:39]) for ids in known]
    numbering = Numbering([ids.astype(np.int64) for ids in known], [30, 40, 20])
    model = serving_case.save(tmp_path, numbering=numbering)
    command.main([str(tmp_path), "--output", str(tmp_path / "model.pt2")])
    file = Served(tmp_path / "model.pt2")
    assert file.metadata["check"]["rows"] == 600 and file.metadata["check"]["largest_difference"] == 0
    assert [t["rows"] for t in file.metadata["tables"]] == [None] * 3
    assert file.metadata["numbering_bytes"] >= 16 * sum(map(len, known))
    for number in (0, 1, 50):
        dense = rng.normal(size=(number, NUM_DENSE)).astype(np.float32)
        ids = np.stack([rng.choice(np.append(of, [17, 1 << 40]), number) for of in known])
        rows = numbering.rows_of(ids)
        expected = serving_case.answers(model, dense, [[[rows[f][n]] for f in range(3)] for n in range(number)])
        assert torch.equal(file(*tensors(dense, [[[ids[f, n]] for f in range(3)] for n in range(number)])), expected)
    (tmp_path / "model" / "ids.npz").write_bytes(b"x")
    with pytest.raises(ValueError, match="ids.npz is not what was written beside it"):
        saved_model.load(tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dense_layers_in_another_dtype(exported, tmp_path, dtype):
    model, folder, _ = exported
    command.main([str(folder), "--output", str(tmp_path / "model.pt2"), "--dense_dtype", dtype])
    file = Served(tmp_path / "model.pt2")
    dense, bags = some_rows(50)
    found, expected = file(*tensors(dense, bags)), serving_case.answers(model, dense, bags)
    assert file.metadata["dense_dtype"] == dtype and found.dtype == torch.float32
    assert file.metadata["inputs"][0]["dtype"] == "float32"
    apart = float((found - expected).abs().max())
    assert apart == 0 if dtype == "float32" else 0 < apart < 0.02
    layers = load_pt2(str(file.path)).exported_programs["model"].state_dict
    kinds = {tensor.dtype for name, tensor in layers.items() if "over_arch" in name}
    assert kinds == {getattr(torch, dtype)}


def test_what_the_file_says(exported, capsys):
    _, folder, path = exported
    said = Served(path).metadata
    assert [i["name"] for i in said["inputs"]] == ["dense", "values", "lengths"]
    assert said["inputs"][0] == {"name": "dense", "dtype": "float32", "shape": ["B", NUM_DENSE]}
    assert said["inputs"][2] == {"name": "lengths", "dtype": "int64", "shape": [3, "B"], "features": list(ROWS)}
    assert [t["rows"] for t in said["tables"]] == [40, None, None] and said["bits"] == [4]
    assert said["check"]["rows"] == 600 and said["check"]["largest_difference"] == 0
    assert said["check"]["auroc_of_file"] == said["check"]["auroc_of_model"] and said["run"] == {"auroc_test": 0.5}
    assert (
        said["versions"]["torch"] == torch.__version__.split("+")[0] or said["versions"]["torch"] == torch.__version__
    )
    command.main(
        [str(folder / "model"), "--output", str(folder / "eight.pt2"), "--bits", "8", "--out_of_range", "mean"]
    )
    assert "600 held-out rows: largest difference" in capsys.readouterr().out
    other = Served(folder / "eight.pt2")
    assert other.metadata["bits"] == [8] and 0 < other.metadata["check"]["largest_difference"] < 0.05
    assert other(*tensors(some_rows(1)[0], [[[40, -1], [7], []]])).shape == (1,)


def test_tensors_that_are_not_the_files(exported):
    file, (dense, values, lengths) = Served(exported[2]), tensors(*some_rows(4))
    for bad, said in (
        ((dense[:, :2], values, lengths), "dense must be float32"), ((dense, values.int(), lengths), "values must be int64"),
        ((dense[:3], values, lengths), "lengths must be int64"), ((dense, values, lengths[:2]), "lengths must be int64"),
        ((dense, values), "takes dense, values, lengths, got 2 tensors"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            file.check(bad)


def test_files_that_are_damaged(exported, tmp_path):
    path = exported[2]
    whole = path.read_bytes()
    for cut in (0, 1, 1000, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.pt2").write_bytes(whole[:cut])
        with pytest.raises(DamagedFileError, match=r"cut\.pt2 is damaged, cut off or no model to serve"):
            Served(tmp_path / "cut.pt2")
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path) as archive:
        places = [i.header_offset + 200 + i.file_size // 2 for i in archive.infolist() if i.file_size > 2000]
    for place in (*places, *rng.integers(0, len(whole), 10), *(len(whole) - rng.integers(1, 6000, 40))):
        changed = bytearray(whole)
        changed[place] ^= 0x10
        (tmp_path / "bit.pt2").write_bytes(changed)
        try:
            file = Served(tmp_path / "bit.pt2")
        except DamagedFileError as error:
            assert "bit.pt2" in str(error)
        else:  # it lay between members
            given = tensors(*some_rows(5))
            assert torch.equal(file(*given), Served(path)(*given))
    with pytest.raises(FileNotFoundError, match="no model to serve at"):
        Served(tmp_path / "none.pt2")
    torch.save({"a": torch.ones(2)}, tmp_path / "other.pt2")
    with pytest.raises(DamagedFileError, match=r"has no extra/torchrec_pss.json"):
        Served(tmp_path / "other.pt2")


def rewritten(path, to, change):
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(to, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(
                name, json.dumps(change(json.loads(content))) if name.endswith("extra/torchrec_pss.json") else content
            )
    return to


def test_files_of_another_version_and_with_other_members(exported, tmp_path):
    path = exported[2]
    for change, said in (
        (lambda d: d | {"format": 2}, "is of format 2, and this version reads 1"),
        (lambda d: d | {"sha256": dict.fromkeys(d["sha256"], "0")}, "is not what was written"),
        (lambda d: d | {"sha256": {}}, "members were added or removed"),
        (lambda d: [], "is of format"),
        (lambda d: {k: v for k, v in d.items() if k != "inputs"}, "lacks inputs"),
    ):
        with pytest.raises(DamagedFileError, match=said):
            Served(rewritten(path, tmp_path / "changed.pt2", change))


def test_runs_that_cannot_be_exported(tmp_path, capsys):
    serving_case.save(tmp_path / "run")
    (tmp_path / "out.pt2").write_text("before")
    for flags, said in (
        ([tmp_path / "nothing"], "has no model/model.json"),
        ([tmp_path / "run", "--part", "user"], "--part user is none of a click model"),
        ([tmp_path / "run", "--bits", "5"], "--bits: invalid choice"),
    ):
        with pytest.raises(SystemExit) as error:
            command.main([*map(str, flags), "--output", str(tmp_path / "out.pt2")])
        assert error.value.code == 2 and said in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main([str(tmp_path / "run"), "--output", str(tmp_path / "out.bin")])
    assert "must end in .pt2" in capsys.readouterr().err and (tmp_path / "out.pt2").read_text() == "before"
    described = tmp_path / "run" / "model" / "model.json"
    good = json.loads(described.read_text())
    for change, said in (({"kind": "x"}, "kind is 'x'"), ({"format": 9}, "format is 9"), ({"tables": 3}, "tables is 3"), ({"array": "{}"}, "no array_bytes"),
                         ({"model": {"a": 1}}, "does not describe a model")):  # fmt: skip
        described.write_text(json.dumps(good | change))
        with pytest.raises(ValueError, match=said):
            saved_model.load(tmp_path / "run")
    described.write_text(json.dumps(good))
    weights = tmp_path / "run" / "model" / "weights.pt"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ValueError, match="weights.pt is not what was written beside it"):
        saved_model.load(tmp_path / "run")


class TwoKinds(nn.Module):
    """Weighted features, and others beside; a dict out."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        one, two = (
            [EmbeddingBagConfig(name=f"t{n}", num_embeddings=1000, embedding_dim=4, feature_names=[n]) for n in names]
            for names in ("ab", "c")
        )
        self.weighted = PSSEmbeddingBagCollection(one, is_weighted=True, config=PSSConfig(array_bytes=4000))
        self.plain = PSSEmbeddingBagCollection(two, config=PSSConfig(array_bytes=800, bits=8))
        self.dropout = nn.Dropout(0.5)

    def forward(self, first, x, second):
        return {"sum": self.weighted(first).values().sum(1) + x.sum(1), "rows": self.dropout(self.plain(second)["c"])}


def test_what_an_earlier_run_saved_is_not_the_next_ones(tmp_path):
    serving_case.save(tmp_path)
    saved_model.remove(tmp_path)
    saved_model.remove(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder of a run that has ended"):
        saved_model.load(tmp_path)


def test_any_model_with_our_collections(tmp_path):
    model = TwoKinds()
    lengths = torch.tensor([1, 2, 0, 1])
    first = KeyedJaggedTensor(["a", "b"], torch.tensor([1, 2, 3, 4]), torch.rand(4), lengths=lengths)
    second = KeyedJaggedTensor(["c"], torch.tensor([5, 6]), lengths=torch.tensor([1, 1]))
    said = export(
        model.train(), [first, torch.rand(2, 3), second], tmp_path / "m.pt2", names=["f", "x", "s"], said={"note": "n"}
    )
    assert model.training and said["note"] == "n" and said["check"] == {"largest_difference": 0.0}
    assert [i["name"] for i in said["inputs"]] == ["f_values", "f_lengths", "f_weights", "x", "s_values", "s_lengths"]
    x = torch.rand(1, 3)
    one = KeyedJaggedTensor(["a", "b"], torch.tensor([9]), torch.rand(1), lengths=torch.tensor([0, 1]))
    other = KeyedJaggedTensor(["c"], torch.tensor([7]), lengths=torch.tensor([1]))
    model.eval()
    found = Served(tmp_path / "m.pt2")(
        one.values(), torch.tensor([[0], [1]]), one.weights(), x, other.values(), torch.tensor([[1]])
    )
    expected = model(one, x, other)
    assert torch.equal(found["sum"], expected["sum"]) and torch.equal(found["rows"], expected["rows"])
    with pytest.raises(ValueError, match="no collection of a shared array"):
        export(nn.Linear(2, 2), [torch.rand(2, 2)], tmp_path / "n.pt2")
    with pytest.raises(TypeError, match="takes tensors and KeyedJaggedTensors, got int"):
        export(model, [first, 3, second], tmp_path / "n.pt2")
    assert not (tmp_path / "n.pt2").exists() and len(list(tmp_path.iterdir())) == 1


@pytest.mark.slow
def test_compiled_it_answers_in_cpp_too(tmp_path):
    """The client is built with CMake, has no Python, and prints what Python says, to the bit."""
    if shutil.which("cmake") is None:
        pytest.skip("there is no cmake")
    model = serving_case.save(tmp_path, bits=4)
    paths = "import torch, torchrec_pss; print(torch.utils.cmake_prefix_path, torchrec_pss.cmake_prefix_path, sep=';')"
    prefix = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", paths], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.strip()
    build = tmp_path / "build"
    for command_line in (
        ["cmake", "-S", ROOT / "examples/serving", "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}"],
        ["cmake", "--build", build],
    ):
        done = subprocess.run(command_line, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "python" not in subprocess.run(["ldd", build / "client"], capture_output=True, text=True).stdout.replace(
        "python3.", "site"
    )
    command.main([str(tmp_path), "--output", str(tmp_path / "m.pt2"), "--aoti"])
    dense, bags = some_rows(500)
    lines = [
        " ".join([*map(repr, map(float, d)), *(",".join(map(str, bag)) or "-" for bag in row)])
        for d, row in zip(dense, bags, strict=True)
    ]

    def client(text, path=tmp_path / "m.pt2"):
        return subprocess.run([build / "client", path], input=text, capture_output=True, text=True)

    found = client("\n".join(lines) + "\n")
    assert found.returncode == 0, found.stderr
    printed = np.array(found.stdout.split(), dtype=np.float32)
    file = Served(tmp_path / "m.pt2")
    assert file.is_compiled and np.array_equal(printed, file(*tensors(dense, bags)).numpy())
    dense_, values, lengths = tensors(dense, bags)
    assert torch.equal(
        file(dense_, values, lengths.t().contiguous().t()), file(dense_, values, lengths)
    )  # in other strides
    with pytest.raises(ValueError, match="lengths must be int64"):
        file(dense_, values, lengths[:2])
    with pytest.raises(IndexError, match=r"id 40 is out of range \[0, 40\)"):
        file(*tensors(dense[:1], [[[40], [], []]]))
    assert np.allclose(printed, serving_case.answers(model, dense, bags), rtol=0, atol=1e-6)
    for text, said in (("1 2 3 4", "fewer than 3 features"), ("1 2 x 4 5 6", "dense value 2 is no number"), ("1 2 3 40 5 6", "id 40 is out of range"),
                       ("1 2 3 4 5 6 7", "more fields")):  # fmt: skip
        bad = client(text)
        assert bad.returncode == 2 and said in bad.stderr and not bad.stdout
    assert client("", tmp_path / "none.pt2").returncode == 2


def test_towers_apart_and_in_an_index(tmp_path, capsys):
    import retrieve

    torch.manual_seed(0)
    tables = [
        EmbeddingConfig(name=f"t_{n}", num_embeddings=rows, embedding_dim=16, feature_names=[n])
        for n, rows in (("user", 300), ("item", 2000))
    ]
    embeddings = PSSEmbeddingCollection(tables, config=PSSConfig(array_bytes=15_000, bits=4, head="dot"))
    model = TwoTower(embeddings, 4)
    ids = np.stack([np.arange(400) % 300, np.arange(400) * 7 % 2000])
    held_out = RowBlock(np.zeros((400, 0), np.float32), ids, (np.arange(400) % 2).astype(np.float32))
    saved_model.save(tmp_path, "two_tower", {"negatives": 4}, embeddings, model.state_dict(), held_out, {})
    for part in ("pairs", "user", "item"):
        command.main([str(tmp_path), "--part", part, "--output", str(tmp_path / f"{part}.pt2")])
        assert Served(tmp_path / f"{part}.pt2").metadata["check"]["largest_difference"] < 1e-6
    user, item, pairs = (Served(tmp_path / f"{part}.pt2") for part in ("user", "item", "pairs"))
    some = torch.arange(300)
    scores = torch.sigmoid((user(some) * item(some * 5)).sum(1) + model.bias.detach())
    assert torch.allclose(pairs(torch.cat([some, some * 5]), torch.ones(2, 300, dtype=torch.int64)), scores, atol=1e-6)
    found = retrieve.main([str(tmp_path / "user.pt2"), str(tmp_path / "item.pt2"), "--users", "3,7", "--k", "5"])
    true = (user(torch.tensor([3, 7])) @ item(torch.arange(2000)).T).topk(5).indices
    assert (
        found["recall"] > 0.9
        and found["items"] == 2000
        and len(set(found["neighbours"][3]) & set(true[0].tolist())) >= 4
    )
    for flags, said in (
        ([tmp_path / "item.pt2", tmp_path / "item.pt2"], "is no user tower"),
        ([tmp_path / "user.pt2", tmp_path / "item.pt2", "--users", "300"], "from 0 to 299"),
    ):
        with pytest.raises(SystemExit):
            retrieve.main([*map(str, flags)])
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main([str(tmp_path), "--output", str(tmp_path / "o.pt2"), "--out_of_range", "mean"])
