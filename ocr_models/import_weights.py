"""Make a checkpoint artifact of weights that PaddleOCR trained.

    python ocr_models/import_weights.py ch_ppocr_mobile_v2.0_det_infer --out out/det
    python ocr_models/import_weights.py best_accuracy.pdparams --model rec_mv3_crnn_en --charset keys.txt --out out/rec
    python ocr_models/import_weights.py https://…/ch_ppocr_mobile_v2.0_cls_infer.tar --sha256 … --out out/cls

SOURCE is a .pdparams file or a published inference folder, as it is, in an archive or behind an https address. The
model is found by what SOURCE holds unless --model names it. A recognizer keeps its own number of classes: give the
charset that it was trained with, when it is not the default one. Of a distilled checkpoint the Student is taken unless
--branch names another network. Weights that the network has no place for are an error unless --ignore names them: a
checkpoint of another network must not pass for this one.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import artifact
import command
from ocr_models import import_source

if TYPE_CHECKING:
    from ocr_models.catalogue import ModelCard
    from ocr_models.import_source import Source

# PaddleOCR pads every line to 32x320 at least, so its recognizers have never seen a narrower input.
MIN_WIDTH_PX = 320


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="import_weights.py", description=(__doc__ or "").splitlines()[0], epilog="Exit 0 done, 2 bad input."
    )
    parser.add_argument(
        "source", metavar="SOURCE", help="a .pdparams file, an inference folder, an archive with one, or an https URL"
    )
    parser.add_argument("--model", metavar="NAME", help="which model of the catalogue it is (default: found in SOURCE)")
    parser.add_argument("--charset", type=Path, metavar="FILE", help="the recognizer's charset, one entry a line")
    parser.add_argument("--branch", metavar="NAME", help="network of a distilled checkpoint (default: Student)")
    parser.add_argument(
        "--ignore", metavar="PREFIX", action="append", default=[], help="leave out weights under this name; repeatable"
    )
    parser.add_argument("--sha256", metavar="HEX", help="of the file; a URL needs it")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="checkpoint artifact to write")
    command.add_common(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    line = "ocr_models/import_weights.py " + " ".join(sys.argv[1:])
    done = import_weights(
        args.source, args.out, model=args.model, charset=args.charset, branch=args.branch, ignore=args.ignore,
        sha256=args.sha256, command_line=line,
    )  # fmt: skip
    rows = [
        (part, f"{row['tensors']}", f"{row['matched']}", f"{row['params']:,}", f"{row['params_matched']:,}")
        for part, row in done.parts.items()
    ]
    text = command.table((f"{done.name} ({done.task})", "tensors", "matched", "params", "matched"), rows)
    text += "".join(f"\n{args.source}: {note}" for note in done.notes)
    if done.made_anew:
        text += (
            f"\n{args.source} does not hold {', '.join(done.made_anew)}: only training uses it, and it begins anew"
            f"\n{args.out}: params matched {done.matched:,} of the {done.matched:,} that inference needs"
        )
    else:
        text += f"\n{args.out}: params matched {done.matched:,} of {done.matched:,}"
    data = {"out": str(args.out), **dataclasses.asdict(done), "params_matched": done.matched}
    command.emit(args, data, text)
    return command.EXIT_DONE


@dataclass(frozen=True)
class Imported:
    """What an import did.

    parts: {part of the network: tensors and params, in all and matched}. made_anew: what the source did not hold.
    notes: what was chosen of it, a line each.
    """

    name: str
    task: str
    classes: int | None
    parts: dict[str, dict[str, int]]
    made_anew: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def matched(self) -> int:
        """Numbers that came from the source, batch norm's running mean and variance among them."""
        return sum(row["params_matched"] for row in self.parts.values())


def import_weights(
    place: str | Path,
    out: Path,
    *,
    model: str | None = None,
    charset: Path | None = None,
    branch: str | None = None,
    ignore: Sequence[str] = (),
    sha256: str | None = None,
    command_line: str = "",
) -> Imported:
    """Write the checkpoint artifact `out` from PaddleOCR's weights at `place`, a path or an https URL.

    model: a name of the catalogue, found by the weights when None. charset: the recognizer's file, the card's when
    None. branch, ignore: see `branches`. command_line: for the manifest's `made_by`. Raises ModelError, ArtifactError
    or UsageError with one line.
    """
    with import_source.open_source(str(place), sha256=sha256, branch=branch, ignore=ignore) as source:
        return _import(source, out, model, charset, command_line)


