"""What a generator has learned from, and what it has not: shared by the benches."""

from terradistill.data.check import check_scenes
from terradistill.data.scenes import SceneFolder
from terradistill.data.sources import open_scenes
from terradistill.seeding import derive


def require(scenes: SceneFolder, data: str, *, learned: bool) -> SceneFolder:
    """The scenes of DATA of one kind; where there are none, exit with a sentence."""
    if not len(scenes):
        verb = "has" if learned else "has not"
        raise SystemExit(
            f"{data} holds no scene that the generator {verb} learned from, as far as it says: give other DATA."
        )
    return scenes


def unseen_of(learned: frozenset[str], data: str, per_class: int | None = None) -> SceneFolder:
    """The second of `seen_and_unseen`, at least one."""
    return require(seen_and_unseen(learned, data, per_class)[1], data, learned=False)


def seen_and_unseen(
    learned: frozenset[str], data: str, per_class: int | None = None
) -> tuple[SceneFolder, SceneFolder]:
    """The scenes of DATA that something has learned from, and those that it has not.

    Args:
        learned: hashes of the former: `learned_from` of a generator, `learned_by` of the scenes that it drew.
        data: as for `terradistill distill`.
        per_class: at most so many of either, drawn by a hash of their names.
    """
    scenes, _ = check_scenes(open_scenes(data))
    drawn = sorted(range(len(scenes)), key=lambda i: derive(0, "bench", scenes.scenes[i].name))
    sides = []
    for wanted in (True, False):
        counts: dict[int, int] = {}
        side = []
        for i in drawn:
            scene = scenes.scenes[i]
            if scene.hashes.isdisjoint(learned) != wanted and counts.get(scene.label, 0) < (per_class or len(scenes)):
                counts[scene.label] = counts.get(scene.label, 0) + 1
                side.append(i)
        sides.append(scenes.subset(side))
    return sides[0], sides[1]
