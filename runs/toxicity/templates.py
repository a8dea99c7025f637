"""Sentences of our own that teach the scorer what the data sets do not: that naming people is no insult, and what a threat is.

Each function gives texts; `taught` and `asked` use different frames and partly different people, so that what is measured was
never trained on. No slur stands here.
"""

from __future__ import annotations

import itertools

PEOPLE = [
    "gay", "lesbian", "bisexual", "transgender", "trans", "queer", "straight", "Muslim", "Jewish", "Christian",
    "Hindu", "Buddhist", "atheist", "black", "white", "Asian", "Latino", "African", "Arab", "Mexican", "Chinese",
    "Indian", "Nigerian", "immigrant", "refugee", "disabled", "deaf", "blind", "autistic", "elderly", "young",
    "female", "male", "Catholic", "Polish", "Turkish", "homosexual", "foreign", "Islamic", "feminist",
]  # fmt: skip
OTHER_PEOPLE = [
    "Sikh", "nonbinary", "Protestant", "Irish", "Korean", "Pakistani", "Somali", "Romani", "indigenous", "paralysed",
    "Mormon", "Cuban",
]  # fmt: skip
SINGLE = ["man", "woman", "person", "teacher", "friend", "student"]

_NEUTRAL = [
    "I am a {a} {n}.", "I am {a}.", "I'm {a} and I work in a bakery.", "My sister is {a}.", "My best friend is a {a} {n}.",
    "{a} families live on our street.", "The {a} community opened a library.", "Our new {n} is {a}.", "She is a proud {a} woman.",
    "He told his parents that he is {a}.", "Are there {a} people in your village?", "{a} people have the same rights as anyone.",
    "I love {a} people.", "I met a {a} {n} at the market today.", "What is it like to be {a} in this country?",
    "The author of this book is a {a} {n}.", "We invited our {a} neighbours to dinner.", "being {a} is not a crime",
    "My {a} friend makes great soup", "A museum of {a} history", "as a {a} person I would like to thank you",
    "It is wrong to hate {a} people.", "Nobody should say that {a} people are disgusting.", "I do not hate {a} people at all.",
    "Attacks on {a} people went up last year, the report says.", "We must protect {a} children from bullies.",
    "{a} people", "{a} {n}", "thank {a}", "support {a} people", "the law about {a} marriage was discussed in parliament",
]  # fmt: skip
_HATEFUL = [
    "I hate {a} people.", "{a} people are disgusting.", "{a} people are vermin.", "Get rid of all {a} people.", "I despise {a} people",
    "No {a} person deserves to live here.", "{a} people are a disease.", "All {a} people are criminals and liars.",
    "{a} people should be wiped out.", "We should throw all {a} people out of this country.", "{a} people are less than human.",
    "I can't stand {a} people, they are filth.", "every {a} {n} is trash", "{a} people make me sick.", "stupid {a} people",
    "Being {a} is a disgrace.", "dirty {a} {n}", "shut up you {a} idiot", "hate {a} people", "the {a} {n} is scum",
]  # fmt: skip
_SAID_OF_PEOPLE = ["{a} people are {x}.", "those {a} {n}s are {x}", "I think {a} people are {x}"]
_DESPISING = [
    "disgusting", "garbage", "trash", "filth", "scum", "pigs", "animals", "parasites", "liars", "criminals", "stupid",
    "dirty", "a plague", "evil", "worthless", "inferior", "repulsive", "vile", "terrorists", "rats", "a cancer",
    "savages", "freaks", "degenerate", "subhuman", "lazy", "dumb", "not human", "monsters", "invaders",
]  # fmt: skip
_PRAISING = [
    "kind", "our neighbours", "welcome here", "teachers", "citizens", "funny", "tired", "different from each other",
    "people like us", "busy", "proud of it", "students", "farmers", "voters", "good cooks", "protected by law",
    "often asked about it", "in this room",
]  # fmt: skip
_THREATS_TO_PEOPLE = [
    "Kill all {a} people.",
    "I want to hurt every {a} {n} I see.",
    "{a} people should be shot.",
    "burn the {a} {n}",
]

