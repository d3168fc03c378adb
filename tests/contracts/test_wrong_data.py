"""Every kind of wrong DATA ends in one clear sentence that names the value."""

import re
from pathlib import Path
from typing import Any, Literal

import pytest

from terradistill.data.captions import captions_of
from terradistill.data.check import check_scenes, require_enough
from terradistill.data.sources import open_scenes
from terradistill.data.splits import load_split, split_scenes
from terradistill.errors import TerraDistillError
from tests.wrong_inputs import ARGUMENTS, WRONG_DATA, MakeInput

TRACEBACK_WORDS = re.compile(r'Traceback|File "|line \d+, in |<class|0x[0-9a-f]{6}|object at|Errno|\n')


def use(
    data: str | Path,
    *,
    captions: Path | None = None,
    split: str | None = None,
    split_file: Path | None = None,
    on_corrupt: Literal["skip", "refuse"] = "skip",
    template: str = "a satellite image of {class}",
    ipc: int = 2,
) -> None:
    """The steps that every command takes before it learns anything."""
    folder, report = check_scenes(open_scenes(data, split=split, captions=captions), on_corrupt=on_corrupt)
    sides = load_split(split_file, folder, dropped=report.dropped) if split_file else split_scenes(folder, 0.5, 0)
    require_enough(sides[0], ipc)
    captions_of(sides[0], template)


@pytest.mark.parametrize("make", [make for _, make in WRONG_DATA], ids=[name for name, _ in WRONG_DATA])
def test_wrong_data_is_answered_in_one_clear_sentence(make: MakeInput, tmp_path: Path) -> None:
    arguments: dict[str, Any] = make(tmp_path)
    says = arguments.pop("says")
    assert set(arguments) <= set(ARGUMENTS)
    with pytest.raises(TerraDistillError) as raised:
        use(**arguments)
    message = str(raised.value)
    assert says in message
    assert not TRACEBACK_WORDS.search(message)
    shown = message.replace(str(tmp_path), "")
    assert shown.endswith("."), message
    assert len(re.findall(r"[.?!](?:\s|$)", shown)) <= 2, message
    assert len(shown) <= 400, message
