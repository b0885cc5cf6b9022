"""`schemas`: those of ``torch.ops.torchrec_pss``, as csrc/schemas.h has them for C++."""

import re
from pathlib import Path

_HEADER = Path(__file__).with_name("csrc") / "schemas.h"
_MACRO = re.compile(r'^#define (\w+) "(.*)"$', re.MULTILINE)
_TOKEN = re.compile(r'"([^"]*)"|(\w+)|(,)')


def schemas() -> list[str]:
    """Of all operators, in the order of the header."""
    text = re.sub(r"//.*", "", _HEADER.read_text())
    macros = dict(_MACRO.findall(text))
    found: list[str] = []
    parts: list[str] = []
    for literal, name, comma in _TOKEN.findall(
        text[text.index("kSchemas[] = {") + len("kSchemas[] = {") : text.index("};")]
    ):
        if comma:
            found.append("".join(parts))
            parts = []
        else:
            parts.append(macros[name] if name else literal)
    return found
