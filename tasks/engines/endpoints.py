"""The endpoints that a run calls: providers with their prices, its own stand-ins and open models, a student that others
serve.
"""

import functools
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from tapir_core import config as cfg
from tapir_core import errors, paths, proxies
from tapir_core.calls import Endpoint, EndpointSource, is_local
from tapir_core.config.student import EndpointEngine
from tapir_core.prices import Price, price_of
from tasks.engines import backbone, keys, logs, machine, student_server, supervisor, vllm

_PAUSES_SECONDS = (0.0, 1.0, 1.0)
"""Before each look at an address."""
_START_TIMEOUT_SECONDS = 60.0


def look_for(base_url: str, field: str, own_proxy: str | None = None) -> errors.MissingPrerequisite | None:
    """The error of an address where nothing listens, or whose proxy does not listen; None if something does.

    A wrong address becomes one clear error instead of a thousand failures.

    Raises:
        MissingPrerequisite: the proxy is no HTTP proxy.
    """
    proxy = proxies.proxy_before(base_url, own_proxy)
    address = urlsplit(proxy.url if proxy else base_url)
    port = address.port or (443 if address.scheme == "https" else 80)
    reason = ""
    for pause in _PAUSES_SECONDS:
        time.sleep(pause)
        try:
            with socket.create_connection((address.hostname or "", port), timeout=10):
                return None
        except OSError as exc:
            reason = str(exc)
    found = f"{field}.base_url = {base_url!r}"
    if proxy:
        directly = "" if own_proxy else f", or name {urlsplit(base_url).hostname} in no_proxy"
        return errors.MissingPrerequisite(
            f"{found} is asked through the proxy {proxy}, and nothing answers there ({reason}); start or correct that "
            f"proxy, or unset {proxy.source}{directly}"
        )
    return errors.MissingPrerequisite(
        f"{found}: nothing answers there ({reason}); start that server or correct the address, "
        "then run the same command again"
    )


