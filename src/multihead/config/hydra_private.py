"""The private parts of Hydra that `multihead.config` uses, as read in hydra-core 1.3.8.

Hydra has no public way to find the files of a composition without merging them into one configuration of its own.
`tests/test_private_names.py` fails first if one of these parts changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository as Repository
from hydra._internal.defaults_list import create_defaults_list
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult


@dataclass(frozen=True)
class Found:
    """One entry of a composition's defaults lists, with what Hydra loaded for it."""

    name: str
    """Group and choice, such as ``model/tiny``."""
    package: str
    """The node that it is merged into; empty for the root."""
    parent: str
    """The entry whose defaults list names it."""
    primary: bool
    """Whether it is the configuration that composition starts from."""
    result: ConfigResult


def config_loader(main: Path, own: Path | None) -> ConfigLoaderImpl:
    """Returns a loader for the folder ``main`` and, searched after it, the user's folder ``own``.

    `create_config_search_path` also adds the folders that installed plugins of Hydra bring.
    """
    search_path = create_config_search_path(f"file://{main}")
    if own is not None:
        search_path.prepend("command-line", f"file://{own}", anchor=SearchPathQuery(provider="schema"))
    return ConfigLoaderImpl(config_search_path=search_path)


def repository(loader: ConfigLoaderImpl, primary: str, words: list[str]) -> Repository:
    """Returns the files that can be found, also where ``hydra.searchpath`` among the words says.

    `_parse_overrides_and_create_caching_repo` is the first step of the loader's own `load_configuration`.
    """
    return loader._parse_overrides_and_create_caching_repo(primary, words)[1]


def found(repo: Repository, primary: str, overrides: list[Override]) -> list[Found]:
    """Returns all entries of the defaults lists, lowest precedence first.

    `create_defaults_list` resolves the lists; Hydra has no public function that does this alone.
    """
    defaults = create_defaults_list(repo, primary, overrides, prepend_hydra=True, skip_missing=False).defaults
    entries = []
    for default in defaults:
        name = default.config_path or ""
        result = repo.load_config(name)
        assert result is not None, name  # a missing file is Hydra's own error
        entries.append(Found(name, default.package or "", default.parent or "", default.primary, result))
    return entries


def forget_groups(*groups: str) -> None:
    """Removes groups from the store of registered dataclasses; `ConfigStore` has no public way to remove one."""
    for group in groups:
        ConfigStore.instance().repo.pop(group, None)
