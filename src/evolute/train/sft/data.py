"""Which rows does a supervised run learn from, and which of their tokens?

    read(path, tokenizer, train_on) -> list[TrainingSample]     JSON lines -> tokens and mask
    sample_of(messages, tokenizer, train_on)                    one conversation
    fit(samples, max_tokens, too_long) -> Fitted                what is too long, by the user's rule

A row is `{"messages": [{"role", "content"}, ...]}` or ShareGPT's `{"system", "conversations":
[{"from", "value"}, ...]}`; `tools` is given to the chat template; other keys are the user's own.
A row with `samples` is a trajectory as agents wrote it (`trajectories.jsonl`): its tokens and masks
are taken as they are, each sample an example.
Each turn that the model is to write is tokenised apart from what stands before it, as it is when
the model writes it, and ends with the token that ends its turn.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from evolute.models.tokenizer import ChatTokenizer
from evolute.types import ConfigError, Message, RequestError, TrainingSample

TrainOn = Literal["assistant", "last", "solution", "all"]
TooLong = Literal["refuse", "drop", "cut"]
SOLUTION = "<|begin_of_solution|>"  # where train_on = "solution" begins
ROLES = {"human": "user", "gpt": "assistant", "model": "assistant"}  # ShareGPT's names
KNOWN = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Fitted:
    """Samples within the limit, and how many were left out or shortened."""

    samples: list[TrainingSample]
    num_dropped: int = 0
    num_cut: int = 0


def read(path: str | Path, tokenizer: ChatTokenizer, train_on: TrainOn) -> list[TrainingSample]:
    """All rows of a file, in its order. Raises ConfigError that names the line."""
    path, found = Path(path), list[TrainingSample]()
    for number, line in _lines(path):
        try:
            row = _row(line)
            if "samples" in row:
                found += trajectory_of(row, tokenizer, train_on)
                continue
            messages, tools = messages_of(row)
            found.append(sample_of(messages, tokenizer, train_on, tools))
        except (ConfigError, RequestError) as error:
            raise ConfigError(f"{path}, line {number}: {error}") from error
    if not found:
        raise ConfigError(f"{path} has no rows; give a file with a JSON object a line.")
    return found


def trajectory_of(
    row: Mapping[str, Any], tokenizer: ChatTokenizer, train_on: TrainOn
) -> list[TrainingSample]:
    """The samples of a recorded trajectory; those without a sampled token teach nothing and are
    left out. Raises ConfigError for what is no such record, and for another `train_on`."""
    if train_on != "assistant":
        raise ConfigError(
            f"a row with 'samples' says by its masks what is learned; train_on = {train_on!r} "
            "cannot change that. Set train_on = 'assistant'."
        )
    samples = row["samples"]
    if not isinstance(samples, list):
        raise ConfigError("'samples' is no list.")
    return [s for each in samples if any((s := _recorded(each, tokenizer.vocab_size)).loss_mask)]


def messages_of(row: Mapping[str, Any]) -> tuple[list[Message], Any]:
    """Messages and tools of a row in either form. Raises ConfigError."""
    if ("messages" in row) == ("conversations" in row):
        raise ConfigError("a row has either 'messages' or 'conversations', a list of turns.")
    is_chat = "messages" in row
    turns = row["messages" if is_chat else "conversations"]
    keys = ("role", "content") if is_chat else ("from", "value")
    if not isinstance(turns, list) or not turns:
        raise ConfigError("the list of turns is empty or no list.")
    messages = [_message(turn, *keys) for turn in turns]
    system = row.get("system")
    if system:
        if messages[0]["role"] == "system" or not isinstance(system, str):
            raise ConfigError("the row has two system messages, or one that is no text.")
        messages.insert(0, {"role": "system", "content": system})
    return messages, row.get("tools") or None


def sample_of(
    messages: Sequence[Message], tokenizer: ChatTokenizer, train_on: TrainOn, tools: Any = None
) -> TrainingSample:
    """Token ids of a conversation; the mask is true where the model is to learn.

    `assistant`: every turn of it; `last`: the last one; `solution`: the last one from its solution
    block on; `all`: every token but the first. Raises ConfigError for a talk without such a turn.
    """
    turns = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    if not turns:
        raise ConfigError("no turn is the assistant's, so there is nothing to learn.")
    if train_on in ("last", "solution"):
        turns = turns[-1:]
        messages = messages[: turns[-1] + 1]
    ids, mask = _tokens(messages, turns, tokenizer, tools)
    if train_on == "solution":
        mask = _from_solution(messages[-1]["content"], ids, mask, tokenizer)
    if train_on == "all":
        mask = [False] + [True] * (len(ids) - 1)
    first = mask.index(True)
    if not first:
        raise ConfigError("the chat template puts nothing before the answer; it needs a prompt.")
    zeros = (0.0,) * (len(ids) - first)
    return TrainingSample(tuple(ids[:first]), tuple(ids[first:]), tuple(mask[first:]), zeros)


def fit(samples: Sequence[TrainingSample], max_tokens: int, too_long: TooLong) -> Fitted:
    """Keep what has at most `max_tokens` tokens; of the rest do as `too_long` says. A sample whose
    trained tokens would all be cut off is dropped. Raises ConfigError for `refuse`."""
    kept, num_cut = [], 0
    for number, sample in enumerate(samples):
        size = len(sample.prompt_ids) + len(sample.response_ids)
        if size <= max_tokens:
            kept.append(sample)
        elif too_long == "refuse":
            raise ConfigError(
                f"row {number + 1} has {size} tokens, the limit is {max_tokens}; raise max_tokens "
                "(up to the model's context), or set too_long to 'drop' or 'cut'."
            )
        elif too_long == "cut" and (cut := _cut(sample, max_tokens)):
            kept.append(cut)
            num_cut += 1
    if not kept:
        raise ConfigError(f"no row is left within {max_tokens} tokens; raise max_tokens.")
    return Fitted(kept, len(samples) - len(kept), num_cut)


# -- internals ---------------------------------------------------------------


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not empty, with their numbers from 1."""
    try:
        with path.open(encoding="utf-8") as file:
            yield from ((n, line) for n, line in enumerate(file, start=1) if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"data file {path} cannot be read: {error}.") from error


