"""Is the server able to answer? Told from the engine's heartbeat, never by a probe.

    Health(engine, traffic, stall_s).status() -> Status("ok" | "draining" | "stalled" | "stopped")
    router(health)             GET /health, and by its other names /health_generate, /ready, /ping

An engine that has work and completes no step for `stall_s` is stalled, whether its thread hangs or
turns without progress; one that waits for work is well. Long prompts do not count against it, as
each of their chunks is a step of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from evolute.server import admin
from evolute.server.limits import Traffic
from evolute.types import Backend

STALL_S = 60.0


@dataclass(frozen=True, slots=True)
class Status:
    name: str
    reason: str = ""

    @property
    def is_ok(self) -> bool:
        return self.name == "ok"


class Health:
    """What is known of the engine without asking it anything that could hang."""

    def __init__(self, engine: Backend, traffic: Traffic, stall_s: float = STALL_S) -> None:
        self._engine, self._traffic, self._stall_s = engine, traffic, stall_s

    def status(self) -> Status:
        if not admin.is_alive(self._engine):
            why = admin.complaint(self._engine) or "the engine's thread has ended"
            return Status("stopped", f"{why}; restart the server if that lasts")
        busy_s = admin.busy_s(self._engine)
        if busy_s > self._stall_s:
            text = f"the engine has work but has completed no step for {busy_s:.0f} s"
            return Status("stalled", text)
        if self._traffic.is_draining:
            return Status("draining", "the server is shutting down")
        return Status("ok", admin.complaint(self._engine))


def router(health: Health) -> APIRouter:
    router = APIRouter()

    @router.get("/health")
    @router.get("/health_generate")
    @router.get("/ready")
    @router.get("/ping")
    async def answer() -> JSONResponse:
        status = health.status()
        body = {"status": status.name} | ({"reason": status.reason} if status.reason else {})
        headers = {} if status.is_ok else {"Retry-After": "5"}
        return JSONResponse(body, 200 if status.is_ok else 503, headers)

    return router
