"""Bad input through the real command line: one message that names the fix, and nothing hangs."""

import errno
import json
import signal
import socket
import sys

import pytest

from evolute.cli.main import main

SMALL = "train.model=tiny train.task=addition-1 train.steps=2 train.prompts_per_step=2"
SMALL += " train.samples_per_prompt=2 eval_count=4 tune.trials=0 tune.pairs=2"
SET = [part for one in SMALL.split() for part in ("--set", one)]


@pytest.fixture
def evolute(tmp_path, monkeypatch, capfd):
    """Runs a command in an empty folder; gives the exit code and what stood on stderr."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["evolute", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        return code, capfd.readouterr().err

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("generate --model gone.gguf x", "gone.gguf"),
        ("generate --model text.gguf x", "text.gguf"),
        ("generate --model torn x", "torn"),
        ("generate --model tiny --adapter gone x", "adapter_config.json"),
        ("generate --model tiny -s page_size=99 x", "between 1 and 16"),
        ("eval adition-2 --model tiny", "Did you mean"),
        ("serve --model tiny --adapter gone", "NAME=DIRECTORY"),
        ("serve --model tiny --port 99999", "65535"),
        ("serve --model tiny --replicas 0", "at least 1"),
        ("serve --model tiny --routing d2lpm", "give --replicas 2"),
        ("serve --model tiny --route-quantum 9", "give --replicas 2"),
        ("serve --model tiny --replicas 2 --routing lpm", "use one of d2lpm"),
        ("serve --model tiny --replicas 2 --routing round_robin --route-quantum 9", "is of d2lpm"),
        ("serve --model gone.gguf --replicas 2", "gone.gguf"),
        ("bench routing --set max_running=3", "drop --set"),
        ("bench servin", "Did you mean 'serving'"),
        ("bench replay --model tiny --workload text.jsonl", "text.jsonl"),
        ("bench replay --model tiny --workload btch", "Did you mean 'batch'"),
        ("bench training --workload batch", "drop --workload"),
        ("bench replay --model tiny --workload vtc-overload --quick", "replay it paced"),
        ("bench generator --model tiny", "drop --model"),
        ("bench serving --rate 2", "--rate puts load on a server"),
        ("bench serving --no-stream", "--no-stream puts load on a server"),
        ("bench replay --http", "`bench serving` with --http"),
        ("bench serving --url localhost:8000", "write http://HOST:PORT"),
        ("bench serving --url http://127.0.0.1:9", "no server answers at http://127.0.0.1:9"),
        ("bench serving --url http://127.0.0.1:9 --workload vtc-overlod", "Did you mean"),
        ("bench serving --url http://127.0.0.1:9 --workload text.jsonl", "text.jsonl"),
        ("bench serving --url http://127.0.0.1:9 --rate 1 --concurrency 2", "keep one of them"),
        ("bench serving --url http://127.0.0.1:9 --endpoint chat --prompts ids", "--prompts text"),
        ("bench serving --url http://127.0.0.1:9 --endpoint chats", "completions or chat"),
        ("bench serving --url http://127.0.0.1:9 --slo-ttft-ms 0", "must be above 0"),
        ("bench serving --url http://127.0.0.1:9 --out gone/x.json", "gone/x.json"),
        ("bench serving --url http://127.0.0.1:9 --set page_size=4", "add --http"),
        ("bench serving --http --model gone.gguf", "gone.gguf"),
        ("bench serving --http --set page_sise=4", "Did you mean 'page_size'"),
        ("bench serving --http --api-key k", "--api-key is for --url"),
        ("bench serving --http --adapter x", "write NAME=DIR"),
        ("bench serving --http --no-stream --slo-tpot-ms 5 --model tiny", "drop their limits"),
        ("bench serving --http --paced", "--paced is for the engine"),
        ("tune engin", "Did you mean 'engine'"),
        ("tune engine --model tiny --pairs 1", "between 2 and 10"),
        ("loop --set tune.pairs=1", "between 2 and 10"),
        ("loop --set train.stepz=1", "Did you mean 'steps'"),
        ("loop --set train.task=adition-2", "Did you mean"),
        ("loop --set train.task=addition-1 --set eval_count=99", "eval_count = 99"),
        ("loop --config text.toml", "not valid TOML"),
        ("loop --resume gone", "no run 'gone'"),
        ("train rl recipe.toml --stepz 3", "Did you mean 'steps'"),
        ("train rl recipe.toml --steps", "write --key.path value"),
        ("train rl recipe.toml --steps many", "type int"),
        ("export gone --out here", "adapter_config.json"),
    ],
)
def test_it_is_told_what_to_change(evolute, tmp_path, arguments, message):
    for name in ("text.gguf", "text.jsonl", "text.toml"):
        (tmp_path / name).write_text("no such thing\n")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "config.json").write_text("{")
    (tmp_path / "recipe.toml").write_text('model = "tiny"\ntask = "addition-1"\n')
    code, error = evolute(*arguments.split())
    assert code in (1, 2)
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "runs").exists()


def test_a_prompt_longer_than_the_context(evolute):
    code, error = evolute("generate", "--model", "tiny", "-s", "context=16", "x" * 400)
    assert code and "16" in error and "context" in error


@pytest.mark.parametrize(
    "arguments",
    [["serve", "--model", "tiny"], ["loop", "--name", "r", *SET]],
    ids=["serve", "loop"],
)
def test_a_port_in_use(evolute, arguments):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        more = ["--port", port] if arguments[0] == "serve" else ["--set", f"port={port}"]
        code, error = evolute(*arguments, *more)
    assert code and str(port) in error


@pytest.fixture
def finished(evolute):
    code, error = evolute("loop", "--name", "r", *SET)
    assert code == 0, error
    return evolute


def test_a_run_and_its_damaged_files(finished, tmp_path):
    code, error = finished("loop", "--name", "r", *SET)
    assert code == 2 and "--resume r" in error
    code, error = finished("loop", "--resume", "s")
    assert code == 2 and "Known: r" in error
    run = tmp_path / "runs" / "r"
    (run / "state.json").write_text("[1")
    code, error = finished("loop", "--resume", "r")
    assert code == 2 and "Delete it and resume" in error
    (run / "state.json").unlink()
    assert finished("loop", "--resume", "r")[0] == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [r["name"] for r in lines if r["kind"] == "eval"] == ["base", "trained"]
    (run / "config.toml").write_text("eval_count = ")
    code, error = finished("loop", "--resume", "r")
    assert code == 2 and "config.toml is not valid TOML" in error
    (run / "config.toml").unlink()
    code, error = finished("loop", "--resume", "r")
    assert code == 2 and "put the file back" in error


def test_a_full_disk_at_a_checkpoint(evolute, tmp_path, monkeypatch):
    from evolute.train import checkpoint

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        code, error = evolute("loop", "--name", "r", *SET)
    assert code == 1 and "Free some space and resume" in error
    assert not list((tmp_path / "runs/r/checkpoints").glob("*step*"))
    assert evolute("loop", "--resume", "r")[0] == 0


def test_a_full_disk_anywhere_else(evolute, monkeypatch):
    from evolute.cli import run_state

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "state.tmp")

    with monkeypatch.context() as patch:
        patch.setattr(run_state.json, "dump", full)
        code, error = evolute("loop", "--name", "r", *SET)
    assert code == 1 and "No space left on device" in error and "resume" in error
    assert evolute("loop", "--resume", "r")[0] == 0


def test_a_recipe_with_words_after_it_and_its_export(evolute, tmp_path):
    (tmp_path / "recipe.toml").write_text('model = "tiny"\ntask = "addition-1"\nsteps = 9\n')
    (tmp_path / "d").mkdir()
    words = "--train.steps 2 --prompts-per-step=2 --optimizer.lr 1e-3 --run-dir d"
    code, error = evolute("train", "rl", "recipe.toml", *words.split())
    assert code == 0, error
    lines = (tmp_path / "d" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1]
    code, error = evolute("export", "d", "--out", "whole")
    assert code == 0, error
    code, error = evolute("generate", "--model", "whole", "x")
    assert code == 0, error
