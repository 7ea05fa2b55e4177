"""A server that decodes natively from a GGUF file starts without torch, which takes longer to
import than all the rest of a start."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("evolute.kernels._native")

PROGRAM = """
import json, sys
import evolute.cli.serve_worker, evolute.server.app, evolute.server.serving
from evolute import Engine, SamplingParams
with Engine("smollm2-135m", precision=sys.argv[1]) as engine:
    text = engine.generate("2+2=", SamplingParams(max_new_tokens=2))[0].text
heavy = ("torch", "transformers", "ray", "optuna", "scipy", "pandas", "matplotlib", "peft")
print(json.dumps({"text": text, "heavy": [name for name in heavy if name in sys.modules]}))
"""


@pytest.mark.parametrize("precision", ["quantized", "int8"])
def test_a_served_gguf_file_imports_nothing_heavy(precision):
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, precision],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    told = json.loads(ran.stdout.splitlines()[-1])
    assert told["text"] and told["heavy"] == []
