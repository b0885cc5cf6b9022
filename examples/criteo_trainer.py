"""train_criteo.py's loop: segments of training steps, each followed by validation and a checkpoint."""

import argparse
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path

import criteo_checkpoint
import criteo_model
import threads
import torch
import torch.distributed as dist
from click_data import ClickData
from criteo_evaluation import Evaluator
from full_tables import JointAverage, TableAverage, TableRestart, lazy_adam
from graphed_pipeline import GraphedPipeline
from loss_window import LossWindow
from process_group import LostPeerError, cpu_group, has_lost_a_peer
from scalar_log import ScalarLog
from stopwatch import Stopwatch
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.optim.optimizers import in_backward_optimizer_filter
from tqdm import tqdm

from torchrec_pss.datasets.bad_rows import BadRows
from torchrec_pss.datasets.rows import join_blocks
from torchrec_pss.datasets.schema import CRITEO_SCHEMA
from torchrec_pss.distributed import NotFiniteError, require_finite
from torchrec_pss.distributed.finite_check import first_not_finite
from torchrec_pss.distributed.replica_check import check_replicas
from torchrec_pss.distributed.together import on_first_rank, together
from torchrec_pss.export import saved_model
from torchrec_pss.modules.array_restart import ArrayRestart
from torchrec_pss.optim import BestPass, WeightAverage
from torchrec_pss.optim.best_pass import has_lost
from torchrec_pss.optim.passes import Passes, automatic_passes, last_gain, more_would_pay
from torchrec_pss.optim.recipe import default_batch_size
from torchrec_pss.watch import ArrayWatcher, collision_load

logger: logging.Logger = logging.getLogger(__name__)

_AVERAGE_EVERY = 4  # steps
_NEVER = torch.iinfo(torch.int64).max  # a step
_SERVED_ROWS = 1 << 14  # test rows kept with the model, for `torchrec_pss.export` to compare by

# Flags that may differ between a run and its resumption.
_FREE_FLAGS = {"schema", "batch_size", "resume", "auto_resume", "output_dir", "cache_dir", "epochs", "target_auroc", "log_freq", "checkpoint_freq", "script",
               "tensorboard", "print_sharding_plan", "pin_memory", "limit_val_batches", "limit_test_batches",
               "validation_freq_within_epoch", "test_batch_size", "max_bad_rows",
               "check_replicas", "watch", "ablation", "compile", "cuda_graph", "collective_timeout_s"}  # fmt: skip


