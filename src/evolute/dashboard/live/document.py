"""The live page as one document, and the headers that let it do no more than it must.

    document() -> (html, headers)

`page.html`, `style.css` and the scripts lie beside this file and are put together here, without a
build step. The policy names the digests of what is inline: no other script runs, whatever a tenant
calls itself, and nothing is fetched from elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from evolute.dashboard.page import STYLE

HERE = Path(__file__).parent
SCRIPTS = ("tables.js", "pictures.js", "live.js")


def document() -> tuple[str, dict[str, str]]:
    """Read anew at each call."""
    style = STYLE + (HERE / "style.css").read_text(encoding="utf-8")
    script = "\n".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    page = (HERE / "page.html").read_text(encoding="utf-8")
    policy = (
        "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; "
        f"form-action 'none'; frame-ancestors 'none'; style-src {_digest(style)}; "
        f"script-src {_digest(script)}"
    )
    headers = {
        "Content-Security-Policy": policy,
        "Cache-Control": "no-cache",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return page.replace("{{style}}", style).replace("{{script}}", script), headers


# -- internals ---------------------------------------------------------------


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
