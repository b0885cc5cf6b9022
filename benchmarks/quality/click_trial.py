"""One training of one contestant on a click log: TorchRec's DLRM or DCN, Adam, averaged weights; one pass unless said."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchmetrics.functional.classification import binary_auroc
from torchrec.models.dlrm import DLRM, DLRM_DCN
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from benchmarks.quality import rivals
from benchmarks.quality.click_data import ClickLog
from benchmarks.quality.composed import cluster
from torchrec_pss.modules.lost_share import lost_share
from torchrec_pss.optim import WeightAverage
from torchrec_pss.optim.parameter_restart import ParameterRestart
from torchrec_pss.optim.recipe import adam_learning_rates, array_eps

_EVALUATION_ROWS = 8192
_AVERAGE_EVERY = 4


@dataclass(frozen=True)
class ClickTrial:
    """What to train.

    Attributes:
        contestant: a name of `rivals.ALL`.
        compression: full tables' bytes over the budget.
        trial: which of the contestant's trials.
        model: "dlrm" or "dcn".
        seed: of everything.
        embedding_dim: D.
        batch_size: rows a step.
        points: evaluations on the test rows, evenly spread over the steps.
        passes: over the rows, the embeddings begun anew before each.
        bits: of an element, full tables apart.
    """

    contestant: str
    compression: float
    trial: int = 0
    model: str = "dlrm"
    seed: int = 0
    embedding_dim: int = 16
    batch_size: int = 64
    points: int = 1
    passes: int = 1
    bits: int = 32


def run(log: ClickLog, trial: ClickTrial) -> dict:
    """Trains; returns ``auroc_val``, ``auroc_test``, ``bytes``, ``budget``, ``curve`` (pairs of step and test AUROC) and, of the
    array, ``lost_share`` (`torchrec_pss.modules.lost_share`).

    Raises:
        ValueError: the contestant cannot be had at that budget.
        RuntimeError: the loss is not finite.
    """
    torch.manual_seed(trial.seed)
    contestant = rivals.ALL[trial.contestant]
    variant, factor = contestant.trials[trial.trial]
    tables = rivals.tables_of(log.num_embeddings, trial.embedding_dim)
    budget = int(sum(log.num_embeddings) * trial.embedding_dim * 4 / trial.compression)
    counts = {t.name: c for t, c in zip(tables, log.counts, strict=True)}
    embeddings, size = contestant.built(tables, budget, counts, variant, trial.bits)
    model, average, curve = train(log, trial, embeddings, factor)
    with average.applied(), contestant.read_in(embeddings, trial.bits):
        auroc_val = auroc(model, log, log.num_train, log.num_train + log.num_val)
    layout = getattr(embeddings, "layout", None)
    return {
        "auroc_val": auroc_val, "auroc_test": curve[-1][1], "bytes": size, "budget": budget, "curve": curve,
        "lost_share": lost_share(layout, counts) if layout is not None and trial.contestant == "pss" else None,
    }  # fmt: skip


def train(
    log: ClickLog, trial: ClickTrial, embeddings: nn.Module, factor: float = 1.0
) -> tuple[nn.Module, WeightAverage, list[tuple[int, float]]]:
    """The trial's passes, with ``factor`` on the embeddings' learning rate: the model, its averaged weights, and `run`'s curve.

    Raises:
        RuntimeError: the loss is not finite.
    """
    model = _model(trial, embeddings)
    contestant = rivals.ALL[trial.contestant]

    rate, embedding_rate = adam_learning_rates(trial.batch_size)
    own = {id(p) for p in embeddings.parameters()}
    dense = [p for p in model.parameters() if id(p) not in own]
    optimizer = torch.optim.Adam(
        [
            {"params": dense, "lr": rate},
            {
                "params": list(embeddings.parameters()),
                "lr": factor * embedding_rate,
                "eps": array_eps(trial.batch_size),
            },
        ]
    )
    average = WeightAverage(dict(model.named_parameters()), every=_AVERAGE_EVERY)
    restart = ParameterRestart(embeddings.parameters()) if trial.passes > 1 else None
    a_pass = log.num_train // trial.batch_size
    steps = trial.passes * a_pass
    evaluate_at = {round(steps * (k + 1) / trial.points) for k in range(trial.points)}
    curve = []
    for step in range(steps):
        number, first = divmod(step, a_pass)
        if number and first == 0:
            restart.restart(optimizer)
        if number == trial.passes - 1 and first == a_pass // 2:
            cluster(embeddings, trial.seed)
        rows = slice(first * trial.batch_size, (first + 1) * trial.batch_size)
        optimizer.zero_grad()
        with contestant.read_in(embeddings, trial.bits):
            logits = _logits(model, log, rows)
            loss = binary_cross_entropy_with_logits(logits, log.labels[rows])
            loss.backward()
        optimizer.step()
        average.step()
        if step + 1 in evaluate_at:
            if not torch.isfinite(loss):
                raise RuntimeError(f"the loss is {float(loss)} at step {step + 1}")
            with average.applied(), contestant.read_in(embeddings, trial.bits):
                curve.append((step + 1, auroc(model, log, log.num_train + log.num_val, len(log.labels))))
    return model, average, curve


def _model(trial: ClickTrial, embeddings: nn.Module) -> nn.Module:
    dim = trial.embedding_dim
    if trial.model == "dcn":
        return DLRM_DCN(embeddings, 13, [64, dim], [256, 128, 1], dcn_num_layers=3, dcn_low_rank_dim=64)
    return DLRM(embeddings, 13, [64, dim], [256, 128, 1])


def _logits(model: nn.Module, log: ClickLog, rows: slice) -> torch.Tensor:
    ids = log.ids[:, rows]
    keys = [f"f{i}" for i in range(len(ids))]
    lengths = torch.ones(ids.numel(), dtype=torch.int32)
    kjt = KeyedJaggedTensor(keys, ids.flatten(), lengths=lengths, stride=ids.shape[1])
    return model(log.dense[rows], kjt).squeeze(1)


@torch.no_grad()
def auroc(model: nn.Module, log: ClickLog, start: int, stop: int) -> float:
    parts = [
        _logits(model, log, slice(first, min(first + _EVALUATION_ROWS, stop)))
        for first in range(start, stop, _EVALUATION_ROWS)
    ]
    return float(binary_auroc(torch.sigmoid(torch.cat(parts).double()), log.labels[start:stop].long()))
