# %% [markdown]
# # 6. The network
#
# Now we build the whole Transformer of "Attention Is All You Need" (Vaswani et al. 2017, arXiv:1706.03762) from the
# parts of chapters 1 to 5, in about 80 lines. We change one thing: the norms stand before the sub-layers (pre), and not
# behind the sums (post) as in the paper. We train it to translate English into German, for about a minute and a half on
# one processor core. Then we put the library's own Transformer beside it: with the same weights, both compute the same
# numbers.

# %%
import math
import os

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multihead.config.data import GrammarConfig, TokenizerConfig
from multihead.config.model import ModelConfig
from multihead.data.grammar import columns
from multihead.data.tokenizer import Tokenizer, train_tokenizer
from multihead.model.heads import VocabularyHead
from multihead.model.positions import sinusoids
from multihead.model.transformer import Transformer

FULL = os.environ.get("MULTIHEAD_GUIDE") == "full"  # without it, the blocks below are cut down to seconds
torch.manual_seed(0)
plt.rcParams["font.size"] = 11
PAD, BOS, EOS = Tokenizer.pad_id, Tokenizer.bos_id, Tokenizer.eos_id

# %% [markdown]
# ## The plan
#
# An **encoder** reads the source. A **decoder** writes the target, token by token, and looks at the encoder's output,
# the memory. Both are stacks of layers.
#
# | part | what it does | chapter |
# | --- | --- | --- |
# | embedding, positions | ids become vectors that know their place | 1, 4 |
# | self-attention | tokens of one sentence exchange information | 2, 3 |
# | cross-attention | target tokens look at the memory (decoder only) | 3 |
# | feed-forward | each token is worked on by itself | 5 |
# | residual, norm, dropout | around each of the three above | 5 |
# | output | a score for each entry of the vocabulary, by the same table as the embedding | 1 |
#
# The picture shows the way from bottom to top. Each box in a frame has a residual connection around it.

# %% tags=["hide-input"]
COLUMNS = {
    "encoder": ["source ids", "embedding + positions", "self-attention", "feed-forward", "norm"],
    "decoder": ["target ids, shifted", "embedding + positions", "self-attention, causal", "cross-attention"],
}
COLUMNS["decoder"] += ["feed-forward", "norm", "product with the embedding table", "logits"]
figure, axes = plt.subplots(figsize=(8.5, 6.2), layout="constrained")
heights = {}
for column, (stack, boxes) in enumerate(COLUMNS.items()):
    for height, text in enumerate(boxes):
        heights[stack, text] = height
        layer_part = "attention" in text or "forward" in text
        style = {"boxstyle": "round,pad=0.45", "facecolor": "#cfe3f7" if layer_part else "#f2f2f2", "edgecolor": "0.4"}
        axes.text(3 * column, height, text, ha="center", va="center", bbox=style if height else None)
        if height:
            arrow = {"arrowstyle": "->", "color": "0.3"}
            axes.annotate("", (3 * column, height - 0.27), (3 * column, height - 0.73), arrowprops=arrow)
    parts = [height for (name, text), height in heights.items() if name == stack and ("att" in text or "for" in text)]
    low, high = min(parts) - 0.45, max(parts) + 0.45
    axes.add_patch(plt.Rectangle((3 * column - 1.2, low), 2.4, high - low, fill=False, linestyle="--", edgecolor="0.4"))
    axes.text(5.8 * column - 1.4, (low + high) / 2, "2 layers", rotation=90, ha="center", va="center")
start, end = heights["encoder", "norm"], heights["decoder", "cross-attention"]
axes.annotate("", (2.25, end), (0.3, start), arrowprops={"arrowstyle": "->", "color": "tab:blue", "linewidth": 2})
axes.text(1.2, start + 0.1, "memory", color="tab:blue", ha="center")
axes.set(xlim=(-1.7, 4.7), ylim=(-0.5, 7.5))
axes.axis("off")
plt.show()

# %% [markdown]
# ## Attention and feed-forward


# %%
class Attention(nn.Module):
    """Multi-head attention from x [B, T, D] to the context [B, S, D]."""

    def __init__(self, D: int, H: int):
        super().__init__()
        self.H = H
        self.query, self.key, self.value, self.output = (nn.Linear(D, D) for _ in range(4))

    def forward(self, x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        query, key, value = (
            y.unflatten(-1, (self.H, -1)).transpose(1, 2)  # [B, H, T or S, K]
            for y in (self.query(x), self.key(context), self.value(context))
        )
        scores = query @ key.mT / math.sqrt(query.size(-1))  # [B, H, T, S]
        weights = scores.masked_fill(~mask, -math.inf).softmax(-1)
        return self.output((weights @ value).transpose(1, 2).flatten(2))  # [B, T, D]


class FeedForward(nn.Module):
    """Two linear maps with a maximum (ReLU) between them."""

    def __init__(self, D: int, d_ff: int):
        super().__init__()
        self.up, self.down = nn.Linear(D, d_ff), nn.Linear(d_ff, D)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x).clamp(min=0))


