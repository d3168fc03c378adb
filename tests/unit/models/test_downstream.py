import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from terradistill.errors import EvaluationError
from terradistill.models.downstream import BUILDERS, IMAGENET, Halved, Network, build_network, count_parameters


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("resolution", [32, 72, 128])
def test_logits_and_gradients(name: str, resolution: int) -> None:
    network = build_network(name, 7, resolution)
    logits = network(torch.rand(2, 3, resolution, resolution) * 2 - 1)
    assert (logits.shape, logits.dtype) == ((2, 7), torch.float32)
    logits.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters() if p.requires_grad)


def test_sizes_are_those_known() -> None:
    # convnet3: three 3x3 convolutions, their norms, and 128 channels x 16 places x 10 classes
    convnet = (3 * 9 + 1) * 128 + 2 * (128 * 9 + 1) * 128 + 3 * 2 * 128 + (128 * 16 + 1) * 10
    assert count_parameters(build_network("convnet3", 10, 64)) == convnet
    assert count_parameters(build_network("resnet18", 1000, 224)) == 11_689_512  # torchvision's
    assert count_parameters(build_network("resnet50", 1000, 224)) == 25_557_032
    frozen = build_network("convnet3", 10, 64)
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
    assert count_parameters(frozen) == 0


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 2, 9, 7)])
def test_halving_is_average_pooling(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert (Halved()(x) - nn.functional.avg_pool2d(x, 2)).abs().max() < 0.02  # rounded twice
    ours, known = Halved()(x), nn.functional.avg_pool2d(x, 2)
    torch.testing.assert_close(ours, known)
    weights = torch.randn(known.shape)
    torch.testing.assert_close(*(torch.autograd.grad((y * weights).sum(), x)[0] for y in (ours, known)))


def test_the_group_norm_is_instance_norm() -> None:
    group = next(m for m in build_network("convnet3", 2, 16).modules() if isinstance(m, nn.GroupNorm))
    nn.init.normal_(group.weight)
    nn.init.normal_(group.bias)
    instance = nn.InstanceNorm2d(128, affine=True)
    instance.load_state_dict(group.state_dict())
    x = torch.randn(3, 128, 6, 6)
    torch.testing.assert_close(group(x), instance(x))


def test_an_image_is_judged_the_same_in_any_batch() -> None:
    network = build_network("convnet3", 4, 16).train()
    x = torch.rand(5, 3, 16, 16)
    torch.testing.assert_close(network(x)[:1], network(x[:1]))


def test_small_images_keep_their_side_in_resnet() -> None:
    x = torch.rand(1, 3, 64, 64)
    kinds = (("resnet18", 64), ("resnet18-stem2", 64), ("resnet18", 128))
    seen = [build_network(name, 2, side).body.resnet.embedder(x).shape[2] for name, side in kinds]  # type: ignore
    assert seen == [64, 32, 16]


def test_pixels_reach_the_body_in_its_own_scale() -> None:
    white = torch.ones(1, 3, 2, 2)
    assert Network(nn.Identity())(white).flatten().tolist() == [1.0] * 12
    seen = Network(nn.Identity(), IMAGENET)(white)[0, :, 0, 0]
    torch.testing.assert_close(seen, (1 - torch.tensor(IMAGENET[0])) / torch.tensor(IMAGENET[1]))


def test_names_are_refused_with_the_accepted_ones() -> None:
    with pytest.raises(EvaluationError, match=r"no network 'convnet4'.*convnet3.*vit-tiny.*hub:OWNER/NAME"):
        build_network("convnet4", 2, 32)
    with pytest.raises(EvaluationError, match="no network 'keras:vgg16'"):
        build_network("keras:vgg16", 2, 32)
    with pytest.raises(EvaluationError, match=r"'convnet3' has no pretrained weights.*efficientnet-lite0"):
        build_network("convnet3", 2, 32, pretrained=True)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_missing_library_is_named(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Absent:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == library:
                raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.delitem(sys.modules, library, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    with pytest.raises(EvaluationError, match=f"pip install {library}"):
        build_network(f"{library}:resnet18", 2, 32)


def test_timm_networks_get_their_own_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(_name: str, num_classes: int, **_: Any) -> nn.Module:
        body = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))
        body.pretrained_cfg = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}  # type: ignore[assignment]
        return body

    fake = ModuleType("timm")
    fake.__dict__.update(
        create_model=create_model,
        is_model=lambda name: name in ("small", "bare"),
        is_model_pretrained=lambda name: name == "small",
    )
    monkeypatch.setitem(sys.modules, "timm", fake)
    network = build_network("timm:small", 5, 32, pretrained=True)
    assert isinstance(network, Network)
    torch.testing.assert_close(network.std.flatten(), torch.tensor([0.4, 0.5, 0.6]))
    assert network(torch.rand(2, 3, 8, 8)).shape == (2, 5)
    with pytest.raises(EvaluationError, match="timm has no classifier 'huge'"):
        build_network("timm:huge", 5, 32)
    with pytest.raises(EvaluationError, match="no pretrained weights for 'bare'"):
        build_network("timm:bare", 5, 32, pretrained=True)


def test_weights_that_cannot_be_fetched_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(*_: Any, **__: Any) -> nn.Module:
        raise OSError("no route to the hub\nand more")

    fake = ModuleType("timm")
    fake.__dict__.update(create_model=create_model, is_model=lambda _: True, is_model_pretrained=lambda _: True)
    monkeypatch.setitem(sys.modules, "timm", fake)
    with pytest.raises(EvaluationError, match=r"timm's 'small' cannot be fetched \(no route to the hub\): connect"):
        build_network("timm:small", 5, 32, pretrained=True)


