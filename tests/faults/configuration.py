"""Section D: words and files of configuration that are wrong, absurd or hostile."""

from __future__ import annotations

import functools
import os
import random
import string
from pathlib import Path

from faults.harness import Section, raised
from multihead.config.compose import compose, compose_from_run, conf_dir, load_yaml, to_yaml
from multihead.config.keys import find, leaf_keys, unknown_key
from multihead.config.merge import Layer, merge
from multihead.config.task import TASKS
from multihead.errors import CheckpointError, ConfigError, MultiheadError

ROWS = Section("D")


@ROWS.row(
    "35",
    "a key with one letter wrong: every key of the schema, and the real command",
    "status 2 with the right key in at least 95 % of cases, in under 5 s of processor time, no directory",
    'patch("multihead.config.keys.nearest_key", lambda name, keys: next(iter(keys)))',
    slow=True,
)
def misspelt(bench):
    done = bench.run("task=lm", "optim.lrr=3", f"run_dir={bench.folder / 'run'}")
    done.expect(2, "error[config] optim.lrr: no such key; did you mean optim.lr?")
    assert not (bench.folder / "run").exists()
    keys, rng, right, wrong = leaf_keys(TASKS.values()), random.Random(0), 0, []
    for name in keys:
        place = rng.randrange(name.rfind(".") + 1, len(name))
        letter = rng.choice(string.ascii_lowercase)
        typed = name[:place] + letter + name[place + rng.choice((0, 1)) :]
        if find(typed, keys):
            continue
        told = str(unknown_key(typed, keys))
        right += f"did you mean {name}?" in told
        wrong += [] if f"did you mean {name}?" in told else [told]
    assert right >= 0.95 * (right + len(wrong)), wrong
    return f"{right} of {right + len(wrong)} right"


@functools.cache
def layers_of(task: str):
    """The files' values for a task, which a word is laid over."""
    from multihead.config.files import Files, register_schema

    register_schema()
    return Files([], None, None).layers([f"task={task}"])


ABSURD = {"text": "abc", "negative": -7, "nought": 0, "nan": float("nan"), "infinite": float("inf"), "huge": 10**40}


@ROWS.row(
    "36",
    "a wrong type or an impossible number, for every key",
    "refused with the key, or a value of the key's own type; never a number that is not one; never a traceback",
    'patch("multihead.config.training.OptimConfig.__post_init__", lambda self: None)',
)
def impossible_values(bench):
    task_class, layers = layers_of("translation")
    refused = 0
    for number, (name, key) in enumerate(leaf_keys([task_class]).items()):
        for value in [list(ABSURD.values())[number % 6], ABSURD["nan"]]:
            try:
                composed = merge(task_class, None, layers, [Layer("word", {name: value})], [])
            except ConfigError as error:
                refused += 1
                assert name.split(".")[0] in str(error) or "model" in str(error), (name, value, str(error))
                continue
            node = composed.config
            for part in name.split("."):
                node = getattr(node, part)
            assert key.type is not float or node == node, f"{name}={node} was taken"
            assert key.type not in (int, float, str, bool) or type(node) is key.type, (name, node)
    done = bench.main("train", "task=translation", "optim.lr=abc")
    done.expect(2, "optim.lr", "must be a number", "'abc'")
    bench.main("train", "task=translation", "model.num_heads=7", "model.d_model=512").expect(2, "num_heads", "7")
    assert refused > 100
    return f"{refused} refused"


@ROWS.row(
    "37",
    "a task, data set, experiment or verb that there is not",
    "what there is, and the nearest; status 2",
    'patch("multihead.config.files.nearest_name", lambda name, names: "")',
)
def unknown_choice(bench):
    told = bench.main("train", "task=tranlation").expect(2, "no such task", "lm", "fix: task=translation")
    bench.main("train", "task=lm", "data=wikitxt2").expect(2, "no such data", "data=wikitext2")
    bench.main("train", "task=lm", "experiment=nothing").expect(2, "no such experiment")
    bench.main("trian", "task=lm").expect(2, "not a command", "train")
    return told


