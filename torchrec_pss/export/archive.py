"""The file that serves a model: a PT2 archive with a program, perhaps compiled, and what they are; written aside, checked when it is opened."""

import hashlib
import json
import logging
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch.export import ExportedProgram
from torch.export.pt2_archive._package import AOTICompiledModel, load_pt2, package_pt2
from torch.export.pt2_archive.constants import AOTINDUCTOR_DIR

from torchrec_pss import json_fields as fields
from torchrec_pss.whole_file import json_bytes, written_aside

logger: logging.Logger = logging.getLogger(__name__)

FORMAT = 1
_MODEL = "model"
_METADATA = "extra/torchrec_pss.json"  # behind the archive's own folder
_check = fields.fields(
    format=fields.count, inputs=fields.each(fields.fields(name=fields.text, dtype=fields.text)), output=fields.text, sha256=fields.mapping, tables=fields.each(fields.mapping), out_of_range=fields.text,
)  # fmt: skip


class DamagedFileError(ValueError):
    """A file that is no model to serve, or not a whole one."""


def compiled(program: ExportedProgram, metadata: dict[str, str]) -> list[Any]:
    """The program's AOTInductor files, for this machine. ``metadata`` is what C++ finds.

    Raises:
        ValueError: there is no C++ compiler that works, or AOTInductor cannot compile it.
    """
    options = {"aot_inductor.package": True, "aot_inductor.metadata": metadata}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            files: Any = torch._inductor.aot_compile(program.module(), *program.example_inputs, options=options)
        except Exception as error:  # of many kinds
            first = str(error).strip().splitlines()[:1]
            raise ValueError(
                f"AOTInductor cannot compile the program: {type(error).__name__}: {''.join(first)}"
            ) from error
    return cast(list[Any], files)


def write(path: Path, program: ExportedProgram, aoti: list[Any] | None, metadata: dict[str, Any]) -> None:
    """
    Args:
        path: ends in .pt2.
        aoti: of `compiled`.
        metadata: JSON; `format` and the SHA-256 of all members are added.

    Raises:
        OSError: it cannot be written; naming it.
    """
    with written_aside(path) as aside:
        named = aside.with_suffix(".pt2")  # as torch wants it
        try:
            package_pt2(named, exported_programs={_MODEL: program}, aoti_files=None if aoti is None else {_MODEL: aoti})
            with zipfile.ZipFile(named, "a", zipfile.ZIP_STORED) as archive:
                members = archive.namelist()
                sums = {m.partition("/")[2]: hashlib.sha256(archive.read(m)).hexdigest() for m in members}
                whole = {"format": FORMAT, **metadata, "sha256": sums}
                archive.writestr(f"{members[0].partition('/')[0]}/{_METADATA}", json_bytes(path, whole))
            named.replace(aside)
        finally:
            named.unlink(missing_ok=True)


