"""Self-distillation of a staged classifier (DSDNet and its rivals): shallow stages learn from deeper ones.

Everything here is attached to a backbone from outside and falls away after training: what is exported is the backbone.
Legend: K stages, B batch, C classes; ℓ_k the logits of stage k, ℓ_K those of the backbone's own head.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from terradistill.errors import EvaluationError

Method = Literal["ce", "byot", "logit-sd", "dsd"]
METHODS: tuple[Method, ...] = ("ce", "byot", "logit-sd", "dsd")

N_STAGES = 4
TIMESTEPS = 1000
BETAS = (1e-4, 0.02)
REFINEMENT = (400, 300, 200, 100, 0)  # timesteps of the five DDIM steps


def stages_of(network: nn.Module) -> list[nn.Module]:
    """The four stages of a backbone, shallow first: as its library names them, else its blocks in quarters.

    Raises:
        EvaluationError: it has neither.
    """
    modules = dict(network.named_modules())
    for name, module in modules.items():
        last = name.rpartition(".")[2]
        if last == "stages" and isinstance(module, nn.ModuleList | nn.Sequential) and len(module) == N_STAGES:
            return list(module)
        if last == "layer4" and all(f"{name[:-1]}{k}" in modules for k in range(1, N_STAGES)):
            return [modules[f"{name[:-1]}{k}"] for k in range(1, N_STAGES + 1)]
    small = list[str]()
    for name, module in modules.items():
        if name.rpartition(".")[2] in ("stages", "blocks", "layer", "layers") and isinstance(
            module, nn.ModuleList | nn.Sequential
        ):
            n = len(module)
            if any(name.startswith(f"{outer}.") for outer in small):
                continue  # the blocks of one stage are not those of the network
            if n >= N_STAGES:
                return [module[(k + 1) * n // N_STAGES - 1] for k in range(N_STAGES)]
            small.append(name)
    raise EvaluationError(
        f"{type(network).__name__} has no four stages and no blocks to quarter: choose a residual network, a ConvNeXt "
        "or a transformer, or classify.method ce."
    )


@contextmanager
def watched(stages: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """What the stages put out while the block runs, pooled over places: a list of (B, D_k), shallow first."""
    seen: list[Tensor] = []
    handles = [stage.register_forward_hook(lambda _m, _i, out: seen.append(_pooled(out))) for stage in stages]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _pooled(output: Any) -> Tensor:
    x: Tensor = output[0] if isinstance(output, tuple) else output
    if channels_last(x):
        return x.mean((1, 2))
    return x.flatten(2).mean(2) if x.ndim == 4 else x.mean(1)


def channels_last(x: Tensor) -> bool:
    """Whether what a stage puts out is (B, h, w, D), as in timm's Swin, and not (B, D, h, w)."""
    return x.ndim == 4 and x.shape[1] == x.shape[2] != x.shape[3]


def alphas_cumprod() -> Tensor:
    """ᾱ_t of the linear noise schedule: float32 (1000,)."""
    return torch.cumprod(1 - torch.linspace(*BETAS, TIMESTEPS, dtype=torch.float64), 0).float()


class LogitDenoiser(nn.Module):
    """Predicts the noise in logits, told others: (B, C) of each and times (B,) to (B, C)."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        c = n_classes
        self.time = nn.Embedding(TIMESTEPS, 2 * c)
        widths = (2 * c, 8 * c, 2 * c, 8 * c)
        layers: list[nn.Module] = []
        for c_in, c_out in pairwise(widths):
            layers += [nn.Linear(c_in, c_out), nn.BatchNorm1d(c_out), nn.ReLU(inplace=True)]
        self.body = nn.Sequential(*layers, nn.Linear(widths[-1], c))

    def forward(self, x: Tensor, condition: Tensor, t: Tensor) -> Tensor:
        return torch.as_tensor(self.body(torch.cat([x, condition], 1) + self.time(t)))


class _Pair(nn.Module):
    """A student stage and the one above it: the student's logits, refined by diffusion, follow the teacher's."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.condition = nn.Linear(n_classes, n_classes)  # a 1 x 1 convolution, of vectors
        self.denoiser = LogitDenoiser(n_classes)
        self.last = nn.Sequential(nn.Linear(n_classes, n_classes), nn.BatchNorm1d(n_classes))

    def refine(self, student: Tensor, noise: Tensor, shares: Tensor) -> Tensor:
        """r: noise (B, C) denoised in five DDIM steps under the student's logits (B, C)."""
        condition, x = self.condition(student), noise
        for step, t in enumerate(REFINEMENT):
            times = torch.full((len(x),), t, device=x.device)
            e = self.denoiser(x, condition, times)
            clean = (x - (1 - shares[t]).sqrt() * e) / shares[t].sqrt()
            if step + 1 == len(REFINEMENT):
                x = clean
            else:
                following = shares[REFINEMENT[step + 1]]
                x = following.sqrt() * clean + (1 - following).sqrt() * e
        return torch.as_tensor(self.last(x))

    def denoising_loss(self, refined: Tensor, teacher: Tensor, t: Tensor, noise: Tensor, shares: Tensor) -> Tensor:
        """Squared error of the noise in the teacher's logits, which give no gradient, told the refined ones."""
        share = shares[t][:, None]
        x = share.sqrt() * teacher.detach() + (1 - share).sqrt() * noise
        return torch.as_tensor((noise - self.denoiser(x, refined, t)).square().mean())


