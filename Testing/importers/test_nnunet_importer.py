"""Importing models of nnU-Net version 2 and STU-Net: round trip to the stored logits, and what is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import parity_rules
import pytest
import torch
from nnunet_folder import KERNELS, LABELS, STRIDES, plans_of, plans_with, write_model_folder
from parity_data import official_weights, reference_vectors

from PartialSegLib.errors import InputError
from PartialSegLib.importers import import_checkpoint, stunet
from PartialSegLib.importers.nnunet_plans import Plan
from PartialSegLib.model import load_model
from PartialSegLib.packages.installed import BUNDLED_MODELS, find_package, model_folders
from PartialSegLib.segmentation_files.formats import read_segmentation, write_segmentation
from PartialSegLib.segmentation_files.label_names import comparable_names, structures_of_labels
from PartialSegLib.session import InferenceSession
from PartialSegLib.volume import Volume

SMALL = ("nnunet_v2_plain", "nnunet_v2_resenc")


@torch.inference_mode()
def assert_equals_vectors(package: Path, name: str) -> None:
    """The package's network gives the stored logits of the official implementation."""
    vectors, patch = reference_vectors(name)
    logits = load_model(package).network(patch, 0)
    assert parity_rules.compare(vectors, "logits", logits.numpy()).agrees


@pytest.mark.parametrize("name", SMALL)
def test_a_model_folder_becomes_a_package_with_the_same_logits(tmp_path: Path, name: str) -> None:
    write_model_folder(tmp_path / "model", plans_of(name), official_weights(name))

    manifest = import_checkpoint("nnunet", tmp_path / "model", tmp_path / "package")

    assert_equals_vectors(tmp_path / "package", name)
    assert manifest.name == "dataset003_liver-3d_fullres"
    assert [(task.name, task.structures) for task in manifest.tasks] == [
        ("Liver", {"liver": 1, "liver_tumor": 2})
    ]
    preprocessing, inference = manifest.preprocessing, manifest.inference
    assert (preprocessing.orientation, preprocessing.spacing) == ("SPL", (3.0, 2.0, 2.0))
    assert (preprocessing.clip, preprocessing.subtract, preprocessing.divide) == ((-17.0, 201.0), 99.4, 39.4)
    assert preprocessing.clip_first
    assert preprocessing.separate_above == 3
    assert (inference.activation, inference.blend) == ("softmax", "logits")
    assert (inference.patch_positions, inference.padding) == ("even", "both sides")
    assert inference.mirror_axes == (0, 1, 2)


