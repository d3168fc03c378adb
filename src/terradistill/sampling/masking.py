"""In-painting: what is known of an image stays, the rest is drawn."""

from torch import Tensor

from terradistill.models.parameterisation import Parameterisation
from terradistill.sampling.sampler import Guidance, Predict, Step


def keep_known(known: Tensor, drawn: Tensor, schedule: Parameterisation) -> Guidance:
    """Every prediction is told the truth where it is known; solvers carry it from noise to the image by themselves. [ours]

    Put it last in the list.

    Args:
        known: scaled latents float (N, C, h, w).
        drawn: float (N, 1, h, w), 1 where an image is drawn and 0 where it stays; between, a share of either.
        schedule: the generator's.
    """

    def guide(predict: Predict) -> Predict:
        def guided(step: Step) -> tuple[Tensor, Tensor]:
            z, output = predict(step)
            t = step.t.round().long()
            share, truth = (each[step.rows].to(z) for each in (drawn, known))
            z0 = schedule.z0(z, output, t)
            return z, schedule.output(z, truth + share * (z0 - truth), t)

        return guided

    return guide
