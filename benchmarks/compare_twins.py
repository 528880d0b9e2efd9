"""How far two systems agree on photos: the same boxes, the same texts. No labels needed.

    python benchmarks/compare_twins.py --reference DET CLS REC --other DET CLS REC --photos DIR --out FILE

DET, CLS, REC are inference artifacts. Both systems read every picture below DIR through the runtime's own pipeline
on Paddle; pictures of single words (DIR/words) go to the recognizers alone. Boxes belong together from an IoU of .5 on,
best overlap first, one to one. A killed run goes on: what was read is in FILE.partial.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import artifact
import command

SAME_BOX = 0.5
PICTURES = (".jpg", ".jpeg", ".png")
WORDS = "words"
TASKS = ("det", "cls", "rec")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="compare_twins.py", description=(__doc__ or "").splitlines()[0], epilog="Exit 0 done, 2 bad input."
    )
    names = ("DET", "CLS", "REC")
    parser.add_argument("--reference", type=Path, nargs=3, required=True, metavar=names, help="e.g. the float models")
    parser.add_argument("--other", type=Path, nargs=3, required=True, metavar=names, help="e.g. the slim models")
    parser.add_argument("--photos", type=Path, required=True, metavar="DIR", help="pictures, in any depth")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N photos and words")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="result as JSON")
    command.add_common(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    if args.out.is_dir() or not args.out.parent.is_dir():
        raise command.UsageError(f"{args.out}: expected a file to write in a folder that exists; give another --out")
    if args.limit is not None and args.limit < 1:
        raise command.UsageError(f"expected --limit of at least 1, found {args.limit}")
    photos, words = pictures(args.photos, args.limit)
    systems = {
        name: dict(zip(TASKS, folders, strict=True))
        for name, folders in (("reference", args.reference), ("other", args.other))
    }
    for folders in systems.values():
        for task, folder in folders.items():
            artifact.load(folder, kind="inference", task=task)
    partial = args.out.with_name(args.out.name + ".partial")
    question = {
        name: {task: artifact.digest(folder) for task, folder in folders.items()} for name, folders in systems.items()
    }
    known = _known(partial, question)
    for name, folders in systems.items():
        _read(name, folders, photos, words, known, lambda: command.write_text(partial, json.dumps(known)))
    per_photo = {
        str(path.relative_to(args.photos)): agreement(known["reference"][str(path)], known["other"][str(path)])
        for path in photos
    }
    read = [[known[name][str(path)][0]["text"] for path in words] for name in systems]
    report: dict[str, Any] = {
        "schema": 1,
        "models": question,
        "photos": per_photo,
        "total": total(list(per_photo.values())),
        "folders": by_folder(per_photo),
        "words": {"read": len(words), "identical": sum(a == b for a, b in zip(*read, strict=True))},
    }
    command.write_text(args.out, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    partial.unlink(missing_ok=True)
    command.emit(args, report, as_text(report))
    return command.EXIT_DONE


def pictures(folder: Path, limit: int | None) -> tuple[list[Path], list[Path]]:
    """(photos, pictures of single words) below a folder, in the order of their names."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES)
    if not found:
        raise command.UsageError(f"{folder}: expected pictures ({', '.join(PICTURES)}), found none; give another")
    words = [path for path in found if WORDS in path.relative_to(folder).parts]
    return [path for path in found if path not in words][:limit], words[:limit]


def _known(partial: Path, question: Mapping[str, Any]) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(partial.read_text(encoding="utf-8"))
        if known["question"] == question:
            return known
    return {"question": question, "reference": {}, "other": {}}


