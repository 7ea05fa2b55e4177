"""What is the log-probability of the prompt's own tokens?

score_prompt(draft, logits, start, sampler)     as rows of logits come, chunk by chunk
"""

from __future__ import annotations

from evolute.engine.execution.sampler import (
    Float32,
    Sampler,
    id_logprobs,
    normalizer_of,
    score_temperature,
    top_logprobs,
)
from evolute.engine.output import Draft


def score_prompt(draft: Draft, logits: Float32, start: int, sampler: Sampler) -> None:
    """Tell the tokens that follow each row of `logits`; `start` is the first row's position."""
    prompt, sampling = draft.request.prompt, draft.request.sampling
    if not draft.prompt_logprobs:
        draft.tell_prompt(None, (), ())
    # the row that predicts the next token to be told
    first = sampling.prompt_logprobs_from + len(draft.prompt_logprobs) - 1
    targets = prompt[first + 1 : start + len(logits) + 1]
    if not targets:
        return
    rows = logits[first - start : first - start + len(targets)]
    temperature = score_temperature(sampling)
    scores = sampler.score(rows, targets, temperature)
    for row, token, score in zip(rows, targets, scores, strict=True):
        total = normalizer_of(row, token, score, temperature)
        top = top_logprobs(row, sampling.prompt_top_logprobs, temperature, total)
        ids = id_logprobs(row, sampling.logprob_token_ids, temperature, total)
        draft.tell_prompt(score, top, ids)
