"""Published families against ``transformers``: random small models of each, read by `init_from=hf:`, give the same.

    python benchmarks/pretrained_equal.py [family ...] [draws=20] [seed=0]

A draw is a model that ``transformers`` makes with options drawn at random, saved, and read by us. The table has, for
each family, the largest differences of hidden states and logits (rows of different lengths, padded), of logits with a
cache, and of gradients relative to the largest one. It also counts the outputs that are the same token for token
(greedy, and with four beams if the model has both stacks), and the models that come out again with the same bytes in
every tensor. If every family is measured, the table is also written to ``results/pretrained_equal.json``.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import random
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from multihead import __version__
from multihead.config.families import FAMILIES
from multihead.config.model import ModelConfig
from multihead.config.published import read
from multihead.config.training import DecodingConfig
from multihead.model.beam_search import generate
from multihead.model.heads import VocabularyHead
from multihead.model.output import new_output_transform
from multihead.model.transformer import Transformer
from multihead.pretrained.source import read_published, translated

VOCABULARY = 40
NEW_TOKENS = 12
BEAMS = 4


def sizes(rng: random.Random) -> dict[str, Any]:
    """Sizes under the names that most families use."""
    heads, head_dim = rng.choice([1, 2, 4]), rng.choice([4, 8])
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": heads * head_dim,
        "num_hidden_layers": rng.choice([1, 2, 3]),
        "num_attention_heads": heads,
        "intermediate_size": rng.choice([16, 24, 40]),
        "max_position_embeddings": rng.choice([32, 64]),
    }


def bert(rng: random.Random) -> Any:
    """BERT: activations, segment types, eps."""
    return transformers.BertConfig(
        **sizes(rng),
        hidden_act=rng.choice(["gelu", "relu", "gelu_new", "silu"]),
        type_vocab_size=rng.choice([1, 2, 3]),
        layer_norm_eps=rng.choice([1e-12, 1e-5, 1e-3]),
    )


def roberta(rng: random.Random) -> Any:
    """RoBERTa: its positions begin behind the padding's."""
    eps, types = rng.choice([1e-12, 1e-5]), rng.choice([1, 2])
    return transformers.RobertaConfig(**sizes(rng), layer_norm_eps=eps, type_vocab_size=types, pad_token_id=1)


def mpnet(rng: random.Random) -> Any:
    """MPNet: learned positions and biases of distances, no segment types."""
    eps, longest = rng.choice([1e-12, 1e-5]), {"max_position_embeddings": rng.choice([34, 66])}
    return transformers.MPNetConfig(**sizes(rng) | longest, layer_norm_eps=eps, pad_token_id=1)


def electra(rng: random.Random) -> Any:
    """ELECTRA: embeddings of another width."""
    drawn = sizes(rng)
    width = rng.choice([drawn["hidden_size"], 6, 12])
    return transformers.ElectraConfig(**drawn, embedding_size=width, type_vocab_size=rng.choice([1, 2]))


def albert(rng: random.Random) -> Any:
    """ALBERT: one layer for all, embeddings of another width."""
    drawn, act = sizes(rng), rng.choice(["gelu_new", "gelu", "relu"])
    width = rng.choice([drawn["hidden_size"], 6, 12])
    return transformers.AlbertConfig(**drawn, embedding_size=width, hidden_act=act)


def distilbert(rng: random.Random) -> Any:
    """DistilBERT: no segment types."""
    drawn = sizes(rng)
    return transformers.DistilBertConfig(
        vocab_size=VOCABULARY,
        dim=drawn["hidden_size"],
        n_layers=drawn["num_hidden_layers"],
        n_heads=drawn["num_attention_heads"],
        hidden_dim=drawn["intermediate_size"],
        max_position_embeddings=drawn["max_position_embeddings"],
        activation=rng.choice(["gelu", "relu"]),
    )


