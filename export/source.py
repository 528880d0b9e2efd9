"""Opens what `to_nb` converts: an inference artifact of ours, or a plain published inference folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import artifact
from artifact import Charset, Manifest
from command import ModelError, UsageError
from export import program
from export.program import Program

CHARSET = "charset.txt"


@dataclass(frozen=True)
class Source:
    """An inference model with the record of what it is. parent: digest of its manifest, None where it had none."""

    manifest: Manifest
    program: Program
    charset_path: Path | None
    parent: str | None


def open_source(folder: str | Path, *, task: str | None = None, charset: Path | None = None) -> Source:
    """Read and check an inference model.

    task, charset: for folders without a manifest only, whose record is then that of the project's model for the task.
    Raises ArtifactError, ModelError or UsageError with one line.
    """
    folder = Path(folder)
    if (folder / artifact.MANIFEST).is_file():
        if charset is not None:
            raise UsageError(f"{folder}: expected its own charset, found --charset; leave it out")
        manifest = artifact.load(folder, kind="inference", task=task)
        model = program.read(folder)
        path = folder / manifest.charset.file if manifest.charset else None
        parent = artifact.digest(folder)
    else:
        model = program.read(folder)
        manifest, path = _published(folder, model, task, charset)
        parent = None
    _check(folder, manifest, model)
    return Source(manifest, model, path, parent)


def _published(folder: Path, model: Program, task: str | None, charset: Path | None) -> tuple[Manifest, Path | None]:
    """The record of a folder without one, from the catalogue's card for its task."""
    from ocr_models import catalogue

    if task is None:
        raise UsageError(f"{folder}: expected --task det, cls or rec for a folder without manifest.json, found none")
    card = next(card for card in map(catalogue.card, catalogue.names()) if card.task == task)
    record: Charset | None = None
    path: Path | None = None
    if task == "rec":
        path = charset or card.charset_path
        assert path is not None
        record = _charset_of(folder, path, output_classes(model), given=charset is not None)
    elif charset is not None:
        raise UsageError(f"{folder}: expected --charset for a recognizer only, found one for task {task}; leave it out")
    if record:
        record = replace(record, file=CHARSET)
    manifest = Manifest(
        kind="inference",
        task=task,
        name=folder.resolve().name,
        input=card.input,
        post=card.post,
        charset=record,
        compression={"quantization": "unknown"} if model.quantized else {},
    )
    return manifest, path


def _charset_of(folder: Path, path: Path, classes: int, *, given: bool) -> Charset:
    """The record of the charset file that makes exactly `classes`, with or without the extra space."""
    for space in (True, False):
        record = artifact.charset_record(path, space=space)
        if record.classes == classes:
            return record
    entries = len(artifact.read_charset_file(path))
    advice = "give the one that it was trained with" if given else "give its own with --charset"
    raise ModelError(
        f"{folder}: expected a charset of {classes - 1} entries, or {classes - 2} and the space, for its {classes} "
        f"classes, found {entries} in {path.name}; {advice}"
    )


def output_classes(model: Program) -> int:
    """Size of the last side of the model's output; -1 where the program leaves it open."""
    shape = model.shapes.get(model.outputs[0], ())
    return int(shape[-1]) if shape else -1


def _check(folder: Path, manifest: Manifest, model: Program) -> None:
    """Prove that the program fits its record."""
    if manifest.input is None:
        raise artifact.ArtifactError(f"{folder}: expected an input record in the manifest, found none; export it again")
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ModelError(
            f"{folder}: expected a program with one input and one output, found {len(model.inputs)} and "
            f"{len(model.outputs)}; give a {manifest.task} model"
        )
    # Height and width are the manifest's matter: published programs declare sizes that they do not insist on.
    eats, found = manifest.input.shape, model.shapes[model.inputs[0]]
    if len(found) != 4 or found[1] != eats[1]:
        raise ModelError(
            f"{folder}: expected a {manifest.task} model with input {list(eats)}, found {list(found)}; "
            "give a model of this task"
        )
    rank = len(model.shapes.get(model.outputs[0], ()))
    if rank != {"det": 4, "cls": 2, "rec": 3}[manifest.task]:
        raise ModelError(
            f"{folder}: expected the output of a {manifest.task} model, found one with {rank} dimensions; "
            "give a model of this task"
        )
    classes = output_classes(model)
    if manifest.charset is not None and classes != manifest.charset.classes:
        raise ModelError(
            f"{folder}: expected {manifest.charset.classes} classes as its charset has, found {classes}; "
            "use the charset that the model was trained with"
        )
    model.weights()
