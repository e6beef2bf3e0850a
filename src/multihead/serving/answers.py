"""What the model computes for a batch of inputs. Outputs are those of ``predict``; details come beside them.

Every function runs in the one thread that owns the models (`multihead.serving.batches`).

Shapes: T tokens of an output, V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from multihead.config.training import DecodingConfig
from multihead.errors import ConfigError
from multihead.model.beam_search import Hypothesis
from multihead.model.sampling import settled
from multihead.serving.batches import Item
from multihead.serving.served import ServedRun
from multihead.tasks.language_modeling import LanguageModelingTask
from multihead.tasks.pooled import PooledTask
from multihead.tasks.translation import TranslationTask
from multihead.text.inputs import is_blank

NEXT = 8
"""Number of candidates that are shown for each token."""
MOST_WORDS = 200
"""Most words of a text of which each is left out once."""
MOST_WEIGHTS = 400_000
"""Most weights of attention in an answer."""


def token(tokenizer: Any, token_id: int, log_probs: Tensor) -> dict[str, Any]:
    """A token of an output with its probability and that of the most probable candidates.

    Args:
        tokenizer: The tokenizer of the output.
        token_id: The token.
        log_probs: log p [V] of all tokens at its place.
    """
    never = {tokenizer.pad_id, tokenizer.bos_id, tokenizer.sep_id, tokenizer.mask_id}
    values, ids = log_probs.topk(min(NEXT + len(never), len(log_probs)))
    found = zip(values.exp().tolist(), ids.tolist(), strict=True)
    likely = [(p, i) for p, i in found if i not in never and p > 0][:NEXT]
    return {
        "id": token_id,
        "text": tokenizer.readable(token_id),
        "probability": round(float(log_probs[token_id].exp()), 6),
        "next": [{"id": i, "text": tokenizer.readable(i), "probability": round(p, 6)} for p, i in likely],
    }


def all_gone(items: Sequence[Item]) -> bool:
    """Whether nobody waits for these answers any more."""
    return all(item.gone for item in items)


def translate(
    task: TranslationTask, items: Sequence[Item], decoding: DecodingConfig, prefix: Sequence[int], details: bool
) -> list[dict[str, Any]]:
    """Translations or summaries, best first.

    Args:
        task: The task of the run.
        items: Sources.
        decoding: How outputs are searched for.
        prefix: Ids that every output starts with; without any, ``decoding.forced_prefix`` counts.
        details: Whether the tokens of the best output are described.
    """
    texts = [item.content for item in items]
    found = task.translate(texts, decoding, prefix or None, lambda: all_gone(items))
    cut = task.too_long(texts)
    answers = []
    for text, hypotheses, was_cut in zip(texts, found, cut, strict=True):
        candidates = [{"text": output, "score": round(h.score, 6)} for output, h in hypotheses]
        tokens = _tokens(task, text, hypotheses[0][1]) if details else None
        answers.append(_written(candidates, tokens, was_cut))
    return answers


def _tokens(task: TranslationTask, text: str, hypothesis: Hypothesis) -> list[dict[str, Any]]:
    """The tokens of an output and its end mark, if it has one, with the model's own probabilities."""
    if is_blank(text):
        return []
    source = task.tokenizers["source"].encode_batch([text])[0][: task.limits()["source"]]
    log_probs = task.next_log_probs(source, hypothesis.ids)
    ids = hypothesis.ids if hypothesis.cut else [*hypothesis.ids, task.eos]
    rows = zip(ids, log_probs[: len(ids)], strict=True)
    return [token(task.tokenizers["target"], i, row) for i, row in rows]


def _written(candidates: list[dict[str, Any]], tokens: list[dict[str, Any]] | None, cut: bool) -> dict[str, Any]:
    return {"text": candidates[0]["text"], "candidates": candidates, "tokens": tokens, "truncated": cut}


class Growing:
    """The tokens and the text of one continuation while it grows."""

    def __init__(self, task: LanguageModelingTask, prompt: list[int], stops: Sequence[str]):
        self.task, self.prompt, self.stops = task, prompt, stops
        self.ids: list[int] = []
        self.tokens: list[dict[str, Any]] = []
        self.shown = 0

    def add(self, token_id: int, log_probs: Tensor) -> dict[str, Any]:
        """Adds a token; returns it with the text that is certain by now and was not before."""
        if token_id != self.task.tokenizer.eos_id:
            self.ids.append(token_id)
        self.tokens.append(token(self.task.tokenizer, token_id, log_probs))
        text = settled(self.task.new_text(self.prompt, self.ids).rstrip("\N{REPLACEMENT CHARACTER}"), self.stops)
        added, self.shown = text[self.shown :], max(self.shown, len(text))
        return {"token": self.tokens[-1], "text": added}


