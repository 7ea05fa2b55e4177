"""lm-eval's local models on a task of our own: its scores are the engine's, its answers too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from programs import needs, run

from evolute.engine import Engine
from evolute.models import export_model, load_model
from evolute.server import create_app, serve_in_thread
from evolute.types import SamplingParams

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), needs("lm_eval")]
QUESTIONS = [
    {"question": f"{a} plus {b} is", "choices": [f" {a + b}", f" {a * b + 1}"], "answer": 0}
    for a, b in ((1, 2), (3, 4), (5, 2), (7, 7))
]
CHOICES = """
task: own_choices
dataset_path: json
dataset_kwargs: {{data_files: {file}}}
test_split: train
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""
ANSWERS = """
task: own_answers
dataset_path: json
dataset_kwargs: {{data_files: {file}}}
test_split: train
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[0]}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 6, do_sample: false}}
metric_list: [{{metric: exact_match}}]
"""


def run_lm_eval(url: str, directory: Path) -> None:
    """Choices and answers through completions, answers through chat too."""
    file = directory / "questions.jsonl"
    file.write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    (directory / "choices.yaml").write_text(CHOICES.format(file=file))
    (directory / "answers.yaml").write_text(ANSWERS.format(file=file))
    shared = f"model=tiny,tokenizer={directory / 'model'},num_concurrent=2,max_retries=1"
    completions = f"{shared},base_url={url}/v1/completions,tokenizer_backend=huggingface"
    ask("local-completions", f"{completions},max_length=2048", "own_choices,own_answers", directory)
    chat = f"{shared},base_url={url}/v1/chat/completions"
    ask("local-chat-completions", chat, "own_answers", directory, "--apply_chat_template")


def ask(model: str, arguments: str, tasks: str, directory: Path, *more: str) -> None:
    """Samples lie in the directory of the model's name afterwards."""
    run(
        "lm_eval",
        *("--model", model, "--model_args", arguments, "--tasks", tasks),
        *("--include_path", str(directory), "--output_path", str(directory / model)),
        "--log_samples",
        *more,
        cwd=directory,
        timeout_s=400,
    )


def samples(directory: Path, task: str) -> list[dict[str, Any]]:
    (file,) = directory.rglob(f"samples_{task}_*.jsonl")
    found = [json.loads(line) for line in file.read_text().splitlines()]
    return sorted(found, key=lambda sample: int(sample["doc_id"]))


def test_its_scores_are_the_engines(tmp_path: Path) -> None:
    export_model(load_model("tiny"), tmp_path / "model")
    with Engine("tiny") as engine:
        server = serve_in_thread(create_app(engine, served_names=["tiny"]))
        try:
            run_lm_eval(server.url, tmp_path)
        finally:
            server.stop()
        scored = SamplingParams(max_new_tokens=0, prompt_logprobs=True, prompt_top_logprobs=1)
        greedy = SamplingParams(max_new_tokens=6, temperature=0, stop=("\n",))
        chosen = samples(tmp_path / "local-completions", "own_choices")
        for question, sample in zip(QUESTIONS, chosen, strict=True):
            for choice, told in zip(question["choices"], sample["filtered_resps"], strict=True):  # type: ignore[call-overload]
                (local,) = engine.generate(f"{question['question']}{choice}", scored)
                own = [value or 0.0 for value in local.prompt_logprobs[-len(choice) :]]
                best = [top[0].logprob for top in local.prompt_top_logprobs[-len(choice) :]]
                assert float(told[0]) == pytest.approx(sum(own), abs=1e-3)
                assert told[1] == str(own == best)
        for model in ("local-completions", "local-chat-completions"):
            answered = samples(tmp_path / model, "own_answers")
            for question, sample in zip(QUESTIONS, answered, strict=True):
                prompt: Any = str(question["question"])
                if "chat" in model:
                    prompt = engine.tokenizer.chat([{"role": "user", "content": prompt}])
                (local,) = engine.generate(prompt, greedy)
                assert sample["resps"][0][0].strip() == local.text.strip()
