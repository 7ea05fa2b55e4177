"""What clients may do with sessions, models and samplers: checked, then noted or submitted.

    Desk(service)          one function for each verb of the API; the routes only read and write

Everything belongs to the owner of the key that made it; to others it is not there (404).
"""

from __future__ import annotations

import json
import secrets
import time
import uuid
from typing import Any

from evolute.models.config import ATTENTION, MLP
from evolute.server.errors import FieldError
from evolute.train.tinker import bodies
from evolute.train.tinker.checkpoints import parse
from evolute.train.tinker.records import (
    Checkpoint,
    Future,
    Kind,
    Model,
    Sampler,
    Session,
)
from evolute.train.tinker.service import Service, digest_of
from evolute.types import RequestError

UNEMBED = (
    "train_unembed is on, which is the client's default, but adapters of this server are on "
    "attention and MLP alone: the unembedding stays as it is."
)

USED_S = 60.0  # how exactly it is known when a sampler was used last
LIVE = "status = 'active' AND session_id IN (SELECT id FROM sessions WHERE state = 'active')"


class Desk:
    """All of it blocks for a moment (the database), so routes call it in a thread."""

    def __init__(self, service: Service) -> None:
        self._service, self._store = service, service.store

    # -- sessions --------------------------------------------------------------------

    def create_session(self, body: bodies.SessionBody, owner: str) -> dict[str, Any]:
        now, id = time.time(), str(uuid.uuid4())
        extra = body.model_dump(exclude={"type"})
        self._store.put(Session(id, owner, now, now, extra=extra))
        answer: dict[str, Any] = {"type": "create_session", "session_id": id}
        if self._service.config.unembed == "leave":
            answer["warning_message"] = UNEMBED
        return answer

    def heartbeat(self, session_id: str, owner: str) -> dict[str, Any]:
        """One that had expired lives again; one that its client finished does not."""
        session = self.session(session_id, owner, is_ended_fine=True)
        if session.state == "finished":
            raise _gone(f"session {session_id!r} was finished; begin another.")
        self._store.change(Session, session.id, seen_at=time.time(), state="active")
        return {"type": "session_heartbeat"}

    def finish(self, session_id: str, body: bodies.FinishBody, owner: str) -> dict[str, Any]:
        session = self.session(session_id, owner, is_ended_fine=True)
        if session.state != "finished":
            extra = session.extra | {"finish": body.model_dump()}
            self._store.change(Session, session.id, state="finished", extra=extra)
        return {}

    def session(self, id: str, owner: str, *, is_ended_fine: bool = False) -> Session:
        row = self._store.get(Session, id)
        if row is None or row.owner != owner:
            raise _unknown("session", id)
        if row.state == "finished" and not is_ended_fine:
            raise _gone(f"session {id!r} was finished; begin another.")
        if row.state == "expired" and not is_ended_fine:
            self._store.change(Session, id, seen_at=time.time(), state="active")
        return row

    # -- models ----------------------------------------------------------------------

    def create_model(self, body: bodies.CreateModelBody, owner: str) -> Future:
        session = self.session(body.session_id, owner)
        config, lora = self._service.config, body.lora_config
        if lora is None:
            raise FieldError(
                "lora_config is missing: only adapters are trained.", param="lora_config"
            )
        if not 1 <= lora.rank <= config.max_rank:
            text = f"rank is {lora.rank}; it must lie in [1, {config.max_rank}]."
            raise FieldError(text, param="lora_config")
        if lora.train_unembed and config.unembed == "refuse":
            raise FieldError(f"{UNEMBED} Set it to false.", param="lora_config")
        targets = ATTENTION * lora.train_attn + MLP * lora.train_mlp
        if not targets:
            text = "neither train_attn nor train_mlp is on, so that nothing would be trained."
            raise FieldError(text, param="lora_config")
        seed = secrets.randbelow(2**31) if lora.seed is None else lora.seed
        extra = {"alpha": config.alpha, "user_metadata": body.user_metadata}
        extra["train_attn"], extra["train_mlp"] = lora.train_attn, lora.train_mlp
        base_model = self.base_name(body.base_model)
        now = time.time()
        model = Model(
            f"{session.id}:train:{body.model_seq_id}",
            owner,
            session.id,
            base_model,
            lora.rank,
            seed,
            tuple(targets),
            now,
            now,
            extra=extra,
        )
        return self._born(model, Kind.CREATE, body.model_dump())

    def load_new(self, body: bodies.LoadBody, owner: str) -> Future:
        """A model that begins as a checkpoint."""
        session = self.session(body.session_id or "", owner)
        saved = self.checkpoint(body.path, owner)
        base_model = self.base_name(body.base_model or saved.extra["base_model"])
        extra = {"alpha": saved.extra["alpha"], "user_metadata": body.user_metadata}
        now = time.time()
        model = Model(
            f"{session.id}:train:{body.model_seq_id}",
            owner,
            session.id,
            base_model,
            saved.extra["rank"],
            saved.extra["seed"],
            tuple(saved.extra["targets"]),
            now,
            now,
            extra=extra,
        )
        return self._born(model, Kind.LOAD, body.model_dump())

    def model(self, id: str, owner: str) -> Model:
        row = self._store.get(Model, id)
        if row is None or row.owner != owner:
            raise _unknown("model", id)
        return row

    def live_model(self, id: str, owner: str) -> Model:
        """One that takes requests."""
        row = self.model(id, owner)
        if row.status == "failed":
            raise _gone(f"model {id!r} could not be made; its first request says why.")
        if row.status != "active":
            raise _gone(f"model {id!r} was unloaded; load a checkpoint as a new one.")
        self.session(row.session_id, owner)
        return row

    def ask(
        self, kind: Kind, model_id: str, seq: int | None, body: Any, owner: str, **given: Any
    ) -> Future:
        """A request of a model: a dict, or the bytes of a protocol buffer with its digest."""
        row = self.live_model(model_id, owner)
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        digest = given.pop("digest", None) or digest_of(body)
        id = given.pop("id", None)
        return self._service.submit(
            kind,
            owner=owner,
            session_id=row.session_id,
            model_id=row.id,
            seq=seq,
            payload=payload,
            digest=digest,
            id=id,
            **given,
        )

    def pause(self, model_id: str, owner: str, *, is_paused: bool) -> dict[str, Any]:
        """A paused model's requests wait, its samples too; everybody else's go on."""
        row = self.live_model(model_id, owner)
        extra = row.extra | {"paused": is_paused}
        self._store.change(Model, row.id, extra=extra)
        (self._service.queue.pause if is_paused else self._service.queue.resume)(row.id)
        return {"model_id": row.id, "paused": is_paused}

    # -- samplers --------------------------------------------------------------------

    def create_sampler(self, body: bodies.SamplerBody, owner: str) -> dict[str, Any]:
        session = self.session(body.session_id, owner)
        id = f"{session.id}:sample:{body.sampling_session_seq_id}"
        base_model, model_id = self._sampled(body.base_model, body.model_path, owner)
        now = time.time()
        sampler = Sampler(id, owner, session.id, base_model, body.model_path, now, now, model_id)
        with self._store.transaction():
            known = self._store.get(Sampler, id)
            if known is not None and known.model_path != body.model_path:
                raise FieldError(f"sampling session {id!r} exists with other weights.")
            if known is None:
                self._store.put(sampler)
        return {"type": "create_sampling_session", "sampling_session_id": id}

    def sampler(self, id: str, owner: str) -> Sampler:
        row = self._store.get(Sampler, id)
        if row is None or row.owner != owner:
            raise _unknown("sampling session", id)
        return row

    def sample(self, body: bodies.SampleBody, owner: str) -> Future:
        if body.sampling_session_id is not None:
            sampler = self.sampler(body.sampling_session_id, owner)
            self.session(sampler.session_id, owner)
            now = time.time()
            if now - sampler.used_at > USED_S:
                self._store.change(Sampler, sampler.id, used_at=now)
            session_id, model_id = sampler.session_id, sampler.model_id
        else:
            _, model_id = self._sampled(body.base_model, body.model_path, owner)
            session_id = owner or "nobody"
        given = json.loads(body.model_dump_json())
        seq = body.seq_id if body.sampling_session_id is not None else None
        return self._service.submit(
            Kind.SAMPLE,
            owner=owner,
            session_id=session_id,
            model_id=model_id,
            seq=seq,
            payload=json.dumps(given).encode(),
            digest=digest_of(given),
            id=None if seq is None else f"{body.sampling_session_id}:{seq}",
        )

    # -- names -----------------------------------------------------------------------

    def checkpoint(self, path: str, owner: str) -> Checkpoint:
        row = self._store.get(Checkpoint, str(parse(path)))
        if row is None or row.owner != owner:
            raise _unknown("checkpoint", path)
        return row

    def future(self, id: str, owner: str) -> Future:
        row = self._store.get(Future, id)
        if row is None or row.owner != owner:
            raise _unknown("request", id)
        return row

    def base_name(self, name: str) -> str:
        """As the client wrote it. Raises FieldError for one that is not served."""
        known = self._service.names
        if name not in known and name != "default":
            text = f"base_model {name!r} is not served here; {', '.join(known)} is."
            raise FieldError(text, param="base_model", code="model_not_found", status=404)
        return name

    # -- internals -------------------------------------------------------------------

    def _born(self, model: Model, kind: Kind, body: dict[str, Any]) -> Future:
        """The model's row and its first request, or neither."""

        def put() -> None:
            live = self._store.count(Model, LIVE)
            if live >= self._service.config.max_models:
                raise RequestError(
                    f"{live} models are live and {self._service.config.max_models} are allowed; "
                    "unload one, or start the server with a larger train.max_models."
                )
            if self._store.get(Model, model.id) is not None:
                raise RequestError(f"model {model.id!r} exists; take another model_seq_id.")
            self._store.put(model)

        return self._service.submit(
            kind,
            owner=model.owner,
            session_id=model.session_id,
            model_id=model.id,
            seq=None,
            payload=json.dumps(body).encode(),
            digest=digest_of(body),
            id=f"{model.id}:create",
            before=put,
        )

    def _sampled(
        self, base_model: str | None, path: str | None, owner: str
    ) -> tuple[str, str | None]:
        """Base and model that weights are of. Raises FieldError."""
        if path is None:
            if base_model is None:
                raise FieldError("neither base_model nor model_path is given.", param="base_model")
            return self.base_name(base_model), None
        saved = self.checkpoint(path, owner)
        if base_model is not None:
            self.base_name(base_model)
        return saved.extra["base_model"], saved.model_id


def _unknown(what: str, id: str) -> FieldError:
    return FieldError(f"no {what} {id!r} is known here.", code="not_found", status=404)


def _gone(text: str) -> FieldError:
    return FieldError(text, code="gone", status=400)
