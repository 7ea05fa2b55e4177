import asyncio
import json

import pytest
from talk import Played, call, finish, function
from toybpe import ToyBpe

from evolute.agents import AgentConfig, AgentPlayer
from evolute.envs.tools import ToolResult
from evolute.testing import ScriptedBackend, SumTask, tool_of
from evolute.types import (
    BackendError,
    ConfigError,
    Outcome,
    OutOfCapacity,
    Player,
    PromptTooLong,
    RequestError,
    SandboxError,
    ToolError,
)


def test_a_tool_is_called_and_its_result_told_until_finish():
    gold = SumTask().problems("train", 1)[0].gold
    played = Played([call("add", a=1, b=2), "so " + finish(gold)])
    rollout = played.rollout
    assert (rollout.reward, rollout.outcome, played.stop) == (1.0, Outcome.DONE, "finish")
    assert (rollout.group, rollout.index, rollout.metadata["answer"]) == (2, 1, gold)
    assert played.world.added == [3] and played.world.num_closes == 1
    assert "<tool_response>\n3\n</tool_response>" in played.told(1)
    assert rollout.metrics["turns"] == 2 and rollout.metrics["tool_calls/add"] == 1
    assert rollout.metrics["mistakes"] == 0 and rollout.metrics["accuracy"] == 1.0


async def broken(arguments, context):
    raise ValueError("out of range")


async def refused(arguments, context):
    raise ToolError("Give a path below /repo.")


async def hanging(arguments, context):
    await asyncio.sleep(1000)


async def nonsense(arguments, context):
    return "text"


async def exiting(arguments, context):
    raise SystemExit(1)


async def cancelling(arguments, context):
    raise asyncio.CancelledError


async def asking(arguments, context):
    raise RequestError("the world's own request")


MORE = [
    tool_of(each.__name__, each)
    for each in (broken, refused, hanging, nonsense, exiting, cancelling, asking)
]


@pytest.mark.parametrize(
    ("answer", "mistake", "words"),
    [
        ("I think it is 5.", "no_call", ["no call", "<tool_call>", "add, finish"]),
        ("", "no_call", ["no call"]),
        ("<tool_call>\n{add: 1}\n</tool_call>", "malformed", ["no JSON", '"NAME"']),
        ('<tool_call>{"name": "add", "arguments": {"a": 1,', "malformed", ["no JSON"]),
        ('{"name": "add", "arguments": {"a": 1, "b": 2}}', "malformed", ["between <tool_call>"]),
        ('<tool_call>{"arguments": {}}</tool_call>', "malformed", ['no "name"']),
        (function("add", a=1, b=2), "malformed", ["form"]),
        (call("ad", a=1, b=2), "unknown_tool", ["'ad'", "Did you mean 'add'?"]),
        (call("add", a=1), "bad_arguments", ["b is missing", '"integer"']),
        (call("add", a="1", b=2), "bad_arguments", ['a must be a whole number, not "1"']),
        (call("add", a=1, b=2, c=3), "bad_arguments", ["c is not a parameter"]),
        (
            '<tool_call>{"name": "add", "arguments": [1, 2]}</tool_call>',
            "bad_arguments",
            ["object"],
        ),
        (call("broken"), "tool_error", ["ValueError: out of range"]),
        (call("refused"), "tool_error", ["Give a path below /repo."]),
        (call("hanging"), "tool_timeout", ["did not end within 0.05 s"]),
        (call("nonsense"), "tool_error", ["gave a str"]),
        (call("exiting"), "tool_error", ["SystemExit"]),
        (call("cancelling"), "tool_error", ["cancelled"]),
        (call("asking"), "tool_error", ["the world's own request"]),
    ],
)
def test_every_mistake_is_told_and_the_loop_goes_on(answer, mistake, words):
    played = Played([answer, finish()], SumTask(MORE), tool_timeout_s=0.05)
    assert played.stop == "finish" and played.rollout.outcome is Outcome.DONE
    assert played.rollout.metrics[f"mistakes/{mistake}"] == played.rollout.metrics["mistakes"] == 1
    told = played.told(1)
    assert all(word in told for word in words), told
    assert len(played.rollout.samples) == 1


def test_a_bad_call_before_a_good_one_is_told_and_nothing_is_run():
    text = call("nope") + call("add", a=1, b=2)
    played = Played([text, finish()], stop_at_call=False)
    assert played.rollout.metrics["mistakes/unknown_tool"] == 1 and not played.world.added


def test_one_call_a_turn():
    text = call("add", a=1, b=2) + call("add", a=5, b=5)
    played = Played([text, finish()], stop_at_call=False)
    assert played.world.added == [3]


def test_generation_stops_behind_the_first_call():
    played = Played([call("add", a=1, b=2) + "\n<tool_response>99</tool_response>", finish()])
    (sample,) = played.rollout.samples
    whole = played.backend.tokenizer.decode(sample.response_ids)
    assert "99" not in whole and "3" in whole


