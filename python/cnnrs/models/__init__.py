"""The zoo: one function per network, with torchvision's parameter names."""

from cnnrs.models._extract import FeatureExtractor, create_feature_extractor
from cnnrs.models._registry import get_model, list_models
from cnnrs.models.alexnet import alexnet, alexnet_2012
from cnnrs.models.cifar_resnet import cifar_resnet20, cifar_resnet32, cifar_resnet44, cifar_resnet56, cifar_resnet110
from cnnrs.models.lenet import lenet5
from cnnrs.models.resnet import resnet18, resnet34, resnet50, resnet101, resnet152
from cnnrs.models.vgg import vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn

__all__ = [
    "FeatureExtractor",
    "alexnet",
    "alexnet_2012",
    "cifar_resnet20",
    "cifar_resnet32",
    "cifar_resnet44",
    "cifar_resnet56",
    "cifar_resnet110",
    "create_feature_extractor",
    "get_model",
    "lenet5",
    "list_models",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
]
