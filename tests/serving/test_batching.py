"""The queue by itself: order, budget, failure and departure."""

from __future__ import annotations

import asyncio
import threading

import pytest

from poise.data.chat import Encoded
from poise.serving.batching import Batcher, Full, TooLarge


def rows(*lengths):
    return [Encoded(tuple(range(n)), 0) for n in lengths]


class Bench:
    """A batcher whose rounds are written down and can be held up."""

    def __init__(self, budget=10, limit=1000, fails=(), shares=False):
        self.rounds, self.go, self.entered = [], threading.Event(), threading.Event()
        self.go.set()
        self.fails = fails
        self.batcher = Batcher(self.score, budget=budget, limit=limit, shares=shares)

    def score(self, jobs):
        self.entered.set()
        self.go.wait(10)
        self.rounds.append([job.question for job in jobs])
        for job in jobs:
            if job.question in self.fails:
                raise ValueError(job.question)
        return [(job.question, job.tokens) for job in jobs]

    async def hold(self):
        """Let one job in, and keep the thread at it."""
        self.go.clear()
        first = asyncio.ensure_future(self.batcher.submit([rows(1)], "first"))
        await asyncio.to_thread(self.entered.wait, 10)
        return first


def story(work, **options):
    async def told():
        bench = Bench(**options)
        bench.batcher.start()
        try:
            return bench, await asyncio.wait_for(work(bench), 20)
        finally:
            bench.go.set()
            await bench.batcher.close()

    return asyncio.run(told())


async def queued(bench, *asked):
    """Tasks of (question, group sizes, priority), in this order in the queue."""
    tasks = []
    for question, sizes, *priority in asked:
        tasks.append(asyncio.ensure_future(bench.batcher.submit([rows(n) for n in sizes], question, *priority)))
        await asyncio.sleep(0)
    return tasks


def test_a_round_holds_the_budget_or_one_job():
    async def work(bench):
        first = await bench.hold()
        tasks = await queued(bench, ("a", [4]), ("b", [6]), ("c", [1]), ("d", [25]), ("e", [2]))
        bench.go.set()
        return await asyncio.gather(first, *tasks)

    bench, answers = story(work)
    assert bench.rounds == [["first"], ["a", "b"], ["c"], ["d"], ["e"]]
    assert answers == [[("first", 1)], [("a", 4)], [("b", 6)], [("c", 1)], [("d", 25)], [("e", 2)]]
    assert bench.batcher.waiting == 0


def test_one_sample_does_not_wait_for_all_of_a_thousand():
    async def work(bench):
        first = await bench.hold()
        tasks = await queued(bench, ("long", [10] * 20), ("short", [3]))
        bench.go.set()
        await asyncio.gather(first, *tasks)

    bench, _ = story(work)
    assert [question for jobs in bench.rounds for question in jobs].index("short") == 2, (
        "behind one group of the long one"
    )


@pytest.mark.parametrize(
    ("shares", "rounds"), [(True, [["a", "a", "a"], ["b", "c"]]), (False, [["a"], ["b"], ["a"], ["c"], ["a"]])]
)
def test_a_prompt_that_is_read_once_counts_once_and_brings_what_waits_for_it(shares, rounds):
    def about(prompt, own):
        return [Encoded((*(prompt for _ in range(6)), *range(100, 100 + own)), 6)]

    async def work(bench):
        first = await bench.hold()
        asked = [("a", 1, 1), ("b", 2, 1), ("a", 1, 1), ("c", 2, 3), ("a", 1, 2)]
        tasks = []
        for question, prompt, own in asked:
            tasks.append(asyncio.ensure_future(bench.batcher.submit([about(prompt, own)], question)))
            await asyncio.sleep(0)
        bench.go.set()
        return await asyncio.gather(first, *tasks)

    bench, answers = story(work, shares=shares)
    assert bench.rounds == [["first"], *rounds]
    assert [answer[0] for answer in answers[1:]] == [("a", 7), ("b", 7), ("a", 7), ("c", 9), ("a", 8)]
    assert bench.batcher.waiting == 0


def test_a_lower_priority_number_goes_first():
    async def work(bench):
        first = await bench.hold()
        tasks = await queued(bench, ("late", [5], 1), ("soon", [5], 0), ("now", [5], -1))
        bench.go.set()
        await asyncio.gather(first, *tasks)

    bench, _ = story(work, budget=5)
    assert bench.rounds[1:] == [["now"], ["soon"], ["late"]]


def test_a_job_that_cannot_be_scored_fails_alone():
    async def work(bench):
        first = await bench.hold()
        tasks = await queued(bench, ("a", [1]), ("bad", [1]), ("b", [1]))
        bench.go.set()
        return await asyncio.gather(first, *tasks, return_exceptions=True)

    _, answers = story(work, fails=("bad",))
    assert [answers[0], answers[1], answers[3]] == [[("first", 1)], [("a", 1)], [("b", 1)]]
    assert isinstance(answers[2], ValueError)


def test_a_full_queue_says_when_and_one_that_could_never_be_taken_says_so():
    async def work(bench):
        first = await bench.hold()
        tasks = await queued(bench, ("a", [15]))
        with pytest.raises(Full) as full:
            await bench.batcher.submit([rows(6)], "b")
        with pytest.raises(TooLarge, match="21 tokens; at most 20"):
            await bench.batcher.submit([rows(21)], "c")
        bench.go.set()
        await asyncio.gather(first, *tasks)
        return full.value.retry_after, await bench.batcher.submit([rows(20)], "d")

    _, (retry_after, afterwards) = story(work, limit=20)
    assert retry_after >= 1
    assert afterwards == [("d", 20)]


def test_who_leaves_takes_everything_along():
    async def work(bench):
        first = await bench.hold()
        tasks = await queued(bench, ("gone", [5, 5, 5]), ("b", [4]))
        assert bench.batcher.waiting == 19
        tasks[0].cancel()
        await asyncio.gather(tasks[0], return_exceptions=True)
        assert bench.batcher.waiting == 4
        bench.go.set()
        await asyncio.gather(first, tasks[1])

    bench, _ = story(work)
    assert bench.rounds == [["first"], ["b"]]
    assert bench.batcher.waiting == 0


def test_closing_scores_what_waits_and_takes_no_more():
    async def work(bench):
        first = await bench.hold()
        tasks = await queued(bench, ("a", [8]), ("b", [8]))
        closing = asyncio.ensure_future(bench.batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(Full):
            await bench.batcher.submit([rows(1)], "late")
        bench.go.set()
        await closing
        return await asyncio.gather(first, *tasks)

    bench, answers = story(work)
    assert len(answers) == 3
    assert not bench.batcher.alive
