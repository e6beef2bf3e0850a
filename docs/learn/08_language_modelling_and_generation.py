# %% [markdown]
# # 8. Language modelling and generation
#
# A language model gives a probability to each text. To **generate** means to draw a text from these probabilities. This
# chapter shows
#
# 1. what perplexity is, and how low it can get;
# 2. how a text is drawn: temperature, top-k and top-p;
# 3. why the key-value cache changes the work, but not the result.
#
# You need chapters 3 and 6. You can read the page, or run it:
# `python docs/learn/08_language_modelling_and_generation.py`.

# %%
import math
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import multihead
from multihead.data.grammar import examples, reference
from multihead.model.sampling import divide_by_temperature, keep_top_k, keep_top_p

FULL = os.environ.get("MULTIHEAD_GUIDE") == "full"  # without it, the blocks below are cut down to seconds
RUN = Path(tempfile.mkdtemp()) / "run"
torch.manual_seed(0)
plt.rcParams["font.size"] = 11

# %% [markdown]
# ## A small language model
#
# The model is a decoder without an encoder. It reads a text and says at each position how probable each next token is.
# The text comes from the English side of the built-in grammar: lines of one to six sentences.

# %%
WORDS = ["task=lm", "logger=none", "model.d_model=96", "model.d_ff=192", "tokenizer.vocab_size=2000"]
WORDS += ["optim.schedule=cosine", "task.stride=64", "model.max_len=128"]
if FULL:
    WORDS += ["trainer.max_steps=240", "trainer.val_every_n_steps=40", "optim.warmup_steps=20"]
    WORDS += ["data.grammar.train_size=8000", "data.grammar.val_size=100", "data.grammar.test_size=200"]
else:
    WORDS += ["debug=smoke", "data.grammar.train_size=100"]

result = multihead.train([*WORDS, f"run_dir={RUN}"], quiet=True)  # without quiet, you see the progress
run = multihead.load(RUN)
print(f"{result['parameters']:,} parameters, {result['tokens']:,} tokens read")
print("The dog", run.generate("The dog", do_sample=True, seed=1, max_new_tokens=30))
if FULL:
    assert result["test/bits_per_byte"] < 1.15

# %% [markdown]
# ## Perplexity
#
# The loss is the mean of $-\log p$ of the next token, in nats (natural logarithm). **Perplexity** is
# $\exp(\text{loss})$. A perplexity of 8 means: the model is as unsure as somebody who chooses among 8 equally probable
# tokens.

# %%
print(f"test loss {result['test/loss']:.3f} nats per token, perplexity {result['test/perplexity']:.2f}")
assert abs(math.exp(result["test/loss"]) - result["test/perplexity"]) < 1e-3

# %% [markdown]
# Three mistakes about it are common.
#
# ```{admonition} A usual mistake: "The perplexity of a test set is the mean of the perplexities of its texts"
# :class: warning
# A short text must not count as much as a long one. First take the mean of the losses of all tokens, then the
# exponential.
# ```
#
# Here are a text of one token and a text of nine:

# %%
losses = [[4.0], [1.0] * 9]
tokens = [loss for text in losses for loss in text]
right = math.exp(sum(tokens) / len(tokens))
wrong = sum(math.exp(sum(text) / len(text)) for text in losses) / len(losses)
print(f"perplexity {right:.2f}; the mean of the texts' perplexities would be {wrong:.2f}")
assert round(right, 2) == 3.67
assert round(wrong, 2) == 28.66

# %% [markdown]
# ```{admonition} A usual mistake: "The model with the lower perplexity is the better one"
# :class: warning
# Only if both cut the text in the same way. If tokens are longer, there are fewer of them, and each one is harder. So
# perplexity per token goes up, although the model is not worse.
# ```
#
# **Bits per byte** does not have this trouble: it is all bits of the text, divided by the bytes of the text. Bytes do
# not depend on the tokenizer.

