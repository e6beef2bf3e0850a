"""Continues texts token by token: each token is drawn from the model's distribution, or is the most probable one.

The options have Hugging Face's names, definitions and order. First come those that decide which tokens are possible:
repetition penalty, repeated n-grams, smallest length. If tokens are drawn, temperature, top-k, top-p and min-p
follow; each works on the logits that the one before it returned. Each is a function of logits; -inf means never.

A sample depends only on its own logits, the seed, the number of its input and the number of the sample. It has a
random generator of its own, which gives one number u for each token; the token is the first at which the cumulated
distribution reaches u. So the rest of the batch and the device change nothing, and a higher limit only adds tokens.

Shapes: B inputs, N samples that still run, P prefix, L tokens so far (prefix included), S source time, V vocabulary.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multihead.config.training import DecodingConfig
from multihead.errors import NumericsError
from multihead.model.beam_search import Hypothesis
from multihead.model.transformer import Transformer

OnToken = Callable[[int, int, int, Tensor], bool | None]
"""Takes row, number of the sample, new id, and the logits [V] by which it was chosen. True ends the sample."""


@torch.no_grad()
def sample(
    transformer: Transformer,
    head: nn.Module,
    config: DecodingConfig,
    *,
    prefix: Tensor,
    prefix_mask: Tensor | None = None,
    source: Tensor | None = None,
    source_mask: Tensor | None = None,
    eos_id: int,
    pad_id: int,
    max_new_tokens: int | Tensor,
    max_len: int,
    forbidden: Sequence[int] = (),
    decode: Callable[[int, list[int]], str] | None = None,
    on_token: OnToken | None = None,
    numbers: Sequence[int] | None = None,
    forced: Sequence[Sequence[int]] | None = None,
) -> list[list[Hypothesis]]:
    """Continues each prefix ``config.num_return_sequences`` times; without ``do_sample`` once, by greedy search.

    Args:
        transformer: A model with a decoder, in evaluation mode.
        head: Maps hidden states to logits.
        config: The options; ``num_beams`` must be 1.
        prefix: Ids [B, P] to continue, padded on the left, at least one real token in each row.
        prefix_mask: [B, P]; None if nothing is padded.
        source: Ids [B, S] for the encoder, if there is one.
        source_mask: [B, S]; None if nothing is padded.
        eos_id: The end mark, which ends a hypothesis.
        pad_id: The padding, which is never emitted.
        max_new_tokens: The limit on the length, end mark included: one for all, or one for each input [B].
        max_len: Number of tokens that the model sees at once, at least 2. A longer text slides: see `Context`.
        forbidden: Other ids that are never emitted.
        decode: Takes the number of an input and the ids after it, and returns their text; stop strings need it.
        on_token: Called for each new token, the end mark too.
        numbers: Number of each input, for its random numbers; default 0, 1, ... B - 1.
        forced: For each input the ids that its output starts with. They count in log_prob and length. Each takes a
            random number, so that a sample that is forced to its own first tokens goes on as before.

    Returns:
        For each input its hypotheses in the order of the samples. Their log_prob is the model's own, before penalties
        and filters. If a stop string occurs, the ids end with the token that completes it; `cut_at_stop` cuts the text.

    Raises:
        NumericsError: Logits are not finite.
    """
    assert config.num_beams == 1, "sampling has no beams"
    assert decode is not None or not config.stop_strings, "stop strings need `decode`"
    limits = torch.as_tensor(max_new_tokens).expand(len(prefix)).tolist()
    samples = _samples(config, numbers or range(len(prefix)), limits, forced or [()] * len(prefix))
    running = [one for of_row in samples for one in of_row if one.limit > 0]
    if running:
        rows = torch.tensor([one.row for one in running[:: config.num_return_sequences]], device=prefix.device)
        masks = (None if x is None or x.all() else x for x in (prefix_mask, source_mask))
        source, prefix_mask, source_mask = (None if x is None else x[rows] for x in (source, *masks))
        memory = None if source is None else transformer.encode(source, source_mask)
        context = Context(transformer, prefix[rows], prefix_mask, memory, source_mask, max_len)
        _run(head, context, running, Filters(config, eos_id, [pad_id, *forbidden]), decode, on_token)
    return [[one.hypothesis() for one in of_row] for of_row in samples]


def _samples(
    config: DecodingConfig, numbers: Sequence[int], limits: Sequence[int], forced: Sequence[Sequence[int]]
) -> list[list[Sample]]:
    """The samples of each input, which are still empty."""
    return [
        [Sample(config, row, index, number, limit, ids) for index in range(config.num_return_sequences)]
        for row, (number, limit, ids) in enumerate(zip(numbers, limits, forced, strict=True))
    ]


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """The text before its first stop string, or the whole text if it has none."""
    return text[: min((place for stop in stops if (place := text.find(stop)) >= 0), default=len(text))]


def settled(text: str, stops: Sequence[str]) -> str:
    """The part of a growing text that can be shown already: it holds no stop string and no beginning of one at its end.

    Characters whose last bytes are still missing are decoded as U+FFFD; they are held back too.
    """
    cut = cut_at_stop(text, stops)
    if cut != text:
        return cut
    text = text.rstrip("\ufffd")
    held = (length for stop in stops for length in range(1, len(stop)) if text.endswith(stop[:length]))
    return text[: len(text) - max(held, default=0)]


# ---- options, as functions of logits [N, V]


def penalize_repetition(logits: Tensor, ids: Tensor, real: Tensor, penalty: float) -> Tensor:
    """Divides positive logits of tokens that occurred and multiplies negative ones (CTRL, arXiv:1909.05858, 4.1).

    The paper divides all logits. Hugging Face multiplies negative ones and counts each token once, and so do we. The
    prompt's tokens count like generated ones.

    Args:
        logits: [N, V].
        ids: [N, L] ids of the prompt and of what was generated.
        real: [N, L], False at padding.
        penalty: A penalty above 1 makes repetition less likely, one below 1 more likely; 1 changes nothing.
    """
    if penalty == 1:
        return logits
    row, place = real.nonzero(as_tuple=True)
    occurred = torch.zeros_like(logits, dtype=torch.bool)
    occurred[row, ids[row, place]] = True
    return torch.where(occurred, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def block_repeated_ngrams(logits: Tensor, ids: Tensor, real: Tensor, size: int) -> Tensor:
    """Forbids the tokens that would make an n-gram of the prompt and what follows it occur twice.

    The method is from Paulus et al. 2017 (arXiv:1705.04304, section 2.5). The arguments are those of
    `penalize_repetition`, and the ``size`` of the n-grams; 0 forbids nothing.
    """
    if not size or ids.size(1) < size:
        return logits
    ngrams = ids.unfold(1, size, 1)  # [N, L - size + 1, size]
    whole = real.unfold(1, size, 1).all(-1)  # [N, L - size + 1]
    tail = ids[:, None, ids.size(1) - size + 1 :]  # [N, 1, size - 1]
    row, place = ((ngrams[..., :-1] == tail).all(-1) & whole).nonzero(as_tuple=True)
    logits = logits.clone()
    logits[row, ngrams[row, place, -1]] = -math.inf
    return logits


def forbid(logits: Tensor, tokens: Sequence[int]) -> Tensor:
    """Forbids these tokens."""
    logits = logits.clone()
    logits[:, list(tokens)] = -math.inf
    return logits


def divide_by_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Divides logits by the temperature, less a constant for each row: p^(1 / temperature), normalised.

    The largest logit becomes 0 and the division is in float64, so that no temperature is too low.
    """
    if temperature == 1:
        return logits
    best = logits.amax(-1, keepdim=True).clamp(min=torch.finfo(logits.dtype).min)
    return ((logits - best).double() / temperature).to(logits.dtype)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Keeps the k most probable tokens (Fan et al. 2018, arXiv:1805.04833) and those equal to the last; 0 keeps all."""
    if not k or k >= logits.size(-1):
        return logits
    return logits.masked_fill(logits < logits.topk(k).values[:, -1:], -math.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keeps the fewest most probable tokens that together have probability p (nucleus, arXiv:1904.09751); 1 keeps all.

    If tokens at the edge are equally probable, those with lower ids are kept.
    """
    if p >= 1:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    cumulated = torch.softmax(ordered, -1, dtype=torch.float64).cumsum(-1)
    dropped = F.pad(cumulated[:, :-1], (1, 0)) >= p  # [N, V]: those before it have p already
    return logits.masked_fill(torch.zeros_like(dropped).scatter(-1, order, dropped), -math.inf)


