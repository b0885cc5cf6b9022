"""Click logs as batches: Criteo's files, and logs of your own by a schema."""

from typing import TYPE_CHECKING

from torchrec_pss.on_demand import on_demand

if TYPE_CHECKING:
    from torchrec_pss.datasets.arrow_rows import arrow_batch
    from torchrec_pss.datasets.click_dataset import ClickDataset
    from torchrec_pss.datasets.schema import Schema

__all__ = ["ClickDataset", "Schema", "arrow_batch"]

__getattr__, __dir__ = on_demand(
    __name__,
    {
        "ClickDataset": "torchrec_pss.datasets.click_dataset",
        "Schema": "torchrec_pss.datasets.schema",
        "arrow_batch": "torchrec_pss.datasets.arrow_rows",
    },
)