@ROWS.row(
    "38",
    "no task, no file, a file that is a folder, a folder with a file of nearly this name",
    "the key, the whole path, what is there; status 2 and no directory",
    'patch("multihead.data.lines.find", lambda config, name: __import__("pathlib").Path(name))',
)
def missing(bench):
    bench.main("train").expect(2, "error[config] task: must be chosen")
    bench.file("train.tsv", "a\tb\n")
    words = ["train", "task=translation", "data=files", f"run_dir={bench.folder / 'run'}"]
    told = bench.main(*words, f"data.train={bench.folder / 'tran.tsv'}").expect(2, "no such file", "train.tsv is there")
    bench.main(*words, f"data.train={bench.folder}").expect(2, "is a folder")
    bench.main(*words, "data.train=null").expect(2, "data.train")
    assert not (bench.folder / "run").exists()
    return told


MUST = {
    "model.d_model=64": "model.d_model: 32 -> 64",
    "model.num_decoder_layers=2": "model.num_decoder_layers",
    "data.batch_tokens=256": "data.batch_tokens: 512 -> 256",
    "seed=2": "seed: 1 -> 2",
    "tokenizer.vocab_size=400": "tokenizer.vocab_size",
    "optim.freeze=[*norm*]": "optim.freeze: [] -> ['*norm*']",
    "data.grammar.seed=5": "data.grammar.seed",
}
MAY = {"optim.lr=5e-4": "-> 0.0005", "trainer.keep_checkpoints=1": "trainer.keep_checkpoints: 2 -> 1"}


@ROWS.row(
    "39",
    "resumed with another configuration: what may not change, what may",
    "all differences in one line, status 3, the run untouched; a learning rate is taken and listed",
    'patch("multihead.config.changes.MAY_CHANGE", ("*",))\npatch("multihead.config.changes.MUST_STAY", ())',
)
def changed_configuration(bench):
    run = bench.unfinished("lm")
    before = (run / "config.yaml").read_bytes()
    told = bench.main("train", f"resume={run}", *MUST).expect(3, *MUST.values(), "resume_force=[")
    assert (run / "config.yaml").read_bytes() == before and not (run / "result.json").exists()
    done = bench.main("train", f"resume={run}", *MAY)
    assert done.status == 0, done.err
    log = (run / "train.log").read_text()
    for shown in MAY.values():
        assert shown in log
    return told


CODE_WORDS = [
    "+model._target_=os.system", "++_target_=os.system", "model._target_=os.system", "task._target_=builtins.exec",
    "+data={_target_: os.system}", "data.roles={_target_: os.system}", "data.columns=[{_target_: os.system}]",
    "+plugin_module=os", "hydra.launcher._target_=os.system", "hydra/launcher=../../evil",
    "+data.roles._target_=logging.os.system", "model.norm=${oc.env:HOME}", "data.root=${oc.env:HOME}",
    "+x=${eval:1}", "hydra.job_logging.handlers.x.class=os.system", "hydra.run.dir=${oc.env:HOME}",
    "data@model=wikitext2", "experiment=/etc/passwd", "data.label_pattern='(?{1})'",
    "data.url={x: 'file:///etc/passwd', _args_: [1]}", "init_tokenizer=__import__",
]  # fmt: skip


@ROWS.row(
    "40",
    "words that name code or interpolate: _target_ and friends, at the top, nested, in a list, in Hydra's own node",
    "refused with the key, status 2; nothing ran and nothing of the environment was shown",
    'patch("multihead.config.compose.names_code", lambda name: False)\n'
    'patch("multihead.config.compose.contains", lambda value, test, keys_only=False: False)',
)
def code_in_words(bench):
    for word in CODE_WORDS[:8]:
        told = raised(ConfigError, lambda word=word: compose(["task=lm", word]))
        assert "not allowed" in told or "no such key" in told, (word, told)
    raised(ConfigError, lambda: compose(["task=lm", "data.roles={_target_: os.system}"]), "names no code")
    home = os.environ.get("HOME", "")
    for word in CODE_WORDS:
        done = bench.main("train", "task=lm", word)
        done.expect(2)
        assert not home.strip("/") or home not in done.err, (word, done.err)
    return f"{len(CODE_WORDS)} canaries"


