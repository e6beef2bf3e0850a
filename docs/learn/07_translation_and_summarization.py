# %% [markdown]
# # 7. Translation and summarization
#
# Chapter 6 built the whole network. This chapter uses it to turn one text into another. It answers three questions:
#
# 1. How does the decoder learn? (**teacher forcing**)
# 2. How does it write a sentence, although it only knows the next token? (**greedy search** and **beam search**)
# 3. What changes if the output shall be a summary, and not a translation? (almost nothing)
#
# You need chapters 3 and 6. You can read the page, or run it: `python docs/learn/07_translation_and_summarization.py`.

# %%
import math
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import sacrebleu
import torch

import multihead
from multihead.config.data import GrammarConfig
from multihead.data.grammar import columns

FULL = os.environ.get("MULTIHEAD_GUIDE") == "full"  # without it, the blocks below are cut down to seconds
RUNS = Path(tempfile.mkdtemp())  # where the chapter's runs go
plt.rcParams["font.size"] = 11


def train(*words: str) -> dict:
    """Trains as `python train.py WORDS` does, without its output."""
    return multihead.train([*words, "logger=none"], quiet=True)


# %% [markdown]
# ## The data, and why a dictionary is not enough
#
# We translate from English to German. The sentences come from the built-in grammar. We take short ones, of at most
# eight words, so that a small model learns something in seconds.

# %%
grammar = GrammarConfig(train_max_words=8, val_size=200 if FULL else 20)
val = columns(grammar, "val", ["english", "german"])

for english, german in list(zip(val["english"], val["german"], strict=True))[:5]:
    print(f"{english:50} {german}")

# %% [markdown]
# Look at the order of the words. A German verb may stand at the end, and some verbs are cut in two. One English `the`
# has many German forms. A program that replaces each word by its most likely partner reaches only 16.9 BLEU on this
# grammar ([results](../results.md#the-built-in-grammar)). A model must look at more than one word to choose the next
# one.
#
# Here is a small model. Training takes some seconds.

# %%
SIZES = ["model.d_model=96", "model.d_ff=192", "data.batch_tokens=1024", "optim.schedule=cosine"]
if FULL:
    SIZES += ["trainer.max_steps=260", "trainer.val_every_n_steps=260", "optim.warmup_steps=25"]
else:
    SIZES += ["debug=smoke", "optim.warmup_steps=2"]
DATA = [f"data.grammar.{key}" for key in ("train_max_words=8", f"val_size={grammar.val_size}", "test_size=10")]
DATA += [f"data.grammar.train_size={10000 if FULL else 400}"]

result = train("task=translation", *SIZES, *DATA, f"run_dir={RUNS / 'translation'}")
run = multihead.load(RUNS / "translation")
print(f"{result['parameters']:,} parameters, {result['steps']} steps")
print(f"BLEU on the validation split: {result['val/bleu']:.1f}")
print(run.translate("The dog sleeps."))
if FULL:
    assert result["val/bleu"] > 45

# %% [markdown]
# **BLEU** (Papineni et al. 2002) compares the words, pairs, triples and quadruples of words of an output with those of
# a reference. It gives 100 if all outputs are equal to their references. It does not measure meaning: a good
# translation with other words gets few points. Always say how the text was cut into words; SacreBLEU (Post 2018,
# arXiv:1804.08771) was made because papers did not. Our `result.json` keeps its signature:

# %%
print(result["signature"])

# %% [markdown]
# ## Teacher forcing
#
# Let $x$ be the source and $y = y_1, \dots, y_T$ the target. The last $y_T$ is the mark `<eos>`, "end of sentence". The
# model splits the probability of the whole target into a product (the chain rule, which is exact):
#
# $$p(y \mid x) = \prod_{t=1}^{T} p(y_t \mid y_1, \dots, y_{t-1}, x)$$
#
# So one step of the decoder answers one question: *given the source and the words before, what is the next word?*
#
# In training, we know all the right words. We give them to the decoder, whatever it would have written itself. This is
# called **teacher forcing** (Williams and Zipser 1989). The input of the decoder is the target, moved by one place:

# %%
task, model = run.task, run.model
source_tokenizer, target_tokenizer = task.tokenizers["source"], task.tokenizers["target"]
bos, eos, pad = target_tokenizer.bos_id, target_tokenizer.eos_id, target_tokenizer.pad_id

