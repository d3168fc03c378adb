"""What travels with a distilled set: a dataset card that a hub accepts, and the same images as one parquet file."""

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from terradistill.errors import DataError
from terradistill.files import replacing

# Identifiers that the Hugging Face hub knows, https://huggingface.co/docs/hub/repositories-licenses.
HUB_LICENCES = (
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0",
    "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "gpl-3.0",
    "odbl", "odc-by", "pddl", "etalab-2.0", "openrail",
)  # fmt: skip
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
SETTINGS_THAT_MATTER = (
    ("ipc", "images per class"),
    ("seed", "seed"),
    ("generator", "generator"),
    ("prototypes.rule", "prototype rule"),
    ("sampling.scheduler", "sampler"),
    ("sampling.steps", "sampling steps"),
    ("sampling.spacing", "spacing of the steps"),
    ("sampling.cfg_scale", "classifier-free guidance"),
    ("sampling.cfg_between", "steps that it guides, from share to share"),
    ("sampling.autoguidance", "autoguidance, where the generator has a weaker denoiser"),
    ("sampling.start", "start"),
    ("sampling.prototype_guidance", "kind of prototype guidance"),
    ("sampling.prototype_scale", "prototype guidance"),
    ("sampling.candidates", "candidates per image"),
    ("sampling.selection", "selection"),
    ("sampling.refine_rounds", "rounds of refinement"),
)


def hub_licence(licence: str | None) -> dict[str, str]:
    """The hub's names for a licence: ``{"license": "mit"}``, or ``other`` with the name that was given.

    A licence the hub does not know is never bent into one it does.
    """
    if not licence or licence.strip().lower() in ("unknown", "unspecified", "none stated", "not stated"):
        return {"license": "unknown"}
    slug = _slug(re.sub(r"\(.*?\)", "", licence.lower()).replace("creative commons", "cc").replace("attribution", "by"))
    slug = re.sub(r"-?\b(the|licen[sc]e|version|international)\b", "", slug).strip("-")
    known = {_slug(name): name for name in HUB_LICENCES} | {"cc0": "cc0-1.0", "apache-2": "apache-2.0"}
    return {"license": known[slug]} if slug in known else {"license": "other", "license_name": _slug(licence.lower())}


def dataset_card(
    manifest: dict[str, Any],
    settings: dict[str, Any],
    scores: Sequence[dict[str, Any]],
    audit: dict[str, Any] | None = None,
) -> str:
    """Writes the README of a distilled set.

    Args:
        manifest: as in ``manifest.json``.
        settings: as in ``resolved.json``.
        scores: rows as in ``scores.json``; empty where nothing was evaluated.
        audit: as in ``audit.json``; None where none was made.

    Returns:
        Markdown with a YAML header.
    """
    from huggingface_hub import DatasetCardData

    data = manifest["data"]
    title = " ".join(str(data.get("title") or data.get("name") or "Scenes").split())
    n_images = settings["ipc"] * len(data["classes"])
    name = f"{title}, distilled to {settings['ipc']} images a class"
    url = data.get("url") if str(data.get("url") or "").startswith(("https://", "http://")) else None
    licence: dict[str, Any] = dict(hub_licence(data.get("licence")))
    if url and licence["license"] == "other":
        licence["license_link"] = url
    header = DatasetCardData(
        **licence,
        pretty_name=name,
        task_categories=["image-classification"],
        size_categories=[next((word for bound, word in SIZES if n_images < bound), "n>1M")],
        tags=["dataset-distillation", "synthetic", "remote-sensing", "earth-observation", "terradistill"],
    )
    source = f"[{_md(title)}](<{url.replace('>', '%3E').replace('<', '%3C')}>)" if url else _md(title)
    kind = "synthetic" if data.get("synthetic") else "real"
    return f"""---
{header.to_yaml()}
---

# {_md(name)}

{n_images:,} synthetic scenes in {len(data["classes"])} classes, made to train a classifier
in place of the {data.get("n_train") or 0:,} {kind} images that they were distilled from.
No image is a photograph of a place.

Classes: {", ".join(_md(name) for name in data["classes"])}.

## Source and licence

- Source: {source}
- Licence of the source: {_md(data.get("licence") or "not stated; ask its owner before you share what derives from it")}
- Please cite: {_md(data.get("citation") or "the source above")}
{_before(manifest)}
What was learned from any of them stays under their terms: check them before you use or share these images.

## How it was made

{_provenance(manifest)}
{_how(settings)}

{_settings_table(settings)}

## What it is worth

{_score_table(scores)}

## How to load it

```python
from datasets import load_dataset
scenes = load_dataset("imagefolder", data_dir="distilled", split="train")
image, label = scenes[0]["image"], scenes[0]["label"]
```

```python
from torchvision.datasets import ImageFolder
scenes = ImageFolder("distilled")
image, label = scenes[0]
```

## Limits

- **Not private.** The images come from a model that has learned from real scenes, and a few may repeat them.
  {_audited(audit)}
- **Not a replacement.** The scores hold for the networks, the recipe and the test split above, and for nothing else.
- **Known failings.** Rare and mixed scenes are left out first, fine structure is softened,
  and the source's biases of place and season remain.
- **Not evidence.** Do not measure, map or count anything in these images: nothing in them exists.
"""


