"""Greedy search, beam search, and the log-probability of given targets.

The search stops exactly. An input is finished as soon as no running beam can still beat the worst hypothesis that
will be returned. Let p be the log-probability of a running beam. It is at most 0 and can only fall. So the beam's
score is at most p / n**length_penalty; n is the longest allowed length if the penalty is positive, and the shortest
possible length otherwise. With enough beams to hold every sequence, beam search is therefore exhaustive search.

Shapes: B inputs, N inputs that are still searched, K beams, C candidates, P prefix, L tokens generated so far,
T target time, S source time, V vocabulary. The N * K rows are beams; the beams of one input stand together.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multihead.config.training import DecodingConfig
from multihead.errors import NumericsError
from multihead.model.cache import Cache
from multihead.model.heads import CopyHead, CopySource
from multihead.model.transformer import Transformer

Item = TypeVar("Item")
Result = TypeVar("Result")

WORKERS = 4
"""Most batches that are searched at the same time on a CPU."""
CHUNK = 200
"""Number of tokens in each chunk of the vocabulary; see `Candidates.of`."""


@dataclass
class Hypothesis:
    """One output of the search."""

    ids: list[int]
    """Generated ids, forced ones included, without prefix and end mark."""
    score: float
    """log_prob / length**length_penalty; hypotheses are ranked by it. The length counts the end mark too."""
    log_prob: float
    """Sum of log p of the ids, and of the end mark if the hypothesis has one."""
    cut: bool = field(default=False, compare=False)
    """Whether the limit on the length ended the hypothesis, and not the end mark."""


@torch.no_grad()
def generate(
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
    forced: Sequence[Sequence[int]] | None = None,
    forbidden: Sequence[int] = (),
    continues_text: bool = False,
    stop: Callable[[], bool] | None = None,
    others: Sequence[tuple[Transformer, nn.Module]] = (),
) -> list[list[Hypothesis]]:
    """Continues each prefix by the best hypotheses that beam search finds; one beam is greedy search.

    The source's keys and values are computed once, and all beams of that source share them. The target's keys and
    values are reordered by index. An input that is finished leaves the batch.

    Args:
        transformer: A model with a decoder, in evaluation mode.
        head: Maps hidden states to logits; a `CopyHead` looks at the source too.
        config: Number of beams, penalties and bounds.
        prefix: Ids [B, P] that decoding starts from, padded on the left.
        prefix_mask: [B, P]; None if nothing is padded.
        source: Ids [B, S] for the encoder, if there is one.
        source_mask: [B, S]; None if nothing is padded.
        eos_id: The end mark, which ends a hypothesis.
        pad_id: The padding, which is never emitted.
        max_new_tokens: The limit on the length, end mark included: one for all, or one for each input [B].
        forced: For each input the ids that its output starts with. They count in log_prob and length.
        forbidden: Other ids that are never emitted.
        continues_text: Whether ``no_repeat_ngram_size`` counts the prefix too, as for a text that is continued.
        stop: Asked before each step. True ends the search with what is finished so far.
        others: More models with their heads, of the same vocabulary. p is then the mean of all models (`mean_of`).

    Returns:
        For each input its hypotheses, best first. There are ``config.num_return_sequences`` if so many exist.
    """
    device, count = prefix.device, len(prefix)
    limits = torch.as_tensor(max_new_tokens, device=device).expand(count)
    finished = [Finished(config) for _ in range(count)]
    constraints = Constraints(
        config, eos_id, [pad_id, *forbidden], forced or [()] * count, prefix if continues_text else None
    )
    chosen = (limits > 0).nonzero()[:, 0]
    if len(chosen):
        rest = [None if x is None else x[chosen] for x in (prefix_mask, source, source_mask)]
        models = [Searched.start(*model, prefix[chosen], *rest) for model in ((transformer, head), *others)]
        beams = Beams.start(chosen, limits[chosen])
        while stop is None or not stop():
            log_probs = mean_of([model.log_probs() for model in models])  # [N * K, V]
            beams = _advance(beams, log_probs, constraints, finished, models)
            if not _read(models, beams):
                break
    return [hypotheses.best or [Hypothesis([], 0.0, 0.0)] for hypotheses in finished]


def _read(models: Sequence[Searched], beams: Beams) -> bool:
    """Each model reads the last token of each beam. Returns whether there is a beam left."""
    for model in models if len(beams.inputs) else ():
        model.read(beams.ids[:, :, -1].view(-1, 1))
    return len(beams.inputs) > 0


def mean_of(log_probs: Sequence[Tensor]) -> Tensor:
    """The logarithm of the mean of several models' probabilities, from log p [..., V] of each: an ensemble (Sutskever
    et al. 2014, arXiv:1409.3215)."""
    if len(log_probs) == 1:
        return log_probs[0]
    return torch.stack(list(log_probs)).logsumexp(0) - math.log(len(log_probs))


@dataclass
class Searched:
    """A model that the search asks, and what it keeps between two steps."""

    transformer: Transformer
    head: nn.Module
    cache: Cache
    hidden: Tensor
    """The hidden states [N * K, D] of the last token of each beam."""
    copied: CopySource | None
    """What the head may copy from the N sources, if it copies."""

    @classmethod
    def start(
        cls,
        transformer: Transformer,
        head: nn.Module,
        prefix: Tensor,
        prefix_mask: Tensor | None,
        source: Tensor | None,
        source_mask: Tensor | None,
    ) -> Searched:
        """The model after the prefixes [N, P] of N inputs; the sources are computed once."""
        prefix_mask, source_mask = _if_padded(prefix_mask), _if_padded(source_mask)
        memory = None if source is None else transformer.encode(source, source_mask)
        cache = transformer.new_cache(memory, source_mask)
        hidden = transformer.decode(prefix, target_mask=prefix_mask, cache=cache)[:, -1]
        return cls(transformer, head, cache, hidden, _copied(head, source, memory, source_mask))

    def log_probs(self) -> Tensor:
        """log p [N * K, V] of the next token of each beam."""
        return _log_probs(self.head, self.hidden, self.copied)

    def select(self, rows: Tensor, inputs: Tensor | None) -> None:
        """Keeps these beams, in this order, and these inputs; None keeps all inputs."""
        self.cache.select(rows, inputs)
        if self.copied is not None and inputs is not None:
            self.copied = self.copied.select(inputs)

    def read(self, tokens: Tensor) -> None:
        """Reads one more token [N * K, 1] of each beam."""
        self.hidden = self.transformer.decode(tokens, cache=self.cache)[:, -1]


@torch.no_grad()
def next_log_probs(
    transformer: Transformer,
    head: nn.Module,
    *,
    target: Tensor,
    target_mask: Tensor | None = None,
    source: Tensor | None = None,
    source_mask: Tensor | None = None,
) -> Tensor:
    """log p [B, T - 1, V] of all tokens that may follow each target token but the last.

    Args:
        transformer: A model with a decoder, in evaluation mode.
        head: Maps hidden states to logits; a `CopyHead` looks at the source too.
        target: Ids [B, T], which start with the begin mark. Padding may stand on either side.
        target_mask: [B, T]; None if nothing is padded.
        source: Ids [B, S] for the encoder, if there is one.
        source_mask: [B, S]; None if nothing is padded.
    """
    target_mask, source_mask = _if_padded(target_mask), _if_padded(source_mask)
    before = None if target_mask is None else target_mask[:, :-1]
    memory = None if source is None else transformer.encode(source, source_mask)
    hidden = transformer.decode(target[:, :-1], target_mask=before, memory=memory, memory_mask=source_mask)
    return _log_probs(head, hidden, _copied(head, source, memory, source_mask))


def side_by_side(work: Callable[[Item], Result], items: Sequence[Item], workers: int) -> list[Result]:
    """``[work(item) for item in items]`` on a CPU, ``workers`` items at once, each with its share of torch's threads.

    A step of the search is hundreds of operations, and most are too small to gain from a second core. So two batches
    on one core each are done sooner than two batches one after the other on both cores. Python's lock is free while
    an operation of torch runs. An interrupt waits for the items that are in work.
    """
    threads = torch.get_num_threads()
    workers = min(workers, len(items))
    if workers < 2:
        return [work(item) for item in items]
    inference, enabled, dtype = (
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
    )

    def inside(item: Item) -> Result:  # modes belong to a thread
        with torch.inference_mode(inference), torch.autocast("cpu", dtype, enabled):
            return work(item)

    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads // workers,)) as pool:
            return list(pool.map(inside, items))
    finally:
        torch.set_num_threads(threads)  # for threads that start later


@dataclass
class Beams:
    """The running beams of the inputs that are still searched."""

    inputs: Tensor
    """[N] indices of the inputs."""
    limits: Tensor
    """[N] limits on the length, end mark included."""
    log_probs: Tensor
    """[N, K] log-probabilities of the tokens so far, descending; -inf if there is no such beam."""
    ids: Tensor
    """[N, K, L] tokens so far."""

    @classmethod
    def start(cls, inputs: Tensor, limits: Tensor) -> Beams:
        """One empty beam for each input; the first step fills the others."""
        log_probs = torch.zeros(len(inputs), 1, device=inputs.device)
        return cls(inputs, limits, log_probs, inputs.new_empty(len(inputs), 1, 0))


class Finished:
    """The best finished hypotheses of one input, at most as many as will be returned."""

    def __init__(self, config: DecodingConfig):
        self.best: list[Hypothesis] = []
        self._room = config.num_return_sequences
        self._penalty = config.length_penalty

    def add(self, ids: list[int], log_prob: float, length: int, cut: bool) -> None:
        """Adds a hypothesis; if two have the same score, the earlier one stays ahead."""
        hypothesis = Hypothesis(ids, log_prob / max(length, 1) ** self._penalty, log_prob, cut)
        bisect.insort_right(self.best, hypothesis, key=lambda h: -h.score)
        del self.best[self._room :]

    @property
    def worst(self) -> float:
        """The score that a new hypothesis has to beat."""
        return self.best[-1].score if len(self.best) == self._room else -math.inf


class Constraints:
    """Decides which tokens may be emitted at each step, and sets the log-probability of all others to -inf."""

    def __init__(
        self,
        config: DecodingConfig,
        eos_id: int,
        forbidden: Sequence[int],
        forced: Sequence[Sequence[int]],
        before: Tensor | None = None,
    ):
        self.config = config
        self.eos_id = eos_id
        self._before = before  # [B, P], text whose n-grams may not be repeated
        self._forbidden = sorted(set(forbidden) - {eos_id})
        self._forced = forced
        self._longest_forced = max(map(len, forced), default=0)

    def apply(self, log_probs: Tensor, beams: Beams) -> None:
        """Changes ``log_probs`` [N * K, V] in place."""
        num_beams, step = beams.ids.shape[1:]
        forced: tuple[Tensor, Tensor, Tensor] | None = None
        if step < self._longest_forced:
            ids = [self._forced[i][step] if step < len(self._forced[i]) else -1 for i in beams.inputs.tolist()]
            tokens = torch.tensor(ids, device=log_probs.device).repeat_interleave(num_beams)  # [N * K]
            rows = (tokens >= 0).nonzero()[:, 0]
            forced = rows, tokens[rows], log_probs[rows, tokens[rows]]
        log_probs[:, self._forbidden] = -math.inf
        if step < self.config.min_new_tokens:
            log_probs[:, self.eos_id] = -math.inf
        ids = beams.ids.flatten(0, 1)  # [N * K, L]
        if self._before is not None and self.config.no_repeat_ngram_size:
            ids = torch.cat((self._before[beams.inputs].repeat_interleave(num_beams, dim=0), ids), dim=1)
        self._block_repeats(log_probs, ids)
        if forced is not None:
            rows, tokens, kept = forced
            log_probs[rows] = -math.inf
            log_probs[rows, tokens] = kept

    def _block_repeats(self, log_probs: Tensor, ids: Tensor) -> None:
        """Forbids the tokens that would repeat an n-gram of the tokens so far [N * K, L]."""
        size = self.config.no_repeat_ngram_size
        if not size or ids.size(1) < size:
            return
        ngrams = ids.unfold(1, size, 1)  # [N * K, L - size + 1, size]
        tail = ids[:, None, ids.size(1) - size + 1 :]  # [N * K, 1, size - 1]
        row, place = (ngrams[..., :-1] == tail).all(-1).nonzero(as_tuple=True)
        end = log_probs[:, self.eos_id].clone()  # the prefix may hold one, but no text has to go on for ever
        log_probs[row, ngrams[row, place, -1]] = -math.inf
        log_probs[:, self.eos_id] = end


@dataclass
class Candidates:
    """The best continuations of each input's beams by one token, best first."""

    log_probs: Tensor
    """[N, C] log-probability of beam and token together."""
    parents: Tensor
    """[N, C] index of the beam that the candidate continues."""
    tokens: Tensor
    """[N, C] token that the candidate adds."""

    @classmethod
    def of(cls, beams: Beams, log_probs: Tensor, count: int) -> Candidates:
        """The best ``count`` candidates (or all, if fewer exist) among log p [N * K, V], best first.

        The vocabulary is cut into chunks. The best ``count`` candidates must stand in the ``count`` chunks whose
        maxima are highest. So one pass finds the maximum of each chunk, and only those chunks are searched further.
        Which of equal candidates are taken is left open.
        """
        num_inputs, vocab_size = len(beams.log_probs), log_probs.size(-1)
        size = min(CHUNK, vocab_size)
        if vocab_size % size:  # whole chunks: the added tokens are chosen only if nothing else exists
            log_probs = F.pad(log_probs, (0, -vocab_size % size), value=-math.inf)
        width = log_probs.size(-1)
        chunks = log_probs.view(num_inputs, -1, size)  # [N, K * V / size, size]
        sums = beams.log_probs.repeat_interleave(width // size, dim=1)  # [N, K * V / size]
        best = (chunks.amax(-1) + sums).topk(min(count, chunks.size(1))).indices  # [N, C]
        values = chunks[torch.arange(num_inputs, device=best.device)[:, None], best] + sums.gather(1, best)[..., None]
        places = best[..., None] * size + torch.arange(size, device=best.device)  # [N, C, size], of K * V
        values, index = values.flatten(1).topk(min(count, values[0].numel()))  # [N, C]
        places, order = places.flatten(1).gather(1, index).sort(dim=1)
        values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
        places = places.gather(1, order)
        return cls(values, places // width, (places % width).clamp(max=vocab_size - 1))


def _advance(
    beams: Beams, log_probs: Tensor, constraints: Constraints, finished: list[Finished], models: Sequence[Searched]
) -> Beams:
    """One step of the search: returns the next beams of the inputs that are not finished; the models follow them."""
    width, step = constraints.config.num_beams, beams.ids.size(2) + 1
    constraints.apply(log_probs, beams)
    candidates = Candidates.of(beams, log_probs, 2 * width)  # at most half of them add the end mark
    _require_finite(beams, candidates)
    ended = candidates.tokens == constraints.eos_id  # [N, C]
    _finish(beams, candidates, ended, finished, width)

    order = ended.byte().argsort(dim=1, stable=True)[:, :width]  # candidates that go on, best first
    running = candidates.log_probs.masked_fill(ended, -math.inf).gather(1, order)  # [N, K]
    parents, tokens = candidates.parents.gather(1, order), candidates.tokens.gather(1, order)

    scores = [finished[i].worst for i in beams.inputs.tolist()]
    worst = torch.tensor(scores, dtype=torch.float64, device=running.device)  # [N]
    penalty = constraints.config.length_penalty
    length = beams.limits if penalty > 0 else torch.full_like(beams.limits, step + 1)
    done = worst >= running[:, 0].double() / length.double() ** penalty
    done |= beams.limits == step
    if width == 1:  # greedy: the first end mark ends it
        done |= worst > -math.inf

    kept = (~done).nonzero()[:, 0]
    running, parents, tokens = running[kept], parents[kept], tokens[kept]
    rows = (kept[:, None] * beams.ids.size(1) + parents).flatten()  # [N * K]
    if not torch.equal(rows, torch.arange(log_probs.size(0), device=rows.device)):
        for model in models:
            model.select(rows, kept if len(kept) < len(done) else None)
    ids = torch.cat((beams.ids[kept[:, None], parents], tokens[..., None]), dim=-1)  # [N, K, L + 1]
    return Beams(beams.inputs[kept], beams.limits[kept], running, ids)


def _require_finite(beams: Beams, candidates: Candidates) -> None:
    """Refuses log-probabilities that are not numbers, which stand before all others.

    Raises:
        NumericsError: There are some.
    """
    for i, log_prob in zip(beams.inputs.tolist(), candidates.log_probs[:, 0].tolist(), strict=True):
        if math.isnan(log_prob):
            what = f"the model's logits are not finite after {beams.ids.size(2)} tokens"
            raise NumericsError(f"input {i}", what, "take a checkpoint from before the training diverged")


def _finish(beams: Beams, candidates: Candidates, ended: Tensor, finished: list[Finished], width: int) -> None:
    """Adds those of the ``width`` best candidates that end, by the end mark or by the limit on the length.

    If no token at all may follow, the beams themselves are added as they are.
    """
    length = beams.ids.size(2) + 1
    exists = candidates.log_probs[:, :width] > -math.inf  # [N, K]
    last = (beams.limits == length)[:, None]
    row, place = (exists & (ended[:, :width] | last)).nonzero(as_tuple=True)
    parents, tokens = candidates.parents[row, place], candidates.tokens[row, place]
    new = zip(
        beams.inputs[row].tolist(),
        beams.ids[row, parents].tolist(),
        tokens.tolist(),
        ended[row, place].tolist(),
        candidates.log_probs[row, place].tolist(),
        strict=True,
    )
    for i, ids, token, end, log_prob in new:
        finished[i].add(ids if end else [*ids, token], log_prob, length, not end)
    row, place = (~exists[:, :1] & (beams.log_probs > -math.inf)).nonzero(as_tuple=True)
    new = zip(
        beams.inputs[row].tolist(), beams.ids[row, place].tolist(), beams.log_probs[row, place].tolist(), strict=True
    )
    for i, ids, log_prob in new:
        finished[i].add(ids, log_prob, length - 1, False)


def _copied(
    head: nn.Module, source: Tensor | None, memory: Tensor | None, source_mask: Tensor | None
) -> CopySource | None:
    """What the head may copy, computed once for each source; None if the head does not copy."""
    if source is None or memory is None or not isinstance(head, CopyHead):
        return None
    return head.source(source, memory, source_mask)


def _log_probs(head: nn.Module, hidden: Tensor, copied: CopySource | None) -> Tensor:
    """log p [..., V] of hidden states [..., D]."""
    if copied is not None:
        return head(hidden, copied)
    return torch.log_softmax(head(hidden).float(), dim=-1)


def _if_padded(mask: Tensor | None) -> Tensor | None:
    """The mask, or None if it hides nothing: attention then has no mask to add."""
    return None if mask is None or bool(mask.all()) else mask
