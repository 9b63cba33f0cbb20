"""Labelled images as NumPy arrays: the container, the idx reader, the built-in data sets and folders of pictures.

Nothing here touches the network unless a data set is asked for and is not on this machine; `CNNRS_OFFLINE=1` forbids
that too.
"""

from cnnrs.datasets.cifar import cifar10
from cnnrs.datasets.dataset import Dataset
from cnnrs.datasets.digits import digits
from cnnrs.datasets.folder import ImageFolder, image_folder
from cnnrs.datasets.idx import read_idx
from cnnrs.datasets.mnist import fashion_mnist, mnist

__all__ = ["Dataset", "ImageFolder", "cifar10", "digits", "fashion_mnist", "image_folder", "mnist", "read_idx"]
