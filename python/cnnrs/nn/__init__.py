"""Layers, and the base class for your own."""

from cnnrs.nn import init
from cnnrs.nn.activation import (
    ELU,
    GELU,
    Hardsigmoid,
    Hardswish,
    LeakyReLU,
    PReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from cnnrs.nn.container import Identity, Sequential
from cnnrs.nn.conv import Conv2d
from cnnrs.nn.flatten import Flatten
from cnnrs.nn.linear import Linear
from cnnrs.nn.module import Module
from cnnrs.nn.parameter import Parameter
from cnnrs.nn.pool import AvgPool2d, GlobalAvgPool2d, MaxPool2d

__all__ = [
    "ELU",
    "GELU",
    "AvgPool2d",
    "Conv2d",
    "Flatten",
    "GlobalAvgPool2d",
    "Hardsigmoid",
    "Hardswish",
    "Identity",
    "LeakyReLU",
    "Linear",
    "MaxPool2d",
    "Module",
    "PReLU",
    "Parameter",
    "ReLU",
    "ReLU6",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
    "init",
]
