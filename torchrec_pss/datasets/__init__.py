"""Click logs as batches: Criteo's files, and logs of your own by a schema."""

from torchrec_pss.datasets.arrow_rows import arrow_batch
from torchrec_pss.datasets.click_dataset import ClickDataset
from torchrec_pss.datasets.schema import Schema

__all__ = ["ClickDataset", "Schema", "arrow_batch"]