source, target = val["english"][0], val["german"][0]
target_ids = target_tokenizer.encode_batch([target])[0]
inputs, labels = [bos, *target_ids], [*target_ids, eos]

print(source)
print(f"{'the decoder reads':20} it must say")
for given, wanted in zip(inputs, labels, strict=True):
    print(f"{target_tokenizer.readable(given):20} {target_tokenizer.readable(wanted)}")

# %% [markdown]
# ```{admonition} A usual mistake: "In training, the decoder writes the output word by word"
# :class: warning
# It does not. The causal mask of chapter 3 hides the future from each position. So **one pass** computes the answer at
# all positions at the same time. This is one reason why a Transformer trains fast.
# ```
#
# Let us check that one pass gives what $T$ single passes give.


# %%
@torch.no_grad()
def encode(text: str) -> torch.Tensor:
    """The encoder's output [1, S, D] for a source."""
    ids = [*source_tokenizer.source_start, *source_tokenizer.encode_batch([text])[0], *source_tokenizer.source_end]
    return model.transformer.encode(torch.tensor([ids]))


@torch.no_grad()
def log_probs(memory: torch.Tensor, prefixes: list[list[int]]) -> torch.Tensor:
    """log p [B, T, V] of the token after each token of prefixes that have the same length."""
    hidden = model.transformer.decode(torch.tensor(prefixes), memory=memory)
    return model.head(hidden).log_softmax(-1)


memory = encode(source)
in_one_pass = log_probs(memory, [inputs])[0]
for t in range(len(inputs)):
    alone = log_probs(memory, [inputs[: t + 1]])[0, -1]
    assert torch.allclose(in_one_pass[t], alone, atol=1e-5)

of_labels = in_one_pass[range(len(labels)), labels]
print(f"log p(target | source) = {of_labels.sum():.4f} in one pass, {run.score(source, target):.4f} by run.score")
assert abs(float(of_labels.sum()) - run.score(source, target)) < 1e-3

# %% [markdown]
# Without label smoothing, the loss of training is the mean of $-\log p$ of the right tokens. This is the
# **cross-entropy**. With label smoothing (section 5.4 of the paper), 10 % of the target's probability is spread over
# the whole vocabulary. Our default is 10 %, too.
#
# Teacher forcing has a price. The model never meets its own mistakes in training, but it does when it writes. This
# difference is called **exposure bias** (Ranzato et al. 2016, arXiv:1511.06732). Bengio et al. (2015, arXiv:1506.03099)
# let the model read its own words from time to time in training.
#
# How would one measure it? First compare two numbers: how many tokens are right if the words before are right, and how
# many sentences are right as a whole if the model writes greedily, on its own.

# %%
accuracy, exact = result["val/token_accuracy"], result["val/exact_match"]
mean_length = sum(len(ids) + 1 for ids in target_tokenizer.encode_batch(val["german"])) / len(val["german"])
print(f"right tokens under teacher forcing: {accuracy:.1%}; sentences have {mean_length:.1f} tokens on average")
print(f"whole sentences right, if errors were independent: {accuracy**mean_length:.1%}")
print(f"whole sentences right when the model writes alone: {exact:.1%}")
if FULL:
    assert exact > accuracy**mean_length + 0.03

# %% [markdown]
# Even at a high accuracy per token, a whole sentence is often wrong, because one wrong token is enough. More sentences
# are right than independent errors would leave, so errors come together in the hard sentences. But this says *nothing*
# about exposure bias. A sentence is right exactly if each of its tokens is right after right words. So as long as no
# error was made, teacher forcing and writing alone are the same, and exact match is the same for both.
#
# Exposure bias can only show *after* the first mistake. So we look there. We take the sentences in which the model's
# most probable token is wrong somewhere. Then we ask for the token after the first mistake, in two ways: once the
# decoder reads the right token at this place, and once its own, wrong one.

# %%
after_mistake: dict[str, list[bool]] = {"the right token": [], "its own token": []}
for source, target in zip(val["english"], val["german"], strict=True):
    labels = [*target_tokenizer.encode_batch([target])[0], eos]
    memory = encode(source)
    own = log_probs(memory, [[bos, *labels[:-1]]])[0].argmax(-1).tolist()  # after right tokens
    place = next((t for t in range(len(labels) - 1) if own[t] != labels[t]), None)  # of the first mistake
    if place is not None:
        for name, token in (("the right token", labels[place]), ("its own token", own[place])):
            answer = log_probs(memory, [[bos, *labels[:place], token]])[0, -1].argmax()
            after_mistake[name].append(int(answer) == labels[place + 1])
