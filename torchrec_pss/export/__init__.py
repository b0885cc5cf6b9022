"""A trained model as one file, and that file as something to call."""

from torchrec_pss.export.archive import DamagedFileError, Served
from torchrec_pss.export.exporting import export

__all__ = ["DamagedFileError", "Served", "export"]
