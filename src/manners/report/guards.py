"""What the guards of a run watched, what they saw, and what they did about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from manners.report.blocks import cell, heading, row, section, table
from manners.report.curves import Steps
from manners.report.evidence import Row, mappings
from manners.report.markup import Html, join, tag
from manners.report.numerals import number, percent, short

# Signal of a guard -> what it is; when it gives alarm, with {} for the limit, and {%} for one that is a share.
SIGNALS: Mapping[str, tuple[str, str]] = {
    "kl": ("KL to the reference", "above {} nats per sequence"),
    "negative_kl": ("KL below zero", "below {} nats per sequence"),
    "entropy": ("entropy", "below {} nats per token"),
    "repetition": ("repetition", "above {%} of the word triples of an answer"),
    "length": ("length", "{} times the first step's, or its inverse"),
    "distinct_2": ("distinct word pairs", "below {} of the first step's"),
    "reference_logp": ("likelihood under the reference", "{} nats per token below the first step's"),
    "second_judge": ("gain that the second judge does not see", "above {} standard deviations"),
    "disagreement": ("disagreement of the ensemble", "above {} times the first step's"),
    "value_loss": ("value loss", "above {} times its median so far"),
    "clip_fraction": ("clipped tokens", "above {%} of all"),
}
ACTIONS: Mapping[str, str] = {"warn": "warns", "stop": "stops the run", "roll_back": "rolls the policy back"}
# The metric that a guard with a name of its own reads.
_METRICS: Mapping[str, str] = {"negative_kl": "kl"}


@dataclass(frozen=True)
class Fired:
    """One alarm: at which step, of which guard, what it saw in words, and what came of it."""

    step: float
    signal: str
    says: str
    did: str

    @property
    def metric(self) -> str:
        """The curve in which it can be seen."""
        return _METRICS.get(self.signal, self.signal)


def fired(steps: Steps) -> list[Fired]:
    """Every alarm of a run, in order of steps."""
    return [
        Fired(step, str(alarm.get("guard")), _seen(alarm), _did(alarm, values))
        for step, values in steps
        for alarm in mappings(values.get("alarms"))
    ]


def interventions(steps: Steps) -> tuple[str, tuple[str, ...]]:
    """For the top of the page: in a few words that guards stopped a run or rolled it back ("" = neither), and why."""
    acted = [alarm for alarm in fired(steps) if alarm.did.startswith(("rolled", "stopped"))]
    back = len({alarm.step for alarm in acted if alarm.did.startswith("rolled")})
    words = [f"rolled back {'once' if back == 1 else f'{back} times'}"] if back else []
    words += ["stopped by a guard"] if any("stopped" in alarm.did for alarm in acted) else []
    alike: dict[tuple[str, str], list[Fired]] = {}
    for alarm in acted:
        alike.setdefault((alarm.signal, alarm.did), []).append(alarm)
    return ", then ".join(words).capitalize(), tuple(_why(alarms) for alarms in alike.values())


def _why(alarms: Sequence[Fired]) -> str:
    """One sentence about interventions of one kind, with what the last of them saw."""
    *earlier, last = [f"{alarm.step:g}" for alarm in alarms]
    when = f"steps {', '.join(earlier)} and {last}" if earlier else f"step {last}"
    return f"At {when} the guard “{_name(alarms[-1].signal)}” {alarms[-1].did}: {alarms[-1].says}"


def guards(config: Row, steps: Steps) -> Html | None:
    """The section of the guards: their alarms, or that there were none; what each of them watched. None where none was set."""
    alarms, watching = fired(steps), config.get("guards")
    if not alarms and not isinstance(watching, list):
        return None
    rows = mappings(watching)
    measured = {key for _, values in steps for key, value in values.items() if number(value) is not None}
    watched = [_name(str(r.get("signal"))) for r in rows if _metric(r) in measured]
    lede = (
        "Guards watch for what a policy does when it has found a hole in its judge: its answers become alike, circle, "
        "grow, or leave the language."
    )
    told = tag("ol", *(_alarm(alarm) for alarm in alarms), class_="alarms") if alarms else tag("p", _silence(watched))
    blind = [w for _, values in steps if isinstance(found := values.get("unwatched"), list) for w in map(str, found)]
    notes = [tag("p", f"{words[:1].upper()}{words[1:]}.", class_="quiet") for words in blind]
    return section("guards", "Guards", lede, told, *notes, _all(rows, measured) if rows else None)


def _alarm(alarm: Fired) -> Html:
    title = join([tag("b", f"step {alarm.step:g}"), f" · {_name(alarm.signal)} · ", tag("b", alarm.did)])
    return tag(
        "li", tag("p", title), tag("p", f"{alarm.says[:1].upper()}{alarm.says[1:]}"), class_=alarm.did.split()[0]
    )


def _silence(watched: Sequence[str]) -> str:
    if not watched:
        return "No guard watched this run."
    count = "One guard" if len(watched) == 1 else f"{len(watched)} guards"
    return f"{count} watched and none gave an alarm: {', '.join(watched)}."


def _all(rows: Sequence[Row], measured: set[str]) -> Html:
    labels = ("Guard", "Alarm", "Steps in a row", "Then it")
    body = []
    for values in rows:
        signal, action = str(values.get("signal")), str(values.get("action"))
        limit = _limit(signal, number(values.get("limit")))
        cells = [
            cell("Alarm", limit if _metric(values) in measured else f"{limit}; not measured"),
            cell("Steps in a row", f"{number(values.get('patience')) or 1:g}"),
            cell("Then it", ACTIONS.get(action, action)),
        ]
        body.append(row(_name(signal), *cells))
    shown = table("watching", tag("tr", heading(*labels)), body)
    return tag("details", tag("summary", "What each of them watched"), shown)


def _limit(signal: str, limit: float | None) -> str:
    words = SIGNALS.get(signal, ("", "beyond {}"))[1]
    if limit is None:
        return "no limit"
    return words.replace("{%}", percent(limit)).replace("{}", short(limit))


def _seen(alarm: Row) -> str:
    value, limit = number(alarm.get("value")), number(alarm.get("limit"))
    numbers = "" if value is None or limit is None else f"{short(value)} where the limit is {short(limit)}."
    return str(alarm.get("says") or numbers)


def _did(alarm: Row, values: Row) -> str:
    """What came of an alarm, which is at the same time the class of its box: the first word.

    One that rolls back stops a run, too, that has been rolled back often enough.
    """
    action, to = alarm.get("action"), values.get("rolled_back_to")
    stopped = str(values.get("stopped") or "")
    did = []
    if action == "roll_back" and to:
        did.append(f"rolled the policy back to {'where it began' if to == 'start' else 'its best weights'}")
    if stopped == f"guard: {alarm.get('guard')}" or (action == "stop" and stopped.startswith("guard")):
        did.append("stopped the run")
    if action == "warn":
        did.append("warned")
    return " and ".join(did) or f"asked to {str(action).replace('_', ' ')}"


def _metric(values: Row) -> str:
    signal = str(values.get("signal"))
    return _METRICS.get(signal, signal)


def _name(signal: str) -> str:
    return SIGNALS.get(signal, (signal.replace("_", " "), ""))[0]
