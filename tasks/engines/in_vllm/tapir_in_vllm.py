"""What our servers run inside vLLM: a guard before every path, and weights exchanged in place.

vLLM imports this file in its own environment, by its name alone (`vllm.py` beside this folder puts it on the path); it
imports nothing of ours.
"""

import hmac
import os
from typing import Any

import torch


class Guard:
    """ASGI middleware: nobody without the key gets anything but ``/health``.

    vLLM's own key guards some paths, and none of those that put it to sleep or change its weights; and vLLM 0.26 mixes
    that key into the name of what it compiled, so that each start compiled anew.
    """

    def __init__(self, app: Any) -> None:
        self._app, self._expected = app, f"Bearer {os.environ['TAPIR_SERVER_KEY']}".encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass on what has the key, what is no request, and the question whether the server is ready."""
        given = dict(scope.get("headers", ())).get(b"authorization", b"")
        if scope["type"] == "lifespan" or scope["path"] == "/health" or hmac.compare_digest(given, self._expected):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await send(
                {"type": "http.response.start", "status": 401, "headers": [(b"content-type", b"application/json")]}
            )
            await send({"type": "http.response.body", "body": b'{"error": "the key is missing or wrong"}'})
        else:
            await send({"type": "websocket.close", "code": 1008})


class Weights:
    """What each worker of vLLM can do beside its own methods."""

    def take_weights(self: Any) -> None:
        """Load what now lies at the path of the model.

        vLLM 0.32 packs the weights of a processor's layers anew as they are loaded, but for a head that shares those of
        the embedding, which then answers with its old ones.

        Raises:
            RuntimeError: a layer of a processor keeps what was packed before.
        """
        modules = [each for each in self.model_runner.get_model().modules() if hasattr(each, "cpu_linear")]
        packed = [each.cpu_linear for each in modules]
        self.reload_weights()
        kept = list[str]()
        for module, before in zip(modules, packed, strict=True):
            if module.cpu_linear is before and module.weight.numel():
                module.quant_method.process_weights_after_loading(module)
            # A plain function has packed nothing.
            if module.cpu_linear is before and before is not torch.nn.functional.linear:
                kept.append(type(module).__name__)
        if kept:
            raise RuntimeError(f"these layers keep their weights: {', '.join(sorted({*kept}))}")
