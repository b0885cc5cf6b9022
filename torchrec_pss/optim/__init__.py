from torchrec_pss.optim import rowwise_adagrad as rowwise_adagrad  # TorchRec's takes an array once this is imported
from torchrec_pss.optim.best_pass import BestPass
from torchrec_pss.optim.weight_average import WeightAverage

__all__ = ["BestPass", "WeightAverage"]
