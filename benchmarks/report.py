"""Results as JSON."""

import json
from pathlib import Path


def write_json(path: Path, report: object) -> None:
    """Replaces ``path`` whole: written aside, then renamed."""
    aside = path.with_suffix(".tmp")
    aside.write_text(json.dumps(report, indent=2) + "\n")
    aside.replace(path)
