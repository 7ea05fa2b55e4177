"""Load generators of others, unmodified, against our server: all that they ask is answered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from programs import needs, run

from evolute.engine import Engine
from evolute.models import export_model, load_model
from evolute.server import create_app, serve_in_thread

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
COUNT, PROMPT, OUTPUT, STREAMS = 8, 48, 12, 4


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the generators take a tokenizer from."""
    directory = tmp_path_factory.mktemp("models") / "smollm2-135m"
    return export_model(load_model("smollm2-135m"), directory, dtype="bfloat16")


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Engine, str]]:
    with Engine("smollm2-135m", precision="quantized", memory_mb=256) as engine:
        server = serve_in_thread(create_app(engine, served_names=["smollm2-135m"]))
        yield engine, server.url
        server.stop()


@needs("guidellm")
@pytest.mark.parametrize(
    "path", ["/v1/completions", "/v1/chat/completions", "/v1/responses"], ids=lambda p: p[4:]
)
def test_guidellm(served: tuple[Engine, str], model_dir: Path, tmp_path: Path, path: str) -> None:
    engine, url = served
    before = engine.stats().counts.output_tokens
    run(
        "guidellm",
        "run",
        *("--backend", f"kind=openai_http,target={url},request_format={path},model=smollm2-135m"),
        *("--profile", f"kind=concurrent,streams={STREAMS}"),
        *("--constraint", f"kind=max_requests,count={COUNT}"),
        *("--data", f"kind=synthetic_text,prompt_tokens={PROMPT},output_tokens={OUTPUT}"),
        *("--tokenizer", f"kind=hf_auto,model={model_dir}"),
        *("--output", f"kind=json,path={tmp_path / 'out.json'}"),
        "--disable-console-interactive",
        cwd=tmp_path,
    )
    report: Any = json.loads((tmp_path / "out.json").read_text())
    (ran,) = report["benchmarks"]
    totals = ran["metrics"]["request_totals"]
    assert (totals["successful"], totals["errored"]) == (COUNT, 0)
    for request in ran["requests"]["successful"]:
        assert request["output_metrics"]["text_tokens"] == OUTPUT  # as our usage tells
    assert engine.stats().counts.output_tokens - before >= COUNT * OUTPUT


@needs("genai-bench")
@pytest.mark.parametrize("backend", ["openai", "vllm", "sglang"])
def test_genai_bench(
    served: tuple[Engine, str], model_dir: Path, tmp_path: Path, backend: str
) -> None:
    _, url = served
    run(
        "genai-bench",
        "benchmark",
        *("--api-backend", backend, "--api-base", url, "--api-key", "k"),
        *("--api-model-name", "smollm2-135m", "--model-tokenizer", str(model_dir)),
        *("--task", "text-to-text", "--traffic-scenario", f"D({PROMPT},{OUTPUT})"),
        *("--num-concurrency", str(STREAMS), "--max-time-per-run", "2"),
        *("--max-requests-per-run", str(COUNT), "--experiment-base-dir", str(tmp_path)),
        *("--experiment-folder-name", "out", "--log-dir", str(tmp_path)),
        cwd=tmp_path,
    )
    (file,) = (tmp_path / "out").glob("D*.json")
    figures: Any = json.loads(file.read_text())["aggregated_metrics"]
    assert figures["num_error_requests"] == 0
    assert figures["num_completed_requests"] >= COUNT
    if backend != "openai":  # to the others it says ignore_eos
        assert figures["stats"]["num_output_tokens"]["min"] == OUTPUT


@needs("aiperf")
@pytest.mark.parametrize("kind", ["chat", "completions", "responses"])
def test_aiperf(served: tuple[Engine, str], model_dir: Path, tmp_path: Path, kind: str) -> None:
    _, url = served
    run(
        "aiperf",
        "profile",
        *("--model", "smollm2-135m", "--url", url, "--endpoint-type", kind, "--streaming"),
        *("--tokenizer", str(model_dir), "--use-server-token-count"),
        *("--isl", str(PROMPT), "--osl", str(OUTPUT), "--extra-inputs", "ignore_eos:true"),
        *("--concurrency", str(STREAMS), "--request-count", str(COUNT)),
        *("--artifact-dir", str(tmp_path / "out"), "--ui", "none"),
        cwd=tmp_path,
        offline=False,  # else it looks for a local folder in the hub's cache
    )
    figures: Any = json.loads((tmp_path / "out" / "profile_export_aiperf.json").read_text())
    assert figures["request_count"]["avg"] == COUNT
    assert not (figures.get("error_summary") or [])
    assert figures["output_sequence_length"]["min"] == OUTPUT
