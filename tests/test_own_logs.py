"""Logs like Avazu's and KDD Cup's, and Parquet with lists: trained on one and two processes, killed and gone on with, to the bit."""

import json

import own_logs
import pytest
import script_runs

from torchrec_pss.export import DamagedFileError, Served
from torchrec_pss.export import __main__ as export

FLAGS = [
    "--compression",
    "4",
    "--bits",
    "4",
    "--epochs",
    "2",
    "--batch_size",
    "32",
    "--test_batch_size",
    "64",
    "--seed",
    "1",
]


def train(folder, name, *flags, **options):
    return script_runs.run(
        "train_criteo.py", *FLAGS, *flags, "--output_dir", folder / name, "--cache_dir", folder / "cache", **options
    )


def results(folder, name):
    found = json.loads((folder / name / "results.json").read_text())
    return {
        k: v
        for k, v in found.items()
        if k not in ("train_seconds", "samples_per_second", "data_wait_share", "config", "collision_load")
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", own_logs.LOGS)
def test_a_log_of_ones_own(tmp_path, monkeypatch, name):
    (tmp_path / "data").mkdir()
    path, schema = own_logs.LOGS[name](tmp_path / "data")
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    data = ["--data_path", path, "--schema", tmp_path / "schema.json"]
    train(tmp_path, "alone", *data)
    found = results(tmp_path, "alone")
    assert found["auroc_test"] > 0.58 and found["bad_rows_read"] == 0
    assert ("grouped_auroc_test" in found and found["grouped_auroc_test"] is not None) == ("group" in schema)

    train(tmp_path, "two", *data, ranks=2)
    whole = results(tmp_path, "two")
    assert whole["auroc_test"] > 0.58 and whole["world_size"] == 2
    checkpoint = tmp_path / "killed" / "checkpoint" / "progress.json"
    often = ["--checkpoint_freq", "10"]
    train(tmp_path, "killed", *data, *often, ranks=2, killed_at=checkpoint)
    assert not (tmp_path / "killed" / "results.json").exists()
    train(tmp_path, "killed", *data, *often, "--resume", ranks=2)
    killed = results(tmp_path, "killed")
    assert killed["steps"] == whole["steps"] and killed["auroc_test"] == whole["auroc_test"]
    assert killed["ne_test"] == whole["ne_test"] and killed["layout"] == whole["layout"]

    export.main([str(tmp_path / "alone"), "--output", str(tmp_path / "model.pt2")])
    said = Served(tmp_path / "model.pt2").metadata
    assert said["check"]["auroc_of_file"] == pytest.approx(said["check"]["auroc_of_model"], abs=1e-6)
    assert ("weights" in [i["name"] for i in said["inputs"]]) == (name == "multi_hot")
    assert said["bags"] == list(schema.get("bags", ()))
    if name == "multi_hot":
        monkeypatch.syspath_prepend(str(script_runs.EXAMPLES / "serving"))
        import model_file

        with pytest.raises(DamagedFileError, match="takes weights of ids, and this server's rows have none"):
            model_file.Model.load(tmp_path / "model.pt2")
