"""Private names of libraries stand in one module for each library; tests fail here first if a library changes one."""

import ast
import inspect
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from lightning.pytorch.profilers import PassThroughProfiler
from test_imports import FILES, tree
from torch.distributed.fsdp import fully_shard
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from multihead import torch_private
from multihead.config import hydra_private
from multihead.training import lightning_private

MODULES = {
    "torch_private.py",
    "training/lightning_private.py",
    "config/hydra_private.py",
    "sweeping/optuna_private.py",
    "metrics/sacrebleu_private.py",
}
"""The modules that may use private names of a library."""
DOCUMENTED = {"os._exit"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and len(name) > 1


def defined(name: str) -> set[str]:
    """Private names that a file defines: functions, classes, variables, attributes of ``self``."""
    found = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            on_self = isinstance(node, ast.Name) or ast.unparse(node.value) in ("self", "cls")
            found |= {node.id if isinstance(node, ast.Name) else node.attr} if on_self else set()
    return found


def used(name: str) -> set[str]:
    """Private names that a file uses of something else: attributes, also by ``getattr``, and imports."""
    found = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            found |= {node.attr} if ast.unparse(node) not in DOCUMENTED else set()
        elif isinstance(node, ast.Import | ast.ImportFrom):
            words = [alias.name for alias in node.names] + [getattr(node, "module", "")]
            found |= {word for words in words for word in words.split(".") if is_private(word)}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr", "delattr"):
            attribute = node.args[1]
            found |= {attribute.value} if isinstance(attribute, ast.Constant) and is_private(attribute.value) else set()
    return found


@pytest.mark.parametrize("name", sorted(FILES.keys() - MODULES))
def test_a_private_name_is_used_only_where_it_is_defined(name):
    assert used(name) - defined(name) == set()


# ---- PyTorch


def test_torch_has_what_it_asks_of_the_processor():
    assert list(inspect.signature(torch.cpu._init_amx).parameters) == []
    assert torch_private.allow_amx() in (True, False)


def test_torch_has_the_operators_on_a_cpu():
    linear = torch.ops.mkldnn._linear_pointwise.default._schema
    assert [argument.name for argument in linear.arguments] == ["X", "W", "B", "attr", "scalars", "algorithm"]
    left, right = torch.rand(3, 5), torch.rand(4, 5)
    torch.testing.assert_close(torch_private.onednn_linear(left, right), left @ right.T)
    forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default._schema
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default._schema
    assert [argument.name for argument in forward.arguments][:3] == ["query", "key", "value"]
    assert [argument.name for argument in backward.arguments][:4] == ["grad_out", "query", "key", "value"]
    assert len(torch_private.operators_without_flops(*[lambda: 0] * 3)) == 3


def test_torch_has_functions_of_lists_of_tensors():
    tensors, others = [torch.zeros(2), torch.zeros(1)], [torch.full((2,), 4.0), torch.full((1,), 8.0)]
    assert [t.tolist() for t in torch_private.lerp_each(tensors, others, 0.25)] == [[1.0, 1.0], [2.0]]
    assert not any(t.any() for t in tensors)
    torch_private.lerp_each_(tensors, others, 0.5)
    torch_private.multiply_each_(tensors, 3.0)
    assert [t.tolist() for t in tensors] == [[6.0, 6.0], [12.0]]
    torch_private.copy_each_(tensors, others)
    assert all(map(torch.equal, tensors, others))


@pytest.mark.unhurried
def test_torch_knows_of_a_module_whether_it_is_compiled():
    module = torch.nn.Linear(1, 1)
    assert not torch_private.is_compiled(module)
    module.compile()
    assert torch_private.is_compiled(module)


def test_torch_has_a_state_of_sharded_modules():
    assert callable(fully_shard.state)
    states = [c for c in vars(inspect.getmodule(fully_shard.__wrapped__)).values() if inspect.isclass(c)]
    state = next(c for c in states if c.__name__ == "FSDPState")
    assert list(inspect.signature(state._lazy_init).parameters) == ["self"]


def test_torch_keeps_the_rates_that_were_set_last():
    schedule = LambdaLR(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0), lambda step: 1.0)
    assert schedule._last_lr == schedule.get_last_lr() == [1.0]
    torch_private.set_last_rates(schedule, [0.5])
    assert schedule.get_last_lr() == [0.5]
    assert "_last_lr" in inspect.getsource(LRScheduler.get_last_lr)