def gpt2(rng: random.Random) -> Any:
    """GPT-2: its matrices are stored transposed."""
    drawn = sizes(rng)
    return transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=drawn["hidden_size"],
        n_layer=drawn["num_hidden_layers"],
        n_head=drawn["num_attention_heads"],
        n_inner=rng.choice([None, drawn["intermediate_size"]]),
        n_positions=drawn["max_position_embeddings"],
        activation_function=rng.choice(["gelu_new", "gelu", "relu"]),
        layer_norm_epsilon=rng.choice([1e-5, 1e-6]),
        bos_token_id=2,
        eos_token_id=2,
        tie_word_embeddings=rng.choice([True, True, False]),
    )


def both_stacks(rng: random.Random) -> dict[str, Any]:
    """What Marian and BART share."""
    drawn, wide = sizes(rng), rng.choice([16, 24, 40])
    return {
        "vocab_size": VOCABULARY,
        "d_model": drawn["hidden_size"],
        "encoder_layers": rng.choice([1, 2, 3]),
        "decoder_layers": rng.choice([1, 2, 3]),
        "encoder_attention_heads": drawn["num_attention_heads"],
        "decoder_attention_heads": drawn["num_attention_heads"],
        "encoder_ffn_dim": wide,
        "decoder_ffn_dim": wide,
        "max_position_embeddings": drawn["max_position_embeddings"],
        "scale_embedding": rng.choice([True, False]),
        "tie_word_embeddings": True,
    }


def marian(rng: random.Random) -> Any:
    """Marian: sines before cosines, a bias of each logit, targets that start with the padding."""
    act = rng.choice(["gelu", "relu", "swish", "gelu_new"])
    ids = {"pad_token_id": 0, "decoder_start_token_id": 0, "eos_token_id": 2, "forced_eos_token_id": None}
    return transformers.MarianConfig(**both_stacks(rng), activation_function=act, **ids)


def bart(rng: random.Random) -> Any:
    """BART: learned positions behind two unused rows, a norm of the embeddings."""
    act = rng.choice(["gelu", "relu", "gelu_new"])
    ids = {"pad_token_id": 0, "decoder_start_token_id": 2, "eos_token_id": 2, "forced_eos_token_id": None}
    return transformers.BartConfig(**both_stacks(rng), activation_function=act, bos_token_id=1, **ids)


def mbart(rng: random.Random) -> Any:
    """mBART: BART with norms before sub-layers."""
    act = rng.choice(["gelu", "relu"])
    ids = {"pad_token_id": 0, "decoder_start_token_id": 4, "eos_token_id": 2, "forced_eos_token_id": None}
    return transformers.MBartConfig(**both_stacks(rng), activation_function=act, bos_token_id=1, **ids)


def pegasus(rng: random.Random) -> Any:
    """Pegasus: sinusoids, norms before sub-layers and at the end."""
    act = rng.choice(["gelu", "relu"])
    ids = {"pad_token_id": 0, "decoder_start_token_id": 0, "eos_token_id": 2, "forced_eos_token_id": None}
    return transformers.PegasusConfig(**both_stacks(rng), activation_function=act, **ids)


def t5(rng: random.Random) -> Any:
    """T5 1.0 and 1.1, flan-T5: biases by distance, gates, an output layer of its own or the scaled embedding."""
    drawn, buckets = sizes(rng), rng.choice([4, 8, 32])
    return transformers.T5Config(
        vocab_size=VOCABULARY,
        d_model=drawn["hidden_size"],
        d_kv=rng.choice([4, 6, 8]),
        num_heads=drawn["num_attention_heads"],
        d_ff=drawn["intermediate_size"],
        num_layers=rng.choice([1, 2, 3]),
        num_decoder_layers=rng.choice([None, 1, 2, 3]),
        feed_forward_proj=rng.choice(["gated-gelu", "relu", "gated-silu", "gelu"]),
        relative_attention_num_buckets=buckets,
        relative_attention_max_distance=rng.choice([buckets, 128]),
        layer_norm_epsilon=rng.choice([1e-6, 1e-5]),
        tie_word_embeddings=rng.choice([True, False]),
        pad_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=0,
        use_cache=False,  # theirs has as many layers as the encoder
    )


