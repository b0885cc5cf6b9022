"""Small logs in the shape of well-known ones, whose clicks depend on their ids."""

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 3000


def _ids(rng, number, rows=ROWS):
    return (rng.pareto(1.0, rows) * number / 20).astype(int).clip(0, number - 1)


def _clicks(rng, *effects):
    return (rng.random(ROWS) < 1 / (1 + np.exp(-sum(effects)))).astype(int)


def avazu(folder):
    """A CSV with a header; the hour divides the rows. The schema is the one that ships, and the split."""
    rng = np.random.default_rng(0)
    sparse = ["C1", "banner_pos", "site_id", "site_domain", "site_category", "app_id", "app_domain", "app_category", "device_id", "device_ip",
              "device_model", "device_type", "device_conn_type", *(f"C{i}" for i in range(14, 22))]  # fmt: skip
    columns = {name: _ids(rng, 3 + 20 * place) for place, name in enumerate(sparse)}
    click = _clicks(rng, *(rng.normal(size=500)[ids] for ids in list(columns.values())[:6]))
    hours = 14102100 + np.sort(rng.integers(0, 24, ROWS))
    path = folder / "train.csv"
    with path.open("w") as stream:
        stream.write(",".join(["id", "click", "hour", *sparse]) + "\n")
        for row in range(ROWS):
            tokens = [f"{columns[name][row]:08x}" for name in sparse]
            stream.write(",".join([str(10**19 + row), str(click[row]), str(hours[row]), *tokens]) + "\n")
    schema = {
        "label": "click",
        "sparse": sparse,
        "time": "hour",
        "split": {"val_from": 14102118, "test_from": 14102121},
    }
    return path, schema


def kdd12(folder):
    """Tab-separated without a header, packed; numbers beside ids."""
    rng = np.random.default_rng(1)
    fields = ["click", "impression", "display_url", "ad", "advertiser", "depth", "position", "query", "keyword", "title", "description", "user"]  # fmt: skip
    sparse = ["display_url", "ad", "advertiser", "query", "keyword", "title", "description", "user"]
    columns = {name: _ids(rng, 20 + 50 * place) for place, name in enumerate(sparse)}
    depth, position = rng.integers(1, 4, ROWS), rng.integers(1, 4, ROWS)
    columns |= {"impression": np.ones(ROWS, int), "depth": depth, "position": position}
    columns["click"] = _clicks(
        rng, -0.8 * position + 1, rng.normal(size=500)[columns["ad"]], rng.normal(size=500)[columns["user"]]
    )
    path = folder / "training.txt.gz"
    with gzip.open(path, "wt") as stream:
        for row in range(ROWS):
            stream.write("\t".join(str(columns[name][row]) for name in fields) + "\n")
    return path, {
        "fields": fields, "label": "click", "dense": {"depth": "none", "position": "none"}, "sparse": sparse, "group": "user",
    }  # fmt: skip


def multi_hot(folder):
    """A folder of Parquet, lists of ids with weights, a dictionary column and one with nothing here and there; days divide the rows."""
    rng = np.random.default_rng(2)
    worth, lengths = rng.normal(size=300), rng.integers(0, 7, ROWS)
    bags = [_ids(rng, 300, n) for n in lengths]
    weights = [np.round(rng.random(n), 2) for n in lengths]
    shops = _ids(rng, 40)
    click = _clicks(
        rng, np.array([(worth[b] * w).sum() for b, w in zip(bags, weights, strict=True)]), rng.normal(size=40)[shops]
    )
    table = pa.table({
        "click": pa.array(click, pa.int8()), "shop": pa.array([f"shop {s}" for s in shops]).dictionary_encode(),
        "history": pa.array([b.tolist() for b in bags], pa.list_(pa.int64())), "how": pa.array([w.tolist() for w in weights], pa.list_(pa.float32())),
        "tags": pa.array([None if s % 7 == 0 else [f"tag {s % 5}", "all"] for s in shops], pa.list_(pa.string())),
        "price": pa.array([None if r < 0.1 else 100 * r for r in rng.random(ROWS)], pa.float64()), "day": pa.array(np.arange(ROWS) * 10 // ROWS),
    })  # fmt: skip
    for part in range(3):
        rows = table.slice(part * ROWS // 3, ROWS // 3)
        pq.write_table(rows, folder / f"part-{part}.parquet", row_group_size=170)
    return folder, {
        "label": "click", "dense": {"price": "log"}, "sparse": ["shop"], "bags": {"history": {"weights": "how"}, "tags": {}}, "split": {"column": "day", "val": [8], "test": [9]},
    }  # fmt: skip


LOGS = {"avazu": avazu, "kdd12": kdd12, "multi_hot": multi_hot}
