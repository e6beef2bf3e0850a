"""Rows that are units of several lines: JSON arrays, translation units, segments and sentences, read as streams."""

import json

import pytest

from multihead import cli
from multihead.config.data import DataConfig
from multihead.data.readers import read_split
from multihead.errors import DataError
from multihead.tables import markup, opening, sniff
from multihead.tables.conllu import sentences_in
from multihead.tables.layout import find_data
from multihead.tables.markup import format_of_markup, segments_of, units_of
from multihead.tables.records import objects_in
from multihead.tables.roles import Needs
from multihead.tables.sniff import look

RECORDS = [
    {"text": 'a [b], {c}: "d" \\ ü\n', "n": [1.5, {"x": None}]},
    {"text": "", "n": []},
    {"text": "é" * 50, "n": 12},
]
TMX = '<tmx version="1.4"><header srclang="en"/><body>{}</body></tmx>'
UNIT = '<tu><tuv xml:lang="en"><seg>{}</seg></tuv><tuv xml:lang="de"><seg>{}</seg></tuv></tu>'
TRANSLATION = Needs("translation", ("source", "target"))


def pieces(text, size):
    return [text[i : i + size] for i in range(0, len(text), size)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_of_objects_in_pieces_is_what_json_reads(size, indent):
    for records in ([], RECORDS, RECORDS * 20, [12, 345, "x"]):
        text = f" \n{json.dumps(records, indent=indent)}\n "
        assert list(objects_in(pieces(text, size), "rows")) == records


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}', "rows:1:1: is one JSON object and not a list of objects; fix: write one object per line"),
        ("hello", "rows:1:1: is not a list of JSON objects"),
        ("", "rows:1:1: is not a list of JSON objects"),
        ('[\n{"a": 1}\n {"a": 2}]', r"rows:3:2: is not JSON \(a comma or \] is missing\)"),
        ('[{"a": 1},\n{"a": 2}', r"rows:2:9: is not JSON \(it ends early\)"),
        ('[{"a": 1},\n  {"a" 2}]', r"rows:2:8: is not JSON \(Expecting ':' delimiter\)"),
        ('[{"a": 1}]\nmore', r"rows:2:1: is not JSON \(more text follows the list\)"),
        ("[" * 100_000, r"is not JSON \((too deeply nested|Expecting value)\)"),
    ],
)
def test_an_array_that_is_not_json(size, text, message):
    with pytest.raises(DataError, match=message):
        list(objects_in(pieces(text, size if len(text) < 1000 else 50_000), "rows"))


def test_an_object_without_end(monkeypatch):
    monkeypatch.setattr("multihead.tables.records.LONGEST_OBJECT", 1000)
    with pytest.raises(DataError, match="rows:1:2: has an object of more than 1,000 characters"):
        list(objects_in(["[", *['{"a": "'] + ["x" * 400] * 10], "rows"))


def test_a_large_array_is_sampled_and_read_whole(tmp_path, monkeypatch):
    rows = [{"text": f"words in row {i}", "label": f"l{i % 2}"} for i in range(500)]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    for module, name in ((sniff, "HEAD_BYTES"), (sniff, "SAMPLE_BYTES"), (opening, "CHUNK_BYTES")):
        monkeypatch.setattr(module, name, 4096)
    found = look(path, "rows.json", {})
    assert (found.format, found.whole, found.columns) == ("json", False, ["text", "label"])
    assert 20 < len(found.rows) < 400 and found.count == pytest.approx(500, rel=0.1)
    table = read_split(DataConfig(format="json", train=str(path)), "train", ["text", "label"])
    assert table.columns["text"] == [row["text"] for row in rows]


@pytest.mark.parametrize("size", [1, 5, 10_000])
def test_units_in_pieces(size):
    text = "<?xml version='1.0'?>" + TMX.format(
        "\n".join(UNIT.format(f"s&#252;{i}", f"<b>t</b>&lt;{i}") for i in range(9))
    )
    units = list(units_of("tmx", pieces(text.encode(), size), "rows"))
    assert units == [(i + 1, {"en": f"sü{i}", "de": f"t<{i}"}) for i in range(9)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TMX.format(UNIT.format("a", "&nope;")), "rows:1:.*not well-formed XML .undefined entity"),
        (
            '<!DOCTYPE tmx SYSTEM "x">' + TMX.format(UNIT.format("a", "&nope;")),
            "uses the entity &nope;, which is not def",
        ),
        (
            '<!DOCTYPE tmx [<!ENTITY % a "b">]>' + TMX.format(""),
            "declares the entity 'a', which Multihead does not expand",
        ),
        (
            TMX.format("<tu><tuv><seg>a</seg></tuv></tu>"),
            "rows:1:52: the <tuv> has no xml:lang; fix: name the language",
        ),
        (TMX.format(UNIT.format("a", "x" * 3000)), "has a text of more than 2,000 characters"),
        ('<?xml version="1.0" encoding="nonsense"?>' + TMX.format(""), "is not well-formed XML .unknown encoding"),
    ],
)
def test_xml_that_is_refused(text, message, monkeypatch):
    monkeypatch.setattr(markup, "LONGEST_UNIT", 2000)
    with pytest.raises(DataError, match=message):
        list(units_of("tmx", [text.encode()], "rows"))


