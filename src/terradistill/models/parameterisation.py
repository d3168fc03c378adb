"""What a denoiser predicts, and how that turns into the clean latent and back.

Legend: z_t noisy latent, z0 clean latent, ε noise, ᾱ_t cumulative signal share.
    z_t = √ᾱ_t·z0 + √(1−ᾱ_t)·ε          v = √ᾱ_t·ε − √(1−ᾱ_t)·z0      (Ho et al. 2020; Salimans & Ho 2022)
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from terradistill.errors import GeneratorError

KINDS = ("epsilon", "v_prediction", "sample")


@dataclass(frozen=True)
class Parameterisation:
    """Conversions for one noise schedule and one kind of prediction.

    Attributes:
        alphas_cumprod: ᾱ_t for t = 0 … T−1, float tensor of shape (T,).
        kind: "epsilon", "v_prediction" or "sample" (the names diffusers uses).
    """

    alphas_cumprod: Tensor
    kind: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise GeneratorError(f"The generator predicts {self.kind!r}; expected one of {', '.join(KINDS)}.")

    @classmethod
    def of(cls, scheduler: Any) -> "Parameterisation":
        """From any diffusers scheduler that has `alphas_cumprod`."""
        return cls(scheduler.alphas_cumprod.float(), scheduler.config.prediction_type)

    @property
    def n_timesteps(self) -> int:
        return len(self.alphas_cumprod)

    def _shares(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        # √ᾱ_t and √(1−ᾱ_t), shaped to multiply a batch; t is () or (B,).
        alpha = self.alphas_cumprod.to(like.device)[t].to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))
        return alpha.sqrt(), (1 - alpha).sqrt()

    def add_noise(self, z0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """z_t from z0 and ε, all (B, C, h, w); t (B,) or () integers in [0, T)."""
        signal, sigma = self._shares(t, z0)
        return signal * z0 + sigma * noise

    def target(self, z0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the denoiser should predict."""
        if self.kind == "epsilon":
            return noise
        if self.kind == "sample":
            return z0
        signal, sigma = self._shares(t, z0)
        return signal * noise - sigma * z0

    def z0(self, z_t: Tensor, output: Tensor, t: Tensor) -> Tensor:
        """The clean latent that a prediction implies."""
        signal, sigma = self._shares(t, z_t)
        if self.kind == "epsilon":
            return (z_t - sigma * output) / signal
        if self.kind == "sample":
            return output
        return signal * z_t - sigma * output

    def output(self, z_t: Tensor, z0: Tensor, t: Tensor) -> Tensor:
        """The prediction that implies a clean latent: the inverse of `z0`."""
        signal, sigma = self._shares(t, z_t)
        if self.kind == "epsilon":
            return (z_t - signal * z0) / sigma
        if self.kind == "sample":
            return z0
        return (signal * z_t - z0) / sigma

    def noise(self, z_t: Tensor, output: Tensor, t: Tensor) -> Tensor:
        """The noise that a prediction implies."""
        signal, sigma = self._shares(t, z_t)
        if self.kind == "epsilon":
            return output
        if self.kind == "sample":
            return (z_t - signal * output) / sigma
        return sigma * z_t + signal * output

    def loss_weight(self, t: Tensor, gamma: float | None) -> Tensor:
        """Min-SNR weight of the squared error at t, shape (B,) (Hang et al. 2023).

        In terms of the clean latent it is min(SNR, γ); for v, min(SNR + 1, γ) [ours]: a schedule that ends at pure
        noise would otherwise never learn the step that decides on colour and layout.
        """
        if gamma is None:
            return torch.ones_like(t, dtype=torch.float32)
        alpha = self.alphas_cumprod.to(t.device)[t]
        snr = alpha / (1 - alpha)
        if self.kind == "epsilon":
            return snr.clamp(max=gamma) / snr
        if self.kind == "sample":
            return snr.clamp(max=gamma)
        return (snr + 1).clamp(max=gamma) / (snr + 1)
