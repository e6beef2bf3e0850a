"""The files of the page: nothing foreign, nothing inline, and no text that could become HTML."""

import re
from html.parser import HTMLParser

import pytest

from multihead.serving.schemas import MOST_NEW_TOKENS
from multihead.serving.static_page import FOLDER, write_static

FILES = sorted(FOLDER.iterdir())
IDS = [file.name for file in FILES]
SCRIPTS = [file for file in FILES if file.suffix == ".js"]
NAMESPACE = "http://www.w3.org/2000/svg"
"""The only address in the files. It names SVG; no browser opens it."""


class Tags(HTMLParser):
    """The tags of a page with their attributes, and the text inside scripts and styles."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inline = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] in ("script", "style"):
            self.inline += data.strip()


INDEX = Tags((FOLDER / "index.html").read_text())


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_no_file_names_a_foreign_address(file):
    text = file.read_text().replace(NAMESPACE, "")
    assert re.findall(r"(?:https?:)?//[\w.-]+\.\w+|@import|url\(", text) == []


@pytest.mark.parametrize("file", SCRIPTS, ids=[file.name for file in SCRIPTS])
def test_no_script_makes_html_or_code_from_text(file):
    html = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|srcdoc"
    code = r"\beval\b|new Function|setTimeout\(['\"]|javascript:|cssText|\"style\""
    assert re.findall(f"{html}|{code}", file.read_text()) == []


def test_the_page_has_no_inline_script_style_or_listener():
    assert INDEX.inline == ""
    for tag, attributes in INDEX.tags:
        assert tag != "style"
        assert tag != "script" or attributes["src"]
        assert not [name for name in attributes if name == "style" or name.startswith("on")], tag


def test_the_policy_allows_files_of_the_server_only():
    (policy,) = [a["content"] for tag, a in INDEX.tags if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(maxsplit=1) for rule in policy.split("; "))
    assert rules.pop("default-src") == "'none'"
    assert rules.pop("require-trusted-types-for") == "'script'"
    assert set(rules.values()) <= {"'self'", "'none'"}


def test_each_file_is_used_and_each_used_file_exists():
    used = {"index.html", *(a.get("src") or a.get("href") for _, a in INDEX.tags if a.get("src") or a.get("href"))}
    for file in SCRIPTS:
        used |= set(re.findall(r'from "\./([\w.]+)"', file.read_text()))
    assert used == set(IDS)


@pytest.mark.parametrize("file", SCRIPTS, ids=[file.name for file in SCRIPTS])
def test_a_script_is_short_and_its_lines_too(file):
    lines = file.read_text().splitlines()
    assert len(lines) <= 300
    assert [line for line in lines if len(line) > 120] == []
    assert lines[0] == "/**"  # it opens with what it is


def test_the_page_asks_for_no_more_tokens_than_the_server_writes():
    (most,) = re.findall(r"MOST_TOKENS = (\d+);", (FOLDER / "continuation.js").read_text())
    assert int(most) == MOST_NEW_TOKENS


def test_every_control_of_the_page_has_a_name():
    labels = {a["for"] for tag, a in INDEX.tags if tag == "label" and "for" in a}
    inside = {"run", "beside"}  # stand in their labels
    for tag, attributes in INDEX.tags:
        if tag in ("input", "textarea", "select"):
            assert attributes["id"] in labels | inside


def test_the_static_page_reads_recorded_answers(tmp_path):
    recorded = tmp_path / "answers.json"
    recorded.write_text('{"runs": [], "limits": {}, "answers": []}')
    write_static(tmp_path / "page", recorded)
    assert sorted(file.name for file in (tmp_path / "page").iterdir()) == sorted([*IDS, "recorded.json"])
    tags = Tags((tmp_path / "page" / "index.html").read_text()).tags
    assert [a["content"] for _, a in tags if a.get("name") == "answers"] == ["recorded"]
    assert (tmp_path / "page" / "recorded.json").read_bytes() == recorded.read_bytes()
