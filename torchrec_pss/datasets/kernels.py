"""What readers call of the C++ library, by ctypes: Python's lock is free meanwhile, and other threads go on."""

import ctypes
from collections.abc import Callable
from functools import cache

from torchrec_pss.ops.library import LIBRARY

_POINTER, _NUMBER = ctypes.c_void_p, ctypes.c_int64
_SPLIT = [ctypes.c_char_p, _POINTER, _NUMBER, ctypes.c_char, *[_POINTER] * 3]
_ARGUMENTS = {
    "token_ids": [_POINTER, _POINTER, _NUMBER, _POINTER],
    "parse_rows": [ctypes.c_char_p, _NUMBER, _POINTER, _NUMBER, ctypes.c_char, _POINTER, _NUMBER, _NUMBER, *[_POINTER] * 5],
    "split_ids": _SPLIT,
    "split_numbers": _SPLIT,
    "read_columns": [_POINTER, _NUMBER, _NUMBER, _NUMBER],
}  # fmt: skip


@cache
def kernel(name: str) -> Callable[..., int]:
    """See csrc/text_rows.cpp and csrc/prepared_rows.cpp."""
    found = getattr(ctypes.CDLL(str(LIBRARY)), f"torchrec_pss_{name}")
    found.argtypes, found.restype = _ARGUMENTS[name], _NUMBER
    return found