def scaling(rng: random.Random) -> dict[str, Any]:
    """How rotary positions are stretched, seldom by much in so short texts."""
    llama3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
    kinds: list[dict[str, Any]] = [{"rope_type": "default"}, {"rope_type": "linear", "factor": 2.0}]
    return rng.choice([*kinds, {"rope_type": "llama3", **llama3}])


def of_llama(kind: Any, rng: random.Random, **more: Any) -> Any:
    """What Llama and its relatives share."""
    drawn = sizes(rng)
    heads = drawn["num_attention_heads"]
    return kind(
        **drawn,
        num_key_value_heads=rng.choice([n for n in (1, 2, 4) if heads % n == 0]),
        head_dim=rng.choice([drawn["hidden_size"] // heads, 6]),
        hidden_act=rng.choice(["silu", "silu", "gelu", "gelu_pytorch_tanh"]),
        rms_norm_eps=rng.choice([1e-6, 1e-5]),
        rope_parameters={"rope_theta": rng.choice([10000.0, 500000.0]), **scaling(rng)},
        tie_word_embeddings=rng.choice([True, False]),
        bos_token_id=1,
        eos_token_id=2,
        **more,
    )


def llama(rng: random.Random) -> Any:
    """Llama, SmolLM: grouped keys, heads of any size, biases or none."""
    return of_llama(transformers.LlamaConfig, rng, attention_bias=rng.choice([False, True]))


def mistral(rng: random.Random) -> Any:
    """Mistral: within its window it is Llama."""
    return of_llama(transformers.MistralConfig, rng, sliding_window=rng.choice([None, 4096]))


def qwen2(rng: random.Random) -> Any:
    """Qwen2: biases of queries, keys and values."""
    return of_llama(transformers.Qwen2Config, rng)


def qwen3(rng: random.Random) -> Any:
    """Qwen3: norms of queries and keys."""
    return of_llama(transformers.Qwen3Config, rng, attention_bias=rng.choice([False, True]))


def gpt_neox(rng: random.Random) -> Any:
    """GPT-NeoX, Pythia: part of each head turns, sub-layers side by side or not."""
    drawn = sizes(rng) | {"hidden_size": 32, "num_attention_heads": rng.choice([2, 4])}
    share = rng.choice([0.25, 0.5, 1.0])
    return transformers.GPTNeoXConfig(
        **drawn,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": share},
        use_parallel_residual=rng.choice([True, False]),
        hidden_act=rng.choice(["gelu", "gelu_new"]),
        tie_word_embeddings=rng.choice([True, False]),
        bos_token_id=1,
        eos_token_id=2,
    )


DRAWS = {
    draw.__name__: draw
    for draw in (
        bert,
        roberta,
        distilbert,
        mpnet,
        electra,
        albert,
        gpt2,
        llama,
        mistral,
        qwen2,
        qwen3,
        gpt_neox,
        marian,
        bart,
        mbart,
        pegasus,
        t5,
    )
}
"""By ``model_type``."""


@dataclass
class Found:
    """What the draws of a family gave."""

    draws: int = 0
    hidden: float = 0.0
    logits: float = 0.0
    cached: float = 0.0
    gradients: float = 0.0
    continuations: int = 0
    same: int = 0
    back: int = 0
    seconds: float = 0.0


def save_tokenizer(folder: Path) -> None:
    """A tokenizer of whole words, as large as the models' vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    names = ["<pad>", "<s>", "</s>", "<unk>", "<mask>"]
    vocab = {word: i for i, word in enumerate([*names, *(f"w{i}" for i in range(VOCABULARY - 6)), "a"])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    special |= {"unk_token": "<unk>", "mask_token": "<mask>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(special))


class ByName:
    """Tensors of a model of theirs, under the names that it saves them by."""

    def __init__(self, tensors: dict[str, Tensor]):
        self.shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        self._tensors = tensors

    def tensor(self, name: str) -> Tensor:
        """One of them."""
        return self._tensors[name]


class Ours(torch.nn.Module):
    """Our stacks and head, from what `read_published` gave."""

    def __init__(self, options: dict[str, Any], stacks: tuple[str, ...]):
        super().__init__()
        config = ModelConfig(**options | {"dropout": 0.0, "attention_dropout": 0.0})
        sides = [VOCABULARY if stack in stacks else None for stack in ("encoder", "decoder")]
        self.transformer = Transformer(config, source_vocab_size=sides[0], target_vocab_size=sides[1])
        stack = self.transformer.stack(stacks[-1])
        tied = stack.embedding.weight if config.tie_embeddings in ("target_output", "all") else None
        width = config.width_of_embeddings if config.output_transform else config.d_model
        self.head = VocabularyHead(width, VOCABULARY, tied, config.output_bias, new_output_transform(config))
        self.encoder = stacks == ("encoder",)

    def hidden(self, ids: Tensor, mask: Tensor, types: Tensor | None = None) -> Tensor:
        """Hidden states of a model with one stack."""
        if self.encoder:
            return self.transformer.encode(ids, mask, types=types)
        return self.transformer.decode(ids, target_mask=mask)


def draw(family: str, seed: int, found: Found) -> None:
    """One random model, measured."""
    rng = random.Random(f"{family} {seed}")
    torch.manual_seed(seed)
    stacks = FAMILIES[family].stacks
    encoder = stacks == ("encoder",)
    config = DRAWS[family](rng)
    kind = transformers.AutoModelForMaskedLM if encoder else transformers.AutoModelForCausalLM
    kind = transformers.AutoModelForSeq2SeqLM if len(stacks) == 2 else kind
    attention = "eager" if family == "mpnet" else rng.choice(["eager", "sdpa"])  # theirs has no other
    theirs = kind.from_config(config, attn_implementation=attention).eval()
    with torch.no_grad():
        computed = getattr(theirs, "_keys_to_ignore_on_save", None) or ()
        for name, parameter in theirs.named_parameters():  # gains and biases too; sharper than they begin
            if parameter.requires_grad and name not in computed:
                parameter.add_(0.2 * torch.randn_like(parameter))
        if hasattr(theirs, "final_logits_bias"):
            theirs.final_logits_bias.normal_()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if family == "t5" and not config.scale_decoder_outputs:
            untie(theirs, folder)
        else:
            theirs.save_pretrained(folder)
        save_tokenizer(folder)
        published = read_published(f"hf:{folder}")
        described = read(folder)
        ours = Ours(published.options, stacks).eval()
        problems = ours.load_state_dict(published.state, strict=False)
        tied = ["head.weight"] if published.options["tie_embeddings"] in ("target_output", "all") else []
        tied += ["transformer.decoder.embedding.weight"] if len(stacks) == 2 else []
        shared = [key for key in problems.missing_keys if config.model_type == "albert" and ".layers.0." not in key]
        assert set(problems.missing_keys) <= {*tied, *shared}, problems
        assert not problems.unexpected_keys and not published.unused, (problems, published.unused)
        if len(stacks) == 2:
            measure_pairs(theirs, ours, rng, found)
        else:
            measure(theirs, ours, rng, found, encoder)
        gradients(theirs, ours, described, found)
        found.back += comes_back(folder, published.state, described)
    found.draws += 1


def untie(theirs: Any, folder: Path) -> None:
    """Gives T5 an output layer of its own, and writes the folder as those of T5 1.1 are."""
    theirs.lm_head.weight = torch.nn.Parameter(0.2 * torch.randn_like(theirs.lm_head.weight))
    theirs.all_tied_weights_keys = {k: v for k, v in theirs.all_tied_weights_keys.items() if k != "lm_head.weight"}
    theirs.save_pretrained(folder)
    path = folder / "config.json"
    content = json.loads(path.read_text()) | {"tie_word_embeddings": False}
    path.write_text(json.dumps({key: value for key, value in content.items() if key != "scale_decoder_outputs"}))


def batch(rng: random.Random, left: bool) -> tuple[Tensor, Tensor]:
    """Ids and mask of rows of different lengths."""
    width, lengths = 11, [11, rng.randint(1, 10), rng.randint(2, 9)]
    ids = torch.tensor([[rng.randrange(5, VOCABULARY) for _ in range(width)] for _ in lengths])
    places = torch.arange(width)
    mask = torch.stack([places >= width - n if left else places < n for n in lengths])
    return ids.masked_fill(~mask, 1), mask


def measure(theirs: Any, ours: Ours, rng: random.Random, found: Found, encoder: bool) -> None:
    """Hidden states, logits, logits with a cache, and greedy continuations."""
    ids, mask = batch(rng, left=not encoder)
    words: dict[str, Any] = {"input_ids": ids, "attention_mask": mask.long(), "output_hidden_states": True}
    types = None
    if encoder and getattr(theirs.config, "type_vocab_size", 1) > 1:
        types = torch.tensor([[rng.randrange(2) for _ in row] for row in ids.tolist()])
        words["token_type_ids"] = types
    if not encoder:
        words["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        given = theirs(**words)
        hidden = ours.hidden(ids, mask, types)
        found.hidden = max(found.hidden, largest(hidden - given.hidden_states[-1], mask))
        found.logits = max(found.logits, largest(ours.head(hidden) - given.logits, mask))
    if encoder:
        return
    with torch.no_grad():
        cache, steps = ours.transformer.new_cache(), []
        for place in range(ids.size(1)):
            one = slice(place, place + 1)
            steps.append(ours.transformer.decode(ids[:, one], target_mask=mask[:, one], cache=cache))
        cached = ours.head(torch.cat(steps, dim=1))
        found.cached = max(found.cached, largest(cached - given.logits, mask))
        made = theirs.generate(ids, attention_mask=mask.long(), max_new_tokens=NEW_TOKENS, do_sample=False,
                               pad_token_id=0, eos_token_id=2, num_beams=1, suppress_tokens=[0])  # fmt: skip
        mine = generate(ours.transformer, ours.head, DecodingConfig(), prefix=ids, prefix_mask=mask, eos_id=2, pad_id=0,
                        max_new_tokens=NEW_TOKENS, forbidden=(), continues_text=True)  # fmt: skip
    compare(made[:, ids.size(1) :], mine, found)


def compare(made: Tensor, mine: list[Any], found: Found) -> None:
    """Counts the outputs that are equal up to the end mark."""
    for row, hypotheses in zip(made.tolist(), mine, strict=True):
        row = row[: row.index(2)] if 2 in row else row
        found.continuations += 1
        found.same += row == [token for token in hypotheses[0].ids if token != 2]


def measure_pairs(theirs: Any, ours: Ours, rng: random.Random, found: Found) -> None:
    """Hidden states, logits, logits with a cache, and outputs of one and of four beams, of a model with both stacks."""
    (source, source_mask), (target, mask) = batch(rng, left=False), batch(rng, left=False)
    words = {"input_ids": source, "attention_mask": source_mask.long()}
    transformer = ours.transformer
    with torch.no_grad():
        given = theirs(**words, decoder_input_ids=target, output_hidden_states=True)
        memory = transformer.encode(source, source_mask)
        hidden = transformer.decode(target, memory=memory, memory_mask=source_mask)
        found.hidden = max(found.hidden, largest(memory - given.encoder_hidden_states[-1], source_mask))
        found.hidden = max(found.hidden, largest(hidden - given.decoder_hidden_states[-1], mask))
        found.logits = max(found.logits, largest(ours.head(hidden) - given.logits, mask))
        cache = transformer.new_cache(memory, source_mask)
        steps = [transformer.decode(target[:, place, None], cache=cache) for place in range(target.size(1))]
        found.cached = max(found.cached, largest(ours.head(torch.cat(steps, dim=1)) - given.logits, mask))
        start = theirs.config.decoder_start_token_id
        prefix = torch.full((len(source), 1), start)
        for beams in (1, BEAMS):
            made = theirs.generate(**words, max_new_tokens=NEW_TOKENS, do_sample=False, num_beams=beams,
                                   early_stopping="never" if beams > 1 else False, decoder_start_token_id=start,
                                   pad_token_id=0, eos_token_id=2, suppress_tokens=[0],
                                   use_cache=theirs.config.use_cache)  # fmt: skip
            mine = generate(transformer, ours.head, DecodingConfig(num_beams=beams), prefix=prefix, source=source,
                            source_mask=source_mask, eos_id=2, pad_id=0, max_new_tokens=NEW_TOKENS,
                            forbidden=())  # fmt: skip
            compare(made[:, 1:], mine, found)


def largest(difference: Tensor, mask: Tensor) -> float:
    """The largest at real positions."""
    return float(difference[mask].abs().max())


def gradients(theirs: Any, ours: Ours, described: Any, found: Found) -> None:
    """Of the cross-entropy of random labels, relative to the largest gradient."""
    ids = torch.randint(5, VOCABULARY, (2, 7))
    labels = torch.randint(5, VOCABULARY, (14,))
    theirs.zero_grad()
    words, mask = {"input_ids": ids}, torch.ones_like(ids, dtype=torch.bool)
    if len(described.family.stacks) == 2:
        words["decoder_input_ids"] = torch.randint(5, VOCABULARY, (2, 7))
        hidden = ours.transformer(ids, mask, words["decoder_input_ids"])
    else:
        hidden = ours.hidden(ids, mask)
    F.cross_entropy(theirs(**words).logits.flatten(0, 1), labels).backward()
    loss = ours.head.loss(hidden.flatten(0, 1), labels) / 14
    loss.backward()
    grads = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in theirs.named_parameters()}
    wanted, _ = translated(described, ByName(grads))
    scale = max(float(grad.abs().max()) for grad in grads.values())
    for name, parameter in ours.named_parameters():
        if name in wanted:
            grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            found.gradients = max(found.gradients, float((grad - wanted[name]).abs().max()) / scale)


def comes_back(folder: Path, state: dict[str, Tensor], described: Any) -> bool:
    """Whether every tensor of the folder comes out again with the same bytes."""
    from safetensors.torch import load_file

    from multihead.pretrained.names import names_of
    from multihead.pretrained.target import published_state

    names, after = names_of(described), published_state(described, state, prefixed=True)
    computed = {names.prefix + name for name in names.copies}  # Pegasus saves its sinusoids
    before = {n: t for n, t in load_file(folder / "model.safetensors").items() if n not in computed}
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def measured(family: str, draws: int, seed: int = 0) -> Found:
    """The draws of one family."""
    found, start = Found(), time.perf_counter()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for number in range(draws):
        with contextlib.redirect_stderr(io.StringIO()):
            draw(family, seed + number, found)
    found.seconds = time.perf_counter() - start
    return found


def main(words: list[str]) -> None:
    """The table."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    given = dict(word.split("=", 1) for word in words if "=" in word)
    families = [word for word in words if "=" not in word] or list(DRAWS)
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    print("family      draws   hidden   logits   cached gradients outputs  back  seconds")
    rows = {}
    for family in families:
        found = measured(family, int(given.get("draws", 20)), int(given.get("seed", 0)))
        greedy = f"{found.same}/{found.continuations}" if found.continuations else "-"
        cached = f"{found.cached:8.1e}" if found.continuations else "       -"
        print(f"{family:11} {found.draws:5} {found.hidden:8.1e} {found.logits:8.1e} {cached} {found.gradients:9.1e} "
              f"{greedy:>7} {found.back:5} {found.seconds:8.1f}", flush=True)  # fmt: skip
        rows[family] = asdict(found)
    if set(families) == set(DRAWS):
        versions = {"transformers": transformers.__version__, "torch": torch.__version__, "multihead": __version__}
        results = {"versions": versions, "families": rows}
        path = Path(__file__).with_name("results") / "pretrained_equal.json"
        path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
