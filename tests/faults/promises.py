"""Section H, as far as it is about secrets, and hostile text: what no file may hold and how long text may take."""

from __future__ import annotations

import ast
import functools
import time

from faults.harness import ROOT, Section, raised
from multihead.config.compose import compose
from multihead.config.data import TokenizerConfig
from multihead.data.lines import Lines
from multihead.data.tokenizer import train_tokenizer
from multihead.errors import ConfigError

ROWS = Section("H")
SECRETS = {
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "HF_TOKEN": "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "MULTIHEAD_PLANTED": "planted-in-the-environment",
}


@ROWS.row(
    "65",
    "secrets in the environment, with W&B's and TensorBoard's files written",
    "in no file of the run directory, nor on the screen",
    "import multihead.runs.directory as r\nbefore = r.environment\n"
    "def told(*rest):\n"
    '    return before(*rest) | {"variables": dict(__import__("os").environ)}\n'
    'patch("multihead.training.job.environment", told)',
    slow=True,
)
def environment_is_secret(bench):
    run, planted = bench.folder / "run", SECRETS
    done = bench.run("task=lm", "debug=smoke", f"run_dir={run}", "logger=wandb", environment=planted)
    done.expect(0)
    texts = {"screen": (done.out + done.err).encode()} | {str(f): f.read_bytes() for f in run.rglob("*") if f.is_file()}
    hits = [(name, key) for name, text in texts.items() for key, value in planted.items() if value.encode() in text]
    assert not hits, hits
    return f"0 hits in {len(texts)} files"


@ROWS.row(
    "65b",
    "a key or a user:password@ typed as a value, or in a file of configuration",
    "refused, status 2, without the secret in the message",
    'patch("multihead.config.compose.looks_secret", lambda text: False)',
)
def typed_secrets(bench):
    address = "https://user:hunter2hunter2@example.org/x.tsv"
    words = [
        f"data.name={SECRETS['WANDB_API_KEY']}",
        f"data.root={SECRETS['HF_TOKEN']}",
        f"data.url={{x: '{address}'}}",
    ]
    words += ["data.root=AKIAIOSFODNN7EXAMPLE", "data.hub=ghp_0123456789abcdefghijABCDEFGHIJ012345"]
    for word in words:
        done = bench.main("train", "task=lm", "debug=smoke", f"run_dir={bench.folder / 'run'}", word)
        told = done.expect(2, "looks like a secret")
        assert not any(part in done.err for part in ("hunter2", *SECRETS.values(), "AKIAI", "ghp_")), done.err
    bench.file("conf/experiment/mine.yaml", f"# @package _global_\ndata: {{url: {{x: '{address}'}}}}\n")
    folder = str(bench.folder / "conf")
    raised(ConfigError, lambda: compose(["task=lm", "experiment=mine"], config_dir=folder), "looks like a secret")
    good = [
        "data.sha256={x: '" + "ab" * 32 + "'}",
        "data.url={x: 'https://example.org/a@b:c'}",
        "plugin_sha256=" + "ab" * 32,
    ]
    compose(["task=lm", *good])
    return told


BANNED = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "tarfile", "joblib"}
CALLS = {
    "eval",
    "exec",
    "__import__",
    "load_from_checkpoint",
    "unpack_archive",
    "extract",  # tables/opening.py reads the one file of a zip, and writes none
    "extractall",
    "instantiate",
    "unsafe_load",
    "full_load",
}


