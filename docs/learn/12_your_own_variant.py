# %% [markdown]
# # 12. Your own variant
#
# You have an idea for a better Transformer. This chapter goes the whole way, with one idea as an example:
#
# 1. write it as a **plugin**, without changing the library;
# 2. let the **doctor** look for mistakes, before anything is trained;
# 3. train it beside the baseline, with several **seeds**, and ask whether chance explains the difference;
# 4. say what you found, and no more: a **verdict**.
#
# You need chapters 2, 3 and 10. You can read the page, or run it: `python docs/learn/12_your_own_variant.py`.

# %%
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import multihead
from multihead.cli import main
from multihead.comparing.compare import compare
from multihead.config.data import GrammarConfig
from multihead.data.grammar import columns

FULL = os.environ.get("MULTIHEAD_GUIDE") == "full"  # without it, the blocks below are cut down to seconds
FOLDER = Path(tempfile.mkdtemp())  # where the chapter's files and runs go
plt.rcParams["font.size"] = 11

# %% [markdown]
# ## The idea
#
# Attention always gives something: its weights sum to 1. A head can only be silent by looking at a token whose value is
# near 0. Let us add a **gate**. A gate is a number between 0 and 1 for each dimension. It multiplies what attention
# gives. In image networks, a gate of this kind is computed from the *mean over all positions* ("squeeze and
# excitation", Hu et al. 2017, arXiv:1709.01507). We try the same for text.
#
# A plugin is a Python file. It ends in `PLUGIN = Plugin(...)`, which gives our class a name.
# (`multihead new block=attention` writes such a file, and a test for it.)

# %%
FIRST_TRY = '''
import torch
from torch import nn

from multihead.model.transformer import MultiHeadAttention
from multihead.plugin import Plugin


class GatedAttention(MultiHeadAttention):
    """Attention times a gate that is computed from the mean over all positions."""

    def __init__(self, config):
        super().__init__(config)
        self.gate = nn.Linear(config.d_model, self.width)

    def forward(self, x, scope, memory=None, cache=None):
        gate = torch.sigmoid(self.gate(x.mean(1, keepdim=True)))  # [B, 1, D]
        return self.output(self.attended(x, scope, memory, cache) * gate)


PLUGIN = Plugin(attention={"gated": GatedAttention})
'''
first_try = FOLDER / "first_try.py"
first_try.write_text(FIRST_TRY)

# %% [markdown]
# ## The doctor
#
# We could train at once. The loss would fall, and nothing would look wrong. First we ask the doctor. It builds the
# model with our part and checks what must hold for each Transformer. We ask for two of its twenty checks. This is the
# command `multihead doctor plugin=first_try.py task=lm checks=[causality,cache]`, called from Python:


# %%
def doctor(plugin: Path, checks: str) -> int:
    """Runs the doctor on a language model; returns its exit status: 0 if it found nothing, 2 if it did."""
    sizes = ["model.d_model=32", "model.num_heads=2", "model.d_ff=64", "model.num_decoder_layers=1"]
    return main(["doctor", f"plugin={plugin}", "task=lm", *sizes, f"checks=[{checks}]"])


status = doctor(first_try, "causality,cache")
assert status == 2

# %% [markdown]
# Read the finding from top to bottom: what was expected, what was found, the smallest input that shows it, and where to
# look.
#
# The mean over *all* positions contains the future. At each position the gate knows something about the words that the
# model shall predict. In training, this makes the task easier, so the loss may even be *better* than the baseline's.
# When the model writes, there is no future, and the gate gets something else than in training. That is what the check
# `cache` sees. So a wonderful result may be no result: it may come from a part that sees the future.
#
# So each position must have a gate of its own. This version is known: Qiu et al. (2025, arXiv:2505.06708) tried it at
# large sizes.

# %%
second_try = FOLDER / "second_try.py"
second_try.write_text(FIRST_TRY.replace("x.mean(1, keepdim=True)", "x").replace("[B, 1, D]", "[B, T, D]"))
status = doctor(second_try, "causality,cache,padding,gradients,resume" if FULL else "causality,cache")
assert status == 0

