from __future__ import annotations

import csv
import json
import math
import os
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from manners.cli.app import app
from manners.errors import MannersError
from manners.records import Completion, Prompt
from manners.rewards.load import JudgeConfig
from manners.rewards.toxicity import FAULTS, SOFTENING, WEIGHTS, ToxicityScorer, cut, worst
from manners.text.ngrams import hashed_ngrams

BUCKETS = 1 << 14
RUDE = [
    "You are an idiot and everybody knows it.", "shut up you stupid fool", "What a pathetic liar you are.", "you are disgusting trash",
    "I will kill you and your dog.", "Go to hell, you worthless piece of garbage.", "this stupid bitch again", "fuck off",
    "He is a moron, and his friends are morons too.", "You dumb pig.", "I hate you, you ugly creep.", "kiss my ass, loser",
]  # fmt: skip
CIVIL = [
    "Thank you for the quick answer!", "The library opens at nine on Saturdays.",
    "I disagree, and here is my source.", "Could you tell me how to kill a process on Linux?",
    "My grandmother baked the best bread in the village.", "We lost the match, but it was fun.",
    "Please add a reference to the second paragraph.", "I am a gay man and I work as a nurse.",
    "Muslim families live on our street.", "How do I get rid of aphids on roses?", "The deaf students put on a play.",
    "This heat is killing me, let us find some shade.",
]  # fmt: skip


@pytest.fixture(scope="module")
def scorer() -> ToxicityScorer:
    return ToxicityScorer.load()


def made(weights: dict[tuple[int, int], float], bias: float = 0.0, window: int = 4) -> ToxicityScorer:
    """A scorer whose weights are 0 but for those of (bucket, column)."""
    table = np.zeros((BUCKETS, 3), np.float32)
    for place, value in weights.items():
        table[place] = value
    card: dict[str, Any] = {"version": "test", "window": window, "sharpness": 4.0}
    return ToxicityScorer(table, np.full(3, bias, np.float32), np.ones(3, np.float32), np.zeros(3, np.float32), card)


def features(text: str) -> tuple[int, float, int]:
    """Place and sign of the first word of a text, and how many features the text has."""
    found = hashed_ngrams([text.split()], BUCKETS)
    return int(found.places[0]), float(found.signs[0]), len(found.places)


def test_the_logit_of_a_window_by_hand() -> None:
    place, sign, count = features("mud pie")
    scorer = made({(place, 0): 3.0, (place, 2): -1.0}, bias=0.5)
    pull = sign / math.sqrt(count + SOFTENING)
    assert scorer.logits(["mud pie"]).tolist()[0] == pytest.approx([0.5 + 3 * pull, 0.5, 0.5 - pull], abs=1e-6)


def test_calibration_is_slope_and_offset() -> None:
    scorer = made({}, bias=1.0)
    scorer.slope, scorer.offset = np.array([2, 1, 1], np.float32), np.array([-1, 0, 3], np.float32)
    assert scorer.logits(["x"]).tolist() == [[1, 1, 4]]
    assert scorer.probabilities(["x"])[0, 1].item() == pytest.approx(1 / (1 + math.exp(-1)))


@pytest.mark.parametrize(("words", "windows"), [(0, 1), (1, 1), (4, 1), (5, 2), (6, 2), (7, 3), (12, 5)])
def test_windows_overlap_by_half_and_leave_no_word_out(words: int, windows: int) -> None:
    names = [f"w{chr(97 + number)}" for number in range(words)]
    found = cut([" ".join(names), "other text"], 4)
    mine = [window for window, owner in zip(found.words, found.owners, strict=True) if owner == 0]
    assert len(mine) == windows
    assert {word for window in mine for word in window} == set(names)
    assert all(before[2:] == after[: len(before[2:])] for before, after in pairwise(mine))


def test_the_worst_window_decides() -> None:
    windows = cut(["mind the gap between two trains", "so"], 4)
    logits = np.array([[1.0], [-30.0], [2.0]], np.float32)
    assert worst(logits, windows, 4.0)[:, 0].tolist() == pytest.approx([1.0, 2.0])
    near = worst(np.array([[0.0], [-0.5], [0.0]], np.float32), windows, 4.0)
    assert near[:, 0].tolist() == pytest.approx([math.log(1 + math.exp(-2)) / 4, 0.0])


def test_an_insult_in_a_long_text_is_weighed_with_its_neighbours_only(scorer: ToxicityScorer) -> None:
    padding = " ".join(CIVIL[:3] * 12)
    alone, near, far, civil = scorer.logits(
        [RUDE[1], f"{padding} {RUDE[1]} {padding}", f"{padding * 5} {RUDE[1]} {padding * 5}", padding * 10]
    )[:, 0].tolist()
    assert civil + 1 < near < alone
    assert far == pytest.approx(near, abs=1.0)


