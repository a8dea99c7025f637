"""What the microscope shows of a token: up to six numbers, each with a sentence on what it is and a scale of colours."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from manners.report.evidence import Row
from manners.report.markup import Html, tag
from manners.report.numerals import number, short

# A value at a limit, such as a ratio of 1.2, is not to miss it by a rounding error.
_NEARLY = 1e-9


@dataclass(frozen=True)
class Quantity:
    """One number of every token: its key in "trace", its name, its unit, and what it is in a plain sentence.

    `sided`: it lies on both sides of `centre`, and the side matters. `limits`: distances from the centre at which the next
    stronger colour begins; empty = chosen by the data.
    """

    key: str
    label: str
    unit: str
    says: str
    centre: float = 0.0
    sided: bool = True
    limits: tuple[float, ...] = ()

    def colour(self, value: float | None) -> str | None:
        """The class of `value`: p1 to p4 above the centre, n1 to n4 below, s1 to s4 where no side matters, none near it."""
        if value is None:
            return None
        strength = sum(abs(value - self.centre) >= limit - _NEARLY for limit in self.limits)
        side = "s" if not self.sided else "p" if value > self.centre else "n"
        return f"{side}{strength}" if strength else None

    def scaled(self, values: Iterable[float]) -> Quantity:
        """The same with limits, unless it has them: the last is reached by about one of fifty `values`."""
        if self.limits:
            return self
        far = sorted(distance for value in values if (distance := abs(value - self.centre)) > 0)
        return replace(self, limits=round_limits(far[int(0.98 * (len(far) - 1))] if far else 1.0))


def quantities(config: Row) -> tuple[Quantity, ...]:
    """The quantities of a trace; the first of them colours the tokens at the start."""
    against, unit = _expected(config)
    low, high = number(config.get("clip_low")), number(config.get("clip_high"))
    clip = "" if low is None or high is None else f" Beyond {1 - low:g} and {1 + high:g} the clip ends the pull."
    nats = (0.5, 1.0, 2.0, 5.0)
    return (
        Quantity(
            "advantage",
            "advantage",
            unit,
            f"How much better {against}. The update makes tokens above 0 likelier and tokens below 0 rarer.",
        ),
        Quantity(
            "value",
            "value",
            "reward",
            "What the value function expected, before this token, of all the reward that was still to come.",
        ),
        Quantity(
            "penalty",
            "shift penalty",
            "reward",
            "What the token pays for being likelier than the reference finds it: −β·(log π − log π_ref). Above 0 it is "
            "paid back.",
        ),
        Quantity(
            "logp",
            "log π",
            "nats",
            "How likely the policy found this token when it drew it: 0 is certain, −0.7 is every second time, −2.3 one "
            "in ten, −4.6 one in a hundred.",
            sided=False,
            limits=nats,
        ),
        Quantity(
            "reference_logp",
            "log π_ref",
            "nats",
            "How likely the reference, the model before this training, finds the same token. Where it is far below log π, the "
            "policy has learned to say what it did not say before.",
            sided=False,
            limits=nats,
        ),
        Quantity(
            "ratio",
            "ratio",
            "times as likely",
            f"How much likelier the updates of this step have made the token; 1 is no change.{clip}",
            centre=1.0,
        ),
    )


def _expected(config: Row) -> tuple[str, str]:
    """What an advantage is measured against, and its unit."""
    match config.get("advantage"):
        case "grpo":
            return "the whole answer was than the mean of all answers to its prompt", "standard deviations of these"
        case "grpo_without_std":
            return "the whole answer was than the mean of all answers to its prompt", "reward"
        case "rloo":
            return "the whole answer was than the mean of the other answers to its prompt", "reward"
        case "remax":
            return "it went on from this token than the policy's likeliest answer to the prompt did", "reward"
        case "reinforce":
            return (
                "it went on from this token than from the tokens of the whole batch on average",
                "standard deviations",
            )
    whitened = config.get("whiten_advantages") is True
    words = "it went on from this token than the value function had expected"
    return words, "standard deviations" if whitened else "reward"


def round_limits(last: float) -> tuple[float, ...]:
    """Four neighbours of the series …, 0.1, 0.2, 0.5, 1, 2, 5, …; the largest of them is at most `last`."""
    power = math.floor(math.log10(last))
    series = [float(f"{digit}e{power + down}") for down in (-2, -1, 0) for digit in (1, 2, 5)]
    return tuple([limit for limit in series if limit <= last * (1 + _NEARLY)][-4:])


def reading(quantity: Quantity) -> Html:
    """What a quantity is, and which colour means which numbers."""
    return tag("div", tag("p", quantity.says), _key(quantity), class_="reading-of", data_key=quantity.key)


def _key(quantity: Quantity) -> Html:
    """A box for each colour, with the number at which it begins, from the lowest to the highest."""
    above = quantity.limits if quantity.sided else ()
    values = [quantity.centre + away for away in (*(-limit for limit in reversed(quantity.limits)), 0.0, *above)]
    words = [short(round(value, 9)) for value in values]
    words[0] = f"≤\u00a0{words[0]}"
    words[-1] = f"≥\u00a0{words[-1]}" if above else words[-1]
    boxes = [tag("i", word, class_=quantity.colour(value)) for value, word in zip(values, words, strict=True)]
    return tag("p", *boxes, tag("span", quantity.unit), class_="key")
