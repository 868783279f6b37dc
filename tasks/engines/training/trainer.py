"""The trainer: one rank of a fine-tune, TRL's SFTTrainer under DeepSpeed.

`launch.py` starts it as ``python -m tasks.engines.training.trainer``, once a rank; its environment holds the job and
says which rank it is. In order:

1. `main` reads the job, decides what ``precision = "auto"`` is, and serves the address at which all ranks meet.
2. `data.plan_training` tokenizes the mixture and plans every micro-batch of every step.
3. The newest save that this many ranks can load is looked up: the training goes on from it.
4. The base is loaded, with adapters or in 4 bits if asked; `kernels.prepare` has it computed by faster kernels.
5. `_look_before` prints the pre-flight and refuses what cannot fit into memory.
6. `PlannedTrainer` trains the planned batches in their order; `Watch` writes a line of progress a step. Pairs are
   scored by the base before the first.
7. Every ``save_minutes``, and on SIGTERM, the ranks agree on a save; `publish_save` makes it complete.
8. After SIGTERM the rank ends with exit code 75: the same job goes on later.
9. `_finish` collects the weights, merges adapters, and writes the student and ``training.json``.
10. What a user can act on is printed as one line with its kind, which `launch.py` raises again.
"""

import json
import math
import os
import shutil
import signal
import socket
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import deepspeed
import psutil
import torch
from peft import LoraConfig, PeftModel
from safetensors import safe_open
from torch.distributed import TCPStore
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.utils import logging
from trl import SFTConfig, SFTTrainer

from tapir_core.config import OnPolicy, Prefer
from tapir_core.errors import EngineError
from tapir_core.storage import Storage
from tasks.engines import machine
from tasks.engines.training import data, kernels, launch, losses, prerequisites

_STOPPED = 75
"""Exit code after SIGTERM: the job is unfinished and can go on."""

_LOGGED = ("step", "loss", "learning_rate", "grad_norm", "preferred", "margin", "gap", "clipped")
"""What the loss curve has of each step: two more of a training to prefer, two of one on-policy."""
_UNLIKELY = -1e4
"""Log-probability of a token that fills a place up: it weighs nothing."""

_BUCKET_ELEMENTS = 50_000_000
"""Elements of DeepSpeed's communication buffers: its default of 500 million takes 2 GB for any model."""

_OFFLOADED = {"none": (), "optimizer": ("offload_optimizer",), "all": ("offload_optimizer", "offload_param")}
"""`training.offload` → DeepSpeed's sections."""


def main() -> int:
    """Train; returns the exit code."""
    job = settle_precision(launch.TrainingJob(**json.loads(os.environ[launch.JOB_VARIABLE])))
    # DeepSpeed would compile a shared-memory reduction for CPUs; a fresh machine has no compiler.
    deepspeed.ops.__compatible_ops__ = {}
    logging.disable_progress_bar()
    _served, held = _rendezvous(), machine.held_memory()
    attempt, world_size = launch.Attempt(job.output), int(os.environ["WORLD_SIZE"])
    planned = data.plan_training(job, world_size, attempt.corpus)
    save = launch.newest_save(attempt.saves, world_size=world_size)
    # Before the model: ZeRO-3 loads it in parts.
    settings = SFTConfig(**sft_settings(job, planned.plan, on_cpu=not torch.cuda.is_available()))
    model = _load_base(job)
    kernels.prepare(model, job.training)
    trainer = PlannedTrainer(
        planned=planned,
        watch=Watch(job, planned.plan.tokens_by_step(planned.corpus.lengths), save),
        model=model,
        args=settings,
        train_dataset=planned.corpus.rows,
        processing_class=planned.tokenizer,
        peft_config=_lora_config(job),
    )
    _look_before(planned, trainer)
    if save and trainer.is_world_process_zero():
        print(f"resuming from step {save.step}", flush=True)
    trainer.train(resume_from_checkpoint=str(attempt.saves / save.name) if save else None)
    if trainer.watch.stopped and trainer.state.global_step < trainer.state.max_steps:
        print(f"stopped by SIGTERM after step {trainer.state.global_step}; the same command goes on", flush=True)
        return _STOPPED
    on_gpu = trainer.args.device.type == "cuda"
    peak = int(torch.cuda.max_memory_allocated()) if on_gpu else machine.peak_memory() - held
    _finish(planned, trainer, peak)
    return 0


