from __future__ import annotations

import html

import pytest

from manners.report.markup import Html, clean, escape, join, tag, verbatim


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "</style>", "a \"b\" & 'c'", "&lt;", "plain", "漢字 🙂"])
def test_escaped_text_reads_back_as_it_was_and_holds_no_markup(text: str) -> None:
    escaped = escape(text)
    assert html.unescape(escaped) == text
    assert not set("<>\"'") & set(escaped)


def test_control_characters_and_lone_surrogates_become_visible_and_can_be_written() -> None:
    assert clean("a\x00b\x1bc\x7fd\x9ee\ud800f") == "a\u2400b\u241bc\ufffdd\ufffde\ufffdf"
    assert clean("tab\tand\r\nline") == "tab\tand\nline"
    escape("\udfff").encode("utf-8")


def test_children_are_escaped_unless_they_are_html() -> None:
    assert tag("p", "1 < 2", tag("b", "x>y"), None) == "<p>1 &lt; 2<b>x&gt;y</b></p>"


def test_html_joined_with_plain_text_is_no_longer_trusted() -> None:
    assert tag("p", "<i>" + tag("b", "x")) == "<p>&lt;i&gt;&lt;b&gt;x&lt;/b&gt;</p>"
    assert tag("p", f"{tag('b', 'x')}") == "<p>&lt;b&gt;x&lt;/b&gt;</p>"


def test_attributes_are_quoted_escaped_and_left_out_when_empty() -> None:
    made = tag("a", class_="x", data_kl='1" onclick="evil()', hidden=True, id=None, open=False, name=0)
    assert made == '<a class="x" data-kl="1&quot; onclick=&quot;evil()" hidden name="0"></a>'
    assert tag("br") == "<br>"


def test_join_escapes_plain_parts_and_the_text_between() -> None:
    assert join(["<", Html("<br>"), None], " & ") == "&lt; &amp; <br>"


@pytest.mark.parametrize("text", ["a </style> b", "x <!-- y"])
def test_own_files_must_not_end_their_element(text: str) -> None:
    with pytest.raises(ValueError, match="must not hold"):
        verbatim("style", text)
