"""What the array does in training: gradient and movement, collision load per table, what each feature contributes."""

from torchrec_pss.watch.array_watcher import ArrayWatcher
from torchrec_pss.watch.collision_load import collision_load
from torchrec_pss.watch.permuted_feature import with_permuted_bags

__all__ = ["ArrayWatcher", "collision_load", "with_permuted_bags"]
