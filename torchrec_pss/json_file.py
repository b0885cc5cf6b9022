"""JSON files that are whole at every moment."""

import json
from pathlib import Path


def write_json(path: Path, content: object) -> None:
    """Writes beside ``path``, then renames."""
    aside = path.with_name(f"{path.name}.tmp")
    aside.write_text(json.dumps(content, indent=1) + "\n")
    aside.replace(path)