@pytest.mark.parametrize(
    "answer",
    [
        function("add", a=1, b=2),
        function("add", a=1, b=2).removesuffix("</function>"),
        "I add.\n" + function("add", a="\n1\n", b=" 2"),
    ],
)
def test_the_function_form(answer):
    played = Played([answer, function("finish", answer="3 <b>\n5")], form="function")
    assert played.world.added == [3] and played.rollout.metadata["answer"] == "3 <b>\n5"
    assert "<parameter=PARAMETER>" in played.told(0)


@pytest.mark.parametrize(
    ("answer", "mistake", "words"),
    [
        ("5", "no_call", ["no call"]),
        ("<function=add", "malformed", ["name and >"]),
        ("<function=add><parameter=a>1", "malformed", ["Parameter a has no </parameter>"]),
        (function("add", a=1) + "", "bad_arguments", ["b is missing"]),
        ("<function=add><parameter=a>1</parameter>x</function>", "malformed", ["stands where"]),
        (
            "<function=add><parameter=a>1</parameter><parameter=a>1</parameter></function>",
            "malformed",
            ["twice"],
        ),
        (function("ad"), "unknown_tool", ["'ad'"]),
        (function("add", a="one", b=2), "bad_arguments", ['a must be a whole number, not "one"']),
        (call("add", a=1, b=2), "malformed", ["form", "<function=NAME>"]),
    ],
)
def test_mistakes_in_the_function_form(answer, mistake, words):
    played = Played([answer, function("finish", answer="x")], form="function")
    assert played.rollout.metrics[f"mistakes/{mistake}"] == 1 and played.stop == "finish"
    assert all(word in played.told(1) for word in words), played.told(1)


def test_the_json_form():
    add = json.dumps({"name": "add", "parameters": {"a": 1, "b": 2}})
    done = json.dumps({"name": "finish", "arguments": {"answer": "3"}})
    played = Played(['{"name": "nope"}', add, done], form="json")
    assert played.world.added == [3] and played.rollout.metadata["answer"] == "3"
    assert played.rollout.metrics["mistakes/unknown_tool"] == 1


def test_without_hints_only_the_failure_is_told():
    played = Played(["hm", finish()], hints=False)
    assert "That did not work." in played.told(1) and "no call" not in played.told(1)


def test_the_turns_left_are_told():
    played = Played([call("add", a=n, b=n) for n in range(9)], max_turns=4, remind_below=3)
    told = [played.told(turn).count("turns left") for turn in range(4)]
    assert told == [0, 1, 2, 2] and "3 turns left" in played.told(1)
    assert "last turn" in played.told(3) and "last turn" not in played.told(2)
    assert played.stop == "max_turns" and played.rollout.outcome is Outcome.TRUNCATED
    assert played.world.graded == [None]  # the reward of a capped one is still valid
    first = Played([finish()], max_turns=2, remind_below=5)
    assert "2 turns left" in first.told(0)


def test_equal_calls_with_equal_results_end_it():
    played = Played([call("add", a=1, b=2)], stuck_after=3)
    assert played.stop == "stuck" and played.rollout.metrics["turns"] == 3
    assert Played(["hm"], stuck_after=3).stop == "stuck"
    assert Played([call("add", a=1, b=2)], stuck_after=0, max_turns=7).stop == "max_turns"
    counted = iter(range(99))

    async def poll(arguments, context):
        return ToolResult(f"{next(counted)} % done")

    polling = Played([call("poll")], SumTask([tool_of("poll", poll)]), max_turns=7)
    assert polling.stop == "max_turns"  # its results differ


def test_a_full_context_ends_it():
    played = Played([call("add", a=1, b=2)], stuck_after=0, max_context=1500)
    assert played.stop == "context" and played.rollout.outcome is Outcome.TRUNCATED
    (sample,) = played.rollout.samples
    assert len(sample.prompt_ids) + len(sample.response_ids) <= 1500 + 100
    assert all(
        len(request.prompt) + request.sampling.max_new_tokens <= 1500
        for request in played.backend.requests
    )
    assert Played([call("add", a=1, b=2)], stuck_after=0, context=1500).stop == "context"


def test_a_first_prompt_that_fits_nowhere_is_an_error_of_the_settings():
    with pytest.raises(PromptTooLong, match="max_context"):
        Played([finish()], max_context=20)
    with pytest.raises(PromptTooLong):
        Played([finish()], context=20)


def test_a_turn_that_was_cut_is_told_so():
    played = Played(["x" * 50, call("add", a=1, b=2)[:30], finish()], max_new_tokens=70)
    assert played.rollout.metrics["mistakes/no_call"] == 1
    cut = Played(["x" * 500, finish()], max_new_tokens=90)
    assert cut.rollout.metrics["mistakes/cut"] == 1 and "cut off" in cut.told(1)
    (sample,) = cut.rollout.samples
    assert sample.loss_mask[89] and not sample.loss_mask[90]  # the template's end of turn


def test_an_answer_without_a_call_where_that_is_allowed():
    played = Played(["<think>so</think>It is 5."], answer_without_call=True)
    assert played.stop == "finish" and played.rollout.metadata["answer"] == "It is 5."
    assert Played(["", finish()], answer_without_call=True).rollout.metadata["answer"] == "no"


