"""Functions as tools of a gen: the template tells of them, calls are read, results are turns."""

import json

import pytest

import evolute.lang as sgl
from evolute.lang.backend import Capabilities, Made, Reply, ToolCall
from evolute.models.chat_template import CHATML, ChatTemplate
from evolute.testing import ByteTokenizer, ScriptedBackend, ScriptedTextBackend
from evolute.types import FinishReason, Output, ProgramError

READS_TOOLS = (
    "{% if tools %}<tools>{% for t in tools %}{{ t['function']['name'] }} {% endfor %}</tools>"
    "{% endif %}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}"
    "{% for c in m['tool_calls'] or [] %}<tool_call>\n{{ c['function'] | tojson }}\n</tool_call>"
    "{% endfor %}<eot>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


class Templated(ByteTokenizer):
    def __init__(self, source):
        super().__init__()
        self.template = ChatTemplate(source)
        self.template_variables = self.template.variables


def scripted(answers, source=READS_TOOLS):
    return ScriptedBackend(answers, tokenizer=Templated(source))


def weather(city: str, days: int = 1) -> str:
    """What the sky will be like.

    Args:
        city: its name
    """
    return f"{days} day(s) of sun in {city}"


def call_of(name, **arguments):
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


@sgl.function
def ask(s, choice="auto"):
    s += sgl.user("What will it be like in Ulm?")
    s += sgl.assistant(sgl.gen("first", tools=[weather], tool_choice=choice))
    s.call_tools("first", [weather])
    s += sgl.assistant(sgl.gen("second", tools=[weather], tool_choice=choice))


def sent(backend, index):
    return bytes(backend.requests[index].prompt).decode()


def test_a_function_is_told_called_and_its_result_is_a_turn():
    backend = scripted([call_of("weather", city="Ulm"), "Sun."])
    state = ask.run(backend=backend, max_new_tokens=200)
    assert state["first"] == "" and state["second"] == "Sun."
    (call,) = state.get_meta_info("first")["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": {"city": "Ulm"}}
    head = "<tools>weather </tools><user>What will it be like in Ulm?<eot><assistant>"
    assert sent(backend, 0) == head
    called = f"{head}{call_of('weather', city='Ulm')}<eot>"
    assert sent(backend, 1) == f"{called}<tool>1 day(s) of sun in Ulm<eot><assistant>"
    roles = [message["role"] for message in state.messages()]
    assert roles == ["user", "assistant", "tool", "assistant"]
    assert state.messages()[2]["tool_call_id"] == call["id"]
    assert state.get_meta_info("second")["rewrites"] == 0
    made = [p for p in state.stream.now.prompt.pieces if isinstance(p, Made)]
    assert made[0].text == call_of("weather", city="Ulm")  # as the tokens that it wrote


def test_a_call_that_the_template_writes_otherwise_is_written_as_the_template_does():
    spaced = '<tool_call>{"name":"weather","arguments":{"city":"Ulm"}}</tool_call>'
    backend = scripted([f"Let me see. {spaced}", "Sun."])
    state = ask.run(backend=backend, max_new_tokens=200)
    assert state["first"] == "Let me see."
    assert f"<assistant>Let me see.{call_of('weather', city='Ulm')}<eot>" in sent(backend, 1)
    assert state.get_meta_info("second")["rewrites"] == 1


def test_a_template_without_tools_is_told_in_words():
    backend = scripted([call_of("weather", city="Ulm"), "Sun."], CHATML)
    state = ask.run(backend=backend, max_new_tokens=200)
    assert state["second"] == "Sun."
    assert "<tools>" in sent(backend, 0) and '"city"' in sent(backend, 0)
    assert "<tool_response>\n1 day(s) of sun in Ulm\n</tool_response>" in sent(backend, 1)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (call_of("weather", town="Ulm"), "there is no parameter 'town'"),
        (call_of("weather", city="Ulm", days="many"), "days"),
        (call_of("weather"), "city is missing"),
    ],
)
def test_what_a_model_got_wrong_is_told_to_it(answer, told):
    backend = scripted([answer, "Sorry."])
    state = ask.run(backend=backend, max_new_tokens=200)
    assert state["second"] == "Sorry."
    assert told in state.messages()[2]["content"]