def test_a_file_of_the_folder_may_be_saved_by_an_editor_on_windows(tmp_path: Path) -> None:
    """It begins UTF-8 with a mark that JSON does not know."""
    write_model_folder(tmp_path / "model", plans_of(SMALL[0]), official_weights(SMALL[0]))
    labels = tmp_path / "model" / "dataset.json"
    labels.write_text(labels.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert import_checkpoint("nnunet", tmp_path / "model", tmp_path / "package").tasks


def test_an_installed_model_goes_by_the_name_of_its_folder(tmp_path: Path) -> None:
    """So that a model and one of its folds can stand side by side."""
    write_model_folder(tmp_path / "model", plans_of(SMALL[0]), official_weights(SMALL[0]))
    for name in ("my-liver", "my-liver-fold-0"):
        folder = model_folders()[0] / name
        assert import_checkpoint("nnunet", tmp_path / "model", folder).name == name
        assert find_package(name) == folder
    (bundled,) = BUNDLED_MODELS.iterdir()
    refused = {"mein modell": "name becomes that of the model", bundled.name: "is part of PartialSeg"}
    for name, sentence in refused.items():
        with pytest.raises(InputError, match=sentence):
            import_checkpoint("nnunet", tmp_path / "nowhere", model_folders()[0] / name)


def test_plans_before_2_4_and_a_moved_checkpoint(tmp_path: Path) -> None:
    """Plans of older versions spell the network differently; a checkpoint holds plans and data set itself."""
    old = {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 8,
        "unet_max_num_features": 16,
        "conv_kernel_sizes": KERNELS,
        "pool_op_kernel_sizes": STRIDES,
        "n_conv_per_stage_encoder": [2, 2, 3, 2],
        "n_conv_per_stage_decoder": [1, 2, 3],
    }
    weights = official_weights("nnunet_v2_plain")
    checkpoint = write_model_folder(tmp_path / "model", plans_with(old), weights)
    moved = tmp_path / "elsewhere" / "deep" / "file.pth"
    moved.parent.mkdir(parents=True)
    checkpoint.rename(moved)

    with pytest.raises(InputError, match="has shape"):  # widths 8, 16, 16, 16 are not those of the weights
        import_checkpoint("nnunet", moved, tmp_path / "package")
    assert not (tmp_path / "package").exists()


def test_stu_net_takes_strides_from_the_plan(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels = {"background": 0, **{f"organ {n}": n for n in range(1, 14)}, "tumor": 14}
    plans = plans_with(
        {
            "pool_op_kernel_sizes": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]],
            "patch_size": [48, 128, 160],
        }
    )
    plans["dataset_name"] = "Dataset023_FLARE23"
    trainer = {"trainer_name": "STUNetTrainer_small", "inference_allowed_mirroring_axes": None}
    weights = {f"_orig_mod.{key}": value for key, value in official_weights("stunet_small").items()}
    write_model_folder(tmp_path / "model", plans, weights, labels, "fold_all", **trainer)

    manifest = import_checkpoint("stunet", tmp_path / "model", tmp_path / "package")

    assert_equals_vectors(tmp_path / "package", "stunet_small")
    assert manifest.preprocessing.resampling == "trilinear"
    assert manifest.inference.overlap == 0.2
    assert manifest.inference.mirror_axes == ()
    assert "orientation assumed: SPL (z, y, x); check left and right" in caplog.text
    odd = Plan(plans_with({"architecture": "STUNet"}), DATASET, "3d_fullres")
    with pytest.raises(InputError, match="'architecture' is missing or no dict"):
        stunet._strides(odd)
    assert manifest.tasks[0].structures["tumor"] == 14
    assert manifest.uncoded == tuple(f"organ_{n}" for n in range(1, 14))


@pytest.mark.parametrize(
    ("without", "strides", "sentence"),
    [
        ("conv_blocks_context.0.0.conv1.weight", [[1, 1, 1]], "the weights of STU-Net are missing"),
        ("seg_outputs.0.weight", [[1, 1, 1]], "the weights of STU-Net are missing"),
        ("", "1, 1, 1", "the plan has no pool_op_kernel_sizes"),
        ("", [[1, 1, 1]], r"the network has 15 classes, but dataset.json has 3\."),
    ],
)
def test_what_is_no_stu_net_is_refused(tmp_path: Path, without: str, strides: Any, sentence: str) -> None:
    weights = {name: value for name, value in official_weights("stunet_small").items() if name != without}
    labels = {"background": 0, **{f"organ {n}": n for n in range(1, 3 if "classes" in sentence else 15)}}
    write_model_folder(tmp_path / "model", plans_with({"pool_op_kernel_sizes": strides}), weights, labels)
    with pytest.raises(InputError, match=rf" cannot be imported from STU-Net: .*{sentence}"):
        import_checkpoint("stunet", tmp_path / "model", tmp_path / "package")
    assert not (tmp_path / "package").exists()