def test_the_outermost_element_names_the_format():
    assert (
        format_of_markup(
            "\ufeff\n<?xml version='1.0'?>\n<!-- <xliff> -->\n<!DOCTYPE tmx SYSTEM 'a'>\n<tmx version='1'>"
        )
        == "tmx"
    )
    assert format_of_markup('<srcset setid="a" srclang="any">') == "sgm"
    for text in ("", "<", "<?xml", "<!-- " * 1000, "<tmxed>", "tmx", "<html><tmx >"):
        assert format_of_markup(text) == ""


def test_an_attack_of_many_elements_takes_linear_time():
    text = "<tmx>" + "<a>" * 100_000 + "&amp;" * 100_000
    with pytest.raises(DataError, match=r"is not well-formed XML \(no element found\)"):
        list(units_of("tmx", [text.encode()], "rows"))
    assert format_of_markup("<?a?>" * 200_000) == ""


def test_segments_of_wmt():
    lines = [
        '<REFSET setid="x" srclang="any" trglang="de-AT">',
        "<DOC docid='a' sysid=r1><hl><seg id=1>A &lt; B &amp;amp; &#228;&#x1F600; &nbsp; &#xD800; x <b>",
        "second line</seg></hl> <seg id=2></seg></DOC>",
        '<doc docid="a" sysid="r2"><seg id="1">another reference</seg></doc></refset>',
    ]
    found = segments_of(lines, "rows")
    assert (found.language, found.source) == ("de-AT", False)
    assert found.texts == {
        ("a", "1"): (2, "A < B &amp; ä😀 &nbsp; &#xD800; x <b> second line"),
        ("a", "2"): (3, ""),
    }


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["<srcset>", "<seg id=1>a", "<seg id=2>b</seg>"], "rows:2: the segment that begins here has no </seg>"),
        (["<srcset>", "<seg id=1>a"], "rows:2: the segment that begins here has no </seg>"),
        (["<srcset>", "<seg id=1>", *["x" * 500] * 9], "rows:2: the segment that begins here has no </seg>"),
        (
            ["<srcset>", "<seg id=1>a</seg>", "<seg id=1>b</seg>"],
            "rows:3: the document '' has two segments with the id '1'",
        ),
        (["<srcset>"], "rows: holds no segment"),
    ],
)
def test_segments_that_are_refused(lines, message, monkeypatch):
    monkeypatch.setattr(markup, "LONGEST_UNIT", 2000)
    with pytest.raises(DataError, match=message):
        segments_of(lines, "rows")


def segments(path, kind, texts, language="any"):
    rows = "".join(f'<seg id="{i}">{text}</seg>\n' for i, text in enumerate(texts))
    path.write_text(f'<{kind}set srclang="{language}" trglang="{language}"><doc docid="d">\n{rows}</doc></{kind}set>')
    return str(path)


def test_sides_of_segments(tmp_path):
    one = segments(tmp_path / "a-src.sgm", "src", ["a", "b"])
    two = segments(tmp_path / "a-ref.sgm", "ref", ["c", "d"])
    found = find_data([two, one], TRANSLATION, {})
    assert found.keys["train"] == [one, two] and found.keys["roles"] == {"source": "source", "target": "target"}
    turned = find_data([one, two], TRANSLATION, {"roles": {"source": "target"}})
    assert turned.keys["roles"] == {"source": "target", "target": "source"}
    text = find_data([one], Needs("lm", ("text",)), {})
    assert text.keys["roles"] == {"text": "source"} and text.keys["train"] == [one]
    with pytest.raises(
        DataError, match=r"is SGML of WMT, of which task=lm needs 1 for each split, got 2; fix: data=\S+src.sgm"
    ):
        find_data([one, two], Needs("lm", ("text",)), {})
    with pytest.raises(DataError, match="is SGML of WMT, which has no label for task=classification"):
        find_data([one], Needs("classification", ("text", "label")), {})
    segments(tmp_path / "a-ref.sgm", "ref", ["c", "d"], "fr")
    segments(tmp_path / "a-src.sgm", "src", ["c", "d"], "fr")
    with pytest.raises(DataError, match=r"has the same language as .*a-src.sgm: fr"):
        find_data([one, two], TRANSLATION, {})
    segments(tmp_path / "a-ref.sgm", "ref", [], "de")
    with pytest.raises(DataError, match="holds no segment"):
        find_data([one, two], TRANSLATION, {})
    (tmp_path / "a-ref.sgm").write_text('<refset trglang="de"><doc docid="e"><seg id="1">x</seg></doc></refset>')
    with pytest.raises(DataError, match="has no segment with the document and the id of one in"):
        find_data([one, two], TRANSLATION, {})
    (tmp_path / "a-src.txt").write_text("<srcset><seg id=1>a</seg></srcset>")
    with pytest.raises(DataError, match=r"is SGML of WMT, which is read from files that end in .sgm; fix: mv "):
        find_data([str(tmp_path / "a-src.txt")], Needs("lm", ("text",)), {})