_INSULTS = [
    "an idiot", "a moron", "a liar", "a loser", "a fool", "a coward", "a clown", "a pig", "a disgrace", "pathetic",
    "worthless", "disgusting", "stupid", "ignorant", "a hypocrite", "an imbecile", "a parasite", "scum", "garbage",
    "trash", "a scumbag", "a creep", "ugly", "a jerk", "insane", "a waste of space", "a vandal and a liar",
    "brainless", "dumb", "a pervert", "a freak", "a bully", "a crook", "retarded", "crap", "a piece of filth",
]  # fmt: skip
_INSULTING = [
    "You are {x}.", "you're {x}", "What {x} you are!", "He is {x} and everybody knows it.", "shut up, you are {x}", "u r {x}",
    "Your edits show that you are {x}.", "Go away, you are {x}.", "she is {x}", "whoever wrote this is {x}",
]  # fmt: skip
_KIND = [
    "a teacher", "a friend", "a genius", "a nurse", "kind", "helpful", "clever", "right", "welcome", "a great cook",
    "late", "tired", "an editor", "a student", "patient", "an expert", "brave", "my neighbour", "a good listener",
    "busy", "honest", "funny", "the new librarian", "new here", "a volunteer", "correct",
]  # fmt: skip
_HARM = [
    "kill", "hurt", "stab", "beat", "shoot", "strangle", "destroy", "punch", "burn", "smash", "slap", "murder",
    "break", "crush", "bury", "hang", "drown", "slaughter", "attack", "torture",
]  # fmt: skip
_THREATENING = [
    "I will {x} you.", "I'm going to {x} you", "We will {x} your family.", "i will find you and {x} you",
    "Say that again and I'll {x} you.", "someone should {x} you", "I want to {x} him", "they should {x} her",
    "Let's {x} all of them", "I hope they {x} you tonight",
]  # fmt: skip
_HARMLESS = [
    "How do I {x} a process on Linux?", "I will {x} the record next week.", "They tried to {x} the old wall.",
    "He missed, so he did not {x} it.", "We had to {x} the wasp nest.", "In the film they {x} the robot.",
    "Do not {x} anyone, ever.", "The storm may {x} the harvest.", "I would never {x} a living thing.",
]  # fmt: skip
_PLAIN = [
    "Thank you for your help, I will fix the page tomorrow.",
    "Could you please explain why the paragraph was removed?", "I disagree with this change, but I see your point.",
    "The source does not say that; please add another one.", "This heat is killing me.",
    "He killed it on stage last night.", "What a sick guitar solo!", "I hate Mondays.", "I hate waiting for the bus.",
    "I love my grandmother's cooking.", "The film was awful and far too long.",
    "This is a terrible idea, and here is why.", "That argument is weak.", "The dog ate my homework.",
    "My cat is an idiot, I love her.", "We finna eat, pull up.", "He be working late every night.",
    "Ain't nobody got time for that, lol.", "I'ma call you later, aight?", "She been knew that.",
    "Y'all tryna hoop later?", "Bruh that test was hard.", "The police shot at the tyres.",
    "The article is about the history of slavery.", "She survived breast cancer and writes about it.",
    "Sex education should start early, doctors say.", "I cannot help with that, but here is a number you can call.",
]  # fmt: skip

_ASKED_NEUTRAL = [
    "I am a {a} man.", "{a} families moved into the house next door.", "My daughter came out as {a} last spring.",
    "The mayor shook hands with the {a} delegates.", "He grew up in a {a} household.", "A {a} woman won the chess tournament.",
    "Many {a} people vote in this district.", "I read a novel about two {a} brothers.", "Our choir is looking for {a} singers.",
    "Is your doctor {a}?", "The {a} students organised a concert.", "Proud to be {a}!", "As a {a} parent, I worry about school fees.",
    "There is a {a} restaurant near the station.", "{a} voices matter in this debate.",
]  # fmt: skip
_ASKED_HATEFUL = [
    "{a} people disgust me.", "I wish all {a} people would die.", "{a} folks are nothing but garbage.",
    "Never trust a {a} person, they all lie.", "Those {a} pigs ruin everything.",
    "We do not want {a} scum in our town.", "I loathe {a} people.", "You {a} people are all stupid.",
]  # fmt: skip


def taught() -> list[tuple[str, float, float, float]]:
    """Sentences for training: (text, toxicity, hate, aggression)."""
    rows: list[tuple[str, float, float, float]] = []
    rows += [(text, 0, 0, 0) for text in _filled(_NEUTRAL, PEOPLE)]
    rows += [(text, 1, 1, 0) for text in _filled(_HATEFUL, PEOPLE)]
    rows += [(text, 1, 1, 1) for text in _filled(_THREATS_TO_PEOPLE, PEOPLE)]
    for number, name in enumerate(PEOPLE):
        for frame in _SAID_OF_PEOPLE:
            said = [frame.format(a=name, n=SINGLE[number % len(SINGLE)], x="{x}")]
            rows += [(text, 1, 1, 0) for text in _crossed(said, _DESPISING[number % 2 :: 2])]
            rows += [(text, 0, 0, 0) for text in _crossed(said, _PRAISING[number % 2 :: 2])]
    rows += [(text, 1, 0, 0) for text in _crossed(_INSULTING, _INSULTS)]
    rows += [(text, 0, 0, 0) for text in _crossed(_INSULTING, _KIND) if "shut up" not in text and "Go away" not in text]
    rows += [(text, 1, 0, 1) for text in _crossed(_THREATENING, _HARM)]
    rows += [(text, 0, 0, 0) for text in _crossed(_HARMLESS, _HARM)]
    rows += [(text, 0, 0, 0) for text in _PLAIN for _ in range(5)]
    return rows


def asked() -> list[tuple[str, str, bool, bool]]:
    """Sentences to measure on: (text, people named, hateful, whether these people were named in training)."""
    rows = []
    for people, known in ((PEOPLE, True), (OTHER_PEOPLE, False)):
        for name in people:
            rows += [(frame.format(a=name), name, False, known) for frame in _ASKED_NEUTRAL]
            rows += [(frame.format(a=name), name, True, known) for frame in _ASKED_HATEFUL]
    return rows


def _filled(frames: list[str], people: list[str]) -> list[str]:
    crossed = enumerate(itertools.product(people, frames))
    return [frame.format(a=name, n=SINGLE[number % len(SINGLE)]) for number, (name, frame) in crossed]


def _crossed(frames: list[str], words: list[str]) -> list[str]:
    return [frame.format(x=word) for frame, word in itertools.product(frames, words)]
