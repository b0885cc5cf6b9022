from torchrec_pss.optim.best_pass import BestPass
from torchrec_pss.optim.weight_average import WeightAverage

__all__ = ["BestPass", "WeightAverage"]