def test_splits_of_translation_memories(tmp_path):
    for split in ("train", "dev", "test"):
        (tmp_path / f"{split}.tmx").write_text(TMX.format(UNIT.format(f"{split} a", f"{split} b") * 2))
    found = find_data([str(tmp_path)], TRANSLATION, {})
    assert found.keys["format"] == "tmx" and found.keys["roles"] == {"source": "en", "target": "de"}
    config = DataConfig(**{key: value for key, value in found.keys.items() if key != "splits"})
    assert read_split(config, "val", ["de", "en"]).columns == {"de": ["dev b"] * 2, "en": ["dev a"] * 2}
    with pytest.raises(DataError, match="no column 'fr'; there are en, de"):
        read_split(config, "val", ["fr"])
    (tmp_path / "dev.tmx").write_text(
        TMX.format(UNIT.format("a", "b") + '<tu><tuv xml:lang="en"><seg>c</seg></tuv></tu>')
    )
    assert read_split(config, "val", ["de", "en"]).notes == [f"{tmp_path}/dev.tmx: left out 1 units without de"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\ta\n", "rows:1: has 2 columns, expected 10"),
        ("x" + "\ta" * 9, "rows:1: has 10 columns, expected 10, of which"),
    ],
)
def test_sentences_that_are_refused(text, message):
    with pytest.raises(DataError, match=message):
        list(sentences_in(text.split("\n"), "rows"))


def test_a_text_in_another_encoding(tmp_path, monkeypatch):
    path = tmp_path / "a.conllu"
    path.write_bytes("# text = süß\n1\tsüß".encode("cp1252") + b"\t_" * 8 + b"\n\n")
    with pytest.raises(DataError, match=r"a.conllu:1: byte 0xFC does not fit data.encoding=utf-8"):
        look(path, "a.conllu", {})
    assert look(path, "a.conllu", {"encoding": "cp1252"}).column("text") == ["süß"]
    monkeypatch.setattr(opening, "LONGEST_LINE", 1000)
    path.write_bytes(b"x" * 5000)
    with pytest.raises(DataError, match="has a line of more than 1,000 characters"):
        look(path, "a.conllu", {})


def test_all_findings_of_a_file_and_of_all_splits_are_said_at_once(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [f"text {i},l{i % 2}" for i in range(400)]
    ragged = [f"{row},x" if i in (20, 40) else row for i, row in enumerate(rows)]
    (tmp_path / "train.csv").write_text("text,label\n" + "\n".join(ragged))
    others = [f"{row},x" if i % 30 == 5 else row for i, row in enumerate(rows)]
    (tmp_path / "val.csv").write_text("text,label\n" + "\n".join(others))
    assert cli.main(["train", "task=classification", "data=train.csv", "data.val=val.csv"]) == 2
    first, *others = capsys.readouterr().err.splitlines()
    assert first == "error[data] train.csv:22: has 3 columns, expected 2; fix: fix the line, or data.on_bad_line=skip"
    assert others[:2] == ["train.csv:42: has 3 columns, expected 2", "val.csv:7: has 3 columns, expected 2"]
    assert len(others) == 10 and others[-1] == "and 6 more"


def test_all_bad_lines_of_json_are_said_at_once(tmp_path):
    lines = [json.dumps({"text": f"t{i}", "label": f"l{i % 2}"}) for i in range(60)]
    lines[30], lines[40] = '{"text": 5', '{"text" 5}'
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"rows:31:11: is not JSON \(Expecting ',' delimiter\)") as refused:
        look(path, "rows", {})
    assert refused.value.others == ["rows:41:9: is not JSON (Expecting ':' delimiter)"]
    assert look(path, "rows", {"on_bad_line": "skip"}).count == 60