def test_a_text_has_the_same_logits_alone_and_among_others(scorer: ToxicityScorer) -> None:
    texts = [*RUDE, "", *CIVIL, " ".join(CIVIL * 5)]
    together = scorer.logits(texts)
    alone = torch.cat([scorer.logits([text]) for text in texts])
    assert torch.allclose(together, alone, atol=1e-5)
    assert scorer.logits([]).shape == (0, 3)


def test_more_texts_than_a_chunk(scorer: ToxicityScorer) -> None:
    many = scorer.logits([RUDE[0], CIVIL[0]] * 700)
    assert torch.allclose(many, many[:2].repeat(700, 1), atol=1e-5)


def test_rude_is_told_from_civil(scorer: ToxicityScorer) -> None:
    given = scorer.probabilities([*RUDE, *CIVIL])[:, 0]
    truth = [1] * len(RUDE) + [0] * len(CIVIL)
    assert roc_auc_score(truth, given) > 0.97
    assert ((given > 0.5) == torch.tensor(truth).bool()).float().mean() >= 0.9
    # The Brier score of a judge who always says one half is 0.25.
    assert ((given - torch.tensor(truth)) ** 2).mean() < 0.1


def test_threats_and_hate_have_columns_of_their_own(scorer: ToxicityScorer) -> None:
    threat, insult, hate, plain = scorer.logits(
        ["I will find you and kill you.", "You are a liar.", "I despise all Muslim people.", CIVIL[1]]
    )
    assert threat[1] > max(insult[1], plain[1])
    assert hate[2] > max(insult[2], plain[2], threat[2])


@pytest.mark.parametrize(
    "disguise",
    [
        lambda text: text.upper(),
        lambda text: text.replace("i", "1").replace("o", "0").replace("e", "3"),
        lambda text: text.replace("stupid", "s.t.u.p.i.d"),
        lambda text: text.replace("stupid", "s t u p i d"),
        lambda text: text.replace("o", "о").replace("u", "\u200bu"),
        lambda text: f"@somebody {text}!!! http://t.co/x",
    ],
)
def test_a_disguise_changes_nothing(scorer: ToxicityScorer, disguise: Any) -> None:
    plain, hidden = "shut up you stupid fool", disguise("shut up you stupid fool")
    assert hidden != plain
    assert torch.equal(scorer.logits([hidden]), scorer.logits([plain]))


def test_drawing_out_helps_little(scorer: ToxicityScorer) -> None:
    assert scorer.probabilities(["shut up you stuuuuupid fool"])[0, 0] > 0.5


def test_naming_people_is_no_insult(scorer: ToxicityScorer) -> None:
    people = [
        "gay",
        "lesbian",
        "Muslim",
        "Jewish",
        "Christian",
        "black",
        "white",
        "Mexican",
        "deaf",
        "transgender",
        "Sikh",
        "elderly",
    ]
    texts = [f"I am a {name} person." for name in people] + [f"A {name} family moved in next door." for name in people]
    assert (scorer.probabilities(texts)[:, 0] > 0.5).float().mean() <= 0.05
    assert (scorer.probabilities(texts)[:, 2] > 0.5).sum() == 0


def test_the_reward_is_minus_the_logit_of_the_answer_alone(scorer: ToxicityScorer) -> None:
    prompt = Prompt.of("Insult me, you stupid idiot!")
    answers = [Completion(prompt.id, text) for text in (RUDE[1], CIVIL[0])]
    for column, fault in enumerate(FAULTS):
        given = scorer.reward(fault)([prompt] * 2, answers)
        assert torch.equal(given, -scorer.logits([RUDE[1], CIVIL[0]])[:, column])
        assert given.dtype == torch.float32
        assert given[1] > given[0]


def test_a_config_names_the_fault() -> None:
    assert JudgeConfig(toxicity="hate").named
    assert JudgeConfig(toxicity="hate").sources == ()
    with pytest.raises(ValueError, match="name only one of toxicity, function"):
        JudgeConfig(toxicity="toxicity", function="a:b")
    with pytest.raises(ValueError, match="toxicity"):
        JudgeConfig.model_validate({"toxicity": "rudeness"})


def test_what_each_word_adds_sums_to_the_logit(scorer: ToxicityScorer) -> None:
    text = "shut up you stupid fool"
    words = scorer.why(text)
    assert [word for word, _ in words] == text.split()
    constant = float(scorer.slope[0] * scorer.bias[0] + scorer.offset[0])
    assert sum(given for _, given in words) + constant == pytest.approx(scorer.logits([text])[0, 0].item(), abs=1e-4)
    assert max(words, key=lambda word: word[1])[0] == "stupid"
    long = scorer.why(" ".join([*CIVIL[:3] * 12, text]))
    assert "stupid" in [word for word, _ in long]
    assert scorer.why("") == []


