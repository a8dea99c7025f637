"""Templates, and the Markdown of prompts and answers: whatever comes from models and strangers can be read, and can do nothing.

Raw HTML in Markdown is shown as text, pictures are not loaded, and what is left passes through a list of the elements that are
allowed. Templates escape everything else by themselves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import nh3
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

_TAGS = {"p", "br", "hr", "em", "strong", "s", "code", "pre", "blockquote", "ul", "ol", "li", "a", "table", "thead", "tbody", "tr",
         "th", "td", "h3", "h4", "h5", "h6"}  # fmt: skip
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
# A page of prose has a few hundred of these; thousands are noise, and take the parser a time that grows with their square.
_MOST_DELIMITERS = 5_000
_DELIMITERS = re.compile(r"[*_`~\[\]<>|]")


def _parser(breaks: bool) -> MarkdownIt:
    made = MarkdownIt("commonmark", {"html": False, "breaks": breaks, "maxNesting": 20})
    return made.enable(["table", "strikethrough"]).disable("image")


_PARSERS = {breaks: _parser(breaks) for breaks in (True, False)}


def visible(text: str) -> str:
    """`text` with control characters, which no page may hold, as visible signs."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = _CONTROL.sub(lambda m: chr(0x2400 + ord(m[0])) if ord(m[0]) < 0x20 else "\ufffd", text)
    return _SURROGATE.sub("\ufffd", text)


@lru_cache(maxsize=4096)
def markdown(text: str, breaks: bool = True) -> Markup:
    """Markdown as HTML that is safe to show. Headings start at the third level, below those of the page.

    `breaks` keeps the ends of lines, as chats do; without it lines flow together, as in a document.
    """
    text = visible(text)
    if len(_DELIMITERS.findall(text)) > _MOST_DELIMITERS:
        return Markup("<pre>{}</pre>").format(text)
    parser = _PARSERS[breaks]
    tokens = parser.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + 2)}"
    made = parser.renderer.render(tokens, parser.options, {})
    safe = nh3.clean(
        made,
        tags=_TAGS,
        attributes={"a": {"href"}, "ol": {"start"}, "*": set()},
        url_schemes={"http", "https", "mailto"},
        url_relative="deny",
        link_rel="noopener noreferrer nofollow",
    )
    return Markup(safe)


def environment() -> Environment:
    """The templates of the app: everything is escaped, and a name that is not there is an error."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters["markdown"] = markdown
    made.filters["document"] = partial(markdown, breaks=False)
    made.filters["visible"] = visible
    made.filters["day"] = lambda moment: moment[:16].replace("T", " ")
    return made


def page(templates: Environment, name: str, values: Mapping[str, Any]) -> str:
    return templates.get_template(name).render(values)
