"""The command that prints all messages finds them, and none of them has a word that only we understand."""

import re

import pytest
from messages import all_messages

OURS = re.compile(r"\b(capsule|capsules|mendable|door|letters that)\b")


@pytest.mark.unhurried
def test_every_kind_of_message_is_found():
    found = all_messages()
    assert {kind for _, _, kind, _ in found} >= {"error", "warning", "info", "what", "fix", "help"}
    assert ("config/verbs.py", "help", "The key or node to explain.") in [(f, k, text) for f, _, k, text in found]
    assert len(found) > 500


@pytest.mark.parametrize("folder", ["commands/", "config/"])
def test_messages_have_no_words_of_our_own(folder):
    assert [message for message in all_messages(folder) if OURS.search(message[3])] == []
