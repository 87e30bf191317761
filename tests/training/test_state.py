"""Interrupts wait for the end of a step, and none is lost."""

from __future__ import annotations

import signal

import pytest

from poise.training.state import deferred_interrupts


@pytest.fixture(autouse=True)
def handlers_come_back():
    before = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_is_told_and_not_raised():
    with deferred_interrupts() as interrupted:
        assert not interrupted()
        signal.raise_signal(signal.SIGINT)
        assert interrupted()


def too_late(error=None):
    with deferred_interrupts() as interrupted:
        assert not interrupted()
        signal.raise_signal(signal.SIGINT)
        if error is not None:
            raise error


def test_one_that_comes_after_the_last_question_is_raised_at_the_end():
    with pytest.raises(KeyboardInterrupt):
        too_late()


def test_an_error_is_not_replaced_by_an_interrupt():
    with pytest.raises(ValueError, match="of its own"):
        too_late(ValueError("of its own"))


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with deferred_interrupts() as interrupted:
            signal.raise_signal(signal.SIGINT)
            assert not interrupted()
    finally:
        signal.signal(signal.SIGINT, before)
