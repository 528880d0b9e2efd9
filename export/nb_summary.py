"""What a conversion tells people: kernels, bytes, fixes, verdict."""

from __future__ import annotations

from pathlib import Path

import command
from artifact import Manifest
from export.nb_file import NbFile
from export.to_nb import convolutions


def text(manifest: Manifest, nb: NbFile, out: Path) -> str:
    extra = manifest.extra
    kernels = [
        (kind, ", ".join(f"{count} {precision}" for precision, count in sorted(precisions.items())))
        for kind, precisions in nb.kernels().items()
    ]
    blocks = [command.table(("op", "kernels"), kernels), _bytes(manifest, nb)]
    if extra["fixed"]:
        rows = [(fixed["trap"], fixed["op"], fixed["count"], fixed["why"]) for fixed in extra["fixed"]]
        blocks.append(command.table(("fixed", "op", "count", "why"), rows))
    counts = convolutions(nb)
    kind = extra["precision"] if extra["precision"] in ("int8", "fp16") else "fp32"
    share = f"{counts.get(kind, 0)} of {sum(counts.values())} convolutions {kind}"
    lines = [f"{manifest.name} ({manifest.task}) for {extra['target']}, opt {nb.opt_version}: {share}"]
    if "verdict" in extra:
        lines.append(extra["verdict"]["text"])
    lines.append(f"written to {out}")
    return "\n\n".join([*blocks, "\n".join(lines)])


def _bytes(manifest: Manifest, nb: NbFile) -> str:
    """Bytes by part; with the diet also those of the file that opt wrote without it."""
    after, before = manifest.extra["bytes"], manifest.extra.get("bytes_before_diet")
    rows = []
    for part, count in (*after.items(), ("total", nb.size_bytes)):
        row = [part, f"{count:,}", f"{count / nb.size_bytes:.1%}"]
        if before:
            row.append(f"{before[part] if part in before else sum(before.values()):,}")
        rows.append(row)
    return command.table(("part", "bytes", "share", *(["before the diet"] if before else [])), rows)
