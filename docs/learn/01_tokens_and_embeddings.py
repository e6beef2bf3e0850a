# %% [markdown]
# # 1. Tokens and embeddings
#
# A Transformer computes with numbers. A text is not a number. So two things happen before the first layer:
#
# 1. The text is cut into **tokens**. Each token has a number, its **id**.
# 2. Each id is replaced by a list of numbers, its **embedding**.
#
# This chapter does both by hand. Then it does both with the library, and compares.
#
# You need Python and a little PyTorch. You can read the page, or run it: `python
# docs/learn/01_tokens_and_embeddings.py`.

# %%
import collections
import itertools
import os

import matplotlib.pyplot as plt
import torch
from torch import nn

from multihead.config.data import GrammarConfig, TokenizerConfig
from multihead.data.grammar import columns
from multihead.data.tokenizer import train_tokenizer

FULL = os.environ.get("MULTIHEAD_GUIDE") == "full"  # without it, the blocks below are cut down to seconds
torch.manual_seed(0)
plt.rcParams["font.size"] = 11

# %% [markdown]
# ## The data
#
# The library has a small grammar that writes English and German sentences with the same meaning. We use it in the whole
# guide, because it needs no download. A model never sees the sentences of the test split when it learns.

# %%
grammar = GrammarConfig(train_size=5000 if FULL else 600, test_size=500 if FULL else 100)
train = columns(grammar, "train", ["english", "german"])
test = columns(grammar, "test", ["english", "german"])

for english, german in list(zip(test["english"], test["german"], strict=True))[:3]:
    print(english, "|", german)

# %% [markdown]
# ## Three ways to cut a text
#
# The first idea is to take **words**: cut at the spaces ("Garten." with its full stop is then another word than
# "Garten"). The second idea is to take **characters**. A third one is to take **bytes**, the numbers from 0 to 255 in
# which a computer stores the text.
#
# We measure two things for the German sentences: how many tokens a sentence has, and how many tokens are unknown. A
# token of the test split is unknown if it never occurs in the training split. The model sees all unknown words as one
# and the same token, `<unk>`.

# %%
print(f"{'kind':6} {'entries':>8} {'tokens per sentence':>20} {'unknown':>9}")
lengths, unknown = {}, {}
for kind in ("word", "char", "byte"):
    tokenizer = train_tokenizer(TokenizerConfig(kind=kind), train["german"])
    ids = tokenizer.encode_batch(test["german"])
    lengths[kind] = sum(map(len, ids)) / len(ids)
    unknown[kind] = tokenizer.unk_rate(ids)
    print(f"{kind:6} {tokenizer.vocab_size:8,} {lengths[kind]:20.1f} {unknown[kind]:9.1%}")

assert unknown["char"] == unknown["byte"] == 0 < unknown["word"]
assert lengths["word"] < lengths["char"] < lengths["byte"]  # ä, ö, ü and ß are two bytes each
if FULL:
    assert abs(lengths["word"] - 11.5) < 0.1
    assert abs(lengths["byte"] - 71.8) < 0.1 and lengths["char"] > 0.95 * lengths["byte"]
    assert abs(unknown["word"] - 0.023) < 0.001

# %% [markdown]
# With 5,000 sentences to learn from, words give short sentences (11.5 tokens), but 2.3 % of the tokens are unknown,
# although this grammar has only a few hundred base words. No byte is unknown, but a sentence is six times as long (71.8
# tokens), and with characters it is nearly as long. Length is expensive: each token will be compared with each other
# token (chapter 2).
#
# ## Between words and characters: byte-pair encoding
#
# We want few tokens, and none unknown. **Byte-pair encoding** (Sennrich et al. 2016, arXiv:1508.07909, section 3.2)
# starts with characters. Then it repeats one step: find the pair of neighbours that occurs most often, and make it one
# new token. Here is the whole algorithm.


# %%
def merge(tokens: list[str], pair: tuple[str, str]) -> list[str]:
    """Joins each occurrence of the pair."""
    merged: list[str] = []
    for token in tokens:
        if merged and (merged[-1], token) == pair:
            merged[-1] += token
        else:
            merged.append(token)
    return merged


def learn_pairs(counts: dict[str, int], number: int) -> list[tuple[str, str]]:
    """Finds the pairs to merge, in their order, from words and how often each word occurs."""
    words = {word: list(word) for word in counts}
    pairs = []
    for _ in range(number):
        found: collections.Counter = collections.Counter()
        for word, tokens in words.items():
            for pair in itertools.pairwise(tokens):
                found[pair] += counts[word]
        pairs.append(found.most_common(1)[0][0])
        words = {word: merge(tokens, pairs[-1]) for word, tokens in words.items()}
    return pairs


