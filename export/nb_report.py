"""What a parsed `.nb` file holds, as plain data and as text. Names come from the file, so text shows them escaped."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import command
from export.nb_file import KERNEL_ATTRIBUTE, Kernel, NbFile, Op

_NAME = 48


def shown(text: str, limit: int = _NAME) -> str:
    """One printable line: control characters, escape sequences and marks of direction as \\x1b, long texts cut."""
    cut = text[: limit + 1]
    safe = "".join(c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode("ascii") for c in cut)
    return safe if len(safe) <= limit else f"{safe[: limit - 1]}…"


def plain(value: Any) -> Any:
    """An attribute's value for JSON, which knows neither NaN nor infinity."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def short(value: Any, limit: int = 32) -> str:
    """An attribute's value on one line."""
    if isinstance(value, str):
        return shown(repr(value[:limit]), limit) if value else '""'
    if isinstance(value, list):
        more = f", … {len(value)}" if len(value) > 3 else ""
        return f"[{', '.join(short(item, 10) for item in value[:3])}{more}]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def kernel_text(kernel: Kernel | None) -> str:
    return f"{kernel.target} {kernel.precision} {kernel.layout} {kernel.alias}" if kernel else "none"


def describe(nb: NbFile, *, ops: bool = False, weights: int = 0) -> dict[str, Any]:
    """All that the report says. ops: with the list of ops; weights: with so many of the largest weights."""
    data: dict[str, Any] = {
        "format": nb.meta_version,
        "opt_version": nb.opt_version,
        "targets": sorted(nb.targets),
        "size_bytes": nb.size_bytes,
        "inputs": [ends(nb, name) for name in nb.inputs],
        "outputs": [ends(nb, name) for name in nb.outputs],
        "counts": {
            "ops": len(nb.ops),
            "attributes": sum(len(op.attributes) for op in nb.ops),
            "variables": len(nb.vars),
            "weights": len(nb.params),
        },
        "kernels": nb.kernels(),
        "variants": variants(nb),
        "weights": {dtype: {"count": n, "bytes": size} for dtype, (n, size) in nb.weights_by_type().items()},
        "bytes": nb.parts(),
    }
    if ops:
        data["ops"] = [_op(op) for op in nb.ops]
    if weights:
        largest = sorted(nb.params.values(), key=lambda param: -len(param.data))[:weights]
        data["largest_weights"] = [
            {"name": p.name, "dtype": p.dtype, "shape": list(p.shape), "bytes": len(p.data)} for p in largest
        ]
    return data


def variants(nb: NbFile) -> dict[str, dict[str, int]]:
    """Op type → variant of its kernel, such as fp32_out of an int8 convolution → count; feed and fetch left out."""
    found: dict[str, Counter[str]] = {}
    for op in nb.ops:
        if op.type not in ("feed", "fetch"):
            found.setdefault(op.type, Counter())[op.kernel.alias if op.kernel else "none"] += 1
    return {kind: dict(counter) for kind, counter in found.items()}


def ends(nb: NbFile, name: str) -> dict[str, Any]:
    """Name, item type and shape of an input or output; "" and [] where the file does not say."""
    var = nb.vars.get(name)
    return {"name": name, "dtype": var.dtype if var else "", "shape": list(var.shape) if var else []}


def _op(op: Op) -> dict[str, Any]:
    kernel = None if op.kernel is None else {**vars(op.kernel)}
    attributes = {name: plain(value) for name, value in op.attributes.items()}
    return {"type": op.type, "kernel": kernel, "inputs": op.inputs, "outputs": op.outputs, "attributes": attributes}


def text(name: str, data: dict[str, Any]) -> str:
    """The report of what `describe` gave."""
    size = data["size_bytes"]
    blocks = [
        f"{shown(name, 200)}: {size:,} bytes, opt {data['opt_version']} (format {data['format']}), "
        f"for {shown(', '.join(data['targets'])) or 'any machine'}",
        "\n".join(f"{kind} {_end(end)}" for kind in ("input", "output") for end in data[f"{kind}s"]),
        _ops_by_type(data["kernels"], data["variants"]),
        ", ".join(f"{count:,} {what}" for what, count in data["counts"].items()),
        command.table(
            ("weights", "tensors", "bytes"),
            [(dtype, f"{w['count']:,}", f"{w['bytes']:,}") for dtype, w in data["weights"].items()],
        ),
        command.table(
            ("part", "bytes", "share"),
            [*((part, f"{n:,}", f"{n / size:.1%}") for part, n in data["bytes"].items()), ("total", f"{size:,}", "")],
        ),
    ]
    if "ops" in data:
        blocks.append(_op_list(data["ops"]))
    if "largest_weights" in data:
        rows = [(shown(w["name"]), w["dtype"], w["shape"], f"{w['bytes']:,}") for w in data["largest_weights"]]
        blocks.append(command.table(("largest weights", "type", "shape", "bytes"), rows))
    return "\n\n".join(block for block in blocks if block)


def _end(end: dict[str, Any]) -> str:
    return f"{shown(end['name'])}  {end['dtype'] or 'of unknown type'} {end['shape']}"


def _ops_by_type(kernels: dict[str, dict[str, int]], variants: dict[str, dict[str, int]]) -> str:
    rows = [
        (shown(kind), sum(precisions.values()), _counted(precisions), _counted(variants[kind]))
        for kind, precisions in kernels.items()
    ]
    return command.table(("op", "count", "kernels", "variants"), rows)


def _counted(counts: dict[str, int], most: int = 6) -> str:
    named = [f"{n} {shown(name, 24)}" for name, n in sorted(counts.items())]
    return ", ".join(named[:most]) + (f", … {len(named)}" if len(named) > most else "")


def _op_list(ops: list[dict[str, Any]]) -> str:
    """One line an op: `number type [kernel] inputs → outputs`."""
    lines = []
    for number, op in enumerate(ops):
        kernel = kernel_text(Kernel(**op["kernel"])) if op["kernel"] else "no kernel"
        lines.append(
            f"{number:>4}  {shown(op['type'])}  [{shown(kernel)}]  {_names(op['inputs'])} → {_names(op['outputs'])}"
            f"  attributes: {len(op['attributes']) - (KERNEL_ATTRIBUTE in op['attributes'])}"
        )
    return "\n".join(lines)


def _names(arguments: dict[str, list[str]], most: int = 8) -> str:
    names = [name for group in arguments.values() for name in group]
    more = f", … {len(names)} names" if len(names) > most else ""
    return ", ".join(shown(name) for name in names[:most]) + more