def test_long_results_lose_their_middle():
    async def long(arguments, context):
        return ToolResult("a" * 600 + "b" * 600)

    played = Played([call("long"), finish()], SumTask([tool_of("long", long)]), result_chars=90)
    assert "a" * 60 + "\n[1110 characters are left out]\n" + "b" * 30 in played.told(1)


@pytest.mark.parametrize("error", [SandboxError("gone"), OutOfCapacity("full")])
def test_a_broken_machine_is_a_failed_rollout(error):
    async def breaks(arguments, context):
        raise error

    played = Played([call("add", a=1, b=2), call("breaks")], SumTask([tool_of("breaks", breaks)]))
    rollout = played.rollout
    assert rollout.outcome is Outcome.FAILED and rollout.failure == type(error).__name__
    assert rollout.metadata["stage"] == "run" and len(rollout.samples) == 1
    assert played.world.num_closes == 1 and played.world.graded == []


@pytest.mark.parametrize("error", [BackendError("down"), OSError("away")])
def test_a_backend_that_fails_is_a_failed_rollout(error):
    rollout = Played([call("add", a=1, b=2), error]).rollout
    assert rollout.outcome is Outcome.FAILED and rollout.failure == type(error).__name__


def test_settings_that_cannot_work_are_raised():
    with pytest.raises(RequestError):
        Played([RequestError("no such field")])


def test_the_player_closes_the_world_when_it_is_cancelled():
    async def main():
        task = SumTask()
        backend = ScriptedBackend([call("add", a=1, b=2)], delay_s=0.01)
        player = AgentPlayer(task, backend, AgentConfig(max_turns=10_000, stuck_after=0))
        assert isinstance(player, Player)
        (problem,) = task.problems("train", 1)
        play = asyncio.create_task(player.play(problem, group=0, index=0, seed=0))
        await asyncio.sleep(0.1)
        play.cancel()
        with pytest.raises(asyncio.CancelledError):
            await play
        return task.worlds

    (world,) = asyncio.run(main())
    assert world.started and world.num_closes == 1


def test_equal_arguments_give_equal_rollouts_and_seeds_differ_by_turn():
    script = [call("add", a=1, b=2), finish()]
    one, other = Played(script), Played(script)
    assert one.rollout == other.rollout
    seeds = [request.sampling.seed for request in one.backend.requests]
    assert len(set(seeds)) == 2 and seeds == [r.sampling.seed for r in other.backend.requests]


@pytest.mark.parametrize(
    "given", [{"max_turns": 0}, {"stuck_after": 1}, {"tool_timeout_s": 0}, {"max_context": -1}]
)
def test_settings_that_cannot_be_are_refused(given):
    with pytest.raises(ConfigError, match="agent"):
        AgentConfig(**given)


def ids_as_seen(played):
    """Every prompt and answer lies in a sample, token for token, masked as it was sampled."""
    answers = [t for t in zip(played.backend.requests, played.backend.outputs)]
    wholes = played.whole()
    for request, output in answers:
        seen = (*request.prompt, *output)
        assert any(whole[: len(seen)] == seen for whole in wholes)


class Seeing(ScriptedBackend):
    """Remembers the ids it gave."""

    def __init__(self, script, **given):
        super().__init__(script, **given)
        self.outputs = []

    async def agenerate(self, request):
        found = await super().agenerate(request)
        self.outputs.append(found[0].token_ids)
        return found


def spelled(text):
    """Byte for byte: ids that encoding the text again would not give."""
    return [*text.encode(), 256]


def test_tokens_are_those_that_the_engine_saw_though_merges_differ():
    tokenizer = ToyBpe()
    script = [spelled("abab " + call("add", a=1, b=2)), spelled("ab?"), spelled(finish("abab"))]
    again = tokenizer.encode(tokenizer.decode(script[0]))
    assert again != script[0][:-1]  # the trap is there
    backend = Seeing(script, tokenizer=tokenizer, context=100_000)
    played = Played(None, backend=backend)
    ids_as_seen(played)
    (sample,) = played.rollout.samples
    trained = [id for id, mask in zip(sample.response_ids, sample.loss_mask) if mask]
    assert trained == [id for output in backend.outputs for id in output]


def test_dropped_thoughts_make_a_sample_a_turn_and_kept_ones_do_not():
    script = ["<think>abab</think>" + call("add", a=1, b=2), "<think>ab</think>" + finish("3")]
    dropped = Played(
        None, backend=Seeing(script, tokenizer=ToyBpe(), context=99_999), thinking="drop"
    )
    assert "abab" in dropped.rollout.text and "abab" not in dropped.told(1)
    assert len(dropped.rollout.samples) == 2
    ids_as_seen(dropped)
    kept = Played(None, backend=Seeing(script, tokenizer=ToyBpe(), context=99_999))
    assert "abab" in kept.told(1) and len(kept.rollout.samples) == 1


def test_a_call_within_a_thought_is_none():
    played = Played(["<think>" + call("add", a=1, b=2) + "</think>", finish()], stop_at_call=False)
    assert not played.world.added and played.rollout.metrics["mistakes/no_call"] == 1
