"""`cnn train`: trains what a config describes, on whatever devices there are.

    cnn train --config=configs/classification/digits_resnet.py --workdir=runs/digits

The same command takes an interrupted run up again. SIGTERM and SIGINT save and exit with code 75.
"""

import sys
from collections.abc import Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from cnn import distributed, flags
from cnn.data.pipeline import iterate
from cnn.diagnose import diagnose
from cnn.errors import UserError
from cnn.evaluate import Evaluator, scalars_text
from cnn.finetune import load_into
from cnn.mesh import lockstep
from cnn.plan import Evaluation, Plan, make_plan
from cnn.process import prepare
from cnn.recalibrate import recalibrated
from cnn.result import finish, leave, score_text, timing_text
from cnn.run.checkpoint import Checkpoints
from cnn.run.workdir import Workdir
from cnn.run.writers import Progress, Writer
from cnn.state import TrainState
from cnn.stopping import EXIT_INTERRUPTED, Best, Deadline, Interrupts
from cnn.timing import Clock, Profiler

AHEAD = 2  # steps in flight: the host prepares the next ones and never waits for a value


def train(config: ConfigDict, workdir: str) -> int:
    """Runs a config to its end, or to the next interruption; returns the process's exit code.

    Raises:
      UserError: whatever is wrong with the config, the data, the workdir or a checkpoint.
    """
    prepare(config)
    clock, folder = Clock(), Workdir(workdir, distributed.is_main())
    with folder.lock():
        plan = make_plan(config)
        folder.adopt(config)
        checkpoints = Checkpoints(
            folder.checkpoints,
            keep_last=config.checkpoint.keep_last,
            keep_best=config.checkpoint.keep_best,
            mode=config.eval.mode,
        )
        run = Run(plan, folder, checkpoints, clock)
        try:
            with Interrupts(sigterm=not distributed.several()) as interrupts:
                reason = run.loop(interrupts) or run.settle(interrupts)
            if reason:
                distributed.say(f"{reason}: saved step {run.step} of {plan.total}; the same command goes on")
                return EXIT_INTERRUPTED
            run.finish()
        finally:
            run.close()
    return 0


def start(plan: Plan, checkpoints: Checkpoints) -> tuple[TrainState, Best]:
    """Resumes; else fine-tunes; else begins afresh."""
    config = plan.config
    restored = checkpoints.restore(plan.abstract)
    if restored:
        state, meta = restored
        if not plan.dataset.matches(meta["data"]):
            raise UserError(
                f"the data '{config.input.dataset}' changed since step {int(state.step)} was saved; put them "
                f"back, or start in another --workdir with --config.init_from={checkpoints.directory}"
            )
        checkpoints.set_aside_after(int(state.step))
        distributed.say(f"resume at step {int(state.step)} of {plan.total}")
        return state, Best.from_json(config.eval.mode, meta["loop"])
    state = plan.new_state()
    if config.init_from:
        fresh = {"params": state.params, "batch_stats": state.batch_stats}
        state = plan.new_state(load_into(fresh, config.init_from))
    return state, Best(config.eval.mode)


