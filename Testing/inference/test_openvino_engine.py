"""OpenVINO as the engine of the convolutions: the same features, and one sentence where it cannot run."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_networks import SMALL_NETWORKS, small_model
from torch.nn import functional

from PartialSegLib import load_model
from PartialSegLib.engines import network_runner
from PartialSegLib.engines.calibration import calibration_patches
from PartialSegLib.engines.network_runner import NetworkRunner
from PartialSegLib.engines.openvino_engine import OpenVinoEncoder
from PartialSegLib.errors import DeviceError, InputError
from PartialSegLib.evaluation import dice
from PartialSegLib.model import Model
from PartialSegLib.patches.feature_cache import feature_tensors
from PartialSegLib.phantom import make_phantom
from PartialSegLib.pytorch.devices import explained_memory_errors
from PartialSegLib.session import InferenceSession
from PartialSegLib.volume import Volume

CPU = torch.device("cpu")


def sampled(network: Any, patch: torch.Tensor) -> torch.Tensor:
    """Features by an operation that OpenVINO lacks."""
    return functional.grid_sample(
        patch, patch[:, 0, ..., None].expand(-1, -1, -1, -1, 3), align_corners=False
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    """A small network of every kind with random weights."""
    return {name: small_model(name, tmp_path_factory.mktemp(name)) for name in SMALL_NETWORKS}


def features(model: Model, engine: str, patch: torch.Tensor) -> list[torch.Tensor]:
    with torch.inference_mode():
        return feature_tensors(NetworkRunner(model, CPU, torch.float32, engine).encode(patch))


@pytest.mark.parametrize("name", SMALL_NETWORKS)
def test_features_equal_those_of_pytorch(name: str, models: dict[str, Model]) -> None:
    torch.manual_seed(0)
    patch = torch.randn(models[name].manifest.inference.patch_size)
    for ours, expected in zip(
        features(models[name], "openvino", patch), features(models[name], "torch", patch), strict=True
    ):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_a_session_says_which_engine_encoded(models: dict[str, Model]) -> None:
    volume = Volume(np.random.default_rng(0).integers(-200, 300, (20, 30, 30)).astype(np.int16), np.eye(4))
    session = InferenceSession(models["DoDNet"], "cpu", engine="openvino", precision="float32")
    session.set_image(volume)
    assert session.predict("liver").provenance["engine"].startswith("openvino 20")


def test_mirrored_patches_keep_features_of_their_own(models: dict[str, Model]) -> None:
    """The engine's output buffers must not be shared between patches."""
    runner = NetworkRunner(models["DoDNet"], CPU, torch.float32, "openvino")
    torch.manual_seed(0)
    patch = torch.randn(models["DoDNet"].manifest.inference.patch_size)
    first = feature_tensors(runner.encode(patch))[0]
    before = first.clone()
    runner.encode(patch.flip(0))
    assert torch.equal(first, before)


