from torchrec_pss.convert.compress import compress
from torchrec_pss.convert.fit import FitReport, TableFit, TableRows
from torchrec_pss.convert.migrate import migrate

__all__ = ["FitReport", "TableFit", "TableRows", "compress", "migrate"]
