"""Scores of a student, and their statistics; makes no call.

- `mt_bench`, `pairwise`, `vicuna`, `alpaca_eval`: the published rules of benchmarks on plain values; they know no
  configuration. `questions` and `rows` read their files.
- `benchmarks`: the same names, asked of a run's student, with settings, prompts and tables.
- `heldout`: the run's own held-out set, which nobody judges (`tapir_core.verifiable` marks it).
- `statistics`, `bootstrap`: intervals and p-values of all of them.
"""