class Endpoints:
    """The servers that a run starts beside its student's, and the addresses that it has checked.

    The models that a run serves on its own machine, its student included, have the machine in turn. Asking for another
    model lets the server of the last one rest, even while that answers; stages that ask different models therefore wait
    for each other (`flows/steps.py`). Servers that rest are ended where the memory does not hold them beside the next.
    """

    def __init__(
        self,
        concurrency: int,
        log_of: Callable[[str], Path],
        root: str,
        *,
        report: student_server.Report = lambda _: None,
    ) -> None:
        """Nothing starts yet.

        Args:
            concurrency: Of each provider and of stand-ins.
            log_of: Name of a server → its log file.
            root: Of runs; it keeps converted and downloaded models.
            report: Gets the progress of a start.
        """
        self.concurrency = concurrency
        self._log_of, self._root, self._report = log_of, root, report
        self._models: dict[cfg.VllmEndpoint, tuple[vllm.VllmServer, student_server.Student]] = {}
        self._preparing = threading.Lock()
        self._served: student_server.Students | None = None
        """Whose turn it is."""
        self._resting: list[student_server.Students] = []
        self.gpus = machine.Gpus()
        """Of those that have the machine in turn, and of the run's trainings."""
        self._turn = threading.RLock()
        self._aborted = False
        self._standins: dict[cfg.StandinEndpoint, tuple[supervisor.Child, str]] = {}
        self._started = ExitStack()
        self._look_for = functools.cache(look_for)
        self._lock = threading.Lock()

    def reach(self, addresses: Sequence[str], field: str, proxy: str | None = None) -> None:
        """Check once whether anything listens at the addresses, or whether their proxy does.

        Raises:
            MissingPrerequisite: nothing listens at any of them.
        """
        with self._lock:
            refusals = [self._look_for(address, field, proxy) for address in addresses]
        if all(refusals) and refusals[0]:
            raise refusals[0]

    def standin(self, settings: cfg.StandinEndpoint) -> Endpoint:
        """The endpoint of a stand-in with these settings; it is started if none runs.

        Raises:
            ConfigError: the settings name another version of the stand-in.
            EngineError: it does not start; the message names its log.
        """
        if settings.version != cfg.STANDIN_VERSION:
            raise errors.ConfigError(
                f"this run asks version {settings.version} of the stand-in, and this tapir has {cfg.STANDIN_VERSION}, "
                "which answers otherwise. The call store has no answer to this call: go on with the tapir that made "
                "the run, or start a new run"
            )
        with self._lock:
            child, url = self._standins.get(settings, (None, ""))
            if child is None or child.poll() is not None:
                url = self._start(settings)
        return Endpoint(base_url=f"{url}/v1", concurrency=self.concurrency, batch=settings.in_batches)

    def model(self, settings: cfg.VllmEndpoint, field: str) -> Endpoint:
        """The endpoint of an open model; its server starts when it is the model's turn.

        Raises:
            TapirError: as `prepare_backbone` or `StudentServer.start`.
        """
        endpoint = self.in_turn(*self.prepare(settings, field, self._report))
        secrets = list[str]()
        body = keys.with_environment(settings.extra_body, f"{field}.extra_body", secrets)
        return replace(
            endpoint, body_fields=body, thinking=settings.thinking, more_secrets=tuple(secrets), is_slow=True
        )

    def prepare(
        self, settings: cfg.VllmEndpoint, field: str, say: Callable[[str], object]
    ) -> tuple[vllm.VllmServer, student_server.Student]:
        """The server of an open model, not started, and the checkpoint, converted or downloaded at first use.

        Raises:
            TapirError: as `prepare_backbone`.
        """
        with self._preparing:
            if settings not in self._models:
                say(f"preparing {settings.model}")
                folder = backbone.prepare_backbone(
                    settings.as_student, backbone.cache_of(self._root), field=f"{field}.model"
                )
                server = vllm.VllmServer(
                    settings.as_student,
                    self._log_of("teacher"),
                    self._report,
                    served_as=student_server.ServedAs(settings.model, "teacher's server", field),
                )
                self._models[settings] = server, student_server.Student(paths.BACKBONE, folder, "")
            if self._aborted:
                raise errors.EngineError("the teacher's server was told to stop")
            return self._models[settings]

    def in_turn(self, students: student_server.Students, student: student_server.Student) -> Endpoint:
        """As `Students.endpoint`, after the server of another model has gone to rest."""
        with self._turn:
            if self._served is not students:
                self.end_turn()
                self._make_room(students.needs(student), students)
                students.gpus, self._served = self.gpus, students
            # Under the lock: only one server of this process can have the GPUs.
            return students.endpoint(student)

    def end_turn(self) -> None:
        """Let the server whose turn it is rest, and return when its accelerators are free."""
        with self._turn:
            if self._served is not None:
                self._served.rest()
                self._resting.append(self._served)
                self._served = None

    def free(self, needed: int | None) -> None:
        """As `end_turn`, for work that takes so many bytes of each GPU, or of a machine without; None if unknown."""
        with self._turn:
            self.end_turn()
            self._make_room(needed)

    def _make_room(self, needed: int | None, wanted: student_server.Students | None = None) -> None:
        """End those that rest, but ``wanted``, where they leave less than so many bytes."""
        resting = [each for each in self._resting if each is not wanted]
        if needed is None or (resting and machine.free_memory() < needed):
            for each in resting:
                each.stop()
            resting = []
        self._resting = resting

    def abort(self) -> None:
        """Make all callers that wait for an open model give up; from any thread."""
        self._aborted = True
        for server, _ in list(self._models.values()):
            server.abort()

    def close(self) -> None:
        """End every server that was started."""
        with self._lock:
            for server, _ in list(self._models.values()):
                server.close()
            self._started.close()

    def _start(self, settings: cfg.StandinEndpoint) -> str:
        log = self._log_of("standin")
        if not self._standins:
            self._started.enter_context(logs.follow_log("stand-in", log))
        with supervisor.reserved_port(machine.LOOPBACK) as port:
            behaviour = {name: getattr(settings, name) for name in ("position_bias", "noise", "prefers", "logprobs")}
            argv = [
                *(sys.executable, "-m", "tapir_core.standin.server"),
                json.dumps([port, settings.latency_ms, behaviour]),
            ]
            env, url = keys.keyless_environment(), f"http://{machine.LOOPBACK}:{port}"
            child = supervisor.start_child(argv, env=env, log_path=log, name="stand-in")
            self._standins[settings] = child, url
            self._started.callback(child.terminate, grace_seconds=2)
            for waited in student_server.waits_until_healthy(url):
                if child.poll() is not None or waited > _START_TIMEOUT_SECONDS:
                    child.terminate(grace_seconds=1)
                    raise errors.EngineError(f"the stand-in did not start; its log is {log}")
        return url


