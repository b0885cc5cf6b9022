"""By what a data file is known again: its size, and a sample of what is in it."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import IO, Any

from torchrec_pss.datasets.errors import DataChangedError, DataError
from torchrec_pss.datasets.file_kinds import regular_file
from torchrec_pss.datasets.locations import Location, Status, is_remote

_BLOCKS = 16
_BLOCK_BYTES = 1 << 16  # files up to 1 MiB are sampled whole


@dataclass(frozen=True)
class FileSignature:
    """A file at one moment.

    Attributes:
        name: without its folder.
        size: bytes.
        mtime_ns: when it was changed, nanoseconds. A copy may have another: it is no difference by itself. 0: a store does not say.
        sample: BLAKE2b of 16 blocks of 64 KiB, the first and the last among them.
    """

    name: str
    size: int
    mtime_ns: int
    sample: str

    @classmethod
    def of(cls, path: Location) -> "FileSignature":
        """Raises:
        FileNotFoundError, ValueError: no file.
        DataError: none that can be read."""
        status = regular_file(path, "data file")
        try:
            with path.open("rb", 0) if is_remote(path) else open(path, "rb", buffering=0) as stream:
                sample = _sample(stream, status.st_size)
        except OSError as error:
            raise DataError(f"data file {path} is unreadable: {error}") from error
        return cls(path.name, status.st_size, status.st_mtime_ns, sample)

    def fits(self, status: Status) -> bool:
        """Whether a file of this status need not be read to know that it is this one."""
        return bool(self.mtime_ns) and (status.st_size, status.st_mtime_ns) == (self.size, self.mtime_ns)

    def difference(self, now: "FileSignature") -> str | None:
        """What says that ``now`` has other content; None: nothing does."""
        if self.size != now.size:
            return f"{self.size:,} bytes then, {now.size:,} now"
        return None if self.sample == now.sample else f"other content in the same {self.size:,} bytes"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def refuse_copies(signatures: Mapping[Location, FileSignature]) -> None:
    """
    Raises:
        ValueError: two files of one content, or one by two names; names both.
    """
    first: dict[tuple[int, str], Location] = {}
    for path, signature in signatures.items():
        same = first.setdefault((signature.size, signature.sample), path)
        if same is not path:
            raise ValueError(f"{same} and {path} hold the same rows: take one of them out of the folder")


def _sample(stream: IO[bytes], size: int) -> str:
    digest = hashlib.blake2b(digest_size=16)
    last = max(size - _BLOCK_BYTES, 0)
    starts = range(0, size, _BLOCK_BYTES) if size <= _BLOCKS * _BLOCK_BYTES else _spread(last)
    for start in starts:
        stream.seek(start)
        digest.update(stream.read(_BLOCK_BYTES))
    return digest.hexdigest()


def _spread(last: int) -> list[int]:
    return [last * block // (_BLOCKS - 1) for block in range(_BLOCKS)]


def check_same_files(then: object, now: Sequence[FileSignature]) -> None:
    """Refuses to go on with other files than a checkpoint's, ``then`` as `FileSignature.as_json` gave it.

    Raises:
        DataChangedError: naming the file, and what differs.
        ValueError: ``then`` is not of that form.
    """
    known = _read_back(then)
    names = [signature.name for signature in now]
    for name in known:
        if name not in names:
            raise DataChangedError(f"--resume: data file {name} of the checkpoint is not there any more")
    for signature in now:
        if signature.name not in known:
            raise DataChangedError(
                f"--resume: data file {signature.name} was not there when the checkpoint was written"
            )
        difference = known[signature.name].difference(signature)
        if difference:
            raise DataChangedError(
                f"--resume: data file {signature.name} has changed since the checkpoint was written: {difference}"
            )
    if list(known) != names:
        raise DataChangedError(f"--resume: the data files were in the order {list(known)} and are in {names} now")


def _read_back(then: Any) -> dict[str, FileSignature]:
    try:
        signatures = [FileSignature(**entry) for entry in then]
        right = all(
            (type(s.name), type(s.size), type(s.mtime_ns), type(s.sample)) == (str, int, int, str) for s in signatures
        )
    except TypeError:
        right = False
    if not right:
        raise ValueError(f"--resume: the checkpoint's data files are no list of signatures: {str(then)[:80]!r}")
    return {s.name: s for s in signatures}
