"""What is there: training runs, checkpoints, sessions, samplers; and checkpoints as files.

    router(service, desk)

Newest first, a page at a time. What belongs to another key is not there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from evolute.server.bodies import read
from evolute.server.errors import FieldError
from evolute.server.tenants import owner_of
from evolute.train.tinker import bodies
from evolute.train.tinker.checkpoints import KINDS, SCHEME, parse
from evolute.train.tinker.desk import Desk
from evolute.train.tinker.records import Checkpoint, Model, Sampler, Session
from evolute.train.tinker.service import Service

MAX_PAGE = 1000
Work = Callable[[str], dict[str, Any]]


def router(service: Service, desk: Desk) -> APIRouter:
    made = APIRouter()
    _runs(made, service, desk)
    _sessions(made, service, desk)
    _about_weights(made, service, desk)
    _files(made, service, desk)
    return made


# -- internals ---------------------------------------------------------------


async def _answer(request: Request, work: Work) -> JSONResponse:
    return JSONResponse(await asyncio.to_thread(work, owner_of(request) or ""))


def _runs(made: APIRouter, service: Service, desk: Desk) -> None:
    store = service.store

    @made.get("/training_runs", response_model=None)
    async def runs(request: Request) -> JSONResponse:
        limit, offset = _page(request)

        def work(owner: str) -> dict[str, Any]:
            rows, total = store.page(Model, limit, offset, "owner = ?", owner)
            shown = [_run(service, row) for row in rows]
            return {"training_runs": shown, "cursor": _cursor(limit, offset, total)}

        return await _answer(request, work)

    @made.get("/training_runs/{run}", response_model=None)
    async def one_run(request: Request, run: str) -> JSONResponse:
        return await _answer(request, lambda owner: _run(service, desk.model(run, owner)))

    @made.get("/training_runs/{run}/checkpoints", response_model=None)
    async def of_run(request: Request, run: str) -> JSONResponse:
        return await _answer(request, lambda owner: _of_model(service, desk.model(run, owner).id))

    @made.get("/models/{run}/checkpoints", response_model=None)
    async def of_model(request: Request, run: str) -> JSONResponse:
        return await _answer(request, lambda owner: _of_model(service, desk.model(run, owner).id))

    @made.get("/checkpoints", response_model=None)
    async def checkpoints(request: Request) -> JSONResponse:
        limit, offset = _page(request)

        def work(owner: str) -> dict[str, Any]:
            rows, total = store.page(Checkpoint, limit, offset, "owner = ?", owner)
            shown = [_checkpoint(row) for row in rows]
            return {"checkpoints": shown, "cursor": _cursor(limit, offset, total)}

        return await _answer(request, work)


def _sessions(made: APIRouter, service: Service, desk: Desk) -> None:
    store = service.store

    @made.get("/sessions", response_model=None)
    async def sessions(request: Request) -> JSONResponse:
        limit, offset = _page(request)

        def work(owner: str) -> dict[str, Any]:
            rows, _ = store.page(Session, limit, offset, "owner = ?", owner)
            return {"sessions": [row.id for row in rows]}

        return await _answer(request, work)

    @made.get("/sessions/{session_id}", response_model=None)
    async def session(request: Request, session_id: str) -> JSONResponse:
        def work(owner: str) -> dict[str, Any]:
            row = desk.session(session_id, owner, is_ended_fine=True)
            models = store.find(Model, "session_id = ?", row.id)
            samplers = store.find(Sampler, "session_id = ?", row.id)
            return {
                "training_run_ids": [model.id for model in models],
                "sampler_ids": [sampler.id for sampler in samplers],
                "user_metadata": row.extra.get("user_metadata"),
                "display_name": row.extra.get("display_name"),
            }

        return await _answer(request, work)

    @made.get("/samplers/{sampler_id}", response_model=None)
    async def sampler(request: Request, sampler_id: str) -> JSONResponse:
        def work(owner: str) -> dict[str, Any]:
            row = desk.sampler(sampler_id, owner)
            told = {"sampler_id": row.id, "base_model": row.base_model}
            return told | ({"model_path": row.model_path} if row.model_path else {})

        return await _answer(request, work)


def _about_weights(made: APIRouter, service: Service, desk: Desk) -> None:
    @made.post("/get_info", response_model=None)
    async def info(request: Request) -> JSONResponse:
        body, owner = await read(request, bodies.ModelBody), owner_of(request) or ""
        row = await asyncio.to_thread(desk.model, body.model_id, owner)
        data = {"arch": service.model.architecture, "model_name": row.base_model}
        tokenizer = service.config.tokenizer
        answer = {
            "type": "get_info",
            "model_data": data | ({"tokenizer_id": tokenizer} if tokenizer else {}),
            "model_id": row.id,
            "is_lora": True,
            "lora_rank": row.rank,
            "model_name": row.base_model,
        }
        return JSONResponse(answer)

    @made.post("/weights_info", response_model=None)
    async def weights_info(request: Request) -> JSONResponse:
        body, owner = await read(request, bodies.WeightsInfoBody), owner_of(request) or ""
        row = await asyncio.to_thread(desk.checkpoint, body.tinker_path, owner)
        targets = row.extra["targets"]
        answer = {
            "base_model": row.extra["base_model"],
            "is_lora": True,
            "lora_rank": row.extra["rank"],
            "train_unembed": False,
            "train_mlp": "up_proj" in targets,
            "train_attn": "q_proj" in targets,
        }
        return JSONResponse(answer)


def _files(made: APIRouter, service: Service, desk: Desk) -> None:
    place = "/training_runs/{run}/checkpoints/{kind}/{name}"

    def find(request: Request, run: str, kind: str, name: str) -> Checkpoint:
        return desk.checkpoint(f"{SCHEME}{run}/{kind}/{name}", owner_of(request) or "")

    @made.delete(place, response_model=None)
    async def delete(request: Request, run: str, kind: str, name: str) -> Response:
        row = await asyncio.to_thread(find, request, run, kind, name)
        await asyncio.to_thread(service.remove, row)
        return Response(status_code=204)

    @made.get(f"{place}/archive", response_model=None)
    async def archive(request: Request, run: str, kind: str, name: str) -> Response:
        await asyncio.to_thread(find, request, run, kind, name)
        url = str(request.url).partition("?")[0].removesuffix("/archive") + "/download"
        return RedirectResponse(url, 302)

    @made.get(f"{place}/download", response_model=None)
    async def download(request: Request, run: str, kind: str, name: str) -> Response:
        row = await asyncio.to_thread(find, request, run, kind, name)
        content = await asyncio.to_thread(service.checkpoints.archive, parse(row.path))
        headers = {"Content-Disposition": f'attachment; filename="{name}.tar.gz"'}
        return Response(content, media_type="application/gzip", headers=headers)

    @made.put(f"{place}/ttl", response_model=None)
    async def ttl(request: Request, run: str, kind: str, name: str) -> Response:
        body = await read(request, bodies.TtlBody)
        row = await asyncio.to_thread(find, request, run, kind, name)
        expires = time.time() + body.ttl_seconds if body.ttl_seconds else None
        await asyncio.to_thread(service.store.change, Checkpoint, row.path, expires_at=expires)
        return Response(status_code=204)


def _of_model(service: Service, model_id: str) -> dict[str, Any]:
    rows = service.store.find(Checkpoint, "model_id = ?", model_id)
    return {"checkpoints": [_checkpoint(row) for row in rows]}


def _run(service: Service, row: Model) -> dict[str, Any]:
    found = service.store.find(Checkpoint, "model_id = ?", row.id)
    last = {checkpoint.kind: _checkpoint(checkpoint) for checkpoint in found}
    metadata = row.extra.get("user_metadata")
    return {
        "training_run_id": row.id,
        "base_model": row.base_model,
        "model_owner": row.owner or "nobody",
        "is_lora": True,
        "corrupted": row.status == "failed",
        "lora_rank": row.rank,
        "last_request_time": _time(row.used_at),
        "last_checkpoint": last.get("weights"),
        "last_sampler_checkpoint": last.get("sampler_weights"),
        "user_metadata": metadata and {k: str(v) for k, v in metadata.items()},
    }


def _checkpoint(row: Checkpoint) -> dict[str, Any]:
    return {
        "checkpoint_id": f"{row.kind}/{row.name}",
        "checkpoint_type": KINDS[row.kind],
        "time": _time(row.created_at),
        "tinker_path": row.path,
        "size_bytes": row.num_bytes,
        "public": False,
        "user_metadata": row.extra.get("user_metadata"),
        "expires_at": None if row.expires_at is None else _time(row.expires_at),
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _cursor(limit: int, offset: int, total: int) -> dict[str, int]:
    return {"offset": offset, "limit": limit, "total_count": total}


def _page(request: Request) -> tuple[int, int]:
    found = []
    for name, default, most in (("limit", 20, MAX_PAGE), ("offset", 0, 2**62)):
        text = request.query_params.get(name, str(default))
        if not text.isdecimal() or len(text) > 18 or int(text) > most:
            raise FieldError(f"{name} is {text!r}; it must be 0 to {most}.", param=name)
        found.append(int(text))
    return found[0], found[1]
