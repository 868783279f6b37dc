"""The trainer: one rank of a fine-tune, TRL's SFTTrainer under DeepSpeed.

`launch.py` starts it as ``python -m tasks.engines.training.trainer``, once a rank; its environment holds the job and
says which rank it is. In order:

1. `main` reads the job, decides what ``precision = "auto"`` is, and serves the address at which all ranks meet.
2. `data.plan_training` tokenizes the mixture and plans every micro-batch of every step.
3. The newest save that this many ranks can load is looked up: the training goes on from it.
4. The base is loaded, with adapters or in 4 bits if asked; `kernels.prepare` has it computed by faster kernels.
5. `_look_before` prints the pre-flight and refuses what cannot fit into memory.
6. `planned.PlannedTrainer` trains the planned batches in their order; `planned.Watch` writes a line of progress a step.
   Pairs are scored by the base before the first.
7. Every ``save_minutes``, and on SIGTERM, the ranks agree on a save; `publish_save` makes it complete.
8. After SIGTERM the rank ends with exit code 75: the same job goes on later.
9. `_finish` collects the weights, merges adapters, and writes the student and ``training.json``.
10. What a user can act on is printed as one line with its kind, which `launch.py` raises again.
"""

import json
import math
import os
import shutil
import socket
import sys
import warnings
from dataclasses import asdict, replace
from logging import getLogger
from pathlib import Path
from typing import Any

import deepspeed
import psutil
import torch
from peft import LoraConfig, PeftModel
from safetensors import safe_open
from torch.distributed import TCPStore
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.utils import logging
from trl import SFTConfig

from tapir_core.errors import EngineError
from tasks.engines import exchange, machine
from tasks.engines.training import data, kernels, launch, prerequisites
from tasks.engines.training.planned import STOPPED, PlannedTrainer, Watch

_LOGGED = ("step", "loss", "learning_rate", "grad_norm", "preferred", "margin", "gap", "clipped")
"""What the loss curve has of each step: two more of a training to prefer, two of one on-policy."""
_BUCKET_ELEMENTS = 50_000_000
"""Elements of DeepSpeed's communication buffers: its default of 500 million takes 2 GB for any model."""

_OFFLOADED = {"none": (), "optimizer": ("offload_optimizer",), "all": ("offload_optimizer", "offload_param")}
"""`training.offload` → DeepSpeed's sections."""


def main() -> int:
    """Train; returns the exit code."""
    job = settle_precision(launch.TrainingJob(**json.loads(os.environ[launch.JOB_VARIABLE])))
    # What transformers and accelerate say of settings that are meant.
    warnings.filterwarnings("ignore", message="`gradient_checkpointing` is deprecated")
    getLogger("accelerate.accelerator").addFilter(lambda record: "steps mismatch" not in record.getMessage())
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
    found: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(found, save and save.step)
    if len({*found}) > 1:  # a file system that several nodes share may show an old listing for a while
        raise EngineError(f"the processes see different saves (steps {found}); start the training again in a minute")
    if save and trainer.is_world_process_zero():
        print(f"resuming from step {save.step}", flush=True)
    trainer.train(resume_from_checkpoint=str(attempt.saves / save.name) if save else None)
    if trainer.watch.stopped and trainer.state.global_step < trainer.state.max_steps:
        print(f"stopped by SIGTERM after step {trainer.state.global_step}; the same command goes on", flush=True)
        return STOPPED
    on_gpu = trainer.args.device.type == "cuda"
    peak = int(torch.cuda.max_memory_allocated()) if on_gpu else machine.peak_memory() - held
    _finish(planned, trainer, peak, _read(planned, trainer))
    torch.distributed.destroy_process_group()
    return 0


def _look_before(planned: data.PlannedTraining, trainer: PlannedTrainer) -> None:
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
            longest=planned.corpus.longest,
            processes=world_size,
            on_gpu=device == "cuda",
            holds_logits=bool(job.objective.scored_top_k),
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
        f"{training.max_length} tokens, with the text of a special token in the prompt, or with an answer that the "
        "chat template does not write as it is",
        f"steps         {count.steps}, {count.total_tokens} tokens, of what is computed "
        f"{planned.padding_share:.1%} is padding",
        *(f"memory        {line}" for line in in_memory),
    ]
    return "\n".join(["pre-flight", *(f"  {line}" for line in lines)])


def _read(planned: data.PlannedTraining, trainer: PlannedTrainer) -> dict[str, Any] | None:
    """What a server's answers are compared with that takes the weights; by all ranks.

    None for a student that is another one when it is merged, and where it cannot be read: it is whole without.
    """
    if planned.job.training.quantized:
        return None
    try:
        texts = [planned.tokenizer.apply_chat_template(talk, return_dict=False) for talk in exchange.TALKS]
        return {"ids": texts, "log_probs": trainer.read(texts)}
    except Exception as exc:  # the training is done
        print(f"the student does not read fixed texts, so that it gets a server of its own: {exc}", flush=True)
        return None


def _finish(planned: data.PlannedTraining, trainer: PlannedTrainer, peak: int, read: dict[str, Any] | None) -> None:
    """Write the student and its summary under a temporary name, then give it its place.

    Args:
        planned: What was trained.
        trainer: Has the weights.
        peak: Bytes that training took at most where it computed, of the GPU or of this process beside its libraries.
        read: As `_read`.
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
        model, state = PeftModel.from_pretrained(_load_base(job, whole=True), adapter).merge_and_unload(), None
    # The served student stops at the token that closed its examples too.
    given, closing = model.generation_config.eos_token_id, planned.corpus.closing
    stops = given if isinstance(given, list) else [given]
    if closing not in stops:
        model.generation_config.eos_token_id = [closing, *(each for each in stops if each is not None)]
    # Training needs no cache; a server that has compiled the base would compile the student anew for this alone.
    model.config.use_cache = getattr(AutoConfig.from_pretrained(job.base, trust_remote_code=False), "use_cache", True)
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, state_dict=state)
    planned.tokenizer.save_pretrained(folder)
    summary = _summary(planned, trainer, peak, _changed_share(job.base, folder))
    (folder / attempt.summary_file.name).write_text(json.dumps(asdict(summary), indent=1))
    if read:
        (folder / exchange.LOG_PROBS).write_text(json.dumps(read))
    launch.sync_folder(folder)
    folder.rename(attempt.checkpoint)


def _changed_share(base: Path, written: Path) -> float | None:
    """Share of the weights of a checkpoint that are others than its base's would be, written like it.

    Of tensors that both have under one name; None without any.
    """
    of_base = {name: file for file in map(_opened, base.glob("*.safetensors")) for name in file.keys()}  # noqa: SIM118  # an open file gives no iterator
    changed = counted = 0
    for file in map(_opened, written.glob("*.safetensors")):
        for name in of_base.keys() & {*file.keys()}:
            now, before = file.get_tensor(name), of_base[name].get_tensor(name)
            changed += int((now != before.to(now.dtype)).sum()) if now.shape == before.shape else now.numel()
            counted += now.numel()
    return round(changed / counted, 6) if counted else None


def _opened(file: Path) -> Any:
    return safe_open(file, framework="pt")


def _summary(
    planned: data.PlannedTraining, trainer: PlannedTrainer, peak: int, changed: float | None
) -> launch.TrainingSummary:
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
        changed=changed,
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
