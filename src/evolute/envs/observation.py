"""The token ids of what a world says in the middle of a conversation.

A fixed short conversation is tokenised together with the observation; what the template writes
after the conversation's last end-of-turn is the observation's. The cost does not grow with the
history, and the ids before it are never touched (the fixed-base trick of SkyRL, arXiv 2511.16108).
"""

from __future__ import annotations

from collections.abc import Sequence

from evolute.types import EpisodeError, Message, Tokenizer

BASE: tuple[Message, ...] = (
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b"},
)


def observation_ids(
    tokenizer: Tokenizer, observations: Sequence[Message], before: Sequence[int]
) -> list[int]:
    """Ids from the end of the model's turn up to the start of its next one.

    `before` are the ids so far: an end-of-turn that the model did not write, because it was cut,
    is added. Templates that rewrite earlier turns are fine as long as each turn ends with a stop
    token; raises EpisodeError for one that writes none.
    """
    stops = tokenizer.stop_token_ids
    head = tokenizer.chat(BASE, add_generation_prompt=False)
    full = tokenizer.chat([*BASE, *observations], add_generation_prompt=True)
    turns = sum(id in stops for id in head)
    ends = [place for place, id in enumerate(full) if id in stops]
    if not turns or len(ends) < turns:
        raise EpisodeError(
            "the model's chat template ends no turn with a stop token, so the tokens of an "
            "observation cannot be told from the conversation's; use a single-turn task."
        )
    end = ends[turns - 1]  # of the base's last turn
    has_end = bool(before) and before[-1] in stops
    return full[end + 1 if has_end else end :]
