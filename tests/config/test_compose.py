"""Composition: every option of every group, Hydra's own result, precedence, provenance, and all that is refused."""

import dataclasses
import itertools
import os
import re
import shlex
import shutil

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from multihead.config.compose import compose, compose_from_run, load_yaml, to_yaml, tree_of
from multihead.config.folder import conf_dir
from multihead.config.keys import GROUPS, find, leaf_keys
from multihead.config.merge import Layer, merge
from multihead.config.multirun import compose_sweep
from multihead.config.task import TranslationConfig
from multihead.config.training import Config
from multihead.errors import CheckpointError, ConfigError
from multihead.tables.records import flatten


def options(group: str) -> list[str]:
    return sorted(file.stem for file in (conf_dir() / group).glob("*.yaml"))


def product(*groups: str) -> list[str]:
    """Words of a sweep over every option of the groups."""
    return [f"{group}={','.join(options(group))}" for group in groups]


def test_there_are_options_in_every_group():
    assert {folder.name for folder in conf_dir().iterdir() if folder.is_dir()} == set(GROUPS)
    assert all(options(group) for group in GROUPS if group != "experiment")


@pytest.mark.unhurried
@pytest.mark.parametrize("task", options("task"))
def test_every_task_and_data_set_compose_or_lack_a_role(task):
    composed = []
    for data in options("data"):
        try:
            composed.append(compose([f"task={task}", f"data={data}"]).config.data.name)
        except ConfigError as refused:
            assert re.search(rf"data={data}.* has no (source|target|text|label)", str(refused))
    assert "grammar" in composed and (task == "multitask" or len(composed) > 1)


@pytest.mark.unhurried
@pytest.mark.parametrize(
    "groups",
    [("model", "optim"), ("hardware", "debug"), pytest.param(("optim", "hardware", "debug"), marks=pytest.mark.slow)],
)
def test_every_combination_composes(groups):
    words = ["task=translation", *product(*groups)]
    count = len(list(itertools.product(*(options(group) for group in groups))))
    trials = compose_sweep(words, limit=None)
    assert len(trials) == count
    assert all(isinstance(trial.config, Config) for trial in trials)


@pytest.mark.unhurried
@pytest.mark.parametrize("task", [name for name in options("task") if name != "translation"])
def test_every_task_composes_with_every_option(task):
    """Each option at least once: a task sets no key of another group, so that the pairs are those of translation."""
    groups = ("model", "optim", "hardware", "debug")
    for chosen in zip(*(itertools.islice(itertools.cycle(options(group)), 8) for group in groups), strict=True):
        words = [f"{group}={option}" for group, option in zip(groups, chosen, strict=True)]
        assert compose([f"task={task}", *words]).config.task.name == task
    assert all(len(options(group)) <= 8 for group in groups)


@pytest.mark.slow
def test_every_combination_of_all_groups_composes():
    trials = compose_sweep(["task=translation", *product("model", "optim", "hardware", "debug")], limit=None)
    assert len(trials) >= 4 * 2 * 5 * 2


@pytest.mark.unhurried
def test_every_experiment_composes_with_hardware():
    for experiment, hardware in zip(options("experiment"), itertools.cycle(options("hardware")), strict=False):
        assert compose([f"experiment={experiment}", f"hardware={hardware}"]).config.task.members()


HYDRA = [
    ["task=translation"],
    ["task=translation", "model=big", "data=multi30k", "optim=muon", "hardware=ddp", "debug=overfit"],
    ["task=translation", "data=files", "data.format=parallel", "data.train=[a.en,a.de]", "data.roles={source: target}"],
    ["task=translation", "data.roles.text=english", "++data.splits.val=0.5", "optim.betas=[0.8,0.9]"],
    ["task=translation", "data=tatoeba", "~data.splits.val", "trainer={max_steps: 3, ema_decay: 0.5}"],
    ["task=translation", "hydra/launcher=basic", "devices='0,1'", "model.dropout=0", "compile=on"],
]


