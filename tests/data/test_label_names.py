"""``data.label_names``: a file that the user names gives numbered classes their names."""

import pytest

from multihead.config.compose import compose
from multihead.data.prepare import prepare
from multihead.errors import ConfigError, DataError

EXPLICIT = ["task=classification", "data=files", "data.train=rows.csv", "data.header=true", "data.columns=[]",
            "data.roles={text: text, label: label}", "data.splits={}", "tokenizer.kind=char"]  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"text {n},{n % 2}\n" for n in range(8)))
    (tmp_path / "names").mkdir()
    return tmp_path / "names"


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.txt", "bad\ngood\n"), ("a.txt", "0: bad\n1: good\n"), ("a.json", '{"bad": 0, "good": 1}'),
     ("a.yaml", "0: bad\n1: good\n")],
)  # fmt: skip
def test_the_names_are_used_with_a_path_and_with_keys(folder, name, content):
    (folder / name).write_text(content)
    key = f"data.label_names=names/{name}"
    assert compose(["task=classification", "data=rows.csv", key]).config.data.labels == {"0": "bad", "1": "good"}
    assert prepare(compose([*EXPLICIT, key]), ["train"]).vocab.labels == ["bad", "good"]
    assert prepare(compose(EXPLICIT), ["train"]).vocab.labels == ["0", "1"]
    wins = [key, "data.labels={0: no, 1: yes}"]
    assert prepare(compose([*EXPLICIT, *wins]), ["train"]).vocab.labels == ["no", "yes"]


def test_names_that_do_not_fit_are_an_error(folder):
    (folder / "a.txt").write_text("bad\n")
    for words in (["task=classification", "data=rows.csv"], EXPLICIT):
        with pytest.raises(DataError, match=r"a\.txt: does not name the label '1' of rows\.csv; it names 0; fix: add"):
            prepare(compose([*words, "data.label_names=names/a.txt"]), ["train"])
        with pytest.raises(DataError, match="no such file"):
            prepare(compose([*words, "data.label_names=names/b.txt"]), ["train"])
    with pytest.raises(ConfigError, match=r"data\.label_names: must be a \.txt, \.json or \.yaml file"):
        compose([*EXPLICIT, "data.label_names=names"])
    (folder.parent / "rows.csv").write_text("text,label\n" + "".join(f"text {n},{n % 2 + 1}\n" for n in range(8)))
    (folder / "a.txt").write_text("bad\ngood\nbest\n")
    for words in (["task=classification", "data=rows.csv"], EXPLICIT):
        with pytest.raises(DataError, match=r"does the first name in a\.txt belong to the label 0 or 1\?"):
            prepare(compose([*words, "data.label_names=names/a.txt"]), ["train"])