def test_auto_leaves_small_networks_to_pytorch_and_takes_openvino_for_large_ones(
    models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    patch = torch.zeros(models["STUNet"].manifest.inference.patch_size)
    for least, engine in ((1e18, "torch"), (1, "openvino")):
        monkeypatch.setattr(network_runner, "OPENVINO_WORK", least)
        runner = NetworkRunner(models["STUNet"], CPU, torch.float32)
        with torch.inference_mode():
            runner.encode(patch)
        assert runner.engine.startswith(engine)


def test_auto_does_not_try_what_openvino_cannot_run(
    models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_runner, "OPENVINO_WORK", 1)
    assert NetworkRunner(models["DoDNet"], CPU, torch.float32).uses_openvino
    monkeypatch.setattr(type(models["DoDNet"].network), "can_be_exported", False)
    assert not NetworkRunner(models["DoDNet"], CPU, torch.float32).uses_openvino


def test_auto_falls_back_to_pytorch_where_openvino_lacks_an_operation(
    models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_runner, "OPENVINO_WORK", 1)
    monkeypatch.setattr(type(models["STUNet"].network), "forward_features", sampled)
    runner = NetworkRunner(models["STUNet"], CPU, torch.float32)
    assert runner.uses_openvino
    with torch.inference_mode():
        runner.encode(torch.zeros(models["STUNet"].manifest.inference.patch_size))
    assert runner.engine == "torch"


def test_auto_falls_back_where_openvino_does_not_load(
    models: dict[str, Model], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(network_runner, "OPENVINO_WORK", 1)
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "__init__.py").write_text('raise ImportError("DLL load failed")')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    runner = NetworkRunner(models["STUNet"], CPU, torch.float32)
    with torch.inference_mode():
        runner.encode(torch.zeros(models["STUNet"].manifest.inference.patch_size))
    assert runner.engine == "torch"
    with pytest.raises(
        InputError, match=r"does not load \(DLL load failed\); install it anew or choose the eng"
    ):
        NetworkRunner(models["STUNet"], CPU, torch.float32, "openvino")


def test_auto_falls_back_where_openvino_does_not_compile_but_not_without_memory(
    models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    def engine_after(error: str) -> str:
        def fail(*_: Any) -> None:
            raise RuntimeError(error)

        monkeypatch.setattr("openvino.Core.compile_model", fail)
        runner = NetworkRunner(models["STUNet"], CPU, torch.float32)
        with explained_memory_errors(CPU):
            runner.encode(torch.zeros(4, 4, 4))
        return runner.engine

    pytest.importorskip("openvino")
    monkeypatch.setattr(network_runner, "OPENVINO_WORK", 1)
    monkeypatch.setattr(type(models["STUNet"].network), "forward_features", lambda _, patch: patch + 1)
    assert engine_after("[CPU] not supported") == "torch"
    with pytest.raises(DeviceError, match="Out of memory on cpu"):
        engine_after("std::bad_alloc")


@pytest.mark.parametrize(
    ("engine", "sentence"),
    [
        ("openvino", r"OpenVINO \S+ cannot run STUNet; choose the engine torch"),
        ("opnvino", "Unknown engine 'opnvino'; perhaps you meant openvino"),
    ],
)
def test_what_cannot_run_is_said_in_one_sentence(
    engine: str, sentence: str, models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(models["STUNet"].network), "forward_features", sampled)
    with pytest.raises(InputError, match=sentence):
        InferenceSession(models["STUNet"], "cpu", engine=engine)


def test_a_missing_package_is_named(models: dict[str, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install openvino"):
        InferenceSession(models["DoDNet"], "cpu", engine="openvino")
    assert InferenceSession(models["DoDNet"], "cpu").predict is not None


def test_nothing_is_reported_to_anybody_and_the_root_logger_stays_as_it_was(
    models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("usage would be reported")

    telemetry = pytest.importorskip("openvino_telemetry")
    monkeypatch.setattr(telemetry.Telemetry, "init", refuse)
    monkeypatch.setattr(telemetry.Telemetry, "send_event", refuse)
    before = list(logging.getLogger().handlers)
    NetworkRunner(models["DoDNet"], CPU, torch.float32, "openvino")
    assert logging.getLogger().handlers == before


def test_rounded_to_8_bits_the_bundled_model_finds_the_same_organs() -> None:
    model = load_model("trunk-7tasks")
    phantom = make_phantom(5, (4.0, 3.5, 3.5), (60, 90, 100), lesions={})
    found = {}
    for engine in ("torch", "openvino-int8"):
        session = InferenceSession(model, "cpu", engine=engine, precision="float32")
        session.set_image(phantom.volume)
        found[engine] = session.predict(["liver", "spleen"])
    assert found["openvino-int8"].provenance["engine"].endswith(" int8")
    for structure in ("liver", "spleen"):
        exact, rounded = (found[engine][structure] for engine in ("torch", "openvino-int8"))
        assert 0.985 < dice(exact, rounded) < 1
        truth = phantom.mask(structure)
        assert dice(rounded, truth) == pytest.approx(dice(exact, truth), abs=0.005)


@pytest.mark.parametrize("name", ["DoDNet", "STUNet", "ResidualEncoderUNet"])
def test_convolutions_are_done_in_8_bits(name: str, models: dict[str, Model]) -> None:
    network, size = models[name].network, models[name].manifest.inference.patch_size
    torch.manual_seed(0)
    patches = [torch.randn(size) for _ in range(2)]
    encoder = OpenVinoEncoder(network, size, torch.float32, patches)
    primitives = [
        (node.get_rt_info()["layerType"].astype(str), node.get_rt_info()["primitiveType"].astype(str))
        for node in encoder._request.get_compiled_model().get_runtime_model().get_ops()
    ]
    convolutions = [primitive for layer, primitive in primitives if layer == "Convolution"]
    assert sum("I8" in primitive for primitive in convolutions) >= len(convolutions) - 2
    with torch.inference_mode():
        for rounded, exact in zip(
            feature_tensors(encoder(patches[0][None, None])),
            feature_tensors(network.forward_features(patches[0][None, None])),
            strict=True,
        ):
            assert 0 < torch.linalg.norm(rounded - exact) < 0.25 * torch.linalg.norm(exact)


def test_calibration_patches_are_those_of_the_model_and_always_the_same(models: dict[str, Model]) -> None:
    manifest = models["DoDNet"].manifest
    turned = replace(manifest.preprocessing, orientation="RSA", spacing=(3.0, 5.0, 4.0))
    turned_size = replace(manifest.inference, patch_size=(32, 16, 48))
    first, second = (
        list(calibration_patches(replace(manifest, preprocessing=turned, inference=turned_size)))
        for _ in range(2)
    )
    for patch, again in zip(first, second, strict=True):
        assert patch.shape == (32, 16, 48)
        assert torch.equal(patch, again)
        assert patch.min() < patch.max()


def test_only_models_for_ct_are_rounded(models: dict[str, Model]) -> None:
    manifest = replace(models["DoDNet"].manifest, modality="MR")
    with pytest.raises(
        InputError, match="is for MR, and 8-bit convolutions are calibrated on phantoms of CT"
    ):
        NetworkRunner(replace(models["DoDNet"], manifest=manifest), CPU, torch.float32, "openvino-int8")


def test_8_bits_need_a_processor(models: dict[str, Model]) -> None:
    with pytest.raises(InputError, match="The engine openvino-int8 runs on the cpu, not on meta"):
        NetworkRunner(models["DoDNet"], torch.device("meta"), torch.float32, "openvino-int8")
