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
    Softplus,
    Tanh,
)
from cnnrs.nn.container import Identity, Sequential
from cnnrs.nn.conv import Conv1d, Conv2d, ConvTranspose2d
from cnnrs.nn.flatten import Flatten
from cnnrs.nn.linear import Linear
from cnnrs.nn.module import Module
from cnnrs.nn.padding import ReflectionPad2d, ReplicationPad2d, ZeroPad2d
from cnnrs.nn.parameter import Parameter
from cnnrs.nn.pool import AdaptiveAvgPool2d, AvgPool2d, GlobalAvgPool2d, MaxPool2d
from cnnrs.nn.softmax import LogSoftmax, Softmax
from cnnrs.nn.upsample import Upsample

__all__ = [
    "ELU",
    "GELU",
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "Conv1d",
    "Conv2d",
    "ConvTranspose2d",
    "Flatten",
    "GlobalAvgPool2d",
    "Hardsigmoid",
    "Hardswish",
    "Identity",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "MaxPool2d",
    "Module",
    "PReLU",
    "Parameter",
    "ReLU",
    "ReLU6",
    "ReflectionPad2d",
    "ReplicationPad2d",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
    "Upsample",
    "ZeroPad2d",
    "init",
]