# %%
grammar = run.config.data.grammar
lines = examples(grammar, "test", ("text",))
num_bytes = sum(len(line.texts[0].encode()) + 1 for line in lines)  # the end of a line counts, too
print(f"the model: {result['test/bits_per_byte']:.3f} bits per byte")

# %% [markdown]
# ```{admonition} A usual mistake: "With enough training, the loss goes to 0"
# :class: warning
# A text is partly free. No model can know whether the next word is `dog` or `cat`. The mean of $-\log p$ under the true
# source of the text is its **entropy** (Shannon 1948). On new texts, no model can get below it, on average. (On texts
# that it reads again and again it can: it learns them by heart.)
# ```
#
# For real language, nobody knows the true probabilities. For our grammar we do. A sentence is built by rules, and each
# rule has a probability. The probability of the sentence is the product. So we know the best possible score:

# %%
optimum = reference(grammar, "test", "text")["bits_per_byte_learnable"]
by_hand = -sum(line.log_prob for line in lines) / math.log(2) / num_bytes
print(f"the grammar: {optimum:.3f} bits per byte")
print(lines[0].texts[0])
print(f"log p under the grammar {lines[0].log_prob:.1f}, under the model {run.score(lines[0].texts[0]):.1f}")
assert abs(by_hand - optimum) < 1e-9
assert result["test/bits_per_byte"] > optimum

# %% [markdown]
# Let us score many lines by both. A point above the diagonal is a line that the model finds less probable than the
# grammar does. A single point may be below it. The mean cannot (but for chance in the choice of lines). The mean
# distance is called the **Kullback-Leibler divergence**: what the model still has to learn.

# %%
some = lines[: 100 if FULL else 10]
own = [-score for score in run.score([line.texts[0] for line in some])]
best = [-line.log_prob for line in some]
gap = sum(a - b for a, b in zip(own, best, strict=True)) / len(some)
print(f"the model needs {gap:.1f} nats more for a line than the grammar")
assert gap > 0

curve = run.metrics["val/bits_per_byte"].dropna()  # by step
figure, (left, right_axes) = plt.subplots(1, 2, figsize=(11, 4))
left.scatter(best, own, s=12)
left.plot([0, max(best)], [0, max(best)], color="black", linewidth=1)
left.set_xlabel("-log p of a line under the grammar")
left.set_ylabel("-log p under the model")
right_axes.plot(curve.index, curve, marker="o")
right_axes.axhline(optimum, color="black", linestyle="--", label="the grammar's own")
right_axes.set_xlabel("step")
right_axes.set_ylabel("bits per byte")
right_axes.legend()
plt.tight_layout()
plt.show()

# %% [markdown]
# With more time the curve goes on: `python train.py task=lm` reaches 0.810 bits per byte, where the grammar has 0.794
# ([results](../results.md#the-built-in-grammar)).
#
# ## From scores to words
#
# The last layer gives one number for each token, its **logit**. Softmax turns logits into probabilities. Here are the
# most probable tokens after a prompt.

# %%
tokenizer, model = run.task.tokenizers["text"], run.model


@torch.no_grad()
def logits_after(prompt: str) -> torch.Tensor:
    """Logits [V] of the next token. `opening` is the mark with which each text begins."""
    ids = [*tokenizer.opening, *tokenizer.encode_batch([prompt])[0]]
    return model.head(model.transformer.decode(torch.tensor([ids])))[0, -1].float()


logits = logits_after("The dog")
probabilities = logits.softmax(-1)
for p, token in zip(*probabilities.topk(5), strict=True):
    print(f"{p:6.3f} {tokenizer.readable(int(token))}")

# %% [markdown]
# To **sample** is to draw the next token with exactly these probabilities, append it, and go on. If the model is good,
# the texts look like those it learned from. Let us check that the library draws what it should: we draw the next token
# many times, and compare how often each one came with its probability.