counts = {"sleeps": 6, "sleeping": 5, "keeps": 4, "reading": 2}
pairs = learn_pairs(counts, 6)
print("pairs:", ["+".join(pair) for pair in pairs])

tokens = list("keeping")  # a word that was not in the list
for pair in pairs:
    tokens = merge(tokens, pair)
print("keeping:", tokens)
assert tokens == ["k", "eep", "ing"]
assert set(tokens) <= set("".join(counts)) | {a + b for a, b in pairs}  # all known

# %% [markdown]
# "eep" occurs 15 times, so it became a token. The new word "keeping" is spelled from known pieces. No word can be
# unknown, as long as its characters are known: they stay in the vocabulary. ("sweeping" would be unknown: no word of
# the list has a "w".)
#
# The library does the same with bytes instead of characters, and puts the space before a word into the token (shown as
# `▁`). It learns the pairs from the training split. The number of entries is ours to choose.

# %%
sizes = [270, 300, 400, 600, 1000, 1500, 2000] if FULL else [270, 400, 1000]
subword = {}
for size in sizes:
    tokenizer = train_tokenizer(TokenizerConfig(kind="bpe", vocab_size=size), train["german"])
    ids = tokenizer.encode_batch(test["german"])
    subword[size] = sum(map(len, ids)) / len(ids)
    assert tokenizer.unk_rate(ids) == 0

for text in ("Der Großvater wachte auf.", "Der Donaudampfer wachte auf."):
    tokens = tokenizer.encode_batch([text])[0]
    print([tokenizer.readable(token) for token in tokens])
    assert tokenizer.decode_batch([tokens]) == [text]  # nothing is lost

figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
axes.plot(list(subword), list(subword.values()), "o-", label="byte pairs")
axes.axhline(lengths["char"], color="tab:red", linestyle="--", label="characters")
axes.axhline(lengths["word"], color="tab:green", linestyle=":", label="words (2.3 % unknown)")
axes.set(xlabel="entries in the vocabulary", ylabel="tokens per sentence", ylim=(0, None))
axes.set_title("A larger vocabulary makes sentences shorter")
axes.legend()
plt.show()

if FULL:
    assert abs(subword[2000] - 14.2) < 0.1

# %% [markdown]
# With 2,000 entries, a sentence has 14.2 tokens. That is almost as short as with words, and nothing is unknown. A
# frequent word is one token. A rare word is several.
#
# ```{admonition} A usual mistake: "A token is a word"
# :class: warning
# A token is an entry of a vocabulary that somebody chose. It may be a word, a part of a word, one byte, or a mark such
# as `<eos>` (end of the sentence). Two models have the same tokens only if they have the same tokenizer.
# ```
#
# ```{admonition} Exercise 1.1
# The list of pairs has an order. Does the order matter? Encode "sleeps" with `pairs` in the learned order and in the
# reverse order. First guess the result.
# ```

# %% tags=["hide-cell"]
forward, backward = list("sleeps"), list("sleeps")
for pair in pairs:
    forward = merge(forward, pair)
for pair in reversed(pairs):
    backward = merge(backward, pair)
print(forward, backward)
# In reverse order, the pair "ee" and "p" comes before the pair "e" and "e". There is no "ee" yet, so hardly anything is
# merged.
assert len(forward) < len(backward)

# %% [markdown]
# ## An id is a name, not a quantity
#
# The tokenizer gives ids. The id of "dog" may be 412, and that of "dogs" 97. It means nothing that 412 is larger than
# 97. If we number all entries anew, nothing is lost. So the model must not compute with ids. It looks them up.
#
# ## An embedding is a row of a table
#
# An embedding table is a matrix $E$ with one row for each entry of the vocabulary: $V$ rows of $D$ numbers. The
# embedding of id $i$ is row $i$. That is all.
#
# Many texts write it as a matrix product with a **one-hot** vector: a vector of zeros with a single 1 at place $i$. The
# result is the same, number by number. The look-up is faster, because it multiplies nothing.

# %%
tokenizer = train_tokenizer(TokenizerConfig(kind="word"), train["english"])
V, D = tokenizer.vocab_size, 32
table = nn.Embedding(V, D)
ids = torch.tensor(tokenizer.encode_batch(["The dog sleeps in the garden."])[0])
print("ids:", ids.tolist())