def unsafe(source: str) -> list[str]:
    """What in a module could run what a file holds."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in BANNED]
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in BANNED:
            found.append(node.module)
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            plain = isinstance(node.func, ast.Name) or name.split(".")[-1] not in ("eval", "exec")
            if name.split(".")[-1] in CALLS and plain:
                found.append(name)
            if name in ("torch.load", "np.load"):
                safe = {"weights_only": True, "allow_pickle": False}
                given = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
                found += [] if any(given.get(key) is value for key, value in safe.items()) else [name]
            if name == "yaml.load":
                found += [] if any("Strict" in ast.unparse(k.value) for k in node.keywords) else [name]
    return found


@ROWS.row(
    "R10",
    "any place of the package that would unpickle, unpack an archive, instantiate or evaluate",
    "there is none",
    'import faults.promises as p\nread = p.sources\npatch("faults.promises.sources", '
    'lambda: read() | {"x.py": "import pickle\\npickle.load(open(0))"})',
)
def nothing_runs(bench):
    found = {name: unsafe(text) for name, text in sources().items()}
    assert len(found) > 40
    assert not any(found.values()), {name: what for name, what in found.items() if what}
    return f"{len(found)} modules"


def sources() -> dict[str, str]:
    """Every module of the package."""
    return {str(path): path.read_text() for path in (ROOT / "src").rglob("*.py")}


HOSTILE = {
    "letters": "a",
    "blanks": " ",
    "marks": "a\u0301",
    "digits": "7",
    "dots": ".",
    "words": "ab cd, ",
    "cjk": "日本",
}
SIZES = (2 << 20, 8 << 20)


def growth(action, texts) -> float:
    """How much longer twice the length takes, on average over two doublings; the best processor time of two each."""
    took = []
    for text in texts:
        best = 1e9
        for _ in range(2):
            began = time.process_time()
            action(text)
            best = min(best, time.process_time() - began)
        took.append(best)
    return (took[-1] / max(took[0], 0.005)) ** 0.5


@functools.cache
def tokenizers():
    corpus = ["the dog sleeps, the cat (7) does not. Ähren", "a" * 50, "ab cd, ab cd"] * 20
    return {kind: train_tokenizer(TokenizerConfig(kind=kind, vocab_size=300), corpus)
            for kind in ("bpe", "unigram", "word", "char", "byte")}  # fmt: skip


@ROWS.row(
    "R13",
    "lines of 2 and 8 MB of letters, blanks, marks, digits, dots through every tokenizer and back",
    "twice the length takes at most 2.5 times the time",
    "import multihead.data.tokenizer as t\nbefore = t.Tokenizer.encode_batch\n"
    "def slow(self, texts):\n"
    "    n = len(texts[0]) // 2000\n"
    "    sum(1 for i in range(n) for j in range(n * 4))\n"
    "    return before(self, texts)\n"
    'patch("multihead.data.tokenizer.Tokenizer.encode_batch", slow)',
    slow=True,
)
def linear_time(bench):
    worst = (0.0, "")
    for kind, tokenizer in tokenizers().items():
        for name, unit in HOSTILE.items():
            texts = [unit * (size // len(unit.encode())) for size in SIZES]
            ratio = growth(lambda text, t=tokenizer: t.encode_batch([text]), texts)
            worst = max(worst, (ratio, f"{kind}, {name}"))
            assert ratio <= 2.5, (kind, name, ratio)
    return f"largest ratio {worst[0]:.2f} ({worst[1]})"


@ROWS.row(
    "R13b",
    "lines of 1 and 4 MB through the readers, a csv of quotes",
    "twice the length takes at most 2.5 times the time",
    'patch("multihead.data.lines.CHUNK_BYTES", 1 << 8)',
    slow=True,
)
def readers_linear(bench):
    from multihead.tables.rows import plain_rows, quoted_rows

    def read(path):
        list(Lines(path, "x", False))

    def quoted(path):
        list(quoted_rows(Lines(path, "x", False), ","))

    def plain(path):
        list(plain_rows(Lines(path, "x", False), "\t"))

    worst = 0.0
    for name, unit, action in (("a", "a", read), ("q", '"",', quoted), ("d", '"a""b",', quoted), ("t", "\t", plain)):
        paths = [bench.file(f"{name}{n}", unit * ((n << 20) // len(unit)) + "\n") for n in (1, 4)]
        worst = max(worst, growth(action, paths))
        assert worst <= 2.5, (name, worst)
    return f"largest ratio {worst:.2f}"
