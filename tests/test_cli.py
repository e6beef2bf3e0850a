"""The command line: statuses, one line for each error, nothing left behind, nothing heavy imported."""

import errno
import logging
import os
import subprocess
import sys
import types

import pytest

from multihead import cli, errors
from multihead.config.folder import conf_dir
from multihead.config.settings import read_words
from multihead.config.task import TASKS
from multihead.config.verbs import SETTINGS
from multihead.errors import CheckpointError, DataError, NumericsError, Stopped

WRONG = [
    "tsk=translation",
    "+tsk=translation",
    "task=translation model.d_modle=64",
    "task=translation optim.lr=fast",
    "task=translation model.d_model=100 model.num_heads=3",
    "task=nope",
    "task=translation precision=bf17",
    "+data._target_=os.system",
    "task=translation model.dropout=1.5",
    "task=translation devices=none",
    "task=translation seed=1,2",
    "task=translation -m seed=1,x",
    "task=translation data.train=[a,b]",
    "task=translation tokenizer.joint=false",
    "task=translation seed=${oc.env:HOME}",
    "task=translation resume=nowhere",
    "task=translation plugin=nowhere.py",
    "task=translation hydra.run.dir=here",
    "task=translation --epochs=3",
    "task=translation --config-dir",
    "task=translation --experimental-rerun=config.pickle",
    "translation",
]


