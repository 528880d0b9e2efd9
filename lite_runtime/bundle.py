"""Bundles: the one folder with detector, classifier, recognizer and what proves them, and the only way to load it.

    DIR/manifest.json  manifest.sha256  {det,cls,rec}/{manifest.json,model.nb}  rec/charset.txt  self_test/…

manifest.json holds the hash of every other file; manifest.sha256, in the form of `sha256sum`, holds its own. So one
changed bit anywhere is found, and each file is hashed once.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import artifact
from artifact import ArtifactError, Manifest

ROLES = ("det", "cls", "rec")
SEAL = "manifest.sha256"
SELF_TEST = "self_test"
MODEL_FILE = "model.nb"


@dataclass(frozen=True)
class Models:
    """The models of a folder, checked. folders, manifests: by role; bundle: None for a folder of loose artifacts."""

    folder: Path
    folders: dict[str, Path]
    manifests: dict[str, Manifest]
    labels: list[str]
    bundle: Manifest | None = None

    def nb(self, role: str) -> Path:
        return self.folders[role] / MODEL_FILE

    @property
    def self_test(self) -> Path | None:
        """The recorded run that tells what the models must answer; None where the folder has none."""
        folder = self.folder / SELF_TEST
        return folder if self.bundle and folder.is_dir() else None


def read(folder: Path | str) -> Models:
    """Check a bundle, or a folder whose subfolders are `.nb` artifacts (one det, one rec, at most one cls).

    Raises ArtifactError with one line: what was expected, what was found, what to do.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: expected a folder with det/, cls/ and rec/, found none; give it with --models")
    if (folder / artifact.MANIFEST).is_file():
        return _bundle(folder)
    return _loose(folder)


def write(folder: Path, manifest: Manifest, command: str) -> Manifest:
    """Hash the files that lie in `folder` and write manifest.json and its seal."""
    (folder / SEAL).unlink(missing_ok=True)
    manifest = artifact.write(folder, manifest, command)
    _seal(folder)
    return manifest


def rewrite(folder: Path, manifest: Manifest) -> None:
    """Replace the record of a bundle whose files stay as they are, as for new metrics."""
    from command import write_text

    write_text(folder / artifact.MANIFEST, json.dumps(manifest.to_json(), indent=2, ensure_ascii=False) + "\n")
    _seal(folder)


def _seal(folder: Path) -> None:
    (folder / SEAL).write_text(_seal_text(folder), encoding="ascii")


def _seal_text(folder: Path) -> str:
    return f"{artifact.digest(folder)}  {artifact.MANIFEST}\n"


def _bundle(folder: Path) -> Models:
    again = "copy the bundle again, or make it with export/bundle.py"
    paths = {name: artifact.inside(folder, name) for name in _tree(folder)}
    # Of another kind, the folder is refused by what it is, not by the seal that only bundles have.
    artifact.load(folder, kind="bundle", task="system", verify=False)
    if SEAL not in paths:
        raise ArtifactError(f"{folder}: expected {SEAL} beside {artifact.MANIFEST}, found none; {again}")
    if paths[SEAL].stat().st_size > 200 or paths[SEAL].read_bytes() != _seal_text(folder).encode():
        raise ArtifactError(
            f"{folder / artifact.MANIFEST}: expected the sha256 that {SEAL} has, found another; the file was changed, "
            f"{again}"
        )
    manifest = artifact.load(folder, kind="bundle", task="system")
    listed = {*manifest.files, artifact.MANIFEST, SEAL}
    if foreign := sorted(set(paths) - listed):
        raise ArtifactError(f"{folder}: expected the files of its manifest only, found {foreign[0]}; remove it")
    models = _members(folder, manifest, again)
    return Models(
        folder, {role: folder / role for role in ROLES}, models, _labels(folder / "rec", models["rec"]), manifest
    )


def _members(folder: Path, manifest: Manifest, again: str) -> dict[str, Manifest]:
    """The three models' manifests, which must tell what the bundle's tells."""
    said: Any = manifest.extra.get("models")
    if not isinstance(said, dict) or set(said) != set(ROLES):
        raise ArtifactError(f"{folder}: expected models det, cls and rec in its manifest, found others; {again}")
    found = {}
    for role in ROLES:
        part = folder / role
        model = found[role] = artifact.load(part, kind="nb", task=role, verify=False)
        _check_model(part, model)
        inner = {f"{role}/{name}": record for name, record in model.files.items()}
        outer = {name: record for name, record in manifest.files.items() if name.startswith(f"{role}/")}
        own = outer.pop(f"{role}/{artifact.MANIFEST}", None)
        if inner != outer or own is None:
            raise ArtifactError(f"{part}: expected the files that the bundle's manifest lists, found others; {again}")
        for key in ("target", "opt_version"):
            if model.extra.get(key) != manifest.extra.get(key) or not isinstance(model.extra.get(key), str):
                raise ArtifactError(
                    f"{part}: expected {key} {manifest.extra.get(key)} as the bundle has, found "
                    f"{model.extra.get(key)}; {again}"
                )
        if not isinstance(said[role], dict) or said[role].get("precision") != model.extra.get("precision"):
            raise ArtifactError(f"{part}: expected the precision that the bundle's manifest has; {again}")
    return found


def _loose(folder: Path) -> Models:
    folders: dict[str, Path] = {}
    manifests: dict[str, Manifest] = {}
    for path in sorted(path.parent for path in folder.glob(f"*/{artifact.MANIFEST}")):
        manifest = artifact.load(path, kind="nb")
        task = manifest.task
        if task in folders:
            raise ArtifactError(f"{folder}: expected one {task} model, found {folders[task].name} and {path.name}")
        _check_model(path, manifest)
        folders[task], manifests[task] = path, manifest
    if missing := [task for task in ("det", "rec") if task not in folders]:
        raise ArtifactError(
            f"{folder}: expected subfolders with a det and a rec artifact, found no {' and no '.join(missing)}; "
            "give a bundle's folder"
        )
    return Models(folder, folders, manifests, _labels(folders["rec"], manifests["rec"]))


def _check_model(folder: Path, manifest: Manifest) -> None:
    if manifest.input is None:
        raise ArtifactError(f"{folder}: expected a manifest with `input`, found none; make it with export/to_nb.py")
    if MODEL_FILE not in manifest.files:
        raise ArtifactError(
            f"{folder}: expected {MODEL_FILE} in the manifest, found none; make it with export/to_nb.py"
        )


def _labels(folder: Path, manifest: Manifest) -> list[str]:
    """Text of each class of the recognizer."""
    entries = artifact.read_charset(folder, manifest)
    charset = manifest.charset
    assert charset is not None  # or read_charset had raised
    if manifest.files.get(charset.file, {}).get("sha256") != charset.sha256:
        raise ArtifactError(
            f"{folder}: expected the charset {charset.file!r} to be the one of its manifest, found another; "
            "use the charset that the model was trained with"
        )
    return artifact.charset_labels(entries, charset.space)


def _tree(folder: Path) -> list[str]:
    """Every file below the folder; ArtifactError for symbolic links, also to folders, and for what is no file."""
    found = []
    for path, folders, files in os.walk(folder):
        for name in (*folders, *files):
            below = (Path(path) / name).relative_to(folder).as_posix()
            artifact.inside(folder, below)
            if name in files:
                if not (folder / below).is_file():
                    raise ArtifactError(f"{folder}: expected plain files, found {below}, which is none; remove it")
                found.append(below)
    return found
