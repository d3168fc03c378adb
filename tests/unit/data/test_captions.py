import pytest

from terradistill.data.annotations import annotate, parse_notes, written
from terradistill.data.captions import captions_of, class_prompt
from terradistill.data.scenes import DatasetInfo, Scene, SceneFolder
from terradistill.errors import ConfigError

SCENES = (
    Scene("SeaIce/1.png", 0),
    Scene("SeaIce/2.png", 0, captions=("ice on the sea", "floes")),
    Scene("river/1.png", 1, metadata={"gsd_m": 0.5}),
)
FOLDER = SceneFolder(("SeaIce", "river"), SCENES, DatasetInfo("x", gsd_m=10.0), str.encode)
NO_GSD = SceneFolder(("SeaIce", "river"), SCENES, DatasetInfo("x"), str.encode)


def test_own_captions_go_before_the_template() -> None:
    assert captions_of(FOLDER, "an image of {class}") == [
        ["an image of sea ice"],
        ["ice on the sea", "floes"],
        ["an image of river"],
    ]


def test_the_resolution_is_the_scenes_own_else_the_datasets() -> None:
    assert captions_of(FOLDER, "{class} at {gsd} m")[::2] == [["sea ice at 10 m"], ["river at 0.5 m"]]
    assert class_prompt(FOLDER, "river", "{class} at {gsd} m, {{really}}") == "river at 10 m, {really}"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("a satellite image", "lacks {class}"),
        ("", "lacks {class}"),
        ("{klass}", "{klass}"),
        ("{class} {}", "{}"),
        ("{class.__class__}", "only {class}, {gsd}"),
        ("{class", "unbalanced"),
        ("{class} [at {gsd} m", "brackets"),
        ("{class} [in [some] place]", "brackets"),
        ("{class} " + "[x] " * 7, "at most 6"),
    ],
)
def test_a_wrong_template_is_refused(template: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        captions_of(FOLDER, template)
    assert says in str(error.value)
    assert repr(template) in str(error.value)


def test_an_unknown_resolution_is_refused_only_where_it_is_asked_for() -> None:
    assert class_prompt(NO_GSD, "river", "{class}") == "river"
    with pytest.raises(ConfigError, match="unknown of 'x'"):
        class_prompt(NO_GSD, "river", "{class} at {gsd} m")


def test_parts_in_brackets_are_left_out_in_every_way_and_where_they_are_unknown() -> None:
    template = "a [fresh] satellite image of {class} [at {gsd} m] [in month {month}]"
    ice, _, river = captions_of(FOLDER, template)
    assert ice == [
        "a fresh satellite image of sea ice at 10 m",
        "a fresh satellite image of sea ice",
        "a satellite image of sea ice at 10 m",
        "a satellite image of sea ice",
    ]
    assert river[0] == "a fresh satellite image of river at 0.5 m"
    assert class_prompt(NO_GSD, "river", template) == "a fresh satellite image of river"
    dated = SceneFolder(("river",), (Scene("river/1.png", 0, metadata={"month": 7}),), DatasetInfo("x"), str.encode)
    assert captions_of(dated, "{class} [in month {month}]") == [["river in month 7", "river"]]


def test_captions_and_metadata_come_back_from_the_rows_that_are_written_of_them() -> None:
    rows = "".join(written(SCENES))
    assert rows.count("\n") == 2
    bare = [Scene(scene.name, scene.label) for scene in SCENES]
    assert annotate(bare, parse_notes(rows.encode(), "rows")) == (list(SCENES), 2)
