"""What computes a training: TRL's `SFTTrainer` on the micro-batches of a plan, with the loss of the round's objective.

Rank 0 writes a line of progress a step; all ranks agree on a save and on the end. Pairs are scored by the base before
the first step, and kept; tokens that the student sampled must be as likely here as where it sampled them.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import SFTTrainer

from tapir_core.config import OnPolicy, Prefer
from tapir_core.errors import EngineError
from tapir_core.storage import Storage
from tasks.engines.training import data, launch, losses

STOPPED = 75
"""Exit code after SIGTERM: the job is unfinished and can go on."""

_UNLIKELY = -1e4
"""Log-probability of a token that fills a place up: it weighs nothing."""


class Watch(TrainerCallback):
    """Asks for a save every ``save_minutes`` and after SIGTERM, then also for the end; rank 0 writes progress."""

    def __init__(self, job: launch.TrainingJob, tokens_by_step: list[int], save: launch.SaveRecord | None) -> None:
        """``save`` is what this start goes on from."""
        self.stopped = False
        """SIGTERM came and the training ended early."""
        self.reference_seconds = 0.0
        """Seconds in which the base scored the pairs to learn from, in this start."""
        self.resumed_from_steps = (*save.resumed_from_steps, save.step) if save else ()
        self._first_step, self._earlier_seconds = (save.step, save.seconds) if save else (0, 0.0)
        self._job, self._tokens_by_step = job, tokens_by_step
        self._told_to_stop = threading.Event()
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of training steps, over all starts of the attempt."""
        return self._earlier_seconds + time.monotonic() - self._began

    def leave_out(self, seconds: float) -> None:
        """Seconds before the first step that are no training, and are told apart."""
        self.reference_seconds, self._began = seconds, self._began + seconds

    def end_if_stopped(self) -> None:
        """End this rank where SIGTERM came before the first step: there is nothing to save."""
        if self._told_to_stop.is_set():
            print("stopped by SIGTERM before the first step; the same command begins anew", flush=True)
            sys.exit(STOPPED)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The optimizer is ready and, on a resume, restored: from now on there is something to save."""
        signal.signal(signal.SIGTERM, lambda *_: self._told_to_stop.set())
        self._began = self.saved_at = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Agree on what is due."""
        due = time.monotonic() - self.saved_at >= self._job.training.save_minutes * 60
        stop = self._told_to_stop.is_set()
        wishes = torch.tensor([due or stop, stop], dtype=torch.int, device=args.device)
        torch.distributed.all_reduce(wishes, op=torch.distributed.ReduceOp.MAX)
        save, self.stopped = wishes.bool().tolist()
        if state.global_step < state.max_steps:  # after the last step the finished student is written instead
            control.should_save = save
        control.should_training_stop |= self.stopped
        return control

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float], **_: Any
    ) -> None:
        """One line of progress a step."""
        if not state.is_world_process_zero or "loss" not in logs:
            return
        done_here = self._tokens_by_step[self._first_step : state.global_step]
        rate = sum(done_here) / max(time.monotonic() - self._began, 1e-9)
        progress = launch.TrainingProgress(
            step=state.global_step,
            steps=state.max_steps,
            loss=logs["loss"],
            tokens=sum(self._tokens_by_step[: state.global_step]),
            tokens_per_second=rate,
            eta_seconds=sum(self._tokens_by_step[state.global_step :]) / rate,
        )
        with launch.Attempt(self._job.output).progress_file.open("a") as file:
            file.write(json.dumps(asdict(progress)) + "\n")


