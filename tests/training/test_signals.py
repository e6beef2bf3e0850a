"""Signals are noted inside, once; the second one ends the process, and what was there before comes back."""

import os
import signal
import threading

import pytest

from multihead.errors import Stopped
from multihead.training import signals
from multihead.training.agreement import Agreement
from multihead.training.rank import reason_of
from multihead.training.signals import SIGNALS, Signals, handling, leaving_on_signals


@pytest.fixture
def handlers():
    """Handlers of the tests' own, put back afterwards."""
    before = {signum: signal.signal(signum, lambda *_: None) for signum in SIGNALS}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_is_noted_and_the_second_ends_the_process(handlers, monkeypatch, signum):
    ended = []
    monkeypatch.setattr(signals.os, "_exit", ended.append)
    caught = Signals(Agreement())
    assert caught.received == 0
    before = signal.getsignal(signum)
    with caught.caught():
        os.kill(os.getpid(), signum)
        assert caught.received == signum and not ended
        os.kill(os.getpid(), signal.SIGTERM)
        assert ended == [128 + signal.SIGTERM]
    assert signal.getsignal(signum) is before


def test_what_is_ignored_stays_ignored_and_what_others_have_taken_is_taken_back(handlers):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    caught = Signals(Agreement())
    with caught.caught():
        assert caught.taken == [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]
        signal.signal(signal.SIGTERM, lambda *_: None)
        caught.take_back()
        os.kill(os.getpid(), signal.SIGTERM)
        assert caught.received == signal.SIGTERM
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_handlers_of_before_come_back_whatever_was_set_inside(handlers):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    told = []
    with (
        pytest.raises(ZeroDivisionError),
        handling({signal.SIGTERM: lambda *_: told.append(1), signal.SIGINT: None, signal.SIGHUP: print}) as taken,
    ):
        assert taken == [signal.SIGTERM]
        assert [signal.getsignal(signum) for signum in SIGNALS[2:]] == [signal.SIG_IGN, before[signal.SIGUSR1]]
        assert signal.getsignal(signal.SIGINT) is before[signal.SIGINT]
        os.kill(os.getpid(), signal.SIGTERM)
        assert told == [1]
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, signal.SIG_DFL)
        raise ZeroDivisionError
    assert {signum: signal.getsignal(signum) for signum in SIGNALS} == before


def test_a_rank_that_fails_as_the_launcher_ends_it_fails_for_its_own_reason(handlers):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    lost = RuntimeError("gloo: connection closed by peer")
    for error, signum, expected in (
        (lost, signal.SIGTERM, lost),
        (None, signal.SIGTERM, 143),
        (None, signal.SIGINT, 130),
    ):
        with pytest.raises((Stopped, KeyboardInterrupt)) as caught, leaving_on_signals():
            try:
                if error:
                    raise error
            finally:
                signal.raise_signal(signum)
        reason = reason_of(caught.value)
        assert reason is expected or (isinstance(reason, Stopped) and reason.status == expected)


def test_only_the_main_thread_may_take_signals(handlers):
    caught, before = Signals(Agreement()), signal.getsignal(signal.SIGTERM)
    caught.taken = [signal.SIGTERM]

    def work():
        with caught.caught():
            assert caught.taken == [] and signal.getsignal(signal.SIGTERM) is before
            done.append(True)

    done = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]
