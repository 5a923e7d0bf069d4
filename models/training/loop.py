# SPDX-License-Identifier: Apache-2.0
"""The loop: stages, steps, turns."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from accelerate.utils import set_seed
from tqdm import tqdm

from pose_kernels.files import write_files

from ..batch import Batch, missing, to
from ..data import PairData
from ..system import System
from . import checkpoint, parallel, sheet
from .ema import Average
from .folder import Folder, Run, build, continued, features_of
from .interrupt import Interrupt
from .log import Log, Terms
from .sampling import Order, Share, loader, seed_of, spread
from .schedule import Segment, plan
from .summary import Clock, Summary, peak_memory
from .turns import NotFinite, Turns
from .weights import load_weights, trained_weights


class Stopped(RuntimeError):
    """A run that ended before its last step; the message is one line, `code` the exit status."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class Trainer:
    """One run of one system on one data set, in one of the processes.

    Construction checks everything that can be checked before the first step, and raises
    ValueError, FileNotFoundError or OSError with one line; only then it writes into the folder.
    """

    def __init__(
        self,
        run: Run,
        system: type[System],
        training: PairData,
        validation: PairData,
        *,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        settings = run.settings
        self.run, self.settings = run, settings
        self.training, self.validation = training, validation
        self.folder = Folder(settings.out)
        self.store = checkpoint.Store(self.folder.checkpoints, settings.keep)
        if resume:
            continued(self.folder.read(), run)
        elif not overwrite:
            self.folder.refuse_another()
        self.accelerator = parallel.start(settings)
        self.main = self.accelerator.is_main_process
        self.system = build(system, run.config, settings.seed)
        self._check_data()
        self.plan = plan(self.system.stages, settings.steps, settings.stage)
        self.order = Order(len(training), settings.batch, settings.seed)
        self._share(0, 0)  # raises where the batch does not divide
        self.step = 0
        self._saved = 0  # the step of the last checkpoint that this process has written
        self._restored = self._find() if resume else None
        if self._restored:
            self._restore(self._restored)
        elif settings.init:
            load_weights(self.system, checkpoint.of_run(settings.init))
        self.system.to(self.accelerator.device)
        self.average = Average(self.system, settings.ema) if settings.ema else None
        if self.average and self._restored:
            self.average.load(self._restored.files[checkpoint.EMA])
        parallel.copy_from_first(self.system.state_dict().values(), self.accelerator)
        # evaluation_mode: mixed precision and nothing else. See parallel.py on the gradients.
        self.model = self.accelerator.prepare_model(self.system, evaluation_mode=True)
        self.accelerator.wait_for_everyone()  # all have looked at the folder before it changes
        if self.main and resume:
            self.folder.describe(run)  # what has been changed on the way
        elif self.main:
            self.folder.begin(run)

    def _check_data(self) -> None:
        if lack := missing(self.training.keys, self.system.needs):
            raise ValueError(f"{self.system.name} cannot train on {self.training.name}: {lack}")
        for pairs in (self.training, self.validation):
            if len(pairs) == 0:
                raise ValueError(f"{pairs.name}: the {pairs.split} split has no pairs")

    def _share(self, start: int, stop: int) -> Share:
        place = self.accelerator
        parts = self.settings.accumulate
        return Share(self.order, start, stop, place.process_index, place.num_processes, parts)

    def _say(self, line: str) -> None:
        if self.main:
            tqdm.write(line, file=sys.stderr)

    # The run

    def train(self) -> Summary:
        """All steps that are left. Raises Stopped, and OSError with one line for a full disk."""
        total = self.plan[-1].stop
        summary = Summary(self.step)
        log = None
        if self.main:
            log = Log(self.folder.losses, self.folder.tensorboard, self.step)
        bar = tqdm(
            total=total,
            initial=self.step,
            disable=not self.main,
            mininterval=0.5 if sys.stderr.isatty() else 30,
            unit="step",
        )
        clock = Clock()
        batches = self._batches(total)
        try:
            with Interrupt() as interrupt:
                for segment in self.plan:
                    if self.step >= segment.stop:
                        continue
                    turns = self._begin(segment)
                    bar.set_description(segment.stage.name)
                    while self.step < segment.stop:
                        with clock:
                            summary.terms = self._one_step(segment, turns, batches)
                        summary.step = self.step
                        bar.update()
                        self._after_step(segment, turns, summary.terms, log)
                        if signal := self._agreed(interrupt.signal):
                            self._save(segment, turns)
                            raise Stopped(
                                f"interrupted after step {self.step}; --resume goes on from there",
                                128 + signal,
                            )
        finally:
            bar.close()
            if log:
                log.close()
        summary.processes = self.accelerator.num_processes
        summary.seconds = clock.mean
        summary.memory, summary.memory_of = peak_memory(self.accelerator.device)
        return summary

    def _batches(self, total: int) -> Iterator[list[Batch]]:
        """The parts of this process's share, step by step."""
        pin = self.accelerator.device.type == "cuda"
        share = self._share(self.step, total)
        parts: list[Batch] = []
        for batch in loader(self.training, share, self.settings.workers, pin):
            parts.append(to(batch, self.accelerator.device))
            if len(parts) == self.settings.accumulate:
                yield parts
                parts = []

    def _next(self, batches: Iterator[list[Batch]]) -> list[Batch]:
        try:
            return next(batches)
        except (OSError, ValueError) as error:  # of the data: a file that lacks or is damaged
            reason = str(error).strip().splitlines()[-1]  # of a worker, after its traceback
            raise Stopped(f"step {self.step + 1}: the data set failed: {reason}") from error

    def _begin(self, segment: Segment) -> Turns:
        """New optimizers, with the checkpoint's state when the run goes on within this stage."""
        place, clip = self.accelerator, self.settings.clip
        turns = Turns(self.system, self.model, segment.stage, place, clip)
        restored, self._restored = self._restored, None
        if restored and segment.start < restored.state["step"]:
            turns.unpack(restored)
        return turns

    def _one_step(self, segment: Segment, turns: Turns, batches: Iterator[list[Batch]]) -> Terms:
        parts = self._next(batches)
        # Random numbers are a function of the step and the process: a run that goes on needs no
        # state of a generator, and sheets and checkpoints may draw as they like.
        set_seed(seed_of(self.settings.seed, self.step, self.accelerator.process_index))
        self.system.train()
        try:
            terms = turns.step(parts)
        except NotFinite as error:
            raise self._not_finite(segment, error) from None
        if self.average:
            self.average.update(self.step - segment.start)
        parallel.copy_from_first(self.system.buffers(), self.accelerator)
        self.step += 1
        return terms

    def _after_step(self, segment: Segment, turns: Turns, terms: Terms, log: Log | None) -> None:
        settings, step = self.settings, self.step
        ends = step == segment.stop
        if log and (ends or step % settings.log_every == 0):
            log.losses(step, segment.stage.name, terms)
        if settings.sheet_every and (ends or step % settings.sheet_every == 0) and log:
            picture = self._sheet(segment)
            sheet.save(picture, self.folder.sheets / f"{checkpoint.name_of(step)}.png")
            log.sheet(step, picture)
        if ends or step % settings.save_every == 0:
            self._save(segment, turns)

    # What is said and written

    def _agreed(self, signal: int) -> int:
        """The signal that any process has had, so that all stop after the same step."""
        if self.accelerator.num_processes == 1:
            return signal
        value = torch.tensor(float(signal), device=self.accelerator.device)
        torch.distributed.all_reduce(value, torch.distributed.ReduceOp.MAX)
        return int(value)

    @torch.no_grad()
    def _sheet(self, segment: Segment) -> Any:
        indexes = spread(self.validation, self.settings.sheet_pairs)
        try:
            batch = to(sheet.collect(self.validation, indexes), self.accelerator.device)
        except (OSError, ValueError) as error:
            raise Stopped(f"the validation split failed: {error}") from error
        self.system.eval()
        with self.average.applied() if self.average else nullcontext():
            columns = self.system.pictures(batch)
        footer = (
            f"{self.run.system}, preset {self.run.preset}, stage {segment.stage.name}, step "
            f"{self.step}; {self.validation.name}, {self.validation.split} split"
            f"{'; averaged weights' if self.average else ''}"
        )
        footer += "".join(
            f"; loss features: {words}" for words in features_of(self.system).values()
        )
        return sheet.draw(columns, footer)

    def _save(self, segment: Segment, turns: Turns) -> None:
        if self._saved == self.step:
            return
        self._saved = self.step
        self.accelerator.wait_for_everyone()
        if self.main:
            files = {checkpoint.MODEL: trained_weights(self.system)}
            if self.average:
                files[checkpoint.EMA] = self.average.weights
            packed, plain = turns.pack()
            files |= packed
            scaler = self.accelerator.scaler
            state = {
                "step": self.step,
                "stage": segment.stage.name,
                "stage_start": segment.start,
                "optimizers": plain,
                "scaler": scaler.state_dict() if scaler is not None else None,
                **features_of(self.system),
                **self.run.to_json(),
            }
            self.store.write(state, files)
        self.accelerator.wait_for_everyone()

    def _find(self) -> checkpoint.Checkpoint | None:
        """The checkpoint to go on from; None when the run was stopped before its first."""
        found, warnings = self.store.newest()
        for warning in warnings:
            self._say(f"warning: {warning}")
        if found:
            self._say(f"continuing from {found.path}")
        elif warnings:
            raise ValueError(f"--resume: no checkpoint in {self.folder.checkpoints} is whole")
        else:
            self._say(f"{self.folder.path} has no checkpoint yet: starting at step 0")
        return found

    def _restore(self, found: checkpoint.Checkpoint) -> None:
        self.step = found.state["step"]
        if self.step > self.plan[-1].stop:
            raise ValueError(f"--steps {self.plan[-1].stop}: the run has {self.step} already")
        stage = (found.state["stage"], found.state["stage_start"])
        within = [s for s in self.plan if s.start < self.step <= s.stop]
        if stage not in [(s.stage.name, s.start) for s in within]:
            raise ValueError(
                "--steps cannot change on the way in a run of several stages: the ones that are "
                "done would have had another length"
            )
        before, now = found.state.get("features"), features_of(self.system).get("features")
        if before != now:
            raise ValueError(
                f"--resume: the losses were measured by {before}, here they would be by {now}"
            )
        load_weights(self.system, found)
        if self.accelerator.scaler is not None and found.state["scaler"]:
            self.accelerator.scaler.load_state_dict(found.state["scaler"])

    def _not_finite(self, segment: Segment, error: NotFinite) -> Stopped:
        step = self.step + 1
        last = self.store.names[-1:]
        good = str(self.folder.checkpoints / last[0]) if last else "none yet"
        report = self.folder.path / f"non-finite-{checkpoint.name_of(step)}.json"
        if self.main:
            keys = self.order.at(self.step)
            content = {
                "step": step,
                "stage": segment.stage.name,
                "player": error.player,
                "terms": {name: str(value) for name, value in error.terms.items()},
                "split": self.training.split,
                "epoch": keys[0][0],
                "indexes": [index for _, index in keys],
                "checkpoint": good,
            }
            write_files({report: (json.dumps(content, indent=1) + "\n").encode()})
        return Stopped(
            f"step {step}, stage {segment.stage.name}, {error}; the last good checkpoint is "
            f"{good}; the batch is described in {report}"
        )
