"""Optimizers and learning-rate schedules: hyperparameters only, the update itself runs in Rust.

Examples:
    >>> from cnnrs import optim
    >>> optim.SGD(lr=0.1, momentum=0.9, weight_decay=5e-4)
    SGD(lr=0.1, momentum=0.9, weight_decay=0.0005, nesterov=False, decoupled_weight_decay=0.0)
    >>> schedule = optim.OneCycle(0.1)
    >>> optimizer = optim.SGD(schedule, momentum=0.9, groups=[{"params": "*.bias", "weight_decay": 0.0}])
"""

from __future__ import annotations

from cnnrs.optim.schedules import Constant, Cosine, OneCycle, Schedule, Step, Warmup
from cnnrs.optim.sgd import SGD, Group

__all__ = ["SGD", "Constant", "Cosine", "Group", "OneCycle", "Schedule", "Step", "Warmup"]
