from __future__ import annotations

import pytest
from tiny import ALPHABET, tiny_tokenizer

from manners.errors import MannersError
from manners.records import Completion, Message, Prompt
from manners.text.chat import Chat

END, SYSTEM, USER, ASSISTANT = 0, 1, 2, 3
A = 5  # the first letter of the alphabet given to `tiny_tokenizer`


def chat(alphabet: str = "abc", context: int = 64) -> Chat:
    return Chat(tiny_tokenizer(alphabet), context)


def test_a_prompt_ends_where_the_assistant_begins() -> None:
    assert chat().prompt(Prompt.of("ab")) == [USER, A, A + 1, END, ASSISTANT]


def test_a_conversation_with_all_roles() -> None:
    prompt = Prompt((Message("system", "a"), Message("user", "b"), Message("assistant", "c"), Message("user", "a")))
    assert chat().prompt(prompt) == [
        *(SYSTEM, A, END),
        *(USER, A + 1, END),
        *(ASSISTANT, A + 2, END),
        *(USER, A, END),
        ASSISTANT,
    ]


def test_a_tokenizer_that_adds_its_own_beginning_does_not_add_it_twice() -> None:
    from tokenizers import processors

    tokenizer = tiny_tokenizer("abc")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|system|> $A", special_tokens=[("<|system|>", SYSTEM)]
    )
    assert tokenizer("a")["input_ids"] == [SYSTEM, A]
    own = Chat(tokenizer, 64)
    assert own.prompt(Prompt.of("a")) == [USER, A, END, ASSISTANT]
    assert own.completion(Completion("", "ab")) == [A, A + 1, END]


def test_the_context_holds_prompt_and_room_and_not_a_token_more() -> None:
    prompt = Prompt.of("abc")  # six tokens
    assert len(chat(context=6).prompt(prompt)) == 6
    assert len(chat(context=10).prompt(prompt, room=4)) == 6
    for context, room in ((5, 0), (9, 4)):
        with pytest.raises(MannersError, match="context") as error:
            chat(context=context).prompt(prompt, room=room)
        assert "\n" not in str(error.value)


def test_a_judge_keeps_the_end_of_a_long_prompt() -> None:
    prompt = Prompt.of("abc")
    whole = chat().prompt(prompt)
    answers = [Completion("", "ab", finished=False), Completion("", "abc", finished=False)]
    assert chat().judged(prompt, answers, 4) == (whole[-4:], [[A, A + 1], [A, A + 1, A + 2]])
    assert whole[-4:] == [A + 1, A + 2, END, ASSISTANT]
    assert chat().judged(prompt, answers, 100)[0] == whole
    assert chat().judged(prompt, answers, None, 1)[1] == [[A], [A]]
    assert chat(context=5).judged(prompt, answers, 4)[0] == whole[-2:]  # beside the longest answer
    with pytest.raises(MannersError, match="context"):
        chat(context=3).judged(prompt, answers)


POST = "one\ntwo two\n\nthree"  # 18 letters, a token each, and three marks
SHORTENED = [(21, POST), (20, "one\ntwo two\n"), (15, "one\ntwo two\n"), (14, "one\ntwo two"), (13, "one"), (6, "one")]


@pytest.mark.parametrize(("limit", "kept"), SHORTENED)
def test_a_prompt_over_the_limit_ends_at_the_last_line_break_that_fits(limit: int, kept: str) -> None:
    prompt = Prompt((Message("user", POST),), category="posts", split="test")
    shorter = chat(ALPHABET).shortened(prompt, limit)
    assert shorter.text == kept
    assert len(chat(ALPHABET).prompt(shorter)) <= limit
    assert (shorter.category, shorter.split) == ("posts", "test")
    assert (shorter.id == prompt.id) is (kept == POST)


def test_only_the_last_message_is_shortened() -> None:
    turns = (Message("system", "be\nkind"), Message("user", "a\nb"), Message("assistant", "c"), Message("user", "d\ne"))
    whole = Prompt(turns)
    shorter = chat(ALPHABET).shortened(whole, len(chat(ALPHABET).prompt(whole)) - 1)
    assert shorter.messages == (*turns[:3], Message("user", "d"))


def test_a_prompt_without_an_early_line_break_is_named() -> None:
    with pytest.raises(MannersError, match=r"'one.*' has more than 5 tokens and no line break to cut it at"):
        chat(ALPHABET).shortened(Prompt.of(POST), 5)


def test_an_error_shows_a_long_prompt_of_many_lines_in_one_short_line() -> None:
    with pytest.raises(MannersError) as error:
        Chat(tiny_tokenizer(), 64).prompt(Prompt.of("long\n" * 500))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_no_template_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(MannersError, match="chat template"):
        Chat(tiny_tokenizer(template=None), 64)


def test_no_end_of_turn_token_is_an_error_that_says_what_to_do() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(MannersError, match="eos_token"):
        Chat(tokenizer, 64)


def test_a_template_that_refuses_the_conversation_is_an_error_of_one_line() -> None:
    strict = "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    tokenizer = tiny_tokenizer(template=strict + "{% endif %}{{ m['content'] }}{% endfor %}")
    with pytest.raises(MannersError, match="System role not supported"):
        Chat(tokenizer, 64).prompt(Prompt((Message("system", "Be kind."), Message("user", "Hello"))))


def test_padding_is_the_tokenizers_own_or_else_the_end_token() -> None:
    assert chat().pad == END
    tokenizer = tiny_tokenizer("abc")
    tokenizer.pad_token = "<|unknown|>"
    assert Chat(tokenizer, 64).pad == 4


def test_only_a_finished_answer_carries_the_end_token() -> None:
    assert chat().completion(Completion("", "ab", finished=True)) == [A, A + 1, END]
    assert chat().completion(Completion("", "ab", finished=False)) == [A, A + 1]
    assert chat().completion(Completion("", "", finished=True)) == [END]


def test_a_limit_cuts_the_answer_and_its_end() -> None:
    answer = Completion("", "abc", finished=True)
    assert chat().completion(answer, limit=4) == [A, A + 1, A + 2, END]
    assert chat().completion(answer, limit=3) == [A, A + 1, A + 2]
    assert chat().completion(answer, limit=1) == [A]


@pytest.mark.parametrize("text", ["ab", "", " a  b ", "Hello , world !\n\nIt 's fine .", ALPHABET])
@pytest.mark.parametrize("finished", [True, False])
def test_text_comes_back_from_tokens_unchanged(text: str, finished: bool) -> None:
    own = Chat(tiny_tokenizer(), 256)
    assert own.text(own.completion(Completion("", text, finished=finished))) == text


def test_text_keeps_marks_that_are_not_the_last_end() -> None:
    assert chat().text([A, ASSISTANT, A, END]) == "a<|assistant|>a"
    assert chat().text([]) == ""
    assert chat().text([END]) == ""