NEW_ENTRIES = {"data.roles.text=english": "++data.roles.text=english"}
"""How Hydra wants an entry of a mapping that is not there yet."""


@pytest.mark.parametrize("words", [*HYDRA, *([f"experiment={name}"] for name in options("experiment"))])
@pytest.mark.unhurried
def test_agrees_with_hydra(words):
    """`compose` merges by itself, to know where values come from: Hydra's own result is the same."""
    ours = compose(words).tree
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        theirs = OmegaConf.to_container(
            hydra_compose("train", overrides=[NEW_ENTRIES.get(word, word) for word in words])
        )
    assert flatten(ours) == flatten(theirs)


def test_objects_are_ours():
    config = compose(["task=translation"]).config
    assert type(config.task) is TranslationConfig
    assert all(not OmegaConf.is_config(getattr(config, field.name)) for field in dataclasses.fields(config)), (
        "no OmegaConf object leaves this module"
    )
    assert type(config.optim.betas) is list


def test_precedence(tmp_path):
    """The command line wins over debug, that over experiment, that over task, that over train.yaml."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /data: multi30k\n  - override /task: translation\n"
        "seed: 5\nlogger: wandb\nmodel:\n  d_model: 64\n"
    )
    here = {"config_dir": str(tmp_path)}
    mine = compose(["experiment=mine"], **here)
    assert (mine.config.data.name, mine.config.seed, mine.config.model.d_model) == ("multi30k", 5, 64)
    assert compose(["experiment=mine", "data=grammar"], **here).config.data.name == "grammar"
    assert compose(["experiment=mine", "debug=smoke"], **here).config.logger == "none"
    last = compose(["experiment=mine", "debug=smoke", "logger=tensorboard", "seed=6", "seed=7"], **here)
    assert (last.config.logger, last.config.seed) == ("tensorboard", 7)
    chain = last.provenance["logger"]
    assert [source for source, _ in chain] == [
        "default of Config",
        f"{tmp_path}/experiment/mine.yaml",
        "conf/debug/smoke.yaml",
        "logger=tensorboard",
    ]
    assert [value for _, value in chain] == ["auto", "wandb", "none", "tensorboard"]


def test_provenance_ends_in_the_value():
    composition = compose(["task=translation", "data=multi30k", "debug=smoke", "data.roles.source=de", "seed=3"])
    leaves = flatten(composition.tree)
    for name, chain in composition.provenance.items():
        assert chain[-1][1] == leaves[name], name
    assert composition.words == ["task=translation", "data=multi30k", "debug=smoke", "data.roles.source=de", "seed=3"]


def test_roles_swap_on_the_command_line():
    swapped = compose(["task=translation", "data=multi30k", "data.roles={source: de, target: en}"]).config.data
    assert swapped.roles == {"source": "de", "target": "en"}
    assert compose(["task=translation", "data=files", "data.train=my.tsv.gz"]).config.data.train == "my.tsv.gz"


REFUSED = [
    ("tsk=translation", r"tsk: no such key; did you mean task\?"),
    ("+tsk=translation", r"tsk: no such key; did you mean task\?"),
    ("++tsk=translation", r"tsk: no such key; did you mean task\?"),
    ("task=translation +tsk.x=1", r"tsk\.x: no such key"),
    ("task=translation model.d_modle=64", r"model\.d_modle: no such key; did you mean model\.d_model\?"),
    ("task=translation ++optim.lrr=1", r"optim\.lrr: no such key; did you mean optim\.lr\?"),
    ("task=translation lr=1", r"lr: no such key; did you mean optim\.lr\?"),
    ("task=translation trainer={max_stepz:3}", r"trainer\.max_stepz: no such key; did you mean trainer\.max_steps\?"),
    ("task=translation optim.betas.0=1", r"optim\.betas\.0: no such key; did you mean optim\.betas\?"),
    ("task=translation optim.lr=fast", r"optim\.lr: must be a number, got 'fast'"),
    ("task=translation optim.lr=", r"optim\.lr: must be a number, got ''"),
    ("task=translation optim.lr=null", r"optim\.lr: must be a number, got None"),
    ("task=translation model.d_model=3.5", r"model\.d_model: must be a whole number, got 3\.5"),
    ("task=translation compile=maybe", r"compile: must be true or false, got 'maybe'"),
    ("task=translation optim.betas=0.9", r"optim\.betas: must be a list of numbers, got 0\.9"),
    ("task=translation optim.betas=[a,b]", r"optim\.betas: must be a list of numbers, got \['a', 'b'\]"),
    ("task=translation data.splits.val=x", r"data\.splits\.val: must be a mapping to numbers, got 'x'"),
    ("task=translation data.roles=de", r"data\.roles: must be a mapping of texts, got 'de'"),
    (
        "task=translation devices=[0,1]",
        r"devices: must be text, got a list: \[0,1\]; fix: write it as one text: 'devices=\"0,1\"'",
    ),
    ("task=translation model.d_model=???", r"model\.d_model: a value is missing"),
    ("task=translation model.d_model=100 model.num_heads=3", r"must be a divisor of model\.d_model=100, got 3"),
    ("task=translation precision=bf17", r"precision: must be one of auto, 32-true, bf16-mixed.* got 'bf17'"),
    ("task=nope", r"task=nope: no such task; there are .*translation"),
    ("task=tranlation", r"task=tranlation: no such task; .*fix: task=translation"),
    ("task=translation model=tinny", r"no such model; there are base, big, small, tiny, tiny_swiglu; fix: model=tiny"),
    ("task=translation data=multi30", r"no such data; there are .*; fix: data=multi30k"),
    ("task=translation experiment=nope", r"experiment=nope: no such experiment"),
    ("task=translation model={d_model:3}", r"model: must name one of conf/model/"),
    ("task=translation model=null", r"model: must name one of conf/model/, got null; fix: model="),
    ("task=translation +model=big", r"model: '\+model=big': this group always needs a choice; fix: model=big"),
    ("task=translation ~model", r"this group always needs a choice"),
    ("task=translation model@decoder=tiny", r"model@decoder: a choice cannot be moved"),
    ("task=translation schema=config", r"schema: no such key"),
    ("task=translation task.name=lm", r"task\.name: cannot be set: the choice of the task sets it; fix: task=NAME"),
    ("task=translation task=translation trainer=3", r"trainer: a node, not a value; fix: set one of its keys"),
    ("task=translation ~seed", r"seed: cannot be removed: only an entry of a mapping can"),
    ("task=translation data=multi30k ~data.roles.label", r"roles\.label: there is nothing to remove; fix: data"),
    ("task=translation options.x.y=1", r"options\.x\.y: no such options; no plugin adds any"),
    ("task=translation model.attention=linear", r"model\.attention: must be one of multi_head, got 'linear'"),
    ("task=translation model.feed_forward=moe", r"model\.feed_forward: must be one of dense, got 'moe'"),
    ("+data._target_=os.system", r"data\._target_: not allowed: configuration is data and names no code"),
    ("task=translation data={_target_:os.system}", r"data: not allowed: configuration is data"),
    ("task=translation data.roles={_partial_:x}", r"data\.roles: not allowed"),
    (
        "task=translation data.train=[{_target_:os.system}]",
        r"data\.train: not allowed: configuration is data",
    ),
    ("task=translation ++model._args_=[1]", r"model\._args_: not allowed"),
    ("task=translation +hydra.callbacks.x._target_=os.system", r"hydra\.callbacks\.x\._target_: cannot be set"),
    ("task=translation hydra.launcher._target_=os.system", r"hydra\.launcher\._target_: cannot be set"),
    ("task=translation hydra.run.dir=elsewhere", r"hydra\.run\.dir: cannot be set"),
    ("task=translation seed=${oc.env:HOME}", r"seed: interpolation is not allowed"),
    ("task=translation run_dir=x/${now:%Y}", r"run_dir: interpolation is not allowed"),
    (
        "task=translation seed=1,2",
        r"seed: several values \(1,2\) need -m, one run for each; fix: add -m, which train has$",
    ),
    ("task=translation seed=range(3)", r"seed: several values"),
    ("translation", r"translation: not of the form key=value; fix: task=translation"),
    ("task=translation wat", r"wat: not of the form key=value"),
    ("task=translation optim.betas=a(b", r"optim\.betas: must be a list of numbers, got 'a\(b'"),
    (
        "task=translation run_dir=a,b",
        r"run_dir: several values \(a,b\) need -m, .*; fix: .* 'run_dir=\"a,b\"'",
    ),
    ("task=translation run_dir=choice(a)", r"run_dir: several values"),
    ("task=translation run_dir=str(1)", r"run_dir: must be text, got a function of .*; fix: .* 'run_dir=\"str\(1\)\"'"),
    ("task=translation ~debug=smoke", r"debug: '~debug=smoke': to remove a key, type it without a value; fix: ~debug"),
    ("task=translation data.root=${HOME}/x", r"data\.root: interpolation is not allowed: .*; fix: data\.root=\$HOME/x"),
    ("task=translation data.root=$NO_SUCH_VARIABLE", r"names the variable NO_SUCH_VARIABLE, .*; fix: .data\.root="),
    ("", r"task: must be chosen: .*translation; fix: task="),
    ("seed=3", r"task: must be chosen"),
    ("task=translation resume=nowhere", r"resume: nowhere is not the directory of a run: there is no such directory"),
    ("task=translation plugin=nowhere.py", r"plugin: no such file: nowhere\.py"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED)
def test_refused(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message) as caught:
        compose(words.split())
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.unhurried
@pytest.mark.parametrize("value", ["text", -1, 0, float("nan"), float("inf"), 10**30, [], {"a": 1}, None])
def test_any_value_of_any_key_is_taken_or_refused_by_name(value):
    """Every leaf with an absurd value: accepted, or a `ConfigError` that names the key or its node; nothing else.

    Of the keys whose type is wrong for the value, one of each type is tried.
    """
    keys = leaf_keys([TranslationConfig])
    refusing = set()
    for name, key in keys.items():
        leaves = flatten({name: value})
        if key.type in refusing or any(find(leaf, keys) is None for leaf in leaves):
            continue  # refused as an unknown key before any value is looked at
        try:
            merge(TranslationConfig, None, [Layer("typed", leaves)], [], [])
        except ConfigError as refused:
            assert name.split(".")[0] in str(refused)
            if f": must be {key.requirement}, got " in str(refused):
                refusing.add(key.type)


FILES = [
    ("model/x.yaml", "d_modle: 3\n", r"model/x\.yaml: model\.d_modle: no such key; did you mean model\.d_model\?"),
    ("model/x.yaml", "d_model: wide\n", r"model/x\.yaml: model\.d_model: must be a whole number, got 'wide'"),
    ("model/x.yaml", "_target_: os.system\n", r"model/x\.yaml: model\._target_: not allowed: configuration is data"),
    ("model/x.yaml", "d_model: ${oc.env:HOME}\n", r"model/x\.yaml: model\.d_model: interpolation is not allowed"),
    (
        "model/x.yaml",
        "# @package _global_\nhydra:\n  verbose: true\n",
        r"hydra\.verbose: a file cannot configure Hydra",
    ),
    ("model/x.yaml", "# @package hydra.callbacks\nx: {y: 1}\n", r"model/x\.yaml: a file cannot configure Hydra"),
    ("model/x.yaml", "# @package _global_\noptions: {a: {b: 1}}\n", r"options\.a\.b: no such options"),
    ("model/x.yaml", "defaults: [/schema/config@encoder]\n", r"may stand at the node task only"),
    ("model/x.yaml", "defaults: [nope]\n", r"conf: .*nope"),
    ("model/x.yaml", "d_model: 3\nd_model: 4\n", r"conf: .*duplicate key d_model"),
    ("model/x.yaml", "d_model: [\n", r"conf: .*expected"),
    ("model/x.yaml", "- 1\n", r"must be a mapping"),
]


@pytest.mark.parametrize(("name", "text", "message"), FILES)
def test_refused_file(name, text, message, tmp_path):
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        compose(["task=translation", "model=x"], config_dir=str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_file_cannot_pose_as_hydra(tmp_path):
    """A folder of the user's own may not bring a launcher, which Hydra would instantiate."""
    (tmp_path / "hydra" / "launcher").mkdir(parents=True)
    (tmp_path / "hydra" / "launcher" / "mine.yaml").write_text("_target_: os.system\n")
    with pytest.raises(ConfigError, match="a file cannot configure Hydra"):
        compose(["task=translation", "hydra/launcher=mine"], config_dir=str(tmp_path))