FILES = {
    "top": "_target_: os.system",
    "nested": "model: {_target_: os.system}",
    "list": "data: {columns: [{_target_: os.system, _args_: [x]}]}",
    "interpolation": "model: {norm: '${oc.env:HOME}'}",
    "resolver": "data: {root: '${oc.decode:1}'}",
    "key": "data: {roles: {'${oc.env:HOME}': x}}",
    "plugin": "plugin: evil.py",
    "hydra": "hydra: {launcher: {_target_: os.system}}",
    "tag": "model: !!python/object/apply:os.system [touch canary]",
    "name": "model: !!python/name:os.system x",
    "module": "seed: !!python/module:os x",
    "defaults": "defaults: [/hydra/launcher: ../../evil]",
    "package": "# @package hydra.launcher\n_target_: os.system",
    "partial": "optim: {_partial_: true}",
    "convert": "task: {_convert_: all}",
}


@ROWS.row(
    "40b",
    "files of a configuration folder that name code, interpolate, tag objects or configure Hydra",
    "refused with file and key, status 2; nothing ran",
    "import multihead.config.files as files\nchecked = files.file_layer\n"
    'patch("multihead.config.files.file_layer", lambda source, tree, error=None: '
    'files.Layer(source, {}) if "experiment" in source else checked(source, tree))',
)
def code_in_files(bench):
    for name, content in FILES.items():
        bench.file(
            f"conf/experiment/{name}.yaml", content if content.startswith("#") else f"# @package _global_\n{content}"
        )
        done = bench.main(
            "train", "--config-dir", str(bench.folder / "conf"), "task=lm", "debug=smoke", f"experiment={name}"
        )
        told = done.expect(2)
        assert os.environ.get("HOME", "-") not in done.err.replace(str(bench.folder), ""), done.err
    assert not Path("canary").exists()
    return told


def deep(levels: int) -> str:
    return "model: " + "{a: " * levels + "1" + "}" * levels


