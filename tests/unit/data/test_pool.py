from pathlib import Path

from terradistill.data.check import check_scenes
from terradistill.data.drawn import draw_scenes
from terradistill.data.pool import pool_scenes
from terradistill.data.sources import open_scenes


def test_folders_are_pooled_with_their_classes_words_and_resolution(tmp_path: Path) -> None:
    folders = [
        open_scenes(draw_scenes(tmp_path / name, per_class=3, size=32, n_classes=2, seed=seed))
        for seed, name in enumerate(("one", "two"))
    ]
    pooled, report = check_scenes(pool_scenes(folders))
    assert report.n_kept == 12
    keys = [folder.info.name for folder in folders]
    keys = keys if keys[0] != keys[1] else [f"{name}.{i}" for i, name in enumerate(keys)]
    assert pooled.classes == tuple(sorted(f"{key}-{name}" for key in keys for name in folders[0].classes))
    for index, scene in enumerate(pooled.scenes):
        key, _, inside = scene.name.partition("/")
        source = folders[keys.index(key)]
        place = [other.name for other in source.scenes].index(inside)
        assert pooled.read(index) == source.read(place)
        own = source.classes[source.scenes[place].label]
        assert pooled.classes[scene.label] == f"{key}-{own}"
        assert pooled.readable(pooled.classes[scene.label]) == source.readable(own)
        assert scene.captions == source.scenes[place].captions
        assert scene.metadata.get("gsd_m") == source.info.gsd_m
    assert pool_scenes(folders[:1]) is folders[0]
