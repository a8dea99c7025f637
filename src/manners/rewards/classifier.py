"""Any sequence classifier as the reward: text in, the logit of the wanted class ("not hate") out.

The classifier brings its own tokenizer. The reward is the logit and not the probability: a probability close to 1 is
flat and tells a policy nothing more.

What is left out on purpose: pickled weights and a checkpoint's own code are never loaded, and a checkpoint whose head
is not among its weights is refused, for transformers would fill the head with random numbers and merely log it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from jinja2 import TemplateError
from safetensors import SafetensorError
from torch import Tensor, nn

from manners.errors import MannersError
from manners.records import Completion, Prompt

Reads = Literal["completion", "conversation"]
# One text as its tokenizer gives it: input_ids, and token_type_ids for the models that have them.
Row = dict[str, list[int]]

_FETCHED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


class ClassifierScorer:
    """A sequence classifier that scores texts by the logit of one of its classes.

    `labels` are the classes in the order of the logits, `positive` is the one whose logit is the reward. `truncated`
    counts the texts that were longer than `max_length` tokens since the scorer was made. `max_length` is never more
    than the model has positions for, and `batch` is 1 for a model that does not take padded rows (see
    `_takes_padding`).
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        positive: str | int,
        *,
        name: str = "the classifier",
        max_length: int = 512,
        batch: int = 32,
        reads: Reads = "completion",
    ) -> None:
        if batch < 1:
            raise MannersError(f"batch must be at least 1, not {batch}")
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.name = name
        self.reads = reads
        self.labels: tuple[str, ...] = tuple(label for _, label in sorted(model.config.id2label.items()))
        self._index, self._sign = _find(self.labels, positive, name)
        self.positive = self.labels[self._index] if self._sign > 0 else f"not {self.labels[self._index]}"
        self.max_length = min(max_length, int(tokenizer.model_max_length), _positions(model))
        if self.max_length <= tokenizer.num_special_tokens_to_add(pair=True):
            raise MannersError(f"{name}: max_length {self.max_length} leaves no room for text; give more")
        self.truncated = 0
        self._typed = "token_type_ids" in tokenizer.model_input_names
        self._vocabulary: int = model.get_input_embeddings().weight.shape[0]
        self._pad = _pad_id(model, tokenizer, self._vocabulary)
        self.batch = batch if self._takes_padding() else 1
        self.truncated = 0  # the texts of the trial do not count

    @classmethod
    def load(
        cls,
        path_or_id: str,
        positive: str | int,
        max_length: int = 512,
        batch: int = 32,
        device: str = "cpu",
        *,
        reads: Reads = "completion",
        dtype: torch.dtype = torch.float32,
    ) -> ClassifierScorer:
        """The classifier in a folder (a Hugging Face checkpoint, or a run that trained one), or of a Hub id.

        `positive` is the name of the class whose logit is the reward, in any letter case where that is unambiguous,
        or its number. A head of a single logit z has one class, NAME: "NAME" (or 0) gives z, and "not NAME" gives -z,
        because the sigmoid of z is the probability of NAME and the sigmoid of -z that of its opposite. `reads` says
        what `score` judges: the answer alone, or the prompt and the answer. Raises MannersError for what cannot be
        loaded, for what is no classifier, and for a class that it does not have.
        """
        from transformers import AutoConfig, AutoModelForSequenceClassification

        folder = local_checkpoint(path_or_id)
        logging.getLogger("transformers").setLevel(logging.ERROR)
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            _refuse_other_heads(path_or_id, config)
            model, report = AutoModelForSequenceClassification.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
            raise MannersError(f"classifier {path_or_id} cannot be loaded: {one_line(error)}") from None
        if missing := sorted(report["missing_keys"]):
            raise MannersError(
                f"{path_or_id} is no trained classifier: {len(missing)} of its weights are missing, among them"
                f" {missing[0]}; train it on labelled texts first, or name a sequence-classification checkpoint"
            )
        try:
            model = model.to(torch.device(device))
        except (RuntimeError, AssertionError) as error:
            raise MannersError(f"the classifier cannot be put on device {device!r}: {one_line(error)}") from None
        tokenizer = load_tokenizer(folder)
        return cls(model, tokenizer, positive, name=path_or_id, max_length=max_length, batch=batch, reads=reads)

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Tensor:
        """Rewards [B], float32 on the CPU: the positive class's logit of each answer or conversation (see `reads`).

        A conversation goes through the tokenizer's chat template where it has one, else as the pair (prompt, answer)
        that encoders are trained on, the messages of the prompt joined by line ends. What is too long loses the
        beginning of the prompt; an answer that does not fit by itself loses its end.
        """
        if len(prompts) != len(completions):
            raise ValueError(f"{len(prompts)} prompts do not go with {len(completions)} completions")
        if self.reads == "completion":
            return self.score_texts([c.text for c in completions])
        encode = self._chat if self.tokenizer.chat_template else self._pair
        return self._reward(self._forward([encode(p, c) for p, c in zip(prompts, completions, strict=True)]))

    def score_texts(self, texts: Sequence[str]) -> Tensor:
        """Rewards [B], float32 on the CPU: the positive class's logit of each text. Higher is better, no bound."""
        return self._reward(self.logits(texts))

    def logits(self, texts: Sequence[str]) -> Tensor:
        """Logits [B, C] in the order of `labels`, float32 on the CPU; a text's row does not depend on its neighbours.

        Raises MannersError for a logit that is not finite, and for a tokenizer that is not the model's own.
        """
        return self._forward(self.encode(texts))

    def encode(self, texts: Sequence[str]) -> list[Row]:
        """The texts as rows of tokens; one longer than `max_length` loses its end, as where such models are trained.

        Texts are data: what spells a special token of the judge ("[SEP]", "</s>") is read as letters.
        """
        if not texts:
            return []
        rows = _rows(self.tokenizer(list(texts), split_special_tokens=True, verbose=False))
        for i, row in enumerate(rows):
            if len(row["input_ids"]) > self.max_length:
                self.truncated += 1
                self.tokenizer.truncation_side = "right"
                cut = {"truncation": True, "max_length": self.max_length}
                rows[i] = _rows(self.tokenizer([texts[i]], split_special_tokens=True, verbose=False, **cut))[0]
        return [row if row["input_ids"] else self._empty() for row in rows]

    def collate(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Rows as one batch of tensors [B, T] on the CPU, padded on the right; `attention_mask` comes from lengths.

        Raises MannersError for a token that the model does not have.
        """
        highest = max(max(row["input_ids"]) for row in rows)
        if highest >= self._vocabulary:
            raise MannersError(
                f"{self.name}: the tokenizer gives token {highest}, but the model has {self._vocabulary} tokens;"
                " put the tokenizer that the model was trained with beside it"
            )
        longest = max(len(row["input_ids"]) for row in rows)
        fill = {"input_ids": self._pad or 0, "token_type_ids": self.tokenizer.pad_token_type_id}
        inputs = {
            key: torch.tensor([row[key] + [fill[key]] * (longest - len(row[key])) for row in rows]) for key in rows[0]
        }
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        return {**inputs, "attention_mask": (torch.arange(longest) < lengths[:, None]).long()}

    def _reward(self, logits: Tensor) -> Tensor:
        return self._sign * logits[:, self._index]

    def _forward(self, rows: Sequence[Row]) -> Tensor:
        logits = torch.zeros(len(rows), len(self.labels))
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]), reverse=True)
        for start in range(0, len(order), self.batch):
            chosen = order[start : start + self.batch]
            logits[chosen] = self._logits_of([rows[i] for i in chosen])
        if not logits.isfinite().all():
            raise MannersError(
                f"{self.name} gives logits that are not finite numbers; load it in float32, or take another"
            )
        return logits

    def _logits_of(self, rows: Sequence[Row]) -> Tensor:
        inputs = {key: value.to(self.model.device) for key, value in self.collate(rows).items()}
        with torch.inference_mode():
            logits: Tensor = self.model(**inputs, return_dict=True).logits.float().cpu()
        return logits

    def _takes_padding(self) -> bool:
        """Whether a padded row has the logits it has alone: found by trying, since no configuration says so.

        It has not for a decoder without any pad token, which takes the last position of every row, nor for models
        that look at padding in spite of the mask (XLNet pools the last position whatever it holds).
        """
        if self._pad is None:
            return False
        rows = self.encode(["a b c d e f g h", "a"])
        alone = torch.cat([self._logits_of([row]) for row in rows])
        together = self._logits_of(rows)
        tolerance = 1e-3 if self.model.dtype == torch.float32 else 5e-2
        return bool((alone - together).abs().max() <= tolerance * alone.abs().max())

    def _pair(self, prompt: Prompt, completion: Completion) -> Row:
        question, answer = "\n".join(m.content for m in prompt.messages), completion.text
        special = self.tokenizer.num_special_tokens_to_add(pair=True)
        if special == self.tokenizer.num_special_tokens_to_add(pair=False):
            question += "\n"  # a tokenizer without a form for pairs would glue the last word to the first
        row = self._one([question], [answer])
        if len(row["input_ids"]) <= self.max_length:
            return row
        self.truncated += 1
        alone = self.tokenizer(answer, add_special_tokens=False, split_special_tokens=True, verbose=False)
        if len(alone["input_ids"]) + special < self.max_length:
            self.tokenizer.truncation_side = "left"
            return self._one([question], [answer], truncation="only_first", max_length=self.max_length)
        self.tokenizer.truncation_side = "right"
        return self._one([""], [answer], truncation="only_second", max_length=self.max_length)

    def _chat(self, prompt: Prompt, completion: Completion) -> Row:
        messages = [asdict(m) for m in prompt.messages]
        answer = {"role": "assistant", "content": completion.text}
        try:
            begun = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            whole = self.tokenizer.apply_chat_template([*messages, answer], tokenize=False)
        except TemplateError as error:
            raise MannersError(
                f"the chat template of {self.name} refuses a conversation: {one_line(error)}; judge completions alone"
            ) from None
        row = _rows(self.tokenizer([whole], add_special_tokens=False, verbose=False))[0]
        ids = row["input_ids"]
        if len(ids) <= self.max_length:
            return row if ids else self._empty()
        self.truncated += 1
        # The token that begins every text stays: a decoder that never saw a text without it judges nonsense.
        kept = 1 if ids[0] == self.tokenizer.bos_token_id else 0
        room = self.max_length - kept
        asked = len(self.tokenizer(begun, add_special_tokens=False, verbose=False)["input_ids"])
        start = max(kept, min(asked, len(ids) - room))
        return {key: values[:kept] + values[start : start + room] for key, values in row.items()}

    def _one(self, *texts: list[str], **how: Any) -> Row:
        row = _rows(self.tokenizer(*texts, split_special_tokens=True, verbose=False, **how))[0]
        return row if row["input_ids"] else self._empty()

    def _empty(self) -> Row:
        """The row of a text without tokens, where the tokenizer adds none: the token that begins or ends every text."""
        for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, self._pad):
            if token is not None:
                return {"input_ids": [token]} | ({"token_type_ids": [0]} if self._typed else {})
        raise MannersError(f"{self.name} cannot judge an empty text: its tokenizer has no token to begin or end a text")


def describe(scorer: ClassifierScorer, text: str) -> list[tuple[str, float]]:
    """Every class of the classifier with the logit it gives `text`, in the order of the logits."""
    return list(zip(scorer.labels, scorer.logits([text])[0].tolist(), strict=True))


def local_checkpoint(path_or_id: str) -> Path:
    """The folder of a checkpoint: itself, the final checkpoint of a run, or the files of a Hub id in the local cache.

    Of a Hub id only configuration, tokenizer and safetensors are fetched. Raises MannersError where there is no such
    folder, or no safetensors in it.
    """
    from huggingface_hub import snapshot_download

    path = Path(path_or_id).expanduser()
    if (path / "lineage.json").exists():
        path = path / "checkpoints" / "final"
    elif not path.exists() and path_or_id.count("/") == 1 and not path_or_id.startswith((".", "/", "~")):
        try:
            # Subfolders of a repository hold other formats of the same weights (onnx, openvino).
            path = Path(snapshot_download(path_or_id, allow_patterns=_FETCHED, ignore_patterns=["*/*"]))
        except (OSError, ValueError) as error:
            raise MannersError(
                f"{path_or_id!r} is no folder here and cannot be fetched from the Hugging Face Hub ({one_line(error)});"
                " check the name and the connection, or give a folder"
            ) from None
    if not path.is_dir():
        raise MannersError(f"checkpoint {path_or_id} does not exist; give a folder, or a Hub id such as owner/name")
    if not (path / "config.json").exists():
        raise MannersError(f"{path_or_id} holds no Hugging Face checkpoint: there is no config.json in it")
    if not any(path.glob("*.safetensors")):
        raise MannersError(
            f"{path_or_id} has no weights in safetensors (pickled weights can run any code and are never read);"
            " save it anew with transformers' save_pretrained, or take another one"
        )
    return path


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in `folder`. Raises MannersError where there is none."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise MannersError(f"the tokenizer in {folder} cannot be loaded: {one_line(error)}") from None
    # Without tokenizer files transformers makes up an empty tokenizer for the model's type, to which all words are
    # unknown.
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise MannersError(f"{folder} holds no tokenizer; put the model's own (tokenizer.json) beside the weights")
    return tokenizer


def one_line(error: BaseException) -> str:
    """The message of an exception on one line of at most 300 characters."""
    return " ".join(str(error).split())[:300]


def _refuse_other_heads(name: str, config: Any) -> None:
    heads = config.architectures or []
    if heads and not any(head.endswith("ForSequenceClassification") for head in heads):
        raise MannersError(
            f"{name} is a {heads[0]} and no sequence classifier; train it on labelled texts first,"
            " or name a sequence-classification checkpoint"
        )


def _find(labels: Sequence[str], positive: str | int, name: str) -> tuple[int, float]:
    """The place of a class among the logits, and the sign to take its logit with."""
    wanted = str(positive)
    if isinstance(positive, str):
        for same in (str, str.casefold):
            found = [i for i, label in enumerate(labels) if same(label) == same(wanted)]
            if len(found) == 1:
                return found[0], 1.0
            if len(labels) == 1 and same(wanted) == same(f"not {labels[0]}"):
                return 0, -1.0
    if wanted.isdecimal() and int(wanted) < len(labels):
        return int(wanted), 1.0
    known = ", ".join(f"{i} {label!r}" for i, label in enumerate(labels))
    if len(labels) == 1:
        known += f" and its opposite 'not {labels[0]}'"
    raise MannersError(f"{name} has no single class {positive!r}; it has {known}; give one of these names or numbers")


def _positions(model: Any) -> int:
    """How many tokens the model's positions hold; the RoBERTa family spends the first of them on padding."""
    # Configurations name this as they like, or do not have it; transformers maps the names it knows to this one.
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return 1 << 30
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return positions - module.padding_idx - 1
    return positions


def _pad_id(model: Any, tokenizer: Any, vocabulary: int) -> int | None:
    """The id to pad with: the model's own, since decoders find the last token of a row by comparing with exactly it.

    A model without one (or with one outside its vocabulary, such as -1) is given the tokenizer's, unless the
    tokenizer puts that token into every text: then there is none, and rows go alone.
    """
    config = model.config.get_text_config()
    if config.pad_token_id is None or not 0 <= config.pad_token_id < vocabulary:
        pad = tokenizer.pad_token_id
        if pad is None or pad >= vocabulary or pad in tokenizer("a")["input_ids"]:
            return None
        config.pad_token_id = pad
    return int(config.pad_token_id)


def _rows(encoded: Any) -> list[Row]:
    keys = [key for key in ("input_ids", "token_type_ids") if key in encoded]
    return [{key: encoded[key][i] for key in keys} for i in range(len(encoded["input_ids"]))]