class Run:
    """One process's part of a run: the state, and everything that watches over it."""

    def __init__(self, plan: Plan, folder: Workdir, checkpoints: Checkpoints, clock: Clock):
        self.plan, self.folder, self.checkpoints, self.clock = plan, folder, checkpoints, clock
        self.state, self.best = start(plan, checkpoints)
        self.step = self.start = int(self.state.step)
        how = plan.config.input
        self.data = iterate(plan.batches, self.start, how.threads, how.workers, plan.place)
        self.train_step = plan.train_step()
        self.evaluator = Evaluator(plan.built)
        self.evaluated = {one.name: self.best.last_step if one.metric else None for one in plan.evaluations}
        self.writer = Writer(folder.path, distributed.is_main(), self.start)
        self.bar = Progress(plan.total, self.start, distributed.is_main())
        self.waiting: list[tuple[int, dict[str, jax.Array]]] = []  # losses not looked at yet
        self.bar.say("\n".join([*plan.dataset.notes, str(plan)]))

    def loop(self, interrupts: Interrupts) -> str:
        """Trains to the last step; returns '' or why it stopped before, with everything saved.

        The order is law: evaluation and saving see the state before the next batch is drawn.
        """
        plan, config = self.plan, self.plan.config
        profiler = Profiler(config.profile_steps, self.folder.path / "profile")
        deadline, stops = Deadline(config.max_minutes), distributed.Stops()
        ahead = 0 if lockstep(plan.built.mesh) else AHEAD
        self.clock.lap()
        for now in range(self.start, plan.total):
            self.step = now
            if now > self.start:
                self.evaluate([one for one in plan.evaluations if now % one.every == 0])
            if self.best.stale >= plan.patience:
                self.bar.say(f"step {now}: no better in {self.best.stale} evaluations, stopping early")
                break  # not saved yet: `settle` saves what it makes of this state
            if now > self.start and now % plan.save_every == 0:
                self.save()
            reason = stops.at(now, interrupts.received or deadline.passed())
            if reason:
                self.save()
                return reason
            profiler.at(now, self.state)
            batch = self.clock.draw(self.data, self.waiting[-1][1]["loss"] if self.waiting else None)
            self.state, aux = self.train_step(self.state, batch)
            self.waiting.append((now, aux))
            if now == self.start:
                self.clock.compiled(self.state)
            elif not ahead:
                jax.block_until_ready(self.state)
            elif len(self.waiting) > ahead:
                jax.block_until_ready(self.waiting[-1 - ahead][1])
            if (now + 1) % config.log_every_steps == 0:
                self.log(ahead)
        else:
            self.step = max(plan.total, self.start)
        self.log(0)
        profiler.stop(self.state)
        self.clock.lap()
        return ""

    def settle(self, interrupts: Interrupts) -> str:
        """Last evaluation and save; returns '' or the signal that came meanwhile."""
        plan = self.plan
        if self.step > self.start:
            if plan.config.eval.recalibrate_batches:
                self.state = recalibrated(plan, self.state, plan.config.eval.recalibrate_batches)
            self.evaluate(plan.evaluations)
            self.save()
        self.checkpoints.wait()
        self.bar.close()
        return "" if distributed.several() else interrupts.received  # the others would wait

    def finish(self) -> None:
        """The test score beside the baselines, the pictures, the summary."""
        plan = self.plan
        if self.step == self.start and self.folder.summary.exists():
            distributed.say(f"already complete: {self.folder.name}/{self.folder.summary.name}")
            return
        scored = self.state.variables()
        if plan.config.eval.use == "best" and self.best.step not in (None, self.step):
            scored = self.checkpoints.restore(plan.abstract, "best")[0].variables()
        summary = finish(plan, self.evaluator, scored, self.folder, self.step, self.best)
        distributed.say(score_text(summary))
        summary["timing"] = self.clock.summary(plan, self.train_step, self.state)
        leave(self.folder, summary)
        distributed.say(f"{timing_text(summary['timing'])}\nsummary, pictures and report.html: {self.folder.name}")

    def save(self, metric: float | None = None) -> None:
        """Starts a checkpoint of the current state and position."""
        self.log(0)  # a bad value must stop the run before its step is counted
        self.folder.copy()
        with self.clock.time("save"):
            meta = self.plan.meta(self.step) | {"loop": self.best.to_json()}
            self.checkpoints.save(self.state, meta, metric)

    def evaluate(self, due: Sequence[Evaluation]) -> None:
        """Runs evaluations, and saves when the one that chooses found the best state so far."""
        for one in due:
            if self.evaluated[one.name] == self.step:
                continue
            self.evaluated[one.name] = self.step
            self.log(0)
            with self.clock.time("eval"):
                scores = self.evaluator.score(self.state.variables(), one.batches, full=one.full).metrics
            self.writer.scalars(self.step, one.logged(scores))
            self.bar.say(scalars_text(f"step {self.step} {one.title}", scores))
            if one.metric:
                value, many = scores[one.metric], self.plan.config.checkpoint.keep_best > 1
                if self.best.update(value, self.step) or many and self.best.stale < self.plan.patience:
                    self.save(value)

    def log(self, keep: int) -> None:
        """Writes the means of the losses seen; the last `keep` steps, still in flight, wait."""
        seen, self.waiting = self.waiting[: len(self.waiting) - keep], self.waiting[len(self.waiting) - keep :]
        if not seen:
            return
        values = jax.device_get([aux for _, aux in seen])
        if not all(np.isfinite(list(v.values())).all() for v in values):
            self.stop_on_bad_value()
        last = seen[-1][0] + 1
        means = {k: float(np.mean([v[k] for v in values])) for k in values[0]}
        means["lr"] = float(values[-1]["lr"])
        self.writer.scalars(last, means)
        self.bar.update(last, {"loss": means["loss"], "lr": means["lr"]})
        self.clock.lap(len(seen))

    def stop_on_bad_value(self) -> None:
        """Saves the last good state, finds the first tensor that is not finite, and raises.

        Raises:
          UserError: always.
        """
        self.step, self.waiting = int(self.state.bad_step), []
        self.state = self.state.replace(bad_step=self.state.bad_step * 0 - 1)
        self.save()
        self.checkpoints.wait()
        raise UserError(
            f"step {self.step}: not finite: {diagnose(self.plan, self.state)}. The state before that step is "
            "saved: check the data (cnn data check), or go on from it in another --workdir with "
            f"--config.init_from={self.folder.name} and a lower --config.optim.lr or an optim.clip_norm"
        )

    def close(self) -> None:
        """Waits for the last save; closes the files."""
        self.data.close()
        self.bar.close()
        self.writer.close()
        self.checkpoints.close()


def main(argv: list[str]) -> int:
    """The command line."""
    parser = flags.Parser("train", __doc__)
    parser.add_config()
    parser.add_argument("--workdir", required=True, help="folder of this run; the same again resumes it")
    distributed.add_flags(parser)
    args, overrides = parser.parse(argv)
    config = flags.load_config(args.config, overrides)
    return distributed.together(args, lambda: train(config, args.workdir))


if __name__ == "__main__":
    from cnn import cli

    sys.exit(cli.run("train"))
