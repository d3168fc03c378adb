from pathlib import Path

from terradistill.report.table import write_table
from tests.unit.report.conftest import score


def test_methods_at_several_numbers_of_images_are_plotted_beside_their_table(tmp_path: Path) -> None:
    rows = [
        score(method, 0.5, 20, 2, ipc=ipc) | {"n_classes": 2, "bytes": 100 * ipc}
        for method, ipcs in {"random": (1, 5, 10), "default": (1, 5, 10), "dpd": (10,)}.items()
        for ipc in ipcs
    ]
    full = score("full", 0.9, 100, 2, ipc=None) | {"n_classes": 2}
    few = [row | {"dataset": "other"} for row in rows if row["ipc"] != 5]
    write_table([*rows, full, *few], tmp_path)
    assert [path.name for path in tmp_path.glob("*.svg")] == ["toy-convnet3-16-px.svg"]
    plot, page = (tmp_path / "toy-convnet3-16-px.svg").read_text(), (tmp_path / "scoreboard.md").read_text()
    assert ("default" in plot, "full" in plot, "dpd" in plot) == (True, True, False)
    assert page.count(".svg") == page.count("(toy-convnet3-16-px.svg)") == 1
