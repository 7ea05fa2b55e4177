"""A run can be traced: what the engine and the trainer did, and when."""

import asyncio

from evolute.engine import Engine
from evolute.models import load_model
from evolute.telemetry import Tracer, read_trace
from evolute.train import Controller, TrainConfig

CONFIG = TrainConfig(
    model="tiny", task="addition-1", steps=2, prompts_per_step=2, samples_per_prompt=2
)


def test_spans_of_engine_and_trainer_share_one_axis(tmp_path):
    tracer = Tracer(tmp_path / "trace.jsonl")
    model = load_model("tiny")
    with Engine(model, tracer=tracer) as engine:
        asyncio.run(Controller(CONFIG, tmp_path, model, engine, tracer=tracer).run())
        computed = engine.stats().counts.computed_tokens
    tracer.close()
    spans = read_trace(tmp_path / "trace.jsonl")
    steps = [span for span in spans if span.name == "engine/step"]
    assert sum(span.ids["tokens"] for span in steps) == computed
    (first, second) = (span for span in spans if span.name == "train/rollout")
    inside = [s for s in steps if first.start_s <= s.start_s and s.end_s <= first.end_s]
    assert inside and first.end_s <= second.start_s
    names = {span.name for span in spans}
    assert {"train/update", "train/publish", "train/checkpoint"} <= names
