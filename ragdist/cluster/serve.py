"""A run over HTTP by Ray Serve: replicas that each hold its models, behind a proxy on every machine that has one.

The token is no part of what Ray is told: each replica reads it where it runs, and holds it against a fingerprint.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, redirect_stderr, suppress
from io import StringIO
from threading import Event
from typing import Any

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig, HTTPOptions
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus, LoggingConfig

from ragdist import errors
from ragdist.cluster import session
from ragdist.config import ServeConfig, Settings
from ragdist.errors import ConfigError, RagdistError, Stopped, TrainError
from ragdist.tracking.progress import say
from ragdist.tracking.signals import stop_on_signal

Opened = Callable[[], AbstractContextManager[Any]]
DEPLOYMENT = "replica"
NAMESPACE = "serve"
"""Where Ray Serve's own actors are."""
TRIES = 2
"""Of a replica's start: what is wrong with a folder or a token stays so."""
POLL_S, SAY_EVERY_S = 0.5, 30.0
MORE_AFTER_S, FEWER_AFTER_S = 10.0, 300.0
"""So long must more or fewer requests come before a replica comes or goes: it reads its models anew."""
GONE_S = 30.0
"""What Ray has to take a replica away that has no request any more, in seconds."""
SAID = re.compile(r"ragdist\.errors\.(\w+): ([^\n]+)")


class Replica:
    """The models of a run and its application, for as long as a replica lives.

    Args:
        opened: gives the ASGI application.
    """

    def __init__(self, opened: Opened) -> None:
        self.opened, self._until = opened, ExitStack()

    def __serve_build_asgi_app__(self) -> Any:
        return self._until.enter_context(self.opened())

    def __del__(self) -> None:
        self._until.close()


def application(opened: Opened, config: ServeConfig) -> serve.Application:
    """What Ray Serve is given.

    Args:
        opened: gives the ASGI application of a replica, on the machine of the replica.
        config: how many replicas there are, of which size, and the bounds.
    """
    most = config.concurrent + config.waiting
    options: dict[str, Any] = {"num_replicas": config.replicas}
    if config.max_replicas > config.replicas:
        scaling = AutoscalingConfig(
            min_replicas=config.replicas,
            max_replicas=config.max_replicas,
            target_ongoing_requests=config.concurrent,
            upscale_delay_s=MORE_AFTER_S,
            downscale_delay_s=FEWER_AFTER_S,
        )
        options = {"autoscaling_config": scaling}
    deployed = serve.deployment(
        serve.ingress()(Replica),
        name=DEPLOYMENT,
        ray_actor_options={"num_cpus": config.cpus_per_replica, "num_gpus": config.gpus_per_replica},
        max_ongoing_requests=most,
        max_queued_requests=most,
        graceful_shutdown_wait_loop_s=POLL_S,
        graceful_shutdown_timeout_s=config.proxy_timeout_s,
        health_check_period_s=5,
        max_constructor_retry_count=TRIES,
        logging_config=LoggingConfig(log_level="WARNING", enable_access_log=False),
        **options,
    )
    return deployed.bind(opened)


def run(opened: Opened, name: str, settings: Settings) -> None:
    """Has replicas answer until SIGTERM or Ctrl-C; what is under way then is answered first.

    Args:
        opened: gives the ASGI application of a replica, on the machine of the replica.
        name: the application's.
        settings: of `serve` and `cluster`.

    Raises:
        ConfigError: the cluster cannot be reached or has no room, the port is taken, or a replica says so.
        TrainError: no replica starts.
    """
    config = settings.serve
    if not config.port:
        raise ConfigError("serve.port=0 takes any free port of this machine alone; on a cluster set serve.port")
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    joined = settings.cluster.model_copy(update={"workers": 1, "cpus_per_worker": 0.01, "gpus_per_worker": 0.0})
    with ExitStack() as until:
        until.enter_context(session.connect(joined))
        stop = until.enter_context(_until_stopped())
        until.enter_context(_listening(config))
        if until.enter_context(_deployed(opened, name, settings, stop)):
            host = f"[{config.host}]" if ":" in config.host else config.host
            sys.stdout.write(f"http://{host}:{config.port}/v1\n")
            sys.stdout.flush()
            say(f"serving {name} by {config.replicas} replicas; Ctrl-C ends")
            stop.wait()
    say("ended")


