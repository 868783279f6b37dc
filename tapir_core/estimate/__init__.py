"""What a run will take before it starts: calls, tokens, USD and hours, each with what it rests on.

The method's arithmetic on counts (`workload`), times what a call takes (`costs`), over the scenarios of what nobody
knows yet (`workload` too), to one estimate (`run`). Only `evidence` looks at files, the store and earlier runs.
"""