def test_an_imported_model_segments_a_volume(tmp_path: Path) -> None:
    """Softmax: each voxel belongs to one structure at most; an anisotropic image takes the nearest slices."""
    write_model_folder(tmp_path / "model", plans_of("nnunet_v2_plain"), official_weights("nnunet_v2_plain"))
    import_checkpoint("nnunet", tmp_path / "model" / "fold_0", tmp_path / "package")
    array = np.random.default_rng(0).integers(-100, 300, (9, 40, 36)).astype(np.int16)
    session = InferenceSession(load_model(tmp_path / "package"), "cpu", precision="float32")
    session.set_image(Volume(array, np.diag([2.0, 2.0, 7.0, 1.0])[:, [2, 1, 0, 3]]))

    found = session.predict()

    organ, tumor = found["liver"], found["liver_tumor"]
    assert organ.shape == array.shape
    assert organ.any() or tumor.any()
    assert not (organ & tumor).any()


def test_regions_have_sigmoids_and_overlap(tmp_path: Path) -> None:
    labels = {"background": 0, "whole liver": [1, 2], "liver tumor": [2], "edge": [1], "ignore": 3}
    weights = official_weights("nnunet_v2_plain")
    write_model_folder(tmp_path / "model", plans_of("nnunet_v2_plain"), weights, labels)

    manifest = import_checkpoint("nnunet", tmp_path / "model", tmp_path / "package")

    assert manifest.inference.activation == "sigmoid"
    assert manifest.tasks[0].structures == {"whole_liver": 0, "liver_tumor": 1, "edge": 2}
    assert manifest.uncoded == ("whole_liver", "edge")


def edited(path: str, value: Any) -> dict[str, Any]:
    """Plans with one field of 3d_fullres, or of the whole file when the path starts with a slash, changed."""
    plans = copy.deepcopy(plans_of("nnunet_v2_plain"))
    place: Any = plans if path.startswith("/") else plans["configurations"]["3d_fullres"]
    *folders, name = path.strip("/").split("/")
    for folder in folders:
        place = place[folder]
    place[name] = value
    return plans


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("normalization_schemes", ["ZScoreNormalization"], "only models for CT"),
        ("patch_size", [64, 64], "no three-dimensional patch"),
        ("previous_stage", "3d_lowres", "second stage of a cascade"),
        ("spacing", [1.0, 2.0], "spacing is"),
        ("spacing", [1.0, -2.0, 2.0], "spacing: expected three distances above 0"),
        ("spacing", [1.0, 2.0, 10**400], "spacing is"),
        ("patch_size", [16, 32, float("inf")], "patch_size is"),
        ("inherits_from", ["3d_base"], "the field ['3d_base'] is missing"),
        ("resampling_fn_data", "mine", "images are resampled by mine"),
        ("resampling_fn_data_kwargs", [3], "'resampling_fn_data_kwargs' is missing or no dict"),
        ("/configurations/3d_base/resampling_fn_data_kwargs/force_separate_z", "yes", "force_separate_z is"),
        ("architecture/network_class_name", "a.b.MedNeXt", "the network is MedNeXt"),
        ("architecture/arch_kwargs/squeeze_excitation", True, "option 'squeeze_excitation'"),
        ("architecture/arch_kwargs/norm_op", "torch.nn.BatchNorm3d", "norm_op is"),
        ("architecture/arch_kwargs/nonlin", "torch.nn.ReLU", "nonlin is"),
        ("architecture/arch_kwargs/kernel_sizes", [[3, 3], [3]], "kernel_sizes is"),
        ("architecture/arch_kwargs/n_conv_per_stage", [2, 2], "n_conv_per_stage is"),
        ("architecture/arch_kwargs/features_per_stage", [8, 12, 16, 20], "has shape"),
        ("architecture/arch_kwargs/norm_op_kwargs", [1], "'norm_op_kwargs' is missing or no dict"),
        ("architecture/arch_kwargs/n_conv_per_stage", 10**9, "n_conv_per_stage is"),
        ("architecture/arch_kwargs/conv_bias", False, "the convolutions have no bias"),
        ("architecture/arch_kwargs/nonlin_first", True, "option 'nonlin_first' of PlainConvUNet is not"),
        ("architecture/arch_kwargs/norm_op_kwargs", {"eps": 1e-3}, "the normalisation has the options"),
        ("architecture/arch_kwargs/norm_op_kwargs", {"affine": False}, "the normalisation has the options"),
        ("architecture/arch_kwargs/nonlin_kwargs", {"negative_slope": 0.2}, "the activation has the options"),
        ("architecture/arch_kwargs/strides", [[1, 1, 1], [0, 2, 2]], "strides is"),
        ("/transpose_forward", [0, 0, 1], "transpose_forward is"),
        ("/transpose_forward", [0, "x", [1]], "transpose_forward is"),
        ("/configurations", {}, "'3d_fullres' is missing"),
        ("spacing", [1.0, 2.0, float("nan")], "spacing is"),
        ("patch_size", [True, 32, 32], "patch_size is"),
        ("preprocessor_name", "MyPreprocessor", "its preprocessor_name is 'MyPreprocessor', not"),
        ("/label_manager", "MyLabels", "its label_manager is 'MyLabels', not nnU-Net's own LabelManager"),
        ("/foreground_intensity_properties_per_channel", {"0": {}}, "the intensities lack"),
        ("/foreground_intensity_properties_per_channel/0/mean", float("nan"), "is not finite"),
    ],
)
def test_what_a_plan_asks_for_in_vain_is_named(tmp_path: Path, path: str, value: Any, sentence: str) -> None:
    weights = official_weights("nnunet_v2_plain")
    write_model_folder(tmp_path / "model", edited(path, value), weights)
    with pytest.raises(InputError, match=r"^[^\n]*$") as raised:
        import_checkpoint("nnunet", tmp_path / "model", tmp_path / "package")
    assert sentence in str(raised.value)
    assert not (tmp_path / "package").exists()