@contextmanager
def _until_stopped() -> Iterator[Event]:
    """An event that SIGTERM or Ctrl-C sets; to end so is to end well."""
    try:
        with stop_on_signal(what="what is under way is answered first") as stop:
            yield stop
    except Stopped:
        return


@contextmanager
def _listening(config: ServeConfig) -> Iterator[None]:
    """Ray Serve with its proxies; it ends with the block, unless others use it."""
    wanted = f"serve.host={config.host} serve.port={config.port}"
    options = HTTPOptions(host=config.host, port=config.port, request_timeout_s=config.proxy_timeout_s)
    try:
        serve.start(proxy_location="EveryNode", http_options=options, logging_config=LoggingConfig(log_level="WARNING"))
    except RuntimeError as error:
        serve.shutdown()
        raise ConfigError(
            f"{wanted} cannot be listened on by all machines: {_short(error)}; set serve.port to a free port"
        ) from None
    there = serve.context._get_global_client().http_config
    if (there.host, there.port) != (config.host, config.port):
        raise ConfigError(
            f"{wanted}, and this cluster's Ray Serve listens at {there.host}:{there.port} for others already; set both "
            "to that, or use another cluster"
        )
    try:
        yield
    finally:
        if not serve.status().applications:
            with redirect_stderr(StringIO()):  # Ray says that the controller is dead, which is what was asked for
                serve.shutdown()


@contextmanager
def _deployed(opened: Opened, name: str, settings: Settings, stop: Event) -> Iterator[bool]:
    """Whether the application answers on the cluster, in place of one of that name; it is gone after the block."""
    target = serve.RunTarget(application(opened, settings.serve), name=name, route_prefix="/")
    try:
        serve.run_many([target], wait_for_applications_running=False)
    except RayServeException as error:
        raise ConfigError(f"Ray Serve does not take {name!r}: {_short(error)}; end what it serves already") from None
    answers = False
    try:
        answers = _wait(name, settings, stop)
        yield answers
    finally:
        serve.delete(name, _blocking=False)
        end = time.monotonic() + settings.serve.proxy_timeout_s + GONE_S
        while name in serve.status().applications and time.monotonic() < end:
            if not answers:
                _kill_replicas(name)
            time.sleep(POLL_S)


def _kill_replicas(name: str) -> None:
    """Ends those that were not to answer any more: Ray gives them the time of a last answer even where none begins."""
    for one in ray.util.list_named_actors(all_namespaces=True):
        if one["namespace"] == NAMESPACE and one["name"].startswith(f"SERVE_REPLICA::{name}#"):
            with suppress(ValueError):  # it is gone
                ray.kill(ray.get_actor(one["name"], namespace=NAMESPACE))


def _wait(name: str, settings: Settings, stop: Event) -> bool:
    """Returns when all replicas answer, or it is stopped before: whether they answer."""
    config = settings.serve
    start = said = time.monotonic()
    each = f"{config.cpus_per_replica:g} CPUs and {config.gpus_per_replica:g} GPUs"
    while not stop.wait(POLL_S):
        found = serve.status().applications[name]
        if found.status is ApplicationStatus.RUNNING:
            return True
        text = f"{found.message} {' '.join(one.message for one in found.deployments.values())}"
        if found.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
            raise failure(text)
        now = time.monotonic()
        short = f"serve.replicas={config.replicas} with {each} each do not all answer, the cluster has {session.room()}"
        if now - start > settings.cluster.start_timeout_s:
            raise ConfigError(
                f"{short}; lower serve.replicas, serve.cpus_per_replica or serve.gpus_per_replica, add machines, or "
                "raise cluster.start_timeout_s"
            )
        if now - said > SAY_EVERY_S:
            said = now
            say(f"waiting: {short}; {now - start:.0f} s of at most {settings.cluster.start_timeout_s:.0f}")
    return False


def failure(text: str) -> RagdistError:
    """The error of a replica that did not start, of all that Ray says about it."""
    if own := SAID.search(text):
        kind = getattr(errors, own[1], TrainError)
        return kind(f"a replica does not start: {own[2].strip()}")  # type: ignore[no-any-return]
    return TrainError(f"no replica starts: {_short(text)}; `ray logs` of the cluster has the story")


def _short(error: object) -> str:
    """The last line that says something, which is where a traceback has its reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
