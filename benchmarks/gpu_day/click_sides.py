"""A DLRM on one small array, or on full tables of FBGEMM's TBE, each with the optimizer of its embeddings in backward."""

from collections.abc import Sequence

import torch
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from benchmarks.gpu_day import fbgemm
from benchmarks.gpu_day.click_rows import NAMES
from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection
from torchrec_pss.models import ClickModel, ClickModelConfig
from torchrec_pss.modules.id_counts import IdCounts
from torchrec_pss.optim.recipe import adam_learning_rates, array_eps

_ADAGRAD = 0.05, 0.03  # rates of array and tables, as examples/criteo_model.py has them
ARRAY_ADAM, ARRAY_ADAGRAD, FULL = "array, Adam", "array, Adagrad", "full tables, row-wise Adagrad"
SIDES = (ARRAY_ADAM, FULL, ARRAY_ADAGRAD)
DIFFERS = (
    "All sides have the same rows in the same order, dense layers, batch size and dense optimizer (Adam), no weight average and one pass. "
    "What differs is the embeddings' optimizer. Row-wise Adagrad is FBGEMM's whose state fits beside such tables, and has no meaning for "
    "an array, whose elements belong to many rows. So the array is trained by Adagrad an element, and by Adam, its default."
)


class Tables(EmbeddingBagCollectionInterface):
    """Full tables as TorchRec's models want a collection. They learn in backward."""

    def __init__(self, configs: list[EmbeddingBagConfig], tbe: nn.Module) -> None:
        super().__init__()
        self._configs, self._tbe = configs, tbe
        self._dims = [config.embedding_dim for config in configs]

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        values = self._tbe(features.values(), features.offsets())
        return KeyedTensor(NAMES, self._dims, values)

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        return self._configs

    def is_weighted(self) -> bool:
        return False


def table_bytes(rows: Sequence[int], dim: int) -> int:
    """Of full tables in fp32, with row-wise Adagrad's state."""
    return sum(rows) * (dim + 1) * 4


def side(
    name: str, rows: Sequence[int], shape: ClickModelConfig, array_bytes: int, ids: torch.Tensor, batch_size: int
) -> tuple[ClickModel, torch.optim.Optimizer, int]:
    """The model, the optimizer of its dense layers, and its embeddings' bytes without state.

    Args:
        name: one of `SIDES`.
        ids: integers ``[26, n]`` of training rows, by which an array's layout is chosen; on the device of the model.

    Raises:
        ImportError, OSError, RuntimeError: full tables, and FBGEMM is missing.
    """
    device, dim = ids.device, shape.dense_arch_layer_sizes[-1]
    configs = [
        EmbeddingBagConfig(num_embeddings=n, embedding_dim=dim, name=f"t{i}", feature_names=[NAMES[i]])
        for i, n in enumerate(rows)
    ]
    rate, array_rate = adam_learning_rates(batch_size)
    torch.manual_seed(0)
    if name == FULL:
        tbe = fbgemm.tables(list(rows), dim, device.type, "EXACT_ROWWISE_ADAGRAD", _ADAGRAD[1])
        for weight, n in zip(tbe.split_embedding_weights(), rows, strict=True):
            weight.data.uniform_(-(n**-0.5), n**-0.5)  # as TorchRec's
        ebc, size = Tables(configs, tbe), sum(rows) * dim * 4
    else:
        counted = ids.cpu().long().numpy()
        counts = {c.name: IdCounts.of(own) for c, own in zip(configs, counted, strict=True)}
        ebc = PSSEmbeddingBagCollection(
            configs, device=device, config=PSSConfig(array_bytes=array_bytes, counts=counts)
        )
        size = ebc.layout.embedding_bytes
    model = ClickModel(shape.dlrm(ebc, device)).to(device)
    inside = {id(p) for p in ebc.parameters()}
    dense = [p for p in model.parameters() if id(p) not in inside]
    groups = [{"params": dense, "lr": rate}]
    if name != FULL:
        _step_array(name, ebc, array_rate, array_eps(batch_size))
        groups.append({"params": [p for p in ebc.parameters() if p is not ebc.array], "lr": array_rate})
    return model, torch.optim.Adam([g for g in groups if g["params"]]), size


def _step_array(name: str, ebc: PSSEmbeddingBagCollection, rate: float, eps: float) -> None:
    if name == ARRAY_ADAM:
        ebc.step_in_backward(torch.optim.Adam([ebc.array], lr=rate, eps=eps))
    else:
        ebc.step_in_backward(torch.optim.Adagrad([ebc.array], lr=_ADAGRAD[0]))