def _look_before(planned: data.PlannedTraining, trainer: "PlannedTrainer") -> None:
    """Print the pre-flight: what is trained, and whether memory will do."""
    job, world_size, device = planned.job, trainer.args.world_size, trainer.args.device.type
    free, beside = psutil.virtual_memory().available // int(os.environ["LOCAL_SIZE"]), None
    if device == "cuda":
        # Weights may be there already: with ZeRO-3, and those of 4 bits.
        free, beside = torch.cuda.mem_get_info()[0] + torch.cuda.memory_allocated(), free
    lines, size = list[str](), prerequisites.size_of(job.base)
    if size is not None:
        held = max(planned.corpus.width, job.training.micro_batch_size)
        needed = prerequisites.estimate_memory(
            job.training.model_copy(update={"micro_batch_size": held}),
            size,
            in_bf16=job.training.precision == "bf16",
            longest=max(planned.corpus.held_lengths) // planned.corpus.width,
            processes=world_size,
            on_gpu=device == "cuda",
        )
        lines = prerequisites.check_memory(job.training, needed, free, beside)
    if trainer.is_world_process_zero():
        print(_describe(planned, world_size, device, kernels.in_words(trainer.model), lines))
        for answer, what in enumerate(("one example, trained", "what it is preferred to,")[: planned.corpus.width]):
            example = data.mark_trained(planned.tokenizer, planned.corpus.example(0, answer))
            print(f"  {what} between ⟦ and ⟧:\n{example}", flush=True)


def _describe(
    planned: data.PlannedTraining, world_size: int, device: str, computed_by: str, in_memory: list[str]
) -> str:
    training, plan, count = planned.job.training, planned.plan, planned.count()
    lines = [
        f"world size    {world_size} ({device}), ZeRO stage {training.zero_stage}, {training.precision}"
        + (f", LoRA rank {training.lora.rank}" if training.lora else "")
        + (" on 4 bits a weight" if training.quantized else "")
        + f", {computed_by}",
        f"batch         {training.batch_size} examples = {plan.accumulation} x {plan.micro_batch_size} x {world_size}"
        " (accumulated x micro-batch x processes)",
        f"examples      {count.examples}, {count.epochs:g} epochs; {count.left_out} left out, longer than "
        f"{training.max_length} tokens or with the text of a special token in the prompt",
        f"steps         {count.steps}, {count.total_tokens} tokens, of what is computed "
        f"{planned.padding_share:.1%} is padding",
        *(f"memory        {line}" for line in in_memory),
    ]
    return "\n".join(["pre-flight", *(f"  {line}" for line in lines)])


def _finish(planned: data.PlannedTraining, trainer: "PlannedTrainer", peak: int) -> None:
    """Write the student and its summary under a temporary name, then give it its place.

    ``peak``: bytes that training took at most where it computed, of the GPU or of this process beside its libraries.
    """
    job, attempt = planned.job, launch.Attempt(planned.job.output)
    # Only ZeRO-3 has no rank with whole weights; collecting them is collective. Otherwise the model keeps its ties.
    state = trainer.accelerator.get_state_dict(trainer.deepspeed) if job.training.zero_stage == 3 else None
    if not trainer.is_world_process_zero():
        return
    folder, model = attempt.unfinished_checkpoint, trainer.model
    if job.training.lora:
        adapter = attempt.folder / "adapter"
        model.save_pretrained(adapter, state_dict=state)
        unset_hf_deepspeed_config()  # under ZeRO-3 the base would be loaded in parts, by all ranks
        base = _load_base(job, whole=True)
        model, state = PeftModel.from_pretrained(base, adapter).merge_and_unload(), None
    # The served student stops at the token that closed its examples too.
    given, closing = model.generation_config.eos_token_id, planned.corpus.closing
    stops = given if isinstance(given, list) else [given]
    if closing not in stops:
        model.generation_config.eos_token_id = [closing, *(each for each in stops if each is not None)]
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, state_dict=state)
    planned.tokenizer.save_pretrained(folder)
    told = replace(_summary(planned, trainer, peak), changed=round(_changed_share(job.base, folder), 6))
    summary = json.dumps(asdict(told), indent=1)
    (folder / attempt.summary_file.name).write_text(summary)
    launch.sync_folder(folder)
    folder.rename(attempt.checkpoint)


def _changed_share(base: Path, written: Path) -> float:
    """Share of the weights of a checkpoint that are others than its base's would be, written like it."""
    of_base = {name: file for file in map(_opened, base.glob("*.safetensors")) for name in file.keys()}  # noqa: SIM118
    changed = counted = 0
    for file in map(_opened, written.glob("*.safetensors")):
        for name in of_base.keys() & {*file.keys()}:
            now = file.get_tensor(name)
            changed += int((now != of_base[name].get_tensor(name).to(now.dtype)).sum())
            counted += now.numel()
    return changed / max(1, counted)


