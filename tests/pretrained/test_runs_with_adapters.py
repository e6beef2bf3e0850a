"""Runs with adapters: what stays, what is written, how they resume, and peft's own computation beside ours."""

import json
import shutil

import published_folders
import pytest
import torch
from safetensors.torch import load_file
from test_init_from_published import FEW, rows
from torch import nn

import multihead
from multihead import cli
from multihead.config.compose import compose
from multihead.errors import ConfigError
from multihead.exporting import lora
from multihead.exporting.lora import WEIGHTS
from multihead.model.lora import LoraLinear
from multihead.pretrained.source import read_published
from multihead.runs.checkpoint import FolderCheckpointIO

WORDS = ["task=classification", *FEW, "trainer.max_steps=6", "trainer.val_every_n_steps=2",
         "trainer.checkpoint_every_n_steps=2", "trainer.keep_checkpoints=3", "optim.lr=0.05", "optim.warmup_steps=1",
         "lora.r=2", "lora.alpha=6"]  # fmt: skip
AS_BERT = ["task.pooling=first", "task.head_activation=tanh"]


def trained(folder, data, run, *words):
    return multihead.train([*WORDS, f"init_from=hf:{folder}", f"data={data}", f"run_dir={run}", *words])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A published folder, data, and a run with adapters, an average and dropout."""
    place = tmp_path_factory.mktemp("lora")
    folder, data = published_folders.write(place / "bert"), rows(place / "train.tsv", 64)
    options = [*AS_BERT, "trainer.ema_decay=0.5", "lora.dropout=0.1", "lora.target_modules=[query, key, up]"]
    return folder, data, place / "run", trained(folder, data, place / "run", *options)


def learned(run):
    return load_file(run / "model" / "adapter.safetensors")


def test_the_weights_of_the_folder_stay_bit_by_bit(finished):
    folder, _, run, result = finished
    published = read_published(f"hf:{folder}").state
    best = FolderCheckpointIO().load_checkpoint(run / result["best_checkpoint"])
    for kept in (best["state_dict"], best["current_model_state"]):
        kept = {name.removeprefix("model."): tensor for name, tensor in kept.items()}
        assert all(torch.equal(kept[name], tensor) for name, tensor in published.items())
        assert any(bool(kept[name].any()) for name in kept if name.endswith("lora_B"))


def test_the_finished_model_is_an_ordinary_one_with_the_adapters_in_it(finished):
    folder, _, run, result = finished
    published, adapter = read_published(f"hf:{folder}").state, learned(run)
    model = multihead.load(str(run)).model
    assert not any(isinstance(module, LoraLinear) for module in model.modules())
    for name, tensor in model.named_parameters():
        layer = name.removesuffix(".weight")
        if f"{layer}.lora_A" in adapter:
            change = 6 / 2 * adapter[f"{layer}.lora_B"] @ adapter[f"{layer}.lora_A"]
            torch.testing.assert_close(tensor.detach(), published[name] + change, rtol=1e-6, atol=1e-6)
            assert change.abs().max() > 1e-3
        elif name.startswith("transformer."):
            assert torch.equal(tensor, published[name])
        else:
            assert torch.equal(tensor, adapter[name])
    per_layer = 2 * 2 * (16 + 16) + 2 * (16 + 24)
    assert result["trained_parameters"] == 2 * per_layer + 16 * 17 + 2 * 17
    assert result["trained_parameters"] == sum(tensor.numel() for tensor in adapter.values())
    assert result["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert f"of which {result['trained_parameters']:,} are trained" in (run / "train.log").read_text()


def test_a_checkpoint_goes_on_bit_by_bit(finished, tmp_path):
    _, _, run, result = finished
    again = shutil.copytree(run, tmp_path / "again")
    for gone in ("checkpoints/step_6", "checkpoints/step_4", "model"):
        shutil.rmtree(again / gone)
    (again / "result.json").unlink()
    (again / "checkpoints" / "latest.json").write_text(json.dumps({"step": 2, "name": "step_2"}))
    repeated = multihead.train([f"resume={again}"])
    for file in ("model.safetensors", "adapter.safetensors"):
        assert (again / "model" / file).read_bytes() == (run / "model" / file).read_bytes()
    assert {k: v for k, v in repeated.items() if k.startswith("test/")} == {
        k: v for k, v in result.items() if k.startswith("test/")
    }


def test_a_run_starts_from_a_run_with_adapters_and_may_have_its_own(finished, tmp_path):
    _, data, run, _ = finished
    words = [*(word for word in WORDS if not word.startswith("trainer.max_steps")), "trainer.max_steps=2"]
    words += [*AS_BERT, "init_tokenizer=same", f"init_from={run}", f"data={data}", f"run_dir={tmp_path / 'next'}"]
    like = json.loads((run / "model" / "model.json").read_text())["config"]["model"]
    values = [f"model.{name}={str(value).lower()}" for name, value in like.items() if value != ""]
    result = multihead.train([*words, *values])
    ours, theirs = (load_file(place / "model" / "model.safetensors") for place in (tmp_path / "next", run))
    same = {name for name in ours if torch.equal(ours[name], theirs[name])}
    changed = set(ours) - same
    assert {name.split(".")[-2] for name in changed if name.startswith("transformer")} == {"query", "value"}
    assert result["trained_parameters"] == 2 * 2 * 2 * (16 + 16) + 16 * 17 + 2 * 17


def test_a_forecast_counts_what_is_trained(finished):
    folder, data, _, result = finished
    words = [*WORDS, *AS_BERT, f"init_from=hf:{folder}", f"data={data}", "plan=true"]
    found = multihead.train([*words, "lora.target_modules=[query, key, up]"])
    assert found["memory/optimizer"] == 2 * 4 * result["trained_parameters"]


def test_what_the_source_lacks_must_be_trained(tmp_path):
    folder = published_folders.write(tmp_path / "bert")
    words = ["task=translation", "debug=smoke", f"init_from=hf:{folder}", "lora.r=2", f"run_dir={tmp_path / 'run'}"]
    message = r"lora.also_train: hf:.* does not have all of transformer.decoder.layers.0.cross_attention.query.weight, "
    message += r"which lora.r leaves untrained; fix: 'lora.also_train=\[\*.cross_attention.\*\]'"
    with pytest.raises(ConfigError, match=message):
        multihead.train([*words, "data.grammar.train_size=64", "model.max_len=48"])


def test_adapters_need_weights():
    with pytest.raises(
        ConfigError, match=r"lora.r: must be 0 if init_from is not set: adapters need weights .*, got 2"
    ):
        compose(["task=lm", "lora.r=2"])


# ---- peft


def export(run, *words):
    assert cli.main(["export", f"run={run}", "to=lora", "sentences=8", *words]) == 0
    return run / "export" / "lora"


@pytest.mark.filterwarnings("ignore")
def test_peft_loads_a_classifier(finished):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    folder, _, run, _ = finished
    out = export(run)
    loaded = multihead.load(str(run))
    base = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    model = peft.PeftModel.from_pretrained(base, out).eval()
    ids = torch.tensor([[1, 5, 6, 16, 14, 2], [1, 10, 9, 12, 20, 2]])
    with torch.no_grad():
        ours = loaded.model.head(loaded.model.transformer.encode(ids), tokens=ids)
        torch.testing.assert_close(model(input_ids=ids).logits, ours, rtol=1e-5, atol=1e-5)
        plain = base.unload() if hasattr(base, "unload") else model.unload()
        assert (plain(input_ids=ids).logits - ours).abs().max() > 1e-2
    assert json.loads((out / "adapter_config.json").read_text())["r"] == 2
    assert (out / WEIGHTS).stat().st_size < (folder / "model.safetensors").stat().st_size / 2


@pytest.mark.parametrize(
    "named, name, revision", [("me/bert@v1.0", "me/bert", "v1.0"), ("me/bert", "me/bert", None), ("FOLDER", "", None)]
)
def test_a_revision_of_the_hub_stands_apart(named, name, revision, finished, tmp_path, monkeypatch):
    folder, _, run, _ = finished
    named = named.replace("FOLDER", str(folder))
    task = multihead.load(str(run)).task
    monkeypatch.setattr("multihead.exporting.lora.locate", lambda init_from, whole=True: folder)
    task.config.init_from = f"hf:{named}"
    lora.write(task, tmp_path, run)
    content, page = json.loads((tmp_path / "adapter_config.json").read_text()), (tmp_path / "README.md").read_text()
    assert (content["base_model_name_or_path"], content["revision"]) == (name or str(folder), revision)
    called = f", revision={revision!r}" if revision else ""
    assert f"from_pretrained({name or str(folder)!r}{called}, num_labels=2" in page
    assert f"Adapters for {name or folder}{f' at revision {revision}' if revision else ''}, trained" in page
    peft = pytest.importorskip("peft")
    assert peft.PeftConfig.from_pretrained(str(tmp_path)).revision == revision


@pytest.mark.filterwarnings("ignore")
def test_peft_predicts_the_numbers_of_a_regression_in_their_own_units(finished, tmp_path):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    folder, run = finished[0], tmp_path / "run"
    texts = [" ".join(published_folders.WORDS[i * step % 21] for step in (1, 5, 7)) for i in range(60)]
    lines = [f"{text}\t{1900 + i % 7}" for i, text in enumerate(texts)]
    (tmp_path / "years.tsv").write_text("text\tyear\n" + "\n".join(lines) + "\n")
    words = ["task=regression", *WORDS[1:], *AS_BERT, f"init_from=hf:{folder}", f"data={tmp_path / 'years.tsv'}"]
    multihead.train([*words, f"run_dir={run}"])
    base = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    model = peft.PeftModel.from_pretrained(base, export(run)).eval()
    loaded = multihead.load(str(run))
    with torch.no_grad():
        theirs = float(model(input_ids=torch.tensor([[1, 5, 6, 16, 14, 2]])).logits)
    assert theirs == pytest.approx(loaded.regress(loaded.task.tokenizers["text"].decode_batch([[5, 6, 16, 14]])[0]))
    assert abs(theirs - 1903) < 20


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", ["gpt2", "gpt_neox", "llama"])
@pytest.mark.parametrize("targets", ["[query, key, value, down]", "[value, up]"])
def test_peft_loads_a_language_model_whose_projections_may_be_one_matrix(model_type, targets, tmp_path):
    peft = pytest.importorskip("peft")
    configs = {"gpt2": published_folders.GPT2, "llama": published_folders.LLAMA}
    neox = {**published_folders.LLAMA, "model_type": "gpt_neox"}
    neox |= {"num_attention_heads": 2, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 0}
    folder = published_folders.write(tmp_path / "base", configs.get(model_type, neox), head="vocabulary")
    (tmp_path / "text.txt").write_text("the old dog sees a good man and it was fun\n" * 80)
    words = ["task=lm", *WORDS[1:], f"init_from=hf:{folder}", f"data={tmp_path / 'text.txt'}", "model.max_len=16"]
    multihead.train([*words, f"lora.target_modules={targets}", f"run_dir={tmp_path / 'run'}", "trainer.max_steps=2"])
    out = export(tmp_path / "run")
    loaded = multihead.load(str(tmp_path / "run"))
    model = peft.AutoPeftModelForCausalLM.from_pretrained(out).eval()
    ids = torch.tensor([[5, 6, 16, 14, 2], [10, 9, 12, 20, 2]])
    with torch.no_grad():
        ours = loaded.model.head(loaded.model.transformer.decode(ids))
        torch.testing.assert_close(model(input_ids=ids).logits, ours, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_peft_trains_as_we_do(tmp_path):
    """The same adapters on the same model: equal outputs, and equal gradients of A and B."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    from multihead.config.lora import LoraConfig
    from multihead.config.model import ModelConfig
    from multihead.model.lora import adapt
    from multihead.model.transformer import Transformer

    folder = published_folders.write(tmp_path / "bert")
    published = read_published(f"hf:{folder}")
    config = ModelConfig(**published.options | {"dropout": 0.0, "attention_dropout": 0.0})
    holder = nn.Module()
    holder.transformer = Transformer(config, source_vocab_size=26, target_vocab_size=None)
    holder.load_state_dict(published.state)
    adapt(holder, LoraConfig(r=3, alpha=6.0))
    model = transformers.AutoModel.from_pretrained(folder, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    made = peft.LoraConfig(r=3, lora_alpha=6, target_modules=["query", "value"])
    theirs = peft.get_peft_model(model.eval(), made).train()
    pairs = []
    torch.manual_seed(0)
    for index, layer in enumerate(holder.transformer.encoder.layers):
        other = model.encoder.layer[index].attention.self
        for name in ("query", "value"):
            ours, peers = getattr(layer.self_attention, name), getattr(other, name)
            pairs += [(ours.lora_A, peers.lora_A.default.weight), (ours.lora_B, peers.lora_B.default.weight)]
    with torch.no_grad():
        for ours, peers in pairs:
            ours.copy_(torch.randn(ours.shape) * 0.3)
            peers.copy_(ours)
    ids = torch.tensor([[1, 5, 6, 16, 14, 2], [1, 10, 9, 12, 20, 2]])
    first, second = holder.transformer.encode(ids), theirs(input_ids=ids, attention_mask=torch.ones_like(ids))[0]
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)
    weight = torch.randn(first.shape)
    for output in (first, second):
        (output * weight).sum().backward()
    for ours, peers in pairs:
        torch.testing.assert_close(ours.grad, peers.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "words, message",
    [
        (["lora.r=0"], "to=lora: the run has no adapters, because it was trained without lora.r; fix: to=huggingface"),
        (["init_from=RUN"], "to=lora: the adapters need the weights of .*, which is not a published model"),
        (["lora.also_train=[*norm*]"], "lora.also_train: to=lora writes adapters and heads, but the run trained more"),
        (["task.pooling=mean"], "task.pooling=mean: prevents the export: BERT has first; fix: to=onnx"),
        (["task=translation"], "task=translation: has other stacks than hf:.*, so that no model of peft"),
        (["task=multitask"], "task=multitask: has several tasks, but a model of peft has one head; fix: to=onnx or"),
        (
            ["model.num_encoder_layers=1"],
            "model.num_encoder_layers=1: prevents the export: peft adds adapters to the whole of hf:.*, which has 2",
        ),
    ],
)
def test_what_prevents_an_export_of_adapters(words, message, finished):
    from multihead.exporting.lora import base_of

    folder, _, run, _ = finished
    given = [word.replace("RUN", str(run)) for word in words]
    start = [] if given[0].startswith("init_from") else [f"init_from=hf:{folder}"]
    task = [] if given[0].startswith("task=") else ["task=classification", *AS_BERT]
    config = compose([*task, "lora.r=2", *start, *given]).config
    with pytest.raises(ConfigError, match=message):
        base_of(type("Stub", (), {"config": config})())


def test_a_lost_file_of_adapters_is_reported(finished, tmp_path):
    from multihead.errors import CheckpointError
    from multihead.exporting.lora import write

    _, _, run, _ = finished
    again = shutil.copytree(run, tmp_path / "again")
    (again / "model" / "adapter.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match=r"adapter.safetensors: cannot be loaded .*; fix: copy the run again"):
        write(multihead.load(str(again)).task, tmp_path, again)


@pytest.mark.slow
def test_compiled_adapters_learn_the_same(finished, tmp_path):
    folder, data, _, _ = finished
    plain = [*AS_BERT, "model.dropout=0", "model.attention_dropout=0", "task.head_dropout=0", "optim.lr=0.005"]
    results = [trained(folder, data, tmp_path / word, *plain, f"compile={word}") for word in ("false", "true")]
    ours, compiled = (learned(tmp_path / word) for word in ("false", "true"))
    assert ours.keys() == compiled.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(compiled[name], tensor, rtol=1e-3, atol=1e-4)
    assert results[0]["trained_parameters"] == results[1]["trained_parameters"]
    assert results[0]["test/loss"] == pytest.approx(results[1]["test/loss"], abs=1e-4)
