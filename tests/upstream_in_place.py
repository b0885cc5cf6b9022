"""What TorchRec's own tests find in place of TorchRec's classes; imported by every process of upstream_parity.py's runs.

``TORCHREC_PSS_IN_PLACE`` says which:

- ``modules``: `EmbeddingBagCollection` and `EmbeddingCollection` make ours, with a budget at which every table is exact;
  `DistributedModelParallel` and the planner know our sharders beside those that a test hands them.
- ``planner``: TorchRec's modules stay; its planner is `PSSShardingPlanner(pss="never")` and its sharder of EBCs ours.
"""

import functools
import inspect
import os
import sys
from collections.abc import Callable

from torchrec.distributed import embeddingbag, model_parallel
from torchrec.distributed.planner import planners
from torchrec.modules import embedding_modules
from torchrec.modules.embedding_configs import DataType

from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection, PSSEmbeddingCollection, PSSShardingPlanner
from torchrec_pss.distributed.mixed_embeddingbag import MixedEmbeddingBagCollectionSharder
from torchrec_pss.distributed.sharding_plan import get_default_pss_sharders

_OURS = (PSSEmbeddingBagCollection, PSSEmbeddingCollection)
_ROOM = 4096  # bytes a table, for alignment


def _config(tables: list) -> PSSConfig:
    itemsize = [4 if t.data_type == DataType.FP32 else 2 for t in tables]
    own = (t.num_embeddings * t.embedding_dim * size + _ROOM for t, size in zip(tables, itemsize, strict=True))
    return PSSConfig(array_bytes=sum(own))


class _Makes(type(PSSEmbeddingBagCollection)):
    """Classes whose calls make one of ours itself, for sharders ask for a module's very type."""

    def __call__(cls, *args, **kwargs):
        if cls not in (EmbeddingBagCollection, EmbeddingCollection):  # a class that a test derives
            return super().__call__(*args, **kwargs)
        bound = inspect.signature(cls.replaces).bind(*args, **kwargs)
        return cls.__base__(**bound.arguments, config=_config(bound.arguments["tables"]))

    def __instancecheck__(cls, instance) -> bool:
        return isinstance(instance, cls.__base__)


class EmbeddingBagCollection(PSSEmbeddingBagCollection, metaclass=_Makes):
    replaces = embedding_modules.EmbeddingBagCollection


class EmbeddingCollection(PSSEmbeddingCollection, metaclass=_Makes):
    replaces = embedding_modules.EmbeddingCollection


class NeverPlanner(PSSShardingPlanner):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, pss="never", **kwargs)


def _with_our_sharders(function: Callable) -> Callable:
    """``function``, whose argument ``sharders`` has ours beside a test's own."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        given = bound.arguments.get("sharders")
        if given is not None:
            known = {s.module_type for s in given}
            ours = [s for s in get_default_pss_sharders() if s.module_type in _OURS and s.module_type not in known]
            bound.arguments["sharders"] = [*given, *ours]
        return function(*bound.args, **bound.kwargs)

    return wrapped


def _replace(old: type, new: type) -> None:
    """Wherever TorchRec has it; what a test imports later comes from there."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "torchrec":
            for attribute, value in list(vars(module).items()):
                if value is old:
                    setattr(module, attribute, new)


def put(what: str) -> None:
    if what == "modules":
        # Where tests import from; TorchRec's own code goes on to know its own classes.
        for module in (embedding_modules, sys.modules["torchrec.modules"], sys.modules["torchrec"]):
            module.EmbeddingBagCollection, module.EmbeddingCollection = EmbeddingBagCollection, EmbeddingCollection
        for owner, method in (
            (model_parallel.DistributedModelParallel, "__init__"),
            (planners.EmbeddingShardingPlanner, "plan"),
            (planners.EmbeddingShardingPlanner, "collective_plan"),
        ):
            setattr(owner, method, _with_our_sharders(getattr(owner, method)))
    elif what == "planner":
        _replace(planners.EmbeddingShardingPlanner, NeverPlanner)
        _replace(embeddingbag.EmbeddingBagCollectionSharder, MixedEmbeddingBagCollectionSharder)
    else:
        raise ValueError(f"TORCHREC_PSS_IN_PLACE is {what!r}, not modules or planner")


put(os.environ["TORCHREC_PSS_IN_PLACE"])