# %% [markdown]
# ## The layer
#
# We use the wiring "pre" of chapter 5: norm, sub-layer, dropout, sum. (The paper is "post".) A decoder's layer has
# cross-attention between self-attention and feed-forward.


# %%
class Layer(nn.Module):
    """A layer of the encoder, or with ``cross`` of the decoder."""

    def __init__(self, D: int, H: int, d_ff: int, dropout: float, cross: bool):
        super().__init__()
        self.self_attention, self.self_attention_norm = Attention(D, H), nn.LayerNorm(D)
        if cross:
            self.cross_attention, self.cross_attention_norm = Attention(D, H), nn.LayerNorm(D)
        self.feed_forward, self.feed_forward_norm = FeedForward(D, d_ff), nn.LayerNorm(D)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, memory: Tensor | None, memory_mask: Tensor | None) -> Tensor:
        y = self.self_attention_norm(x)
        x = x + self.dropout(self.self_attention(y, y, mask))
        if memory is not None:
            y = self.cross_attention_norm(x)
            x = x + self.dropout(self.cross_attention(y, memory, memory_mask))
        y = self.feed_forward_norm(x)
        return x + self.dropout(self.feed_forward(y))


# %% [markdown]
# ## The stack and the network
#
# Encoder and decoder are the same class. Each ends with a norm, which "pre" needs. The network makes the masks: the
# source hides its padding, and the target hides the future.


# %%
class Stack(nn.Module):
    """The encoder, or with ``cross`` the decoder."""

    def __init__(self, embedding: nn.Embedding, num_layers: int, H: int, d_ff: int, dropout: float, cross: bool):
        super().__init__()
        D = embedding.embedding_dim
        self.embedding = embedding
        self.register_buffer("positions", sinusoids(256, D), persistent=False)
        self.layers = nn.ModuleList(Layer(D, H, d_ff, dropout, cross) for _ in range(num_layers))
        self.norm, self.dropout = nn.LayerNorm(D), nn.Dropout(dropout)

    def forward(
        self, ids: Tensor, mask: Tensor, memory: Tensor | None = None, memory_mask: Tensor | None = None
    ) -> Tensor:
        x = self.embedding(ids) * math.sqrt(self.embedding.embedding_dim) + self.positions[: ids.size(1)]
        x = self.dropout(x)
        for layer in self.layers:
            x = layer(x, mask, memory, memory_mask)
        return self.norm(x)


class Network(nn.Module):
    """The Transformer: logits of the next token at each place of the target."""

    def __init__(self, V: int, D: int = 64, H: int = 4, d_ff: int = 256, num_layers: int = 2, dropout: float = 0.0):
        super().__init__()
        embedding = nn.Embedding(V, D)  # one table for source, target and output
        self.encoder = Stack(embedding, num_layers, H, d_ff, dropout, cross=False)
        self.decoder = Stack(embedding, num_layers, H, d_ff, dropout, cross=True)
        nn.init.normal_(embedding.weight, std=D**-0.5)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        source_mask = (source != PAD)[:, None, None, :]  # [B, 1, 1, S]
        causal = torch.ones(target.size(1), target.size(1), dtype=torch.bool).tril()  # [T, T]
        memory = self.encoder(source, source_mask)
        hidden = self.decoder(target, causal, memory, source_mask)  # [B, T, D]
        return hidden @ self.encoder.embedding.weight.T  # [B, T, V]


# %% [markdown]
# ## The data
#
# We take sentences of at most six words (`train_max_words` limits training and validation), so that a short training is
# enough. The validation sentences are new: none of them is in the training split.

# %%
grammar = GrammarConfig(train_size=10_000 if FULL else 300, val_size=300 if FULL else 30, train_max_words=6)
train, val = (columns(grammar, split, ["english", "german"]) for split in ("train", "val"))
tokenizer = train_tokenizer(TokenizerConfig(vocab_size=2000 if FULL else 400), train["english"] + train["german"])
V = tokenizer.vocab_size
assert not set(train["english"]) & set(val["english"])


def encode(texts: list[str]) -> list[list[int]]:
    """Ids of each text, with the end mark."""
    return [[*ids, EOS] for ids in tokenizer.encode_batch(texts)]


