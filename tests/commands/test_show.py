"""``show`` serves the runs on a free port, and opens a browser if there is one."""

import threading
import webbrowser

import pytest

from multihead.cli import main
from multihead.commands import show

URL = "http://127.0.0.1:8123/"


@pytest.fixture
def opened(monkeypatch):
    """The addresses that were opened, on a Linux without a screen."""
    addresses = []
    monkeypatch.setattr(webbrowser, "open", addresses.append)
    monkeypatch.setattr(show.sys, "platform", "linux")
    for name in show.SCREENS:
        monkeypatch.delenv(name, raising=False)
    return addresses


@pytest.mark.parametrize("name", show.SCREENS)
def test_the_browser_opens_where_there_is_a_screen(opened, monkeypatch, name):
    monkeypatch.setenv(name, ":0")
    before = set(threading.enumerate())
    show.open_browser(URL)
    for thread in set(threading.enumerate()) - before:
        thread.join()
    assert opened == [URL]


def test_no_browser_opens_without_a_screen(opened):
    show.open_browser(URL)
    assert opened == []


def test_show_serves_the_runs_on_a_free_port_of_this_machine(opened, monkeypatch, capsys):
    def serve(settings, words, say, on_ready):
        say(f"the page is {URL}")
        on_ready(URL)
        served.append((settings, words))

    served = []
    monkeypatch.setattr("multihead.serving.server.serve", serve)
    assert main(["show", "run=[a,b]", "names=[x,y]", "decoding.num_beams=3"]) == 0
    ((settings, words),) = served
    assert (settings.run, settings.names, settings.host, settings.port) == (["a", "b"], ["x", "y"], "127.0.0.1", 0)
    assert words == ["decoding.num_beams=3"]
    assert capsys.readouterr().out == f"the page is {URL}\n"


def test_show_needs_a_run(capsys):
    assert main(["show"]) == 2
    assert "error[config] run: is missing" in capsys.readouterr().err
