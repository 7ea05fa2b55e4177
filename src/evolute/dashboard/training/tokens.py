"""What did the model say, token by token, and what was made of it? A sample as HTML.

    sample_page(sample, texts, advantages) -> html

Every token is a box with its text: trained tokens stand on the colour of their advantage, the
others (prompt, tool results) on none. Its title tells number, id, log-probability, advantage and
the version of the weights that sampled it; the same stands in a table below.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evolute.dashboard.page import Cell, note, table
from evolute.types import TrainingSample

STYLE = """
a{color:var(--c0)}
.tokens{background:var(--panel);border-radius:6px;padding:.7rem .9rem;line-height:1.9;
font:13px/1.9 ui-monospace,monospace;white-space:pre-wrap;overflow-wrap:anywhere}
.tokens span{border-radius:3px;padding:.12rem 0}
.tokens .asked{color:var(--soft)}
.tokens .world{color:var(--soft);border-bottom:1px dashed var(--soft)}
.tokens .up{background:color-mix(in srgb,var(--good) calc(12% + var(--size)*38%),transparent)}
.tokens .down{background:color-mix(in srgb,var(--bad) calc(12% + var(--size)*38%),transparent)}
.tokens .even{background:color-mix(in srgb,var(--soft) 22%,transparent)}
.tokens .said{outline:1px solid var(--rule)}
.key span{font:13px ui-monospace,monospace;padding:.12rem .5rem;margin-right:.8rem}
"""
MAX_ROWS = 4000  # of the table; the text above it is whole
LEGEND = (
    '<p class="key tokens"><span class="asked">prompt</span>'
    '<span class="up" style="--size:1">sampled, advantage above zero</span>'
    '<span class="down" style="--size:1">below zero</span>'
    '<span class="even">zero</span>'
    '<span class="said">not in the gradient</span>'
    '<span class="world">from the world</span></p>'
)


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an answer. Those from the world have no log-probability."""

    place: int
    id: int
    text: str
    is_trained: bool
    logprob: float | None
    version: int | None
    advantage: float | None


def tokens_of(
    sample: TrainingSample, texts: Sequence[str], advantages: Sequence[float] | None
) -> list[Token]:
    """`advantages` are of the trained tokens, in order; None: they are not known, or there are
    none. `texts` are of all tokens of the answer."""
    versions = [v.version for v in sample.weight_versions for _ in range(v.num_tokens)]
    versions += [-1] * (len(sample.response_ids) - len(versions))
    earned = iter(advantages or ())
    return [
        Token(
            place=place,
            id=token,
            text=text,
            is_trained=is_trained,
            logprob=logprob if is_trained else None,
            version=version if is_trained and version >= 0 else None,
            advantage=next(earned, None) if is_trained else None,
        )
        for place, (token, text, is_trained, logprob, version) in enumerate(
            zip(
                sample.response_ids,
                texts,
                sample.loss_mask,
                sample.rollout_logprobs,
                versions,
                strict=True,
            )
        )
    ]


def sample_page(
    sample: TrainingSample,
    pieces: Callable[[Sequence[int]], list[str]],
    advantages: Sequence[float] | None,
) -> str:
    """`pieces` gives the text of each token of a sequence."""
    tokens = tokens_of(sample, pieces(sample.response_ids), advantages)
    largest = max((abs(t.advantage) for t in tokens if t.advantage), default=1.0)
    prompt = html.escape(_visible("".join(pieces(sample.prompt_ids))))
    answer = "".join(_box(token, largest) for token in tokens)
    rows: list[list[Cell]] = [
        [t.place, t.id, _visible(t.text), _kind(t), t.logprob, t.advantage, t.version]
        for t in tokens[:MAX_ROWS]
    ]
    head = ["token", "id", "text", "whose", "log-probability", "advantage", "weights"]
    more = note(f"The first {MAX_ROWS} of {len(tokens)}.") if len(tokens) > MAX_ROWS else ""
    return (
        f'{LEGEND}<div class="tokens"><span class="asked">{prompt}</span>{answer}</div>'
        f"<details><summary>Tokens as a table</summary>{more}{table(head, rows)}</details>"
    )


# -- internals ---------------------------------------------------------------


def _box(token: Token, largest: float) -> str:
    told = [f"token {token.place}, id {token.id}", _kind(token)]
    if token.logprob is not None:
        told.append(f"log-probability {token.logprob:.4f}")
    if token.advantage is not None:
        told.append(f"advantage {token.advantage:+.4g}")
    if token.version is not None:
        told.append(f"weights {token.version}")
    title = html.escape("; ".join(told), quote=True)
    style = ""
    if token.advantage:
        style = f' style="--size:{abs(token.advantage) / largest:.2f}"'
    text = html.escape(_visible(token.text))
    return f'<span class="{_class(token)}"{style} title="{title}">{text}</span>'


def _class(token: Token) -> str:
    if not token.is_trained:
        return "world"
    if token.advantage is None:
        return "said"
    return "up" if token.advantage > 0 else "down" if token.advantage < 0 else "even"


def _kind(token: Token) -> str:
    return "sampled" if token.is_trained else "from the world"


def _visible(text: str) -> str:
    """Control characters as a mark; line ends stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
