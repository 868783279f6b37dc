"""What of the lines that engines really write a person is told."""

import logging
from collections.abc import Sequence

import pytest

from tasks.engines.logs import LONGEST_RECORD, PERIOD_SECONDS, LogReader

VLLM = "(APIServer pid=27436) {level} 11-20 19:10:48 [vllm.py:1703] {text}"


def vllm(text: str, level: str = "INFO") -> str:
    return VLLM.format(level=level, text=text)


def read(lines: Sequence[str]) -> list[tuple[str, str]]:
    reader = LogReader()
    return [(logging.getLevelName(level), text) for level, text in [*reader.read(lines, 0.0), *reader.flush()]]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (vllm("Your GPU is too old", "WARNING"), ("WARNING", "Your GPU is too old")),
        (vllm("no more memory", "ERROR"), ("ERROR", "no more memory")),
        ("[2026-11-20 19:12:52,865] [WARNING] [stage.py:9:main] overflow", ("WARNING", "overflow")),
        (
            "[rank1]:[W1120 19:11:00.637 cuda.cpp:68] Warning: slow link (function f)",
            ("WARNING", "slow link (function f)"),
        ),
        ("ERROR:    [Errno 98] address in use", ("ERROR", "[Errno 98] address in use")),
        ("saved after step 40", ("INFO", "saved after step 40")),
        ("resuming from step 40", ("INFO", "resuming from step 40")),
        ("  steps         20, 11046 tokens, of …", ("INFO", "steps: 20, 11046 tokens, of …")),
        (
            vllm("Engine 000: Avg prompt throughput: 389.6 tokens/s, Running: 45 reqs"),
            ("INFO", "Engine 000: Avg prompt throughput: 389.6 tokens/s, Running: 45 reqs"),
        ),
    ],
)
def test_a_line_that_people_want_to_see_is_told_at_its_level(line: str, told: tuple[str, str]) -> None:
    assert read([line]) == [told]


@pytest.mark.parametrize(
    "line",
    [
        "",
        vllm("Resolved architecture: LlamaForCausalLM"),
        vllm("Enforce eager set, disabling torch.compile", "WARNING"),
        vllm("Engine 000: Avg prompt throughput: 0.0 tokens/s, Running: 0 reqs"),
        "INFO:     Application startup complete.",
        "[2026-11-20 19:12:52,865] [INFO] [launch.py:152:main] WORLD INFO DICT: {'localhost': ['0']}",
        "/site-packages/transformers/training_args.py:1541: FutureWarning: `gradient_checkpointing` is deprecated",
        "[RANK 0] Gradient accumulation steps mismatch: GradientAccumulationPlugin has 1, DeepSpeed config has 2.",
        "{'loss': '2.091', 'grad_norm': '13.75', 'learning_rate': '0', 'epoch': '0.05'}",
        "tapir error ConfigError: which the run raises itself",
        "nanobind: leaked 4 instances!",
        "   warnings about errors in a trained example",
    ],
)
def test_noise_stays_in_the_file(line: str) -> None:
    assert read([line]) == []


def test_what_is_said_again_is_told_again_at_ten_and_at_a_hundred() -> None:
    lines = [vllm(f"request {number} of process {number * 7} was late", "WARNING") for number in range(150)]
    assert read(lines) == [
        ("WARNING", "request 0 of process 0 was late"),
        ("WARNING", "(10 times by now) request 9 of process 63 was late"),
        ("WARNING", "(100 times by now) request 99 of process 693 was late"),
    ]


def test_how_busy_a_server_is_comes_once_a_minute() -> None:
    reader, line = LogReader(), vllm("Engine 000: Avg prompt throughput: 1 tokens/s, Running: 4 reqs")
    told = [reader.read([line], now) for now in (0.0, 10.0, PERIOD_SECONDS - 1, PERIOD_SECONDS + 1)]
    assert [len(records) for records in told] == [1, 0, 0, 1]


CRASH = """\
Traceback (most recent call last):
  File "trainer_main.py", line 47, in main
    return _train(job)

RuntimeError: no kernel

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "trainer_main.py", line 9, in <module>
ValueError: cannot train"""


@pytest.mark.parametrize("prefix", ["", "(APIServer pid=5) ", "[rank0]: "])
def test_a_crash_is_one_error_with_all_its_lines(prefix: str) -> None:
    lines = [prefix + line for line in CRASH.splitlines()]
    assert read([*lines, "saved after step 2"]) == [("ERROR", CRASH), ("INFO", "saved after step 2")]


def test_a_crash_that_is_logged_line_by_line_is_one_error_too() -> None:
    logged = [vllm(line, "ERROR") for line in CRASH.splitlines()]
    other = "(EngineCore pid=9) ERROR 11-20 19:10:48 [core.py:1] EngineCore failed to start."
    assert read([*logged, other]) == [("ERROR", CRASH), ("ERROR", "EngineCore failed to start.")]


def test_a_crash_that_is_not_over_is_told_when_nothing_more_comes() -> None:
    reader, lines = LogReader(), CRASH.splitlines()
    assert reader.read(lines[:5], 0.0) == []
    assert reader.read(lines[5:], 0.0) == []
    assert reader.flush() == [(logging.ERROR, CRASH)]
    assert reader.flush() == []


def test_of_a_very_long_crash_the_end_is_told() -> None:
    lines = ["Traceback (most recent call last):", *["  File again"] * 500, "RecursionError: too deep"]
    [(_, text)] = read(lines)
    assert text.startswith("…\n")
    assert text.endswith("RecursionError: too deep")
    assert len(text.splitlines()) == LONGEST_RECORD + 1


def test_ranks_that_crash_alike_are_one_error() -> None:
    crashes = [f"[rank{rank}]: {line}" for rank in range(4) for line in [*CRASH.splitlines(), "bye"]]
    assert read(crashes) == [("ERROR", CRASH)]