def _read(
    name: str, folders: Mapping[str, Path], photos: list[Path], words: list[Path], known: dict[str, Any], keep: Any
) -> None:
    """known[name]: path → [{"text", "quad"}], completed; keep() after each photo."""
    left = [path for path in (*photos, *words) if str(path) not in known[name]]
    if not left:
        return
    from benchmarks.compare_published import open_pipeline
    from lite_runtime.preprocess import read_image

    pipeline, _ = open_pipeline(folders)
    with contextlib.closing(pipeline):
        for path in command.progress(left, name):
            image = read_image(path)
            if path in words:
                [(text, _)] = pipeline.rec.recognize([image])
                known[name][str(path)] = [{"text": text, "quad": None}]
            else:
                lines = pipeline(image).lines
                known[name][str(path)] = [{"text": line.text, "quad": _plain(line.quad)} for line in lines]
            keep()


def _plain(quad: Any) -> list[list[float]]:
    return [[float(x), float(y)] for x, y in quad]


def agreement(reference: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts of one photo: lines of each, boxes matched, texts of matched boxes identical, sum of their 1−NED."""
    from rapidfuzz.distance import Levenshtein

    pairs = match([line["quad"] for line in reference], [line["quad"] for line in other])
    texts = [(reference[i]["text"], other[j]["text"]) for i, j in pairs]
    return {
        "reference": len(reference),
        "other": len(other),
        "matched": len(pairs),
        "identical": sum(a == b for a, b in texts),
        "similarity": float(sum(Levenshtein.normalized_similarity(a, b) for a, b in texts)),
    }


def match(reference: Sequence[Any], other: Sequence[Any]) -> list[tuple[int, int]]:
    """Pairs of quads (4 points each, px) at an IoU of .5 or more, one to one, best overlap first."""
    overlaps = sorted(
        ((quad_iou(a, b), i, j) for i, a in enumerate(reference) for j, b in enumerate(other)),
        key=lambda row: (-row[0], *row[1:]),
    )
    pairs: dict[int, int] = {}
    for iou, i, j in overlaps:
        if iou >= SAME_BOX and i not in pairs and j not in pairs.values():
            pairs[i] = j
    return sorted(pairs.items())


def quad_iou(a: Any, b: Any) -> float:
    """Of two convex quads; 0 where neither has an area."""
    import cv2
    import numpy as np

    one, two = (np.asarray(quad, np.float32).reshape(4, 2) for quad in (a, b))
    shared = cv2.intersectConvexConvex(one, two)[0]
    union = cv2.contourArea(one) + cv2.contourArea(two) - shared
    return float(shared / union) if union > 0 else 0.0


def total(photos: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sums over photos, and shares: boxes is 2 · matched / (reference + other), texts and similarity of the matched.

    `lines`: the share of the reference's lines that the other finds at the same place with the same text.
    """
    sums = {
        name: sum(photo[name] for photo in photos)
        for name in ("reference", "other", "matched", "identical", "similarity")
    }
    lines, matched = sums["reference"] + sums["other"], sums["matched"]
    return {
        **sums,
        "photos": len(photos),
        "shares": {
            "boxes": 2 * matched / lines if lines else 1.0,
            "texts": sums["identical"] / matched if matched else None,
            "similarity": sums["similarity"] / matched if matched else None,
            "lines": sums["identical"] / sums["reference"] if sums["reference"] else None,
        },
    }


def by_folder(photos: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Folder of the photos, "" for the given one itself → its own total: a system may know only some of the scripts."""
    folders: dict[str, list[Mapping[str, Any]]] = {}
    for name, photo in photos.items():
        folders.setdefault(name.rpartition("/")[0], []).append(photo)
    return {folder: total(found) for folder, found in folders.items()}


def as_text(report: Mapping[str, Any]) -> str:
    headers = ("photo", "reference", "other", "same box", "same text")
    keys = ("reference", "other", "matched", "identical")
    rows = [[name, *(photo[key] for key in keys)] for name, photo in report["photos"].items()]
    rows.append(["all", *(report["total"][key] for key in keys)])
    shares = "   ".join(
        f"{name} {'-' if value is None else f'{value:.4f}'}" for name, value in report["total"]["shares"].items()
    )
    words = report["words"]
    return f"{command.table(headers, rows)}\n{shares}   words {words['identical']} of {words['read']} identical"


if __name__ == "__main__":
    command.main(build_parser(), run)