def keep_min_p(logits: Tensor, share: float) -> Tensor:
    """Keeps tokens that have at least this share of the best one's probability (arXiv:2407.01082); 0 keeps all."""
    if not share:
        return logits
    probabilities = torch.softmax(logits, -1, dtype=torch.float64)
    return logits.masked_fill(probabilities < share * probabilities.amax(-1, keepdim=True), -math.inf)


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """One token [N] of each row of logits [N, V], by inversion: the first whose cumulated probability reaches u.

    With u [N] in (0, 1] this is never a token of probability 0.
    """
    cumulated = torch.softmax(logits, -1, dtype=torch.float64).cumsum(-1)
    return torch.searchsorted(cumulated, (uniform * cumulated[:, -1])[:, None])[:, 0].clamp(max=logits.size(-1) - 1)


@dataclass
class Filters:
    """Applies the options to logits, in their order, and chooses tokens."""

    config: DecodingConfig
    eos_id: int
    """The end mark, which ends a hypothesis."""
    forbidden: Sequence[int]
    """Ids that are never emitted."""

    def apply(self, logits: Tensor, ids: Tensor, real: Tensor, step: int) -> Tensor:
        """The logits by which tokens are chosen.

        Arguments are those of `penalize_repetition`; ``step`` is the number of tokens generated so far.
        """
        config = self.config
        logits = penalize_repetition(logits, ids, real, config.repetition_penalty)
        end = logits[:, self.eos_id]  # the prompt may hold one, but no text has to go on for ever
        logits = block_repeated_ngrams(logits, ids, real, config.no_repeat_ngram_size)
        logits[:, self.eos_id] = end
        never = {*self.forbidden} - {self.eos_id} | ({self.eos_id} if step < config.min_new_tokens else set())
        logits = forbid(logits, sorted(never))
        if config.do_sample:
            logits = divide_by_temperature(logits, config.temperature)
            logits = keep_top_k(logits, config.top_k)
            logits = keep_top_p(logits, config.top_p)
            logits = keep_min_p(logits, config.min_p)
        return logits

    def choose(self, logits: Tensor, context: Context, running: list[Sample]) -> tuple[Tensor, Tensor]:
        """The next token [N] of each sample, or -1 if none may follow, and the logits [N, V] by which it was chosen.

        Greedy search takes the first of equals.
        """
        allowed = self.apply(logits, context.ids, context.real, len(running[0].ids))
        tokens = allowed.argmax(-1)
        none = allowed.gather(1, tokens[:, None])[:, 0] == -math.inf
        if self.config.do_sample:
            uniform = [1 - one.random.random() for one in running]
            tokens = draw(allowed, torch.tensor(uniform, dtype=torch.float64, device=logits.device))
        tokens, step = tokens.masked_fill(none, -1), len(running[0].ids)
        for row, one in enumerate(running):
            if step < len(one.forced):
                tokens[row] = one.forced[step]
        return tokens, allowed


