"""Which PyTorch may unpickle what comes from elsewhere."""

from __future__ import annotations

import torch

from ..errors import InputError

SAFE_TORCH = (2, 6)  # older ones can be made to execute code in spite of weights_only (CVE-2025-32434)


def require_safe_torch() -> None:
    """Refuse to unpickle anything by a PyTorch in which that can execute code.

    Raises:
        InputError: PyTorch is older than `SAFE_TORCH`.
    """
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < SAFE_TORCH:
        raise InputError(
            f"PyTorch {torch.__version__} cannot read checkpoints safely; install 2.6 or newer for that."
        )
