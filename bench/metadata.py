"""Does a generator heed the numbers it is told? Denoising loss of unseen scenes with right, shuffled and no metadata.

    python bench/metadata.py GENERATOR DATA [DATA ...] [--template "a satellite image of {class}[ at {gsd} m]"]
    python bench/metadata.py GENERATOR DATA --captions

The same scenes, times and noise for all three; mean ± standard deviation over seeds of times, noise and shuffling, and
the gap to the right ones, paired by seed, with its 95 % interval. Seeds are of one generator. Shuffled numbers are
those of other scenes that have other ones, of all DATA together, so DATA of different resolutions are needed. With a
template the numbers stand in the caption, for a generator that was trained so (`--set data.caption_template=…`).

With `--captions` it is the captions of the scenes that are told instead: one of its own, one of another scene of its
class, one of another class, the prompt of its class, and none.
"""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from held_out import unseen_of

from terradistill.data.captions import class_prompt
from terradistill.data.images import decode, resize
from terradistill.data.scenes import resized_metadata
from terradistill.evaluation.metrics import paired
from terradistill.hardware import find_hardware
from terradistill.models.generator import Generator
from terradistill.models.places import learned_from
from terradistill.settings import Settings
from terradistill.training.diffusion import Noising, denoising_loss
from terradistill.training.latents import encode_scenes
from terradistill.training.told import Told

BATCH = 64
Numbers = Mapping[str, float]


def shuffled(rows: Sequence[Numbers], seed: int) -> list[Numbers]:
    """For each scene the numbers of one that has others."""
    rng, found = np.random.default_rng(seed), []
    for row in rows:
        others = [other for other in rows if other != row]
        if not others:
            raise SystemExit("All scenes have the same numbers: give DATA of several resolutions, or with metadata.")
        found.append(others[rng.integers(len(others))])
    return found


def captions_shuffled(captions: Sequence[Sequence[str]], classes: Sequence[str], seed: int) -> dict[str, list[str]]:
    """For each scene a caption of its own, of another scene of its class, and of one of another class."""
    if not all(captions):
        raise SystemExit("Scenes have no captions: give DATA with captions.jsonl inside, or beside a zip.")
    rng = np.random.default_rng(seed)
    one = [texts[int(rng.integers(len(texts)))] for texts in captions]
    of = np.array(classes)
    peers = [np.flatnonzero((of == name) & (np.arange(len(of)) != i)) for i, name in enumerate(classes)]
    others = [np.flatnonzero(of != name) for name in classes]
    if not all(len(each) for each in (*peers, *others)):
        raise SystemExit("There are too few scenes: expected two classes, and two scenes of each (--per-class 2).")
    return {
        "right": one,
        "shuffled": [one[rng.choice(each)] for each in peers],
        "another": [one[rng.choice(each)] for each in others],
    }


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("generator")
    parser.add_argument("data", nargs="+")
    parser.add_argument("--per-class", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--template", help="of captions that hold the numbers")
    kind.add_argument("--captions", action="store_true", help="compare captions of people instead")
    asked = parser.parse_args()

    hardware = find_hardware()
    generator = Generator.load(asked.generator).to(hardware.device).frozen()
    if generator.metadata_encoder is None and asked.template is None and not asked.captions:
        raise SystemExit(f"{asked.generator} has learned no metadata: give the --template that it was trained with.")
    classes, rows, captions, pixels = [], [], [], []
    for data in asked.data:
        unseen = unseen_of(learned_from(asked.generator), data, asked.per_class)
        plain = replace(unseen, info=replace(unseen.info, gsd_m=None))  # numbers come with each scene
        for i, scene in enumerate(unseen.scenes):
            classes.append((plain, unseen.classes[scene.label]))
            rows.append(resized_metadata(scene, unseen.info, generator.resolution))
            captions.append(scene.captions)
            pixels.append(resize(decode(unseen.read(i)), generator.resolution))
    latents = encode_scenes(generator, np.stack(pixels), n_views=1, hardware=hardware).means()

    def told(numbers: Sequence[Numbers]) -> Told:
        """The scenes in their words, with these numbers."""
        encoder, template = generator.metadata_encoder, asked.template or Settings().data.caption_template
        said = [row if asked.template else {} for row in numbers]
        prompts = [class_prompt(*of_class, template, row) for of_class, row in zip(classes, said, strict=True)]
        if encoder is None or asked.template:
            return Told(generator.tokens(prompts))
        return Told(generator.tokens(prompts), encoder.table([encoder.sayable(row) for row in numbers]))

    def kinds(seed: int) -> dict[str, Told]:
        """What is told, the right thing first."""
        if not asked.captions:
            wrong: list[Numbers] = [{}] * len(rows)
            return {"right": told(rows), "shuffled": told(shuffled(rows, seed)), "none": told(wrong)}
        prompts = [class_prompt(*of_class, Settings().data.caption_template) for of_class in classes]
        said = {**captions_shuffled(captions, prompts, seed), "class": prompts, "none": [""] * len(prompts)}
        return {name: Told(generator.tokens(texts)) for name, texts in said.items()}

    found: dict[str, list[float]] = {}
    for seed in range(asked.seeds):
        for name, known in kinds(seed).items():
            losses = []
            for start in range(0, len(latents), BATCH):
                part = slice(start, start + BATCH)
                rng = torch.Generator().manual_seed(1000 * seed + start)
                schedule = generator.parameterisation
                noising = Noising.draw(schedule, latents[part], rng)
                loss = denoising_loss(generator, schedule, latents[part], known.some(part), noising, hardware, None)
                losses.append(float(loss) * len(latents[part]))
            found.setdefault(name, []).append(sum(losses) / len(latents))
    print(f"{len(latents)} unseen scenes, {asked.seeds} seeds")
    for name, values in found.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        mean, half = paired(100 * (np.array(values) / np.array(found["right"]) - 1))
        gap = f"  {mean:+.2f} ± {half:.2f} % of right" if name != "right" else ""
        print(f"  {name:9} {statistics.fmean(values):.5f} ± {spread:.5f}{gap}")


if __name__ == "__main__":
    main()