# %% [markdown]
# The second try has passed these checks. That does not say that it is a better model.
#
# ## A fair race
#
# The gate has weights of its own. If we only add it, the variant is larger, and larger models are often better. So we
# make the feed-forward of the variant narrower, until both have the same number of parameters. A gate has $d^2 + d$
# numbers. One unit of the feed-forward has $2d + 1$. So we take away $(d^2 + d)/(2d + 1) \approx d/2$ units.
#
# And one run is not enough. Another seed gives other initial weights and another order of the texts, and so another
# result (Reimers and Gurevych 2017, arXiv:1707.09861). We give both systems *the same* seeds.

# %%
D_MODEL, D_FF, SEEDS = 48, 192, (1, 2, 3, 4) if FULL else (1, 2)
SHARED = ["task=lm", "logger=none", f"model.d_model={D_MODEL}", "model.num_decoder_layers=2", "model.max_len=64"]
SHARED += ["tokenizer.vocab_size=500", "data.grammar.val_size=100", "data.grammar.test_size=200"]
SHARED += ["optim.schedule=cosine", "optim.warmup_steps=10"]
if FULL:
    SHARED += ["data.grammar.train_size=2000", "trainer.max_steps=80", "trainer.val_every_n_steps=80"]
else:
    SHARED += ["debug=smoke", f"model.d_model={D_MODEL}", "trainer.max_steps=2", "data.grammar.train_size=100"]
NARROW = [f"model.d_ff={D_FF - D_MODEL // 2}", "model.attention=gated"]
SYSTEMS = {"plain": [f"model.d_ff={D_FF}"], "gated": [*NARROW, f"plugin={second_try}"]}


def train(name: str, words: list[str], seed: int) -> dict:
    """Trains one seed of one system."""
    place = [f"seed={seed}", f"run_dir={FOLDER / name / f'seed_{seed}'}"]
    return multihead.train([*SHARED, *words, *place], quiet=True)


results = {name: [train(name, words, seed) for seed in SEEDS] for name, words in SYSTEMS.items()}
losses = {name: [result["test/loss"] for result in found] for name, found in results.items()}
for name, found in results.items():
    values = torch.tensor(losses[name])
    print(f"{name}: {found[0]['parameters']:,} parameters, loss {values.mean():.3f} ± {values.std():.3f}")
sizes = [found[0]["parameters"] for found in results.values()]
assert max(sizes) / min(sizes) < 1.01

# %% [markdown]
# Each line below is a seed. If the lines cross, the answer depends on the seed.

# %%
figure, axes = plt.subplots(figsize=(5, 3.5))
for seed, a, b in zip(SEEDS, losses["plain"], losses["gated"], strict=True):
    axes.plot([0, 1], [a, b], marker="o", label=f"seed {seed}")
axes.set_xticks([0, 1], list(SYSTEMS))
axes.set_xlim(-0.3, 1.3)
axes.set_ylabel("test loss (lower is better)")
axes.legend()
plt.tight_layout()
plt.show()

# %% [markdown]
# ## The verdict
#
# `multihead compare` puts the systems beside each other. It gives the difference, an interval, and a p-value: how
# probable would so large a difference be, if the two systems were equal?

# %%
report = compare([str(FOLDER / name) for name in SYSTEMS], names=list(SYSTEMS))
for pair in report.pairs:
    print(pair.statement)
for note in [*report.warnings, *report.notes]:
    print("note:", note)

if FULL:
    assert "gated is better than plain" in report.pairs[0].statement

# %% [markdown]
# On these four seeds, gated attention is better: by 0.08 nats per token, with an interval from 0.05 to 0.11. What may
# we say? *With 0.08 million parameters and 80 steps on the built-in grammar, at one learning rate, a gate helps.* We
# may not say that gates help large models. (Qiu et al. did measure large ones, with up to 15 billion parameters, and
# gates helped.)
#
# ```{admonition} A usual mistake: "Not significant, so the two are equal"
# :class: warning
# If the difference is small beside the spread of the seeds, the statement says *not distinguishable*. It only says that
# these seeds do not show a difference. The interval says which differences are still possible.
# ```
#
# ## What the leak would have told us
#
# Let us train the first try, too, the one with the future in its gate. Then we compute its loss in two ways: in one
# pass, as each evaluation does, and token by token, as it would have to write.


