"""Prompts: texts join, what a model made stays as it was made."""

from hypothesis import given, settings
from hypothesis import strategies as st

from evolute.lang.backend import Made, Prompt, Text

PIECES = st.one_of(
    st.builds(Text, st.text(max_size=3)),
    st.builds(Made, st.text(max_size=3), st.lists(st.integers(0, 9), max_size=2).map(tuple)),
)


@settings(deadline=None)
@given(st.lists(PIECES, max_size=12))
def test_a_prompt_keeps_every_character_and_every_token(pieces):
    prompt = Prompt()
    for piece in pieces:
        prompt = prompt.then(piece)
    assert prompt.text == "".join(piece.text for piece in pieces)
    made = [p for p in pieces if isinstance(p, Made) and p.token_ids]
    assert [p for p in prompt.pieces if isinstance(p, Made)] == made
    for left, right in zip(prompt.pieces, prompt.pieces[1:]):
        assert isinstance(left, Made) or isinstance(right, Made)
    assert all(p.text or isinstance(p, Made) for p in prompt.pieces)
