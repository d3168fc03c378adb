"""What several commands take, said once."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from terradistill.errors import ConfigError

if TYPE_CHECKING:
    from terradistill.settings import Settings

Data = Annotated[
    str,
    typer.Argument(metavar="DATA", help="Folder of class folders, its zip, shards, hub id, catalogue name, or sample."),
]
Pooled = Annotated[list[str], typer.Argument(metavar="DATA...", help="As for distill; several are pooled.")]
Out = Annotated[Path, typer.Option("--out", help="Run folder; the same command goes on with it.", show_default=False)]
NewFolder = Annotated[Path, typer.Option("--out", help="A new or empty folder.", show_default=False)]
Preset = Annotated[
    list[str] | None, typer.Option("--preset", help="Preset by name; repeat to combine, the later wins.")
]
Config = Annotated[Path | None, typer.Option("--config", help="TOML file with settings.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="One setting, such as sampling.steps=30.")
]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of everything but the split.")]
Limit = Annotated[int | None, typer.Option("--limit", help="Use so many images a class.")]
Fraction = Annotated[float | None, typer.Option("--train-fraction", help="Share of each class that is learned from.")]
SplitFile = Annotated[
    Path | None, typer.Option("--split-file", help="JSON with train and test lists of class/file names.")
]
Bands = Annotated[
    list[str] | None, typer.Option("--bands", metavar="ARRAY=A,B,C", help="Bands of an array of several; repeatable.")
]
Captions = Annotated[Path | None, typer.Option("--captions", help="JSON lines with file_name and captions.")]
Against = Annotated[
    str, typer.Option("--against", metavar="DATA", help="Real scenes; what was not learned from is the exam.")
]
Shard = Annotated[
    str | None,
    typer.Option("--shard", metavar="I/N", help="One of N processes, from 0, that share the run folder's work."),
]
HideReal = Annotated[bool, typer.Option("--hide-real", help="Show no real scene in what is made.")]
GeneratorOption = Annotated[
    str | None,
    typer.Option("--generator", help="Name, folder or hub id of what is adapted to DATA.", show_default="base-128"),
]
Beside = Annotated[
    str | None,
    typer.Option("--generator", help="Name, folder or hub id of what it is trained beside.", show_default="base-128"),
]
Drawing = Annotated[
    str | None,
    typer.Option("--generator", help="Name, folder, run folder or hub id of what draws.", show_default="base-128"),
]
Metadata = Annotated[
    str | None, typer.Option("--set-metadata", metavar="A=B,C=D", help="Numbers that it has learned, such as gsd_m=10.")
]
FromScratch = Annotated[
    bool, typer.Option("--from-scratch", help="Learn from DATA alone instead of adapting a generator.")
]


def settings_from(
    preset: list[str] | None,
    config: Path | None,
    set_: list[str] | None,
    *,
    from_scratch: bool = False,
    generator: str | None = None,
    **given: Any,
) -> "Settings":
    """The settings that a command asks for; what is not given is left to presets and files.

    Raises:
        ConfigError: a setting is wrong, or a generator is named and not wanted.
    """
    from terradistill.config import load_settings

    if from_scratch and generator is not None:
        raise ConfigError(f"--from-scratch and --generator {generator} exclude each other: give one of them.")
    alone = ["generator=none"] if from_scratch else []
    return load_settings(preset, config, [*(set_ or []), *alone], generator=generator, **given)