for name, hits in after_mistake.items():
    print(f"after {name}, the next one is right in {sum(hits)} of {len(hits)} sentences")
if FULL:
    shares = [sum(hits) / len(hits) for hits in after_mistake.values()]
    assert abs(shares[0] - 0.80) < 0.1 and abs(shares[1] - 0.51) < 0.1
    assert abs(exact - (1 - len(after_mistake["its own token"]) / len(val["german"]))) < 0.02  # as the text says

# %% [markdown]
# After the right token, the next one is right in 80 % of these sentences. After the model's own, wrong token it is
# right in 51 %. So one mistake makes the next one more probable. Some of this is not the model's fault: after another
# word, another word may have to follow. So 29 points are an upper limit of the exposure bias one token later, in this
# model.
#
# ## Greedy search
#
# Now the model writes. We know the encoder's output and the begin mark. The simplest way is to take the most probable
# token, append it, and ask again. This is **greedy search**. Here it is, whole. Padding and begin marks are forbidden.


# %%
def next_tokens(memory: torch.Tensor, prefixes: list[list[int]]) -> torch.Tensor:
    """log p [B, V] of the token that follows each prefix."""
    found = log_probs(memory, prefixes)[:, -1]
    found[:, [pad, bos, target_tokenizer.sep_id]] = -torch.inf
    return found


def greedy(text: str, limit: int = 30) -> tuple[list[int], float]:
    """Ids and log-probability of the output."""
    memory, ids, total = encode(text), [bos], 0.0
    while ids[-1] != eos and len(ids) <= limit:
        best = next_tokens(memory, [ids])[0].max(-1)
        ids, total = [*ids, int(best.indices)], total + float(best.values)
    return ids[1:], total


def as_text(ids: list[int]) -> str:
    """The text of target ids, without the end mark."""
    return target_tokenizer.decode_batch([[i for i in ids if i != eos]])[0]


text = val["english"][1]
ids, total = greedy(text)
print(text, "->", as_text(ids), f"(log p {total:.2f})")
if FULL:
    assert as_text(ids) == run.translate(text)

# %% [markdown]
# ## Why the best word now may be the wrong word
#
# Greedy search never changes its mind. Here is the smallest example of the trouble: a made-up model that writes two
# words.
#
# | first word | p | best second word | p | together |
# | --- | --- | --- | --- | --- |
# | der | 0.6 | Hund | 0.3 | 0.18 |
# | die | 0.4 | Katze | 0.9 | 0.36 |
#
# Greedy search takes `der`, because 0.6 is more than 0.4. So it never finds `die Katze`, which is twice as probable.
#
# **Beam search** keeps not one, but the $K$ most probable beginnings. They are called **beams**. In each step it
# continues each beam by each word, and keeps the $K$ best results. A beam that chose `<eos>` is finished and is put
# aside. It is older than neural networks (Lowerre 1976 used it for speech). With $K = 1$ it is greedy search.


