"""Training on partially labelled cases; what comes out is a model package."""

from .config import TrainingConfig
from .config_files import read_config
from .train import package_checkpoint, train

__all__ = ["TrainingConfig", "package_checkpoint", "read_config", "train"]