class Trainer:
    """The loop: segments of training steps, each followed by validation and a checkpoint."""

    def __init__(
        self, args: argparse.Namespace, folder: Path, device: torch.device, data: ClickData, stopwatch: Stopwatch
    ) -> None:
        self.args, self.folder, self.device, self.data = args, folder, device, data
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        if args.pin_memory is None:
            args.pin_memory = device.type == "cuda"
        if args.pin_memory and device.type != "cuda":
            raise ValueError("--pin_memory needs a GPU, and there is none")
        if args.cuda_graph:
            self._require_capturable()
        args.batch_size = args.batch_size or default_batch_size(len(self.data.splits.train), self.world_size)
        # Tables that learn in backward go on from epoch to epoch, and are not averaged.
        in_backward = args.recipe == "torchrec_dlrm" or args.planner_pss is not None
        self.passes = self._passes(in_backward)
        args.epochs, begins_anew = self.passes.most, not self.passes.keeps
        if not in_backward:  # whose tables know no such flag
            args.keep_array = self.passes.keeps
        args.learning_rate, args.embedding_learning_rate = criteo_model.learning_rates(args, self.world_size)
        torch.manual_seed(args.seed)
        model = criteo_model.build(args, self.data, device)
        threads.choose(args.batch_size * criteo_model.multiply_adds(model))
        self.full_bytes = criteo_model.full_embedding_bytes(args, self.data.num_embeddings)
        self.model, self.optimizer = criteo_model.shard(args, model, self.data, device)
        tables = lazy_adam(self.optimizer)
        self.restart = None
        if begins_anew and args.epochs > 1:
            self.restart = ArrayRestart(self.model) if tables is None else TableRestart(tables)
        self.bytes = criteo_model.embedding_bytes(args, self.data, self.model)
        array = criteo_model.shared_array(self.model)
        self.layout = None if array is None else array.layout.fingerprint()
        # Validation AUROC after a pass, by the layouts that were tried.
        self.layout_trials: dict[str, float] | None = None
        self.load = None if array is None else collision_load(array.layout, criteo_model.counts_by_table(self.data))
        if self.load is not None and data.numbering is not None:
            for name, unresolved in data.unresolved().items():
                self.load[f"t_{name}"]["unresolved"] = unresolved
        self.watcher = ArrayWatcher(array) if array is not None and args.watch and self.rank == 0 else None
        self.average = None
        if args.average_power:
            averaged = dict(in_backward_optimizer_filter(self.model.named_parameters()))
            how = args.average_power, _AVERAGE_EVERY
            if tables is None:
                self.average = WeightAverage(averaged, *how)
            else:
                tables.average = TableAverage(tables.tables, *how)
                self.average = JointAverage(averaged, tables.average, *how)
        self.best = None if self.average is None or in_backward or args.epochs == 1 else BestPass(self.average)
        self.base_rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self._rate_factor: float | None = None
        if args.cuda_graph:
            self.pipeline = GraphedPipeline(self.model, self.optimizer, device)
        else:
            self.pipeline = TrainPipelineSparseDist(self.model, self.optimizer, device, execute_all_batches=True)
        self.evaluator = Evaluator(args, self.data, self.model, self.pipeline, self.average)
        self.steps_per_epoch = self.data.steps(self.data.splits.train, args.batch_size, args.limit_train_batches)
        self.step, self.train_seconds, self.rows, self.history = 0, 0.0, 0, []
        self.waits = 0.0, 0.0  # seconds for data, of seconds of training since this start
        # The checkpoint's position in the data is a number of global batches.
        self.config = {"batch_size x processes": args.batch_size * self.world_size}
        self.config |= {k: v for k, v in vars(args).items() if k not in _FREE_FLAGS}
        self.scalars: ScalarLog | None = None  # from `run` on
        self.stopwatch, self._stepped = stopwatch, False
        self.stopwatch.lap("model and plan ready")

    def _require_capturable(self) -> None:
        if self.device.type != "cuda":
            raise ValueError("--cuda_graph needs a GPU, and there is none")
        if self.world_size > 1:
            raise ValueError(
                f"--cuda_graph is of one process, and there are {self.world_size}: their exchange of gradients is not captured"
            )
        if self.data.schema.bags:
            raise ValueError(
                f"--cuda_graph: feature {self.data.schema.bags[0].name!r} has bags, whose ids differ in number from batch to batch, and a "
                "graph's shapes are fixed"
            )

    def _passes(self, in_backward: bool) -> Passes:
        """Those of the flags, or automatic ones."""
        args, data = self.args, self.data
        if in_backward:
            return Passes(args.epochs or 1, keeps=True, stops_early=False)
        crosses = args.interaction_type == "dcn"
        found = automatic_passes(len(data.splits.train), data.num_embeddings, crosses, args.keep_array)
        return replace(found, most=args.epochs, stops_early=False) if args.epochs else found

    def first_pass(self) -> float:
        """Trains for a pass, without a checkpoint; its validation AUROC. `run` goes on from there.

        Raises:
            LostPeerError, NotFiniteError: as `run`.
        """
        with self._explained():
            bar = tqdm(total=self.steps_per_epoch, desc=f"layout {self.args.layout}", unit="step", disable=self.rank > 0, mininterval=5)  # fmt: skip
            with bar:
                while self.step < self.steps_per_epoch:
                    self._segment(self.steps_per_epoch, bar)
            return self._pass_ends()[0]

    def run(self) -> dict:
        """Trains to the end; what `results.json` says.

        Raises:
            LostPeerError: another process has died.
            NotFiniteError: on every rank; a loss, weight, state of an optimizer or metric is NaN or infinite. Nothing of it is kept.
        """
        with self._explained():
            return self._run()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Errors say where the run was."""
        try:
            yield
        except NotFiniteError as error:
            kept = self.folder / "checkpoint"
            raise NotFiniteError(
                f"{error}; seen at step {self.step}; {kept} is of the last validation before it, if there was one"
            ) from error
        except RuntimeError as error:
            if not has_lost_a_peer(error):
                raise
            raise LostPeerError(
                f"another process has died, or has not answered for {self.args.collective_timeout_s:g} s "
                f"(--collective_timeout_s), at step {self.step}"
            ) from error

    def _open_scalars(self) -> None:
        if not self.args.tensorboard or self.rank > 0:
            return
        self.scalars = ScalarLog(self.folder / "tensorboard")
        for name, load in (self.load or {}).items():
            self.scalars.add(f"unresolved/{name}", load["unresolved"], 0)
        for point in self.history if self._is_after_trial() else ():
            for name in point.keys() - {"step"}:
                self.scalars.add(name, point[name], point["step"])

    def _run(self) -> dict:
        args = self.args
        self._open_scalars()
        total = args.epochs * self.steps_per_epoch
        logger.info(
            "%s: %s bytes of embeddings instead of %s (%.1fx; full tables: %s), %d steps of %d x %d rows",
            args.embedding, f"{self.bytes:,}", f"{self.full_bytes:,}", self.full_bytes / self.bytes, self.data.counted,
            total, self.world_size, args.batch_size,
        )  # fmt: skip
        reached = False
        if self._is_after_trial():
            reached = args.target_auroc is not None and self._pass_ends()[-1] >= args.target_auroc
            self._save()
        with tqdm(
            total=total, initial=self.step, desc="training", unit="step", disable=self.rank > 0, mininterval=5
        ) as bar:
            while self.step < total and not reached and self._goes_on():
                auroc = self._segment(total, bar)
                reached = args.target_auroc is not None and auroc >= args.target_auroc
                self._save()
        if args.cuda_graph:
            logger.info("%d steps replayed from a CUDA graph, %d without", self.pipeline.replayed, self.pipeline.eager)
        ends = self._pass_ends()
        if reached:
            logger.info("target AUROC %.5f reached at step %d", args.target_auroc, self.step)
        elif more_would_pay(ends):
            logger.info(
                "pass %d gained %.4f of validation AUROC: more passes may pay, --epochs %d",
                len(ends),
                last_gain(ends),
                2 * len(ends),
            )
        return self._results(reached)

    def _segment(self, total: int, bar: tqdm) -> float:
        """Trains up to the next validation; its AUROC."""
        self._train(min(self._segment_end(), total), bar)
        require_finite(self._state())
        metrics = self.evaluator.evaluate(self.data.splits.val, self.args.limit_val_batches)
        self._record(auroc_val=metrics["auroc"], ne_val=metrics["ne"])
        logger.info("step %d: validation AUROC %.5f, NE %.5f", self.step, metrics["auroc"], metrics["ne"])
        self._end_of_pass()
        return metrics["auroc"]

    def _is_after_trial(self) -> bool:
        """Whether the first pass, and no more, was a trial of the layout."""
        return bool(self.layout_trials) and self.step == self.steps_per_epoch

    def _goes_on(self) -> bool:
        """Whether, where a pass has ended, there is another."""
        ends = self._pass_ends()
        if self.step % self.steps_per_epoch or not ends or self.passes.go_on(ends):
            return True
        if len(ends) < self.passes.most:
            logger.info(
                "pass %d gained %.5f of validation AUROC: training ends after %d of at most %d passes (--epochs says how many)",
                len(ends), last_gain(ends), len(ends), self.passes.most,
            )  # fmt: skip
        return False

    def _pass_ends(self) -> list[float]:
        """Validation AUROC at the end of each pass so far."""
        return [h["auroc_val"] for h in self.history if "auroc_val" in h and h["step"] % self.steps_per_epoch == 0]

    def _end_of_pass(self) -> None:
        """Where a pass ends here: its weights are taken, unless it has lost."""
        ends = self._pass_ends()
        if self.step % self.steps_per_epoch or not ends:
            return
        if self.best is not None:
            self.best.end_pass(ends)
            better = self.best.number
            advice = f"the earlier one's weights are taken; --epochs {better} would have been enough"
        else:
            better = ends.index(max(ends)) + 1 if has_lost(ends) else len(ends)
            advice = f"--epochs {better} gives the earlier one"
        if better < len(ends):
            logger.warning(
                "pass %d ended at validation AUROC %.5f, pass %d at %.5f: this model does not bear so many passes over "
                "these rows; %s", len(ends), ends[-1], better, ends[better - 1], advice,
            )  # fmt: skip

    def _segment_end(self) -> int:
        """The step before which training does not stop: the next validation, checkpoint or end of an epoch."""
        epoch_end = (self.step // self.steps_per_epoch + 1) * self.steps_per_epoch
        every = [f for f in (self.args.validation_freq_within_epoch, self.args.checkpoint_freq) if f]
        return min([epoch_end, *((self.step // f + 1) * f for f in every)])

    def _train(self, stop: int, bar: tqdm) -> None:
        """Trains up to step ``stop``, inside one epoch."""
        epoch, first = divmod(self.step, self.steps_per_epoch)
        if self.restart is not None and epoch and first == 0:
            self.restart.restart(self.optimizer)
        iterator = self.data.batches(
            self.data.splits.train,
            self.args.batch_size,
            first,
            stop - epoch * self.steps_per_epoch,  # and none beyond, that would be read again
            self.args.seed + epoch if self.args.shuffle_batches else None,
            self.args.pin_memory,
        )
        self.model.train()
        losses = LossWindow(
            min(self.args.log_freq, max(stop - self.step, 1)), self.device
        )  # looked at when a line is logged
        started = time.perf_counter()
        waited = waited_logged = self.data.waited
        logged, logged_at = self.step, started
        while self.step < stop:
            self._set_learning_rate()
            loss, _, labels = self.pipeline.progress(iterator)
            if self.average is not None:
                self.average.step()
            losses.add(loss)
            self.step += 1
            if not self._stepped:
                self._first_step_done()
            self.rows += len(labels)
            bar.update()
            if self.watcher is not None and self.step % self.args.watch == 0:
                measured = self.watcher.measure()
                if all(map(math.isfinite, measured.values())):
                    self._record(**measured)
                else:
                    losses.mark_not_finite()
            if self.args.check_replicas and self.step % self.args.check_replicas == 0:
                check_replicas(in_backward_optimizer_filter(self.model.named_parameters()))
            if self.step % self.args.log_freq == 0 or self.step == stop:
                self.data.raise_error()
                loss_mean, bad = losses.close()
                self._stop_if_diverged(None if bad is None else logged + bad)
                now = time.perf_counter()
                speed = (self.step - logged) * self.args.batch_size * self.world_size / (now - logged_at)
                waiting = (self.data.waited - waited_logged) / (now - logged_at)
                left = (bar.total - self.step) * (now - logged_at) / (self.step - logged)
                self._record(loss=loss_mean)
                logger.info(
                    "step %d/%d epoch %d loss %.5f %.0f samples/s ETA %s, waited %.0f %% for data",
                    self.step, bar.total, epoch + 1, loss_mean, speed, timedelta(seconds=round(left)), 100 * waiting,
                )  # fmt: skip
                logged, logged_at, waited_logged = self.step, now, self.data.waited
        # The pipeline must see the end of this iterator before it is given another.
        assert next(iterator, None) is None
        taken = time.perf_counter() - started
        self.train_seconds += taken
        self.waits = self.waits[0] + self.data.waited - waited, self.waits[1] + taken

    def _first_step_done(self) -> None:
        """Waits for it, to say how long it took."""
        self._stepped = True
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.stopwatch.lap(
            "first step" if self.device.type == "cpu" else "first step, with the kernels that it compiles"
        )

    def _stop_if_diverged(self, at: int | None) -> None:
        """All ranks, if one of them has, at that step, however finite its own rows' loss is."""
        first = torch.tensor(_NEVER if at is None else at, device=self.device)
        dist.all_reduce(first, dist.ReduceOp.MIN)
        if first <= self.step:
            what = "the loss" if not self.args.watch else "the loss, or a norm of the array,"
            state = self._state()
            found = together(lambda: first_not_finite(state))
            named = next((f"; {name} on rank {rank}" for rank, name in enumerate(found) if name), "")
            raise NotFiniteError(f"{what} is not finite at step {int(first)}{named}")

    def _set_learning_rate(self) -> None:
        """torchrec_dlrm's policy: linear warm-up, constant, then quadratic decay to zero."""
        args, factor = self.args, 1.0
        if self.step < args.lr_warmup_steps:
            factor = (self.step + 1) / args.lr_warmup_steps
        elif args.lr_decay_start is not None and self.step >= args.lr_decay_start:
            left = max(0.0, 1 - (self.step - args.lr_decay_start) / args.lr_decay_steps)
            factor = left * left
        for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            if not isinstance(group["lr"], torch.Tensor):
                group["lr"] = rate * factor
            elif factor != self._rate_factor:  # read by the graph
                group["lr"].fill_(rate * factor)
        self._rate_factor = factor

    def _results(self, reached: bool) -> dict:
        validated = [h["auroc_val"] for h in self.history if "auroc_val" in h]
        auroc_val, of_pass = validated[-1] if validated else None, None
        if self.best is not None and not reached:
            self.best.restore()
            of_pass = self.best.number
            auroc_val = self._pass_ends()[of_pass - 1]
        held_out = self.evaluator.final()
        if self.scalars is not None:
            for name, value in (held_out["ablation"] or {}).items():
                self.scalars.add(f"ablation/{name}", value, self.step)
            self.scalars.close()
        bad = torch.tensor(float(getattr(self.data.source, "num_bad_rows", 0)))
        rows = torch.tensor(float(self.rows))
        for count in (bad, rows):
            dist.all_reduce(count, group=cpu_group())
        return {
            **held_out,
            "auroc_val": auroc_val,
            "auroc_val_best": max(validated, default=None),
            "passes": self.step / self.steps_per_epoch,
            "of_pass": of_pass,
            "steps": self.step,
            "target_reached": reached,
            "samples_per_second": float(rows) / self.train_seconds if self.train_seconds else None,
            "train_seconds": self.train_seconds,
            "data_wait_share": self.waits[0] / self.waits[1] if self.waits[1] else None,
            "embedding": self.args.embedding,
            "schema": None if self.data.schema is CRITEO_SCHEMA else self.data.schema.as_json(),
            "layout": self.layout,
            "layout_trials": self.layout_trials,
            "collision_load": self.load,
            "embedding_bytes": self.bytes,
            "full_embedding_bytes": self.full_bytes,
            "full_rows_counted": self.data.counted,
            "compression": self.full_bytes / self.bytes,
            "world_size": self.world_size,
            "device": self.device.type,
            "bad_rows_read": int(bad) if isinstance(self.data.source, BadRows) else None,
            "history": self.history,
            "config": vars(self.args),
        }

    def save_model(self, results: dict) -> None:
        """What `torchrec_pss.export` needs, of a shared array of all tables: the weights that ``results`` are of, the model, and test rows.
        Collective."""
        args, data, array = self.args, self.data, criteo_model.shared_array(self.model)
        if args.embedding != "pss" or args.planner_pss or array is None:
            return
        with self.average.applied() if self.average is not None else nullcontext():
            weights = {name: tensor.detach().cpu().clone() for name, tensor in self.model.state_dict().items()}
        limit = -(-_SERVED_ROWS // (args.test_batch_size * self.world_size))
        limit = min(limit, args.limit_test_batches or limit)
        held_out = join_blocks(list(data.blocks(data.splits.test, args.test_batch_size, limit=limit)))
        data.raise_error()
        said = {name: results[name] for name in ("auroc_test", "ne_test", "steps", "compression", "embedding_bytes")}
        config = asdict(criteo_model.model_config(args, data))
        on_first_rank(
            lambda: saved_model.save(
                self.folder,
                "click",
                config,
                array,
                weights,
                held_out,
                said,
                data.numbering,
                data.schema,
                data.texts,
                data.separators,
            )
        )

    def _record(self, **values: float) -> None:
        self.history.append({"step": self.step, **values})
        if self.scalars is not None:
            for name, value in values.items():
                self.scalars.add(name, value, self.step)

    def _state(self) -> dict[str, dict]:
        return criteo_checkpoint.state(self.model, self.optimizer, self.average, self.best)

    def _save(self) -> None:
        progress = {
            "step": self.step, "train_seconds": self.train_seconds, "rows": self.rows, "history": self.history,
            "layout": self.layout, "layout_trials": self.layout_trials, "config": self.config, "data": self.data.signature, "best_pass": self.best.number if self.best is not None else None,
        }  # fmt: skip
        if self.scalars is not None:
            self.scalars.flush()
        criteo_checkpoint.save(self.folder / "checkpoint", self._state(), progress)

    def resume(self, progress: dict) -> None:
        """Goes on from a checkpoint. Raises ValueError where it is damaged, or of another run."""
        criteo_checkpoint.check_same_run(progress, self.config, self.layout)
        self.data.check_same(progress.get("data"))
        last = self.args.epochs * self.steps_per_epoch
        if progress["step"] > last:
            raise ValueError(
                f"--resume: {progress['folder']}: it is of step {progress['step']}, but --epochs {self.args.epochs} ends at {last}"
            )
        self.step, self.history = progress["step"], progress["history"]
        self.train_seconds, self.rows = progress["train_seconds"], progress["rows"]
        self.layout_trials = progress.get("layout_trials")
        # A run of one pass, or of an earlier version, kept none.
        number, passes = progress.get("best_pass"), len(self._pass_ends())
        kept = number is not None
        says = f"--resume: {criteo_checkpoint.progress_file(progress)}: best_pass is {number}"
        if kept and number > passes:  # before a checkpoint that has none is said to lack its values
            raise ValueError(f"{says}; passes that have ended by its history: {passes}")
        best = self.best if kept else None
        criteo_checkpoint.load(progress["folder"], self.model, self.optimizer, self.average, best)
        if best is not None and best.number != number:
            raise ValueError(f"{says}, and the pass whose weights are kept is {best.number}")
        if not kept:
            self._end_of_pass()
        logger.info("resumed at step %d", self.step)
