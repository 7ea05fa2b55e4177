"""Who is asking? API keys, the tenants behind them, and whom to bill when a key names nobody.

    Tenants.of(["KEY", "alice=KEY"], file=..., admin_key=...)
    gate(tenants)                           a dependency: 401 without a valid key
    enter(request, user=..., adapter=...)   the request's tenant, its place taken; 429 when full
    owner_of(request)                       whose limits bind it: the key's tenant, or the key
    request_id(request, rid)                a client's id as the engine knows it

The tenant of a request is its key's, else the body's `user`, else the adapter, else "default".
Service is shared out by tenants. A key that names no tenant has limits of its own beside those of
each `user`, so that inventing users gains nothing, and it cannot name a tenant that has keys. The
file is TOML, a section for each tenant:

    [alice]
    keys = ["sk-..."]
    weight = 2.0
    max_in_flight = 8
    requests_per_minute = 600
"""

from __future__ import annotations

import hashlib
import hmac
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import Request

from evolute.server.errors import FieldError
from evolute.server.limits import Limits
from evolute.types import ConfigError
from evolute.types.settings import from_mapping

NAME = re.compile(r"[A-Za-z0-9_.@-]{1,64}")
MAX_NAME_CHARS = 256  # of a `user`
OPEN_PATHS = {
    "/",
    "/health",
    "/health_generate",
    "/ready",
    "/ping",
}  # "/" is a page that holds no figures
ADMIN_PATHS = {
    *("/flush_cache", "/load_lora_adapter", "/unload_lora_adapter", "/pause_generation"),
    *("/continue_generation", "/update_weights_from_disk", "/update_weights_from_tensor"),
    *("/get_weights_by_name", "/set_internal_state"),
}


@dataclass(frozen=True, slots=True)
class TenantSettings:
    """One section of a tenants file."""

    keys: tuple[str, ...] = ()
    weight: float = 1.0  # share of the engine against the others
    max_in_flight: int = 0  # 0: as for everybody
    requests_per_minute: int = 0

    def __post_init__(self) -> None:
        if not self.weight > 0 or self.weight == float("inf"):
            raise ConfigError(f"a tenant's weight is {self.weight}; it must be above 0.")
        if self.max_in_flight < 0 or self.requests_per_minute < 0:
            raise ConfigError("a tenant's limits must be at least 0, which sets none of its own.")


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a key belongs to; a key without a tenant leaves the name to the body."""

    tenant: str | None
    is_admin: bool = False
    owner: str = ""  # whose limits bind it


@dataclass(frozen=True, slots=True)
class Tenants:
    """All keys. Without any, everybody may call everything."""

    keys: Mapping[bytes, Caller] = field(default_factory=dict)
    settings: Mapping[str, TenantSettings] = field(default_factory=dict)
    has_admin_key: bool = False

    @classmethod
    def of(
        cls,
        api_keys: Sequence[str] | None = None,
        *,
        file: str | Path | None = None,
        admin_key: str | None = None,
    ) -> Tenants:
        """Raises ConfigError for a damaged file or a key that two tenants claim."""
        settings = _read(Path(file)) if file else {}
        pairs = [_split(key) for key in api_keys or ()]
        pairs += [(name, key) for name, one in settings.items() for key in one.keys]
        keys: dict[bytes, Caller] = {}
        for name, key in pairs:
            caller = Caller(name, owner=name or _digest(key))
            if keys.setdefault(key.encode(), caller).tenant != name:
                raise ConfigError("one API key is given to two tenants; make a key for each.")
        if admin_key:
            if admin_key.encode() in keys:
                raise ConfigError("the admin key is also a tenant's; make a key of its own.")
            keys[admin_key.encode()] = Caller(None, is_admin=True, owner=_digest(admin_key))
        return cls(keys, settings, bool(admin_key))

    def find(self, key: str) -> Caller | None:
        """The key's owner. Every known key is compared, so that the time tells nothing."""
        given, found = key.encode(), None
        for known, caller in self.keys.items():
            if hmac.compare_digest(given, known):
                found = caller
        return found

    def limits(self, everybody: Limits) -> dict[str, Limits]:
        """Limits by tenant, for those that have their own."""
        return {
            name: Limits(
                one.max_in_flight or everybody.max_in_flight,
                one.requests_per_minute or everybody.requests_per_minute,
            )
            for name, one in self.settings.items()
        }

    @property
    def names(self) -> frozenset[str]:
        """Tenants that have keys of their own."""
        return frozenset(caller.tenant for caller in self.keys.values() if caller.tenant)

    @property
    def weights(self) -> dict[str, float]:
        return {name: one.weight for name, one in self.settings.items()}