def _import(source: Source, out: Path, model: str | None, charset: Path | None, command_line: str) -> Imported:
    import paddle

    from ocr_models import branches, catalogue, checkpoints

    path = source.path
    card = _card(source, model)
    network = dict(card.network)
    chosen, space = None, True
    if card.task == "rec":
        network["classes"] = source.classes
        chosen, space = _charset(source, card, charset)
    elif charset is not None:
        raise command.UsageError(f"{path}: expected --charset for a recognizer only, found a {card.task} model")
    # What the source does not hold, and the global names that Paddle saves beside the weights, are always the same.
    paddle.seed(0)
    with paddle.utils.unique_name.guard():
        layer = catalogue.build(network)
    if source.arrays is None:
        missing = checkpoints.import_published(layer, path)
    else:
        branches.refuse_extra(source.arrays, checkpoints.parameters(layer), checkpoints.aliases(layer), path)
        checkpoints.assign(layer, source.arrays, path)
        missing = []
    anew = tuple(sorted({".".join(name.split(".")[:2]) + ".*" for name in missing}))
    own = chosen is not None and card.charset_path is not None and not _same(chosen, card.charset_path)
    eats = card.input
    if card.task == "rec":
        widths = tuple(width for width in eats.width_buckets if width >= MIN_WIDTH_PX)
        eats = dataclasses.replace(eats, width_buckets=widths)
    with artifact.create(out) as folder:
        checkpoints.save_network(layer, folder)
        manifest = card.manifest(folder).replace(network=network, input=eats)
        if chosen is not None:
            shutil.copyfile(chosen, folder / catalogue.CHARSET)
            record = artifact.charset_record(folder / catalogue.CHARSET, space=space)
            # A card's name speaks of its charset; with another one the source's own name says more.
            manifest = manifest.replace(charset=record, name=source.name if own else card.name)
        extra = {**source.origin, "source_files": source.files, "made_anew": list(anew), "notes": list(source.notes)}
        artifact.write(folder, manifest.replace(extra=extra), command_line)
    return Imported(manifest.name, card.task, network.get("classes"), _parts(layer, set(missing)), anew, source.notes)


def _card(source: Source, model: str | None) -> ModelCard:
    from ocr_models import catalogue

    path = source.path
    if model is not None:
        card = catalogue.card(model)
        if card.task != source.task:
            raise command.ModelError(
                f"{path}: expected weights of a {card.task} model as --model {model} says, found those of a "
                f"{source.task} model; give another --model or another file"
            )
        return card
    cards = [card for card in map(catalogue.card, catalogue.names()) if card.task == source.task]
    fitting = [card for card in cards if card.network.get("classes") == source.classes] or cards
    if len(fitting) != 1:
        names = " | ".join(card.name for card in fitting)
        raise command.UsageError(f"{path}: expected --model {names} for these {source.task} weights, found none")
    return fitting[0]


def _charset(source: Source, card: ModelCard, given: Path | None) -> tuple[Path, bool]:
    """The charset file and whether a class for the space follows its entries, so that all makes the model's classes."""
    from ocr_models import catalogue

    chosen = given or card.charset_path
    if chosen is None:
        raise command.UsageError(f"{source.path}: expected --charset FILE for {card.name}, found none")
    return chosen, catalogue.has_space(
        len(artifact.read_charset_file(chosen)),
        source.classes,
        model=source.path,
        charset=f"{chosen.name}{'' if given else ', the default'}",
        advice="give the charset that it was trained with as --charset",
    )


def _same(a: Path, b: Path) -> bool:
    return a.read_bytes() == b.read_bytes()


def _parts(layer: Any, missing: set[str]) -> dict[str, dict[str, int]]:
    """Tensors and numbers of backbone, neck and head: in all, and matched."""
    from ocr_models import checkpoints

    parts: dict[str, dict[str, int]] = {}
    for name, tensor in checkpoints.parameters(layer).items():
        zero = {"tensors": 0, "matched": 0, "params": 0, "params_matched": 0}
        row = parts.setdefault(name.split(".")[0], zero)
        row["tensors"] += 1
        row["params"] += tensor.size
        if name not in missing:
            row["matched"] += 1
            row["params_matched"] += tensor.size
    return parts


if __name__ == "__main__":
    command.main(build_parser(), run)
