"""Layers, and the base class for your own."""

from cnnrs.nn import init
from cnnrs.nn.activation import ReLU, Sigmoid, Softmax, Tanh
from cnnrs.nn.container import Identity, Sequential
from cnnrs.nn.conv import Conv2d
from cnnrs.nn.flatten import Flatten
from cnnrs.nn.linear import Linear
from cnnrs.nn.module import Module
from cnnrs.nn.parameter import Parameter
from cnnrs.nn.pool import AvgPool2d, MaxPool2d

__all__ = [
    "AvgPool2d",
    "Conv2d",
    "Flatten",
    "Identity",
    "Linear",
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