looked_up = table(ids)  # [tokens, D]
one_hot = nn.functional.one_hot(ids, V).float()  # [tokens, V]
assert torch.equal(looked_up, table.weight[ids])
assert torch.equal(looked_up, one_hot @ table.weight)
print("embeddings:", tuple(looked_up.shape))

# %% [markdown]
# Only the rows that were looked up get a gradient. All other rows have the gradient 0 in this step, so plain gradient
# descent does not move them. (Adam may still move them a little, because it remembers earlier gradients. And if the
# table also is the output layer, see the end of this chapter, every row gets a gradient from there.)

# %%
looked_up.square().sum().backward()
assert table.weight.grad is not None
touched = table.weight.grad.abs().sum(1).nonzero().flatten().tolist()
print(f"{len(touched)} of {V} rows have a gradient: {touched}")
assert touched == sorted(set(ids.tolist()))

# %% [markdown]
# ## Where the meaning comes from
#
# ```{admonition} A usual mistake: "An embedding is the meaning of a word"
# :class: warning
# A new embedding is random. It means nothing. Training moves it. Words that occur in similar places get similar rows,
# because the model must make similar predictions for them. A Transformer does not need embeddings from elsewhere: it
# learns its table together with all other weights.
# ```
#
# We can watch this. The small model below predicts a word from its two neighbours on the left and its two neighbours on
# the right: it adds their four embeddings and compares the sum with all rows of the table. (This is a simple form of
# the continuous bag of words of Mikolov et al. 2013, arXiv:1301.3781, section 3.1. It is not a Transformer, but the
# table is the same kind of table.)

# %%
WORDS = (
    *("dog", "cat", "horse", "bird", "cow", "duck"),  # animals
    *("soup", "cake", "apple", "salad", "sausage", "egg"),  # food
    *("garden", "station", "market", "kitchen", "park", "forest"),  # places
    *("buys", "sells", "reads", "opens", "finds", "loses"),  # verbs
)


def contexts(texts: list[str]) -> torch.Tensor:
    """Windows of five words [N, 5] of all texts, in lower case."""
    index = {word: number for number, word in enumerate(vocabulary)}
    rows = [[index[word] for word in text.lower().split()] for text in texts]
    return torch.cat([torch.tensor(row).unfold(0, 5, 1) for row in rows if len(row) >= 5])


running = columns(GrammarConfig(train_size=6000 if FULL else 1000), "train", ["text"])["text"]
sentences = [sentence for line in running for sentence in line.replace("?", ".").replace(",", "").split(".")]
vocabulary = sorted({word for text in sentences for word in text.lower().split()} | set(WORDS))
windows = contexts(sentences)
print(f"{len(vocabulary):,} words, {len(windows):,} windows")


