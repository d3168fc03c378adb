"""What can go wrong, as one tree.

    TerraDistillError
    ├── ConfigError      a setting, a preset or a command-line value
    ├── DataError        a scene folder, an image, a split, a catalogue name
    ├── GeneratorError   a generator folder or hub id
    ├── EvaluationError  a network name, a score table
    └── RunError         a run folder: other settings, another version, no space

Every message is one sentence or two: the value that was given, what was expected, and the remedy. The command line
prints it and exits with code 2; nothing made before is lost.
"""


class TerraDistillError(Exception):
    """The user can mend this: the message says how."""


class ConfigError(TerraDistillError):
    """A setting is unknown, malformed or out of range."""


class DataError(TerraDistillError):
    """The scenes cannot be read, or there are too few of them."""


class GeneratorError(TerraDistillError):
    """A generator folder or hub id cannot be loaded or does not fit."""


class EvaluationError(TerraDistillError):
    """A network or a comparison cannot be evaluated as asked."""


class RunError(TerraDistillError):
    """A run folder cannot be used as asked."""


def reason(error: BaseException) -> str:
    """What an error of a library says, in one line, for a sentence of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
