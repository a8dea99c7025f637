"""How seconds and memory of one PPO iteration grow with batch, answer length and depth: `python growth.py [--tiny] [--out FOLDER]`.

Each sweep changes one thing of a small random model. Fitted is y = c·xᵏ by least squares on logarithms; beside the measured k stands that
of the counted operations over the same points: nothing should grow faster than the work.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import floor  # noqa: E402 - scripts of this folder
from memory import TINY, Size, measured  # noqa: E402

START = Size(256, 704, 6, 4, 2, 4096, 3, batch=16, prompt=32, response=32)
SWEEPS: dict[str, list[Size]] = {
    "batch": [replace(START, batch=n) for n in (8, 16, 32, 64)],
    "response": [replace(START, response=n) for n in (16, 32, 64, 128)],
    "layers": [replace(START, layers=n, train_layers=n // 2) for n in (4, 8, 16, 32)],
}
SMALL = next(iter(TINY.values()))
TINY_SWEEPS = {"batch": [replace(SMALL, batch=n) for n in (2, 4, 8)]}


class Exponent(NamedTuple):
    """k of y = c·xᵏ and its 95 % interval."""

    k: float
    low: float
    high: float


def exponent(x: Sequence[float], y: Sequence[float]) -> Exponent:
    """Least squares on logarithms, with Student's interval; needs three points or more, all above 0."""
    import numpy
    from scipy.stats import linregress, t

    found = linregress(numpy.log(x), numpy.log(y))
    half = float(t.ppf(0.975, len(x) - 2) * found.stderr)
    return Exponent(float(found.slope), float(found.slope) - half, float(found.slope) + half)


def operations(size: Size) -> float:
    """Counted operations of one iteration of `memory.iteration`: answers, reference, one epoch; no judge on the trunk."""
    config = {"hidden_size": size.width, "intermediate_size": size.inner, "num_hidden_layers": size.layers,
              "num_attention_heads": size.heads, "num_key_value_heads": size.groups, "vocab_size": size.vocabulary}  # fmt: skip
    shape = floor.Shape.of(config, size.prompt + size.response)
    return size.batch * floor.on_policy(shape, size.train_layers, size.prompt, size.response, 1, judge=False)


def sweep(name: str, sizes: Sequence[Size], empty: float) -> dict[str, Any]:
    """Measure every size; memory counts above `empty`, MiB, which python and its libraries take before anything is done."""
    x = [float(vars(size)[name]) for size in sizes]
    rows = [measured(size) for size in sizes]
    found: dict[str, Any] = {
        "x": x, "seconds": [row["seconds"] for row in rows], "mib": [max(0.1, row["peak_mib"] - empty) for row in rows],
        "operations": [operations(size) for size in sizes],
    }  # fmt: skip
    found["exponents"] = {key: exponent(x, found[key])._asdict() for key in ("seconds", "mib", "operations")}
    work = found["exponents"]["operations"]["k"]
    found["faster_than_work"] = [key for key in ("seconds", "mib") if found["exponents"][key]["low"] > work + 0.05]
    return found


def figure(name: str, found: dict[str, Any]) -> str:
    """Seconds, memory and work over `name`, each as a multiple of the first point, on logarithmic axes: an SVG file."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    from manners.report.svg import COLOURS, alone, drawing, svg

    lines = (("operations", "work", "grey"), ("seconds", "seconds", "blue"), ("mib", "memory", "orange"))
    with drawing():
        drawn = Figure(figsize=(420 / 72, 260 / 72))
        axes = drawn.subplots()
        for key, word, colour in lines:
            k = found["exponents"][key]
            label = f"{word}: exponent {k['k']:.2f} ({k['low']:.2f} to {k['high']:.2f})"
            axes.plot(
                found["x"], [y / found[key][0] for y in found[key]], "o-", color=COLOURS[colour], label=label, gid=key
            )
        axes.set(xscale="log", yscale="log", xlabel=name, ylabel="multiple of the first")
        axes.set_xticks(found["x"], [f"{x:g}" for x in found["x"]])
        axes.set_yticks([1, 2, 4, 8], ["1", "2", "4", "8"])
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_locator(NullLocator())
        axes.legend(frameon=False, fontsize=9, loc="upper left")
        drawn.tight_layout()
        told = f"growth with {name}: " + "; ".join(
            f"{word} {found['exponents'][key]['k']:.2f}" for key, word, _ in lines
        )
        return alone(svg(drawn, f"growth-{name}", f"Growth with {name}", told), 420, 260)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="one sweep of three tiny sizes")
    parser.add_argument("--out", type=Path, help="folder for growth.json and the plots")
    given = parser.parse_args()
    start = time.monotonic()
    empty = measured(replace(SMALL, batch=2))["peak_mib"] - 1
    sweeps = TINY_SWEEPS if given.tiny else SWEEPS
    found: dict[str, Any] = {name: sweep(name, sizes, empty) for name, sizes in sweeps.items()}
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        for name in sweeps:
            (given.out / f"growth-{name}.svg").write_text(figure(name, found[name]), encoding="utf-8")
        (given.out / "growth.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found | {"took_seconds": time.monotonic() - start}))


if __name__ == "__main__":
    main()