@pytest.fixture
def command(monkeypatch, tmp_path, capfd):
    """Runs a command line in an empty folder with a stand-in for training; returns status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    seen = []

    def run(composition):
        seen.append(composition)
        return TRAININGS.get(composition.config.seed, lambda: 0)()

    stand_in = types.ModuleType("multihead.commands.train")
    stand_in.run = run
    monkeypatch.setitem(sys.modules, "multihead.commands.train", stand_in)

    def call(line):
        status = cli.main(line.split() if isinstance(line, str) else line)
        out, err = capfd.readouterr()
        assert list(tmp_path.iterdir()) == [], "something was left behind"
        return status, out, err

    call.seen = seen
    return call


def fail(error):
    """A training that ends with ``error``."""

    def training():
        raise error

    return training


TRAININGS = {
    11: fail(DataError("train.de:88", "has 3 columns, expected 2")),
    12: fail(CheckpointError("outputs/x", "is damaged")),
    13: fail(NumericsError("step 50", "the loss is nan")),
    14: fail(OSError(errno.ENOSPC, "No space left on device", "outputs/x")),
    15: fail(Stopped(15, "stopping: SIGTERM, saved step 118")),
    16: fail(KeyboardInterrupt()),
    17: fail(ValueError("first\nsecond")),
    18: fail(MemoryError()),
    19: lambda: 7,
}


@pytest.mark.parametrize("line", WRONG)
def test_wrong_commands(command, line):
    status, out, err = command(f"train {line}")
    assert status == 2
    assert err.startswith("error[config] ") and err.count("\n") == 1
    assert out == "" and command.seen == []


@pytest.mark.parametrize(
    ("seed", "status", "message"),
    [
        (1, 0, ""),
        (11, 2, "error[data] train.de:88: has 3 columns, expected 2\n"),
        (12, 3, "error[checkpoint] outputs/x: is damaged\n"),
        (13, 4, "error[numerics] step 50: the loss is nan\n"),
        (14, 5, "error[machine] outputs/x: No space left on device\n"),
        (15, 143, "stopping: SIGTERM, saved step 118\n"),
        (16, 130, "interrupted\n"),
        (18, 5, "error[machine] memory: not enough; fix: use a smaller data.part_tokens, data.eval_tokens or model\n"),
        (19, 7, ""),
    ],
)
@pytest.mark.unhurried
def test_statuses(command, seed, status, message):
    assert command(f"train task=translation seed={seed}") == (status, "", message)
    assert len(command.seen) == 1


def test_a_defect_says_where_its_traceback_is(command, monkeypatch, tmp_path_factory):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path_factory.mktemp("crash")))
    status, _, err = command("train task=translation seed=17")
    assert status == 1 and err.count("\n") == 1
    assert err.startswith("error[internal] ValueError: first second; a bug in Multihead; traceback in ")
    with open(err.split("traceback in ")[1].strip()) as file:
        assert "Traceback" in file.read()
    monkeypatch.setenv("MULTIHEAD_TRACEBACK", "1")
    status, _, err = command("train task=translation seed=11")
    assert status == 2 and err.startswith("Traceback") and err.endswith("expected 2\n")


@pytest.mark.unhurried
def test_a_failing_trial_does_not_stop_the_others(command):
    status, _, err = command("train -m task=translation model=tiny,small seed=1,11,17,2")
    assert [(c.config.model.d_model, c.config.seed) for c in command.seen] == [
        (width, seed) for width in (128, 256) for seed in (1, 11, 17, 2)
    ]
    assert status == 2 and err.count("error[data]") == err.count("error[internal]") == 2


@pytest.mark.unhurried
def test_a_signal_stops_the_multirun(command):
    status, _, _ = command("train -m task=translation seed=1,15,2")
    assert status == 143 and [c.config.seed for c in command.seen] == [1, 15]


FORMS = [
    ("task=translation debug=null experiment=null hardware=null", {}),
    ("task=translation ~debug ~experiment ~hardware", {}),
    ("task=translation debug=smoke debug=null", {"logger": "auto"}),
    ("experiment=multi30k_en_de hardware=gpu hardware=null", {"accelerator": "auto"}),
    ("task=translation +optim.lr=1e-2 ++seed=7", {"optim.lr": 1e-2, "seed": 7}),
    ("task=translation data.labels={0:neg,1:pos}", {"data.labels": {"0": "neg", "1": "pos"}}),
    ("task=translation +data.roles.source=x", {"data.roles": {"source": "x"}}),
    ("task=translation run_dir=2024_11_26 data.root=1e5", {"run_dir": "2024_11_26", "data.root": "1e5"}),
    ("task=translation model=tiny model=small", {"model.d_model": 256}),
    ("task=translation devices='0,1' compile=on", {"devices": "0,1", "compile": True}),
    ("task=translation hydra/launcher=basic hydra/sweeper=basic", {}),
    ("-m task=translation model=glob(t*)", {"model.d_model": [128, 128]}),
    ("-m task=translation model=glob([s*,t*],exclude=*glu)", {"model.d_model": [256, 128]}),
    ("-m task=translation seed=range(3,5)", {"seed": [3, 4]}),
    ("-m task=translation seed=choice(3,4)", {"seed": [3, 4]}),
    ("-m task=translation seed=sort(4,3)", {"seed": [3, 4]}),
    ("-m task=translation seed=tag(a,choice(4,3))", {"seed": [4, 3]}),
    ("-m task=translation optim.betas=[0.8,0.9],[0.9,0.98]", {"optim.betas": [[0.8, 0.9], [0.9, 0.98]]}),
    ("-m task=translation data.root=1e5,1.10,null", {"data.root": ["1e5", "1.10", "null"]}),
    ("-m task=translation debug=null,smoke", {"logger": ["auto", "none"]}),
    ("-m task=translation data.roles.source=a,b", {"data.roles": [{"source": "a"}, {"source": "b"}]}),
    ("task=translation seed=1,2 hydra.mode=MULTIRUN", {"seed": [1, 2]}),
    ("-m task=translation seed=1", {"seed": [1]}),
]
"""Every kind of word that Hydra documents, and what the runs are given."""


@pytest.mark.parametrize(("line", "values"), FORMS)
@pytest.mark.unhurried
def test_what_is_typed_is_what_the_run_gets(command, line, values):
    assert command(f"train {line}")[::2] == (0, "")
    for name, wanted in values.items():
        found = []
        for composition in command.seen:
            node = composition.config
            for part in name.split("."):
                node = getattr(node, part)
            found.append({k: node[k] for k in wanted} if isinstance(wanted, dict) else node)
            if name == "data.roles":
                found[-1] = {"source": node["source"]}
        several = "-m" in line or "MULTIRUN" in line
        assert found == (wanted if several else [wanted]), name


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("-m seed=1,2 run_dir=X", "run_dir: 2 runs of the multirun would be written to X; fix: leave run_dir out"),
        ("-m run_dir=X,Y,X", "run_dir: 2 runs of the multirun would be written to X"),
        ("-m optim.lr=interval(1e-3,2e-3)", "optim.lr: interval(1e-3,2e-3) is a range to draw from"),
        ("-m model=glob(x*)", "model: glob(x*) matches none of base, big, small, tiny, tiny_swiglu"),
        ("-m seed=glob(x*)", "seed: glob(...) is for choices of a group"),
        ("-m model.norm=sort(rms_norm,layer_norm)", "model.norm: sort(...) is for numbers"),
        ("-m seed=1,2 model@decoder=tiny", "model@decoder: a choice cannot be moved to another node; fix: model=tiny"),
        (
            "optim.lr=interval(1e-3,2e-3)",
            "optim.lr: several values (interval(1e-3,2e-3)) need -m, one run for each",
        ),
        ("model=glob(t*)", "model: several values (glob(t*)) need -m"),
        ("-m seed=1,2 hydra.launcher.n_jobs=2", "hydra.launcher.n_jobs: not a setting of the chosen launcher"),
        ("-m seed=1,2 hydra/launcher=jobli", "hydra/launcher: no such launcher: jobli; there are basic, joblib"),
        ("-m seed=1,2 hydra/sweeper=optuna", "hydra/sweeper: no such sweeper: optuna; there are basic"),
        ("-m seed=1,2 hydra.mode=RUN", "hydra.mode: must be MULTIRUN, or RUN without -m, got RUN"),
        ("hydra.verbose=true", "hydra.verbose: cannot be set"),
        ("~model", "model: '~model': this group always needs a choice; fix: model=base"),
        ("model=null", "model: must name one of conf/model/, got null"),
        ("model=[tiny,small]", "model: must name one of conf/model/"),
        ("--config-dir=~/no_such_folder", "config_dir: no such folder: "),
        ("--cfg all", "--cfg: must be one of job, hydra, got 'all'; fix: --cfg job"),
        ("-c job2", "-c: must be one of job, hydra, got 'job2'; fix: -c=job"),
        ("--info foo", "--info: must be one of all, config, defaults, defaults-tree, plugins, searchpath, got 'foo'"),
        ("--hydra-help", "--hydra-help: no such flag; settings are key=value, flags are -m,"),
        (
            "model=tiny.yaml",
            "model=tiny.yaml: no such model; there are base, big, small, tiny, tiny_swiglu; fix: model=t",
        ),
        ("model=../model/tiny", "model=../model/tiny: no such model; there are base,"),
        ("data.train=a.de", "data.train: would not be read: data=grammar makes its own text; fix: data=a.de"),
        ("data.test=a.de", "data.test: would not be read: data=grammar makes its own text; fix: data=TRAINING"),
        (
            "data=a,b",
            "data: several values (a,b) need -m, one run for each; fix: add -m, which train has, or 'data=[a,b]'",
        ),
        (
            "optim.betas=1,2",
            "optim.betas: several values (1,2) need -m, one run for each; fix: add -m, which train has, or ",
        ),
        ("--cfg job --package modle", "--package: the configuration has no node modle"),
    ],
)
def test_refused_forms(command, line, message):
    status, out, err = command(f"train task=translation {line}")
    assert (status, out, command.seen) == (2, "", []) and err.count("\n") == 1
    assert err.startswith(f"error[config] {message}"), err


def test_the_configuration_that_is_shown(command, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", list(logging.root.handlers))  # Hydra adds one for --info
    words = "task=translation model=small run_dir=2024_11 debug=null"
    assert "run_dir: '2024_11'\n" in command(f"train --cfg job {words}")[1]
    assert command(f"train --cfg job -p model.d_model {words}")[:2] == (0, "256\n")
    assert (
        "multirun" in command(f"train --cfg hydra {words}")[1]
        and "train" in command(f"train --info defaults {words}")[1]
    )


@pytest.mark.unhurried
def test_hydra_flags(command, tmp_path_factory):
    status, out, err = command(["train", "--cfg", "job", "task=translation", "data.roles={source: german}", "seed=3"])
    assert (status, err) == (0, "") and "seed: 3\n" in out and "source: german" in out and "hydra" not in out
    folder = tmp_path_factory.mktemp("conf")
    (folder / "model").mkdir()
    (folder / "model" / "wide.yaml").write_text("d_model: 4096\n")
    assert command(f"train --config-dir {folder} task=translation model=wide")[0] == 0
    assert command(f"train -m --config-dir={folder} task=translation model=tiny,wide")[0] == 0
    assert [c.config.model.d_model for c in command.seen] == [4096, 128, 4096]
    assert command.seen[0].words == [f"config_dir={folder}", "task=translation", "model=wide"]


def test_resume_needs_no_task(command, tmp_path_factory):
    from multihead.config.compose import compose, to_yaml

    run = tmp_path_factory.mktemp("run")
    (run / "config.yaml").write_text(to_yaml(compose(["task=translation", "model=small", "seed=5"]).tree))
    assert command(f"train resume={run} trainer.max_steps=7")[0] == 0
    config = command.seen[0].config
    assert (config.model.d_model, config.seed, config.trainer.max_steps, config.resume) == (256, 5, 7, str(run))
    assert command(f"train -m resume={run} seed=1,2")[2].startswith(
        "error[config] resume: only a single run can be resumed"
    )


def test_help(command):
    assert command("--help")[:2] == command("help")[:2]
    for words in ("--help", *(f"{verb} --help" for verb in cli.VERBS), "train task=translation -h"):
        status, out, err = command(words)
        assert (status, err) == (0, "") and 4 < out.count("\n") < 70
        assert max(map(len, out.splitlines())) <= 120
    assert all(f"\n  {verb}" in command("--help")[1] for verb in cli.VERBS)
    out = command("train --help")[1]
    assert "multi30k" in out and "optim.lr=0.001" in out and "Peak learning rate of AdamW" in out


def test_the_program_alone_greets_with_four_things_to_do(command):
    status, out, err = command([])
    assert (status, err) == (0, "") and max(map(len, out.splitlines())) <= 80
    lines = [line.split()[1:] for line in out.splitlines() if line.startswith("    multihead ")]
    assert len(lines) == 4
    for verb, *words in lines:
        assert command([verb, *words])[0] == 0 if verb == "train" else read_words(SETTINGS[verb], words)


@pytest.mark.parametrize("words", ["--help", *(f"{verb} --help" for verb in cli.VERBS)])
def test_help_fits_the_terminal(command, monkeypatch, words):
    monkeypatch.setenv("COLUMNS", "80")
    text, _, commands = command(words)[1].partition("\nExamples:\n")  # a command that can be pasted is one line
    assert max(map(len, text.splitlines())) <= 80 and commands


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("trian task=translation", "error[config] trian: not a command; there are train, evaluate, predict, export, "),
        ("task=translation", "error[config] task=translation: not a command; .*fix: multihead train ..."),
        ("evaluate --verbose", "error[config] --verbose: evaluate takes key=value and no flags"),
        ("frobnicate", "error[config] frobnicate: not a command;"),
    ],
)
def test_wrong_verbs(command, line, message):
    status, _, err = command(line)
    assert status == 2 and err.count("\n") == 1 and err.startswith(message.split(" .*")[0])


@pytest.mark.parametrize(
    ("verb", "fix"), [("listen", "--help"), ("translate", "predict ..."), ("trian", "train ..."), ("x=1", "train ...")]
)
def test_what_was_probably_meant(command, verb, fix):
    assert command([verb])[2].endswith(f"; fix: multihead {fix}\n")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("python train.py task=", {f"task={name}" for name in TASKS}),
        ("python train.py task=tr", {"task=translation"}),
        ("python train.py model=t", {"model=tiny", "model=tiny_swiglu"}),
        ("python train.py task=translation optim.muon_m", {"optim.muon_momentum="}),
        ("multihead e", {"evaluate", "explain", "export"}),
        ("multihead ", set(cli.VERBS)),
        ("multihead train debug=", {"debug=smoke", "debug=overfit", "debug=profile"}),
        ("multihead train hyd", set()),
        ("multihead train sch", set()),
    ],
)
def test_completion(command, monkeypatch, typed, offered):
    monkeypatch.setenv("COMP_LINE", typed)
    door_words = "train -sc query=bash" if typed.startswith("python") else "-sc query=bash"
    status, out, err = command(door_words)
    assert (status, err) == (0, "") and set(out.split()) == offered


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_completion_installs(command, monkeypatch, shell):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/multihead"])
    status, out, _ = command(f"-sc install={shell}")
    assert status == 0 and "multihead" in out


def python(code, *words, **options):
    return subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=120, check=False, **options
    )


def test_errors_and_help_import_nothing_heavy(tmp_path):
    """One process for all: after errors, help and completion neither torch nor Lightning nor wandb is loaded."""
    code = (
        "import sys; from multihead.cli import main\n"
        "statuses = [main(line.split()) for line in sys.argv[1:]]\n"
        "heavy = [name for name in ('torch', 'lightning', 'wandb', 'sacrebleu', 'tokenizers') if name in sys.modules]\n"
        "assert heavy == [], heavy\n"
        "sys.exit(max(statuses))"
    )
    lines = [f"train {line}" for line in WRONG] + ["--help", "train --help", "explain key=optim.lr task=translation"]
    done = python(code, *lines, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == len(WRONG), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_documented_door(tmp_path):
    """train.py itself, from another folder, as a process of its own."""
    script = conf_dir().parent / "train.py"
    done = subprocess.run(
        [sys.executable, str(script), "task=translation", "model.d_modle=64"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error[config] model.d_modle: no such key; did you mean model.d_model?\n"
    assert list(tmp_path.iterdir()) == []
    assert len(script.read_text().splitlines()) < 20


def test_a_package_that_only_an_option_needs_is_installed_alone(capsys):
    """The command of the set-up would not bring it."""
    assert errors.report(ModuleNotFoundError("No module named 'triton.language'", name="triton.language")) == 5
    needed = "has no package triton, which an option of this command needs"
    expected = f"error[machine] {sys.executable}: {needed}; fix: {sys.executable} -m pip install triton\n"
    assert capsys.readouterr().err == expected
    assert errors.report(ModuleNotFoundError("No module named 'yaml'", name="yaml")) == 5
    assert capsys.readouterr().err.endswith('-m pip install -e ".[dev]" -c constraints.txt\n')


@pytest.mark.parametrize("missing", ["multihead", "hydra"])
def test_a_python_without_the_packages_is_named(tmp_path, missing):
    """Such as the system's Python, if the environment of the set-up is not activated."""
    script = str(conf_dir().parent / "train.py")
    without = f"import runpy, sys; sys.modules['hydra'] = None; runpy.run_path({script!r}, run_name='__main__')"
    door = ["-c", without] if missing == "hydra" else ["-I", "-S", script]  # which sees no installed package
    done = subprocess.run(
        [sys.executable, *door, "task=translation"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    package = "package hydra" if missing == "hydra" else missing
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr.startswith(f"error[machine] {sys.executable}: has no {package}; activate the environment")
    assert done.stderr.endswith(f'fix: {sys.executable} -m pip install -e ".[dev]" -c constraints.txt\n')
    assert done.stderr.count("\n") == 1


def test_a_working_directory_that_was_deleted(tmp_path, monkeypatch, capfd):
    """Before torch is imported, whose libraries end the process there."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    statuses = [cli.main(words) for words in (["train", "task=lm"], ["predict", "run=r"], ["runs"])]
    out, err = capfd.readouterr()
    assert (statuses, out) == ([5, 5, 5], "")
    assert set(err.splitlines()) == {
        "error[machine] working directory: it no longer exists (No such file or directory); fix: cd ~"
    }
    assert cli.main(["--help"]) == 0


def test_a_reader_that_leaves(tmp_path):
    """A closed pipe, as under ``| head``, is no traceback."""
    code = (
        "import sys; from multihead.cli import guarded\n"
        "def talk():\n"
        "    while True: sys.stdout.write('line\\n' * 1000); sys.stdout.flush()\n"
        "sys.exit(guarded(talk))"
    )
    read, write = os.pipe()
    process = subprocess.Popen([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    os.read(read, 10)
    os.close(read)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (141, "")


def test_messages_survive_any_text(capfd):
    assert errors.report(DataError("x\udcff.txt:1", "bad\nline \u2028 \u0007")) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and err.startswith("error[data] x")