def _audited(audit: dict[str, Any] | None) -> str:
    """What the audit says, in a sentence."""
    if audit is None:
        return "Audit the set before you publish it."
    near = [f"`{name}`" for name in audit["flagged"]]
    told = f"{len(near)} of its {audit['scenes']} images" if near else "none of its images"
    names = f" ({', '.join(near[:10])}{', …' if len(near) > 10 else ''})" if near else ""
    return f"The audit for near-copies flagged {told}{names}; it finds what it looks for, and guarantees nothing."


def _how(settings: dict[str, Any]) -> str:
    """What the sampler did, in a sentence or two."""
    sampling = settings["sampling"]
    prototype = "a cluster's mean" if settings["prototypes"]["rule"] == "centroid" else "a real scene"
    if sampling["start"] == "prototype":
        drawn = f"draws from the noised latent of {prototype}, one a cluster"
    elif sampling["prototype_scale"]:
        drawn = f"is led towards {prototype}, one a cluster"
    else:
        drawn = "draws from the prompt alone"
    kept = {
        "margin": "the surest of each are kept",
        "herding": "those are kept that together follow the class",
        "coverage": "those are kept that together are like all of the class, and surely of it",
    }
    several = sampling["candidates"] > 1
    return f"A latent diffusion model {drawn}." + (
        f" Of {sampling['candidates']} candidates an image, judged by a classifier, {kept[sampling['selection']]}."
        if several
        else ""
    )


def write_parquet(folder: Path, out: Path) -> None:
    """Writes a scene folder as one parquet file that ``datasets.load_dataset("parquet")`` opens with images decoded.

    Args:
        folder: ``<class>/*.png``.
        out: file to write, whole or not at all.

    Raises:
        DataError: if the folder holds no images.
    """
    import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
    import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]
    from datasets import ClassLabel, Features, Image

    paths = sorted(folder.glob("*/*.png"))
    if not paths:
        raise DataError(f"{folder} holds no <class>/*.png images: expected the distilled/ folder of a finished run.")
    classes = sorted({path.parent.name for path in paths})
    features = Features({"image": Image(), "label": ClassLabel(names=classes)})
    columns = {
        "image": [{"bytes": path.read_bytes(), "path": f"{path.parent.name}/{path.name}"} for path in paths],
        "label": [classes.index(path.parent.name) for path in paths],
    }
    with replacing(out) as temporary:
        # The features' own schema carries the metadata that tells a struct of bytes from an image.
        pq.write_table(pa.table(columns, schema=features.arrow_schema), temporary)


def _before(manifest: dict[str, Any]) -> str:
    """What the generator had learned from before it saw the source."""
    known = [f"{_md(title)} ({_md(licence)})" for title, licence in (manifest.get("generator_sources") or {}).items()]
    return f"- The generator had learned before from {', '.join(known)}\n" if known else ""


def _provenance(manifest: dict[str, Any]) -> str:
    sha = f" ({manifest['git_sha'][:12]})" if manifest.get("git_sha") else ""
    # The card travels: paths of the machine that it was made on are cut to their last part.
    words = shlex.split(manifest.get("command") or "terradistill distill")
    command = shlex.join(word.rstrip("/").rsplit("/", 1)[-1] for word in words).replace("`", "'")
    return f"With TerraDistill {manifest.get('terradistill') or ''}{sha}: `{command}`."


def _settings_table(settings: dict[str, Any]) -> str:
    rows = []
    for key, meaning in SETTINGS_THAT_MATTER:
        value: Any = settings
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            rows.append(f"| {meaning} | `{key}` | {_md(value if isinstance(value, str) else json.dumps(value))} |")
    return "\n".join(["| what | setting | value |", "|---|---|---|", *rows])


def _score_table(scores: Sequence[dict[str, Any]]) -> str:
    if not scores:
        return "Not evaluated: nothing is known yet about how well this set trains a classifier."
    lines = ["| trained on | network | labels | images | OA % | runs |", "|---|---|---|---:|---:|---:|"]
    for row in scores:
        network = f"{row['network']}{', pretrained' if row.get('pretrained') else ''}"
        spread = (
            f" ± {100 * row['oa_std']:.1f}" if row.get("oa_std") is not None and (row.get("n_seeds") or 1) > 1 else ""
        )
        cells = (
            row["method"],
            network,
            row.get("labels") or "hard",
            f"{row['n_train']:,}",
            f"{100 * row['oa_mean']:.1f}{spread}",
            row.get("n_seeds") or 1,
        )
        lines.append("| " + " | ".join(_md(cell) for cell in cells) + " |")
    lines += [
        "",
        "Overall accuracy on the held-out real test images, mean ± standard deviation; one recipe for every row.",
    ]
    return "\n".join(lines)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text).strip("-")


def _md(text: Any) -> str:
    """Text as Markdown shows it literally: names of classes and data are not ours."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", " ".join(str(text).split()))
