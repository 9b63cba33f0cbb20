"""The measured networks in plain torch, with the layers and names of torchvision and of `cnnrs.models`."""

import importlib
from collections.abc import Callable
from typing import Any, TypeAlias

torch: Any = importlib.import_module("torch")  # not in the environment that checks types
nn: Any = torch.nn
F: Any = nn.functional
Model: TypeAlias = Any
Tensor: TypeAlias = Any


class _Classifier(nn.Module):  # type: ignore[misc]
    """Feature maps, averaged to a fixed size where the network does so, and a classifier on them."""

    def __init__(self, features: Model, size: int | None, classifier: Model) -> None:
        super().__init__()
        self.features = features
        self.avgpool = nn.Identity() if size is None else nn.AdaptiveAvgPool2d(size)
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch (N, C, H, W)."""
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def lenet5(activation: str = "relu", pool: str = "max") -> Model:
    """LeNet-5 with the layers and names of `cnnrs.models.lenet5`."""
    act = {"tanh": nn.Tanh, "relu": nn.ReLU}[activation]
    down = {"avg": nn.AvgPool2d, "max": nn.MaxPool2d}[pool]
    model = nn.Sequential()
    model.features = nn.Sequential(nn.Conv2d(1, 6, 5, padding=2), act(), down(2), nn.Conv2d(6, 16, 5), act(), down(2))
    model.classifier = nn.Sequential(
        nn.Flatten(), nn.Linear(400, 120), act(), nn.Linear(120, 84), act(), nn.Linear(84, 10)
    )
    return model


def alexnet() -> Model:
    """AlexNet in the form of "One weird trick", as in torchvision."""

    def relu() -> Model:
        return nn.ReLU(inplace=True)

    features = nn.Sequential(
        *(nn.Conv2d(3, 64, 11, 4, 2), relu(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, 1, 2), relu(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, 1, 1), relu(), nn.Conv2d(384, 256, 3, 1, 1), relu()),
        *(nn.Conv2d(256, 256, 3, 1, 1), relu(), nn.MaxPool2d(3, 2)),
    )
    classifier = nn.Sequential(
        *(nn.Dropout(), nn.Linear(9216, 4096), relu()),
        *(nn.Dropout(), nn.Linear(4096, 4096), relu()),
        nn.Linear(4096, 1000),
    )
    return _Classifier(features, 6, classifier)


def vgg16() -> Model:
    """VGG-16, configuration D without batch normalization."""
    layers: list[Model] = []
    channels = 3
    for entry in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        if entry:
            layers += [nn.Conv2d(channels, entry, 3, 1, 1), nn.ReLU(inplace=True)]
            channels = entry
        else:
            layers.append(nn.MaxPool2d(2, 2))
    classifier = nn.Sequential(
        *(nn.Linear(25088, 4096), nn.ReLU(inplace=True), nn.Dropout()),
        *(nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Dropout()),
        nn.Linear(4096, 1000),
    )
    return _Classifier(nn.Sequential(*layers), 7, classifier)


class _Block(nn.Module):  # type: ignore[misc]
    """A residual block whose convolutions are given as (channels, kernel, stride)."""

    def __init__(self, channels: int, convolutions: list[tuple[int, int, int]]) -> None:
        super().__init__()
        before, stride = channels, 1
        for index, (after, kernel, step) in enumerate(convolutions, start=1):
            setattr(self, f"conv{index}", nn.Conv2d(before, after, kernel, step, kernel // 2, bias=False))
            setattr(self, f"bn{index}", nn.BatchNorm2d(after))
            before, stride = after, stride * step
        self.relu = nn.ReLU(inplace=True)
        self.count = len(convolutions)
        self.downsample = None
        if stride > 1 or before != channels:
            self.downsample = nn.Sequential(nn.Conv2d(channels, before, 1, stride, bias=False), nn.BatchNorm2d(before))

    def forward(self, x: Tensor) -> Tensor:
        """Convolutions and shortcut."""
        shortcut = x if self.downsample is None else self.downsample(x)
        for index in range(1, self.count + 1):
            x = getattr(self, f"bn{index}")(getattr(self, f"conv{index}")(x))
            x = self.relu(x + shortcut if index == self.count else x)
        return x


class _ResNet(nn.Module):  # type: ignore[misc]
    """Four stages of blocks of two (basic) or three (bottleneck) convolutions."""

    def __init__(self, depths: tuple[int, ...], *, bottleneck: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 64
        for stage, depth in enumerate(depths):
            inner, blocks = 64 * 2**stage, []
            for index in range(depth):
                step = 2 if stage and not index else 1
                wide = [(inner, 1, 1), (inner, 3, step), (4 * inner, 1, 1)]
                blocks.append(_Block(channels, wide if bottleneck else [(inner, 3, step), (inner, 3, 1)]))
                channels = 4 * inner if bottleneck else inner
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch (N, 3, H, W)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


MAKERS: dict[str, Callable[[], Model]] = {
    "lenet5": lenet5,
    "alexnet": alexnet,
    "vgg16": vgg16,
    "resnet18": lambda: _ResNet((2, 2, 2, 2), bottleneck=False),
    "resnet50": lambda: _ResNet((3, 4, 6, 3), bottleneck=True),
}


def parameter(array: Any) -> Tensor:
    """A parameter of cnnrs (HWIO, (in, out), a vector or a counter) as torch has it, by rank."""
    axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim)
    return (
        torch.from_numpy(array if axes is None else array.transpose(axes).copy()) if array.ndim else torch.tensor(array)
    )


def load_parameters(model: Model, arrays: dict[str, Any]) -> Model:
    """Give the model cnnrs's parameters and statistics; a name or shape of the one without the other is an error."""
    model.load_state_dict({name: parameter(array) for name, array in arrays.items()})
    return model