# %%
draws = 2000 if FULL else 200
outputs = run.predict(["The dog"], do_sample=True, num_return_sequences=draws, max_new_tokens=1, seed=0)[0]
counts: dict[str, int] = {}
for output in outputs:
    counts[output["text"]] = counts.get(output["text"], 0) + 1
top = int(probabilities.argmax())
text_of_top = tokenizer.decode_batch([[*tokenizer.encode_batch(["The dog"])[0], top]])[0][len("The dog") :]
share, p = counts.get(text_of_top, 0) / draws, float(probabilities[top])
print(f"{text_of_top!r}: probability {p:.3f}, drawn in {share:.3f} of {draws} draws")
assert abs(share - p) < 4 * math.sqrt(p * (1 - p) / draws) + 1e-9  # four standard deviations

# %% [markdown]
# ## Temperature
#
# **Temperature** $\tau$ divides the logits before the softmax: $p_i \propto \exp(z_i / \tau)$. The word comes from
# physics, and Ackley, Hinton and Sejnowski (1985) used it in networks. It is the same as $p_i^{1/\tau}$, made to sum to
# 1 again.
#
# - $\tau = 1$: the model's own probabilities.
# - $\tau < 1$: probable tokens get more probable. Towards 0 it is greedy search.
# - $\tau > 1$: flatter. As $\tau$ grows without limit, all tokens become equally probable, also the nonsense.
#
# ```{admonition} A usual mistake: "A high temperature makes a model creative"
# :class: warning
# It adds no idea that the model does not have. It only moves probability between tokens: from probable ones to
# improbable ones.
# ```

# %%
for temperature in (0.5, 2.0):
    cooled = divide_by_temperature(logits[None], temperature)[0].softmax(-1)
    power = probabilities.double() ** (1 / temperature)
    assert torch.allclose(cooled.double(), power / power.sum(), atol=1e-5)

figure, axes = plt.subplots(figsize=(10, 3.5))
order = probabilities.argsort(descending=True)[:12]
for number, temperature in enumerate((0.5, 1.0, 2.0)):
    heights = (logits / temperature).softmax(-1)[order].tolist()
    axes.bar([i + 0.28 * number for i in range(len(order))], heights, width=0.26, label=f"temperature {temperature}")
axes.set_xticks([i + 0.28 for i in range(len(order))], [tokenizer.readable(int(i)) for i in order], rotation=40)
axes.set_ylabel("probability")
axes.legend()
plt.tight_layout()
plt.show()

# %% [markdown]
# ## Top-k and top-p
#
# A vocabulary has thousands of tokens. Each improbable one has a tiny probability, but there are many of them. Together
# they are drawn from time to time, and one absurd word spoils the rest of the text. Two remedies cut this tail off:
#
# - **Top-k** (Fan et al. 2018, arXiv:1805.04833) keeps the $k$ most probable tokens.
# - **Top-p**, or nucleus sampling (Holtzman et al. 2019, arXiv:1904.09751), keeps the fewest most probable tokens that
#   together have the probability $p$. So it keeps few tokens where the model is sure, and many where it is not.
#
# Here is top-p in five lines, and the library's, which is equal.


# %%
def nucleus(logits: torch.Tensor, p: float) -> torch.Tensor:
    """Whether each token [V] is kept."""
    ordered, order = logits.softmax(-1).sort(descending=True)
    before = ordered.cumsum(0) - ordered  # probability of all tokens that are more probable
    kept = torch.zeros_like(logits, dtype=torch.bool)
    kept[order[before < p]] = True
    return kept


assert torch.equal(nucleus(logits, 0.9), keep_top_p(logits[None], 0.9)[0] > -math.inf)
assert int((keep_top_k(logits[None], 5)[0] > -math.inf).sum()) == 5

for prompt in ("The", "The dog", "The dog does not"):
    found = logits_after(prompt)
    print(f"{prompt!r}: top_p=0.9 keeps {int(nucleus(found, 0.9).sum())} of {len(found)} tokens")

