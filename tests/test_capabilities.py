"""What the machine can do is asked by capability or by a measurement, and every answer can be forced."""

import os
import subprocess
import sys
import types

import pytest
import torch

from multihead import capabilities
from multihead.errors import ConfigError

XEON = {"architecture": "x86_64", "avx2": True, "avx512_bf16": True, "amx_bf16": True}
ZEN4 = {**XEON, "amx_bf16": False}
LAPTOP = {"architecture": "x86_64", "avx2": True, "avx512_bf16": False, "amx_bf16": False}
GRAVITON = {"architecture": "aarch64", "bf16": True}


@pytest.fixture
def processor(monkeypatch):
    """Puts another processor into the place of this one, whose products in bfloat16 are so many times as fast."""

    def put(flags, gain=1.0, limit="", amx_allowed=True):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
        monkeypatch.setattr(torch.cpu, "_init_amx", lambda: amx_allowed)
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
        monkeypatch.setattr(capabilities, "bf16_gain", lambda device: gain)
        for name in capabilities.ISA_LIMITS:
            monkeypatch.delenv(name, raising=False)
        if limit:
            monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
        capabilities.bf16_instructions.cache_clear()

    yield put
    capabilities.bf16_instructions.cache_clear()


@pytest.mark.parametrize(
    ("flags", "limit", "found"),
    [
        (XEON, "", "amx"),
        (XEON, "default", "amx"),
        (XEON, "AVX512_CORE_AMX", "amx"),
        (XEON, "AVX512_CORE_BF16", "avx512"),
        (XEON, "avx10_1_512", "avx512"),
        (XEON, "AVX512_CORE", ""),
        (XEON, "AVX2", ""),
        (ZEN4, "", "avx512"),
        (LAPTOP, "", ""),
        (GRAVITON, "", "arm"),
        ({"architecture": "aarch64"}, "", ""),
    ],
)
def test_instructions_count_that_the_processor_has_and_onednn_uses(processor, flags, limit, found):
    processor(flags, limit=limit)
    assert capabilities.bf16_instructions() == found


def test_amx_that_the_kernel_forbids_and_a_build_without_onednn(processor, monkeypatch):
    processor(XEON, amx_allowed=False)
    assert capabilities.bf16_instructions() == "avx512"
    processor(XEON)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert capabilities.bf16_instructions() == ""


@pytest.mark.parametrize(
    ("flags", "gain", "fast", "certain"),
    [(XEON, 0.5, True, True), (ZEN4, 1.3, True, False), (ZEN4, 1.2, False, False), (LAPTOP, 9.0, False, False)],
)
def test_what_is_not_certain_is_measured(processor, flags, gain, fast, certain):
    processor(flags, gain)
    assert capabilities.fast_bf16("cpu") == fast
    assert capabilities.fast_bf16("cpu", measure=False) == certain
    assert not capabilities.fast_bf16("mps")


