import pytest
from talk import Played, call, finish
from test_react import Seeing, ids_as_seen

from evolute.envs.tools import ToolResult
from evolute.testing import SumTask, tool_of


def test_clearing_its_history_gives_another_sample():
    script = [
        call("add", a=1, b=2),
        call("clear_history", notes="the first two are 3"),
        call("add", a=3, b=4),
        call("clear_history", notes="all are 7"),
        finish("7"),
    ]
    played = Played(
        None, backend=Seeing(script, context=99_999), clear_history=True, remind_below=4
    )
    assert len(played.rollout.samples) == 3
    ids_as_seen(played)
    assert "Add up" in played.told(2) and "the first two are 3" in played.told(2)
    assert "<tool_response>" not in played.told(2) and "3 turns left" not in played.told(1)
    assert "all are 7" in played.told(4) and "the first two are 3" not in played.told(4)
    assert played.rollout.metadata["answer"] == "7"


def test_a_sub_agent_is_recorded_under_its_own_name():
    script = [
        call("delegate", task="add 1 and 2"),
        "hm",  # the sub-agent's mistake
        call("add", a=1, b=2),
        finish("it is 3"),
        call("delegate", task="add 5 and 5"),
        finish("10"),
        finish("13"),
    ]
    played = Played(None, backend=Seeing(script, context=99_999), delegate=True)
    ids_as_seen(played)
    assert played.rollout.metadata["agents"] == ["main", "main.1", "main.2"]
    assert len(played.rollout.samples) == 3 and played.rollout.metadata["answer"] == "13"
    assert played.rollout.metrics["turns"] == 3 and played.rollout.metrics["model_calls"] == 7
    assert "The agent answered:\nit is 3" in played.told(4)
    assert "Add up" not in played.told(1) and "delegate" not in played.told(1)
    main = played.rollout.samples[0]
    assert sum(main.loss_mask) == sum(map(len, (played.backend.outputs[n] for n in (0, 4, 6))))


def test_a_sub_agent_that_comes_to_no_end_is_told_to_the_one_above():
    script = [call("delegate", task="x"), "hm", "ha", finish("done")]
    played = Played(script, delegate=True, sub_turns=2)
    assert "gave no answer (it ended by max_turns)" in played.told(3)
    assert played.rollout.metadata["answer"] == "done"


def test_sub_agents_go_as_deep_as_allowed():
    script = [
        call("delegate", task="x"),
        call("delegate", task="y"),
        finish("c"),
        finish("b"),
        finish("a"),
    ]
    played = Played(script, delegate=True, max_depth=2)
    assert played.rollout.metadata["agents"] == ["main", "main.1", "main.1.1"]
    shallow = Played(
        [call("delegate", task="x"), call("delegate", task="y"), finish("b"), finish("a")],
        delegate=True,
    )
    assert shallow.rollout.metrics["mistakes/unknown_tool"] == 1


def test_a_task_that_no_context_holds_is_told():
    script = [call("delegate", task="x" * 300), finish("a")]
    played = Played(script, delegate=True, max_context=1400, max_new_tokens=500)
    assert played.stop in ("finish", "context")


@pytest.mark.parametrize(
    "messages", [[], [{"role": "user"}], ["text"], [{"role": 1, "content": ""}]]
)
def test_a_history_that_is_none_is_the_tools_mistake(messages):
    async def spoil(arguments, context):
        context.agent.replace_history(messages)
        return ToolResult(replaced=True)

    played = Played([call("spoil"), finish()], SumTask([tool_of("spoil", spoil)]))
    assert played.rollout.metrics["mistakes/tool_error"] == 1 and played.stop == "finish"


def test_a_history_that_ends_with_the_models_words_goes_on():
    async def cut(arguments, context):
        context.agent.replace_history(context.agent.messages[:2])
        return ToolResult(replaced=True)

    played = Played([call("cut"), finish()], SumTask([tool_of("cut", cut)]))
    assert "Go on." in played.told(1) and played.stop == "finish"


def test_a_tool_may_rewrite_and_tell():
    async def rewrite(arguments, context):
        context.agent.replace_history(context.agent.messages[:1])
        return ToolResult("rewritten")

    played = Played([call("rewrite"), finish()], SumTask([tool_of("rewrite", rewrite)]))
    assert "rewritten" in played.told(1) and len(played.rollout.samples) == 2


def test_two_tools_of_one_name_are_refused():
    async def other(arguments, context):
        return ToolResult()

    played = Played([finish()], SumTask([tool_of("clear_history", other)]), clear_history=True)
    assert played.rollout.failure == "EpisodeError"
    assert "clear_history" in played.rollout.metadata["error"]


def test_the_same_call_in_another_history_is_no_repetition():
    parts = iter(range(99))

    async def onwards(arguments, context):
        context.agent.replace_history([{"role": "user", "content": f"part {next(parts)}"}])
        return ToolResult(replaced=True)

    played = Played([call("onwards")], SumTask([tool_of("onwards", onwards)]), max_turns=9)
    assert played.stop == "max_turns" and len(played.rollout.samples) == 9


def test_what_tools_measure_is_the_mean_over_their_calls():
    values = iter([1.0, 0.0, 0.5])

    async def measured(arguments, context):
        return ToolResult("ok", metrics={"failed": next(values)})

    tool = tool_of("measured", measured)
    played = Played([call("measured")] * 3 + [finish()], SumTask([tool]))
    assert played.rollout.metrics["measured/failed"] == 0.5
