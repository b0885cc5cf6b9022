from torchrec_pss.optim.weight_average import WeightAverage

__all__ = ["WeightAverage"]
