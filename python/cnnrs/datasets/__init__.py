"""Labelled images as NumPy arrays: the container, the idx reader and the built-in data sets.

Nothing here touches the network unless a data set is asked for and is not on this machine; `CNNRS_OFFLINE=1` forbids
that too.
"""

from cnnrs.datasets.cifar import cifar10
from cnnrs.datasets.dataset import Dataset
from cnnrs.datasets.digits import digits
from cnnrs.datasets.idx import read_idx
from cnnrs.datasets.mnist import fashion_mnist, mnist

__all__ = ["Dataset", "cifar10", "digits", "fashion_mnist", "mnist", "read_idx"]