# %%
@torch.no_grad()
def nats_per_token(run, texts: list[str], step_by_step: bool) -> float:
    """Mean -log p of the tokens of texts, in one pass or token by token with the cache."""
    tokenizer, transformer, found = run.task.tokenizers["text"], run.model.transformer, []
    for ids in tokenizer.encode_batch(texts):
        ids = torch.tensor([[*tokenizer.opening, *ids][:60]])
        if step_by_step:
            cache = transformer.new_cache()
            steps = [transformer.decode(ids[:, t : t + 1], cache=cache) for t in range(ids.size(1) - 1)]
            hidden = torch.cat(steps, 1)
        else:
            hidden = transformer.decode(ids[:, :-1])
        log_p = run.model.head(hidden).log_softmax(-1)
        found.append(-log_p.gather(-1, ids[:, 1:, None]).flatten())
    return float(torch.cat(found).mean())


leaky = train("leaky", [*NARROW, f"plugin={first_try}"], seed=1)
lines = columns(GrammarConfig(test_size=30 if FULL else 3), "test", ["text"])["text"]
first = {"plain": losses["plain"][0], "gated": losses["gated"][0], "leaky": leaky["test/loss"]}
print("test loss of seed 1:", ", ".join(f"{name} {loss:.3f}" for name, loss in first.items()))
apart = {}
for name, plugin in (("gated", second_try), ("leaky", first_try)):
    run = multihead.load(FOLDER / name / "seed_1", f"plugin={plugin}")
    once, stepwise = (nats_per_token(run, lines, step_by_step) for step_by_step in (False, True))
    apart[name] = stepwise - once
    print(f"{name}: {once:.3f} nats per token in one pass, {stepwise:.3f} token by token")
assert abs(apart["gated"]) < 1e-4
assert abs(apart["leaky"]) > 1e-4
if FULL:
    assert first["leaky"] < first["plain"]
    assert apart["leaky"] > 0.005

# %% [markdown]
# By its test loss, the leaky variant looks like a success, too. Token by token it is another model. Its test loss is
# not the loss of anything that could write a text. So run the doctor first.
#
# ## Do not peek
#
# Here is a way to fool yourself with honest numbers. You train three seeds and test. Not significant. So you train one
# more, and test again, until it is significant or the money is gone. Each single test is wrong in 5 % of the cases. How
# often is the whole procedure wrong? We simulate it: two *equal* systems, at most ten seeds, thousands of studies.

# %%
T_LIMITS = {3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}  # of a t-test, 5 %
generator = torch.Generator().manual_seed(0)
differences = torch.randn(20000, 10, generator=generator)  # of equal systems, seed by seed
called = torch.zeros(len(differences), dtype=torch.bool)
wrong = {}
for seeds, limit in T_LIMITS.items():
    seen = differences[:, :seeds]
    t = seen.mean(1) / (seen.std(1) / seeds**0.5)
    alone = float((t.abs() > limit).float().mean())
    called |= t.abs() > limit
    wrong[seeds] = float(called.float().mean())
    print(f"{seeds:2} seeds: one test is wrong in {alone:.1%}, all looks so far in {wrong[seeds]:.1%} of the studies")
    assert abs(alone - 0.05) < 0.01
assert abs(wrong[10] - 0.17) < 0.015

figure, axes = plt.subplots(figsize=(6, 3.3))
axes.plot(list(wrong), [100 * share for share in wrong.values()], marker="o", label="look after each seed")
axes.axhline(5, color="black", linestyle="--", label="promised")
axes.set_xlabel("seeds")
axes.set_ylabel("equal systems called different (%)")
axes.set_ylim(0)
axes.legend()
plt.tight_layout()
plt.show()