def test_emulated_bfloat16_on_a_gpu_does_not_count(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert not capabilities.fast_bf16("cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert capabilities.fast_bf16("cuda")


@pytest.mark.skipif(not torch.cpu._is_avx2_supported(), reason="oneDNN's limit is one for x86")
def test_the_measurement_sees_what_onednn_may_use():
    code = "from multihead import capabilities as c; print(c.bf16_instructions() or 'none', c.bf16_gain('cpu'))"
    limited = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=limited)
    instructions, gain = done.stdout.split()
    assert instructions == "none"
    assert float(gain) < 0.7
    assert capabilities.bf16_gain("cpu") > (float(gain) * 2 if capabilities.bf16_instructions() == "amx" else 0)


@pytest.mark.parametrize("kept", [{}, {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "9"}])
def test_measuring_does_not_open_onednns_cache_at_its_own_size(monkeypatch, kept):
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in kept.items():
        monkeypatch.setenv(name, value)
    capabilities._measured_gain("cpu")
    assert os.environ["LRU_CACHE_CAPACITY"] == "64"
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == kept.get("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    monkeypatch.undo()


@pytest.fixture
def measurements(monkeypatch, tmp_path):
    """Gains that the next measurements give; the cache is a folder of the test's own."""
    gains = []
    monkeypatch.setenv("MULTIHEAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(capabilities, "_measured_gain", lambda device: gains.pop(0))
    return gains


def test_a_machine_measures_its_processor_once(measurements, monkeypatch, tmp_path):
    measurements += [1.31, 0.52, 1.4]
    gain = capabilities.bf16_gain.__wrapped__
    assert (gain("cpu"), gain("cpu")) == (1.31, 1.31)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")  # other kernels: another key of the same file
    assert (gain("cpu"), gain("cpu")) == (0.52, 0.52)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    assert gain("cpu") == 1.31
    assert gain("mps") == 1.4
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize("content", ["{half", "[]", '"word"', "\u00ff"])
def test_a_damaged_measurement_is_made_again(measurements, tmp_path, content):
    measurements += [1.3, 1.4]
    path = tmp_path / "cache" / "bf16_gain.json"
    path.parent.mkdir()
    path.write_text(content)
    assert capabilities.bf16_gain.__wrapped__("cpu") == 1.3


def test_a_machine_that_cannot_keep_a_measurement_still_measures(measurements, monkeypatch, tmp_path):
    measurements += [1.3, 1.2]
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MULTIHEAD_CACHE", str(tmp_path / "file"))
    assert [capabilities.bf16_gain.__wrapped__("cpu") for _ in range(2)] == [1.3, 1.2]


def test_cache_root(monkeypatch, tmp_path):
    monkeypatch.setenv("MULTIHEAD_CACHE", str(tmp_path))
    assert capabilities.cache_root() == tmp_path
    monkeypatch.delenv("MULTIHEAD_CACHE")
    assert capabilities.cache_root().parts[-2:] == (".cache", "multihead")


# ---- cores and threads


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 16),
        ({"sys/fs/cgroup/cpu.max": "max 100000\n"}, 16),
        ({"sys/fs/cgroup/cpu.max": "250000 100000\n"}, 3),
        ({"sys/fs/cgroup/cpu.max": "10000 100000\n"}, 1),
        ({"sys/fs/cgroup/cpu.max": "9900000 100000\n"}, 16),
        ({"proc/self/cgroup": "0::/pod/own\n", "sys/fs/cgroup/pod/cpu.max": "400000 100000\n"}, 4),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/docker/x\n3:memory:/docker/x\n",
                "sys/fs/cgroup/cpu/docker/x/cpu.cfs_quota_us": "200000\n",
                "sys/fs/cgroup/cpu/docker/x/cpu.cfs_period_us": "100000\n",
            },
            2,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            16,
        ),
        ({"proc/self/cgroup": "broken\n", "sys/fs/cgroup/cpu.max": "\n"}, 16),
    ],
)
def test_cores_are_those_that_the_container_allows(tmp_path, monkeypatch, files, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert capabilities.cores(tmp_path) == cores


def test_cores_without_affinity(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # macOS
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert capabilities.cores(tmp_path) == 8


@pytest.mark.parametrize(
    ("variables", "before", "after"),
    [({}, 64, 2), ({"OMP_NUM_THREADS": "64"}, 64, 64), ({"MKL_NUM_THREADS": "8"}, 8, 8), ({}, 1, 1)],
)
def test_threads_are_limited_unless_the_user_says_how_many(monkeypatch, variables, before, after):
    threads = [before]
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads[-1])
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setattr(capabilities, "cores", lambda: 2)
    for name in capabilities.THREADS:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    capabilities.limit_threads()
    assert threads[-1] == after
    assert capabilities.threads_per_rank(2) == max(1, min(2, after) // 2)


# ---- devices

MACHINES = {
    "cpu": {"cpu": 1},
    "two GPUs": {"cuda": 2, "cpu": 1},
    "TPU": {"tpu": 1, "cpu": 1},
}
MEANT = {
    "cpu": {"auto": "cpu", "cpu": "cpu"},
    "two GPUs": {"auto": "cuda", "cpu": "cpu", "gpu": "cuda", "cuda": "cuda"},
    "TPU": {"auto": "tpu", "cpu": "cpu", "tpu": "tpu"},
}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("accelerator", ["auto", "cpu", "gpu", "cuda", "tpu"])
def test_every_accelerator_is_found_or_refused_in_one_line(monkeypatch, machine, accelerator):
    monkeypatch.setattr(capabilities, "device_counts", lambda: MACHINES[machine])
    if (meant := MEANT[machine].get(accelerator)) is not None:
        assert capabilities.device_of(accelerator) == meant
        return
    listed = ", ".join(MACHINES[machine])
    with pytest.raises(ConfigError, match=f"accelerator: no {accelerator} on this machine, which has: {listed}; fix: "):
        capabilities.device_of(accelerator)


def test_an_apple_gpu_is_refused_because_it_has_no_float64(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert capabilities.device_of("auto") == "cpu"
    with pytest.raises(
        ConfigError, match="an Apple GPU has no float64, which metrics and beam search need; fix: accelerator=cpu"
    ):
        capabilities.device_of("mps")


@pytest.mark.unhurried  # Lightning is imported
def test_the_devices_that_there_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert capabilities.device_counts() == {"cuda": 3, "cpu": 1}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert capabilities.device_counts() == {"cpu": 1}
    found = types.SimpleNamespace(is_available=lambda: True)
    monkeypatch.setattr("lightning.pytorch.accelerators.XLAAccelerator", found)
    monkeypatch.setattr(capabilities.importlib.util, "find_spec", lambda name: name == "torch_xla")
    assert list(capabilities.device_counts()) == ["tpu", "cpu"]
