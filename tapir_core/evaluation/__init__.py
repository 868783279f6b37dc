"""Scores of a student; makes no call. Their intervals are those of `tapir_core.statistics`.

- `benchmark`, `rows`: what every benchmark is, and what it reads: files, another run's answers.
- `alpaca_eval`, `fastchat` (MT-Bench, Vicuna-Instructions): benchmarks that ask a judge, by their published rules.
- `marking`: those that mark answers themselves, lm-evaluation-harness's among them.
- `length_control`: AlpacaEval's regression.
- `scores`: judgments and figures as rows; those of the run's own held-out sets.
"""
