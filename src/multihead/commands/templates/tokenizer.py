"""A tokenizer of your own: TRAIN

This one has words in small letters, and each digit by itself. A run keeps it as data, and needs this file no more.
"""

from dataclasses import dataclass

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from multihead.plugin import Plugin

SPECIALS = ["<pad>", "<bos>", "<eos>", "<unk>", "<sep>", "<mask>"]  # our code finds them by these names


@dataclass(kw_only=True)
class Options:
    digits: bool = True  # a key of the configuration: options.my_tokenizer.digits
    """Whether each digit is a token."""


def my_tokenizer(config, texts, normalize, options):
    """A trained tokenizer of the library `tokenizers`.

    Args:
        config: The node tokenizer, such as config.vocab_size.
        texts: The training texts.
        normalize: The Unicode form that data.normalize asks for: none, nfc or nfkc.
        options: The values of options.my_tokenizer.
    """
    form = {"nfc": [normalizers.NFC()], "nfkc": [normalizers.NFKC()]}.get(normalize, [])
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([*form, normalizers.Lowercase()])
    pieces = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    digits = [pre_tokenizers.Digits(individual_digits=True)] if options.digits else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*pieces, *digits])
    trainer = trainers.WordLevelTrainer(vocab_size=config.vocab_size, special_tokens=SPECIALS, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


PLUGIN = Plugin(tokenizers={"my_tokenizer": my_tokenizer}, options={"my_tokenizer": Options})
