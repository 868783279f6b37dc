"""vLLM's server where the processor's AMX does not work; a child process in the student's environment.

vLLM's attention asks torch whether there is AMX, and takes no setting. A process that it spawns loads this file again,
so it gets the same answer.
"""

import runpy

import torch.cpu

torch.cpu._is_amx_tile_supported = lambda: False

if __name__ == "__main__":
    # This file stays the main module: it is what spawned processes load first.
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")