class SelfDistiller(nn.Module):
    """Branches on the stages of a backbone, and the losses by which they learn; each of them can be left out.

    Each with CE(ℓ_K) times w_hard, which is 1:

    dsd: CE(ℓ_K) + w_soft·Σ softCE(r_k ‖ ℓ_{k+1}) − w_entropy·[H(ℓ_K) + H(r_{K−1}) + H(r_{K−2})] + w_noise·Σ L_diff,k
    logit-sd: CE(ℓ_K) + w_soft·Σ softCE(ℓ_k ‖ ℓ_{k+1})
    byot (Zhang et al. 2019): CE of all ℓ, w_soft·KL of each ℓ_k to ℓ_K at temperature 3, and a hint of its features
    ce: CE(ℓ_K)
    """

    def __init__(
        self,
        widths: Sequence[int],
        n_classes: int,
        method: Method,
        *,
        hard: float = 1.0,
        soft: float = 0.5,
        entropy: float = 0.5,
        noise: float = 0.5,
        hint: float = 1e-6,
        temperature: float = 3.0,
        smoothing: float = 0.0,
        refine: bool = True,
        shuffled: bool = False,
    ) -> None:
        """`widths`: of the pooled stages, shallow first. Without `refine`, r is ℓ; `shuffled` gives each r the
        condition of another image."""
        super().__init__()
        self.method, self.smoothing, self.shuffled, self.hard = method, smoothing, shuffled, hard
        self.soft, self.entropy, self.noise, self.hint, self.temperature = soft, entropy, noise, hint, temperature
        students = [] if method == "ce" else list(widths[:-1])
        self.heads = nn.ModuleList(nn.Linear(width, n_classes) for width in students)
        self.pairs = nn.ModuleList(_Pair(n_classes) for _ in students if method == "dsd" and refine)
        self.hints = nn.ModuleList(nn.Linear(w, widths[-1]) for w in students) if method == "byot" else nn.ModuleList()
        self.register_buffer("shares", alphas_cumprod(), persistent=False)

    def forward(
        self, pooled: Sequence[Tensor], logits: Tensor, labels: Tensor, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """The losses by name; their sum is what is learned from.

        Args:
            pooled: of each stage, (B, D_k), shallow first.
            logits: ℓ_K (B, C).
            labels: int64 (B,), or probabilities (B, C).
            rng: a CPU generator, of noise and times.
        """
        logits = logits.float()
        found = {"ce": self.hard * self._hard(logits, labels)}
        branches = [head(features.float()) for head, features in zip(self.heads, pooled, strict=False)]
        if self.method == "byot":
            found |= self._byot(branches, pooled, logits, labels)
        elif self.method == "logit-sd":
            found["soft"] = self.soft * sum_of(map(soft_cross_entropy, branches, [*branches[1:], logits]))
        elif self.method == "dsd":
            found |= self._dsd(branches, logits, rng)
        return found

    def _hard(self, logits: Tensor, labels: Tensor) -> Tensor:
        smoothing = 0.0 if labels.is_floating_point() else self.smoothing  # soft labels are smooth as they are
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)

    def _byot(
        self, branches: Sequence[Tensor], pooled: Sequence[Tensor], logits: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        t, deepest = self.temperature, logits.detach()
        hard = sum_of(self._hard(branch, labels) for branch in branches)
        soft = sum_of(t * t * soft_cross_entropy(branch / t, deepest / t) for branch in branches)
        last = pooled[-1].float().detach()
        near = sum_of(
            (hint(features.float()) - last).square().sum(1).mean()
            for hint, features in zip(self.hints, pooled, strict=False)
        )
        return {"branches": (1 - self.soft) * hard, "soft": self.soft * soft, "hint": self.hint * near}

    def refined(self, branches: Sequence[Tensor], rng: torch.Generator) -> list[Tensor]:
        """r_k of each branch; without denoisers the branches themselves."""
        if not self.pairs:
            return list(branches)
        found = []
        for pair, student in zip(self.pairs, branches, strict=True):
            start = torch.randn(student.shape, generator=rng).to(student)
            told = student.roll(1, 0) if self.shuffled else student
            found.append(pair.refine(told, start, self.shares))  # type: ignore[operator]
        return found

    def _dsd(self, branches: Sequence[Tensor], logits: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        refined, teachers = self.refined(branches, rng), [*branches[1:], logits]
        losses = [logits.new_zeros(())]
        for pair, r, teacher in zip(self.pairs, refined, teachers, strict=False):  # perhaps none
            t = torch.randint(0, TIMESTEPS, (len(r),), generator=rng).to(r.device)
            noise = torch.randn(r.shape, generator=rng).to(r)
            losses.append(pair.denoising_loss(r, teacher, t, noise, self.shares))  # type: ignore[operator]
        return {
            "soft": self.soft * sum_of(map(soft_cross_entropy, refined, teachers)),
            "entropy": -self.entropy * sum_of(map(mean_entropy, [logits, *refined[-2:]])),
            "noise": self.noise * sum_of(losses),
        }


def soft_cross_entropy(logits: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy to a teacher's softmax, which gives no gradient; logits (B, C) both: a scalar."""
    return -(teacher.detach().softmax(1) * logits.log_softmax(1)).sum(1).mean()


def mean_entropy(logits: Tensor) -> Tensor:
    """Mean entropy of softmax of (B, C): a scalar."""
    log = logits.log_softmax(1)
    return -(log.exp() * log).sum(1).mean()


def sum_of(terms: Any) -> Tensor:
    """Of scalars, at least one."""
    return torch.stack(list(terms)).sum()