@pytest.fixture
def own(tmp_path):
    """A folder of the user's own, with a model."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("d_model: 96\nnum_heads: 3\n")
    return tmp_path


def test_own_files_by_a_word(own, run_config):
    words = [f"config_dir={own}", "model=mine"]
    composed = compose(["task=translation", *words])
    assert composed.config.model.d_model == 96 and composed.config.config_dir == str(own)
    assert composed.provenance["model.d_model"][-1][0] == f"{own}/model/mine.yaml"
    assert composed.tree["config_dir"] == "", "a path of this command's means nothing to who reads the run"
    assert compose_from_run(run_config, words).config.model.d_model == 96
    with pytest.raises(ConfigError, match="model=mine: no such model"):
        compose(["task=translation", "model=mine"])
    trials = compose_sweep(["task=lm", words[0], "model=glob([mine,tiny])"])
    assert [trial.config.model.d_model for trial in trials] == [96, 128]


def test_a_file_that_hides_ours(own):
    """Which of two files of one name is meant is not clear: neither wins in silence."""
    (own / "model" / "small.yaml").write_text("d_model: 32\n")
    words = ["task=translation", f"config_dir={own}"]
    message = r"model=small: is ambiguous: a file of Multihead and .*/small\.yaml have the same name; fix: mv "
    with pytest.raises(ConfigError, match=message) as caught:
        compose([*words, "model=small"])
    command, _, word = caught.value.fix.partition(", then ")
    _, before, after = shlex.split(command)
    os.rename(before, after)
    assert compose([*words, word]).config.model.d_model == 32
    assert compose([*words, "model=small"]).config.model.d_model == 256
    shutil.copy(conf_dir() / "model" / "small.yaml", own / "model")
    assert compose([*words, "model=small"]).config.model.d_model == 256, "a copy hides nothing"
    (own / "train.yaml").write_text("seed: 3\n")
    with pytest.raises(ConfigError, match=r"train\.yaml: is not read: .* only its own train\.yaml; fix: rm "):
        compose(words)


def test_texts_of_a_file_stand_as_they_are_written(own, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    (own / "data").mkdir()
    (own / "data" / "mine.yaml").write_text(
        "root: 2024_11\ntrain: 1.10\nval: ~/x\ncolumns: [1e5, true, a]\nroles: {source: 1_0, target: a}\n"
        'separator: "\\t"\nlabels: {0: 1.0}\nbatch_tokens: 1_000\n'
    )
    data = compose(["task=translation", f"config_dir={own}", "data=mine"]).config.data
    assert (data.root, data.train, data.val, data.columns) == ("2024_11", "1.10", "/home/me/x", ["1e5", "true", "a"])
    assert (data.roles, data.separator, data.labels) == ({"source": "1_0", "target": "a"}, "\t", {"0": "1.0"})
    assert data.batch_tokens == 1000
    (own / "experiment").mkdir()
    (own / "experiment" / "x.yaml").write_text("# @package _global_\nconfig_dir: elsewhere\n")
    with pytest.raises(ConfigError, match="config_dir: only the command line names folders"):
        compose(["task=translation", f"config_dir={own}", "experiment=x"])


def test_config_dir_must_exist():
    with pytest.raises(ConfigError, match="config_dir: no such folder: nowhere"):
        compose(["task=translation"], config_dir="nowhere")


def test_sweep_is_checked_as_a_whole():
    trials = compose_sweep(["task=translation", "model=tiny,small", "seed=range(1,4)"])
    assert [(t.config.model.d_model, t.config.seed) for t in trials] == [(128, 1), (128, 2), (128, 3)] + [
        (256, 1),
        (256, 2),
        (256, 3),
    ]
    with pytest.raises(ConfigError, match="seed: must be in"):
        compose_sweep(["task=translation", "seed=1,2,-3"])
    with pytest.raises(ConfigError, match="plugin: cannot be swept over"):
        compose_sweep(["task=translation", "plugin=a.py,b.py"])
    assert len(compose_sweep(["task=translation", "seed=range(1000)"], limit=3)) == 3
    with pytest.raises(ConfigError, match=r"optim\.lr: interval\(1e-4,1e-2\) is a range to draw from"):
        compose_sweep(["task=translation", "optim.lr=interval(1e-4,1e-2)"])


# The configuration of a run


@pytest.fixture(scope="module")
def run_config():
    return compose(["task=translation", "data=multi30k", "model=small", "optim.lr=3e-4", "model.dropout=0.2"]).tree


def test_a_run_composes_to_itself(run_config, tmp_path):
    (tmp_path / "config.yaml").write_text(to_yaml(run_config))
    again = compose_from_run(load_yaml(tmp_path / "config.yaml"), [])
    assert again.tree == run_config
    assert (
        compose([f"resume={tmp_path}", "seed=3"]).config
        == compose_from_run(run_config, [f"resume={tmp_path}", "seed=3"]).config
    )


def test_words_over_a_run(run_config):
    changed = compose_from_run(run_config, ["model=tiny", "hardware=gpu", "optim.eps=1e-6", "seed=4"], run="outputs/x")
    before, after = flatten(run_config), flatten(changed.tree)
    assert {name for name in before if before[name] != after[name]} == {
        "model.d_model",
        "model.d_ff",
        "model.num_encoder_layers",
        "model.num_decoder_layers",
        "model.dropout",  # the whole node is replaced
        "accelerator",
        "precision",
        "optim.eps",
        "seed",
    }
    assert changed.provenance["precision"] == [
        ("default of Config", "32-true"),
        ("outputs/x/config.yaml", "32-true"),
        ("conf/hardware/gpu.yaml", "auto"),
    ]
    assert compose_from_run(run_config, ["debug=smoke"]).config.trainer.max_steps == 10


def test_a_chosen_data_set_replaces_the_node(run_config):
    assert (
        compose_from_run(run_config, ["data=tatoeba"]).config.data
        == compose(["task=translation", "data=tatoeba"]).config.data
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bogus": 1}, r"error\[checkpoint\] RUN/config\.yaml: bogus: no such key"),
        ({"model": {"d_modle": 1}}, r"RUN/config\.yaml: model\.d_modle: no such key; did you mean model\.d_model"),
        ({"model": {"d_model": "x"}}, r"RUN/config\.yaml: model\.d_model: must be a whole number, got 'x'"),
        ({"model": {"d_model": -1}}, r"model\.d_model: must be at least 1, got -1"),
        ({"model": {"_target_": "os.system"}}, r"model\._target_: not allowed"),
        ({"seed": "${oc.env:HOME}"}, r"RUN/config\.yaml: seed: interpolation is not allowed"),
        ({"task": {"name": "poetry"}}, r"its task 'poetry' is not one of lm, translation"),
        ({"task": None}, r"its task None is not one of lm, translation"),
        ({"task": ["a"]}, r"its task None is not one of lm, translation"),
        (
            {"plugin": "v.py", "plugin_sha256": "ab"},
            r"was trained with the plugin v\.py, .*fix: add plugin=RUN/plugin/v\.py",
        ),
    ],
)
def test_a_run_that_does_not_fit(run_config, change, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        compose_from_run({**run_config, **change}, [])
    assert caught.value.status == 3


def test_a_run_that_is_a_list():
    with pytest.raises(CheckpointError, match=r"RUN/config\.yaml: must be a mapping of keys to values"):
        compose_from_run(["task"], [])


def test_words_that_do_not_fit_a_run(run_config):
    with pytest.raises(ConfigError, match="seed: must be in"):
        compose_from_run(run_config, ["seed=-1"])
    with pytest.raises(ConfigError, match="experiment: chooses the settings of a new run"):
        compose_from_run(run_config, ["experiment=multi30k_en_de"])


def test_environment_never_enters(run_config, monkeypatch):
    monkeypatch.setenv("MULTIHEAD_SECRET", "s3cret")
    with pytest.raises(CheckpointError) as caught:
        compose_from_run({**run_config, "run_dir": "${oc.env:MULTIHEAD_SECRET}"}, [])
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "line 1: the key 'a' occurs twice"),
        ("a: &x [1]\nb: *x\n", "aliases are not allowed"),
        ("[" * 30 + "]" * 30, "deeper than 20 levels"),
        ("a: !!python/object/apply:os.system [true]\n", "not readable as YAML"),
        ("a: " + "x" * 1_000_001, "larger than 1000000 bytes"),
        ("1: 2\n", "must be a mapping of keys to values, or a list"),
        ("text", "must be a mapping of keys to values, or a list"),
        ("a: [", "not readable as YAML"),
    ],
)
def test_yaml_of_a_stranger(text, message, tmp_path):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        load_yaml(tmp_path / "config.yaml")


def test_yaml_that_is_missing_or_no_text(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        load_yaml(tmp_path / "config.yaml")
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match="not readable as YAML"):
        load_yaml(tmp_path / "config.yaml")


def test_yaml_keeps_floats(tmp_path):
    tree = {"lr": 1e-5, "eps": 1e-9, "words": ["on", "1e-5", "12:30", ""], "none": None}
    (tmp_path / "x.yaml").write_text(to_yaml(tree))
    assert load_yaml(tmp_path / "x.yaml") == tree
    assert re.search("lr: 1.0e-05", (tmp_path / "x.yaml").read_text())


def test_message_patterns_are_specific():
    """A pattern that matches everything would prove nothing."""
    assert not [message for _, message in REFUSED if re.search(message, "error[config] key: something else")]


@pytest.mark.unhurried
def test_the_ending_of_a_named_file_gives_its_format():
    words = ["task=translation", "data=files"]
    assert compose([*words, "data.train=rows.jsonl.gz"]).config.data.format == "jsonl"
    assert compose([*words, "data.train=rows.csv"]).config.data.format == "csv"
    assert compose([*words, "data.train=rows.csv", "data.format=tsv"]).config.data.format == "tsv"
    assert compose([*words, "data.train=rows.txt"]).config.data.format == "tsv"


def test_own_files_without_roles_are_pointed_to_the_path():
    words = ["task=classification", "data=files", "data.train=tickets.csv"]
    with pytest.raises(
        ConfigError, match=r"has no text and no label .*; fix: data=tickets.csv finds its columns by itself"
    ):
        compose(words)


def test_what_was_found_at_a_path_composes_again_from_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for split in ("train", "val"):
        (tmp_path / f"{split}.csv").write_text("text,label\n" + "a good film,pos\na bad film,neg\n" * 4)
    first = compose(["task=classification", "data=."])
    (tmp_path / "train.csv").unlink()  # a run is not composed by looking again
    assert compose_from_run(first.tree, []).tree == first.tree


def test_files_that_the_built_in_grammar_would_not_read_are_refused(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\ndata: {train: my.csv}\n")
    with pytest.raises(ConfigError, match=r"data.train: would not be read: .*; fix: data=my.csv"):
        compose(["task=lm", "experiment=mine", f"config_dir={tmp_path}"])
    old = tree_of(compose(["task=lm"]).config)
    old["data"]["train"] = "my.csv"  # as an earlier version has written it
    assert compose_from_run(old, []).config.data.train == "my.csv"
    with pytest.raises(ConfigError, match=r"data.test: would not be read: .*; fix: data=TRAINING_FILE data.test=b.csv"):
        compose_from_run(old, ["data.test=b.csv"])
