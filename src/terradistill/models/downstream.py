"""The networks that judge a training set: small ones built here, and any other by its prefixed name.

Every network maps float32 images of shape (n, 3, side, side) in [-1, 1] to logits of shape (n, n_classes).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from terradistill.errors import EvaluationError
from terradistill.models import efficientnet_lite

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and standard deviation of pixels in [0, 1]
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # leaves [-1, 1] as it is
STEM = 64  # channels after the first layer of a residual network
SMALL = 96  # up to this side, ImageNet stems (which divide the side by 4) leave too little to look at


class Network(nn.Module):
    """A body in the pixel scale that it was trained with, giving plain logits."""

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, statistics: tuple[Any, Any] = HALF) -> None:
        """Wraps ``body``; ``statistics`` are the mean and standard deviation that it expects, of pixels in [0, 1]."""
        super().__init__()
        self.body = body
        for name, value in zip(("mean", "std"), statistics, strict=True):
            self.register_buffer(name, torch.tensor(value).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (n, 3, side, side) in [-1, 1] to logits (n, n_classes)."""
        output = self.body(((images + 1) / 2 - self.mean) / self.std)
        logits: Tensor = output if isinstance(output, Tensor) else output.logits
        return logits


class Halved(nn.Module):
    """Means of 2 x 2 pixels, as `nn.AvgPool2d(2)` gives them."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, height, width) to (n, c, height // 2, width // 2)."""
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return nn.functional.avg_pool2d(x, 2)
        # As two products, several times as fast: torch's own takes two fifths of a step of the ConvNet there.
        rows, columns = (_pairs(side).to(x) for side in x.shape[-2:])
        means: Tensor = rows.T @ x @ columns
        return means


def _pairs(side: int) -> Tensor:
    """(side, side // 2): half of each of two neighbours; an odd last one is left out, as in pooling."""
    pairs = 0.5 * torch.eye(side // 2).repeat_interleave(2, 0)
    return nn.functional.pad(pairs, (0, 0, 0, side % 2))


def _convnet3(n_classes: int, _resolution: int) -> nn.Module:
    """The ConvNet of dataset distillation; the 4x4 grid before the linear layer makes it fit any side [ours]."""
    layers: list[nn.Module] = []
    for channels in (3, 128, 128):
        # One group a channel is instance norm with an affine part: the same numbers, and twice as fast on CPUs.
        layers += [
            nn.Conv2d(channels, 128, 3, padding=1),
            nn.GroupNorm(128, 128),
            nn.ReLU(inplace=True),
            Halved(),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128 * 16, n_classes))


def _resnet(
    widths: tuple[int, ...], depths: tuple[int, ...], kind: str, n_classes: int, resolution: int, stride: int = 1
) -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=STEM, hidden_sizes=widths, depths=depths, layer_type=kind)
    config.num_labels = n_classes
    network: nn.Module = ResNetForImageClassification(config)
    if resolution <= SMALL:
        # The convention for small images: a 3x3 stem of stride 1, no max-pool. A stride of 2 [ours] is 4 times as fast.
        stem = nn.Sequential(nn.Conv2d(3, STEM, 3, stride, 1, bias=False), nn.BatchNorm2d(STEM), nn.ReLU())
        network.set_submodule("resnet.embedder", stem)
    return network


