"""Captions for a dataset that has none, written by a vision-language model."""

import json
from pathlib import Path

from terradistill.data.annotations import parse_notes
from terradistill.data.check import check_scenes
from terradistill.data.images import decode
from terradistill.data.sources import open_scenes
from terradistill.errors import DataError
from terradistill.models.captioner import Captioner
from terradistill.run import Progress


def write_captions(
    data: str | Path, out: Path, captioner: Captioner, *, batch_size: int = 8, progress: Progress | None = None
) -> int:
    """Describe every scene of DATA that `out` does not describe yet.

    Args:
        data: as everywhere.
        out: JSON lines with `file_name` and `captions`, for `--captions`; a line a scene is added, so that an
            interrupted call goes on.
        captioner: says what is in a scene; its name and what it was asked stand in every line.
        batch_size: scenes at a time.
        progress: called with scenes done and scenes in all.

    Returns:
        The number of captions written by this call.

    Raises:
        DataError: `out` holds what another model said, or was asked.
    """
    scenes, _ = check_scenes(open_scenes(data))
    asked = {"model": captioner.name, "asked": captioner.instruction}
    content = _whole_lines(out) if out.exists() else b""
    known = parse_notes(content, str(out))
    before = [json.loads(line) for line in content.splitlines() if line.strip()]
    if any(row | asked != row for row in before):
        raise DataError(f"{out} holds captions of another model, or asked for otherwise: give another --out.")
    left = [i for i, scene in enumerate(scenes.scenes) if scene.name not in known]
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a", encoding="utf-8", errors="backslashreplace") as file:
        for start in range(0, len(left), batch_size):
            batch = left[start : start + batch_size]
            texts = captioner.describe([decode(scenes.read(i)) for i in batch])
            for i, text in zip(batch, texts, strict=True):
                row = {"file_name": scenes.scenes[i].name, "captions": [text] if text else [], **asked}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            if progress:
                progress(len(scenes) - len(left) + start + len(batch), len(scenes))
    return len(left)


def _whole_lines(path: Path) -> bytes:
    """The file without a last line that a kill cut short, which is also taken off the disk."""
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        path.write_bytes(whole)
    return whole
