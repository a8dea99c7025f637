"""How good a judge is: how often it is right, how far its confidence can be trusted, and where it is weak."""

from __future__ import annotations

from manners.report import figures, verdict
from manners.report.blocks import StripColumn, cell, heading, missing, row, section, strip_table, table
from manners.report.evidence import Evidence, Row, mapping, mappings
from manners.report.markup import Html, join, tag
from manners.report.numerals import between, interval, number, percent, plain, signed

KINDS = ("reward", "classifier")
# A single row of these says no more than all pairs do.
_MANY = ("By who judged", "By kind of prompt", "Each member of the ensemble")


def judge(evidence: Evidence, name: str, title: str, own: bool = False) -> Html:
    """The section of a reward model or a classifier; `own`: on its own page, below a headline that says it."""
    found = evidence.evaluation
    if number(found.get("accuracy")) is None:
        return section(name, title, None, missing("It was not measured on held-out judgements: no evaluation.json."))
    if evidence.kind == "classifier":
        lede = "On texts that training did not see."
        reasons = verdict.classifier_verdict(found).reasons
        content = _classes(found)
    else:
        lede = "On judgements of prompts that training did not see."
        reasons = verdict.judge_verdict(found).reasons
        content = _agreement(found, name)
    return section(name, title, lede if own else " ".join(reasons), content)


def _agreement(found: Row, name: str) -> Html:
    bins = mappings(found.get("calibration"))
    caption = tag(
        "figcaption",
        tag("h3", "Can its confidence be trusted?"),
        tag(
            "p",
            "On the dashed line it can be taken at its word; below it, it says more than it knows. Each dot is one bin of "
            "its confidence, with the number of pairs in it and the 95 % interval.",
        ),
    )
    picture = tag("figure", caption, figures.reliability(f"{name}-reliability", bins)) if bins else None
    facts = table("facts", None, _facts(found))
    parts = [tag("div", picture or missing("The evaluation has no confidence bins."), facts, class_="beside")]
    if groups := _groups(found):
        column = StripColumn("Agreement", "accuracy", "ci", centre=0.5, share=True)
        parts += [
            tag("h3", "Where it is right"),
            tag(
                "p",
                "All on one scale, with 95 % intervals; the upright line is a coin toss, and a hollow dot is not clearly "
                "off it.",
                class_="lede",
            ),
            strip_table(f"{name}-where", "Part", groups, [column], ("Pairs", "n_pairs")),
        ]
    return join(parts)


def _groups(found: Row) -> dict[str, dict[str, Row]]:
    """The accuracies of parts of the held-out pairs and of parts of the judge, as far as there is more than one of a kind."""
    matched = {"of nearly equal length": found.get("length_matched")}
    members = mappings(found.get("members"))
    groups = {
        "Altogether": {"all pairs": found} | matched,
        "By kind of prompt": mapping(found.get("by_category")),
        "By who judged": mapping(found.get("by_judge")),
        "By how many people agree": {_agreed(k, v): v for k, v in mapping(found.get("by_agreement")).items()},
        "Each member of the ensemble": {f"member {i}": member for i, member in enumerate(members, 1)},
    }
    known = {
        title: {str(k): mapping(v) for k, v in rows.items() if number(mapping(v).get("accuracy")) is not None}
        for title, rows in groups.items()
    }
    return {title: rows for title, rows in known.items() if len(rows) > (title in _MANY)}


def _agreed(bin_: object, values: object) -> str:
    """A bin of agreement in words: "0.5-0.75" is 50 to 75 %, "1" is everybody."""
    low, dash, high = str(bin_).partition("-")
    try:
        words = f"{plain(100 * float(low), 0)} to {percent(float(high))} agree" if dash else "all agree"
    except ValueError:
        words = str(bin_)
    reach = number(mapping(values).get("agreement"))
    return words if reach is None or not dash else f"{words}; siding with the majority reaches {percent(reach)}"


def _facts(found: Row) -> list[Html]:
    span = interval(found.get("ci"))
    lean, disagreement = number(found.get("length_correlation")), number(found.get("disagreement"))
    facts = {
        "Agreement with held-out judgements": percent(number(found.get("accuracy")), 1),
        "95 % interval": f"{between((100 * span[0], 100 * span[1]), 1)}\u00a0%" if span else None,
        "Pairs": _count(found.get("n_pairs")),
        "Prompts": _count(found.get("n_prompts")),
        "Always the longer answer would agree in": _share(found.get("length_baseline")),
        "Correlation of score and length": None if lean is None else signed(lean, 2),
        "Confidence is off by (expected calibration error)": _share(found.get("ece")),
        "Members differ by, standard deviations of their scores": None
        if disagreement is None
        else plain(disagreement, 2),
    }
    return [row(label, tag("td", words)) for label, words in facts.items() if words is not None]


def _classes(found: Row) -> Html:
    body = [
        row(
            str(name),
            cell("Texts", plain(number(of.get("texts")), 0)),
            cell("Found (recall)", percent(number(of.get("recall")), 1)),
            cell("Right when named (precision)", percent(number(of.get("precision")), 1)),
            cell("Told apart (ROC AUC)", plain(number(of.get("auc")), 3)),
        )
        for name, of in mapping(found.get("classes")).items()
        if mapping(of)
    ]
    if not body:
        return missing("The evaluation has no numbers for each class.")
    labels = ("Class", "Texts", "Found (recall)", "Right when named (precision)", "Told apart (ROC AUC)")
    return table("classes", tag("tr", heading(*labels)), body)


def _count(value: object) -> str | None:
    return None if number(value) is None else plain(number(value), 0)


def _share(value: object) -> str | None:
    return None if number(value) is None else percent(number(value), 1)
