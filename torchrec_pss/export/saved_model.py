"""What a run leaves to serve: weights, what the model is, and some held-out rows to compare by; in a folder of its own."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig, PoolingType

from torchrec_pss import json_fields as fields
from torchrec_pss.datasets.npz_file import read_npz
from torchrec_pss.datasets.numbering import Numbering
from torchrec_pss.datasets.rows import RowBlock
from torchrec_pss.datasets.schema import Schema
from torchrec_pss.models import ClickModel, ClickModelConfig, TwoTower
from torchrec_pss.modules.embedding_bag_collection import PSSEmbeddingBagCollection
from torchrec_pss.modules.embedding_collection import PSSEmbeddingCollection
from torchrec_pss.modules.pss_config import PSSConfig
from torchrec_pss.whole_file import read_json, write_bytes, write_json

FOLDER = "model"
_FORMAT = 1
_WEIGHTS, _ROWS, _IDS, _MODEL = "weights.pt", "rows.npz", "ids.npz", "model.json"
_table = fields.fields(
    name=fields.text, num_embeddings=fields.count, embedding_dim=fields.count, feature_names=fields.each(fields.text)
)
_check = fields.fields(
    format=fields.count, kind=fields.text, model=fields.mapping, tables=fields.each(_table), array=fields.text, numbered=fields.truth,
    results=fields.mapping, sha256=fields.values(fields.text),
)  # fmt: skip


@dataclass
class SavedModel:
    """A model on the CPU, the weights that its results are of, and the rest of `save`'s arguments."""

    kind: str
    model: nn.Module
    collection: PSSEmbeddingBagCollection | PSSEmbeddingCollection
    numbering: Numbering | None
    results: dict[str, Any]
    rows: RowBlock
    schema: Schema | None
    texts: list[str] | None
    separators: dict[str, str]


def save(
    folder: Path, kind: str, config: Mapping[str, Any], collection: PSSEmbeddingBagCollection | PSSEmbeddingCollection, weights: Mapping[str, torch.Tensor],
    rows: RowBlock, results: Mapping[str, Any], numbering: Numbering | None = None, schema: Schema | None = None,
    texts: Sequence[str] | None = None, separators: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """
    Args:
        folder: of the run; `FOLDER` in it is written.
        kind: "click" (`ClickModel`) or "two_tower" (`TwoTower`).
        rows: held out, to compare by; pairs have no dense values.
        config: of the model beside the collection.
        weights: the model's state dict.
        results: what is said of the model, as JSON.
        numbering: of the ids, where the model reads their rows; ``rows`` have ids.
        schema: of a click model, the columns that it was trained on.
        texts: of those, the features whose ids are of tokens; None: nobody knows.
        separators: of bags that were text, what divided their tokens.
    """
    folder, files = folder / FOLDER, {}
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save({name: tensor.detach().cpu().clone() for name, tensor in weights.items()}, buffer)
    files[_WEIGHTS] = buffer.getvalue()
    buffer = io.BytesIO()
    np.savez(buffer, **{name: array for name, array in vars(rows).items() if array is not None})
    files[_ROWS] = buffer.getvalue()
    if numbering is not None:
        buffer = io.BytesIO()
        numbering.write(buffer)
        files[_IDS] = buffer.getvalue()
    for name, content in files.items():
        write_bytes(folder / name, content)
    read: Any = collection
    configs = read.embedding_bag_configs() if kind == "click" else read.embedding_configs()
    tables = [
        {"name": t.name, "num_embeddings": t.num_embeddings, "embedding_dim": t.embedding_dim, "feature_names": list(t.feature_names)}
        | ({"pooling": t.pooling.value} if kind == "click" else {})
        for t in configs
    ]  # fmt: skip
    write_json(folder / _MODEL, {
        "format": _FORMAT, "kind": kind, "model": dict(config), "tables": tables, "array": collection.config.to_json(), "numbered": numbering is not None, "weighted": kind == "click" and read.is_weighted(), "schema": schema and schema.as_json(), "texts": None if texts is None else list(texts), "separators": dict(separators or {}),
        "results": dict(results), "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    })  # fmt: skip


def remove(folder: Path) -> None:
    """What an earlier run has saved there, as another begins: it would be taken for the new one's."""
    for name in (_MODEL, _WEIGHTS, _ROWS, _IDS):
        (folder / FOLDER / name).unlink(missing_ok=True)


def load(folder: Path) -> SavedModel:
    """
    Args:
        folder: of a run, or its `FOLDER`.

    Raises:
        FileNotFoundError: nothing was saved there.
        ValueError: it is damaged, or of another version; names file and field.
    """
    folder = folder if (folder / _MODEL).exists() else folder / FOLDER
    if not (folder / _MODEL).exists():
        raise FileNotFoundError(
            f"{folder.parent} has no {FOLDER}/{_MODEL}: it is no folder of a run that has ended and trained an array of all tables "
            "(a run of an earlier version writes one when it is resumed)"
        )
    said = read_json(folder / _MODEL)
    try:
        _check(said, "")
        if said["format"] != _FORMAT:
            raise ValueError(f"format is {said['format']}, and this version reads {_FORMAT}")
        for name in (_WEIGHTS, _ROWS, *([_IDS] if said["numbered"] else [])):
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != said["sha256"].get(name):
                raise ValueError(f"{name} is not what was written beside it (SHA-256)")
        model, collection = _built(said)
        schema = said.get("schema") and Schema.of(said["schema"])
        model.load_state_dict(torch.load(folder / _WEIGHTS, weights_only=True))
    except (TypeError, KeyError, RuntimeError) as error:
        raise ValueError(f"{folder / _MODEL} does not describe a model: {error}") from error
    except (ValueError, OSError) as error:
        raise ValueError(f"{folder / _MODEL}: {error}") from error
    rows = RowBlock(**read_npz(folder / _ROWS, [f.name for f in fields_of(RowBlock)], "held-out rows"))
    numbering = Numbering.load(folder / _IDS, len(collection._feature_names)) if said["numbered"] else None
    return SavedModel(
        said["kind"],
        model.eval(),
        collection,
        numbering,
        said["results"],
        rows,
        schema,
        said.get("texts"),
        said.get("separators", {}),
    )


def _built(said: dict[str, Any]) -> tuple[nn.Module, PSSEmbeddingBagCollection | PSSEmbeddingCollection]:
    config = PSSConfig.from_json(said["array"])
    if said["kind"] == "click":
        tables = [EmbeddingBagConfig(**t | {"pooling": PoolingType(t["pooling"])}) for t in said["tables"]]
        ebc = PSSEmbeddingBagCollection(tables, said.get("weighted", False), config=config)
        return ClickModel(ClickModelConfig(**said["model"]).dlrm(ebc)), ebc
    if said["kind"] == "two_tower":
        ec = PSSEmbeddingCollection([EmbeddingConfig(**t) for t in said["tables"]], config=config)
        return TwoTower(ec, **said["model"]), ec
    raise ValueError(f"kind is {said['kind']!r}, not click or two_tower")
