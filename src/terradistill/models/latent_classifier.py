"""A small residual network on latents (DPD, revised release)."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from terradistill.errors import GeneratorError


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation, and a 1x1 shortcut where the shape changes."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(c_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(c_out),
        )
        same = stride == 1 and c_in == c_out
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class LatentClassifier(nn.Module):
    """Stem of `width`, three stages of `width`, 2·`width`, 4·`width` with two blocks each, pooled to class logits."""

    def __init__(self, latent_channels: int, n_classes: int, width: int = 64, dropout: float = 0.1) -> None:
        super().__init__()
        self.sizes = {"latent_channels": latent_channels, "n_classes": n_classes, "width": width}
        self.stem = nn.Sequential(
            nn.Conv2d(latent_channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        blocks: list[nn.Module] = []
        c_in = width
        for c_out, stride in ((width, 1), (2 * width, 2), (4 * width, 2)):
            blocks += [ResidualBlock(c_in, c_out, stride), ResidualBlock(c_out, c_out, 1)]
            c_in = c_out
        self.stages = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(c_in, n_classes)
        # On a CPU its training is a fifth faster so. torch's types do not know the argument.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def features(self, latents: Tensor) -> Tensor:
        """Pooled features (B, 4·width) of scaled latents (B, C, h, w)."""
        return torch.as_tensor(self.stages(self.stem(latents)).mean((2, 3)))

    def forward(self, latents: Tensor) -> Tensor:
        """Logits (B, n_classes)."""
        return torch.as_tensor(self.head(self.dropout(self.features(latents))))

    def save(self, folder: Path) -> None:
        """Write `model.safetensors`; the sizes stand in its header."""
        folder.mkdir(parents=True, exist_ok=True)
        header = {key: str(value) for key, value in self.sizes.items()}
        save_file({k: v.contiguous() for k, v in self.state_dict().items()}, folder / "model.safetensors", header)

    @classmethod
    def load(cls, folder: Path) -> "LatentClassifier":
        """Open what `save` wrote."""
        from safetensors import safe_open

        path = Path(folder) / "model.safetensors"
        if not path.exists():
            raise GeneratorError(f"{folder} holds no latent classifier: expected model.safetensors in it.")
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
        model = cls(**{key: int(header[key]) for key in ("latent_channels", "n_classes", "width")})
        model.load_state_dict(load_file(path))
        return model.eval()