def read_metadata(path: Path) -> dict[str, Any]:
    """What the file says of itself, once every byte of it has been checked.

    Raises:
        FileNotFoundError: there is none.
        DamagedFileError: no such file, of another format, cut off, or with a byte that has changed; names the member.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no model to serve at {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.partition("/")[2]: name for name in archive.namelist()}
            if _METADATA not in members:
                raise DamagedFileError(f"{path} has no {_METADATA}: torchrec-pss export writes such files")
            metadata = json.loads(archive.read(members.pop(_METADATA)))
            if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
                found = metadata.get("format") if isinstance(metadata, dict) else metadata
                raise DamagedFileError(
                    f"{path} is of format {found!r}, and this version reads {FORMAT}: export it again"
                )
            _check(metadata, "")
            if members.keys() != metadata["sha256"].keys():
                odd = sorted(members.keys() ^ metadata["sha256"].keys())
                raise DamagedFileError(f"{path}: members were added or removed: {odd[0]}")
            for name, member in members.items():
                if hashlib.sha256(archive.read(member)).hexdigest() != metadata["sha256"][name]:
                    raise DamagedFileError(f"{path} is damaged: {name} is not what was written (SHA-256)")
    except DamagedFileError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, KeyError, RuntimeError, OSError) as error:
        raise DamagedFileError(f"{path} is damaged, cut off or no model to serve: {error}") from error
    return metadata


class Served:
    """A model as a file has it: called with the tensors that ``metadata["inputs"]`` says.

    Args:
        path: of the file.
        threads_apart: runs of the compiled program that may be under way at once.

    Raises:
        FileNotFoundError, DamagedFileError: see `read_metadata`.

    Examples:
        >>> import torch
        >>> from torchrec import EmbeddingBagConfig, KeyedJaggedTensor
        >>> from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection
        >>> from torchrec_pss.export import Served, export
        >>> table = EmbeddingBagConfig(name="user", num_embeddings=10**6, embedding_dim=4, feature_names=["user"])
        >>> model = PSSEmbeddingBagCollection([table], config=PSSConfig(array_bytes="64kB", bits=4))
        >>> values, lengths = torch.tensor([7, 8, 9]), torch.tensor([1, 2])
        >>> _ = export(model, [KeyedJaggedTensor.from_lengths_sync(["user"], values, lengths)], "model.pt2")
        >>> served = Served("model.pt2")
        >>> [(i["name"], i["dtype"], i["shape"]) for i in served.metadata["inputs"]]
        [('values', 'int64', ['L']), ('lengths', 'int64', [1, 'B'])]
        >>> served(values, lengths.view(1, 2)).shape
        torch.Size([2, 4])
    """

    def __init__(self, path: str | Path, threads_apart: int = 1) -> None:
        self.path = Path(path)
        self.metadata = read_metadata(self.path)
        try:
            self._run = self._opened(threads_apart)
        except RuntimeError as error:  # torch reads other parts of a zip than Python does
            raise DamagedFileError(f"{path} is damaged: {str(error).splitlines()[0]}") from error

    def _opened(self, threads_apart: int) -> Callable[..., Any]:
        path = str(self.path)
        self.is_compiled = any(name.startswith(AOTINDUCTOR_DIR) for name in self.metadata["sha256"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if self.is_compiled:  # without a look at the program, which takes longer to read
                self._refuse_other_machines()
                return AOTICompiledModel(torch._C._aoti.AOTIModelPackageLoader(path, _MODEL, False, threads_apart, -1))
            return load_pt2(path).exported_programs[_MODEL].module()

    def _refuse_other_machines(self) -> None:
        here = {"torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability()}
        for name, wanted in (self.metadata.get("compiled_for") or {}).items():
            if here.get(name) != wanted:
                raise DamagedFileError(
                    f"{self.path} was compiled for {name} {wanted}, and here is {here.get(name)}: export it here, or without --aoti"
                )

    def __call__(self, *tensors: torch.Tensor) -> Any:
        """
        Raises:
            IndexError: an id out of an exact table's range, or lengths that are not those of the ids.
            ValueError: see `check`.
        """
        self.check(tensors)
        with torch.inference_mode():
            if not self.is_compiled:
                return self._run(*tensors)
            try:
                return self._run(*(t.contiguous() for t in tensors))  # others it would take for what they are not
            except RuntimeError as error:  # what a lookup raises has lost its kind on the way
                raise IndexError(str(error).splitlines()[0]) from error

    def check(self, tensors: Sequence[torch.Tensor]) -> None:
        """
        Raises:
            ValueError: other dtypes or shapes than the file's inputs; names the input.
        """
        sizes: dict[str, int] = {}
        wanted = self.metadata["inputs"]
        if len(tensors) != len(wanted):
            raise ValueError(f"{self.path} takes {', '.join(i['name'] for i in wanted)}, got {len(tensors)} tensors")
        for tensor, of in zip(tensors, wanted, strict=True):
            shape = [
                sizes.setdefault(n, size) if isinstance(n, str) else n
                for n, size in zip(of["shape"], tensor.shape, strict=False)
            ]
            if (
                str(tensor.dtype) != f"torch.{of['dtype']}"
                or list(tensor.shape) != shape
                or len(shape) != len(of["shape"])
            ):
                raise ValueError(
                    f"{of['name']} must be {of['dtype']} {of['shape']}, got {tensor.dtype} {list(tensor.shape)}"
                )
