"""Nearest items of users, by the towers that `torchrec-pss export RUN --part user` and ``--part item`` write.

    python examples/serving/retrieve.py user.pt2 item.pt2 --users 3,14,15 --k 10

Items are read from the array once and laid into a FAISS index (HNSW, inner product); an index that looks at every item says how many of the
true neighbours it finds.
"""

import argparse
import json
import time
from pathlib import Path

import faiss
import numpy as np
import torch

from torchrec_pss.export import DamagedFileError, Served

_BLOCK = 1 << 16
_LINKS, _BREADTH = 32, 128  # of HNSW: links of an item, and how far a search looks


def embeddings(tower: Served, ids: torch.Tensor) -> np.ndarray:
    """fp32 ``[n, D]``."""
    return np.concatenate([tower(block).numpy() for block in ids.split(_BLOCK)])


def number_of(tower: Served, part: str) -> int:
    """Ids of a tower's table.

    Raises:
        DamagedFileError: a file of another part.
    """
    if tower.metadata.get("part") != part:
        raise DamagedFileError(f"{tower.path} is no {part} tower: its part is {tower.metadata.get('part')!r}")
    return next(t["num_embeddings"] for t in tower.metadata["tables"] if part in t["features"])


def index_of(items: np.ndarray) -> faiss.IndexHNSWFlat:
    index = faiss.IndexHNSWFlat(items.shape[1], _LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = index.hnsw.efSearch = _BREADTH
    index.add(items)
    return index


def compare(users: np.ndarray, items: np.ndarray, k: int) -> dict:
    """The index beside one that looks at every item: the share of the ``k`` true neighbours that it finds, and microseconds of a user in both."""
    exact, index = faiss.IndexFlatIP(items.shape[1]), index_of(items)
    exact.add(items)
    found, took = {}, {}
    for name, of in (("exact", exact), ("index", index)):
        started = time.perf_counter()
        found[name] = of.search(users, k)[1]
        took[name] = 1e6 * (time.perf_counter() - started) / len(users)
    common = [len(set(a) & set(b)) for a, b in zip(found["exact"].tolist(), found["index"].tolist(), strict=True)]
    return {
        "items": len(items),
        "users": len(users),
        "k": k,
        "recall": sum(common) / (k * len(users)),
        "microseconds": took,
        "neighbours": found["index"].tolist(),
    }


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("user", type=Path, help="file of --part user")
    parser.add_argument("item", type=Path, help="file of --part item")
    parser.add_argument("--users", default="0", help="whose items are printed, by commas")
    parser.add_argument("--k", type=int, default=10, help="items a user")
    parser.add_argument("--compared", type=int, default=1000, help="users by which the index is compared")
    args = parser.parse_args(argv)
    try:
        user, item = Served(args.user), Served(args.item)
        users, items = number_of(user, "user"), embeddings(item, torch.arange(number_of(item, "item")))
        asked = torch.tensor([int(u) for u in args.users.split(",")])
        if bool(((asked < 0) | (asked >= users)).any()):
            raise ValueError(f"--users must be from 0 to {users - 1}, got {args.users}")
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    sample = torch.arange(0, users, max(users // args.compared, 1))
    found = compare(embeddings(user, sample), items, args.k)
    neighbours = compare(embeddings(user, asked), items, args.k)["neighbours"]
    found["neighbours"] = dict(zip(map(int, asked), neighbours, strict=True))
    print(json.dumps(found))
    return found


if __name__ == "__main__":
    main()
