"""Does a generator heed the numbers it is told? Denoising loss of unseen scenes with right, shuffled and no metadata.

    python bench/metadata.py GENERATOR DATA [DATA ...] [--seeds 3]

The same scenes, times and noise for all three; mean ± standard deviation over seeds of times, noise and shuffling.
Shuffled numbers are those of other scenes of all DATA together, so DATA of different resolutions tell most.
"""

import argparse
import statistics

import numpy as np
import torch
from held_out import unseen_of

from terradistill.data.captions import class_prompt
from terradistill.data.images import decode, resize
from terradistill.data.scenes import resized_metadata
from terradistill.hardware import find_hardware
from terradistill.models.generator import Generator
from terradistill.models.places import learned_from
from terradistill.settings import Settings
from terradistill.training.diffusion import Noising, Told, denoising_loss
from terradistill.training.latents import encode_scenes

BATCH = 64


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("generator")
    parser.add_argument("data", nargs="+")
    parser.add_argument("--per-class", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()

    hardware = find_hardware()
    generator = Generator.load(asked.generator).to(hardware.device).frozen()
    encoder = generator.metadata_encoder
    if encoder is None:
        raise SystemExit(f"{asked.generator} has learned no metadata.")
    prompts, rows, pixels = [], [], []
    for data in asked.data:
        unseen = unseen_of(learned_from(asked.generator), data, asked.per_class)
        template = Settings().data.caption_template
        for i, scene in enumerate(unseen.scenes):
            prompts.append(class_prompt(unseen, unseen.classes[scene.label], template))
            rows.append(encoder.sayable(resized_metadata(scene, unseen.info, generator.resolution)))
            pixels.append(resize(decode(unseen.read(i)), generator.resolution))
    latents = encode_scenes(generator, np.stack(pixels), n_views=1, hardware=hardware).means()
    tokens, right = generator.tokens(prompts), encoder.table(rows)
    found: dict[str, list[float]] = {"right": [], "shuffled": [], "none": []}
    for seed in range(asked.seeds):
        mixed = right[torch.randperm(len(right), generator=torch.Generator().manual_seed(seed))]
        for name, numbers in (("right", right), ("shuffled", mixed), ("none", torch.full_like(right, torch.nan))):
            losses = []
            for start in range(0, len(latents), BATCH):
                part = slice(start, start + BATCH)
                told = Told(tokens[part], numbers[part])
                rng = torch.Generator().manual_seed(1000 * seed + start)
                schedule = generator.parameterisation
                noising = Noising.draw(schedule, latents[part], rng)
                loss = denoising_loss(generator, schedule, latents[part], told, noising, hardware, None)
                losses.append(float(loss) * len(latents[part]))
            found[name].append(sum(losses) / len(latents))
    print(f"{len(latents)} unseen scenes, {asked.seeds} seeds")
    for name, values in found.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        more = [value / base - 1 for value, base in zip(values, found["right"], strict=True)]
        gap = f"  {100 * statistics.fmean(more):+.2f} % of right" if name != "right" else ""
        print(f"  {name:9} {statistics.fmean(values):.5f} ± {spread:.5f}{gap}")


if __name__ == "__main__":
    main()
