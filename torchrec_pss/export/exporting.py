"""`export`: a model to a file that serves it, once the file's answers have been compared with the model's."""

import logging
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.utils._pytree import tree_leaves
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss.convert import unsharded
from torchrec_pss.export import archive
from torchrec_pss.export.numbered_ids import NumberedIds
from torchrec_pss.export.program import flattened, inputs_of, plain, to_program, to_serve

logger: logging.Logger = logging.getLogger(__name__)

_PACKAGES = ("torch", "torchrec", "torchrec_pss")
Argument: TypeAlias = torch.Tensor | KeyedJaggedTensor


def export(
    model: nn.Module,
    example: Sequence[Argument],
    path: str | Path,
    *,
    bits: int | None = None,
    dense_dtype: torch.dtype | None = None,
    aoti: bool = False,
    out_of_range: str = "error",
    names: Sequence[str] | None = None,
    said: dict[str, Any] | None = None,
    check: Callable[[archive.Served], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Writes a file that serves a model with collections of a shared array. `torchrec_pss.export.Served` opens it; compiled, a C++ program does.

    Args:
        model: with `PSSEmbeddingBagCollection`s or `PSSEmbeddingCollection`s, under `DistributedModelParallel` or not. Its weights are taken as they
            are: apply an average first.
        example: arguments of its forward, of two rows or more: tensors with a row in their first dimension, and KJTs, which become
            ``values`` ``[L]``, ``lengths`` ``[F, B]`` and perhaps ``weights`` ``[L]``.
        path: of the file, which should end in .pt2. What is there is replaced in one step.
        bits: of a stored element, 32, 16, 8, 4, 3 or 2; those that were trained if None.
        dense_dtype: that all but the embeddings is computed in, fp32, bf16 or fp16; as the model has it if None. Inputs stay as they are.
        aoti: whether it is compiled with AOTInductor too, for this machine; C++ programs run that. Needs a C++ compiler.
        out_of_range: of ids without a row in an exact table: "error", or "mean" of its rows (bag collections).
        names: of the arguments.
        said: of the model, as JSON; goes into the file's metadata.
        check: compares the file with the model before it is given its name; what it returns is the metadata's ``check``. By default the
            ``example`` goes through both.

    Returns:
        The metadata: ``inputs``, ``tables``, ``bits``, ``embedding_bytes``, ``check`` and more.

    Raises:
        ValueError: no collection of ours; a path that does not end in .pt2; else see `to_serve` and `to_program`.
        OSError: the file cannot be written.

    Examples:
        >>> import torch
        >>> from torchrec import EmbeddingBagConfig, KeyedJaggedTensor
        >>> from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection
        >>> from torchrec_pss.export import export
        >>> table = EmbeddingBagConfig(name="user", num_embeddings=10**6, embedding_dim=4, feature_names=["user"])
        >>> model = PSSEmbeddingBagCollection([table], config=PSSConfig(array_bytes="64kB", bits=4))
        >>> features = KeyedJaggedTensor.from_lengths_sync(["user"], torch.tensor([7, 8, 9]), torch.tensor([1, 2]))
        >>> metadata = export(model, [features], "model.pt2")
        >>> metadata["check"]["largest_difference"]
        0.0
        >>> [i["name"] for i in metadata["inputs"]]
        ['values', 'lengths']
    """
    path = Path(path)
    if path.suffix != ".pt2":
        raise ValueError(f"the file must end in .pt2, got {path}")
    served = to_serve(unsharded(model), bits, out_of_range, dense_dtype)
    program = to_program(served, example, dense_dtype)
    metadata = {
        **(said or {}), **_of_arrays(served), "inputs": [i.as_json() for i in inputs_of(example, names)], "output": "the model's", "dense_dtype": dense_dtype and str(dense_dtype).removeprefix("torch."),
        "out_of_range": out_of_range,
        "versions": {p: _version(p) for p in _PACKAGES}, "git_commit": _commit(), "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "compiled_for": {"torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability()} if aoti else None,
    }  # fmt: skip
    for_cpp = {"torchrec_pss.inputs": ",".join(i["name"] for i in metadata["inputs"])}
    for i in metadata["inputs"]:
        for_cpp[f"torchrec_pss.{i['name']}"] = f"{i['dtype']} {'x'.join(map(str, i['shape']))}"
    files = archive.compiled(program, for_cpp) if aoti else None
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}-") as folder:
        unchecked = Path(folder) / path.name
        archive.write(unchecked, program, files, metadata)
        metadata["check"] = (check or partial(_check, model, example))(archive.Served(unchecked))
    archive.write(path, program, files, metadata)
    return archive.read_metadata(path)


def _check(model: nn.Module, example: Sequence[Argument], file: archive.Served) -> dict[str, Any]:
    was_training = model.training
    try:
        with torch.no_grad():
            expected, found = plain(model.eval()(*example)), file(*flattened(example))
    finally:
        model.train(was_training)
    pairs = zip(tree_leaves(expected), tree_leaves(found), strict=True)
    return {"largest_difference": max((float((e - f).abs().max()) for e, f in pairs if e.numel()), default=0.0)}


def _of_arrays(served: nn.Module) -> dict[str, Any]:
    ours: list[Any] = [m for m in served.modules() if hasattr(m, "layout") and hasattr(m, "array")]
    numbered = [m for m in served.modules() if isinstance(m, NumberedIds)]
    tables = []
    for m in ours:
        for number, t in enumerate(m.layout.tables):
            features = [f for f, table in zip(m._feature_names, m._table_of_feature, strict=True) if table == number]
            rows = {
                "rows": t.rows if t.prefix and not numbered else None,
                "num_embeddings": t.rows,
            }  # None: any id is one's
            tables.append({"name": t.name, "dim": t.embedding_dim, "features": features} | rows)
    return {
        "tables": tables, "bits": [m.array.bits if m.array.elements.dtype != torch.float16 else 16 for m in ours],
        "embedding_bytes": sum(_stored(m.array) for m in ours), "numbering_bytes": sum(map(_stored, numbered)), "layout": [m.layout.fingerprint() for m in ours],
    }  # fmt: skip


def _stored(module: nn.Module) -> int:
    return sum(b.nbytes for b in module.buffers())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Of the checkout that this package is in, if it is in one."""
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
