"""Checks that two ways to run the model agree: causality, padding, batches, the cache, packed documents, order.

Each check yields pairs of passes, the smallest input first, so that the first pair that differs is the smallest.
Shapes: B batch, T target time, S source time, N rows of the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from multihead.checking.look import Mismatch, Pair, View, difference, first_mismatch, where, whole
from multihead.checking.outcome import Finding, Outcome, found, note, ok, skipped
from multihead.checking.subject import Subject, shake
from multihead.tasks.base import Task
from multihead.tasks.language_modeling import OUTSIDE_SEGMENT

Pairs = Callable[[Subject, Task], Iterator[Pair]]
ANOTHER = 1
"""Seed of ids that differ from the first ones."""


def causality(subject: Subject) -> Outcome:
    """A later token changes no earlier hidden state (Vaswani et al. 2017, section 3.2.3)."""
    if "decoder" not in subject.stacks:
        return skipped("the model has no decoder")
    expected = "A token changes no hidden state of the decoder before it."
    return _agree(subject, _later_tokens, expected, "no token sees a later one")


def padding(subject: Subject) -> Outcome:
    """Padding changes no hidden state of a real token."""
    return _agree(subject, _padded, "Padding changes no hidden state of a real token.", "padding is not seen")


def batch(subject: Subject) -> Outcome:
    """A text gives the same alone and beside others."""
    return _agree(subject, _alone, "A text has the same hidden states alone and in a batch.", "texts do not mix")


def cache(subject: Subject) -> Outcome:
    """Decoding with the cache gives what one pass over the whole text gives."""
    if "decoder" not in subject.stacks:
        return skipped("the model has no decoder")
    expected = "Decoding step by step gives the hidden states of one pass over the whole text."
    return _agree(subject, _cached, expected, "steps, chunks and beams equal one pass", training=False)


def documents(subject: Subject) -> Outcome:
    """Documents that are packed in a row do not see each other."""
    tasks = subject.config.task.members().values()
    if not any(getattr(task, "document_mask", False) for task in tasks):
        return skipped("task.document_mask is not set")
    return _agree(
        subject, _packed, "A document in a packed row has the hidden states that it has alone.", "documents are apart"
    )


def order(subject: Subject) -> Outcome:
    """Without positions an encoder does not know the order of its tokens; with positions it does."""
    if "encoder" not in subject.stacks:
        return skipped("the model has no encoder; a causal one knows the order")
    ids = subject.ids("encoder", 1, 6)
    moved = torch.tensor([3, 5, 0, 4, 2, 1])

    def change(task: Task) -> float:
        with torch.no_grad():
            encode = task.model.transformer.encode
            return difference(encode(ids)[:, moved], encode(ids[:, moved]))

    knows = change(subject.exact) > subject.tolerance
    if subject.config.model.position == "none":
        if not knows:
            return ok("position=none: order does not count")
        return note("position=none, but a block knows the order itself")
    if not knows:
        expected = f"With model.position={subject.config.model.position}, the order of the tokens counts."
        what = "Hidden states of permuted tokens are the permuted hidden states: the model is a bag of words."
        return found(
            "the order of the tokens is lost",
            Finding(expected, what, "1 text of 6 tokens", where(subject.exact.model, "transformer.encoder")),
        )
    without = replace(subject.config.model, position="none")
    task = shake(subject.build(quiet=True, model=without)).to(next(subject.exact.parameters()).dtype).eval()
    own = change(task) > subject.tolerance
    return note("a block knows the order without positions") if own else ok("only positions tell the order")


def _agree(subject: Subject, pairs: Pairs, expected: str, right: str, *, training: bool = True) -> Outcome:
    """Runs the pairs in evaluation mode, then in training mode without dropout."""
    mismatch = first_mismatch(subject.exact.model, pairs(subject, subject.exact), subject.tolerance)
    if mismatch is not None:
        return found(mismatch.pair.what, finding_of(mismatch, expected))
    task = subject.training if training else None
    if task is not None:
        mismatch = first_mismatch(task.model, pairs(subject, task), subject.tolerance)
        if mismatch is not None:
            what = f"{mismatch.pair.what}, in training mode"
            return found(what, finding_of(mismatch, f"{expected} This also holds in training mode without dropout."))
    return ok(right)


def finding_of(mismatch: Mismatch, expected: str) -> Finding:
    """The finding that a mismatch is."""
    size = f"by {mismatch.size:.2g} of their size" if mismatch.size < float("inf") else "to infinity or NaN"
    return Finding(expected, f"Hidden states change {size}.", mismatch.pair.what, mismatch.where)


# ---- views


def upto(length: int, end: int) -> View:
    """The places before ``end`` of tensors [B, T, ...] whose T is ``length``."""
    return places(length, 0, end)


def places(length: int, first: int, end: int) -> View:
    """The places from ``first`` to ``end`` of tensors [B, T, ...] whose T is ``length``."""
    return lambda x: x[:, first:end] if x.dim() >= 2 and x.size(1) == length else None


def row(count: int, number: int) -> View:
    """One row of tensors [B, ...] whose B is ``count``."""
    return lambda x: x[number : number + 1] if x.dim() >= 2 and x.size(0) == count else None


# ---- pairs


def _later_tokens(subject: Subject, task: Task) -> Iterator[Pair]:
    decode = task.model.transformer.decode
    for rows, length, changed in [(1, n, t) for n in (2, 3, 4, 8) for t in range(1, n)] + [(2, 17, 9)]:
        ids, memory = subject.ids("decoder", rows, length), subject.memory(task, rows)
        other = _changed(subject, ids, changed)
        what = f"{_texts(rows)} of {length} tokens; token {changed + 1} is another one"
        view = upto(length, changed)
        yield Pair(what, _run(decode, ids, memory=memory), _run(decode, other, memory=memory), view, view)
        what = f"{_texts(rows)} of {_tokens(changed)}; then {length - changed} more follow"
        cut = _run(decode, ids[:, :changed], memory=memory)
        yield Pair(what, cut, _run(decode, ids, memory=memory), whole_if(changed), view)
    ids, memory = subject.ids("decoder", 1, 7), subject.memory(task, 1)
    what = "1 text of 7 tokens in chunks of 3 and 4 with the cache; token 6 is another one"
    first, second = (_steps(task, x, memory, (3, 4)) for x in (ids, _changed(subject, ids, 5)))
    yield Pair(what, first, second, upto(7, 5), upto(7, 5), joined=True)
    if any(getattr(settings, "objective", "") == "both" for settings in subject.config.task.members().values()):
        yield from _both_ways(subject, task)


def _both_ways(subject: Subject, task: Task) -> Iterator[Pair]:
    """A causal row and a masked one, which sees later tokens too, are each as they are alone."""
    decode = task.model.transformer.decode
    for length in (2, 3, 8):
        ids, memory = subject.ids("decoder", 2, length), subject.memory(task, 2)
        together = _run(decode, ids, memory=memory, bidirectional=torch.tensor([False, True]))
        for number, kind in enumerate(("causal", "masked")):
            mine = slice(number, number + 1)
            own = None if memory is None else memory[mine]
            alone = _run(decode, ids[mine], memory=own, bidirectional=kind == "masked")
            what = f"a {kind} row of {length} tokens in a batch with causal and masked rows"
            yield Pair(what, alone, together, row(1, 0), row(2, number))


def whole_if(length: int) -> View:
    """All of the tensors [B, T, ...] whose T is ``length``."""
    return places(length, 0, length)


def _padded(subject: Subject, task: Task) -> Iterator[Pair]:
    for real, pads in ((1, 1), (2, 1), (3, 2), (7, 5)):
        if "encoder" in subject.stacks:
            yield from _padded_source(subject, task, real, pads)
        if "decoder" in subject.stacks:
            yield from _padded_target(subject, task, real, pads)


def _padded_source(subject: Subject, task: Task, real: int, pads: int) -> Iterator[Pair]:
    encode, total = task.model.transformer.encode, real + pads
    ids, filling = subject.ids("encoder", 1, total), subject.ids("encoder", 1, total, ANOTHER)
    mask = torch.arange(total)[None] < real
    what = f"an encoder's text of {_tokens(real)} with {pads} of padding on the right"
    yield Pair(what, _run(encode, ids[:, :real]), _run(encode, ids, mask), whole_if(real), upto(total, real))
    if any(getattr(settings, "document_mask", False) for settings in subject.config.task.members().values()):
        segments = torch.where(mask, 0, OUTSIDE_SEGMENT)
        what = f"a block of packed documents, {_tokens(real)} with {pads} of padding on the right"
        yield Pair(what, _run(encode, ids[:, :real]), _run(encode, ids, segments=segments), whole_if(real),
                   upto(total, real))  # fmt: skip
    for side, shown in (("right", mask), ("left", mask.flip(1))):
        other = torch.where(shown, ids, torch.where(filling == ids, filling.roll(1, 1), filling))
        first = 0 if side == "right" else pads
        view = places(total, first, first + real)
        what = f"an encoder's text of {_tokens(real)} with {pads} of padding on the {side}, which holds other ids"
        yield Pair(what, _run(encode, ids, shown), _run(encode, other, shown), view, view)


def _padded_target(subject: Subject, task: Task, real: int, pads: int) -> Iterator[Pair]:
    decode, total = task.model.transformer.decode, real + pads
    ids = subject.ids("decoder", 1, real)
    memory = subject.memory(task, 1)
    padded = torch.cat((subject.ids("decoder", 1, pads, ANOTHER), ids), 1)
    mask = torch.arange(total)[None] >= pads
    what = f"a decoder's text of {_tokens(real)} with {pads} of padding on the left"
    alone, with_mask = _run(decode, ids, memory=memory), _run(decode, padded, target_mask=mask, memory=memory)
    yield Pair(what, alone, with_mask, whole_if(real), places(total, pads, total))
    if memory is None:
        return
    longer = torch.cat((memory, -5 * memory[:, :1].expand(-1, pads, -1)), 1)
    shown = (torch.arange(longer.size(1)) < memory.size(1))[None]
    what = (
        f"a memory of {memory.size(1)} places with {pads} of padding on the right, and {_tokens(real)} of the decoder"
    )
    second = _run(decode, ids, memory=longer, memory_mask=shown)
    yield Pair(what, alone, second, whole_if(real), whole_if(real))


def _alone(subject: Subject, task: Task) -> Iterator[Pair]:
    transformer = task.model.transformer
    for rows, length in ((2, 1), (2, 2), (3, 5), (5, 9)):
        for stack in subject.stacks:
            ids = subject.ids(stack, rows, length)
            for number in range(rows):
                what = f"text {number + 1} of {rows} in the {stack}, each of {_tokens(length)}"
                view, one = row(rows, number), row(1, 0)
                mine = slice(number, number + 1)
                if stack == "encoder":
                    together, alone = _run(transformer.encode, ids), _run(transformer.encode, ids[mine])
                else:
                    memory = subject.memory(task, rows)
                    own = None if memory is None else memory[mine]
                    together = _run(transformer.decode, ids, memory=memory)
                    alone = _run(transformer.decode, ids[mine], memory=own)
                yield Pair(what, alone, together, one, view)


def _cached(subject: Subject, task: Task) -> Iterator[Pair]:
    decode = task.model.transformer.decode
    for rows, chunks in ((1, (1, 1)), (1, (1, 1, 1, 1)), (2, (3, 1, 1)), (2, (2, 3)), (1, (4, 3, 5))):
        length = sum(chunks)
        ids, memory = subject.ids("decoder", rows, length), subject.memory(task, rows)
        what = f"{_texts(rows)} in steps of {', '.join(map(str, chunks))} token{'s' * (max(chunks) > 1)}"
        full = _run(decode, ids, memory=memory)
        yield Pair(what, full, _steps(task, ids, memory, chunks), whole, whole, joined=True)
    if subject.crosses:
        yield from _beams(subject, task)
    ids, memory = subject.ids("decoder", 3, 5), subject.memory(task, 3)
    rows = torch.tensor([2, 0, 0])
    chosen = None if memory is None else memory[rows]
    what = "3 texts in steps of 3, 1, 1 tokens; after the first, rows 3, 1, 1 continue"
    continued = torch.cat((ids[rows, :3], ids[:, 3:]), 1)
    yield Pair(what, _run(decode, continued, memory=chosen), _steps(task, ids, memory, (3, 1, 1), rows),
               places(5, 3, 5), places(5, 3, 5), joined=True)  # fmt: skip
    ids, memory = subject.ids("decoder", 1, 6), subject.memory(task, 1)
    mask = torch.arange(6)[None] >= 2
    what = "1 text of 6 places, 2 of them padding on the left, in steps of 4, 1, 1 tokens"
    full = _run(decode, ids, target_mask=mask, memory=memory)
    yield Pair(what, full, _steps(task, ids, memory, (4, 1, 1), mask=mask), places(6, 2, 6), places(6, 2, 6), True)


def _beams(subject: Subject, task: Task) -> Iterator[Pair]:
    """Beams of one source are further rows that share its memory."""
    for sources, beams in ((1, 2), (2, 3)):
        ids, memory = subject.ids("decoder", sources * beams, 4), subject.memory(task, sources)
        assert memory is not None
        repeated = memory.repeat_interleave(beams, 0)
        what = f"{beams} beams of each of {sources} sources, in steps of 1 token"
        full = _run(task.model.transformer.decode, ids, memory=repeated)
        yield Pair(what, full, _steps(task, ids, memory, (1, 1, 1, 1)), whole, whole, joined=True)


def _packed(subject: Subject, task: Task) -> Iterator[Pair]:
    stack = subject.stacks[-1]
    run = task.model.transformer.encode if stack == "encoder" else task.model.transformer.decode
    for first, second in ((1, 1), (2, 2), (5, 4)):
        length = first + second
        ids, segments = subject.ids(stack, 1, length), (torch.arange(length)[None] >= first).long()
        together = _run(run, ids, segments=segments)
        for what, start, end in (("first", 0, first), ("second", first, length)):
            alone, size = _run(run, ids[:, start:end]), end - start
            text = f"the {what} of 2 documents in a row, of {_tokens(first)} and of {second}"
            yield Pair(text, alone, together, whole_if(size), places(length, start, end))


def _run(function: Callable[..., Tensor], *arguments: Tensor, **options: Tensor | bool | None) -> Callable[[], Tensor]:
    return lambda: function(*arguments, **options)


def _steps(
    task: Task,
    ids: Tensor,
    memory: Tensor | None,
    chunks: tuple[int, ...],
    rows: Tensor | None = None,
    mask: Tensor | None = None,
) -> Callable[[], Tensor]:
    """Decodes chunk by chunk with a cache; after the first chunk, ``rows`` continue, each with its own memory."""

    def run() -> Tensor:
        transformer = task.model.transformer
        kept, results, start = transformer.new_cache(memory), [], 0
        for number, size in enumerate(chunks):
            shown = mask[:, start : start + size] if mask is not None and number == 0 else None
            results.append(transformer.decode(ids[:, start : start + size], target_mask=shown, cache=kept))
            if number == 0 and rows is not None:
                kept.select(rows, None if memory is None else rows)
            start += size
        return torch.cat(results, 1)

    return run


def _changed(subject: Subject, ids: Tensor, place: int) -> Tensor:
    """The same ids with another token at one place."""
    other = subject.ids("decoder" if "decoder" in subject.stacks else "encoder", ids.size(0), 50, ANOTHER)
    new = ids.clone()
    for number in range(ids.size(0)):
        new[number, place] = next(i for i in other[number].tolist() if i != int(ids[number, place]))
    return new


def _texts(count: int) -> str:
    return f"{count} text{'s' * (count > 1)}"


def _tokens(count: int) -> str:
    return f"{count} token{'s' * (count > 1)}"
