"""What must be set before anything is imported: Triton reads it when it is first imported."""

import os
import shutil

if not shutil.which("nvidia-smi"):
    os.environ.setdefault("TRITON_INTERPRET", "1")
