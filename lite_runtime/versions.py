"""Which `.nb` files a Paddle-Lite library may load: the one rule for host, app and phone harness.

    file and library equal                      fine
    file older, fp32 or int8                    allowed with a warning
    file newer, or fp16 across versions         refused
    versions that cannot be put in order        refused

The library itself only logs a line when versions differ, and an fp16 file of another version aborts the process.
opt writes its version into the file ("v2.13-rc"), the library answers with its own, pip spells it "2.13rc0".
tests/golden/version_rule.json holds the cases for every language that follows the rule.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# v2.13-rc | 2.13rc0 | 2.12.0 | v2.11-beta1; a build from a branch calls itself by its commit, which has no order.
_VERSION = re.compile(r"v?(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?(?:[-.]?(alpha|a|beta|b|rc)[-.]?(\d{0,4}))?", re.ASCII)
_STAGES = {"alpha": 0, "a": 0, "beta": 1, "b": 1, "rc": 2, None: 3}
HALF = "fp16"


@dataclass(frozen=True)
class Verdict:
    """warning: "" when all is well, else one line: why it is refused, or what may go wrong."""

    allowed: bool
    warning: str = ""


def order(version: str) -> tuple[int, ...] | None:
    """A key that sorts versions and is equal for two spellings of one; None for a text that names no release."""
    found = _VERSION.fullmatch(version.strip())
    if found is None:
        return None
    major, minor, patch, stage, number = found.groups()
    return int(major), int(minor), int(patch or 0), _STAGES[stage], int(number or 0)


def judge(file_version: str, library_version: str, precision: str) -> Verdict:
    """Whether a library may load a file. precision: fp32, int8, fp16 … as the file's manifest says."""
    file, library = order(file_version), order(library_version)
    if file_version.strip() == library_version.strip() or (file is not None and file == library):
        return Verdict(True)
    named = f"expected a .nb file of Paddle-Lite {library_version}, found one of {file_version}"
    again = "convert the model with the library's own opt"
    if file is None or library is None:
        return Verdict(False, f"{named}, and cannot tell which is older; {again}")
    if file > library:
        return Verdict(False, f"{named}, which is newer; {again}, or take a newer library")
    if precision == HALF:
        return Verdict(False, f"{named} with fp16 kernels, which abort in another version; {again}")
    return Verdict(True, f"{named}, which is older; compare its results, or {again}")
