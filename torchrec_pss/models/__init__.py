"""The models of the training scripts."""

from torchrec_pss.models.click_model import ClickModel, ClickModelConfig
from torchrec_pss.models.two_tower import TwoTower

__all__ = ["ClickModel", "ClickModelConfig", "TwoTower"]
