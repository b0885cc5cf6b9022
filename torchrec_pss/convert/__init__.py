"""Full tables into an array, arrays into others, and into what is stored of them."""

from torchrec_pss.convert.compress import compress
from torchrec_pss.convert.fit import FitReport, TableFit, TableRows
from torchrec_pss.convert.migrate import migrate
from torchrec_pss.convert.packing import load_packed, packed
from torchrec_pss.convert.robe import from_robe
from torchrec_pss.convert.unsharded import expanded, unsharded

__all__ = [
    "FitReport",
    "TableFit",
    "TableRows",
    "compress",
    "expanded",
    "from_robe",
    "load_packed",
    "migrate",
    "packed",
    "unsharded",
]
