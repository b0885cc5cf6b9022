"""What a file is by what it begins with, and whether it is a file at all."""

import os
import stat

from torchrec_pss.datasets.errors import DataError
from torchrec_pss.datasets.locations import Location, Status

GZIP = b"\x1f\x8b"
UTF8_MARK = b"\xef\xbb\xbf"

_UNPACK = "unpack it, or pack it by gzip"
_PACKERS = {
    b"\xfd7zXZ": "xz",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"\x1f\x9d": "compress",
    b"7z\xbc\xaf\x27\x1c": "7-Zip",
    b"Rar!\x1a\x07": "rar",
    b"\x89LZO": "lzop",
    b"\xff\x06\x00\x00sNaPpY": "snappy",
}
_TABLES = {
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow",
    b"FEA1": "Feather",
    b"\xff\xff\xff\xff": "an Arrow stream",
    b"Obj\x01": "Avro",
    b"\x93NUMPY": "a numpy array",
    b"SQLite format 3\x00": "an SQLite database",
    b"\x89HDF\r\n\x1a\n": "HDF5",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "an old Excel sheet",
}
# The longer ones first: UTF-32 begins as UTF-16 does.
_WIDE = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_SPECIAL = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def regular_file(path: Location, what: str) -> Status:
    """The status of what must be a file that can be read more than once.

    Raises:
        FileNotFoundError: there is nothing.
        DataError: a folder, a pipe or a device, or nothing that may be looked at; names it.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        dangling = path.is_symlink()
        reason = f"is a link to {os.readlink(str(path))}, which does not exist" if dangling else "does not exist"
        raise FileNotFoundError(f"{what} {path} {reason}") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise DataError(f"{what} {path} is unreadable: {error}") from error
    if not stat.S_ISREG(status.st_mode):
        special = _SPECIAL.get(stat.S_IFMT(status.st_mode), "something else")
        raise DataError(f"{what} {path} is {special}, not a file")
    return status


def table_format(head: bytes) -> str | None:
    """The name of a binary format whose files begin so."""
    for magic, name in _TABLES.items():
        if head.startswith(magic):
            return name
    if head.startswith(b"ORC") and any(byte < 9 for byte in head):
        return "ORC"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a pickle"
    return None


def why_no_text(head: bytes) -> str | None:
    """Why a file that begins so is no text in UTF-8 or ASCII, and what to do; None: it may be."""
    for magic, name in _PACKERS.items():
        if head.startswith(magic):
            return f"is packed by {name}: {_UNPACK}"
    if head.startswith(GZIP):
        return f"is packed by gzip twice: {_UNPACK}"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return f"is packed by zip (so are .npz and .xlsx files): {_UNPACK}"
    table = table_format(head)
    if table:
        return f"is {table}, not text: write it as comma- or tab-separated text"
    if head[257:262] == b"ustar":
        return f"is packed by tar: {_UNPACK}"
    for mark, name in _WIDE.items():
        if head.startswith(mark):
            return f"is {name}: convert it (iconv -f {name} -t UTF-8)"
    first = head[:256]
    if len(first) >= 8 and first.count(0) * 3 >= len(first):
        return "is full of zero bytes: UTF-16 or UTF-32 (convert it with iconv), or damaged"
    return None
