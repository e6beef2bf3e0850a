"""Which inputs are computed together, and what happens to those that fail, wait too long or are not wanted."""

import asyncio
import threading
import time

import pytest

from multihead.errors import ConfigError
from multihead.serving.batches import Batcher, Job, QueueFull
from multihead.serving.meters import Meters


class Model:
    """Records its batches. It waits for ``gate`` before each of them."""

    def __init__(self):
        self.batches, self.gate = [], threading.Event()

    def __call__(self, items):
        self.gate.wait(5)
        self.batches.append([item.content for item in items])
        if any(item.content == "bad" for item in items):
            raise ConfigError("inputs", "bad")
        return [item.content.upper() for item in items]


def run(test, **options):
    """Runs ``test(batcher, model)`` in a loop; options are those of the batcher."""

    async def main():
        batcher, model = Batcher(**{"size": 4, "wait": 0.0, "room": 100, "meters": Meters()} | options), Model()
        batcher.start()
        try:
            return await test(batcher, model)
        finally:
            model.gate.set()
            batcher.close()

    return asyncio.run(main())


def new_job(model, *texts, question="q", seconds=5.0):
    job = Job(question, model, time.monotonic() + seconds)
    for text in texts:
        job.add(text, len(text))
    return job


async def until(condition):
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never happened")


async def busy(batcher, model):
    """Puts a first input to the model, which waits at the gate."""
    first = new_job(model, "first", question="other")
    batcher.submit(first)
    await until(lambda: batcher.waiting == 0)
    return first


def test_requests_of_one_question_share_batches_and_others_do_not():
    async def test(batcher, model):
        await busy(batcher, model)
        jobs = [new_job(model, "a", "b"), new_job(model, "x", question="r"), new_job(model, "c")]
        for job in jobs:
            batcher.submit(job)
        model.gate.set()
        assert await asyncio.gather(*(job.done for job in jobs)) == [["A", "B"], ["X"], ["C"]]
        assert model.batches == [["first"], ["a", "b", "c"], ["x"]]

    run(test)


def test_the_oldest_input_chooses_those_whose_lengths_are_nearest():
    async def test(batcher, model):
        await busy(batcher, model)
        job = new_job(model, "ccc", "a" * 50, "bbbb", "a" * 40, "c")
        batcher.submit(job)
        model.gate.set()
        await job.done
        assert model.batches[1:] == [["ccc", "bbbb", "c"], ["a" * 50, "a" * 40]]

    run(test, size=3)


def test_the_first_input_waits_for_others_only_for_a_while():
    async def test(batcher, model):
        model.gate.set()
        first, second = new_job(model, "a"), new_job(model, "b")
        batcher.submit(first)
        await asyncio.sleep(0.02)
        batcher.submit(second)
        await asyncio.gather(first.done, second.done)
        assert model.batches == [["a", "b"]]
        await asyncio.wait_for(batched(batcher, new_job(model, "c")), 5)

    async def batched(batcher, job):
        batcher.submit(job)
        return await job.done

    run(test, wait=0.3)


def test_an_input_that_fails_harms_no_other():
    async def test(batcher, model):
        await busy(batcher, model)
        good, bad = new_job(model, "a", "b"), new_job(model, "bad")
        batcher.submit(good)
        batcher.submit(bad)
        model.gate.set()
        assert await good.done == ["A", "B"]
        with pytest.raises(ConfigError, match="bad"):
            await bad.done

    run(test)


def test_nobody_computes_what_nobody_waits_for():
    async def test(batcher, model):
        await busy(batcher, model)
        cancelled, late, wanted = new_job(model, "a"), new_job(model, "b", seconds=0.01), new_job(model, "c")
        for job in (cancelled, late, wanted):
            batcher.submit(job)
        cancelled.cancelled = True
        await asyncio.sleep(0.05)
        model.gate.set()
        assert await wanted.done == ["C"]
        assert model.batches == [["first"], ["c"]]

    run(test)


def test_an_answer_that_nobody_waited_for_to_its_end_is_not_sent():
    async def test(batcher, model):
        late, wanted = new_job(model, "a", seconds=0.1), new_job(model, "b")
        batcher.submit(late)
        await until(lambda: batcher.waiting == 0)
        await asyncio.sleep(0.15)
        batcher.submit(wanted)
        model.gate.set()
        assert await wanted.done == ["B"]
        assert model.batches == [["a"], ["b"]] and not late.done.done()

    run(test)


def test_a_full_queue_takes_no_more_unless_somebody_has_gone():
    async def test(batcher, model):
        await busy(batcher, model)
        first = new_job(model, "a", "b", "c")
        batcher.submit(first)
        with pytest.raises(QueueFull):
            batcher.submit(new_job(model, "d"))
        first.cancelled = True
        batcher.submit(new_job(model, "d"))
        assert batcher.waiting == 1

    run(test, room=3)


def test_what_waits_is_answered_before_the_end():
    async def test(batcher, model):
        model.gate.set()
        jobs = [new_job(model, text) for text in "abcdefgh"]
        for job in jobs:
            batcher.submit(job)
        await asyncio.to_thread(batcher.close)
        assert await asyncio.gather(*(job.done for job in jobs)) == [[text.upper()] for text in "abcdefgh"]
        assert not batcher.alive

    run(test, wait=10.0)
