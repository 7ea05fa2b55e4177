"""Keys find their tenants; what is wrong with a key or a file is said before anything starts."""

import asyncio

import httpx
import pytest

from evolute.server import Limits, Tenants, create_app
from evolute.testing import ScriptedBackend
from evolute.types import ConfigError


def test_a_key_finds_its_tenant_and_a_plain_key_leaves_the_name_open():
    tenants = Tenants.of(["plain", "alice=secret", "bob=other="], admin_key="root")
    assert tenants.find("plain").tenant is None
    assert tenants.find("secret").tenant == "alice"
    assert tenants.find("other=").tenant == "bob"
    assert tenants.find("root").is_admin
    assert not tenants.find("secret").is_admin
    for wrong in ("", "alice", "alice=secret", "secre", "secrets", "other", "SECRET", "\u00e9"):
        assert tenants.find(wrong) is None


def test_padding_at_the_end_of_a_key_is_no_tenant():
    assert Tenants.of(["c2VjcmV0=="]).find("c2VjcmV0==").tenant is None


def test_every_key_is_compared(monkeypatch):
    import hmac

    seen, compare = [], hmac.compare_digest

    def count(a, b):
        seen.append(b)
        return compare(a, b)

    monkeypatch.setattr(hmac, "compare_digest", count)
    tenants = Tenants.of(["a=1", "b=2", "c=3"])
    tenants.find("1")
    tenants.find("none")
    assert seen == [b"1", b"2", b"3"] * 2


FILE = """
[alice]
keys = ["k1", "k2"]
weight = 2.5
max_in_flight = 3

[bob]
keys = ["k3"]
requests_per_minute = 60
"""


def test_a_file_gives_keys_weights_and_limits(tmp_path):
    path = tmp_path / "tenants.toml"
    path.write_text(FILE)
    tenants = Tenants.of(["x"], file=path)
    assert {tenants.find(k).tenant for k in ("k1", "k2")} == {"alice"}
    assert tenants.weights == {"alice": 2.5, "bob": 1.0}
    assert tenants.limits(Limits(9, 9)) == {"alice": Limits(3, 9), "bob": Limits(9, 60)}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[alice", "cannot be read"),
        ("alice = 3", "'alice' is no section"),
        ('["a b"]', "'a b' is no section"),
        ("[alice]\nwieght = 2", "Did you mean 'weight'"),
        ("[alice]\nweight = 0", "above 0"),
        ("[alice]\nweight = inf", "above 0"),
        ("[alice]\nmax_in_flight = -1", "at least 0"),
        ('[alice]\nkeys = [""]', "empty key"),
        ('[alice]\nkeys = ["k"]\n[bob]\nkeys = ["k"]', "two tenants"),
    ],
)
def test_a_damaged_file_is_refused_with_the_reason(tmp_path, text, reason):
    path = tmp_path / "tenants.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=reason):
        Tenants.of(file=path)


def test_keys_that_cannot_be_told_apart_are_refused(tmp_path):
    for keys, settings in (
        (["a=k", "b=k"], {}),
        ([""], {}),
        (["a=k"], {"admin_key": "k"}),
        ([], {"file": tmp_path / "none.toml"}),
    ):
        with pytest.raises(ConfigError):
            Tenants.of(keys, **settings)


TWO = Limits(requests_per_minute=2)


def statuses(users, *, key="plain", limits=TWO, **known):
    """Of one request for each user, in turn."""
    tenants = Tenants.of(["plain", "alice=secret"], **known)
    app = create_app(ScriptedBackend(), served_names=["base"], tenants=tenants, limits=limits)

    async def send():
        transport = httpx.ASGITransport(app)
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://t", headers=headers
        ) as client:
            bodies = [{"model": "base", "prompt": "x", "user": user} for user in users]
            return [(await client.post("/v1/completions", json=one)).status_code for one in bodies]

    return asyncio.run(send())


def test_a_key_does_not_get_past_its_limit_by_naming_other_users():
    assert statuses(["a", "b", "c", "d"]) == [200, 200, 429, 429]
    assert statuses(["a", "b", "c"], key="secret") == [200, 200, 429]


def test_a_user_s_own_limit_binds_whichever_key_names_it(tmp_path):
    path = tmp_path / "tenants.toml"
    path.write_text("[bob]\nrequests_per_minute = 1\n")
    limits = Limits(requests_per_minute=9)
    assert statuses(["bob", "bob", "eve", "eve"], file=path, limits=limits) == [200, 429, 200, 200]


def test_a_key_without_a_tenant_cannot_spend_the_share_of_one_that_has_keys():
    assert statuses(["alice", "x"]) == [403, 200]
    assert statuses(["alice"], key="root", admin_key="root") == [200]
