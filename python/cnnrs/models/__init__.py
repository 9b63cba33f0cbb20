"""The zoo: one function per network, with torchvision's parameter names."""

from cnnrs.models._manifest import PublishedWeights, list_weights
from cnnrs.models._registry import get_model, list_models
from cnnrs.models.lenet import lenet5

__all__ = ["PublishedWeights", "get_model", "lenet5", "list_models", "list_weights"]
