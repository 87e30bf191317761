"""Jobs of many requests, scored together by one thread: one queue under a token budget for each model.

A job is one group (a prompt with its responses) and is never cut. Jobs wait in the order of a virtual clock that counts tokens:
the n-th group of a long request stands behind what other requests could have had scored before it, so a request of one
sample does not wait for all of a thousand. Jobs about the prompt of one that goes now come along, where the prompt is read only
once for all of them. While a round is scored the next one gathers; nothing waits for company.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from poise.data.chat import Encoded
from poise.errors import PoiseError

SMOOTHING = 0.2
START_RATE = 1000.0


class Full(PoiseError):
    """The queue holds all it may; ``retry_after`` (seconds) is when that much will have been scored."""

    def __init__(self, waiting: int, retry_after: int) -> None:
        super().__init__(f"{waiting} tokens wait to be scored; ask again in {retry_after} s, or run more servers")
        self.retry_after = retry_after


class TooLarge(PoiseError):
    """A request that could never be taken, however empty the queue."""


@dataclass(eq=False, slots=True)
class Job:
    """One group, and what is wanted to be known of it; jobs with equal questions are answered together."""

    rows: Sequence[Encoded]
    question: Hashable
    answer: asyncio.Future[Any]
    tokens: int = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = sum(len(row.ids) for row in self.rows)

    @property
    def prompt(self) -> tuple[int, ...]:
        """The tokens that its rows begin with."""
        return tuple(self.rows[0].ids[: self.rows[0].prompt_length])


class Waiting(NamedTuple):
    """A job's place: the lower ``priority`` first, then the smaller ``tag`` of the virtual clock, then the earlier.

    ``kin`` is equal for jobs that are best scored together, whose first ``shared`` tokens are then read once.
    """

    priority: int
    tag: int
    number: int
    kin: Hashable
    shared: int
    job: Job


class Outcome(NamedTuple):
    """What became of a job: an answer, or an error to be raised."""

    job: Job
    value: Any
    error: BaseException | None = None


class Batcher:
    """Feeds ``score`` (jobs → one answer each, in its own thread) with rounds of at most ``budget`` tokens, or one job.

    ``shares``: ``score`` reads a prompt once for all jobs of a round, so it counts once. ``limit`` is how many tokens may wait.
    ``observe`` is told (jobs, tokens, seconds) of every round.
    """

    def __init__(
        self,
        score: Callable[[Sequence[Job]], Sequence[Any]],
        *,
        budget: int,
        limit: int,
        shares: bool = False,
        observe: Callable[[int, int, float], None] = lambda jobs, tokens, seconds: None,
    ) -> None:
        self.budget, self.limit, self.shares = budget, limit, shares
        self.waiting = 0
        self._score, self._observe = score, observe
        self._queue: list[Waiting] = []
        self._numbers = itertools.count()
        self._clock = 0
        self._rate = START_RATE
        self._changed = threading.Condition()
        self._closing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._work, name="poise-scoring", daemon=True)

    def start(self) -> None:
        """Begin to score, with answers to the event loop that is running now."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether what waits will be scored."""
        return self._thread.is_alive() and not self._closing

    async def submit(self, groups: Sequence[Sequence[Encoded]], question: Hashable, priority: int = 0) -> list[Any]:
        """The answer for every group. Raises ``Full``, ``TooLarge``, or what scoring raised; cancelled, its jobs are dropped."""
        loop = asyncio.get_running_loop()
        jobs = [Job(rows, question, loop.create_future()) for rows in groups]
        self._enter(jobs, priority)
        try:
            return [await job.answer for job in jobs]
        finally:
            self._leave(jobs)

    async def close(self) -> None:
        """Score what waits, then end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            await asyncio.get_running_loop().run_in_executor(None, self._thread.join)

    def _enter(self, jobs: Sequence[Job], priority: int) -> None:
        size = sum(job.tokens for job in jobs)
        if size > self.limit:
            raise TooLarge(f"the request has {size} tokens; at most {self.limit} may wait at once, send it in parts")
        with self._changed:
            if self._closing:
                raise Full(self.waiting, 1)
            if self.waiting + size > self.limit:
                raise Full(self.waiting, max(1, math.ceil((self.waiting + size - self.limit) / self._rate)))
            self.waiting += size
            tag = self._clock
            for job in jobs:
                number, prompt = next(self._numbers), job.prompt if self.shares else ()
                self._queue.append(Waiting(priority, tag, number, prompt or number, len(prompt), job))
                tag += job.tokens
            self._changed.notify()

    def _leave(self, jobs: Sequence[Job]) -> None:
        """What is still to be answered is no longer wanted."""
        open_jobs = {id(job) for job in jobs if job.answer.cancelled() or not job.answer.done()}
        for job in jobs:
            if not job.answer.cancel() and not job.answer.cancelled():
                job.answer.exception()  # looked at, so that the event loop does not report it as lost
        if not open_jobs:
            return
        with self._changed:
            dropped = [entry for entry in self._queue if id(entry.job) in open_jobs]
            if dropped:
                self._queue = [entry for entry in self._queue if id(entry.job) not in open_jobs]
                self.waiting -= sum(entry.job.tokens for entry in dropped)

    def _take(self) -> list[Job]:
        """The next round; empty when there will be none."""
        with self._changed:
            while not self._queue and not self._closing:
                self._changed.wait()
            taken = self._next()
            gone = {entry.number for entry in taken}
            self._queue = [entry for entry in self._queue if entry.number not in gone]
            self.waiting -= sum(entry.job.tokens for entry in taken)
            return [entry.job for entry in taken]

    def _next(self) -> list[Waiting]:
        """What the next round holds: in the order of their first members, those that share a prompt together."""
        families: defaultdict[Hashable, list[Waiting]] = defaultdict(list)
        for entry in sorted(self._queue):
            families[entry.kin].append(entry)
        taken: list[Waiting] = []
        size = 0
        for family in families.values():
            for entry in family:
                again = len(entry.job.rows) - (entry is family[0])  # the prompt stands in so many rows but is not read
                fresh = entry.job.tokens - again * entry.shared
                if taken and size + fresh > self.budget:
                    return taken
                if entry is family[0]:  # company that is almost free does not put the clock forward
                    self._clock = max(self._clock, entry.tag)
                taken.append(entry)
                size += fresh
        return taken

    def _work(self) -> None:
        while jobs := self._take():
            start = time.perf_counter()
            outcomes = self._outcomes(jobs)
            seconds, tokens = time.perf_counter() - start, sum(job.tokens for job in jobs)
            self._rate += SMOOTHING * (tokens / max(seconds, 1e-6) - self._rate)
            self._observe(len(jobs), tokens, seconds)
            assert self._loop is not None
            if self._loop.is_closed():
                return
            self._loop.call_soon_threadsafe(_deliver, outcomes)

    def _outcomes(self, jobs: Sequence[Job]) -> list[Outcome]:
        """One job that cannot be scored fails alone."""
        try:
            return [Outcome(job, value) for job, value in zip(jobs, self._score(jobs), strict=True)]
        except Exception as error:  # whatever a model raises belongs to the request, not to the thread
            if len(jobs) == 1:
                return [Outcome(jobs[0], None, error)]
            return [outcome for job in jobs for outcome in self._outcomes([job])]


def _deliver(outcomes: Sequence[Outcome]) -> None:
    for job, value, error in outcomes:
        if job.answer.done():  # who asked has left
            continue
        if error is None:
            job.answer.set_result(value)
        else:
            job.answer.set_exception(error)