# ---- Lightning


@pytest.fixture
def trainer():
    return L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, accumulate_grad_batches=2)


def test_lightning_has_the_loop_that_does_not_validate(trainer):
    loop = trainer.fit_loop.epoch_loop
    assert list(inspect.signature(loop._should_check_val_fx).parameters) == ["data_fetcher"]
    assert "self._should_check_val_fx(data_fetcher)" in inspect.getsource(type(loop))
    lightning_private.leave_validation_to_us(trainer)
    assert loop._should_check_val_fx(None) is False


def test_lightning_has_the_counters(trainer):
    loop = trainer.fit_loop.epoch_loop
    assert loop._batches_that_stepped == 0
    assert vars(loop.batch_progress.total) == dict.fromkeys(("ready", "completed", "started", "processed"), 0)
    lightning_private.set_counters(trainer, 3)
    assert trainer.global_step == loop._batches_that_stepped == 3
    assert vars(loop.batch_progress.total) == dict.fromkeys(("ready", "completed", "started", "processed"), 6)


def test_lightning_has_the_validation_in_the_midst_of_training(trainer, monkeypatch):
    """As Lightning's own loop calls it."""
    source = inspect.getsource(type(trainer.fit_loop.epoch_loop).advance) + inspect.getsource(
        type(trainer.fit_loop.epoch_loop).on_advance_end
    )
    for line in ("_logger_connector._first_loop_iter", "trainer.validating = True", "self.val_loop.run()"):
        assert line in source
    assert trainer._logger_connector._first_loop_iter is None

    def run():
        assert trainer.validating
        trainer._logger_connector._first_loop_iter = None

    monkeypatch.setattr(trainer.fit_loop.epoch_loop.val_loop, "run", run)
    trainer._logger_connector._first_loop_iter = True
    lightning_private.run_validation(trainer)
    assert trainer.training and trainer._logger_connector._first_loop_iter is True


def test_lightning_gives_its_module_to_the_profiler(trainer):
    assert "self.profiler._lightning_module = proxy(self.lightning_module)" in inspect.getsource(L.Trainer)

    profiler = PassThroughProfiler()
    profiler._lightning_module = SimpleNamespace(trainer=trainer)
    assert lightning_private.trainer_of(profiler) is trainer


# ---- Hydra


def test_hydra_takes_the_first_step_of_its_own_composition():
    step = ConfigLoaderImpl._parse_overrides_and_create_caching_repo
    assert list(inspect.signature(step).parameters) == ["self", "config_name", "overrides"]
    assert "self._parse_overrides_and_create_caching_repo(" in inspect.getsource(ConfigLoaderImpl)
    assert list(inspect.signature(create_config_search_path).parameters) == ["search_path_dir"]


def test_hydra_finds_the_files_of_a_composition_in_order(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "train.yaml").write_text("defaults: [{model: a}, _self_]\nx: 1\n")
    (tmp_path / "model" / "a.yaml").write_text("y: 2\n")
    loader = hydra_private.config_loader(tmp_path, None)
    repository = hydra_private.repository(loader, "train", [])
    overrides = OverridesParser.create().parse_overrides(["model=a"])
    ours = [file for file in hydra_private.found(repository, "train", overrides) if file.result.provider == "main"]
    assert [(file.name, file.package, file.parent, file.primary) for file in ours] == [
        ("model/a", "model", "train", False),
        ("train", "", "<root>", True),
    ]
    assert [dict(file.result.config).get("y") for file in ours] == [2, None]
    assert repository.get_group_options("model") == ["a"] and repository.config_exists("model/a")


def test_hydra_forgets_a_group():
    ConfigStore.instance().store(group="of_this_test", name="a", node={})
    assert "of_this_test" in ConfigStore.instance().repo
    hydra_private.forget_groups("of_this_test", "of_no_test")
    assert "of_this_test" not in ConfigStore.instance().repo


def test_torch_counts_changes_in_place_and_shows_its_operations():
    x, seen = torch.ones(2, 2), []
    before = torch_private.version_of(x)
    x[0].mul_(2)
    assert torch_private.version_of(x) == before + 1
    with torch_private.watching_operations(lambda name, arguments, result: seen.append((name, result.shape))):
        torch.softmax(x, -1)
    assert seen == [("_softmax", x.shape)]