class PlannedTrainer(SFTTrainer):
    """Trains what a `BatchPlan` says, in its order."""

    def __init__(self, *, planned: data.PlannedTraining, watch: Watch, **settings: Any) -> None:
        super().__init__(callbacks=[watch], **settings)
        self._planned, self.watch = planned, watch
        self._reference: torch.Tensor | None = None
        self._apart = list[torch.Tensor]()
        count, answers, own = planned.plan.tokens_by_step, planned.corpus.answer_lengths, planned.corpus.rollouts
        self._pairs_of_step, self._tokens_of_step = count(np.ones_like(answers)), count(answers)
        self._rolled_of_step = count(np.where(np.arange(len(answers)) < own, answers, 0))

    def get_train_dataloader(self) -> Any:
        """This rank's micro-batches; a rank without an example computes the filler, whose loss is zero."""
        return self._load([group[self.args.process_index] for group in self._planned.plan.groups])

    def _load(self, cells: Sequence[Sequence[int]]) -> Any:
        return torch.utils.data.DataLoader(
            self._planned.corpus,
            batch_sampler=cells,
            collate_fn=self._collate,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def _prepare_input(self, data: Any) -> Any:
        """Moved to the device and not narrowed, as transformers would: scores are compared in float32."""
        return data.to(self.args.device) if isinstance(data, torch.Tensor) else super()._prepare_input(data)

    def _collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """A micro-batch with the numbers of its conversations; scores of trained tokens in a row, places filled up."""
        told = {name: [each for row in rows for each in row.pop(name, ())] for name in data.SCORES}
        numbers = torch.tensor([row.pop("number") for row in rows])
        widest = max(map(len, told["top"]), default=0)
        for name, filling in (("top_ids", 0), ("top", _UNLIKELY)):
            told[name] = [[*place, *[filling] * (widest - len(place))] for place in told[name]]
        scores = {name: torch.tensor(told[name]) for name in data.SCORES if told[name]}
        return {**self.data_collator(rows), **scores, "numbers": numbers}

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """That of the job's objective; where it imitates TRL's on an accelerator, which is fused."""
        numbers, objective = inputs.pop("numbers"), self._planned.job.objective
        if isinstance(objective, Prefer):
            loss = self._prefer(model, inputs, numbers, objective)
        elif isinstance(objective, OnPolicy):
            loss = self._learn_on_policy(model, inputs, numbers, objective)
        elif self.args.device.type != "cpu":
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        else:
            # `num_items_in_batch` counts the trained tokens of all ranks.
            loss = -self._log_probs(model, inputs)[0].sum() / num_items_in_batch
        # DeepSpeed averages over ranks.
        return loss * self.accelerator.num_processes

    def _log_probs(self, model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each trained token of a micro-batch its log-probability, and which conversation it is of; both (tokens,).

        By TRL's fused head on an accelerator; on a CPU that scores every position and computes each twice, a quarter of
        a small model's time.
        """
        if self.args.device.type == "cpu":
            logits, labels, of = self._logits(model, inputs)
            return -torch.nn.functional.cross_entropy(logits, labels, reduction="none"), of
        trained = inputs["labels"][:, 1:] != data.IGNORED
        out = model(**inputs, use_cache=False, fused_lm_head=True)
        return out.log_probs[trained], _owners(inputs)[trained]

    def _logits(self, model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of each trained token its logits, (tokens, vocabulary) in fp32, itself, and which conversation it is of.

        Those of no position before the first trained one are computed.
        """
        given = {name: value for name, value in inputs.items() if name != "labels"}
        labels, trained = inputs["labels"][:, 1:], inputs["labels"][:, 1:] != data.IGNORED
        first = int(trained.any(dim=0).int().argmax())
        logits = model(**given, use_cache=False, logits_to_keep=labels.shape[1] - first + 1).logits[:, :-1]
        return logits[trained[:, first:]].float(), labels[trained], _owners(inputs)[trained]

    def _top_log_probs(
        self, model: Any, inputs: dict[str, Any], numbers: torch.Tensor, top_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As `_log_probs`, and between its two those of the teacher's tokens, (tokens, k): of rollouts alone.

        No second copy of all logits is made: they are gathered once, and their sum is all else that is needed.
        """
        logits, labels, of = self._logits(model, inputs)
        rolled, asked = numbers[of] < self._planned.corpus.rollouts, labels[:, None]
        if top_ids.numel():
            asked = asked.repeat(1, 1 + top_ids.shape[1])
            asked[rolled, 1:] = top_ids
        chosen = logits.gather(1, asked) - logits.logsumexp(-1, keepdim=True)
        return chosen[:, 0], chosen[:, 1:], of

    def _answer_log_probs(self, model: Any, inputs: dict[str, Any], conversations: int) -> torch.Tensor:
        """Of each conversation of a micro-batch the log-probability of its answer, (conversations,)."""
        log_probs, of = self._log_probs(model, inputs)
        return log_probs.new_zeros(conversations).index_add(0, of, log_probs)

    def _prefer(self, model: Any, inputs: dict[str, Any], numbers: torch.Tensor, objective: Prefer) -> torch.Tensor:
        """A mean over the pairs of the whole step, and one over the tokens of their better answers."""
        if self._reference is None:
            self._reference = self._measure_reference(model)
        # The filler has no label, and is no pair.
        paired = len(numbers) // 2 * 2
        pairs = self._answer_log_probs(model, inputs, len(numbers))[:paired].view(-1, 2)
        reference = self._reference[numbers][:paired].view(-1, 2)
        each, margins = losses.preference(pairs, reference, objective.beta)
        gained, step = ((margins > 0).float() + (margins >= 0).float()) / 2, self.state.global_step
        self._tell(self._pairs_of_step[step], preferred=gained.sum(), margin=margins.sum())
        imitated = -pairs[:, 0].sum() / self._tokens_of_step[step]
        return each.sum() / self._pairs_of_step[step] + objective.imitation * imitated

    def _learn_on_policy(
        self, model: Any, inputs: dict[str, Any], numbers: torch.Tensor, objective: OnPolicy
    ) -> torch.Tensor:
        """A mean over the sampled tokens of the whole step, and one over those of the teacher's answers."""
        told = {name: inputs.pop(name, torch.zeros(0, device=numbers.device)) for name in data.SCORES}
        if objective.loss == "forward_kl":
            log_probs, top, of = self._top_log_probs(model, inputs, numbers, told["top_ids"])
        else:
            (log_probs, of), top = self._log_probs(model, inputs), None
        own, step = numbers[of] < self._planned.corpus.rollouts, self.state.global_step
        now, sampled, teacher = log_probs[own], told["sampled"], told["teacher"]
        if step == 0:
            self._apart.append((now.detach() - sampled).abs())
            if len(self._apart) == min(self._planned.plan.accumulation, len(self._planned.plan.groups)):
                _check_scores(torch.cat(self._apart))
        lost = now  # of a micro-batch without a rollout, which has no top tokens either
        if objective.loss == "policy":
            lost = losses.policy(now, sampled, teacher, objective.clip)
        elif top is not None and len(now):
            lost = losses.forward_kl(top[own], told["top"])
        gap = teacher - now.detach()
        rolled = max(1, self._rolled_of_step[step])
        self._tell(rolled, gap=gap.sum(), clipped=(gap.abs() > objective.clip).float().sum())
        imitated = -log_probs[~own].sum() / max(1, self._tokens_of_step[step] - self._rolled_of_step[step])
        return lost.sum() / rolled + objective.imitation * imitated

    def _tell(self, of_step: int, **sums: torch.Tensor) -> None:
        """Log sums of this rank's micro-batch, over all ranks and groups of the step, divided by ``of_step``."""
        told, plan = torch.stack([each.detach().float() for each in sums.values()]), self._planned.plan
        torch.distributed.all_reduce(told)
        # TRL logs the mean of what the groups of a step come to.
        groups = min(plan.accumulation, len(plan.groups) - self.state.global_step * plan.accumulation)
        for name, value in zip(sums, told.tolist(), strict=True):
            self._metrics["train"][name].append(value * groups / of_step)

    def _measure_reference(self, model: Any) -> torch.Tensor:
        """The log-probability of each conversation's answer by the base: measured before the first step, and kept.

        Raises:
            EngineError: a training goes on, and what was kept of its base is gone.
        """
        corpus, device = self._planned.corpus, self.args.device
        first, attempt = self.args.process_index == 0, launch.Attempt(self._planned.job.output)
        file, found = attempt.reference, torch.zeros(len(corpus.rows), device=device)
        is_kept = torch.tensor([first and file.exists()], dtype=torch.int, device=device)
        torch.distributed.all_reduce(is_kept)
        if is_kept:
            found += torch.tensor(json.loads(file.read_text()), device=device) if first else 0
        elif self.watch.resumed_from_steps:
            raise EngineError(
                f"{file} is gone, and the training goes on from a save; remove {attempt.folder} to begin it anew"
            )
        else:
            if first:
                print(f"the base scores both answers of {len(corpus.lengths)} pairs before the first step", flush=True)
            began, groups = time.monotonic(), self._planned.once(self.args.world_size).groups
            model.eval()
            with torch.no_grad():
                for inputs in self._load([group[self.args.process_index] for group in groups]):
                    here = self._prepare_inputs(inputs)
                    numbers = here.pop("numbers")
                    found[numbers] = self._answer_log_probs(model, here, len(numbers)).float()
                    self.watch.end_if_stopped()
            model.train()
            self.watch.leave_out(time.monotonic() - began)
        torch.distributed.all_reduce(found)
        if first:
            Storage(file.parent).write_bytes(file.name, json.dumps(found.tolist()).encode())
        return found

    def read(self, texts: list[list[int]]) -> list[list[float]]:
        """Of each text the log-probability of each token but the first, in nats; called by all ranks."""
        found, model = list[list[float]](), self.model_wrapped
        model.eval()
        with torch.no_grad():
            for ids in texts:
                inputs = self._prepare_inputs(self.data_collator([{"input_ids": ids, "labels": ids}]))
                found.append(self._log_probs(model, inputs)[0].tolist())
        return found

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Nothing: DeepSpeed's part of a save holds the weights already; `write_student` ends a training."""

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Nothing: a save is no model that is shown to anyone."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        os.makedirs(folder, exist_ok=True)
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            steps = self.watch.resumed_from_steps
            launch.publish_save(
                folder, launch.SaveRecord(self.state.global_step, self.watch.seconds, self.args.world_size, steps)
            )
            print(f"saved after step {self.state.global_step}", flush=True)
        self.accelerator.wait_for_everyone()
        self.watch.saved_at = time.monotonic()


def _owners(inputs: dict[str, Any]) -> torch.Tensor:
    """Of each position but the first which conversation of the micro-batch it is of."""
    labels = inputs["labels"]
    rows = torch.arange(len(labels), device=labels.device)[:, None].expand_as(labels)
    return inputs.get("seq_idx", rows)[:, 1:].long()


def _check_scores(apart: torch.Tensor) -> None:
    """Refuse to train on tokens of which the student says otherwise here than where it sampled them.

    ``apart`` are the differences, in nats, of all that this rank computes for the first step: a micro-batch may have
    too few tokens for a share of one in a hundred.

    Raises:
        EngineError: with the difference.
    """
    if not len(apart):
        return
    apart = apart.sort().values
    median, worst = float(apart[len(apart) // 2]), float(apart[len(apart) * 99 // 100])
    if median > launch.MEDIAN_APART or worst > launch.WORST_APART:
        raise EngineError(
            f"the trainer scores the student's own answers otherwise than it sampled them: by {median:.3f} nats for "
            f"half of the tokens (at most {launch.MEDIAN_APART:g}), by {worst:.3f} for one in a hundred "
            f"(at most {launch.WORST_APART:g}); it would learn from the difference. "
            "The student server and training.precision may compute too differently"
        )
