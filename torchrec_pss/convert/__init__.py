from torchrec_pss.convert.compress import compress
from torchrec_pss.convert.fit import FitReport, TableFit, TableRows
from torchrec_pss.convert.migrate import migrate
from torchrec_pss.convert.robe import from_robe

__all__ = ["FitReport", "TableFit", "TableRows", "compress", "from_robe", "migrate"]
