"""Files that are whole at every moment: written aside, then renamed."""

import json
from pathlib import Path


def write_bytes(path: Path, content: bytes) -> None:
    """Writes beside ``path``, then renames."""
    aside = path.with_name(f"{path.name}.tmp")
    aside.write_bytes(content)
    aside.replace(path)


def write_text(path: Path, content: str) -> None:
    write_bytes(path, content.encode())


def write_json(path: Path, content: object) -> None:
    write_text(path, json.dumps(content, indent=1) + "\n")
