"""Show what `.nb` files hold, or what differs between two of them; runs nothing and needs neither Paddle nor Lite.

    python export/inspect_nb.py FILE… [--ops] [--weights [N]] [--json]
    python export/inspect_nb.py A B --diff [--json]

FILE is a .nb file, an nb artifact, a bundle (all its files), or any folder with .nb files. --diff exits 0 when the two
compute the same (names of inner variables and the layout of the bytes may differ), 1 when they do not.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import artifact
import command
from command import UsageError
from export import nb_diff, nb_diff_report, nb_file, nb_report

COMMAND = "export/inspect_nb.py"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description="Show what .nb files hold, or what differs between two. Exit 1: --diff found a difference.",
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help=".nb file, nb artifact, bundle or folder")
    parser.add_argument("--diff", action="store_true", help="compare two files, artifacts or bundles")
    parser.add_argument("--ops", action="store_true", help="list the ops, with --json also their attributes")
    parser.add_argument("--weights", type=int, nargs="?", const=10, default=0, metavar="N", help="N largest weights")
    command.add_common(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    if args.weights < 0:
        raise UsageError(f"expected --weights of at least 0, found {args.weights}; give how many to list")
    if args.diff:
        return _diff(args)
    reports = []
    for given in args.files:
        for path in find(given).values():
            reports.append((str(path), nb_report.describe(nb_file.read(path), ops=args.ops, weights=args.weights)))
    _emit(
        args,
        {"files": [{"file": name, **data} for name, data in reports]},
        "\n\n\n".join(nb_report.text(name, data) for name, data in reports),
    )
    return command.EXIT_DONE


def _diff(args: argparse.Namespace) -> int:
    if len(args.files) != 2 or args.ops or args.weights:
        raise UsageError("expected --diff with two files and neither --ops nor --weights; give A B --diff")
    left, right = (find(given) for given in args.files)
    if len(left) != 1 or len(right) != 1:
        if set(left) != set(right):
            raise UsageError(
                f"expected two folders with the same .nb files, found {', '.join(left)} and {', '.join(right)}; "
                "give one file of each"
            )
        pairs = [(left[name], right[name]) for name in left]
    else:
        pairs = list(zip(left.values(), right.values(), strict=True))
    data, texts = [], []
    for path_a, path_b in pairs:
        a, b = nb_file.read(path_a), nb_file.read(path_b)
        found = nb_diff.compare(a, b)
        identical = path_a.read_bytes() == path_b.read_bytes()
        record = {"a": str(path_a), "b": str(path_b), "identical": identical}
        data.append({**record, **nb_diff_report.as_json(a, b, found)})
        texts.append(nb_diff_report.text(str(path_a), str(path_b), a, b, found, identical=identical))
    equal = all(record["equal"] for record in data)
    _emit(args, {"equal": equal, "files": data}, "\n\n\n".join(texts))
    return command.EXIT_DONE if equal else command.EXIT_CHECK_FAILED


def find(path: Path) -> dict[str, Path]:
    """The .nb files that a path stands for, by their names below it. Raises ArtifactError or UsageError.

    An artifact is checked against its manifest first; to look into a damaged one, give its .nb file itself.
    """
    if not path.is_dir():
        return {path.name: path}
    if (path / artifact.MANIFEST).exists():
        manifest = artifact.load(path, kind=("nb", "bundle"))
        names = [name for name in manifest.files if name.endswith(".nb")]
    else:
        names = sorted(file.name for file in path.glob("*.nb"))
    if not names:
        raise UsageError(f"{path}: expected .nb files, found none; give a .nb file, an nb artifact or a bundle")
    return {name: path / name for name in names}


def _emit(args: argparse.Namespace, data: dict[str, Any], text: str) -> None:
    """JSON in ASCII: what a file calls its variables must not steer the terminal."""
    print(json.dumps(data, indent=2) if args.json else text)


if __name__ == "__main__":
    command.main(build_parser(), run)