def _vit_tiny(n_classes: int, resolution: int) -> nn.Module:
    """8 x 8 patches whatever the side; width and heads of ViT-Tiny, half its depth."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=192,
        num_hidden_layers=6,
        num_attention_heads=3,
        intermediate_size=768,
        image_size=resolution,
        patch_size=resolution // 8,
    )
    config.num_labels = n_classes
    return ViTForImageClassification(config)


def _convnext_atto(n_classes: int, resolution: int) -> nn.Module:
    """The atto size of ConvNeXt V1; patches of 2 pixels instead of 4 where images are small [ours]."""
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(
        hidden_sizes=(40, 80, 160, 320),
        depths=(2, 2, 6, 2),
        patch_size=2 if resolution <= SMALL else 4,
        # Scales near 0 are for hundreds of epochs; in the few hundred steps here the blocks would never wake up [ours].
        layer_scale_init_value=1.0,
    )
    config.num_labels = n_classes
    return ConvNextForImageClassification(config)


def _efficientnet_lite0(n_classes: int, _resolution: int) -> nn.Module:
    return efficientnet_lite.EfficientNetLite0(n_classes)


BUILDERS: dict[str, Callable[[int, int], nn.Module]] = {
    "convnet3": _convnet3,
    "resnet18": partial(_resnet, (64, 128, 256, 512), (2, 2, 2, 2), "basic"),
    "resnet18-stem2": partial(_resnet, (64, 128, 256, 512), (2, 2, 2, 2), "basic", stride=2),
    "resnet50": partial(_resnet, (256, 512, 1024, 2048), (3, 4, 6, 3), "bottleneck"),
    "vit-tiny": _vit_tiny,
    "convnext-atto": _convnext_atto,
    "efficientnet-lite0": _efficientnet_lite0,
}
UNCOMPILED = ("efficientnet-lite0",)  # its convolutions of one channel each take as long compiled, after minutes
PRETRAINED = ("efficientnet-lite0",)  # of these, one has published weights in a package registry


@contextmanager
def _fetched(what: str) -> Iterator[None]:
    """Weights that cannot be fetched, said in one sentence."""
    try:
        yield
    except OSError as error:  # of the network, of the hub's client and of the disk alike
        raise EvaluationError(
            f"The published weights of {what} cannot be fetched ({(str(error).splitlines() or [''])[0]}): connect this "
            "machine to the internet once, or leave them out (evaluation.pretrained or classify.pretrained=false)."
        ) from error


def _timm(name: str, n_classes: int, pretrained: bool) -> Network:
    import timm

    if pretrained and not timm.is_model_pretrained(name):
        raise EvaluationError(f"timm has no pretrained weights for '{name}': leave pretrained off.")
    with _fetched(f"timm's '{name}'"):
        body = timm.create_model(name, pretrained=pretrained, num_classes=n_classes)
    if not pretrained:
        return Network(body)
    return Network(body, (body.pretrained_cfg["mean"], body.pretrained_cfg["std"]))


def _torchvision(name: str, n_classes: int, pretrained: bool) -> Network:
    from torchvision import models

    with _fetched(f"torchvision's '{name}'"):
        body = models.get_model(name, weights="DEFAULT" if pretrained else None)
    linear = [key for key, module in body.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise EvaluationError(
            f"torchvision's '{name}' does not end in a linear layer, so its classes cannot be changed."
        )
    body.set_submodule(linear[-1], nn.Linear(body.get_submodule(linear[-1]).in_features, n_classes))
    return Network(body, IMAGENET if pretrained else HALF)


def _hub(name: str, n_classes: int, pretrained: bool) -> Network:
    from transformers import AutoConfig, AutoModelForImageClassification
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        if not pretrained:
            config = AutoConfig.from_pretrained(name, num_labels=n_classes, trust_remote_code=False)
            return Network(AutoModelForImageClassification.from_config(config, trust_remote_code=False))
        body = AutoModelForImageClassification.from_pretrained(
            name, num_labels=n_classes, ignore_mismatched_sizes=True, trust_remote_code=False, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise EvaluationError(
            f"'{name}' cannot be loaded as an image classifier: give OWNER/NAME of a transformers model on the hub, "
            f"or a folder that holds one ({str(error).splitlines()[0]})."
        ) from error
    try:
        scale, _ = ImageProcessingMixin.get_image_processor_dict(name)
    except OSError:  # weights without a preprocessor file: ImageNet's statistics are the usual ones
        scale = {}
    return Network(body, (scale.get("image_mean", IMAGENET[0]), scale.get("image_std", IMAGENET[1])))


WITH_WEIGHTS = "+pretrained"  # after the name of a network
LIBRARIES: dict[str, Callable[[str, int, bool], Network]] = {"timm": _timm, "torchvision": _torchvision, "hub": _hub}


def named_network(name: str, *, pretrained: bool = False) -> tuple[str, bool]:
    """A network's plain name, and whether it starts from published weights: ``NAME+pretrained`` asks for them alone."""
    plain = name.removesuffix(WITH_WEIGHTS)
    return plain, pretrained or plain != name


def build_network(name: str, n_classes: int, resolution: int, *, pretrained: bool = False) -> nn.Module:
    """Builds a classifier; its fresh weights come from torch's global random state.

    Args:
        name: a key of `BUILDERS`, or ``timm:NAME``, ``torchvision:NAME``, ``hub:OWNER/NAME`` (also a local folder);
            ``+pretrained`` after it asks for published weights too.
        n_classes: number of classes; the last layer is always new.
        resolution: side of the square images, pixels.
        pretrained: start from published weights. Prefixed names and `PRETRAINED` have some.

    Returns:
        A module from float32 images (n, 3, resolution, resolution) in [-1, 1] to logits (n, n_classes).

    Raises:
        EvaluationError: the name is unknown, its library is not installed, or it has no pretrained weights.
    """
    require_network(name, pretrained=pretrained)
    name, pretrained = named_network(name, pretrained=pretrained)
    library, colon, rest = name.partition(":")
    if colon:
        return LIBRARIES[library](rest, n_classes, pretrained)
    body: Any = BUILDERS[name](n_classes, resolution)
    if pretrained:
        body.load_imagenet()
    return Network(body)


def require_network(name: str, *, pretrained: bool = False) -> None:
    """Makes sure that `build_network` knows the name, before hours are spent on what it should judge.

    Raises:
        EvaluationError: as `build_network`.
    """
    name, pretrained = named_network(name, pretrained=pretrained)
    library, colon, rest = name.partition(":")
    if colon and library in LIBRARIES:
        try:
            module = import_module("transformers" if library == "hub" else library)
        except ModuleNotFoundError as error:
            raise EvaluationError(
                f"'{name}' needs {library}, which is not installed: pip install {library}."
            ) from error
        unknown = (library == "timm" and not module.is_model(rest)) or (
            library == "torchvision" and rest not in module.models.list_models(module=module.models)  # no detectors
        )  # the hub is asked when the network is built
        if unknown:
            raise EvaluationError(f"{library} has no classifier '{rest}': its `list_models()` names those it has.")
        return
    if name not in BUILDERS:
        accepted = ", ".join([*BUILDERS, "timm:NAME", "torchvision:NAME", "hub:OWNER/NAME"])
        raise EvaluationError(f"There is no network '{name}': the names accepted are {accepted}.")
    if pretrained and name not in PRETRAINED:
        raise EvaluationError(
            f"'{name}' has no pretrained weights: leave pretrained off, or name a network with weights, "
            "such as efficientnet-lite0, timm:resnet18 or hub:microsoft/resnet-18."
        )
    if pretrained:
        efficientnet_lite.locate_weights()


def count_parameters(network: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
