"""What a plugin adds to the data: readers of files, and tokenizers."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import tokenizers

from multihead.config.data import DataConfig, TokenizerConfig
from multihead.config.slots import from_plugin
from multihead.config.training import Config
from multihead.data.corpus import Reader
from multihead.data.lines import find
from multihead.data.published import PublishedTokenizer
from multihead.data.tokenizer import SPECIALS, Tokenizer, train_tokenizer
from multihead.errors import ConfigError, DataError
from multihead.plugin import Plugin

Trainer = Callable[[TokenizerConfig, Iterable[str], str], Tokenizer]
"""(settings, training texts, Unicode normalisation) to a tokenizer."""


def readers_of(config: Config, plugin: Plugin | None) -> dict[str, Reader]:
    """The plugin's corpora by the name of the data set, with the files of this one if the plugin reads its format."""
    found = dict(plugin.corpora) if plugin else {}
    read = from_plugin(config, plugin, "readers")
    return found if read is None else found | {config.data.name: functools.partial(_read_files, read)}


def _read_files(
    read: Callable[..., Mapping[str, list[str]]], data: DataConfig, split: str, columns: Sequence[str]
) -> dict[str, list[str]] | None:
    """The columns of a split, whose files a plugin reads; None if the split has no file.

    Raises:
        DataError: A file lacks a column, or its columns differ in length.
    """
    files = getattr(data, split)
    if files is None:
        return None
    found: dict[str, list[str]] = {column: [] for column in columns}
    for file in [files] if isinstance(files, str) else files:
        table = read(find(data, file), columns, data)
        for column in columns:
            if column not in table:
                what = f"the plugin's reader gave no column {column!r}; it gave {', '.join(table) or 'none'}"
                raise DataError(file, what, "data.roles names the columns")
            found[column] += table[column]
        if len({len(table[column]) for column in columns}) > 1:
            raise DataError(file, "the plugin's reader gave columns of different lengths")
    return found


def trainer_of(config: Config, plugin: Plugin | None, kind: str) -> tuple[Trainer, list[str]]:
    """What trains a tokenizer of this kind, and what the cache must know of it."""
    train = plugin.tokenizers.get(kind) if plugin else None
    if train is None:
        return train_tokenizer, []
    options = config.options.get(kind)
    train = train if options is None else functools.partial(train, options=options)
    return functools.partial(_train, train), [config.plugin_sha256, repr(options)]


def _train(train: Callable[..., Any], config: TokenizerConfig, texts: Iterable[str], normalize: str) -> Tokenizer:
    """The tokenizer that a plugin's function trains; special entries play their roles by our names (``<pad>``, ...).

    Raises:
        ConfigError: The function returns something else, or no entry can end a text.
    """
    found = train(config, texts, normalize)
    if not isinstance(found, tokenizers.Tokenizer):
        what = f"the plugin must return a tokenizers.Tokenizer, got {type(found).__name__}"
        raise ConfigError(f"tokenizer.kind={config.kind}", what)
    entries = found.get_vocab(with_added_tokens=True)
    special = {f"{entry.strip('<>')}_token": entry for entry in SPECIALS if entry in entries}
    if "bos_token" in special:
        special["cls_token"] = special["bos_token"]
    try:
        return PublishedTokenizer(json.loads(found.to_str()), special, max(entries.values(), default=-1) + 1)
    except ValueError as error:
        raise ConfigError(f"tokenizer.kind={config.kind}", f"the plugin's tokenizer {error}") from error