def test_without_a_call_nothing_is_run():
    backend = scripted(["No idea.", "Still none."])
    state = ask.run(backend=backend)
    assert state["first"] == "No idea."
    assert [m["role"] for m in state.messages()] == ["user", "assistant", "assistant"]


def test_a_required_call_binds_the_answer():
    backend = scripted(['[{"name": "weather", "parameters": {"city": "Ulm"}}]', "Sun."])
    ask.run(backend=backend, choice="required", max_new_tokens=200)
    schema = json.loads(backend.requests[0].sampling.json_schema)
    assert schema["items"]["anyOf"][0]["properties"]["name"] == {"const": "weather"}


def test_with_tool_choice_none_the_model_is_not_told():
    backend = scripted(["No idea.", "None."])
    ask.run(backend=backend, choice="none")
    assert "<tools>" not in sent(backend, 0)


def test_a_stream_shows_no_calls():
    backend = scripted([f"See: {call_of('weather', city='Ulm')}", "Sun."])
    state = ask.run(backend=backend, stream=True, max_new_tokens=200)
    assert "".join(state.text_iter("first")) == "See:"
    assert state.get_meta_info("first")["tool_calls"]
    assert state["second"] == "Sun."


def test_samples_have_calls_of_their_own():
    @sgl.function
    def twice(s):
        s += sgl.user("Ulm or Rome?")
        s += sgl.assistant(sgl.gen("both", n=2, tools=[weather]))

    backend = scripted([call_of("weather", city="Ulm"), call_of("weather", city="Rome")])
    state = twice.run(backend=backend, max_new_tokens=200)
    cities = [
        meta["tool_calls"][0]["function"]["arguments"]["city"]
        for meta in state.get_meta_info("both")
    ]
    assert cities == ["Ulm", "Rome"]


def test_async_programs_call_tools_too():
    @sgl.function
    async def asked(s):
        s += sgl.user("Ulm?") + sgl.assistant(sgl.gen("first", tools=[weather]))
        await s.acall_tools("first", [weather])
        s += sgl.assistant(sgl.gen("second", tools=[weather]))

    backend = scripted([call_of("weather", city="Ulm"), "Sun."])
    state = asked.run(backend=backend, max_new_tokens=200)
    assert state["second"] == "Sun."
    assert state.messages()[2]["content"] == "1 day(s) of sun in Ulm"


def test_a_chat_endpoint_gets_descriptions_and_the_results_name_their_calls():
    def answer(request):
        if len(request.prompt.messages) > 1:
            return "Sun."
        output = Output("", (), (), FinishReason.STOP, 0, 0, prompt_tokens=3)
        return Reply((output,), sgl.Spent(1, 3, 0, 4), ((ToolCall("c1", "weather", arguments),),))

    arguments = '{"city": "Ulm", "days": 2}'
    can = Capabilities(chats=True, tools=True)
    backend = ScriptedTextBackend(answer, capabilities=can)
    state = ask.run(backend=backend)
    assert state["second"] == "Sun."
    told = backend.requests[0].tools[0]["function"]
    assert told["name"] == "weather" and told["parameters"]["required"] == ["city"]
    result = backend.requests[1].prompt.messages[2]
    assert result == {
        "role": "tool", "content": "2 day(s) of sun in Ulm", "tool_call_id": "c1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (lambda: None, "needs a name"),
        ("weather", "neither a function nor a description"),
    ],
)
def test_what_is_no_tool_is_named(wrong, why):
    @sgl.function
    def bad(s):
        s += sgl.user("?") + sgl.assistant(sgl.gen("x", tools=[wrong]))

    with pytest.raises(ProgramError, match=rf"gen 'x' .*{why}"):
        bad.run(backend=scripted(["?"]))["x"]


def test_tools_need_turns_and_exclude_other_grammars():
    @sgl.function
    def bare(s):
        s += "Weather: " + sgl.gen("x", tools=[weather])

    with pytest.raises(ProgramError, match="tools need turns"):
        bare.run(backend=scripted(["?"]))["x"]

    @sgl.function
    def bound(s):
        s += sgl.user("?") + sgl.assistant(sgl.gen("x", tools=[weather], regex="[a-z]+"))

    with pytest.raises(ProgramError, match="regex excludes tools"):
        bound.run(backend=scripted(["?"]))["x"]