ALIASED = (f"{b}: &{b} [{','.join(f'*{a}' for _ in range(9))}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
ANCHORS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(ALIASED)
STRANGE = {
    "twice": "seed: 1\nseed: 2",
    "anchors": ANCHORS,
    "itself": "model: &m {a: *m}",
    "merge": "a: &a {x: 1}\nb: {<<: *a}",
    "twice below": "model: {d_model: 1, d_model: 2}",
    "deep": deep(5000),
    "deep flow": "model: " + "[" * 30,
    "large": "x: " + "y" * 1_100_000,
    "not a mapping": "5",
    "number keys": "1: 2",
    "not text": "\udcff",
    "control": "a: \x01",
    "documents": "a: 1\n---\nb: 2",
    "null": "",
    "list key": "? [a, b]\n: 1",
    "dict key": "? {a: b}\n: 1",
}  # fmt: skip


@ROWS.row(
    "40c",
    "YAML bombs: anchors, nesting, a key twice, too large, several documents",
    "refused in under a second, without the memory",
    'import yaml\npatch("multihead.config.yaml_file._StrictLoader", yaml.SafeLoader)\n'
    'patch("multihead.config.yaml_file.MAX_YAML_BYTES", 1 << 40)',
)
def strange_yaml(bench):
    import time

    for name, content in STRANGE.items():
        path = bench.file("config.yaml", content.encode("utf-8", "surrogateescape"))
        began = time.process_time()
        told = raised(CheckpointError, lambda path=path: load_yaml(path), "config.yaml")
        assert time.process_time() - began < 1, name
        assert len(told) < 500, name
    return told


@ROWS.row(
    "41",
    "_target_, _instantiator and ${oc.env:HOME} in a run's own config.yaml",
    "refused as a checkpoint, status 3, by resume, predict and evaluate; nothing of the environment shown",
    'patch("multihead.config.compose.file_layer", lambda source, tree, error=None: '
    '__import__("multihead.config.merge", fromlist=["Layer"]).Layer(source, {'
    'k: v for k, v in __import__("multihead.tables.records", fromlist=["flatten"]).flatten(tree).items() '
    'if "_" not in k.split(".")[-1][:1] and "$" not in str(v)}))',
)
def code_in_a_run(bench):
    run = bench.finished("lm")
    tree = load_yaml(run / "config.yaml")
    told = ""
    for change in (
        {"_target_": "os.system"}, {"model": tree["model"] | {"_target_": "os.system"}}, {"_instantiator": "os.system"},
        {"data": tree["data"] | {"root": "${oc.env:HOME}"}}, {"data": tree["data"] | {"columns": ["${oc.env:HOME}"]}},
        {"model": tree["model"] | {"norm": "???"}}, {"hydra": {"run": {"dir": "x"}}}, {"task": {"name": "../x"}},
        {"task": []}, {"model": 7}, {"model": tree["model"] | {"d_model": "wide"}},
        {"optim": tree["optim"] | {"lr": -1}},
        {"seed": 10**400}, {"seed": [1]}, {"data": tree["data"] | {"roles": ["text"]}},
    ):  # fmt: skip
        (run / "config.yaml").write_text(to_yaml(tree | change))
        for verb, word in (("train", "resume"), ("evaluate", "run"), ("predict", "run")):
            done = bench.main(verb, f"{word}={run}")
            told = done.expect(3)
            assert os.environ.get("HOME", "-") not in (done.err + done.out).replace(str(run), ""), done.err
    return told


@ROWS.row(
    "42",
    "paths in names: data.name=../x, a run_dir with a newline, a NUL, 300 characters, of another run",
    "status 2 or 5 in one line; nothing made elsewhere",
    'import re\npatch("multihead.config.data.re", type("Re", (), '
    '{"fullmatch": lambda *rest: True, "compile": re.compile, "error": re.error}))',
)
def path_tricks(bench):
    words = ["train", "task=lm", "debug=smoke"]
    for name in ("../../x", "a/b", "/etc", "x\ny", "a" * 101, "..", "con\x00"):
        raised(ConfigError, lambda name=name: compose(["task=lm", f"data.name={name!r}"]), "")
    tree = compose(["task=lm"]).tree
    told = raised(
        CheckpointError, lambda: compose_from_run(tree | {"data": tree["data"] | {"name": "../../x"}}, []), "data.name"
    )
    for where in ("x" * 300, "ä" * 200, "a\x00b", "two\nlines", "a\x1b[2J"):
        bench.main(*words, f"run_dir='{bench.folder}/{where}'").expect(2, "run_dir")
    bench.file("taken/thesis.tex", "x")
    bench.main(*words, f"run_dir={bench.folder / 'taken'}").expect(2, "exists already")
    bench.main(*words, f"run_dir={bench.folder / 'taken' / 'thesis.tex'}").expect(2, "exists already")
    bench.main(*words, f"run_dir={bench.folder / 'taken' / 'thesis.tex' / 'below'}").expect(5)
    return told


@ROWS.row(
    "42b",
    "a configuration folder that is missing, empty, or hides one of ours",
    "status 2; a file of the same name cannot replace ours unseen",
    'patch("multihead.config.files.Files.check_choice", lambda files, group, option: None)',
)
def config_folder(bench):
    bench.main("train", "--config-dir", str(bench.folder / "none"), "task=lm").expect(2, "none")
    empty = bench.folder / "empty"
    empty.mkdir()
    bench.main("train", "--config-dir", str(empty), "task=lm", "experiment=mine").expect(2, "no such experiment")
    assert (conf_dir() / "train.yaml").is_file()
    bench.file("conf/experiment/bad.yaml", b"# @package _global_\nseed: \xff\n")
    told = bench.main("train", "--config-dir", str(bench.folder / "conf"), "task=lm", "experiment=bad").expect(2)
    bench.file("conf/experiment/broken.yaml", "# @package _global_\nseed: [1\n")
    bench.main("train", "--config-dir", str(bench.folder / "conf"), "task=lm", "experiment=broken").expect(2)
    raised(MultiheadError, lambda: compose(["task=lm", "experiment=bad"], config_dir=str(bench.folder / "conf")))
    return told
