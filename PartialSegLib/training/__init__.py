"""Training on partially labelled cases; what comes out is a model package."""

from .config import TrainingConfig
from .config_files import read_config
from .train import train

__all__ = ["TrainingConfig", "read_config", "train"]