DATASET = {"channel_names": {"0": "CT"}, "labels": LABELS}
TORCH = {"resampling_fn_data": "resample_torch_fornnunet"}
SIMPLE = {"resampling_fn_data": "resample_torch_simple"}


def resampled(function: dict[str, str] | None = None, **options: Any) -> dict[str, Any]:
    """Plans with a function and options of resampling."""
    return plans_with({**(function or {}), "resampling_fn_data_kwargs": {"is_seg": False, **options}})


@pytest.mark.parametrize(
    ("plans", "resampling", "above"),
    [
        (resampled(order=3, order_z=0, force_separate_z=None), "cubic", 3),
        (resampled(force_separate_z=None, separate_z_anisotropy_threshold=4), "cubic", 4),
        (resampled(), "cubic", None),  # what nnU-Net's function takes where nothing is given
        (resampled(TORCH), "trilinear", 3),
        (resampled(TORCH, force_separate_z=None, separate_z_anisotropy_threshold=2.5), "trilinear", 2.5),
        (resampled(TORCH, force_separate_z=False, memefficient_seg_resampling=False), "trilinear", None),
        (resampled(SIMPLE, mode="linear"), "trilinear", None),
    ],
)
def test_the_coarse_axis_is_taken_apart_as_the_plan_says(plans: Any, resampling: str, above: Any) -> None:
    preprocessing = Plan(plans, DATASET, "3d_fullres").preprocessing()
    assert (preprocessing.resampling, preprocessing.separate_above) == (resampling, above)


