"""How the report says things: numbers with their units, names, and the verdict."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from terradistill.evaluation.method import Method

Row = Mapping[str, Any]

METHOD_NAMES = {
    "distilled": "distilled",
    "random": "random real",
    "rded": "stitched real crops (RDED)",
    "full": "all real",
}


def headline(scores: Sequence[Row]) -> Row | None:
    """The distilled row that speaks for the run: the first with hard labels, else the first."""
    distilled = [row for row in scores if row["method"] == "distilled"]
    return next((row for row in distilled if row.get("labels") in (None, "hard")), distilled[0] if distilled else None)


def rivals(scores: Sequence[Row], lead: Row) -> dict[str, Row]:
    """Rows to hold a distilled row against, by method: same data, network and recipe, as many images a class."""
    peers = [row for row in scores if _board(row) == _board(lead)]
    peers = [row for row in peers if row["method"] == "full" or row.get("ipc") == lead.get("ipc")]
    return {row["method"]: row for row in reversed(peers)} | {"distilled": lead}


def verdict(scores: Sequence[Row]) -> tuple[str, str]:
    """What the run is worth, in two plain sentences: the accuracies, then what they mean.

    A difference counts only where it exceeds the spread of the runs: the root of the two variances' sum (ours).
    """
    lead = headline(scores)
    if lead is None:
        return "This set has not been evaluated: nothing is known yet about how well it trains a classifier.", ""
    network = f"{'a pretrained ' if lead.get('pretrained') else ''}{lead['network']}"
    labels = "" if lead.get("labels") in (None, "hard") else f" with {lead['labels']} labels"
    others, against = [], rivals(scores, lead)
    if random := against.get("random"):
        others.append(f"{random['n_train']:,} random real images to {accuracy(random)} %")
    if full := against.get("full"):
        others.append(f"the full {full['n_train']:,} to {accuracy(full)} %")
    images = f"{lead['n_train']:,} synthetic image{'' if lead['n_train'] == 1 else 's'}{labels}"
    sentence = "; ".join(
        [f"{images} train {network} to {accuracy(lead)} % overall accuracy", *([", ".join(others)] if others else [])]
    )
    if random is None:
        return f"{sentence}.", "No random real images were evaluated: nothing says whether distilling was worth it."
    gain = lead["ior"] if lead.get("ior") is not None else lead["oa_mean"] - random["oa_mean"]
    if abs(gain) <= math.hypot(lead.get("oa_std") or 0.0, random.get("oa_std") or 0.0):
        meaning = f"no clear difference to random real images of the same number (IOR {points(gain)} points"
        return f"{sentence}.", f"That is {meaning}, within the spread of the runs)."
    worth = "more" if gain > 0 else "less"
    meaning = f"worth {worth} than random real images of the same number (IOR {points(gain)} points)"
    return f"{sentence}.", f"The distilled set is {meaning}."


def audited(found: Mapping[str, Any]) -> str:
    """What an audit found, in a few plain sentences."""
    near, n = found["flagged"], found["scenes"]
    if near:
        named = ", ".join(near[:8]) + (" …" if len(near) > 8 else "")
        said = f"{len(near)} of {n:,} images may be near-copies of real scenes: {named}."
    else:
        said = f"None of {n:,} images comes near enough to a real scene to be flagged."
    beyond = sum(row["excess"] > 0 and not row["flagged"] for row in found.get("images", ()))
    if beyond:
        said += f" {beyond} {'is' if beyond == 1 else 'are'} more like one than 99 % of unseen scenes are, by little."
    said += _published(found.get("nn_ssim") or {})
    told = found.get("membership") or {}
    if "fine" in told:  # detail tells most, and is named before looking
        low, high = told["fine"]["interval"]
        said += (
            " Likeness to the set in fine detail tells the scenes that were learned from and others apart with an area "
            f"under the curve of {told['fine']['auc']:.2f} ({low:.2f} to {high:.2f}); 0.50 is not at all."
        )
    return f"{said} An audit finds what it looks for and guarantees nothing."


def _published(nn_ssim: Mapping[str, float]) -> str:
    if "made" not in nn_ssim:
        return ""
    beside = f"; {nn_ssim['unseen']:.3f} for real scenes that were not learned from" if "unseen" in nn_ssim else ""
    said = "Mean similarity to the five most similar real scenes (NN-SSIM, at 64 pixels)"
    return f" {said}: {nn_ssim['made']:.3f}{beside}."


def boards(scores: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Score rows that may stand in one table, under the name of their network."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in scores:
        groups.setdefault(_board(row), []).append(row)
    return [(board_name(rows[0]), rows) for rows in groups.values()]


def _board(row: Row) -> tuple[Any, ...]:
    return row.get("dataset"), row["network"], bool(row.get("pretrained")), row.get("resolution")


def board_name(row: Row) -> str:
    """``convnet3, pretrained, 64 px``."""
    side = f", {row['resolution']} px" if row.get("resolution") else ""
    return f"{row['network']}{', pretrained' if row.get('pretrained') else ''}{side}"


def board_title(row: Row) -> str:
    """``eurosat, convnet3, pretrained, 64 px``."""
    return f"{row['dataset']}, {board_name(row)}"


def method_name(row: Row) -> str:
    """``random real``, or ``distilled, soft labels`` where the labels are not the plain ones."""
    method = Method.read(str(row["method"]))
    name = str(row.get("title") or METHOD_NAMES.get(method.name, method.name))
    if (k := method.formation) > 1:
        name += f", {k} × {k} in one"
    return name if row.get("labels") in (None, "hard") else f"{name}, {row['labels']} labels"


def accuracy(row: Row) -> str:
    """``58.3 ± 0.9`` in per cent; without a spread where only one run was made."""
    alone = row.get("oa_std") is None or len(row.get("oa") or (0, 0)) < 2
    return f"{100 * row['oa_mean']:.1f}" + ("" if alone else f" ± {100 * row['oa_std']:.1f}")


def duration(seconds: float) -> str:
    """``0.4 s``, ``41 s``, ``12 min 30 s`` or ``3 h 05 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def points(share: float) -> str:
    """A difference of shares in percentage points, with its sign: ``+1.8`` or ``−1.8``."""
    return f"{100 * share:+.1f}".replace("-", "−")


def size(n_bytes: float) -> str:
    """``640 B``, ``1.2 MB``: powers of 1000, as file managers count."""
    units = ["TB", "GB", "MB", "kB", "B"]
    while n_bytes >= 999.5 and len(units) > 1:
        n_bytes /= 1000
        units.pop()
    return f"{n_bytes:.0f} {units[-1]}" if n_bytes >= 9.95 or units[-1] == "B" else f"{n_bytes:.1f} {units[-1]}"


def spoken(name: str) -> str:
    """``held_out_loss`` as one says it."""
    return "PSNR (dB)" if name == "psnr" else name.replace("_", " ")


def shorten(text: str, length: int = 26) -> str:
    """Cuts a name that would crush the plot beside it."""
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
