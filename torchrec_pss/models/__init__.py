from torchrec_pss.models.click_model import ClickModel, ClickModelConfig

__all__ = ["ClickModel", "ClickModelConfig"]
