"""Words as they were meant: the spelling tricks by which people slip words past a filter are undone before anything is read.

`plain_words` gives a text as lower-case words of letters, each between single spaces. What stands for a letter becomes that
letter: look-alikes of other alphabets, digits and signs within a word (1d10t, a$$), letters drawn out (stuuupid), letters set
apart (i d i o t, i.d.i.o.t), invisible characters, accents. A letter struck out (st*pid) stays as the one sign `*`.
Addresses, names after an @ and marks of forwarding say where a text was written and not what it says, and are left out.

What is left out on purpose: correcting typing errors, and any list of words.
"""

from __future__ import annotations

import html
import re
import unicodedata

# Look-alikes that no Unicode decomposition turns into Latin letters: Cyrillic, Greek, and small capitals of phonetic writing.
_LOOK_ALIKES = str.maketrans(
    "абеһіјкӏмнорсԛтѕухуԝѵωαβεικνορτυχ" "ɑɡɩɪʀʟɴʙʜᴀᴄᴅᴇᴊᴋᴍᴏᴘᴛᴜᴠᴡᴢꜱ" "ıłøđßæœ",
    "abehijklmhopcqtsyxywvwabeiknoptux" "agiirlnbhacdejkmoptuvwzs" "ilodsao",
)  # fmt: skip
_SIGNS = str.maketrans("0134578@$€!|+", "oieastbaseilt")
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]"
)
_ELSEWHERE = re.compile(r"https?://\S+|www\.\S+|(?<![\w@])@(?!ss)\w{2,}:?|\b(?:rt|mt)\b(?=\s*:?\s*(?:@|$))|&#?\w+;")
# A word whose letters are set apart by one and the same mark: i.d.i.o.t, i-d-i-o-t, i_d_i_o_t.
_MARKED = re.compile(r"(?<![^\W_])[^\W_](?:([.\-_*,/~·])[^\W_])(?:\1[^\W_])+(?![^\W_])")
_SPACED = re.compile(r"(?<![^\s])[^\W_](?: {1,2}[^\W_]){2,}(?![^\s])")
_TOKEN = re.compile(r"[a-z0-9@$€!|+*']+")
_DRAWN_OUT = re.compile(r"([a-z])\1{2,}")
_STRUCK = re.compile(r"\*+")
_EDGES = "!|+*'"
_LETTER = re.compile(r"[a-z]")


def plain_words(text: str) -> list[str]:
    """The words of a text, in lower case, with disguises undone; a drawn-out word comes in two spellings (asss: as, ass)."""
    return [word for token in _TOKEN.findall(_bared(text)) for word in _spellings(token)]


def _bared(text: str) -> str:
    """Lower case without accents, look-alikes, addresses, and letters set apart."""
    text = html.unescape(text) if "&" in text else text
    if not text.isascii():
        text = _INVISIBLE.sub("", unicodedata.normalize("NFKD", text))
        text = "".join(c for c in text if not unicodedata.combining(c))
        text = text.replace("\u2019", "'").casefold().translate(_LOOK_ALIKES)
    text = _ELSEWHERE.sub(" ", text.lower())
    text = _MARKED.sub(lambda found: found[0].replace(found[1], ""), text)
    return _SPACED.sub(lambda found: found[0].replace(" ", ""), text)


def _spellings(token: str) -> list[str]:
    word = token.strip(_EDGES)
    if not _LETTER.search(word):
        return []
    if not word.isalpha():
        word = _STRUCK.sub("*", word.translate(_SIGNS).replace("'", ""))
    if not _DRAWN_OUT.search(word):
        return [word]
    return [_DRAWN_OUT.sub(r"\1", word), _DRAWN_OUT.sub(r"\1\1", word)]