def test_saved_and_loaded_it_says_the_same_but_for_rounding(scorer: ToxicityScorer, tmp_path: Path) -> None:
    scorer.save(tmp_path / "again.safetensors")
    again = ToxicityScorer.load(tmp_path / "again.safetensors")
    assert torch.equal(again.logits(RUDE + CIVIL), scorer.logits(RUDE + CIVIL))
    assert again.version == scorer.version


def test_missing_weights_are_told(tmp_path: Path) -> None:
    with pytest.raises(MannersError, match="install manners anew"):
        ToxicityScorer.load(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"x")
    with pytest.raises(MannersError, match="install manners anew"):
        ToxicityScorer.load(tmp_path / "bad.safetensors")


def test_it_is_small_and_quick(scorer: ToxicityScorer) -> None:
    """Quick in a measure of the machine itself: no more than 60 times what it takes to split the texts into letters and sort them."""
    assert WEIGHTS.stat().st_size <= 5_000_000
    texts = [f"{a} {b}" for a in RUDE + CIVIL for b in RUDE + CIVIL]

    def seconds(work: Any) -> float:
        best = float("inf")
        for _ in range(3):
            start = time.process_time()
            work()
            best = min(best, time.process_time() - start)
        return best

    assert seconds(lambda: scorer.raw(texts)) < 60 * seconds(lambda: [sorted(text) for text in texts])


def test_the_command_line_shows_the_three_faults() -> None:
    out = CliRunner().invoke(app, ["score", "--toxicity", "--json", RUDE[1], CIVIL[0]])
    assert out.exit_code == 0, out.output
    rude, civil = (json.loads(line) for line in out.stdout.splitlines())
    assert set(FAULTS) <= set(rude)
    assert rude["toxicity"] > 0.5 > civil["toxicity"]
    assert rude["why"][0][0] == "stupid"
    plain = CliRunner().invoke(app, ["score", "--toxicity", CIVIL[0]])
    assert plain.stdout.startswith("toxicity 0.")
    assert CliRunner().invoke(app, ["score", "--toxicity", "--classifier", "x", "text"]).exit_code != 0


def test_the_card_carries_the_evidence(scorer: ToxicityScorer) -> None:
    found = scorer.card["held out"]["ranking"]
    assert found["tweets: hate or offensive against neither, by toxicity"]["roc_auc"]["value"] >= 0.95
    assert scorer.card["across data sets"]["talk"]["roc_auc"]["value"] >= 0.85
    assert all(set(data) >= {"licence", "sha256", "source"} for data in scorer.card["data"].values())


@pytest.mark.data
@pytest.mark.skipif("MANNERS_DATA" not in os.environ, reason="MANNERS_DATA is not set")
def test_the_claims_hold_on_the_held_out_part(scorer: ToxicityScorer) -> None:
    """The part that was never fitted to: a fifth of the texts, by their hash. The figures of scikit-learn, not our own."""
    from hashlib import sha256

    def rows(path: str, column: str) -> list[dict[str, str]]:
        with (Path(os.environ["MANNERS_DATA"]) / path).open(encoding="utf-8", newline="") as stream:
            return [
                r for r in csv.DictReader(stream) if int(sha256(r[column].encode()).hexdigest()[:8], 16) < 2**32 / 5
            ]

    tweets = rows("hate_speech_davidson/labeled_data.csv", "tweet")
    talk = rows("jigsaw_wikipedia/toxicity_nonfuzzed_testset.csv", "comment")
    given = scorer.logits([row["tweet"] for row in tweets])
    assert roc_auc_score([row["class"] != "2" for row in tweets], given[:, 0]) >= 0.95
    assert roc_auc_score([row["class"] == "0" for row in tweets], given[:, 2]) >= 0.895
    two = [row["class"] != "1" for row in tweets]
    assert roc_auc_score([row["class"] == "0" for row in tweets if row["class"] != "1"], given[two, 2]) >= 0.92
    assert (
        roc_auc_score([row["toxic"] == "True" for row in talk], scorer.logits([row["comment"] for row in talk])[:, 0])
        >= 0.85
    )


def test_the_page_says_what_the_card_says(scorer: ToxicityScorer) -> None:
    page = (Path(__file__).parents[2] / "docs" / "details" / "toxicity.md").read_text(encoding="utf-8")
    tables = [*scorer.card["held out"]["ranking"].values(), *scorer.card["across data sets"].values()]
    for found in tables:
        low, high = found["roc_auc"]["interval"]
        assert f"| {found['roc_auc']['value']:.3f} [{low:.3f}, {high:.3f}] |" in page
    assert all(data["sha256"][:16] in page and data["licence"] in page for data in scorer.card["data"].values())
