"""What a run will take before it starts: calls, tokens, USD and hours, each with a range and with what it rests on.

Likely counts of the run's plan (`workload`), times what a call takes, summed to one estimate (`run`). Only `evidence`
looks at files, the store and earlier runs.
"""