def train_table(steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Trains the small model; returns the table before and after."""
    table = nn.Embedding(len(vocabulary), D)
    nn.init.normal_(table.weight, std=0.1)
    optimizer = torch.optim.Adam(table.parameters(), lr=0.01)
    before = table.weight.detach().clone()
    for _ in range(steps):
        batch = windows[torch.randint(len(windows), (512,))]  # [512, 5]
        context = table(batch[:, [0, 1, 3, 4]]).sum(1)  # [512, D]
        loss = nn.functional.cross_entropy(context @ table.weight.T, batch[:, 2])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return before, table.weight.detach()


before, after = train_table(500 if FULL else 100)
chosen = [vocabulary.index(word) for word in WORDS]


def cosines(table: torch.Tensor) -> torch.Tensor:
    """The cosine of each pair of the chosen words: 1 for the same direction, 0 for a right angle."""
    rows = nn.functional.normalize(table[chosen], dim=1)
    return rows @ rows.T


figure, axes = plt.subplots(1, 2, figsize=(11, 5.5), layout="constrained")
for place, (title, each) in enumerate({"before training": before, "after training": after}.items()):
    image = axes[place].imshow(cosines(each).numpy(), vmin=-1, vmax=1, cmap="RdBu_r")
    axes[place].set_title(title)
    axes[place].set_xticks(range(len(WORDS)), WORDS, rotation=90)
    axes[place].set_yticks(range(len(WORDS)), WORDS)
figure.colorbar(image, ax=axes, label="cosine of two embeddings")
plt.show()

group = torch.arange(len(WORDS)) // 6
same = (group[:, None] == group) & ~torch.eye(len(WORDS), dtype=torch.bool)
other = group[:, None] != group
for title, each in (("before", before), ("after", after)):
    within, across = cosines(each)[same].mean(), cosines(each)[other].mean()
    print(f"{title:6}: mean cosine within a group {within:5.2f}, across groups {across:5.2f}")
if FULL:
    assert abs(within - 0.57) < 0.1
    assert abs(across - 0.22) < 0.1

# %% [markdown]
# Before training, the mean cosine of two words is 0, whether they belong to one group or not. After 500 steps it is
# 0.57 within a group and 0.22 across groups: in the picture, the groups are red squares along the diagonal. Nobody told
# the model that "dog" and "cat" are animals. They stand in the same places, so their rows moved together. In the
# picture, even "station" and "market" form a small group of their own: one is *at* the station and *at* the market, but
# *in* the garden.
#
# ## Scale and sharing: two details of the paper
#
# **Scale.** The paper multiplies embeddings by $\sqrt{D}$ (Vaswani et al. 2017, arXiv:1706.03762, section 3.4) and does
# not say why. Here is our explanation. The same table is also the output layer (next point). There each score is a sum
# of $D$ products. With entries of variance 1 the scores would be large at the start, so the library draws the entries
# with variance $1/D$. And the positions of chapter 4 are added to the embeddings. Their numbers are sines and cosines,
# with a typical size of 0.71. Without the factor, the embedding would be much smaller than the position.

# %%
from multihead.config.model import ModelConfig
from multihead.model.transformer import Transformer

config = ModelConfig(d_model=128, num_heads=4, d_ff=512, num_encoder_layers=1)
encoder = Transformer(config, source_vocab_size=1000, target_vocab_size=None).encoder
assert encoder is not None


def size(x: torch.Tensor) -> float:
    """The root of the mean square."""
    return x.detach().square().mean().sqrt().item()


print(f"embedding {size(encoder.embedding.weight):.3f}, times {encoder.scale:.1f} = ", end="")
print(f"{size(encoder.embedding.weight) * encoder.scale:.2f}; position {size(encoder.positions.weight):.2f}")
assert encoder.scale == 128**0.5
assert abs(size(encoder.embedding.weight) * encoder.scale - 1) < 0.02
assert abs(size(encoder.positions.weight) - 0.5**0.5) < 0.01

# %% [markdown]
# **Sharing.** At the end, a Transformer compares its last vector with each entry of the vocabulary. The output layer is
# a matrix of $V \times D$ numbers, as the embedding is. One matrix can serve as both (Press and Wolf 2017,
# arXiv:1608.05859). In our library this is `model.tie_embeddings`. Exercise 1.2 asks how much it saves.
#
# ```{admonition} Exercise 1.2
# The base model, the smaller one of the paper, has 65 million parameters (table 3), $D = 512$, and one table of about
# 37,000 entries for source, target and output (section 5.1). Which share of the parameters is the table? How many
# parameters would the model have with three separate tables?
# ```

# %% tags=["hide-cell"]
one_table = 37_000 * 512
print(f"{one_table / 65e6:.0%} of the parameters; {(65e6 + 2 * one_table) / 1e6:.0f} million with three tables")
assert round(one_table / 65e6, 2) == 0.29
assert round((65e6 + 2 * one_table) / 1e6) == 103

# %% [markdown]
# ```{admonition} Exercise 1.3
# Show that an id is only a name. Number the entries of a vocabulary anew at random, and move the rows of the table in
# the same way. The embeddings of a sentence must stay the same.
# ```

# %% tags=["hide-cell"]
new_number = torch.randperm(V)  # entry i gets the number new_number[i]
moved = torch.empty_like(table.weight)
moved[new_number] = table.weight.detach()
assert torch.equal(moved[new_number[ids]], table(ids))

# %% [markdown]
# ## What you have learned
#
# - A tokenizer cuts a text into entries of a vocabulary. Byte-pair encoding gives short sequences, and no word is
#   unknown.
# - An id is a name. The model looks up a row of a table, which is the same as a product with a one-hot vector.
# - Embeddings start at random. Training gives similar rows to words in similar places.
# - The paper multiplies embeddings by $\sqrt{D}$, and uses one table for input and output.
#
# ## Next
#
# Each token is now a vector, but it knows nothing of its neighbours. [Chapter 2](02_self_attention.py) lets the vectors
# look at each other.