@pytest.mark.parametrize(
    ("way_back", "options", "warned"),
    [
        ("resample_data_or_seg_to_shape", {"order": 1, "order_z": 0, "force_separate_z": None}, False),
        ("resample_data_or_seg_to_shape", {"order": 3, "force_separate_z": None}, True),
        ("resample_data_or_seg_to_shape", {"order": 1, "force_separate_z": False}, True),
        ("resample_torch_fornnunet", {"force_separate_z": None}, False),
        ("mine", {}, True),
        (["mine"], [1], True),
    ],
)
def test_another_way_back_of_the_scores_is_warned_of(
    way_back: Any, options: Any, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    plans = resampled(order=3, order_z=0, force_separate_z=None)
    settings = plans["configurations"]["3d_fullres"]
    settings |= {"resampling_fn_probabilities": way_back, "resampling_fn_probabilities_kwargs": options}
    Plan(plans, DATASET, "3d_fullres").preprocessing()
    assert ("borders may differ by a voxel" in caplog.text) == warned


@pytest.mark.parametrize(
    ("plans", "sentence"),
    [
        (resampled(TORCH, mode="nearest"), "which is not supported"),
        (resampled(TORCH, aniso_axis_mode="linear"), "which is not supported"),
        (resampled(TORCH, order=3), "which is not supported"),
        (resampled(SIMPLE, force_separate_z=None), "which is not supported"),
        (resampled(sharpen=True), "which is not supported"),
        (resampled(separate_z_anisotropy_threshold="3"), "separate_z_anisotropy_threshold is '3', not a n"),
        (edited("/image_reader_writer", "MyReader"), "images were read by 'MyReader', and how that orients"),
        (edited("/image_reader_writer", ["MyReader"]), r"read by \['MyReader'\]"),
    ],
)
def test_ways_of_reading_and_resampling_that_are_not_known(plans: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Plan(plans, DATASET, "3d_fullres").preprocessing()


@pytest.mark.parametrize(
    ("path", "value", "orientation"),
    [
        ("/image_reader_writer", "NibabelIO", "SPL"),
        ("/image_reader_writer", "NibabelIOWithReorient", "SAR"),
        ("/image_reader_writer", "SimpleITKIOWithReorient", "SAR"),
        ("/dataset_name", "Dataset291_TotalSegmentator_part1_organs_1559subj", "SAR"),
    ],
)
def test_the_orientation_is_that_of_the_reader_or_the_data_set(
    path: str, value: str, orientation: str
) -> None:
    plan = Plan(edited(path, value), DATASET, "3d_fullres")
    assert plan.preprocessing().orientation == orientation


@pytest.mark.parametrize(("deviation", "divide"), [(0.25, 0.25), (0.0, 1e-8)])
def test_images_that_vary_little_are_divided_as_in_nnunet(deviation: float, divide: float) -> None:
    plans = edited("/foreground_intensity_properties_per_channel/0/std", deviation)
    assert Plan(plans, DATASET, "3d_fullres").preprocessing().divide == divide


def test_fields_of_the_first_plans_of_version_2() -> None:
    plans = plans_with({})
    name = "foreground_intensity_properties_per_"
    plans[f"{name[:-4]}by_modality"] = plans.pop(f"{name}channel")
    old = Plan(plans, {"modality": {"0": "CT"}, "labels": LABELS}, "3d_fullres")
    assert old.preprocessing() == Plan(plans_with({}), DATASET, "3d_fullres").preprocessing()


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ({"background": 0, "liver": 1}, "has shape"),
        ({"background": 0}, "no labels"),
        ({"background": 0, "liver": "one", "tumor": 2}, "has the value 'one'"),
    ],
)
def test_labels_that_do_not_fit(tmp_path: Path, labels: dict[str, Any], sentence: str) -> None:
    weights = official_weights("nnunet_v2_plain")
    write_model_folder(tmp_path / "model", plans_of("nnunet_v2_plain"), weights, labels)
    with pytest.raises(InputError, match=sentence):
        import_checkpoint("nnunet", tmp_path / "model", tmp_path / "package")
    assert not (tmp_path / "package").exists()


