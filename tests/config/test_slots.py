"""The places that a plugin can fill: our choices and the plugin's, checked when a configuration is composed."""

import dataclasses
from typing import Any

import pytest
import torch

from multihead.config.compose import compose
from multihead.config.slots import SLOTS, check_choices, from_plugin
from multihead.config.training import Config, OptimConfig
from multihead.errors import ConfigError
from multihead.model.optim import build_optimizer, lr_factor
from multihead.model.positions import new_positions
from multihead.model.transformer import ModelConfig, new_norm
from multihead.plugin import Plugin


@pytest.mark.parametrize("slot", SLOTS.values(), ids=list(SLOTS))
def test_every_slot_has_a_field_a_key_and_choices(slot):
    assert slot.field in {field.name for field in dataclasses.fields(Plugin)}
    assert slot.chosen(Config()) in slot.own
    with pytest.raises(
        ConfigError, match=rf"^error\[config\] {slot.key}: must be one of {', '.join(slot.own)}, got 'x'"
    ):
        compose(["task=translation", f"{slot.key}=x"])
    fields: Any = {slot.field: {"mine": object}}
    plugin = Plugin(**fields)
    assert slot.choices(plugin) == [*slot.own, "mine"]


def test_a_plugin_adds_to_the_choices_with_its_options():
    @dataclasses.dataclass
    class Options:
        share: float = 0.5

    plugin = Plugin(norms={"mine": lambda config, width, options: (width, options.share)}, options={"mine": Options})
    config = Config()
    assert from_plugin(config, plugin, "norms") is None  # ours is chosen
    config.model.norm = "mine"
    config.options["mine"] = Options(share=0.25)
    check_choices(config, plugin)
    made = from_plugin(config, plugin, "norms")
    assert made is not None and made(config.model, 8) == (8, 0.25)
    with pytest.raises(ConfigError, match=r"model\.norm: must be one of layer_norm, rms_norm, got 'mine'"):
        check_choices(config, None)


@pytest.mark.parametrize("slot", SLOTS.values(), ids=list(SLOTS))
def test_a_plugin_cannot_take_the_name_of_one_of_ours(slot):
    fields: Any = {slot.field: {slot.own[0]: object}}
    with pytest.raises(ConfigError, match=rf"plugin: {slot.field}\['{slot.own[0]}'\] has the name of one of our own"):
        check_choices(Config(), Plugin(**fields))


def test_a_model_that_is_built_without_composing_is_checked_too():
    with pytest.raises(ConfigError, match=r"model\.norm: must be one of layer_norm, rms_norm, got 'batch'"):
        new_norm(ModelConfig(norm="batch"), 8)
    with pytest.raises(ConfigError, match=r"model\.position: must be one of sinusoidal, .*, none, got 'rope'"):
        new_positions(ModelConfig(position="rope"), True)
    with pytest.raises(ConfigError, match=r"optim\.name: must be one of adamw, muon, got 'sgd'"):
        build_optimizer([("a", torch.nn.Parameter(torch.ones(2, 2)))], OptimConfig(name="sgd"), fused=False)
    with pytest.raises(ConfigError, match=r"optim\.schedule: must be one of noam, .* got 'linear'"):
        lr_factor(OptimConfig(schedule="linear"), 10, 1)