# %% [markdown]
# What do the settings do to whole texts? We draw texts and look at two numbers: how many of them are different, and how
# probable the model finds them per token. Also we look at repetition: the share of four-word sequences in a long text
# that occurred in it before. Holtzman et al. (section 3) saw that the most probable continuation repeats itself.

# %%
SETTINGS = {
    "greedy": {},
    "temperature 0.5": {"do_sample": True, "temperature": 0.5},
    "top-p 0.9": {"do_sample": True, "top_p": 0.9},
    "temperature 1": {"do_sample": True},
    "temperature 2": {"do_sample": True, "temperature": 2.0},
}


def repeated(text: str) -> float:
    """Share of the four-word sequences that occurred in the text before."""
    words = text.split()
    fours = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
    return 1 - len(set(fours)) / max(1, len(fours))


size = 20 if FULL else 2
prompts, repetition = ["The"] * size, {}
print(f"{'':16} {'different':>10} {'nats per token':>15} {'repeated':>9}")
for name, options in SETTINGS.items():
    found = [outputs[0] for outputs in run.predict(prompts, max_new_tokens=60 if FULL else 10, **options)]
    texts = [output["text"] for output in found]
    nats = [-output["score"] for output in found]  # the score is log p divided by the number of tokens
    again = repetition[name] = sum(map(repeated, texts)) / size
    print(f"{name:16} {len(set(texts)):7} of {size} {sum(nats) / size:13.2f} {again:9.0%}")
    print(f"    {texts[0][:90]!r}")
if FULL:
    assert repetition["greedy"] > max(again for name, again in repetition.items() if name != "greedy")

# %% [markdown]
# Greedy search gives one text, always the same, and it repeats itself more than all others. A high temperature gives
# texts that the model itself finds improbable. The settings between are a choice, and there is no setting that is right
# for all purposes.
#
# ## The key-value cache
#
# To write token 100, the model must attend to the 99 tokens before it. It needs their keys and values. Those do not
# change when a token is added, because a position does not see later ones (chapter 3). So we keep them. This store is
# the **key-value cache**. With it, each step computes one new position.
#
# The cache is not an approximation. We check that reading token by token with the cache gives the hidden states of one
# pass over the whole text.

# %%
ids = [*tokenizer.opening, *tokenizer.encode_batch([lines[0].texts[0]])[0]][:40]
with torch.no_grad():
    whole = model.transformer.decode(torch.tensor([ids]))[0]  # [T, D]
    cache = model.transformer.new_cache()
    steps = [model.transformer.decode(torch.tensor([[i]]), cache=cache)[0, 0] for i in ids]
difference = float((torch.stack(steps) - whole).abs().max())
key, value = cache.layers[0].self_attention.read()
print(f"largest difference {difference:.1e}")
print(f"the cache of layer 1 holds keys of shape {list(key.shape)}: text, positions, heads, head_dim")
assert difference < 1e-4
assert key.shape[1] == len(ids)

# %% [markdown]
# Without the cache, step $t$ computes $t$ positions again. For $n$ tokens these are $1 + 2 + \dots + n = n(n+1)/2$
# positions. With the cache there are $n$.
#
# The price is memory. The cache has two numbers (a key and a value) for each layer, head, head dimension and position.
# It grows with the length and with the number of texts, and the weights do not. So for many or long texts it can get
# larger than the weights (exercise 8.2). Grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245; our
# `model.num_kv_heads`) shares keys and values among heads, so that there are fewer of them.

# %%
lengths = list(range(1, 513))
figure, (left, middle) = plt.subplots(1, 2, figsize=(11, 3.5))
left.plot(lengths, [n * (n + 1) / 2 for n in lengths], label="without cache")
left.plot(lengths, lengths, label="with cache")
left.set_yscale("log")
left.set_xlabel("tokens written")
left.set_ylabel("positions computed")
left.legend()
sizes = {}
for kv_heads in (8, 2, 1):
    sizes[kv_heads] = [2 * 6 * kv_heads * 64 * 4 * n / 2**20 for n in lengths]  # 6 layers, head_dim 64, 4 bytes
    middle.plot(lengths, sizes[kv_heads], label=f"{kv_heads} heads of keys and values")