def test_torchvision_networks_get_a_new_head(monkeypatch: pytest.MonkeyPatch) -> None:
    class Aux(nn.Module):
        """Like Inception-v3: a named tuple while training."""

        def __init__(self) -> None:
            super().__init__()
            self.aux, self.fc = nn.Linear(3, 1000), nn.Linear(3, 1000)

        def forward(self, x: Tensor) -> Any:
            pooled = x.mean(dim=(2, 3))
            return SimpleNamespace(logits=self.fc(pooled), aux_logits=self.aux(pooled))

    models = ModuleType("torchvision.models")
    bodies = {"aux": Aux, "conv": lambda: nn.Conv2d(3, 1000, 1)}
    models.__dict__.update(list_models=lambda **_: list(bodies), get_model=lambda name, **_: bodies[name]())
    package = ModuleType("torchvision")
    package.__dict__["models"] = models
    monkeypatch.setitem(sys.modules, "torchvision", package)
    network = build_network("torchvision:aux", 6, 32, pretrained=True)
    assert network(torch.rand(2, 3, 8, 8)).shape == (2, 6)
    with pytest.raises(EvaluationError, match="no classifier 'nothing'"):
        build_network("torchvision:nothing", 6, 32)
    with pytest.raises(EvaluationError, match="linear layer"):
        build_network("torchvision:conv", 6, 32)


def test_hub_networks_from_a_folder(tmp_path: Path) -> None:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=8, hidden_sizes=(8, 16), depths=(1, 1), layer_type="basic")
    published = ResNetForImageClassification(config)
    published.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.2, 0.2]}')

    tuned = build_network(f"hub:{tmp_path}", 9, 32, pretrained=True)
    assert isinstance(tuned, Network)
    assert tuned(torch.rand(2, 3, 32, 32)).shape == (2, 9)
    assert torch.allclose(tuned.std, torch.tensor(0.2))
    key = "resnet.embedder.embedder.convolution.weight"
    assert torch.equal(tuned.body.state_dict()[key], published.state_dict()[key])

    fresh = build_network(f"hub:{tmp_path}", 9, 32)
    assert isinstance(fresh, Network)
    assert not torch.equal(fresh.body.state_dict()[key], published.state_dict()[key])

    (tmp_path / "preprocessor_config.json").unlink()
    plain = build_network(f"hub:{tmp_path}", 9, 32, pretrained=True)
    assert isinstance(plain, Network)
    torch.testing.assert_close(plain.mean.flatten(), torch.tensor(IMAGENET[0]))

    with pytest.raises(EvaluationError, match="cannot be loaded as an image classifier"):
        build_network(f"hub:{tmp_path / 'nothing'}", 9, 32, pretrained=True)


def test_efficientnet_lite0_is_as_published() -> None:
    """The logits are those of the package `efficientnet-lite-pytorch` 0.1.0, to the last bit, with the same weights."""
    from terradistill.models.efficientnet_lite import EfficientNetLite0

    network = EfficientNetLite0(1000).eval()
    network.load_imagenet()
    with torch.no_grad():
        logits = network(torch.linspace(-1, 1, 3 * 224 * 224).view(1, 3, 224, 224).sin())[0]
    assert logits[:4].tolist() == pytest.approx([0.19258, 0.69978, 1.83865, 1.35679], abs=1e-3)
    tuned = build_network("efficientnet-lite0", 5, 64, pretrained=True).eval()
    assert tuned(torch.zeros(2, 3, 64, 64)).shape == (2, 5)
    assert torch.equal(tuned.body.stem.conv.weight, network.stem.conv.weight)  # type: ignore[union-attr]


@pytest.mark.parametrize("pretrained", [False, True])
def test_code_of_a_hub_network_is_never_run(tmp_path: Path, pretrained: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "was-run"
    (tmp_path / "own.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass C: pass\nclass M: pass\n")
    told = {"AutoConfig": "own.C", "AutoModelForImageClassification": "own.M"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": told}))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(EvaluationError, match="cannot be loaded"):
        build_network(f"hub:{tmp_path}", 9, 32, pretrained=pretrained)
    assert not marker.exists()


def test_every_convolution_can_be_listened_to() -> None:
    """As maps of what a classifier looks at do."""
    network = build_network("efficientnet-lite0", 3, 64)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    heard = []
    for module in convolutions:
        module.register_forward_hook(lambda module, *_: heard.append(module))
    network(torch.zeros(2, 3, 64, 64))
    assert heard == convolutions


def test_an_efficientnet_learns_the_same_whatever_its_layout() -> None:
    """Its convolutions take other ways with channels last: of single pixels, and of more pixels than there are."""
    from terradistill.models.efficientnet_lite import EfficientNetLite0

    torch.manual_seed(0)
    network, found = EfficientNetLite0(3).eval(), []
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    for layout in (torch.channels_last, torch.contiguous_format):
        network.to(memory_format=layout)  # type: ignore[call-overload]
        network.zero_grad()
        logits = network.logits(images.contiguous(memory_format=layout))
        logits.square().sum().backward()
        found.append([logits.detach(), *(weight.grad.clone() for weight in network.parameters())])  # type: ignore[union-attr]
    for last, first in zip(*found, strict=True):
        torch.testing.assert_close(last, first, rtol=1e-3, atol=1e-5 * float(first.abs().max()))
    wide = network.blocks[-2].layers[1].conv.weight.grad  # type: ignore[union-attr,index]
    assert not wide[:, :, 0].any(), "of maps of 2 x 2 pixels the outermost weights touch none"
