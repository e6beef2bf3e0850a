"""``--help``: what there is to choose and to set, read from `conf/` and from the dataclasses."""

from __future__ import annotations

import textwrap

from multihead.config.folder import conf_dir
from multihead.config.keys import GROUPS, Key, documentation, leaf_keys
from multihead.config.task import TASKS

WIDTH = 110
GROUP_MEANING = {
    "task": "what is learned",
    "model": "sizes of the backbone",
    "data": "a table with roles",
    "optim": "optimizer and schedule",
    "hardware": "bundles the keys of devices and precision",
    "experiment": "a recipe with the score it reached",
    "debug": "a short run",
}
MOST_USED = (
    "optim.lr",
    "trainer.max_steps",
    "trainer.max_time",
    "trainer.val_every_n_steps",
    "data.batch_tokens",
    "tokenizer.vocab_size",
    "model.dropout",
    "decoding.num_beams",
    "precision",
    "devices",
    "seed",
    "run_dir",
    "resume",
    "init_from",
    "init_tokenizer",
    "logger",
    "plugin",
    "config_dir",
)
TYPING = """\
How words are read:
  key=TEXT            a text key takes the text as it is typed (run_dir=2024_11_26); 'key="a, b"' where it has a comma
  run_dir=~/x         paths expand ~ and $NAME; 'key="..."' too, "key='...'" takes them as they are
  key=[a,b]           a list;   'key={a: x, b: y}' a mapping, or key.a=x;   debug=null chooses none
"""
OVERVIEW = """\
multihead: one Transformer backbone, many heads. Every command takes key=value words.

  multihead train task=TASK                   trains; the same as python train.py task=TASK
  multihead evaluate run=RUN data.split=test  measures a finished run on any split or file; calibrates classifiers
  multihead predict run=RUN                   continues, translates, summarizes or classifies lines of standard input
  multihead export run=RUN to=FORMAT          the model for CTranslate2, ONNX, torch.export, or as tensors
  multihead explain key=model.d_model         a key's value, who set it, what it overrode, what it means
  multihead runs                              the runs there are, with state, best metric, time and size
  multihead diff a=RUN b=RUN                  what differs between two runs
  multihead compare runs=[A,B,...]            which is better, by how much, and whether that is more than chance
  multihead sweep file=FILE                   runs a W&B sweep file on this machine or on several, without an account
  multihead VERB --help                       more about one of them
"""
EXAMPLES = """\
Examples:
  python train.py task=translation                                      # built-in data, no download; so all tasks
  python train.py task=translation data=multi30k model=small precision=auto devices=4
  python train.py task=translation data=files data.train=my.tsv.gz      # your own two columns
  python train.py task=lm data=text data.train=book.txt                 # your own text, or a folder of it
  python train.py task=classification data=sst2 init_from=outputs/lm/sst2/...
  python train.py task=multitask 'task.parts=[lm,classification]'
  python train.py -m task=lm model=tiny,small optim.lr=1e-3,3e-4
  python train.py task=translation model=small debug=profile            # where a step's time goes; plan=true: how long
  python train.py resume=outputs/translation/grammar/...
"""
FLAGS = """\
Flags are Hydra's own:
  -m                  a multirun: key=a,b,c tries each value      --cfg job           shows the composed configuration
  --config-dir DIR    the same as the word config_dir=DIR          -sc install=bash    prints shell completion to eval
"""
VERB_TEXTS = {
    "evaluate": """\
multihead evaluate run=RUN [key=value ...]

Measures a finished run (translations and summaries by really decoding); writes beside its result.json, never over it.
The configuration is RUN/config.yaml plus what is typed.

  run=RUN                  the run's directory; run=[A,B] gives a table
  data.split=test          train, val or test
  data.test=FILE           another file in the place of a split
  decoding.num_beams=8     and every other key of the configuration
  plugin=FILE.py           again, where the run was made with a plugin

Of a classification, decided on the validation split and kept in the run for predict and evaluate:
  calibrate=true           a temperature for its probabilities; false takes it back
  threshold=precision:0.99 threshold_label=CLASS    a threshold of this class; cost:C, or none to take it back

Examples:
  multihead evaluate run=outputs/translation/multi30k/... data.split=val decoding.num_beams=5
  multihead evaluate run=outputs/lm/grammar/... task.stride=1
  multihead evaluate run=outputs/classification/sms_spam/... calibrate=true
""",
    "predict": """\
multihead predict run=RUN [format=text|jsonl] [part=TASK] [key=value ...] < lines

Answers every line of standard input with one line, in order: a translation or a summary, a continuation (its newlines
as \\n), or label TAB probability. A pair of texts comes as TEXT TAB TEXT_B. Needs RUN/config.yaml and RUN/model/ only.

  run=RUN                           the run's directory
  part=TASK                         of a run of several tasks, which one answers
  format=jsonl                      all outputs with scores, or all classes with probabilities
  decoding.num_beams=5              and every other key under decoding
  decoding.num_return_sequences=5   hypotheses for each line (format=jsonl), or continuations
  decoding.do_sample=true           continuations are drawn: decoding.temperature, top_k, top_p, min_p, seed
  plugin=FILE.py                    again, where the run was made with a plugin

Examples:
  echo "A man rides a bike." | multihead predict run=outputs/translation/multi30k/...
  echo "ROMEO:" | multihead predict run=outputs/lm/tinyshakespeare/... decoding.do_sample=true decoding.top_p=0.9
""",
    "export": """\
multihead export run=RUN to=FORMAT [out=DIR] [key=value ...]

Writes a finished run's model for another runtime, reads it back from disk, and compares it with the run's own on its
test inputs: logits under teacher forcing, and outputs. The folder is put in place only where they agree (in float32:
logits to 1e-3 of their scale, 99 % of the outputs); verification.json keeps what was measured, README.md says how to
run it. Exit status 3: they do not.

  run=RUN                  the run's directory
  to=ctranslate2           translation, summarization, lm; also to=onnx, torch_export (all tasks), safetensors
  out=DIR                  otherwise RUN/export/FORMAT; an earlier export is replaced when the new one is whole
  quantization=int8        of ctranslate2: int8, int16, float16, bfloat16, int8_float32, int8_float16, int8_bfloat16
  sentences=100            how many inputs are compared
  part=TASK                of a run of several tasks, which one
  decoding.num_beams=5     how ctranslate2's outputs are searched for, and every other key under decoding
  plugin=FILE.py           again, where the run was made with a plugin

Needs the extra export, but for torch_export and safetensors: pip install "multihead[export]".

Examples:
  multihead export run=outputs/translation/multi30k/... to=ctranslate2 quantization=int8 decoding.num_beams=5
  multihead export run=outputs/classification/sst2/... to=onnx
""",
    "explain": """\
multihead explain key=KEY [run=RUN] [key=value ...]

Prints the value of KEY, which file or word set it, the chain of what it overrode, and what it means.
A node (key=model) explains all that is below it.

  key=model.d_model        what to explain
  task=translation ...     the same words as for train
  run=RUN                  in a run's configuration instead

Examples:
  multihead explain key=model.d_model task=translation model=small
  multihead explain key=optim run=outputs/translation/grammar/...
""",
    "runs": """\
multihead runs [dir=FOLDER] [key=value ...] [state=STATE] [sort=WHAT] [limit=N]

Lists the runs below a folder: task, data, model (width x layers), state, best value of the metric that is monitored,
steps, time, size on disk, and when they began (UTC). Damaged ones are named at the end.

  dir=outputs              looks at all folders below
  task=lm data=wikitext2   and every other key: runs whose configuration has this value
  state=stopped            running, finished, failed, or stopped (resume=RUN goes on)
  sort=metric              date (newest first), metric (best first), time, size, steps or parameters
  limit=20                 the first ones only
  format=jsonl             a line of JSON for each

Examples:
  multihead runs task=translation sort=metric
  multihead runs dir=outputs/sweeps state=failed
  multihead runs optim.lr=1e-3 model.d_model=128 format=jsonl
""",
    "diff": """\
multihead diff a=RUN b=RUN

What differs between two runs: configuration, environment and results; of a run that is not finished, the last values.

Example:
  multihead diff a=outputs/translation/grammar/first b=outputs/translation/grammar/second
""",
    "compare": """\
multihead compare runs=[A,B,...] [key=value ...]

Which system is better on the test split, by how much, and whether that is more than chance. Runs that differ in
their seed only are one system: mean, deviation and interval are over its seeds. Refuses runs of different test data.

  runs=[A,B]               run directories, folders of them, or globs ('runs=[outputs/lm/*]', quoted)
  group=FOLDER             all the runs below
  names=[x,y]              of the systems, or of the entries of runs=; otherwise made of what differs
  baseline=A               a system's name or run: compare all with it, instead of all pairs
  metric=test/bleu         a key of result.json; otherwise the test metric that the runs were monitored by
  format=markdown          markdown, latex, html or json, on standard output; with out= several: [markdown,html]
  out=FILE                 write there (the suffix says the format); the html page holds the curves

Tests: BLEU, chrF and ROUGE by paired bootstrap, accuracy by McNemar's, other classification and language modelling
by paired permutation; with several seeds a t-test over seeds and examples. p is corrected by Holm.

Examples:
  multihead compare group=outputs/translation/multi30k out=comparison.html
  multihead compare 'runs=[runs/scratch_*,runs/pretrained_*]' names=[scratch,pretrained] metric=test/accuracy
""",
    "sweep": """\
multihead sweep file=FILE [workers=N] [budget=20|8h] [key=value ...]

Runs a W&B sweep file (method: bayes, random or grid) on Optuna. Each trial is a process with the command line of a
single run. The same command again goes on with the sweep, whatever ended it. Exit status 7: some trials failed.

  file=FILE                the sweep file; it also works with wandb sweep
  workers=2                trials at a time on this machine
  budget=20                trials; or hours of trials, summed over them (8h, 30m); else run_cap, or the whole grid
  seeds=3                  runs per point, with seed, seed + 1, ...; their mean is optimised
  trial_time=2h            a run that takes longer is ended and counts as failed
  status=true              the table of trials and the page of pictures as they are now
  best=true                the command that trains the best configuration
  to=wandb                 sends the runs to W&B
  name=NAME dir=DIR        of the sweep (the file's name, outputs/sweeps/NAME)
  storage=postgresql://USER@HOST/DATABASE    the ledger where several machines see it: the same command on each
  data=sst2 devices=2      and every other key: for every trial

Examples:
  multihead sweep file=sweeps/translation.yaml workers=2
  multihead sweep file=sweeps/classification.yaml data=sst2 seeds=3
  multihead sweep file=sweeps/translation.yaml best=true
""",
}