def _opened(file: Path) -> Any:
    return safe_open(file, framework="pt")


def _summary(planned: data.PlannedTraining, trainer: "PlannedTrainer", peak: int) -> launch.TrainingSummary:
    training, count, seconds = planned.job.training, planned.count(), trainer.watch.seconds
    curve = [
        {name: entry[name] for name in _LOGGED if name in entry}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]
    if not all(math.isfinite(entry["loss"]) for entry in curve):
        raise EngineError(
            'the loss became infinite or no number; lower the learning rate, or use training.precision = "fp32"'
        )
    assert trainer.state.global_step == count.steps, "the trainer made other steps than were planned"
    return launch.TrainingSummary(
        **asdict(count),
        padding_share=round(planned.padding_share, 4),
        seconds=round(seconds, 2),
        tokens_per_second=round(count.total_tokens / seconds, 1),
        final_loss=curve[-1]["loss"],
        loss_curve=curve,
        world_size=trainer.args.world_size,
        device=trainer.args.device.type,
        precision=training.precision,
        zero_stage=training.zero_stage,
        resumed_from_steps=list(trainer.watch.resumed_from_steps),
        versions=prerequisites.library_versions(),
        peak_memory=peak,
        objective=planned.job.objective.type,
        reference_seconds=round(trainer.watch.reference_seconds, 2),
    )


def deepspeed_config(job: launch.TrainingJob, plan: data.BatchPlan) -> dict[str, Any]:
    """DeepSpeed's configuration. The optimizer is torch's AdamW: nothing is compiled, so no compiler is needed."""
    training = job.training
    return {
        "train_micro_batch_size_per_gpu": plan.micro_batch_size,
        "gradient_accumulation_steps": plan.accumulation,
        "gradient_clipping": training.max_grad_norm,
        "bf16": {"enabled": training.precision == "bf16"},
        # Its default is that of the weights: in bf16 what a small part of a batch adds would be lost.
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": {
            # In bf16, stage 0 drifts from fp32 (loss 6.29 for 6.22 after six steps); stage 1 follows it.
            "stage": max(1, training.zero_stage) if training.precision == "bf16" else training.zero_stage,
            "reduce_bucket_size": _BUCKET_ELEMENTS,
            "allgather_bucket_size": _BUCKET_ELEMENTS,
            "stage3_gather_16bit_weights_on_model_save": True,
            **{part: {"device": "cpu"} for part in _OFFLOADED[training.offload]},
        },
        # Torch's AdamW steps on a CPU too; DeepSpeed's own for it would be compiled.
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**31,
    }


def sft_settings(job: launch.TrainingJob, plan: data.BatchPlan, *, on_cpu: bool) -> dict[str, Any]:
    """Arguments of `SFTConfig`. The plan already holds all epochs, so the trainer sees one."""
    training = job.training
    return {
        "output_dir": str(launch.Attempt(job.output).saves),
        "num_train_epochs": 1,
        "per_device_train_batch_size": plan.micro_batch_size,
        "gradient_accumulation_steps": plan.accumulation,
        "learning_rate": job.learning_rate,
        "lr_scheduler_type": training.scheduler if training.scheduler != "constant" else "constant_with_warmup",
        "warmup_steps": round(plan.steps * training.warmup_ratio),
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "optim": "adamw_torch_fused",
        "seed": job.seed,
        "bf16": training.precision == "bf16",
        "use_cpu": on_cpu,
        "gradient_checkpointing": training.gradient_checkpointing,
        "padding_free": training.packing,
        "max_length": None,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "deepspeed": deepspeed_config(job, plan),
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": list(training.report_to),
        # The run and the training: `mine train-01`.
        "run_name": f"{job.log_path.parent.parent.name} {job.log_path.stem}",
        "save_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": not on_cpu,
    }


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
            sys.exit(_STOPPED)

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


class Conversations(torch.utils.data.Dataset[dict[str, Any]]):
    """Those of a corpus, given for the examples of a micro-batch; for none the filler."""

    def __init__(self, corpus: data.Corpus) -> None:
        self._corpus = corpus

    def __len__(self) -> int:
        return len(self._corpus.lengths)

    def __getitems__(self, examples: list[int]) -> list[dict[str, Any]]:
        """Of each its tokens, labels and number, of a pair both."""
        rows, width = self._corpus.rows, self._corpus.width
        numbers = [example * width + each for example in examples for each in range(width)] or [len(rows) - 1]
        return [row | {"number": number} for row, number in zip(rows.__getitems__(numbers), numbers, strict=True)]