def _recorded(record: Any, vocab_size: int) -> TrainingSample:
    if not isinstance(record, dict):
        raise ConfigError("a sample is no object.")
    prompt, ids, mask = (record.get(k) for k in ("prompt_ids", "response_ids", "loss_mask"))
    if not all(isinstance(part, list) for part in (prompt, ids, mask)) or len(ids) != len(mask):
        raise ConfigError(
            "a sample has lists 'prompt_ids', 'response_ids' and 'loss_mask', the last two alike "
            "in length."
        )
    if not prompt or not all(type(i) is int and 0 <= i < vocab_size for i in [*prompt, *ids]):
        raise ConfigError(
            f"a sample's ids are not those of this tokenizer, which has {vocab_size} tokens, or "
            "its prompt is empty."
        )
    if not all(isinstance(one, bool) for one in mask):
        raise ConfigError("a sample's 'loss_mask' holds something else than true and false.")
    return TrainingSample(tuple(prompt), tuple(ids), tuple(mask), (0.0,) * len(ids))


def _row(line: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"it is no JSON: {error}.") from None
    if not isinstance(row, dict):
        raise ConfigError("it is no JSON object.")
    return row


def _message(turn: Any, role_key: str, text_key: str) -> Message:
    if not isinstance(turn, dict) or not isinstance(turn.get(text_key), str):
        raise ConfigError(f"a turn is an object with texts {role_key!r} and {text_key!r}.")
    role = ROLES.get(str(turn.get(role_key)), str(turn.get(role_key)))
    if role not in KNOWN:
        raise ConfigError(f"a turn's {role_key!r} is {role!r}; known are {', '.join(KNOWN)}.")
    return cast(Message, {"role": role, "content": turn[text_key]})


def _tokens(
    messages: Sequence[Message], turns: Sequence[int], tokenizer: ChatTokenizer, tools: Any
) -> tuple[list[int], list[bool]]:
    """The whole talk up to the end of the last turn in `turns`."""
    template, done = tokenizer.template, ""
    ids: list[int] = []
    mask: list[bool] = []
    for turn in turns:
        before = template.render(messages[:turn], add_generation_prompt=True, tools=tools)
        inside = template.open(messages[: turn + 1], tools=tools)
        after = template.render(messages[: turn + 1], add_generation_prompt=False, tools=tools)
        if not (before.startswith(done) and inside.startswith(before) and after.startswith(inside)):
            raise ConfigError(
                "the chat template rewrites earlier turns or adds to answers, so the turns cannot "
                "be told apart; set train_on = 'last', and let contents begin as the template does."
            )
        told = tokenizer.encode(before[len(done) :])
        answer = tokenizer.encode(inside[len(before) :])
        end, rest = _end_of_turn(tokenizer.encode(after[len(inside) :]), tokenizer)
        if not end and turn == turns[-1]:  # the template leaves it to the model
            end = [tokenizer.eos_token_id]
        ids += [*told, *answer, *end, *rest]
        mask += [False] * len(told) + [True] * (len(answer) + len(end)) + [False] * len(rest)
        done = after
    while not mask[-1]:  # nothing is learned from what follows
        mask.pop()
        ids.pop()
    return ids, mask


def _end_of_turn(ids: Sequence[int], tokenizer: ChatTokenizer) -> tuple[list[int], list[int]]:
    """What the model writes to end its turn, and what the template adds behind that."""
    for at, token in enumerate(ids):
        if token in tokenizer.stop_token_ids:
            return list(ids[: at + 1]), list(ids[at + 1 :])
    return [], list(ids)


def _from_solution(
    content: str, ids: Sequence[int], mask: Sequence[bool], tokenizer: ChatTokenizer
) -> list[bool]:
    """Only what stands from the solution's tag on, by the shortest end that holds the tag."""
    if SOLUTION not in content:
        raise ConfigError(f"train_on 'solution' needs {SOLUTION} in the last answer.")
    first = len(ids) - 1
    while first and SOLUTION not in tokenizer.decode(ids[first:], skip_special_tokens=False):
        first -= 1
    return [trained and at >= first for at, trained in enumerate(mask)]


def _cut(sample: TrainingSample, max_tokens: int) -> TrainingSample | None:
    room = max_tokens - len(sample.prompt_ids)
    if room < 1 or not any(sample.loss_mask[:room]):
        return None
    return replace(
        sample,
        response_ids=sample.response_ids[:room],
        loss_mask=sample.loss_mask[:room],
        rollout_logprobs=sample.rollout_logprobs[:room],
    )