middle.set_xlabel("tokens in the cache")
middle.set_ylabel("MiB for one text")
middle.legend()
plt.tight_layout()
plt.show()

config = run.config.model
numbers = sum(x.numel() for layer in cache.layers for x in layer.self_attention.read())
assert numbers == 2 * config.num_decoder_layers * config.kv_heads * config.head_dim * len(ids)

# %% [markdown]
# ## Exercises
#
# ```{admonition} Exercise 8.1
# A model has a loss of 2.1 nats per token. A token has 4.2 bytes on average. What are its perplexity and its bits per
# byte?
# ```

# %% tags=["hide-cell"]
perplexity, bits_per_byte = math.exp(2.1), 2.1 / math.log(2) / 4.2
assert abs(perplexity - 8.17) < 0.01
assert abs(bits_per_byte - 0.721) < 0.001

# %% [markdown]
# ```{admonition} Exercise 8.2
# A model has 32 layers, 32 heads of keys and values, and a head dimension of 128. Numbers take 2 bytes. How large is
# the cache of one text of 4,096 tokens? And with 8 heads of keys and values? The weights take 13 GiB. From which length
# of one text on is the cache with 32 heads larger?
# ```

# %% tags=["hide-cell"]


def cache_bytes(layers: int, kv_heads: int, head_dim: int, tokens: int, num_bytes: int) -> int:
    """Bytes of keys and values of one text."""
    return 2 * layers * kv_heads * head_dim * tokens * num_bytes


assert cache_bytes(32, 32, 128, 4096, 2) == 2 * 2**30  # 2 GiB
assert cache_bytes(32, 8, 128, 4096, 2) == 2**29  # half a GiB
longest = 13 * 2**30 // cache_bytes(32, 32, 128, 1, 2)  # the cache takes half a MiB for each token
assert longest == 26 * 1024  # larger beyond 26,624 tokens, or with seven texts of 4,096 tokens

# %% [markdown]
# ```{admonition} Exercise 8.3
# Does the order of temperature and top-p matter? Take the logits `[2, 1, 0]` and a temperature of 2. How many tokens
# are kept if the temperature comes first, and how many if top-p comes first? Try `top_p=0.7` and `top_p=0.6`.
# ```

# %% tags=["hide-cell"]
z = torch.tensor([[2.0, 1.0, 0.0]])
temperature_first = keep_top_p(divide_by_temperature(z, 2.0), 0.7)
top_p_first = divide_by_temperature(keep_top_p(z, 0.7), 2.0)
assert int((temperature_first > -math.inf).sum()) == 2  # softmax(1, 0.5, 0) is 0.51, 0.31, 0.19
assert int((top_p_first > -math.inf).sum()) == 2  # softmax(2, 1, 0) is 0.67, 0.24, 0.09
# With 0.7 the order does not matter. With 0.6 it does:
assert int((keep_top_p(z, 0.6) > -math.inf).sum()) == 1
assert int((keep_top_p(divide_by_temperature(z, 2.0), 0.6) > -math.inf).sum()) == 2

# %% [markdown]
# ## What you have learned
#
# - Perplexity is the exponential of the mean loss over all tokens. Compare models by bits per byte if their tokenizers
#   differ.
# - The loss cannot fall below the entropy of the text. For the built-in grammar we know it.
# - Sampling draws from the model's probabilities. Temperature, top-k and top-p change them before the draw.
# - The key-value cache saves work and costs memory. The result is the same.
#
# ## Next
#
# [9. Classification of sentiment and spam](09_classification.py). There one vector must speak for a whole text.
