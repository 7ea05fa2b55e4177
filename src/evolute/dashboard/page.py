"""Pieces of a page that needs nothing but itself: no script, no font, no address of elsewhere.

page(title, parts) -> the document;  table(head, rows);  section(title, ...);  note(text)
show(text)                           what a model said, safe and visible, cut when long
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MAX_SHOWN = 600  # characters of one answer

STYLE = """
:root{color-scheme:light dark;--ink:#1b1e23;--soft:#68707c;--rule:#dde1e6;--paper:#fff;
--panel:#f5f6f8;--c0:#2563b0;--c1:#c2571a;--c2:#2b8a57;--c3:#8a4fb0;--good:#1f7a45;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#e4e7eb;--soft:#9aa3af;--rule:#353b44;
--paper:#15181d;--panel:#1e2229;--c0:#79aef2;--c1:#f0a06a;--c2:#7ccf9f;--c3:#c79bea;
--good:#7ccf9f;--bad:#ff8f85}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);
max-width:62rem;margin:2rem auto;padding:0 1.2rem}
h1{font-size:1.6rem;margin:0}h2{font-size:1.2rem;margin:2.4rem 0 .6rem;
border-bottom:1px solid var(--rule);padding-bottom:.2rem}h3{font-size:1rem;margin:1.4rem 0 .4rem}
.note{color:var(--soft)}.good{color:var(--good)}.bad{color:var(--bad)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(11rem,1fr));
gap:.8rem;margin:1.2rem 0}
.tile{background:var(--panel);border-radius:6px;padding:.7rem .9rem}
.tile b{display:block;font-size:1.5rem;line-height:1.25;font-weight:600}
.tile span{display:block;color:var(--soft);font-size:13px}
.scroll{overflow-x:auto}table{border-collapse:collapse;min-width:50%;font-size:13px;margin:.6rem 0}
th,td{text-align:left;vertical-align:top;padding:.3rem 1.4rem .3rem 0;
border-bottom:1px solid var(--rule)}
th{color:var(--soft);font-weight:500}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
td p{margin:0;white-space:pre-wrap;overflow-wrap:anywhere}
pre,code{font:13px/1.45 ui-monospace,monospace}pre{background:var(--panel);padding:.7rem .9rem;
border-radius:6px;overflow:auto}nav a{color:var(--soft);margin-right:.9rem;font-size:13px}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(24rem,1fr));gap:1rem}
figure{margin:.4rem 0;max-width:40rem}figcaption{font-size:13px;font-weight:600}
svg{width:100%;height:auto;display:block}svg text{font:11px system-ui,sans-serif;fill:var(--soft)}
.grid{stroke:var(--rule);stroke-width:1}.mark{stroke:var(--soft);stroke-dasharray:4 3;fill:none}
.line{fill:none;stroke-width:1.8}.band{opacity:.16}
.s0{stroke:var(--c0)}.s1{stroke:var(--c1)}.s2{stroke:var(--c2)}
.s3{stroke:var(--c3)}.f0{fill:var(--c0)}.f1{fill:var(--c1)}.f2{fill:var(--c2)}.f3{fill:var(--c3)}
svg text.f0{fill:var(--c0)}svg text.f1{fill:var(--c1)}svg text.f2{fill:var(--c2)}
svg text.f3{fill:var(--c3)}.label{fill:var(--ink)!important}
@media print{:root{--ink:#000;--soft:#444;--rule:#bbb;--paper:#fff;--panel:#f3f3f3}
body{max-width:none;margin:0}nav{display:none}figure,tr,.tile{break-inside:avoid}}
"""


@dataclass(frozen=True, slots=True)
class Raw:
    """HTML that is already safe; everything else in a table is escaped."""

    html: str


Cell = Raw | str | int | float | None


def page(title: str, parts: Iterable[str]) -> str:
    """A whole document."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A heading that the contents link to, and what is under it."""
    return (
        f'\n<section id="{anchor(title)}"><h2>{html.escape(title)}</h2>{"".join(parts)}</section>'
    )


def anchor(title: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in title.lower())


def note(text: str) -> str:
    """What is missing, or how to read what follows."""
    return f'<p class="note">{html.escape(text)}</p>'


def table(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Numbers stand to the right. No rows: nothing."""
    if not rows:
        return ""
    numeric = [all(isinstance(row[i], int | float) for row in rows) for i in range(len(head))]
    top = "".join(
        f"<th{_right(is_number)}>{html.escape(name)}</th>" for name, is_number in zip(head, numeric)
    )
    body = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{top}</tr>{body}</table></div>'


def show(text: object) -> str:
    """Text as a person can read it: control characters made visible, long ones cut."""
    plain = str(text)
    cut = plain[:MAX_SHOWN] + (" ..." if len(plain) > MAX_SHOWN else "")
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in cut)


def number(value: object, form: str = ".3g") -> str:
    """A number in `form`, a dash for what is missing or is not one."""
    return format(value, form) if isinstance(value, int | float) else "-"


def _cell(cell: Cell) -> str:
    if isinstance(cell, Raw):
        return f"<td>{cell.html}</td>"
    if isinstance(cell, int | float):
        text = str(cell) if isinstance(cell, int) else f"{cell:.3g}"
        return f'<td class="n">{text}</td>'
    return f"<td><p>{html.escape(show('-' if cell is None else cell))}</p></td>"


def _right(is_number: bool) -> str:
    return ' class="n"' if is_number else ""