def overview() -> str:
    """The help of the program as a whole."""
    return "\n".join([OVERVIEW, _groups(), _keys(MOST_USED), EXAMPLES, _closing()])


def verb_help(verb: str) -> str:
    """The help of one command."""
    if verb != "train":
        return VERB_TEXTS[verb]
    head = "multihead train task=TASK [group=choice ...] [key=value ...]     (python train.py is the same)\n"
    return "\n".join([head, _groups(), _keys(MOST_USED), TYPING, FLAGS, EXAMPLES, _closing()])


def _groups() -> str:
    """The groups and what can be chosen in each."""
    folder = conf_dir()
    lines = ["Choices (group=choice; YAML files in conf/):"]
    for group in GROUPS:
        options = ", ".join(sorted(file.stem for file in (folder / group).glob("*.yaml"))) or "none yet"
        text = f"  {group:<12}{options}  ({GROUP_MEANING[group]})"
        lines += textwrap.wrap(text, WIDTH, subsequent_indent=" " * 14, break_long_words=False)
    return "\n".join(lines) + "\n"


def _keys(names: tuple[str, ...]) -> str:
    """The keys ``names`` with their defaults and the first sentence about each."""
    keys = leaf_keys(TASKS.values())
    lines = ["Most used keys (key=default: meaning; a choice may set another value):"]
    for name in names:
        left = f"  {name}={_shown(keys[name])}"
        room = WIDTH - 34
        lines.append(f"{left:<33} {textwrap.shorten(documentation(keys[name]), room, placeholder=' ...')}")
    return "\n".join(lines) + "\n"


def _shown(key: Key) -> str:
    return str(key.default).lower() if isinstance(key.default, bool) else str(key.default)


def _closing() -> str:
    nodes = sorted({name.split(".")[0] for name in leaf_keys(TASKS.values()) if "." in name})
    text = (
        f"All keys of a node: multihead explain task=translation key=NODE, for {', '.join(nodes)}. "
        "Errors are one line; MULTIHEAD_TRACEBACK=1 prints the traceback. "
        "Data is looked for in MULTIHEAD_DATA (default data/)."
    )
    return textwrap.fill(text, WIDTH) + "\n"
