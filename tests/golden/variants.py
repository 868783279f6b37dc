"""The configurations whose keys are recorded: `keys.toml`, and what each of these sets in it as `--set` does.

A name before the last `: ` is another variant that this one adds to; only what it changes in that one is recorded.
"""

__all__ = ["PLAIN", "VARIANTS", "overrides", "parent"]

PLAIN = "plain"
NO_KEY = "tests/golden/no_key.txt"

_SERVED = 'type = "vllm", model = "m"'
_OPENAI = 'type = "openai", model = "m", identity = "i", api_key_env = ""'
_ALL_OF_OPENAI = (
    f'{_OPENAI}, base_url = ["http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"], api_key_file = "{NO_KEY}", '
    "requests_per_minute = 9.0, tokens_per_minute = 9.0, usd_per_million_prompt_tokens = 1.0, "
    "usd_per_million_completion_tokens = 1.0"
)
_BATCH = 'mode = "batch", batch = { completion_window = "48h", poll_seconds = 9.0, max_rows = 9, max_bytes = 9 }'
_OTHER_NAMES = (
    'instruction = "i", input = "n", output = "o", messages = "m", conversations = "c", system = "s", reference = "r", '
    'source = "f"'
)
_FILES = 'questions = "q.jsonl", baseline = "b.jsonl"'


def _benchmark(fields: str) -> list[str]:
    return [f"evaluation.benchmarks.mine={{ {fields} }}", 'evaluation.each_round=["mine"]']


_NOTHING_NEW = ("curriculum.refine=false", "curriculum.expansion.max_waves=0")


