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
from cnnrs.nn.dropout import Dropout, Dropout2d, DropPath
from cnnrs.nn.flatten import Flatten
from cnnrs.nn.linear import Linear
from cnnrs.nn.module import Module
from cnnrs.nn.norm import BatchNorm1d, BatchNorm2d, GroupNorm, LayerNorm, LocalResponseNorm
from cnnrs.nn.padding import ReflectionPad2d, ReplicationPad2d, ZeroPad2d
from cnnrs.nn.parameter import Buffer, Parameter
from cnnrs.nn.pool import AdaptiveAvgPool2d, AvgPool2d, GlobalAvgPool2d, MaxPool2d
from cnnrs.nn.softmax import LogSoftmax, Softmax
from cnnrs.nn.upsample import Upsample

__all__ = [
    "ELU",
    "GELU",
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "Buffer",
    "Conv1d",
    "Conv2d",
    "ConvTranspose2d",
    "DropPath",
    "Dropout",
    "Dropout2d",
    "Flatten",
    "GlobalAvgPool2d",
    "GroupNorm",
    "Hardsigmoid",
    "Hardswish",
    "Identity",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LocalResponseNorm",
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