# ---- generation


class Sample:
    """One continuation while it grows."""

    def __init__(
        self, config: DecodingConfig, row: int, index: int, number: int, limit: int, forced: Sequence[int] = ()
    ):
        self.config = config
        self.forced = forced  # its first ids
        self.row, self.index = row, index  # row of the batch, number within the row
        self.limit = limit  # on the length, end mark included
        self.random = random.Random(f"{config.seed} {number} {index}")  # the same in every version of Python
        self.ids: list[int] = []
        self.length = 0  # ids and end mark
        self.log_prob = 0.0
        self.done = False

    def add(self, token: int, log_prob: float, eos_id: int) -> bool:
        """Adds the next token, or ends if it is -1; returns whether the token was added to ``ids``."""
        if token != -1:
            self.length += 1
            self.log_prob += log_prob
        self.done = token in (-1, eos_id) or self.length == self.limit
        if token in (-1, eos_id):
            return False
        self.ids.append(token)
        return True

    def hypothesis(self) -> Hypothesis:
        """The continuation, with the score that beam search would give it."""
        score = self.log_prob / max(self.length, 1) ** self.config.length_penalty
        return Hypothesis(self.ids, score, self.log_prob, cut=len(self.ids) == self.limit > 0)


class Context:
    """What the model sees of each row: the end of its text, at most ``max_len`` tokens.

    Of a prefix that is longer than ``max_len`` - 1 tokens, the model sees the last ``max_len`` - 1. A full row slides
    before its next token: its last ``max_len`` // 2 tokens are read again from position 0, and their keys and values
    replace the old ones. So each token is read about twice, and the model always sees at least half of ``max_len``.
    Positions without a table (rotary, alibi, none) slide too, so that no model meets lengths that it was not trained
    on. ``ids`` stays whole, because the filters read it.

    Args:
        transformer: A model with a decoder.
        ids: [N, P], padded on the left.
        real: [N, P], False at padding; None if nothing is padded.
        memory: The encoder's output [N, S, D], if there is an encoder.
        memory_mask: [N, S]; None if nothing is padded.
        max_len: Number of tokens that the model sees at once.
    """

    def __init__(
        self,
        transformer: Transformer,
        ids: Tensor,
        real: Tensor | None,
        memory: Tensor | None,
        memory_mask: Tensor | None,
        max_len: int,
    ):
        assert max_len >= 2, f"max_len={max_len} leaves no room for what follows a token"
        self.transformer = transformer
        self.max_len = max_len
        self.ids = ids  # [N, L]
        self.real = torch.ones_like(ids, dtype=torch.bool) if real is None else real  # [N, L]
        seen = self.real.sum(1).clamp(max=max_len - 1)  # [N]
        self._seen: list[int] = seen.tolist()
        assert all(self._seen), "a prefix without a token"
        width = max(self._seen)
        mask = torch.arange(width, device=ids.device) >= width - seen[:, None]  # [N, width]
        self._cache = transformer.new_cache(memory, memory_mask)
        self._read(ids[:, -width:], None if min(self._seen) == width else mask)

    def _read(self, tokens: Tensor, mask: Tensor | None = None) -> None:
        self.hidden = self.transformer.decode(tokens, target_mask=mask, cache=self._cache)[:, -1]  # [N, D]

    def select(self, rows: list[int]) -> None:
        """Keeps these rows in this order; a row may be named several times."""
        if rows == list(range(len(self._seen))):
            return
        index = torch.tensor(rows, device=self.ids.device)
        self.ids, self.real, self.hidden = self.ids[index], self.real[index], self.hidden[index]
        self._seen = [self._seen[row] for row in rows]
        self._cache.select(index, index)

    def append(self, tokens: Tensor) -> None:
        """Reads one more token [N] in each row."""
        full = [row for row, seen in enumerate(self._seen) if seen == self.max_len]
        if full:
            self._slide(full)
        self.ids = torch.cat((self.ids, tokens[:, None]), 1)
        self.real = torch.cat((self.real, torch.ones_like(self.real[:, :1])), 1)
        self._seen = [seen + 1 for seen in self._seen]
        self._read(tokens[:, None])

    def _slide(self, full: list[int]) -> None:
        """Reads the last half of these full rows again."""
        half = self.max_len // 2
        rows = torch.tensor(full, device=self.ids.device)
        old = self._cache
        memory, memory_mask = (None if x is None else x[rows] for x in (old.memory, old.memory_mask))
        new = self.transformer.new_cache(memory, memory_mask)
        self.transformer.decode(self.ids[rows, -half:], cache=new)
        if len(full) == len(self._seen):
            self._cache = new
        else:
            old.replace(rows, new)
        for row in full:
            self._seen[row] = half


