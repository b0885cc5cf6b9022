"""What training an array takes beside an optimizer of `torch.optim`: an average of the weights, and the best of several passes."""

from torchrec_pss.optim.best_pass import BestPass
from torchrec_pss.optim.weight_average import WeightAverage

__all__ = ["BestPass", "WeightAverage"]