def endpoint_of(config: cfg.OpenAIEndpoint, field: str, concurrency: int) -> Endpoint:
    """The endpoint that a configuration describes, with its key and the values of environment variables.

    Args:
        config: The configuration.
        field: Its name in messages.
        concurrency: Most calls in flight to one of its addresses.

    Raises:
        MissingPrerequisite: the key is not there, or a variable is not set.
    """
    key, secrets = keys.api_key(config.api_key_env, field, file=config.api_key_file), list[str]()
    price = price_of(config)
    # Without a price 0 is booked: `missing_prices` then refuses a cap on USD.
    per_million = price.in_mode(config.mode) if isinstance(price, Price) else Price("nobody")
    headers, query, body = (
        keys.with_environment(getattr(config, each), f"{field}.{each}", secrets)
        for each in ("headers", "query", "body_fields")
    )
    # It may be a model on one processor: slow, and vLLM crashes there on a seed.
    local = is_local(config.base_urls[0])
    # OpenAI's own models want max_completion_tokens; most other servers know max_tokens only.
    of_openai = urlsplit(config.base_urls[0]).hostname == "api.openai.com"
    return Endpoint(
        base_url=config.base_urls[0],
        more_base_urls=config.base_urls[1:],
        concurrency=concurrency,
        api_key=key,
        api_key_env=config.api_key_env,
        api_key_file=config.api_key_file,
        key_header=config.key_header,
        headers=headers,
        query=query,
        body_fields=body,
        more_secrets=tuple(secrets),
        proxy=config.proxy,
        thinking=config.thinking,
        tokens_field=config.tokens_field or ("max_completion_tokens" if of_openai else "max_tokens"),
        seed=not local if config.seed is None else config.seed,
        is_slow=local,
        requests_per_minute=config.requests_per_minute,
        tokens_per_minute=config.tokens_per_minute,
        usd_per_million_prompt_tokens=per_million.usd_per_million_prompt_tokens,
        usd_per_million_completion_tokens=per_million.usd_per_million_completion_tokens,
        batch=config.in_batches,
    )


@cfg.by_kind(cfg.EndpointConfig)
def endpoint_source(endpoint: cfg.EndpointConfig, endpoints: Endpoints, field: str) -> EndpointSource:
    """Returns the endpoint of a configuration when a call must be made; ``field`` names it in messages.

    Raises:
        MissingPrerequisite: its key is not set, or, when called, nothing listens.
    """
    raise NotImplementedError  # never runs: `by_kind` names the kind that lacks it


@endpoint_source.register
def _(endpoint: cfg.OpenAIEndpoint, endpoints: Endpoints, field: str) -> EndpointSource:
    configured = endpoint_of(endpoint, field, endpoints.concurrency)

    def source() -> Endpoint:
        endpoints.reach(configured.base_urls, field, configured.proxy)
        return configured

    return source


@endpoint_source.register
def _(endpoint: cfg.StandinEndpoint, endpoints: Endpoints, _field: str) -> EndpointSource:
    return lambda: endpoints.standin(endpoint)


@endpoint_source.register
def _(endpoint: cfg.VllmEndpoint, endpoints: Endpoints, field: str) -> EndpointSource:
    return lambda: endpoints.model(endpoint, field)


class EndpointStudents(student_server.Students):
    """The `Students` of an engine that others run."""

    def endpoint(self, _student: student_server.Student) -> Endpoint:
        """As `Students.endpoint`; raises MissingPrerequisite when the server's key is not set."""
        engine: EndpointEngine = self.engine
        return Endpoint(
            engine.base_url,
            engine.concurrency,
            api_key=keys.api_key(engine.api_key_env, "student.engine"),
            api_key_env=engine.api_key_env,
            seed=not is_local(engine.base_url) if engine.seed is None else engine.seed,
        )


student_server.serve(EndpointEngine, EndpointStudents)