VARIANTS: dict[str, list[str]] = {
    PLAIN: [],
    "own prompts": ["run.prompts=tests/golden/own_prompts"],
    # data
    "pool of a file": ['data.pool={ type = "file", path = "pool.jsonl" }'],
    "pool of a file: limit": ["data.pool.limit=9"],
    "pool of a file: its own answers": ["data.pool.answers=use"],
    "pool of a file: its own answers: of somebody": ["data.pool.answered_by=gpt-4"],
    "pool of a file: other columns": [f"data.pool.columns={{ {_OTHER_NAMES} }}"],
    "held-out set of a file": ['data.heldout={ type = "file", path = "heldout.jsonl" }'],
    "held-out set of a file: other columns": [
        f'data.heldout.columns={{ {_OTHER_NAMES}, task_type = "t", split = "p" }}',
    ],
    "no held-out set": ["data.heldout="],
    "judged held-out set": ['data.heldout={ type = "judged" }'],
    "judged held-out set: references": ["data.heldout.references=h.jsonl"],
    "judged held-out set: of the teacher's answers": ["data.heldout.answers=teacher"],
    "judged held-out set: a student without a figure ends it": ["data.heldout.without_figure=stop"],
    "bad rows are skipped": ["data.on_bad_row=skip"],
    # student
    **{f"vllm {each}": [f"student.engine.dtype={each}"] for each in ("bfloat16", "float16", "float32")},
    "vllm, what changes no answer": [
        "student.engine.python=python",
        "student.engine.concurrency=9",
        "student.engine.enforce_eager=true",
        "student.engine.gpu_memory_utilization=0.5",
        "student.engine.cpu_kv_cache_gib=9",
        "student.engine.tensor_parallel=2",
        "student.engine.start_timeout_seconds=9.0",
    ],
    "vllm, calls of tools": ["student.engine.tool_parser=hermes"],
    "vllm, compiled": ["student.engine.enforce_eager=false"],
    "vllm, seed": ["student.engine.seed=true"],
    "vllm, no seed": ["student.engine.seed=false"],
    "vllm, not kept": ["student.engine.keep=false"],
    "replicas": ['student.engine={ type = "replicas", replicas = 2, wait_seconds = 9.0 }'],
    **{f"replicas: {each}": [f"student.engine.dtype={each}"] for each in ("bfloat16", "float16", "float32")},
    "replicas: eager": ["student.engine.enforce_eager=true"],
    "replicas: compiled": ["student.engine.enforce_eager=false"],
    "replicas: seed": ["student.engine.seed=true"],
    "replicas: no seed": ["student.engine.seed=false"],
    "replicas: not kept": ["student.engine.keep=false"],
    "student at an endpoint": ['student.engine={ type = "endpoint", base_url = "http://127.0.0.1:1/v1" }'],
    "student at an endpoint: seed": ["student.engine.seed=true"],
    "student at an endpoint: no seed": ["student.engine.seed=false"],
    "student at an endpoint: name": ["student.engine.model=tiny"],
    "student at an endpoint: key and concurrency": [
        "student.engine.api_key_env=STUDENT_KEY",
        "student.engine.concurrency=9",
    ],
    "chat template": ["student.chat_template=chatml"],
    "revision of the backbone": ["student.revision=r"],
    "averaged students": ["student.average=rounds"],
    # teacher
    "teacher openai": [f"teacher.endpoint={{ {_OPENAI} }}"],
    "teacher openai: all its fields": [f"teacher.endpoint={{ {_ALL_OF_OPENAI} }}"],
    "teacher openai: in the style of Azure": [
        f'teacher.endpoint={{ {_OPENAI}, key_header = "api-key", headers = {{ X-Team = "t" }}, '
        'query = { api-version = "v" }, proxy = "http://127.0.0.1:3", tokens_field = "max_completion_tokens", '
        "seed = false }",
    ],
    "teacher openai: seed": ["teacher.endpoint.seed=true"],
    "teacher openai: max_tokens": ["teacher.endpoint.tokens_field=max_tokens"],
    "teacher openai: thinks": [
        f'teacher.endpoint={{ {_OPENAI}, reasoning_effort = "high", thinking = "keep", '
        "extra_body = { extra_body = { google = { thinking_config = { thinking_budget = 0 } } } } }",
    ],
    "teacher openai: its own sampling": ['teacher.answering={ temperature = "provider", top_p = "provider" }'],
    "teacher openai: what else vLLM samples by": ["teacher.answering={ top_k = 20, repetition_penalty = 1.1 }"],
    "teacher openai: no identity": ['teacher.endpoint={ type = "openai", model = "m", api_key_env = "" }'],
    "teacher openai: key of a variable": ["teacher.endpoint.api_key_env=TEACHER_KEY"],
    "teacher openai: batch": [f"teacher.endpoint={{ {_OPENAI}, {_BATCH} }}"],
    "teacher served by the run": [f"teacher.endpoint={{ {_SERVED} }}"],
    "teacher served by the run: all its fields": [
        f'teacher.endpoint={{ {_SERVED}, revision = "r", identity = "i", chat_template = "chatml", thinking = "keep", '
        'dtype = "bfloat16", extra_body = { chat_template_kwargs = { enable_thinking = false } } }',
    ],
    "thoughts are trained": ["teacher.thinking=keep", *_NOTHING_NEW],
    "thoughts are trained: up to a length": ["teacher.thinking=cap", "teacher.thinking_tokens=9"],
    "thoughts are not learnt": ["training.thoughts=mask"],
    "several answers to a prompt": ["teacher.answers_per_prompt=3", "teacher.answering.temperature=0.7"],
    "several answers to a prompt: the best": ["teacher.answers_used=best", "judge.verifier=exact"],
    "several answers to a prompt: the likeliest": ["teacher.answers_used=likeliest"],
    "refusals that are meant": ["teacher.takes_refusals=true"],
    "teacher answers by a schema": ['teacher.answer_schema={ type = "object" }', "curriculum.refine=false"],
    "teacher served by the run: calls of tools": ["teacher.endpoint.tool_parser=hermes"],
    "teacher served by the run: in fp16": ["teacher.endpoint.dtype=float16"],
    "teacher served by the run: in fp32": ["teacher.endpoint.dtype=float32"],
    "teacher served by the run: eager": ["teacher.endpoint.enforce_eager=true"],
    "teacher served by the run: compiled": ["teacher.endpoint.enforce_eager=false"],
    "teacher served by the run: seed": ["teacher.endpoint.seed=true"],
    "teacher served by the run: not kept": ["teacher.endpoint.keep=false"],
    "teacher served by the run: on-policy": [
        *('rounds.2.objective={ type = "on_policy", loss = "policy" }', "rounds.2.learning_rate=2e-6")
    ],
    "teacher served by the run: on-policy: all its fields": [
        'rounds.2.objective={ type = "on_policy", loss = "forward_kl", clip = 2.0, top_k = 8, samples = 2, '
        "first_tokens = 9, imitation = 0.1 }",
        "rounds.2.learning_rate=2e-6",
    ],
    "teacher served by the run: on-policy by pass rate": [
        *('rounds.2.objective={ type = "on_policy", loss = "policy" }', "rounds.2.learning_rate=2e-6"),
        'rounds.2.selection={ type = "pass_rate" }',
    ],
    "teacher served by the run: no seed": ["teacher.endpoint.seed=false"],
    "teacher stand-in, slow": ['teacher.endpoint={ type = "standin", latency_ms = 9 }'],
    "terms of the teacher": ["teacher.terms=MIT"],
    "labels by a schema": ["teacher.label_replies=json"],
    "labels by a schema where it is obeyed": ["teacher.label_replies=auto"],
    # judge
    "judge openai": [f"judge.endpoint={{ {_OPENAI} }}"],
    "judge openai: all its fields": [f"judge.endpoint={{ {_ALL_OF_OPENAI} }}"],
    "judge openai: batch": [f"judge.endpoint={{ {_OPENAI}, {_BATCH} }}"],
    "judge served by the run": [f"judge.endpoint={{ {_SERVED} }}"],
    "judge stand-in, slow": ['judge.endpoint={ type = "standin", latency_ms = 9 }'],
    "judge stand-in, other rules": ['judge.endpoint={ type = "standin", position_bias = 2.0, noise = 0.0 }'],
    "judge stand-in, first": ["judge.endpoint.prefers=first"],
    "judge stand-in, longer": ["judge.endpoint.prefers=longer"],
    "judge stand-in, no log-probabilities": ["judge.endpoint.logprobs=false"],
    "verdicts by a schema": ["judge.replies=json"],
    "verdicts as text": ["judge.replies=text"],
    "pointwise": ["judge.mode=pointwise"],
    "teacher first only": ['judge.orders=["teacher_first"]'],
    "student first only": ['judge.orders=["student_first"]'],
    "panel": [f'judge.panel=[{{ type = "standin", noise = 2.0 }}, {{ {_OPENAI}, {_BATCH} }}]'],
    "panel: one served by the run": [f"judge.panel=[{{ {_SERVED} }}]"],
    "panel: pointwise": ["judge.mode=pointwise"],
    "panel: majority": ["judge.panel_rule=majority"],
    "verifier": ["judge.verifier=numeric"],
    "verifier: alone": ["judge.verifier={ function = 'numeric', only = true }"],
    "verifier: its own, as filter": [
        "judge.verifier={ function = 'own_verifier:score', uses = ['filter'], folder = 'tests/golden' }"
    ],
    "verifier: as judge": ["judge.verifier={ function = 'numeric', uses = ['judge'], folder = 'f' }"],
    "verifier: in the held-out set": ["judge.verifier={ function = 'numeric', uses = ['heldout'] }"],
    # curriculum
    "natural shares": ["curriculum.target_shares=natural"],
    "own shares": ["curriculum.target_shares={ Math = 0.5, Reasoning = 0.5 }"],
    "equal shares": ["curriculum.target_shares=equal"],
    "defined task types": ["curriculum.task_types=defined"],
    "own task types": [
        "curriculum.target_shares=natural",
        'curriculum.task_types={ Math = { definition = "sums", refinement = "steps" }, Refund = "asks for money back", '
        '"Code Generation" = { definition = "code", refinement = "code" }, Writing = "texts" }',
    ],
    "own task types: labels by a schema": ["teacher.label_replies=json"],
    "discovered task types": ["curriculum.target_shares=natural", "curriculum.task_types=discover"],
    "judged once": ["curriculum.rejudge=false"],
    "nothing refined": ["curriculum.refine=false"],
    "no expansion": ["curriculum.expansion.max_waves=0"],
    "new instructions are checked": ["curriculum.expansion.check_difficulty=true"],
    "stop rule": ["curriculum.stop.patience=1", "curriculum.stop.min_gain=0.5", "curriculum.stop.min_seeds=9"],
    "stop rule: no alarms": [
        *("curriculum.stop.max_growth=", "curriculum.stop.max_unended=", "curriculum.stop.max_repeated="),
        *("curriculum.stop.max_divergence=", "curriculum.stop.max_entropy_loss="),
    ],
    # rounds
    "hard share": ['rounds.default.selection={ type = "hard_share" }'],
    "hard share: to prefer": ["rounds.2.objective=prefer"],
    "hard share: to prefer: all its fields": [
        'rounds.2.objective={ type = "prefer", margin = 2.0, beta = 0.2, imitation = 0.0 }'
    ],
    "pass rate": ['rounds.default.selection={ type = "pass_rate", share = 0.2, samples = 8 }'],
    "random share": ['rounds.default.selection={ type = "random", share = 0.2 }'],
    "random share: first round only": ['rounds.2.selection={ type = "threshold" }'],
    "new instructions are checked: by hard share": ['rounds.default.selection={ type = "hard_share" }'],
    "sizes from the pool": ["basic_tuning.examples=auto", "rounds.default.examples=auto"],
    "alpha of a round": ["rounds.2.alpha=0.9"],
    "batch size of a round": ["rounds.2.batch_size=64"],
    # training
    "zero stage 0": ["training.zero_stage=0"],
    "zero stage 1": ["training.zero_stage=1"],
    "zero stage 3": ["training.zero_stage=3"],
    "trained in bf16": ["training.precision=bf16"],
    "trained in fp32": ["training.precision=fp32"],
    "packing": ["training.packing=true"],
    "linear": ["training.scheduler=linear"],
    "constant": ["training.scheduler=constant"],
    "lora": ["training.lora={}"],
    "lora on 4 bits": ["training.lora={ quantization = 'nf4' }"],
    "learning rates": ["basic_tuning.learning_rate=1e-4", "rounds.default.learning_rate=1e-4"],
    "trained elsewhere, with other memory": [
        "training.runs_on=worker",
        "training.processes=2",
        "training.micro_batch_size=1",
        "training.gradient_checkpointing=true",
        "training.attention=sdpa",
        "training.offload=optimizer",
        'training.report_to=["tensorboard", "wandb"]',
        "training.save_minutes=1.0",
        "training.grace_seconds=1.0",
    ],
    "trained elsewhere, with other memory: by FlashAttention": [
        "training.attention=flash_attention_2",
        "training.offload=all",
        "training.zero_stage=3",
    ],
    # evaluation
    "questions": ['evaluation.benchmarks.mine={ questions = "q.jsonl" }'],
    "questions: no held-out set": ["data.heldout="],
    "alpaca_eval": _benchmark(f'type = "alpaca_eval", {_FILES}'),
    "alpaca_eval: asked apart": ["evaluation.each_round=[]"],
    "alpaca_eval: length control": [
        "evaluation.benchmarks.mine.difficulty=d.csv",
        "evaluation.benchmarks.mine.anchors=a.csv",
    ],
    "alpaca_eval: own answering": ["evaluation.benchmarks.mine.answering={ max_tokens = 9 }"],
    "alpaca_eval: no log-probabilities": ["evaluation.benchmarks.mine.top_logprobs=0"],
    "alpaca_eval: judge openai": [f"evaluation.benchmarks.mine.judge={{ {_ALL_OF_OPENAI}, {_BATCH} }}"],
    "alpaca_eval: judge stand-in": ['evaluation.benchmarks.mine.judge={ type = "standin", noise = 0.0 }'],
    "alpaca_eval: judge served by the run": [f"evaluation.benchmarks.mine.judge={{ {_SERVED} }}"],
    "alpaca_eval: baseline of a run": ['evaluation.benchmarks.mine.baseline={ run = "other", round = 1 }'],
    "alpaca_eval: baseline of a run: under another name": ["evaluation.benchmarks.mine.baseline.benchmark=theirs"],
    "alpaca_eval: outputs": ['evaluation.benchmarks.mine.outputs={ gpt = "gpt.json" }'],
    "alpaca_eval: panel": ['judge.panel=[{ type = "standin", noise = 2.0 }]'],
    "mt_bench": _benchmark('type = "mt_bench", questions = "q.jsonl"'),
    "mt_bench: averaged students": ["student.average=rounds"],
    "mt_bench: references": ["evaluation.benchmarks.mine.references=r.jsonl"],
    "mt_bench: judge openai": [f"evaluation.benchmarks.mine.judge={{ {_OPENAI} }}"],
    "mt_bench: judge served by the run": [f"evaluation.benchmarks.mine.judge={{ {_SERVED} }}"],
    "mt_bench: judge stand-in": ['evaluation.benchmarks.mine.judge={ type = "standin", noise = 0.0 }'],
    "vicuna": _benchmark(f'type = "vicuna", {_FILES}'),
    "vicuna: baseline first": ["evaluation.benchmarks.mine.orders=baseline_first"],
    "vicuna: baseline of a run": ['evaluation.benchmarks.mine.baseline={ run = "other", round = 0 }'],
    "vicuna: judge openai": [f"evaluation.benchmarks.mine.judge={{ {_OPENAI} }}"],
    "vicuna: judge served by the run": [f"evaluation.benchmarks.mine.judge={{ {_SERVED} }}"],
    "vicuna: judge stand-in": ['evaluation.benchmarks.mine.judge={ type = "standin", noise = 0.0 }'],
    "lm_eval": _benchmark('type = "lm_eval", task = "ifeval", questions = "q.jsonl"'),
    "lm_eval: examples": ["evaluation.benchmarks.mine.examples=e.jsonl"],
    "lm_eval: own tasks": ["evaluation.benchmarks.mine.include_path=tasks"],
    # what changes no row
    **{f"baseline {each}": [f"evaluation.baseline={each}"] for each in ("sft", "none")},
    "calls": [
        "calls.concurrency=9",
        "calls.timeout_seconds=9.0",
        "calls.max_attempts=9",
        "calls.retries.timeout=9",
        "calls.rows_per_shard=9",
        "calls.max_missing_share=0.5",
        "calls.max_failed_share=0.9",
        "calls.max_unanswered_share=0.9",
        "calls.store_url=sqlite:///elsewhere.sqlite",
    ],
    "budget": [
        "budget.usd=1.0",
        "budget.requests=9",
        "budget.tokens=9",
        "budget.hours=1.0",
        *(f"budget.stages.{name}.requests=9" for name in ("label", "teach", "judge", "expand", "refine", "score")),
        "budget.stages.benchmark={ usd = 1.0, tokens = 9, hours = 1.0 }",
    ],
}


def parent(name: str) -> str | None:
    """The variant that this one adds to; None of the plain one."""
    return None if name == PLAIN else name.rpartition(": ")[0] or PLAIN


def overrides(name: str) -> list[str]:
    """All that a variant sets, what it adds to included."""
    before = parent(name)
    return [*(overrides(before) if before else []), *VARIANTS[name]]