def generate(
    task: LanguageModelingTask, items: Sequence[Item], decoding: DecodingConfig, prefix: Sequence[int], details: bool
) -> list[dict[str, Any]]:
    """Continuations of prompts, drawn or the most probable. An item with ``emit`` gets each token as it comes.

    Probabilities are those by which tokens were chosen: after temperature, top-k, top-p and penalties.
    """
    answers: list[dict[str, Any]] = []
    size = max(1, task.config.data.eval_tokens // task.config.model.max_len)
    for start in range(0, len(items), size):
        answers += _generate(task, items[start : start + size], decoding, prefix, details)
    return answers


def _generate(
    task: LanguageModelingTask, items: Sequence[Item], decoding: DecodingConfig, prefix: Sequence[int], details: bool
) -> list[dict[str, Any]]:
    prompts = [task.prompt(item.content) for item in items]
    growing = [Growing(task, prompt, decoding.stop_strings) for prompt in prompts]

    def on_token(row: int, sample: int, token_id: int, logits: Tensor) -> bool:
        item = items[row]
        if sample == 0 and (details or item.emit):
            event = growing[row].add(token_id, torch.log_softmax(logits, -1))
            if item.emit:
                item.emit({"index": item.number, **event})
        return item.gone

    found = task.sample(prompts, decoding, [item.number for item in items], on_token, prefix)
    cut = task.too_long([item.content for item in items])
    answers = []
    for prompt, hypotheses, grown, was_cut in zip(prompts, found, growing, cut, strict=True):
        outputs = [task.output(prompt, hypothesis, decoding) for hypothesis in hypotheses]
        candidates = [{"text": output["text"], "score": output["score"]} for output in outputs]
        answers.append(_written(candidates, grown.tokens if details else None, was_cut))
    return answers


def classify(task: PooledTask, items: Sequence[Item], decoding: DecodingConfig, occlusion: bool) -> list[dict]:
    """Classes with their probabilities; with ``occlusion``, what each word adds to the probability of the label."""
    texts = [item.content for item in items]
    found, cut = task.predict(texts, decoding), task.too_long(texts)
    answers = []
    for outputs, was_cut in zip(found, cut, strict=True):
        best = outputs[0] if outputs else {"label": None, "probability": None}
        chosen = [output["label"] for output in outputs if output["predicted"]] if "predicted" in best else None
        by_label = {output["label"]: output["probability"] for output in outputs}
        named = {"label": best["label"], "probability": best["probability"], "labels": chosen}
        answers.append({**named, "probabilities": by_label, "words": None, "truncated": was_cut})
    if occlusion:
        for item, answer in zip(items, answers, strict=True):
            answer["words"] = None if item.gone else _effects(task, item.content, answer, decoding)
    return answers


def words_of(text: str) -> list[re.Match[str]]:
    """The words of a text with their places.

    Raises:
        ConfigError: There are more than `MOST_WORDS`.
    """
    words = list(re.finditer(r"\S+", text))
    if len(words) > MOST_WORDS:
        raise ConfigError(
            "occlusion", f"a text has {len(words)} words, and at most {MOST_WORDS} can be left out in turn"
        )
    return words


def _effects(task: PooledTask, text: str, answer: dict[str, Any], decoding: DecodingConfig) -> list[dict[str, Any]]:
    """The words of a text, each with the probability of the label with it minus without it; None if no text is left."""
    if answer["label"] is None:
        return []
    words = words_of(text)
    without = task.predict([text[: word.start()] + text[word.end() :] for word in words], decoding)
    effects = []
    for word, outputs in zip(words, without, strict=True):
        left = next((output["probability"] for output in outputs if output["label"] == answer["label"]), None)
        effect = None if left is None else round(answer["probability"] - left, 6)
        effects.append({"text": word[0], "effect": effect})
    return effects


def regress(task: PooledTask, items: Sequence[Item], decoding: DecodingConfig) -> list[dict[str, Any]]:
    """The numbers of texts; None for a blank text."""
    found = task.predict([item.content for item in items], decoding)
    return [{"number": outputs[0]["number"] if outputs else None} for outputs in found]


def score(task: TranslationTask | LanguageModelingTask, items: Sequence[Item]) -> list[dict[str, Any]]:
    """log p of texts, or of targets given their sources, with all tokens; the last token is the end mark."""
    answers = []
    for item in items:
        if isinstance(task, LanguageModelingTask):
            first, *ids = task.document(item.content)
            log_probs, tokenizer = task.next_log_probs([first, *ids]), task.tokenizer
        else:
            source, target = item.content
            source = task.tokenizers["source"].encode_batch([source])[0][: task.limits()["source"]]
            ids, tokenizer = [*task.target_ids(target), task.eos], task.tokenizers["target"]
            log_probs = task.next_log_probs(source, ids[:-1])
        total = float(log_probs.gather(1, torch.tensor(ids, device=log_probs.device)[:, None]).sum())
        tokens = [token(tokenizer, i, row) for i, row in zip(ids, log_probs, strict=True)]
        answers.append({"log_probability": round(total, 6), "tokens": tokens})
    return answers


def embed(run: ServedRun, items: Sequence[Item]) -> list[list[float]]:
    """The pooled hidden states of texts."""
    rows = run.tasks["embed"].embed([item.content for item in items])
    return [[round(value, 6) for value in row] for row in cast(list[list[float]], rows.tolist())]


def attention(run: ServedRun, items: Sequence[Item]) -> list[dict[str, Any]]:
    """Where each head looks: for each kind of attention the weights by layer, head, query and key, or None.

    Raises:
        ConfigError: There are more than `MOST_WEIGHTS` weights, or a plugin has replaced the attention.
    """
    answers = []
    for item in items:
        text, target = item.content
        found = run.run.attention(text, target, run.tasks["attention"].settings.name)
        if sum(maps.weights.numel() for maps in found.values()) > MOST_WEIGHTS:
            raise ConfigError("input", f"is too long: an answer has at most {MOST_WEIGHTS:,} weights of attention")
        kinds = {"encoder": "encoder_self", "decoder": "decoder_self", "cross": "decoder_cross"}
        answer: dict[str, Any] = {
            "source_tokens": found["encoder_self"].rows if "encoder_self" in found else None,
            "target_tokens": found["decoder_self"].rows if "decoder_self" in found else None,
        }
        for name, kind in kinds.items():
            weights = found[kind].weights.double() if kind in found else None  # float64, so that rounding shows
            answer[name] = None if weights is None else weights.mul(1e4).round().div(1e4).tolist()
        answers.append(answer)
    return answers