def _run(
    head: nn.Module,
    context: Context,
    running: list[Sample],
    filters: Filters,
    decode: Callable[[int, list[int]], str] | None,
    on_token: OnToken | None,
) -> None:
    """Adds tokens to the samples until all have ended; a sample that has ended leaves the batch."""
    stops, each = filters.config.stop_strings, filters.config.num_return_sequences
    context.select([i // each for i in range(len(running))])
    while True:
        logits = head(context.hidden).float()  # [N, V]
        tokens, allowed = filters.choose(logits, context, running)  # [N], [N, V]
        log_probs = torch.log_softmax(logits, -1).gather(1, tokens.clamp(min=0)[:, None])[:, 0]  # [N]
        for place, (one, token, log_prob) in enumerate(zip(running, tokens.tolist(), log_probs.tolist(), strict=True)):
            if math.isnan(log_prob):
                where, what = f"input {one.row}", f"the model's logits are not finite after {one.length} tokens"
                raise NumericsError(where, what, "take a checkpoint from before the training diverged")
            grew = one.add(token, log_prob, filters.eos_id)
            if on_token is not None and token != -1:
                one.done = bool(on_token(one.row, one.index, token, allowed[place])) or one.done
            if grew and stops and decode is not None:
                text = decode(one.row, one.ids)
                one.done = one.done or any(stop in text for stop in stops)
        kept = [i for i, one in enumerate(running) if not one.done]
        if not kept:
            return
        if len(kept) < len(running):
            tokens = tokens[torch.tensor(kept, device=tokens.device)]
            running = [running[i] for i in kept]
        context.select(kept)
        context.append(tokens)
