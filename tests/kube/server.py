"""An API server in memory (kmock), in a thread, with a kubeconfig that leads there."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kmock
import yaml
from aiohttp import web

TOKEN = "token-of-a-test"
VERBS = {"verbs": {"create", "delete", "get", "list", "patch", "update", "watch"}, "namespaced": True}


@contextmanager
def emulated(folder: Path) -> Iterator[tuple[Any, Path]]:
    """(the emulator, a kubeconfig) of a server with KubeRay's kinds; it ends with the block."""
    emulator = kmock.KubernetesEmulator()
    emulator.resources.load_bundled()
    for plural, kind in (("rayjobs", "RayJob"), ("rayclusters", "RayCluster"), ("rayservices", "RayService")):
        emulator.resources[f"ray.io/v1/{plural}"] = {"kind": kind, "singular": kind.lower(), **VERBS}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    loop, ready = asyncio.new_event_loop(), threading.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await emulator(request)
        except kmock.KubernetesError as error:  # survives what a server answers with a status
            told = {"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": error.status}
            return web.json_response(told | {"message": error.message, "reason": error.reason}, status=error.status)

    async def serve() -> web.AppRunner:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        ready.set()
        return runner

    def run() -> None:
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(serve())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(20)
    try:
        yield emulator, kubeconfig(folder / "kubeconfig", f"http://127.0.0.1:{port}")
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)


def kubeconfig(path: Path, server: str) -> Path:
    """A kubeconfig with one context, `test`."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "here", "cluster": {"server": server}}],
        "users": [{"name": "me", "user": {"token": TOKEN}}],
        "contexts": [{"name": "test", "context": {"cluster": "here", "user": "me", "namespace": "ragdist"}}],
        "current-context": "test",
    }
    path.write_text(yaml.safe_dump(config))
    return path