def padded(rows: list[list[int]]) -> Tensor:
    """One tensor [B, longest] of all rows."""
    return nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=PAD)


source, target = encode(train["english"]), encode(train["german"])
print(f"{len(source):,} pairs, {V:,} entries; for example:")
for english, german in zip(train["english"][:3], train["german"][:3], strict=True):
    print("   ", english, "|", german)

# %% [markdown]
# ## The loss
#
# The decoder reads the target **shifted by one**: it starts with `<bos>`, and at each place it must predict the token
# that comes next.
#
# | place | 0 | 1 | 2 | 3 |
# | --- | --- | --- | --- | --- |
# | it reads | `<bos>` | Der | Hund | schläft |
# | it must predict | Der | Hund | schläft | `<eos>` |
#
# The loss is the cross-entropy: minus the logarithm of the probability that the model gives to the right token. With
# the natural logarithm, its unit is called a **nat**. A padded place has no right token, so it is ignored.
#
# ```{admonition} A usual mistake: "The decoder reads what it must predict"
# :class: warning
# Without the shift, the right token stands at the same place in the input, and the causal mask allows to look at one's
# own place. So the network can learn to copy its input. The loss gets lower, and nothing is learned about translation
# (exercise 6.3).
# ```
#
# ```{admonition} A usual mistake: "The network ends with a softmax"
# :class: warning
# `cross_entropy` takes scores (logits) and does the softmax itself, in a way that does not overflow. With a softmax in
# the network there are two. Then all scores lie between 0 and 1, and the largest probability that the model can give is
# $e / (e + V - 1)$. With 2,000 entries this is 0.14 %. There is no error message.
# ```


# %%
def loss_of(network: nn.Module, source: Tensor, labels: Tensor) -> Tensor:
    """The mean cross-entropy of the labels [B, T] in nats."""
    reads = F.pad(labels[:, :-1], (1, 0), value=BOS)  # shifted by one
    return F.cross_entropy(network(source, reads).flatten(0, 1), labels.flatten(), ignore_index=PAD)


network = Network(V)
val_source, val_labels = padded(encode(val["english"])), padded(encode(val["german"]))
with torch.no_grad():
    first_loss = loss_of(network, val_source, val_labels).item()
print(f"{sum(p.numel() for p in network.parameters()):,} parameters")
assert abs(torch.tensor([1.0] + [0.0] * 1999).softmax(0).max() - math.e / (math.e + 1999)) < 1e-6  # two softmaxes
print(f"loss before training {first_loss:.2f}, of a model that guesses evenly {math.log(V):.2f}")
assert math.log(V) < first_loss < math.log(V) + 1

# %% [markdown]
# ## Training
#
# The optimizer is AdamW. The learning rate rises over 100 steps and then falls along a cosine. The norm of the gradient
# is clipped to 1. After some steps we measure the loss on the validation sentences.

