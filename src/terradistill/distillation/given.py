"""A classifier that the user gives, as the teacher of soft labels and the eye of audit and fidelity."""

from collections.abc import Sequence

from terradistill.data.scenes import SceneFolder
from terradistill.errors import EvaluationError
from terradistill.models.scene_classifier import SceneClassifier
from terradistill.settings import Settings


def given_teacher(settings: Settings, classes: Sequence[str], judging: SceneFolder) -> SceneClassifier | None:
    """The classifier of `evaluation.teacher`, if one is given.

    Args:
        settings: of the run.
        classes: that it must know, in their order.
        judging: scenes that it must not have learned from.

    Raises:
        EvaluationError: it is no classifier, of other classes, or has learned from what judges.
    """
    if settings.evaluation.teacher is None:
        return None
    given = SceneClassifier.load(settings.evaluation.teacher)
    if list(given.classes) != list(classes):
        raise EvaluationError(
            f"The teacher {settings.evaluation.teacher} knows {', '.join(given.classes[:3])}, … ({len(given.classes)} "
            f"classes): expected those of the data, {', '.join(classes[:3])}, … ({len(classes)})."
        )
    seen = [scene for scene in judging.scenes if not scene.hashes.isdisjoint(given.learned_from)]
    if seen:
        raise EvaluationError(
            f"The teacher {settings.evaluation.teacher} has learned from {len(seen)} of the scenes that judge: train "
            "one on the same split (--split-file)."
        )
    return given
