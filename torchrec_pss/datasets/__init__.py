from torchrec_pss.datasets.click_dataset import ClickDataset

__all__ = ["ClickDataset"]
