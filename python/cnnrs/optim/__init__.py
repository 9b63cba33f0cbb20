"""Optimizers and learning-rate schedules: hyperparameters only, the update itself runs in Rust.

Examples:
    >>> from cnnrs import optim
    >>> optim.SGD(lr=0.1, momentum=0.9, weight_decay=5e-4)
    SGD(lr=0.1, momentum=0.9, weight_decay=0.0005, nesterov=False, decoupled_weight_decay=0.0)
    >>> schedule = optim.OneCycle(0.1)
    >>> optimizer = optim.SGD(schedule, momentum=0.9, groups=[{"params": "*.bias", "weight_decay": 0.0}])
    >>> optim.AdamW(lr=optim.MultiStep(1e-3, milestones=[30, 60]), weight_decay=0.05)  # doctest: +ELLIPSIS
    AdamW(lr=MultiStep(lr=0.001, milestones=(30, 60), gamma=0.1), betas=(0.9, 0.999), ...
"""

from __future__ import annotations

from cnnrs.optim.adagrad import Adagrad
from cnnrs.optim.adam import Adam, AdamW
from cnnrs.optim.clipping import clip_grad_norm
from cnnrs.optim.group import Group
from cnnrs.optim.optimizer import Optimizer
from cnnrs.optim.plateau import ReduceOnPlateau
from cnnrs.optim.rmsprop import RMSProp
from cnnrs.optim.schedules import Constant, Cosine, Exponential, MultiStep, OneCycle, Schedule, Step, Warmup
from cnnrs.optim.sgd import SGD

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Constant",
    "Cosine",
    "Exponential",
    "Group",
    "MultiStep",
    "OneCycle",
    "Optimizer",
    "RMSProp",
    "ReduceOnPlateau",
    "Schedule",
    "Step",
    "Warmup",
    "clip_grad_norm",
]
