"""train_criteo.py's evaluations: AUROC and NE, what each feature is worth, and the best possible AUROC of generated rows."""

import argparse
from collections import deque
from collections.abc import Iterator
from contextlib import nullcontext

import torch
import torch.distributed as dist
from click_data import ClickData
from click_metrics import ClickMetrics
from torch import nn
from torchrec.datasets.utils import Batch
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from tqdm import tqdm

from torchrec_pss.datasets.rows import rank_windows
from torchrec_pss.datasets.synthetic import ClickLogGenerator
from torchrec_pss.optim import WeightAverage
from torchrec_pss.watch import with_permuted_bags

_TAKEN_AT_ONCE = 64  # batches


class Evaluator:
    """Of a sharded model, or of the average of its weights where there is one. All methods are collective."""

    def __init__(
        self,
        args: argparse.Namespace,
        data: ClickData,
        model: nn.Module,
        pipeline: TrainPipelineSparseDist,
        average: WeightAverage | None,
    ) -> None:
        self.args, self.data, self.model, self.pipeline, self.average = args, data, model, pipeline, average

    def final(self) -> dict:
        """What `results.json` says of the held-out rows: the metrics of the test rows, AUROC of them and the validation rows, the best
        possible one, and the ablation's."""
        rows, limit = self.data.splits.test, self.args.limit_test_batches
        test = self.evaluate(rows, limit, by_row=True)
        held_out = self.evaluate(range(self.data.splits.val.start, rows.stop), limit)
        return {
            "auroc_test": test["auroc"],
            "auroc_test_half_interval": test["auroc_half_interval"],
            "ne_test": test["ne"],
            "logloss_test": test["logloss"],
            "calibration_test": test["calibration"],
            "grouped_by": self.data.schema.group,
            "grouped_auroc_test": test.get("grouped_auroc"),
            "grouped_groups": test.get("grouped_groups"),
            "grouped_rows_share": test.get("grouped_rows_share"),
            "auroc_held_out": held_out["auroc"],
            **self._bayes(rows, limit),
            "ablation": self._ablation(test["auroc"]),
        }

    @torch.no_grad()
    def evaluate(
        self, rows: range, limit: int | None, permuted: str | None = None, by_row: bool = False
    ) -> dict[str, float | int | None]:
        """`ClickMetrics` of the model (of the average of its weights) over ``rows``, with the bags of the feature ``permuted`` handed
        to other rows of each batch. ``by_row``: those of `RowScores` too, by the schema's group."""
        self.model.eval()
        metrics = ClickMetrics(by_row)
        # The pipeline is some batches ahead of the logits that it returns: groups wait here for theirs.
        groups: deque | None = deque() if by_row and self.data.schema.group is not None else None
        batches = self.data.batches(
            rows, self.args.test_batch_size, limit=limit, pin_memory=self.args.pin_memory, groups=groups
        )
        if permuted is not None:
            batches = _permuted(batches, permuted, torch.Generator().manual_seed(self.args.seed))
        with self.average.applied() if self.average is not None else nullcontext():
            waiting: list[tuple[torch.Tensor, torch.Tensor]] = []
            steps = self.data.steps(rows, self.args.test_batch_size, limit)
            for step in range(steps):
                _, logits, labels = self.pipeline.progress(batches)
                waiting.append((logits, labels))
                if len(waiting) == _TAKEN_AT_ONCE or step + 1 == steps:
                    for logits, labels in _on_the_host(waiting):
                        metrics.update(logits, labels, None if groups is None else groups.popleft())
                    waiting.clear()
        self.data.raise_error()
        return metrics.compute()

    def _ablation(self, auroc: float) -> dict[str, float] | None:
        """By table, the test AUROC that is lost where its feature says nothing."""
        if not self.args.ablation:
            return None
        features = tqdm(self.data.names, desc="ablation", unit="feature", disable=dist.get_rank() > 0)
        rows, limit = self.data.splits.test, self.args.limit_test_batches
        return {f"t_{name}": auroc - self.evaluate(rows, limit, permuted=name)["auroc"] for name in features}

    def _bayes(self, rows: range, limit: int | None) -> dict[str, float | None]:
        """AUROC of the true probability over the same rows, and of its dense part; None for real data."""
        if not isinstance(self.data.source, ClickLogGenerator):
            return {"auroc_bayes": None, "auroc_dense_only": None}
        bayes, dense_only = ClickMetrics(), ClickMetrics()
        rows = self.data.limited(rows, self.args.test_batch_size, limit)
        windows = rank_windows(rows, self.args.test_batch_size, dist.get_rank(), dist.get_world_size())
        for _, _, labels, logits in self.data.source.read_rows(windows):
            bayes.update(torch.from_numpy(logits[:, 0]), torch.from_numpy(labels))
            dense_only.update(torch.from_numpy(logits[:, 1]), torch.from_numpy(labels))
        return {"auroc_bayes": bayes.compute()["auroc"], "auroc_dense_only": dense_only.compute()["auroc"]}


def _on_the_host(waiting: list[tuple[torch.Tensor, torch.Tensor]]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The pairs on the CPU; a GPU is waited for once, not once a batch."""
    lengths = [len(labels) for _, labels in waiting]
    logits, labels = (torch.cat(parts).cpu().split(lengths) for parts in zip(*waiting, strict=True))
    return zip(logits, labels, strict=True)


def _permuted(batches: Iterator[Batch], feature: str, generator: torch.Generator) -> Iterator[Batch]:
    for batch in batches:
        features = with_permuted_bags(batch.sparse_features, feature, generator)
        yield Batch(batch.dense_features, features, batch.labels)