def test_a_dropout_moves_what_comes_behind_it(tmp_path: Path) -> None:
    weights = official_weights("nnunet_v2_plain")
    moved = {key.replace("all_modules.1.", "all_modules.2."): value for key, value in weights.items()}
    assert moved.keys() != weights.keys()
    plans = edited("architecture/arch_kwargs/dropout_op", "torch.nn.modules.dropout.Dropout3d")
    write_model_folder(tmp_path / "model", plans, moved)
    import_checkpoint("nnunet", tmp_path / "model", tmp_path / "package")
    assert_equals_vectors(tmp_path / "package", "nnunet_v2_plain")


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    weights = official_weights("nnunet_v2_plain")
    extra = {**weights, "decoder.extra": torch.zeros(1)}
    lacking = {key: value for key, value in weights.items() if key != "decoder.seg_layers.0.weight"}
    for name, state_dict, sentence in (
        ("extra", extra, "'decoder.extra' is not part"),
        ("lacking", lacking, "'decoder.seg_layers.0.weight' is missing"),
    ):
        write_model_folder(tmp_path / name, plans_of("nnunet_v2_plain"), state_dict)
        with pytest.raises(InputError, match=sentence):
            import_checkpoint("nnunet", tmp_path / name, tmp_path / "package")


@pytest.mark.parametrize(
    ("labels", "structures"),
    [
        ("liver tumor", "liver liver_tumor"),  # LiTS
        ("kidney tumor cyst", "kidney kidney_tumor cyst"),  # KiTS
        ("pancreas cancer", "pancreas pancreas_tumor"),  # MSD 7
        ("vessel tumour", "vessel tumor"),  # MSD 8: no organ with a tumour of its own
        ("kidney_left Right-Kidney postcava", "left_kidney right_kidney inferior_vena_cava"),
        ("liver Liver", "liver liver_2"),
        ("adrenal_gland_left gall_bladder oesophagus", "left_adrenal_gland gallbladder esophagus"),
        ("liver pancreas lesion", "liver pancreas tumor"),  # of which organ is not said
        ("arota liver", "aorta liver"),  # AMOS
        ("../evil ???", "evil structure"),
    ],
)
def test_labels_become_structures(labels: str, structures: str) -> None:
    assert list(structures_of_labels(labels.split()).values()) == structures.split()


def test_labels_keep_their_letters_whatever_their_script() -> None:
    labels = ["肝脏", "脾脏", "Leberla\u0308sion", "Печень 2", "肝脏 tumor", "liver"]
    names = ["肝脏", "脾脏", "leberläsion", "печень_2", "肝脏_tumor", "liver"]
    assert structures_of_labels(labels) == dict(zip(labels, names, strict=True))
    assert comparable_names(labels) == dict(zip(labels, names, strict=True))


def test_labels_of_other_scripts_name_structures_masks_and_files(tmp_path: Path) -> None:
    labels = {"background": 0, "肝脏": 1, "Leberläsion": 2}
    weights = official_weights("nnunet_v2_plain")
    write_model_folder(tmp_path / "model", plans_of("nnunet_v2_plain"), weights, labels)
    import_checkpoint("nnunet", tmp_path / "model", tmp_path / "package")
    session = InferenceSession(load_model(tmp_path / "package"), "cpu", precision="float32")
    session.set_image(Volume(np.zeros((9, 40, 36), np.int16), np.eye(4)))
    found = session.predict()
    assert [structure for _, structure in found] == ["肝脏", "leberläsion"]
    for name in ("a.seg.nrrd", "a.nii.gz", "masks"):
        write_segmentation(tmp_path / name, found)
        assert {key: read_segmentation(tmp_path / name).voxel_count(key) for key in found} == {
            key: found.voxel_count(key) for key in found
        }
    assert (tmp_path / "masks" / "leberläsion.nii.gz").exists()


def test_every_label_of_flare_has_its_code() -> None:
    labels = json.loads(
        '["liver", "right kidney", "spleen", "pancreas", "aorta", "IVC", "RAG", "LAG", "gallbladder", '
        '"esophagus", "stomach", "duodenum", "left kidney", "tumor"]'
    )
    found = list(structures_of_labels(labels).values())
    assert found[5:8] == ["inferior_vena_cava", "right_adrenal_gland", "left_adrenal_gland"]
    assert found[-1] == "tumor"
    assert LABELS["tumour"] == 2
