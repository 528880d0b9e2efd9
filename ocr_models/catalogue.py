"""The project's models by name, and networks by their description in a manifest.

`catalogue.yaml` holds one card per model; unknown keys in it, in a manifest's `network` or in a name are errors.
"""

from __future__ import annotations

import dataclasses
import inspect
import shutil
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from artifact import Input, Manifest, charset_record
from command import ModelError

if TYPE_CHECKING:
    import paddle

CATALOGUE = Path(__file__).with_name("catalogue.yaml")
CHARSETS = Path(__file__).with_name("charsets")
# What a charset is called inside an artifact, whichever file it came from.
CHARSET = "charset.txt"

# Imported on first use: reading a card must not cost the seconds that importing paddle takes.
NETWORKS = {
    "DBDetector": "ocr_models.db_detector",
    "DirectionClassifier": "ocr_models.direction_classifier",
    "CRNNRecognizer": "ocr_models.crnn_recognizer",
}


@dataclass(frozen=True)
class ModelCard:
    """What a model of this name is; a manifest starts as a copy of it.

    network: {"type": …, keyword arguments}. charset_file: a file of `ocr_models/charsets`, "" where none is needed.
    space: one more class for the space after the charset's entries.
    """

    name: str
    task: str
    network: dict[str, Any]
    input: Input
    post: dict[str, Any] = field(default_factory=dict)
    charset_file: str = ""
    space: bool = True
    paper: str = ""
    licence: str = ""

    @property
    def charset_path(self) -> Path | None:
        return CHARSETS / self.charset_file if self.charset_file else None

    def manifest(self, folder: Path, kind: str = "checkpoint") -> Manifest:
        """The manifest that a new artifact in `folder` starts with; its charset is copied there as `charset.txt`."""
        charset = None
        if self.charset_path:
            shutil.copyfile(self.charset_path, folder / CHARSET)
            charset = charset_record(folder / CHARSET, space=self.space)
        return Manifest(
            kind=kind,
            task=self.task,
            name=self.name,
            network=dict(self.network),
            input=self.input,
            post=dict(self.post),
            charset=charset,
        )


@cache
def _cards() -> dict[str, ModelCard]:
    records = yaml.safe_load(CATALOGUE.read_text(encoding="utf-8"))
    return {name: _card(name, record) for name, record in records.items()}


def _card(name: str, record: dict[str, Any]) -> ModelCard:
    known = {f.name for f in dataclasses.fields(ModelCard)} - {"name"}
    unknown = sorted(set(record) - known)
    if unknown:
        raise ModelError(f"{CATALOGUE.name}: {name}: expected {', '.join(sorted(known))}, found {', '.join(unknown)}")
    eats = record["input"]
    unknown = sorted(set(eats) - {f.name for f in dataclasses.fields(Input)})
    if unknown:
        raise ModelError(f"{CATALOGUE.name}: {name}: expected only known keys in input, found {', '.join(unknown)}")
    return ModelCard(name=name, **{**record, "input": Input(**eats)})


def names() -> list[str]:
    """Every model's name, in the catalogue's order."""
    return list(_cards())


def card(name: str) -> ModelCard:
    """The card of one model. Raises ModelError for a name that the catalogue does not have."""
    try:
        return _cards()[name]
    except KeyError:
        raise ModelError(f"expected a model name ({' | '.join(names())}), found {name!r}; give one of these") from None


def has_space(entries: int, classes: int, *, model: str | Path, charset: str, advice: str) -> bool:
    """Whether one more class for the space follows a charset of `entries`, so that with the blank all make `classes`.

    model, charset, advice: for the message. Raises ModelError where the charset cannot be the model's.
    """
    if entries not in (classes - 1, classes - 2):
        raise ModelError(
            f"{model}: expected a charset of {classes - 1} entries, or {classes - 2} and the space, for its {classes} "
            f"classes, found {entries} in {charset}; {advice}"
        )
    return entries == classes - 2


def build(network: dict[str, Any]) -> paddle.nn.Layer:
    """The network that a manifest describes, with fresh weights, in train mode.

    network: {"type": "DBDetector" | "DirectionClassifier" | "CRNNRecognizer", keyword arguments of that class}.
    Raises ModelError for an unknown type, an unknown argument or a value that is no positive number.
    """
    arguments = dict(network)
    kind = arguments.pop("type", None)
    if kind not in NETWORKS:
        raise ModelError(f"expected network type {' | '.join(NETWORKS)}, found {kind!r}; use a newer version")
    cls = getattr(import_module(NETWORKS[kind]), kind)
    known = list(inspect.signature(cls.__init__).parameters)[1:]
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise ModelError(f"expected {kind} with {', '.join(known)}, found {', '.join(unknown)}; use a newer version")
    for key, value in arguments.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise ModelError(f"expected a positive number for {kind}'s {key}, found {value!r}; make the model again")
        if "scale" not in key and not isinstance(value, int):
            raise ModelError(f"expected a whole number for {kind}'s {key}, found {value!r}; make the model again")
    return cls(**arguments)
