"""Taking a policy out: a merged Hugging Face checkpoint with a model card, or the adapter alone in peft's format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

import manners
from manners.errors import MannersError
from manners.models.adapters import compose_adapters
from manners.models.load import checkpoint_folder, lineage_of, load_trunk
from manners.models.shaping import is_shaped
from manners.models.starter import HUB_ID
from manners.runs import Run, read_json, write_text, writing


def export_merged(model: str, out: Path, say: Callable[[str], None] = lambda _: None) -> None:
    """Write `model` (a run or checkpoint of ours) as one plain checkpoint that transformers loads, with README.md, into `out`."""
    _check(model, out)
    trunk = load_trunk(model, 1, device="cpu", say=say)
    plain = trunk.unwrap()
    with writing(out) as beside:
        try:
            plain.save_pretrained(beside)
        except SafetensorError as error:  # how a full disk shows while the weights are written
            raise OSError(28, str(error)) from None
        trunk.tokenizer.save_pretrained(beside)
        write_text(beside / "README.md", model_card(model, merged=True))


def export_adapter(model: str, out: Path, say: Callable[[str], None] = lambda _: None) -> None:  # noqa: ARG001 - same shape
    """Write the adapters of `model` as one adapter in peft's format, to be put on the plain base model, into `out`."""
    _check(model, out)
    base, adapters = lineage_of(model)
    with writing(out) as beside:
        beside.mkdir()
        compose_adapters(adapters, beside, HUB_ID if base == "starter" else base)
        write_text(beside / "README.md", model_card(model, merged=False))


def _check(model: str, out: Path) -> None:
    if checkpoint_folder(model) is None:
        raise MannersError(f"{model} is no run and no checkpoint of ours; name one (`manners runs` lists them)")
    if is_shaped(model):
        raise MannersError(
            f"{model} is sampled with its Q heads, which no plain checkpoint can hold; let `manners sample` answer with it, and"
            " `manners train sft --data` learn those answers"
        )
    if out.exists():
        raise MannersError(f"{out} exists already; choose another folder")


def model_card(model: str, *, merged: bool) -> str:
    """What the weights are, what made them, how they were measured, and what they are not good for."""
    base, adapters = lineage_of(model)
    shown = HUB_ID if base == "starter" else Path(base).name if Path(base).is_dir() else base
    library = "transformers" if merged else "peft"
    way = " → ".join([shown, *(_stage(a) for a in adapters)])
    lines = ["---", f"base_model: {shown}", f"library_name: {library}", "tags: [rlhf, manners]", "---", ""]
    lines += [f"# A better-behaved {shown.rpartition('/')[2]}", ""]
    lines += [f"Made with manners {manners.__version__} from people's rankings: {way}."]
    if base == "starter":
        lines += [
            "",
            f"The base weights are those of {HUB_ID}; where the Hub was out of reach, its Q4_1 release, dequantised.",
        ]
    folder = Path(model)
    if (folder / "evaluation.json").exists():
        evaluation = read_json(folder / "evaluation.json")
        lines += ["", f"## Measured on {evaluation.get('prompts', '?')} held-out prompts", "",
                  "| | before | after | gain, 95 % interval |", "|---|---|---|---|"]  # fmt: skip
        lines += [
            f"| {r['label']} | {r['before']:.3f} | {r['after']:.3f} | {r['gain']:+.3f} {_interval(r['ci'])} |"
            for r in evaluation.get("rows", [])
        ]
    lines += ["", "## Limits", "", "A small model taught with few judgements: it can be wrong, and it can be talked into misbehaving."
              " Rewards are not truth. Evaluate it on your own prompts before anybody relies on it.", ""]  # fmt: skip
    return "\n".join(lines)


def _stage(folder: Path) -> str:
    """The kind of run that wrote the checkpoint in `folder`, in words."""
    run = folder.parent.parent
    return Run.open(run).kind if (run / "lineage.json").exists() else folder.name


def _interval(ends: list[float | None]) -> str:
    return "" if None in ends else f"[{ends[0]:+.3f}, {ends[1]:+.3f}]"