class PlannedTrainer(SFTTrainer):
    """Trains what a `BatchPlan` says, in its order."""

    def __init__(self, *, planned: data.PlannedTraining, watch: Watch, **settings: Any) -> None:
        super().__init__(callbacks=[watch], **settings)
        self._planned, self.watch = planned, watch
        self._reference: torch.Tensor | None = None
        count, answers, own = planned.plan.tokens_by_step, planned.corpus.answer_lengths, planned.corpus.rollouts
        self._pairs_of_step, self._tokens_of_step = count([1] * len(answers)), count(answers)
        self._rolled_of_step = count([*answers[:own], *[0] * (len(answers) - own)])

    def get_train_dataloader(self) -> Any:
        """This rank's micro-batches; a rank without an example computes the filler, whose loss is zero."""
        return self._load([group[self.args.process_index] for group in self._planned.plan.groups])

    def _load(self, cells: list[list[int]]) -> Any:
        return torch.utils.data.DataLoader(
            Conversations(self._planned.corpus),
            batch_sampler=cells,
            collate_fn=self._collate,
            pin_memory=self.args.dataloader_pin_memory,
        )

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
            logits, labels, of = self._logits(model, inputs)
            words = logits.log_softmax(-1)
            log_probs = words.gather(1, labels[:, None])[:, 0]
        else:
            log_probs, of = self._log_probs(model, inputs)
        own, step = numbers[of] < self._planned.corpus.rollouts, self.state.global_step
        now, sampled, teacher = log_probs[own], told["sampled"], told["teacher"]
        if step == 0:
            _check_scores(now.detach(), sampled)
        lost = now  # of a micro-batch without a rollout, which has no top tokens either
        if objective.loss == "policy":
            lost = losses.policy(now, sampled, teacher, objective.clip)
        elif len(now):
            lost = losses.forward_kl(words[own].gather(1, told["top_ids"].long().view(len(now), -1)), told["top"])
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


def _check_scores(now: torch.Tensor, sampled: torch.Tensor) -> None:
    """Refuse to train on tokens of which the student says otherwise here than where it sampled them.

    Raises:
        EngineError: with the difference.
    """
    apart = (now - sampled).abs().sort().values
    if not len(apart):
        return
    median, worst = float(apart[len(apart) // 2]), float(apart[len(apart) * 99 // 100])
    if median > launch.MEDIAN_APART or worst > launch.WORST_APART:
        raise EngineError(
            f"the trainer scores the student's own answers otherwise than it sampled them: by {median:.3f} nats for "
            f"half of the tokens (at most {launch.MEDIAN_APART:g}), by {worst:.3f} for one in a hundred "
            f"(at most {launch.WORST_APART:g}); it would learn from the difference. "
            "The student server and training.precision may compute too differently"
        )


def settle_precision(job: launch.TrainingJob) -> launch.TrainingJob:
    """The job with ``precision = "auto"`` decided for this rank's device."""
    if job.training.precision != "auto":
        return job
    in_bf16 = (
        torch.cuda.is_bf16_supported(including_emulation=False)
        if torch.cuda.is_available()
        else machine.computes_in_bf16(broken_amx=machine.WITHOUT_AMX.items() <= os.environ.items())
    )
    return replace(job, training=job.training.model_copy(update={"precision": "bf16" if in_bf16 else "fp32"}))


def _load_base(job: launch.TrainingJob, *, whole: bool = False) -> Any:
    """The base's weights in the job's precision; in 4 bits where the job says so, but for a ``whole`` student."""
    dtype, four_bits = torch.bfloat16 if job.training.precision == "bf16" else torch.float32, None
    if job.training.quantized and not whole:
        four_bits = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
    return AutoModelForCausalLM.from_pretrained(
        job.base,
        dtype=dtype,
        quantization_config=four_bits,
        trust_remote_code=False,
        use_safetensors=True,
        attn_implementation=kernels.attention_of(job.training),
    )


def _lora_config(job: launch.TrainingJob) -> LoraConfig | None:
    """PEFT's configuration of the adapters, or nothing."""
    lora = job.training.lora
    return lora and LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def _rendezvous() -> TCPStore | None:
    """What serves the address at which all ranks are to meet, for as long as it lives; the first of them has it.

    At that address only: what torch would make listens on every one. The process group itself is made by DeepSpeed.
    """
    # So torch connects in every rank and serves in none.
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    if os.environ["RANK"] != "0":
        return None
    host, port, ranks = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), int(os.environ["WORLD_SIZE"])
    listening = socket.create_server((host, port)).detach()
    return TCPStore(host, port, ranks, True, wait_for_workers=False, master_listen_fd=listening)


if __name__ == "__main__":
    sys.exit(launch.exit_code(main))