# %%
def beam_search(text: str, width: int, limit: int = 30):
    """Finished outputs as (score, ids), best first, and what was looked at in each step, for the picture.

    The score is log p divided by the length, so that long outputs can win. More about this below.
    """
    memory, beams, finished, steps = encode(text), [(0.0, [bos])], [], []
    for _ in range(limit):
        table = next_tokens(memory, [ids for _, ids in beams])
        table += torch.tensor([[log_p] for log_p, _ in beams])  # [K, V]: beam and next word together
        values, places = table.flatten().topk(2 * width)
        candidates = [
            (log_p, [*beams[place // table.size(1)][1], place % table.size(1)])
            for log_p, place in zip(values.tolist(), places.tolist(), strict=True)
        ]
        ended = [one for one in candidates[:width] if one[1][-1] == eos]
        finished += [(log_p / (len(ids) - 1), ids[1:]) for log_p, ids in ended]
        beams = [one for one in candidates if one[1][-1] != eos][:width]
        steps.append((candidates[: width + 1], beams, ended))
        if len(finished) >= width:  # simple; our library stops exactly, see the exercise at the end
            break
    return sorted(finished, reverse=True), steps


K = 3
by_hand, _ = beam_search(text, K)
for score, ids in by_hand:
    print(f"score {score:.3f}  {as_text(ids)}")

# %% [markdown]
# The library does the same for many sentences at once, with a cache of keys and values (chapter 8):

# %%
for output in run.predict([text], num_beams=K, num_return_sequences=K)[0]:
    print(f"score {output['score']:.3f}  {output['text']}")
if FULL:
    best = run.predict([text], num_beams=K)[0][0]
    assert as_text(by_hand[0][1]) == best["text"] and abs(by_hand[0][0] - best["score"]) < 1e-3

# %% [markdown]
# ## Beam search as a tree
#
# We look for a short validation sentence that beam search translates right, and greedy search wrong. Then we draw the
# search. Time goes from left to right. Each box is a token (the mark ▁ is the blank before a word), and the number is
# its $\log p$ together with all tokens before it. Black lines are beams that were kept. Grey ones were looked at and
# dropped. The path of greedy search is orange, and the output of beam search is green.

# %%
sources, references = val["english"][: 100 if FULL else 6], val["german"][: 100 if FULL else 6]
alone = [outputs[0] for outputs in run.predict(sources)]
wide = [outputs[0] for outputs in run.predict(sources, num_beams=K)]
different = [i for i in range(len(sources)) if wide[i]["log_prob"] > alone[i]["log_prob"] + 1e-3]
print(f"beam search found a more probable output for {len(different)} of {len(sources)} sentences")
mended = [i for i in different if wide[i]["text"] == references[i]]
chosen = min(mended or different or [0], key=lambda i: len(target_tokenizer.encode_batch([wide[i]["text"]])[0]))
print(sources[chosen])
print("greedy:", alone[chosen])
print("beam:  ", wide[chosen])


# %%
def draw(text: str, width: int, most_steps: int = 12) -> None:
    """Draws the tree of a beam search."""
    finished, steps = beam_search(text, width)
    best, (first, _) = finished[0][1] if finished else [], greedy(text)
    places = {(bos,): (0.0, 0.0)}
    _, axes = plt.subplots(figsize=(13, 5))
    for depth, (candidates, kept, ended) in enumerate(steps[:most_steps], start=1):
        going = [ids for _, ids in [*kept, *ended]]
        rows = sorted(candidates + [one for one in kept if one not in candidates], reverse=True)
        for row, (log_p, ids) in enumerate(rows):
            x, y = float(depth), -float(row)
            places[tuple(ids)] = (x, y)
            x0, y0 = places[tuple(ids[:-1])]
            on_best, on_greedy = ids[1:] == best[:depth], ids[1:] == first[:depth]
            color = "tab:green" if on_best else "tab:orange" if on_greedy else "black" if ids in going else "lightgray"
            axes.plot([x0, x], [y0, y], color=color, linewidth=2.5 if on_best or on_greedy else 1, zorder=1)
            box = {"facecolor": "white", "edgecolor": color, "pad": 2}
            label = f"{target_tokenizer.readable(ids[-1])}\n{log_p:.2f}"
            axes.text(x, y, label, ha="center", va="center", fontsize=9, bbox=box, zorder=2)
    axes.text(0, 0, "<bos>", ha="center", va="center", fontsize=9, bbox={"facecolor": "white", "pad": 2}, zorder=2)
    axes.set_xlim(-0.5, min(len(steps), most_steps) + 0.6)
    axes.set_ylim(min(y for _, y in places.values()) - 0.6, 0.8)
    axes.axis("off")
    axes.set_title(f"{text}   (beam search with {width} beams)", fontsize=11)


draw(sources[chosen], K)
plt.tight_layout()
plt.show()

# %% [markdown]
# ## What beam search is not
#
# ```{admonition} A usual mistake: "Beam search finds the best translation"
# :class: warning
# It is not an exact search: it may drop the beginning of the most probable output. And the most probable output is not
# always what we want. For half of the sentences of a strong translation model, the most probable output of all was the
# empty sentence (Stahlberg and Byrne 2019, arXiv:1908.10090). Koehn and Knowles (2017, arXiv:1706.03872, section 3.6)
# found that very wide beams make translations worse.
# ```
#
# **Short outputs have an advantage.** Each token multiplies the probability by a number below 1. So we divide $\log p$
# by $\text{length}^\alpha$, the **length penalty**. With $\alpha = 0$ nothing is divided. Our default is $\alpha = 1$,
# as in Hugging Face's library. Wu et al. (2016, arXiv:1609.08144, section 7) divide by
# $((5 + \text{length})/6)^\alpha$, and the Transformer paper uses their formula with $\alpha = 0.6$ and 4 beams
# (section 6.1).
#
# Here are the outputs that ended in the tree above, best first. Which one has the highest $\log p$, and which one wins
# if it is divided by the length?

# %%
finished, _ = beam_search(sources[chosen], K)
print(f"{'log p':>7} {'tokens':>7} {'log p / tokens':>15}")
for score, ids in finished:
    print(f"{score * len(ids):7.2f} {len(ids):7} {score:15.3f}  {as_text(ids)}")
without = max(finished, key=lambda one: one[0] * len(one[1]), default=(0.0, []))
if finished:
    assert len(without[1]) <= len(finished[0][1])  # the winner without division is never the longer one

# %% [markdown]
# How much do beams gain for our small model? We measure BLEU with several widths, and ask how often the empty output
# would be the most probable.


# %%
def bleu(sources: list[str], references: list[str], **decoding: float) -> float:
    """BLEU of what the run writes."""
    return sacrebleu.corpus_bleu(run.translate(sources, **decoding), [references]).score


scores = {width: bleu(sources, references, num_beams=width) for width in (1, 2, 4, 8)}
for width, score in scores.items():
    print(f"{width} beams: BLEU {score:.1f}")

empty = run.score(sources, [""] * len(sources))
wins = sum(nothing > output["log_prob"] for nothing, output in zip(empty, wide, strict=True))
print(f"the empty output is more probable than the beam's output in {wins} of {len(sources)} sentences")

if FULL:
    assert scores[4] > scores[1]
    assert wins < 10

# %% [markdown]
# Here, four beams are better than one, and the empty output is no danger. The grammar has one right translation of each
# sentence, so a more probable output is more often the right one. For real text, measure it anew.
#
# ## Summarization is the same
#
# A summary is a target text, too. It is shorter than its source, and it uses many of its words. The network, teacher
# forcing and beam search stay as they are. The grammar has passages with their gist:

# %%
stories = columns(GrammarConfig(val_size=60 if FULL else 20), "val", ["passage", "gist"])
print(stories["passage"][0])
print("->", stories["gist"][0])

# %% [markdown]
# The gist joins facts from several sentences. So the beginning of the text is not a good summary. One part of the
# network can change: the head. With `task.copy=true` it is a **pointer-generator** (See et al. 2017, arXiv:1704.04368).
# At each step it can either write a token of the vocabulary, or copy a token of the source. The attention weights say
# which token. This helps with names, which the model may never have seen.
#
# Summaries are scored by **ROUGE** (Lin 2004). ROUGE-L takes the longest sequence of words that output and reference
# have in common, in this order.

# %%
GIST = ["model.d_model=64", "model.d_ff=128", "data.batch_tokens=1024", "optim.schedule=cosine", "task.copy=true"]
GIST += [f"data.grammar.{key}" for key in (f"val_size={len(stories['gist'])}", "test_size=10")]
if FULL:
    GIST += ["data.grammar.train_size=3000", "trainer.max_steps=70", "optim.warmup_steps=10"]
    GIST += ["trainer.val_every_n_steps=70"]
else:
    GIST += ["debug=smoke", "trainer.max_steps=4", "data.grammar.train_size=200"]

found = train("task=summarization", *GIST, f"run_dir={RUNS / 'summarization'}")
summarizer = multihead.load(RUNS / "summarization")
first_words = [" ".join(passage.split()[:8]) for passage in stories["passage"]]


def longest_common(a: list[str], b: list[str]) -> int:
    """Length of the longest sequence of words that both have, in this order."""
    table = [0] * (len(b) + 1)
    for word in a:
        before = 0
        for j, other in enumerate(b, start=1):
            before, table[j] = table[j], before + 1 if word == other else max(table[j], table[j - 1])
    return table[-1]


def rouge_l(output: str, reference: str) -> float:
    """The F-measure of the longest common sequence, from 0 to 100."""
    a, b = output.lower().strip(".").split(), reference.lower().strip(".").split()
    return 200 * longest_common(a, b) / (len(a) + len(b))


lead = sum(map(rouge_l, first_words, stories["gist"])) / len(first_words)
print(f"first 8 words: ROUGE-L {lead:.1f};  model: ROUGE-L {found['val/rougeL']:.1f}")
print(summarizer.summarize(stories["passage"][0]))
if FULL:
    assert found["val/rougeL"] > 80 > 40 > lead

# %% [markdown]
# The summarizer learns faster than the translator: most words of the gist stand in the passage, and it can copy them.

# %% [markdown]
# ## Exercises
#
# ```{admonition} Exercise 7.1
# Write beam search for the made-up model of the table above, for any number of beams. Show that one beam finds
# `der Hund`, and that two beams find `die Katze`.
# ```

# %% tags=["hide-cell"]
FIRST = {"der": 0.6, "die": 0.4}
SECOND = {"der": {"Hund": 0.3, "Mann": 0.3}, "die": {"Katze": 0.9}}


def two_words(width: int) -> str:
    """The most probable pair of words that a search with this many beams finds."""
    beams = sorted(FIRST.items(), key=lambda one: -one[1])[:width]
    pairs = {f"{word} {second}": p * q for word, p in beams for second, q in SECOND[word].items()}
    return max(pairs, key=lambda pair: pairs[pair])


assert two_words(1) == "der Hund"
assert two_words(2) == "die Katze"

# %% [markdown]
# ```{admonition} Exercise 7.2
# A finished output has 4 tokens and $\log p = -2$. Another one has 6 tokens and $\log p = -2.4$. Which of them wins
# with $\alpha = 0$, and which with $\alpha = 1$? At which $\alpha$ are they equal?
# ```

# %% tags=["hide-cell"]


def penalised(log_p: float, length: int, alpha: float) -> float:
    """The score by which finished outputs are ranked."""
    return log_p / length**alpha


assert penalised(-2.0, 4, 0) > penalised(-2.4, 6, 0)
assert penalised(-2.0, 4, 1) < penalised(-2.4, 6, 1)
equal = math.log(2.4 / 2.0) / math.log(6 / 4)  # 2 / 4^a = 2.4 / 6^a
assert abs(penalised(-2.0, 4, equal) - penalised(-2.4, 6, equal)) < 1e-12
assert abs(equal - 0.45) < 0.01

# %% [markdown]
# ```{admonition} Exercise 7.3
# Our `beam_search` stops as soon as it has $K$ finished outputs. When may it stop for sure, so that no running beam can
# still win? Assume $\alpha > 0$ and at most $L$ tokens.
# ```

# %% tags=["hide-cell"]
# The log p of a running beam is at most 0 and can only fall. Its score is log p / length^alpha. As log p is negative,
# the score is best for the greatest length: at most log p / L^alpha. If this is not above the worst finished score that
# we want to return, the beam cannot win any more. This is the rule of multihead/model/beam_search.py.


def may_stop(running: float, worst_finished: float, limit: int, alpha: float) -> bool:
    """Whether no continuation of a beam with this log p can still beat the finished score."""
    return worst_finished >= running / limit**alpha


assert may_stop(running=-30.0, worst_finished=-0.5, limit=30, alpha=1.0)
assert not may_stop(running=-3.0, worst_finished=-0.5, limit=30, alpha=1.0)
for length in range(1, 31):  # no length gives the first beam a score above its bound
    assert penalised(-30.0, length, 1.0) <= -30.0 / 30

# %% [markdown]
# ## What you have learned
#
# - The chain rule turns "write a sentence" into "choose the next token".
# - In training the decoder reads the right words, moved by one place. One pass trains all positions.
# - When it writes, it reads its own words. Greedy search takes the best next token. Beam search keeps several
#   beginnings, and can find a more probable output.
# - The most probable output is not always the best one. A length penalty and BLEU are conventions: name them.
# - Summarization is translation with another table. A copying head helps with names.
#
# ## Next
#
# [8. Language modelling and generation](08_language_modelling_and_generation.py). Without a source, the most probable
# text is dull. There we draw the words by chance, and control the chance.