def gate(tenants: Tenants) -> Callable[[Request], None]:
    """Checks `Authorization: Bearer KEY` or `x-api-key: KEY`, and notes the tenant."""

    names = tenants.names

    def check(request: Request) -> None:
        path = request.url.path
        if path in ADMIN_PATHS:
            _refuse_pages_of_others(request)
        if not tenants.keys or path in OPEN_PATHS:
            return
        caller = tenants.find(_given_key(request))
        if caller is None:
            text = "no valid API key; send the header 'Authorization: Bearer KEY'."
            raise FieldError(text, code="invalid_api_key", status=401)
        is_admin = caller.is_admin or (caller.tenant is None and not tenants.has_admin_key)
        if path in ADMIN_PATHS and not is_admin:
            how = "" if tenants.has_admin_key else "; start the server with --admin-key"
            text = f"{path} needs the admin key, and this one is a tenant's{how}."
            raise FieldError(text, code="invalid_api_key", status=401)
        request.state.tenant, request.state.is_admin = caller.tenant, is_admin
        request.state.owner = caller.owner
        request.state.tenants = () if caller.is_admin else names

    return check


def is_admin(request: Request) -> bool:
    """Whether the caller may do what concerns all tenants."""
    return bool(getattr(request.state, "is_admin", True))


def enter(request: Request, *, user: str | None, adapter: str | None) -> str:
    """The tenant's name. Raises TooManyRequests (429) when its limits are reached."""
    if user is not None and len(user) > MAX_NAME_CHARS:
        text = f"user has {len(user)} characters; at most {MAX_NAME_CHARS} are allowed."
        raise FieldError(text, param="user")
    name = tenant_of(request, user=user, adapter=adapter)
    for one in dict.fromkeys((owner_of(request) or name, name)):
        request.state.place.take(one)
    return name


def tenant_of(request: Request, *, user: str | None, adapter: str | None) -> str:
    """The name alone, with no place taken. Raises FieldError for another's."""
    own = getattr(request.state, "tenant", None)
    if own is None and user in getattr(request.state, "tenants", ()):
        text = f"user {user!r} has keys of its own; use one of them, or name another user."
        raise FieldError(text, param="user", code="invalid_api_key", status=403)
    return own or user or adapter or "default"


def owner_of(request: Request) -> str | None:
    """The key's tenant, or a digest of the key; None when the server asks for no keys."""
    return getattr(request.state, "owner", None)


def request_id(request: Request, rid: str) -> str:
    """The engine's id for a client's: what two tenants name alike are two requests."""
    owner = getattr(request.state, "tenant", None)
    return f"{owner}/{rid}" if owner else rid


def visible(request: Request, stats: dict[str, Any]) -> dict[str, Any]:
    """An engine's figures without those of tenants that are not the caller."""
    own = getattr(request.state, "tenant", None)
    if own is None or "tenants" not in stats:
        return stats
    return stats | {"tenants": [one for one in stats["tenants"] if one["tenant"] == own]}


# -- internals ---------------------------------------------------------------


def _refuse_pages_of_others(request: Request) -> None:
    """A page from elsewhere could send a bodyless POST here without asking first."""
    origin = request.headers.get("origin", "")
    is_foreign = origin and origin.partition("://")[2] != request.headers.get("host", "")
    if is_foreign or request.headers.get("sec-fetch-site") == "cross-site":
        text = f"{request.url.path} may not be called by a page of another site."
        raise FieldError(text, code="cross_site", status=403)


def _digest(key: str) -> str:
    """A name for a key that has none, which tells nothing about it."""
    return f"key {hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _given_key(request: Request) -> str:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    return request.headers.get("x-api-key", "").strip()


def _split(text: str) -> tuple[str | None, str]:
    """(tenant, key) of 'TENANT=KEY'; padding at a key's end is part of the key."""
    name, _, key = text.partition("=")
    if key.strip("=") and NAME.fullmatch(name):
        return name, key
    if not text:
        raise ConfigError("an API key is empty; write KEY or TENANT=KEY.")
    return None, text


def _read(path: Path) -> dict[str, TenantSettings]:
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"the tenants file {path} cannot be read: {error}.") from error
    found = {}
    for name, section in values.items():
        if not NAME.fullmatch(name) or not isinstance(section, dict):
            raise ConfigError(
                f"{path}: {name!r} is no section of a tenant; names have letters, digits and "
                "_.@-, e.g. [alice]."
            )
        found[name] = from_mapping(TenantSettings, section, f"{name}.")
        if not all(found[name].keys):
            raise ConfigError(f"{path}: {name} has an empty key; remove it.")
    return found
