from types import SimpleNamespace

import pytest
import torch

from PartialSegLib.errors import DeviceError, InputError
from PartialSegLib.pytorch import devices
from PartialSegLib.pytorch.devices import (
    GraphicsCard,
    choose_device,
    choose_precision,
    explained_memory_errors,
    free_memory,
    graphics_cards,
)


def test_cpu_is_always_there():
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("working", "chosen"), [({"cuda", "cpu"}, "cuda"), ({"mps", "cpu"}, "mps"), ({"cpu"}, "cpu")]
)
def test_auto_takes_the_first_device_that_works(monkeypatch, working, chosen):
    monkeypatch.setattr(devices, "_works", lambda device: device.type in working)
    assert choose_device("auto").type == chosen


def test_a_broken_pytorch_is_named_with_its_reason(monkeypatch):
    def broken(*tensors):
        raise RuntimeError("no kernel\nand a long story")

    monkeypatch.setattr(devices.functional, "conv3d", broken)
    with pytest.raises(DeviceError, match=r"does not work on this machine \(no kernel\); install it anew"):
        choose_device("auto")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "", "cpu:1", "cuda:0 "])
def test_unknown_devices_are_refused_with_the_choices(name):
    with pytest.raises(InputError, match="choose auto, cpu, cuda, cuda:N or mps"):
        choose_device(name)


@pytest.mark.parametrize("name", ["mps", "cuda:999"])
def test_a_missing_device_is_a_device_error(monkeypatch, name):
    if name == "mps":
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=f"Device {name} does not work"):
        choose_device(name)


@pytest.mark.parametrize("operation", ["conv3d", "conv_transpose3d", "interpolate"])
def test_a_gpu_on_which_a_kernel_is_missing_does_not_count(monkeypatch, operation):
    def fail(*_):
        raise RuntimeError("no kernel image is available for execution on the device")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices._fault(torch.device("cpu")) is None
    monkeypatch.setattr(devices.functional, operation, fail)
    with pytest.raises(DeviceError):
        choose_device("cuda")


def test_a_pytorch_that_does_not_know_whether_mps_is_available_is_no_obstacle(monkeypatch):
    monkeypatch.delattr(torch.mps, "is_available", raising=False)  # as in PyTorch 2.2
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto").type in ("cpu", "mps")


def test_only_cards_that_work_are_listed(monkeypatch):
    """Two NVIDIA cards, of which PyTorch has kernels for one; the cards are simulated."""
    properties = SimpleNamespace(name="NVIDIA H200", total_memory=139 << 30)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(devices, "_works", lambda device: device == torch.device("cuda:1"))
    assert graphics_cards() == [GraphicsCard("cuda:1", "NVIDIA H200", 139 << 30)]


def test_an_apple_gpu_is_listed(monkeypatch):
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 12 << 30)
    monkeypatch.setattr(devices, "_works", lambda device: device.type == "mps")
    assert graphics_cards() == [GraphicsCard("mps", "Apple GPU", 12 << 30)]


@pytest.mark.gpu
def test_a_real_card_is_listed_and_chosen():
    first, *_ = graphics_cards()
    assert first.memory_bytes > 1 << 30
    assert choose_device("auto").type == choose_device(first.device).type


def test_the_processor_has_the_free_memory_of_the_computer():
    assert free_memory(torch.device("cpu")) > 1 << 20


def test_what_is_held_of_a_card_without_being_used_is_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 8000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 500)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 200)
    assert free_memory(torch.device("cuda:0")) == 1300


@pytest.mark.parametrize(("name", "dtype"), list(devices.PRECISIONS.items()))
def test_precision_by_name(name, dtype):
    assert choose_precision(torch.device("cpu"), name) == dtype


def test_unknown_precision_is_refused():
    with pytest.raises(InputError, match="choose from auto, float32"):
        choose_precision(torch.device("cpu"), "half")


@pytest.mark.parametrize(("has_bfloat16", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_cpus_run_in_bfloat16_only_where_they_have_instructions_for_it(monkeypatch, has_bfloat16, dtype):
    monkeypatch.setattr(devices, "_cpu_has_bfloat16", lambda: has_bfloat16)
    assert choose_precision(torch.device("cpu")) == dtype


def test_precision_of_an_old_and_a_new_gpu(monkeypatch):
    for capability, dtype in (((6, 1), torch.float32), ((7, 5), torch.float16), ((9, 0), torch.float16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, value=capability: value)
        assert choose_precision(torch.device("cuda")) == dtype
    assert choose_precision(torch.device("mps")) == torch.float32


def test_an_old_gpu_is_not_asked_for_bfloat16(monkeypatch):
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert choose_precision(cuda, "float16") == torch.float16
    with pytest.raises(
        InputError, match=r"^Tesla T4 cannot convolve in bfloat16; choose the precision float16"
    ):
        choose_precision(cuda, "bfloat16")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    assert choose_precision(cuda, "bfloat16") == torch.bfloat16


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("FIND was unable to find an engine to execute this computation"),
        RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
        RuntimeError("Exception from src/inference: std::bad_alloc"),
        RuntimeError("bad allocation"),
        RuntimeError("could not create a primitive"),
        RuntimeError("Invalid buffer size: 12.00 GiB"),
    ],
)
def test_exhausted_memory_is_a_device_error(error):
    with (
        pytest.raises(DeviceError, match="Out of memory on cpu"),
        explained_memory_errors(torch.device("cpu")),
    ):
        raise error


def test_a_real_failed_allocation_is_explained():
    with pytest.raises(DeviceError), explained_memory_errors(torch.device("cpu")):
        torch.empty(1 << 60, dtype=torch.uint8)


@pytest.mark.parametrize(
    "sentence", ["shapes do not match", "could not create a primitive descriptor for a convolution"]
)
def test_other_errors_pass(sentence):
    with pytest.raises(RuntimeError, match=sentence), explained_memory_errors(torch.device("cpu")):
        raise RuntimeError(sentence)