# %%
steps, batch_size, peak = (1200, 64, 4e-3) if FULL else (16, 16, 4e-3)
optimizer = torch.optim.AdamW(network.parameters(), betas=(0.9, 0.98))
curve: dict[str, dict[int, float]] = {"train": {}, "val": {}}
order: list[Tensor] = []
for step in range(1, steps + 1):
    if not order:  # a new epoch
        order = list(torch.randperm(len(source)).split(batch_size))
    rows = order.pop().tolist()
    optimizer.param_groups[0]["lr"] = peak * min(step / 100, (1 + math.cos(math.pi * step / steps)) / 2)
    loss = loss_of(network, padded([source[row] for row in rows]), padded([target[row] for row in rows]))
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    curve["train"][step] = loss.item()
    if step % (steps // 8) == 0:
        with torch.no_grad():
            curve["val"][step] = loss_of(network, val_source, val_labels).item()
        print(f"step {step:5}: train {loss.item():.3f}, val {curve['val'][step]:.3f}")

figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
axes.plot(list(curve["train"]), list(curve["train"].values()), color="0.7", linewidth=1, label="training, each step")
axes.plot(list(curve["val"]), list(curve["val"].values()), "o-", label="validation")
axes.axhline(math.log(V), color="tab:red", linestyle=":", label="guessing evenly")
axes.set(xlabel="step", ylabel="loss in nats for each token", ylim=(0, None), title="Our own Transformer learns")
axes.legend()
plt.show()

# %% [markdown]
# ## Translating
#
# To translate, the decoder starts with `<bos>`, takes the most probable next token, adds it to what it has written, and
# goes on until `<eos>`. This is **greedy search**. (Chapter 7 has better ways. The loop below computes all earlier
# places again at each step. Chapter 8 shows how to avoid that.)


# %%
@torch.no_grad()
def translate(network: nn.Module, texts: list[str], longest: int = 24) -> list[str]:
    """The greedy translation of each text."""
    source = padded(encode(texts))
    written = torch.full((len(texts), 1), BOS)
    for _ in range(longest):
        written = torch.cat((written, network(source, written)[:, -1:].argmax(-1)), dim=1)
    rows = [row[: row.index(EOS)] if EOS in row else row for row in written[:, 1:].tolist()]
    return tokenizer.decode_batch(rows)


network.eval()
translations = translate(network, val["english"])
exact = sum(a == b for a, b in zip(translations, val["german"], strict=True)) / len(translations)
for english, written, german in list(zip(val["english"], translations, val["german"], strict=True))[:6]:
    print(f"{english}\n    {written}{'' if written == german else f'   (right: {german})'}")
print(f"{exact:.0%} of the new sentences are translated without any error")
if FULL:
    assert abs(curve["val"][steps] - 0.20) < 0.08
    assert abs(exact - 0.77) < 0.1
    assert sum(list(curve["train"].values())[-20:]) / 20 < 0.1

# %% [markdown]
# None of these sentences was in the training split. After about a minute and a half of one core, 77 % of them are
# translated without any error. One of the errors above is an ending: "köstlichen Tomaten" instead of "köstliche
# Tomaten". The loss on new sentences is 0.20, and that on the last training sentences is 0.03. So the network can
# translate sentences that it never saw, but it fits those that it saw better: it **overfits**. (The grammar gives each
# English sentence one German one, so a perfect translator has the loss 0.)
#
# ## Where does it look?
#
# We draw the cross-attention of the last layer for a sentence that is translated without error. Each row is a token
# that the decoder writes, and shows where the head looks while it decides. We compute the weights once more, from the
# layer's own queries and keys.

# %%
pairs = zip(val["english"], translations, val["german"], strict=True)
good = [english for english, written, german in pairs if written == german and len(english.split()) == 6]
sentence = (good or val["english"])[0]
ids, written = padded(encode([sentence])), padded(encode(translate(network, [sentence])))
kept: dict[str, Tensor] = {}
attention: Attention = network.decoder.layers[-1].cross_attention
attention.query.register_forward_hook(lambda _, inputs, output: kept.update(query=output))
attention.key.register_forward_hook(lambda _, inputs, output: kept.update(key=output))
with torch.no_grad():
    network(ids, F.pad(written[:, :-1], (1, 0), value=BOS))
query, key = (kept[name].unflatten(-1, (attention.H, -1)).transpose(1, 2)[0] for name in ("query", "key"))
weights = (query @ key.mT / math.sqrt(query.size(-1))).softmax(-1)  # [H, T, S]

rows = [tokenizer.readable(token) for token in written[0].tolist()]
looked_at = [tokenizer.readable(token) for token in ids[0].tolist()]
figure, heads = plt.subplots(1, 4, figsize=(14, 4.4), layout="constrained", sharey=True)
for head, axes in enumerate(heads):
    image = axes.imshow(weights[head].numpy(), cmap="Blues", vmin=0, vmax=1)
    axes.set(title=f"head {head + 1}", xlabel="source")
    axes.set_xticks(range(len(looked_at)), looked_at, rotation=90)
    axes.set_yticks(range(len(rows)), rows)
heads[0].set_ylabel("token that is written")
figure.colorbar(image, ax=heads, label="weight")
plt.show()
assert torch.allclose(weights.sum(-1), torch.ones(weights.shape[:2]))

# %% [markdown]
# The heads differ, and nobody told them what to do. Chapter 3 warns of reading too much into such maps.
#
# ## The same from the library
#
# The library's Transformer stands in `src/multihead/model/transformer.py`. It has the same parts, with the same names.
# So our trained weights fit without any change. Its output layer is a class of its own, the head, which here shares the
# table. We compare all logits.

# %%
config = ModelConfig(d_model=64, num_heads=4, d_ff=256, num_encoder_layers=2, num_decoder_layers=2, dropout=0.0)
library = Transformer(config, source_vocab_size=V, target_vocab_size=V)
library.load_state_dict(network.state_dict())  # strict: every name and every shape must fit
head = VocabularyHead(64, V, tied=library.stack("encoder").embedding.weight)

reads = F.pad(val_labels[:, :-1], (1, 0), value=BOS)
with torch.no_grad():
    ours = network(val_source, reads)
    theirs = head(library(source=val_source, source_mask=val_source != PAD, target=reads))
real = val_labels != PAD
print(f"logits from {ours.min():.1f} to {ours.max():.1f}, largest difference {(ours - theirs)[real].abs().max():.1e}")
assert (ours - theirs)[real].abs().max() < 1e-4
assert torch.equal(ours.argmax(-1)[real], theirs.argmax(-1)[real])

# %% [markdown]
# What does the library's file have that ours does not? Open it beside this page.
#
# | in the library | why |
# | --- | --- |
# | `Scope` | masks are built once in a pass, not in each layer |
# | `attend` in `kernels.py` | calls the fastest attention of PyTorch for the device |
# | `Cache` | generation does not compute earlier places again (chapter 8) |
# | `Blocks` | a plugin can replace any part (chapter 12) |
# | `Positions`, `new_norm` | other position schemes (chapter 4) and norms (chapter 5) |
# | `VocabularyHead.loss` | computes the loss on real places only, without storing all logits |
#
# And to train with it, one line is enough. It writes checkpoints, measures BLEU (a score for translations, see chapter
# 7), and can go on after a crash:
#
# ```bash
# python train.py task=translation model=tiny
# ```
#
# ```{admonition} Exercise 6.1
# Compute the number of parameters of our network with a pencil: $V$ = 2,000 entries, $D = 64$, $d_\text{ff} = 256$, two
# layers in encoder and decoder each. Do not forget the biases and the norms.
# ```

# %% tags=["hide-cell"]
D, d_ff = 64, 256
attention_size = 4 * (D * D + D)
feed_forward_size = D * d_ff + d_ff + d_ff * D + D
norm_size = 2 * D
encoder_layer = attention_size + feed_forward_size + 2 * norm_size
decoder_layer = 2 * attention_size + feed_forward_size + 3 * norm_size
total = V * D + 2 * encoder_layer + 2 * decoder_layer + 2 * norm_size
assert total == sum(p.numel() for p in network.parameters())
assert total - V * D + 2000 * D == 361_728  # with V = 2,000

# %% [markdown]
# ```{admonition} Exercise 6.2
# Does the decoder really use the source? Or does it only continue the German words that it reads? Give each target the
# source of another sentence, and compute the loss of the targets. Before you run it: what should happen to the loss if
# the decoder uses the source, and what if it does not?
# ```

# %% tags=["hide-cell"]
with torch.no_grad():
    right_source = loss_of(network, val_source, val_labels).item()
    wrong_source = loss_of(network, val_source.flip(0), val_labels).item()
print(f"loss with the right source {right_source:.2f}, with a wrong one {wrong_source:.2f}")
# The targets and what the decoder reads are the same both times. Only the source differs. If the decoder did not use
# it, the two losses would be equal.
assert wrong_source > right_source + (2 if FULL else -0.1)

# %% [markdown]
# ```{admonition} Exercise 6.3
# Make the first mistake of this chapter: train for 60 steps without the shift, so that the decoder reads what it must
# predict. How does the loss compare with that of a network with the shift, after as many steps? What does the network
# translate?
# ```

# %% tags=["hide-cell"]
losses, cheat = {}, Network(V)
for name in ("with the shift", "without"):
    torch.manual_seed(0)
    cheat = Network(V)
    optimizer = torch.optim.AdamW(cheat.parameters(), lr=4e-3)
    for _ in range(60 if FULL else 10):
        rows = torch.randint(len(source), (32,)).tolist()
        batch, labels = padded([source[row] for row in rows]), padded([target[row] for row in rows])
        if name == "without":
            loss = F.cross_entropy(cheat(batch, labels).flatten(0, 1), labels.flatten(), ignore_index=PAD)
        else:
            loss = loss_of(cheat, batch, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    losses[name] = loss.item()
print({name: round(value, 2) for name, value in losses.items()}, translate(cheat, ["The boy reads the book."]))
assert losses["without"] < losses["with the shift"]
# It has learned to copy what it reads. To translate, it reads `<bos>`, for which it never had to predict anything.
assert translate(cheat, ["The boy reads the book."])[0] != "Der Junge liest das Buch."

# %% [markdown]
# ## What you have learned
#
# - A Transformer is an embedding, positions, and two stacks of layers. It fits into about 80 lines.
# - The decoder reads the target shifted by one, and predicts the next token at every place at once.
# - Padding is hidden by a mask and ignored by the loss.
# - The library's `transformer.py` is the same network. Same weights, same logits.
#
# ## Next
#
# Our network translates greedily. [Chapter 7](07_translation_and_summarization.py) looks at training and search for
# translation and summarization more closely.
