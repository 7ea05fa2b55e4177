"""The paths of the training API, under /api/v1.

    routers(service) -> the APIRouter to mount

A request is read strictly (400 with the field's name), noted in the database, and answered with the
future's id; `retrieve_future` holds a poll until it has ended or `poll_s` are over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from evolute.server.bodies import StrictBody, read
from evolute.server.errors import FieldError
from evolute.server.tenants import owner_of
from evolute.train.tinker import bodies, listings, messages, results
from evolute.train.tinker.desk import Desk
from evolute.train.tinker.records import Future, Kind, Status
from evolute.train.tinker.sampling import MAX_SAMPLES
from evolute.train.tinker.service import Service, digest_of
from evolute.types import WireError

PREFIX = "/api/v1"
POLL_STEP_S = 1.0  # between looks whether the server drains
GONE = 410
REFUSED = {  # a client tries 5xx again for minutes, so these are a 400
    "create_custom_loss": "losses traced on the client run there (forward_backward_custom)",
    "save_weights_external": "every checkpoint is a PEFT directory already; download its archive",
    "copy_weights": "there are no projects; load the checkpoint as a new model",
    "join_sampling_session": "client/config says that clients take numbers of their own",
    "retrieve_futures": "client/config says that each future is polled by itself",
    "auth/token": "API keys are used as they are",
    "sessions/search": "sessions are listed, not searched",
}
Body = TypeVar("Body", bound=StrictBody)
CONFIG = {  # what clients may ask of this server; the rest stays at their own defaults
    "pjwt_auth_enabled": False,
    "credential_default_source": "api_key",
    "parallel_fwdbwd_chunks": True,
    "proto_compress_fwdbwd": False,
    "sample_use_retrieve_futures": False,
    "custom_loss_server_side": False,
    "sample_join_sampling_session": False,
}
DYNAMIC = {"refresh_interval_sec": 300, "sample_cancel_enabled": True}


def routers(service: Service) -> APIRouter:
    router = APIRouter(prefix=PREFIX)
    desk = Desk(service)
    _plain(router, service)
    _sessions(router, desk)
    _models(router, desk)
    _futures(router, service, desk)
    for path, reason in REFUSED.items():
        _refuse(router, path, reason)
    router.include_router(listings.router(service, desk))
    return router


# -- internals ---------------------------------------------------------------


def _post(router: APIRouter, path: str, kind: type[Body], work: Callable[[Body, str], Any]) -> None:
    """A path whose body is read as `kind` and answered with what `work` gives."""

    async def handle(request: Request) -> JSONResponse:
        body = await read(request, kind)
        found = await asyncio.to_thread(work, body, owner_of(request) or "")
        return JSONResponse(_acknowledged(found) if isinstance(found, Future) else found)

    router.post(path, response_model=None)(handle)


def _refuse(router: APIRouter, path: str, reason: str) -> None:
    async def handle(request: Request) -> JSONResponse:
        raise FieldError(f"{path} is not supported: {reason}.", code="not_supported")

    router.post(f"/{path}", response_model=None, include_in_schema=False)(handle)


def _acknowledged(future: Future) -> dict[str, Any]:
    answer: dict[str, Any] = {"request_id": future.id}
    if future.kind is not Kind.SAMPLE:
        answer["model_id"] = future.model_id
    return answer


def _plain(router: APIRouter, service: Service) -> None:
    @router.get("/healthz")
    async def healthz() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    @router.get("/get_server_capabilities")
    async def capabilities() -> JSONResponse:
        context = service.engine.config.context
        told = {"max_context_length": context, "trainable": True, "sampleable": True}
        return JSONResponse({"supported_models": [{"model_name": n} | told for n in service.names]})

    _post(router, "/client/config", bodies.ConfigBody, lambda body, owner: CONFIG)
    _post(router, "/client/dynamic_config", bodies.ConfigBody, lambda body, owner: DYNAMIC)
    accepted = {"status": "accepted"}  # and dropped: nothing is collected
    _post(router, "/telemetry", bodies.TelemetryBody, lambda body, owner: accepted)


def _sessions(router: APIRouter, desk: Desk) -> None:
    _post(router, "/create_session", bodies.SessionBody, desk.create_session)
    _post(
        router,
        "/session_heartbeat",
        bodies.HeartbeatBody,
        lambda body, owner: desk.heartbeat(body.session_id, owner),
    )
    _post(router, "/create_sampling_session", bodies.SamplerBody, desk.create_sampler)

    @router.post("/sessions/{session_id}/finish", response_model=None)
    async def finish(request: Request, session_id: str) -> JSONResponse:
        body, owner = await read(request, bodies.FinishBody), owner_of(request) or ""
        return JSONResponse(await asyncio.to_thread(desk.finish, session_id, body, owner))


def _models(router: APIRouter, desk: Desk) -> None:
    def ask(kind: Kind) -> Callable[[Any, str], Future]:
        def work(body: Any, owner: str) -> Future:
            seq = getattr(body, "seq_id", None)
            return desk.ask(kind, body.model_id, seq, body.model_dump(), owner)

        return work

    def load(body: bodies.LoadBody, owner: str) -> Future:
        is_new = body.session_id is not None and body.model_seq_id is not None
        if is_new == (body.model_id is not None):
            text = "give model_id, or session_id with model_seq_id, and not both."
            raise FieldError(text, param="model_id")
        desk.checkpoint(body.path, owner)
        return desk.load_new(body, owner) if is_new else ask(Kind.LOAD)(body, owner)

    _post(router, "/create_model", bodies.CreateModelBody, desk.create_model)
    _post(router, "/unload_model", bodies.ModelBody, ask(Kind.UNLOAD))
    _post(router, "/optim_step", bodies.StepBody, ask(Kind.STEP))
    _post(router, "/forward", bodies.ForwardBody, ask(Kind.FORWARD))
    _post(router, "/save_weights", bodies.SaveBody, ask(Kind.SAVE))
    _post(router, "/save_weights_for_sampler", bodies.SaveSamplerBody, ask(Kind.SAVE_SAMPLER))
    _post(router, "/load_weights", bodies.LoadBody, load)

    def pause(is_paused: bool) -> Callable[[bodies.ModelBody, str], Any]:
        return lambda body, owner: desk.pause(body.model_id, owner, is_paused=is_paused)

    _post(router, "/pause_model", bodies.ModelBody, pause(True))
    _post(router, "/resume_model", bodies.ModelBody, pause(False))

    @router.post("/forward_backward", response_model=None)
    async def forward_backward(request: Request) -> JSONResponse:
        owner = owner_of(request) or ""
        if not request.headers.get("content-type", "").startswith(results.PROTO):
            body = await read(request, bodies.ForwardBackwardBody)
            future = await asyncio.to_thread(ask(Kind.FORWARD_BACKWARD), body, owner)
        else:
            future = await asyncio.to_thread(_from_proto, desk, await _whole(request), owner)
        return JSONResponse(_acknowledged(future))


def _futures(router: APIRouter, service: Service, desk: Desk) -> None:
    def sample(body: bodies.SampleBody, owner: str) -> dict[str, Any]:
        future = desk.sample(body, owner)
        count = min(max(body.num_samples, 0), MAX_SAMPLES)
        ids = [f"{future.id}:{i}" for i in range(count)]
        return _acknowledged(future) | {"sample_sequence_ids": ids}

    def cancel(body: bodies.CancelBody, owner: str) -> dict[str, Any]:
        future = desk.future(body.request_id, owner)
        if future.kind is not Kind.SAMPLE:
            raise FieldError("only a sample can be cancelled.", param="request_id")
        if future.status is Status.PENDING:
            service.players.cancel(future.id)
        return {"request_id": future.id}

    _post(router, "/asample", bodies.SampleBody, sample)
    _post(router, "/cancel_future", bodies.CancelBody, cancel)

    @router.post("/retrieve_future", response_model=None)
    async def retrieve(request: Request) -> Response:
        body, owner = await read(request, bodies.RetrieveBody), owner_of(request) or ""
        await asyncio.to_thread(desk.future, body.request_id, owner)
        future = await _ended(request, service, body.request_id)
        wants = results.PROTO in request.headers.get("accept", "")
        return await asyncio.to_thread(_told, service, future, wants)


async def _ended(request: Request, service: Service, id: str) -> Future:
    """The future when it has ended, the poll is over, or the server drains."""
    traffic = request.app.state.traffic
    left_s = service.config.poll_s
    while True:
        step_s = min(POLL_STEP_S, left_s)
        future = await service.outcome(id, step_s)
        assert future is not None
        left_s -= step_s
        if future.status is not Status.PENDING or left_s <= 0 or traffic.is_draining:
            return future


def _told(service: Service, future: Future, wants_proto: bool) -> Response:
    if future.status is Status.PENDING:
        is_paused = service.queue.is_paused(future.model_id)
        answer = {
            "type": "try_again",
            "request_id": future.id,
            "queue_state": "paused_capacity" if is_paused else "active",
        }
        if is_paused:
            answer["queue_state_reason"] = "the model is paused; resume_model lets it go on."
        return JSONResponse(answer)
    if future.status is Status.FAILED:
        return JSONResponse({"error": future.error, "category": future.category})
    if future.result is None:
        text = f"the result of {future.id!r} was kept for {service.config.keep_result_s:g} s."
        raise FieldError(text, code="expired", status=GONE)
    kind, content = results.answer(future, wants_proto=wants_proto)
    return Response(content, media_type=kind)


def _from_proto(desk: Desk, raw: bytes, owner: str) -> Future:
    try:
        head = messages.read_head(raw)
        digest = digest_of(messages.canonical(raw))
    except WireError as error:
        raise FieldError(f"the body is damaged: {error}", code="bad_body") from None
    kind = Kind.FORWARD if head["forward_only"] else Kind.FORWARD_BACKWARD
    given = {"digest": digest, "format": "proto"}
    return desk.ask(kind, head["model_id"], head["seq_id"], raw, owner, **given)


async def _whole(request: Request) -> bytes:
    if request.headers.get("content-encoding", "identity") != "identity":
        text = "compressed bodies are not read; client/config says so."
        raise FieldError(text, code="bad_content_encoding")
    return await request.body()
