"""Words as they are typed: text stays text, paths are expanded, and what is written can be read back."""

import itertools
import random
import shlex

import pytest

from multihead.config.compose import compose
from multihead.config.keys import find, leaf_keys
from multihead.config.task import TASKS
from multihead.config.words import ESCAPED, PATHS, entries_of, leaves, path_of, paths_of, split, typed_as, write
from multihead.errors import ConfigError
from multihead.tables.roles import column_word, roles_word

KEYS = leaf_keys(TASKS.values())


def value(word):
    """What a word gives its key."""
    (found,) = leaves(split(word), KEYS).values()
    return found


TYPED = [
    ('run_dir="a, b"', "a, b"),
    ("run_dir='a, b'", "a, b"),
    (r'run_dir="say \"x\""', 'say "x"'),
    ("run_dir=a(b", "a(b"),
    ("run_dir=it's", "it's"),
    ("run_dir='~/x'", "~/x"),
    ("data.root=a$5", "a$5"),
    ("decoding.forced_prefix=<2de>", "<2de>"),
    ("data.train=[2024_11, 1e5]", ["2024_11", "1e5"]),
    ('data.train=["a, b", c]', ["a, b", "c"]),
    ("data.columns=[]", []),
    ("data.columns=[1.10,true,null]", ["1.10", "true", "null"]),
    ("data.columns=['a', 'b']", ["a", "b"]),
    ("data.test=null", None),
    ("data.labels={0: neg, -1: pos}", {"data.labels.0": "neg", "data.labels.-1": "pos"}),
    ('data.url={"a:b": https://x/y}', {"data.url.a:b": "https://x/y"}),
    ("data.labels.1=1.10", "1.10"),
    (r'decoding.stop_strings=["\n"]', ["\n"]),
    (r"decoding.stop_strings=[\n\n,Q:]", ["\n\n", "Q:"]),
    (r"data.separator=\t", "\t"),
    (r"data.separator=\\", "\\"),
    (r"data.separator=\u00fc", "ü"),
    (r"data.label_pattern=\d+", r"\d+"),
    ("trainer={max_steps: 3, max_time: '00:01:00:00'}", {"trainer.max_steps": 3, "trainer.max_time": "00:01:00:00"}),
    ("data={train: 2024_11, roles: {source: 1.10}}", {"data.train": "2024_11", "data.roles.source": "1.10"}),
    ("optim.betas=[0.8,0.9]", [0.8, 0.9]),
    ("optim.lr=1e-3", 1e-3),
    ("seed=1_000", 1000),
    ("compile=on", "on"),
]


@pytest.mark.parametrize(("word", "used"), TYPED)
def test_typed(word, used):
    found = leaves(split(word), KEYS)
    assert found == (used if isinstance(used, dict) else {split(word).key: used})


def test_paths_are_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("SETS", "/big/sets")
    for key in (name for name in PATHS if find(name, KEYS)):
        assert value(f"{key}=~/x") == value(f'{key}="~/x"') == value(f"{key}=$HOME/x") == "/home/me/x"
        assert value(f"{key}=a~/x") == "a~/x"
    assert value("data.train=[~/a,$SETS/b]") == ["/home/me/a", "/big/sets/b"]
    assert path_of("run", "~/x") == "/home/me/x" and path_of("run", "'~/x'") == "~/x"
    assert value("data.columns=[~/a,$SETS]") == ["~/a", "$SETS"], "no paths"


REFUSED = [
    ("run_dir=a,b", r"run_dir: several values \(a,b\) need -m"),
    ("run_dir=[a,b]", r"run_dir: must be text, got a list: \[a,b\]"),
    ("run_dir={a: b}", r"run_dir: must be text, got a mapping"),
    ("run_dir=$NO_SUCH_THING/x", r"run_dir: .* names the variable NO_SUCH_THING"),
    (r"data.separator=\q", r"data\.separator: '\\\\q' is not an escape; the escapes are \\n, "),
    ("data.columns=a", r"data\.columns: must be a list of texts, got 'a'"),
    ("data.columns=[a,]", r"data\.columns: must be a list of texts"),
    ("data.columns=[[a],b]", r"data\.columns: must be a list of texts, got \[a\]"),
]


@pytest.mark.parametrize(("word", "message"), REFUSED)
def test_refused_with_a_fix_that_works(word, message):
    with pytest.raises(ConfigError, match=message) as caught:
        compose(["task=translation", word])
    key, _, typed = word.partition("=")
    if f"'{key}=" in caught.value.fix:
        fixed = shlex.split(caught.value.fix[caught.value.fix.index(f"'{key}=") :])[0]
        assert str(value(fixed)).strip("[]'").replace("\\\\", "\\") in typed


def test_what_is_written_is_read_back(monkeypatch):
    """For any text and any key: the word that messages print, through a shell and back, gives the text."""
    monkeypatch.setenv("HOME", "/home/me")
    rng = random.Random(0)
    parts = [
        "a",
        " ",
        ",",
        "=",
        "'",
        '"',
        "\\",
        "~",
        "$HOME",
        "/",
        "[",
        "]",
        "{",
        "}",
        "(",
        ")",
        "ü",
        ":",
        "1e5",
        "null",
    ]
    texts = [*parts, *("".join(rng.choices(parts, k=rng.randint(2, 6))) for _ in range(300))]
    for name, content in itertools.product(("run_dir", "data.columns.x", "data.train", *ESCAPED[2:3]), texts):
        if name == "data.columns.x":
            name = "data.roles.source"
        assert value(write(name, content)) == content, (name, content, write(name, content))
    for content in texts:
        assert value(*shlex.split(column_word("source", content))) == content
        (word,) = shlex.split(roles_word({"source": content, "target": "x"}))
        assert leaves(split(word), KEYS) == {"data.roles.source": content, "data.roles.target": "x"}
        (word,) = shlex.split(typed_as("run", content))
        assert paths_of("run", word.removeprefix("run=")) == [content]


def test_runs_of_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    many = [f"outputs/a_run_with_a_long_name_{number:04}" for number in range(200)]  # no file has so long a name
    assert paths_of("run", f"[{','.join(many)}]") == entries_of("runs", f"[{','.join(many)}]") == many
    assert paths_of("run", "[a b,c]") == ["a b", "c"] and paths_of("run", "a,b") == ["a,b"]
    assert entries_of("runs", "[a,b]") == entries_of("runs", "a,b") == ["a", "b"]
    (tmp_path / "[a,b]").mkdir()
    assert paths_of("run", "[a,b]") == entries_of("runs", "[a,b]") == ["[a,b]"]
    assert entries_of("names", "[1.10,x]") == ["1.10", "x"]
