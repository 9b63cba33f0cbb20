"""Layers, and the base class for your own."""

from cnnrs.nn import init
from cnnrs.nn.activation import ReLU, Sigmoid, Softmax, Tanh
from cnnrs.nn.container import Identity, Sequential
from cnnrs.nn.conv import Conv2d
from cnnrs.nn.dropout import Dropout, Dropout2d, DropPath
from cnnrs.nn.flatten import Flatten
from cnnrs.nn.linear import Linear
from cnnrs.nn.module import Module
from cnnrs.nn.norm import BatchNorm1d, BatchNorm2d, GroupNorm, LayerNorm, LocalResponseNorm
from cnnrs.nn.parameter import Buffer, Parameter
from cnnrs.nn.pool import AvgPool2d, MaxPool2d

__all__ = [
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "Buffer",
    "Conv2d",
    "DropPath",
    "Dropout",
    "Dropout2d",
    "Flatten",
    "GroupNorm",
    "Identity",
    "LayerNorm",
    "Linear",
    "LocalResponseNorm",
    "MaxPool2d",
    "Module",
    "Parameter",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "init",
]
