"""What a run will take before it starts: calls, tokens, USD and hours, each with what it rests on.

The method's arithmetic on counts (`workload`), times what a call takes (`costs`), over the scenarios of what nobody
knows yet (`assumptions`). `history` and `pool` look at files, the store and earlier runs; all else is pure.
"""
