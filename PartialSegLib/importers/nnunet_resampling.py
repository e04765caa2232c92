"""How nnU-Net version 2's plans.json resamples images, and scores on their way back."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ..errors import InputError
from .plan_fields import member

logger = logging.getLogger(__name__)

CUBIC = "resample_data_or_seg_to_shape"
TRILINEAR = "resample_torch_fornnunet"
ALWAYS_TRILINEAR = "resample_torch_simple"
SEPARATE_ABOVE = 3.0  # nnU-Net's ANISO_THRESHOLD

COMPUTING = {"is_seg", "num_threads", "memefficient_seg_resampling"}  # without effect on an image
SEPARATING = {"force_separate_z", "separate_z_anisotropy_threshold"}
RESAMPLING_OPTIONS = {
    CUBIC: {*COMPUTING, *SEPARATING, "order", "order_z"},
    TRILINEAR: {*COMPUTING, *SEPARATING, "mode", "aniso_axis_mode"},
    ALWAYS_TRILINEAR: {*COMPUTING, "mode"},
}


def planned_resampling(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `Preprocessing`: cubic with the coarse axis apart (nnU-Net's default), or trilinear.

    Scores are brought back trilinearly, the coarse axis apart where it was so for the image. A plan that
    wants another way back is warned of: borders may then differ by a voxel.

    Args:
        settings: of one configuration.

    Raises:
        InputError: a function or an option that is not known.
    """
    name = settings.get("resampling_fn_data", CUBIC)
    usual = {"force_separate_z": None} if name == CUBIC else {}
    options = member(settings, "resampling_fn_data_kwargs", dict, usual)
    _check_resampling(name, options)
    is_cubic = name == CUBIC and options.get("order", 3) == 3
    above = _separate_above(options, None if name == TRILINEAR else False)
    if not _comes_back_alike(settings, above):
        logger.warning(
            "The plan brings scores back by %s with %s; they come back trilinearly here, so borders may "
            "differ by a voxel.",
            settings["resampling_fn_probabilities"],
            settings.get("resampling_fn_probabilities_kwargs"),
        )
    return {"resampling": "cubic" if is_cubic else "trilinear", "separate_above": above}


def _comes_back_alike(settings: Mapping[str, Any], above: float | None) -> bool:
    """Whether scores take the trilinear way back, with the coarse axis apart above the same ratio."""
    name = settings.get("resampling_fn_probabilities")
    options = settings.get("resampling_fn_probabilities_kwargs", {})
    if name is None:
        return True
    try:
        _check_resampling(name, options)
        back = _separate_above(options, None if name == TRILINEAR else False)
    except (InputError, AttributeError, TypeError):
        return False
    return back == above and (name != CUBIC or options.get("order", 3) == 1)


def _check_resampling(name: Any, options: Mapping[str, Any]) -> None:
    """Refuse functions, options and ways of interpolating that are not known.

    Raises:
        InputError: naming them.
    """
    known = RESAMPLING_OPTIONS.get(name, set()) if isinstance(name, str) else set()
    expected = {"order": (1, 3), "order_z": (0,), "mode": ("linear",), "aniso_axis_mode": ("nearest-exact",)}
    wrong = [key for key, values in expected.items() if key in options and options[key] not in values]
    if options.keys() - known or wrong or not known:
        raise InputError(f"images are resampled by {name} with {options}, which is not supported.")


def _separate_above(options: Mapping[str, Any], default: bool | None) -> float | None:
    """The ratio of spacings above which the coarse axis is taken apart; None where it never is.

    Args:
        options: of a function of nnU-Net.
        default: what a missing force_separate_z means to it.

    Raises:
        InputError: force_separate_z or the ratio is something else.
    """
    separate = options.get("force_separate_z", default)
    if separate not in (None, False, True):
        raise InputError(f"force_separate_z is {separate!r}, not null, false or true.")
    ratio = options.get("separate_z_anisotropy_threshold", SEPARATE_ABOVE)
    if not isinstance(ratio, int | float) or not abs(ratio) < 1e9:
        raise InputError(f"separate_z_anisotropy_threshold is {ratio!r}, not a number.")
    return {None: max(1.0, ratio), False: None, True: 1.0}[separate]