# %% [markdown]
# After ten seeds, 17 % of the studies have called equal systems different at some look. There are two ways out. Fix the
# number of seeds before you start. Or use a test that is made for looking again and again, with a smaller share of the
# 5 % for each look (Lan and DeMets 1983). `multihead study` does the second. It also trains the runs, keeps parameters
# or operations equal, tunes both sides with the same effort, and writes a page. It needs a file:
#
# ```yaml
# question: Is gated attention better than plain attention?
# words: [model=tiny, trainer.max_steps=300]
# baseline: {plain: []}
# variants:
#   gated: [model.attention=gated]
# tasks:
#   lm: [task=lm]
#   classification: [task=classification]
# max_seeds: 8
# equal: parameters
# ```
#
# ```bash
# multihead study file=gated.yaml plugin=second_try.py
# ```
#
# [Studies](../studies.md) shows a whole answer, and [plugins](../plugins.md) lists all parts that you can replace.
#
# ## Before you tell the world
#
# - **Most changes do not help.** Narang et al. (2021, arXiv:2102.11972) tried dozens of published changes to the
#   Transformer in one code. Most gave no better model.
# - **Tune both sides.** A baseline with a bad learning rate loses to everything. Melis et al. (2017, arXiv:1707.05589)
#   tuned LSTMs well, and they were better than the newer networks that had "beaten" them.
# - **Tell the budget.** Which system is best may depend on how much was tried (Dodge et al. 2019, arXiv:1909.03004).
# - **Tell the size.** A result for 0.08 million parameters and 80 steps, such as ours, says nothing about large models.
# - **Tell the failures.** Two variants that you tried and left out belong into the report. If you try 20 useless ideas,
#   one of them is "significant" at 5 % on average.
#
# ## Exercises
#
# ```{admonition} Exercise 12.1
# You test 20 variants that change nothing, each at the level of 5 %. What is the probability that at least one is
# called different? Which level for each test keeps the probability for all of them at 5 %? (Bonferroni)
# ```

# %% tags=["hide-cell"]
at_least_one = 1 - 0.95**20
assert round(at_least_one, 2) == 0.64
assert 1 - (1 - 0.05 / 20) ** 20 < 0.05  # 0.25 % for each test

# %% [markdown]
# ```{admonition} Exercise 12.2
# The differences of five seeds are 0.02, 0.05, 0.01, 0.04 and 0.03. Compute the t-value. Is it significant at 5 %? (The
# limit for five seeds stands in the code above.)
# ```

# %% tags=["hide-cell"]
values = torch.tensor([0.02, 0.05, 0.01, 0.04, 0.03], dtype=torch.double)
t_value = float(values.mean() / (values.std() / 5**0.5))
assert abs(t_value - 4.243) < 1e-3  # 0.03 / (0.0158 / 2.236)
assert t_value > T_LIMITS[5]

# %% [markdown]
# ````{admonition} Exercise 12.3
# Here is another part: a feed-forward that also looks at the token before. Is it causal? Is it right in a decoder that
# reads one token at a time, with a cache? Which of the doctor's checks would find it?
#
# ```python
# def forward(self, x):  # [B, T, D]
#     before = F.pad(x, (0, 0, 1, 0))[:, :-1]
#     return self.down(F.relu(self.up(x + before)))
# ```
# ````

# %% tags=["hide-cell"]
# It is causal: position t sees t and t - 1. But with a cache, x holds only the new token. Then `before` is 0, although
# there is a token before. So writing step by step gives something else than one pass: the check `cache` finds it.
x = torch.randn(1, 4, 2)
shifted = torch.nn.functional.pad(x, (0, 0, 1, 0))[:, :-1]
assert torch.equal(shifted[:, 1:], x[:, :-1])  # causal: only what was before
one_step = torch.nn.functional.pad(x[:, 3:], (0, 0, 1, 0))[:, :-1]
assert not torch.equal(one_step, shifted[:, 3:])  # with a cache it is another input

# %% [markdown]
# ## What you have learned
#
# - A plugin changes one part, and the doctor checks what must hold for each Transformer.
# - A leak of the future makes results better, and makes them worthless.
# - Equal parameters, equal data, the same seeds: only then the difference belongs to your idea.
# - "Not distinguishable" is a result. "Equal" is not what it means.
# - Fix the number of seeds, or use a test that allows you to look.
#
# ## Next
#
# This was the last chapter. [What a broken tutorial teaches](appendix_broken_tutorial.md) collects the mistakes that
# this guide puts right. After that: [the documents about doing things](../index.md).
