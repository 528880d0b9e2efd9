"""Result rows → text table, Markdown and one self-contained HTML page. JSON is the truth; all of these are made of it.

    python benchmarks/render.py out/demo/results.json
    python benchmarks/render.py ocr_models/pretrained/results.json --readme README.md

A row is {"task", "variant", "form", "params", "macs", "weight_bytes", "nb_bytes", "metric", "latency_ms"}, where metric
is {"name", "value", "low", "high", "samples"}, latency_ms is {"median", "low", "high"} or a word that says why there is
none, and a figure that does not apply is None.
"""

from __future__ import annotations

import argparse
import base64
import json
from pathlib import Path
from typing import Any

import command

TASK_NAMES = {"det": "detector", "cls": "classifier", "rec": "recognizer", "system": "system"}
HEADERS = ("model", "variant", "params", "MACs", "weights", ".nb file", "accuracy", "host ms")
PHONE_ONLY = "phone only"
# A README's table stands between these lines, so that a command can write it and a test can compare it.
README_START, README_END = "<!-- results: made by benchmarks/render.py -->", "<!-- end of results -->"
TEMPLATE = Path(__file__).with_name("report.html.j2")


def cells(row: dict[str, Any]) -> list[str]:
    """The texts of one row, in the order of HEADERS."""
    return [
        TASK_NAMES[row["task"]],
        row["variant"] if not row.get("form") else f"{row['variant']}, {row['form']}",
        "" if row.get("params") is None else f"{row['params']:,}",
        "" if row.get("macs") is None else f"{row['macs'] / 1e6:,.1f} M",
        size_text(row.get("weight_bytes")),
        size_text(row.get("nb_bytes")),
        _metric(row.get("metric")),
        _latency(row.get("latency_ms")),
    ]


def text_table(rows: list[dict[str, Any]]) -> str:
    # Both first columns are words; only the first of a table is set to the left.
    named = [cells(row) for row in rows]
    width = max(len(row[0]) for row in named)
    joined = [[f"{row[0].ljust(width)}  {row[1]}", *row[2:]] for row in named]
    return command.table([f"{HEADERS[0].ljust(width)}  {HEADERS[1]}", *HEADERS[2:]], joined)


def markdown_table(rows: list[dict[str, Any]]) -> str:
    lines = [" | ".join(HEADERS), "|".join(["---", "---", *["---:"] * (len(HEADERS) - 2)])]
    lines += [" | ".join(cells(row)) for row in rows]
    return "\n".join(f"| {line} |" if "---" not in line else f"|{line}|" for line in lines)


def html_page(title: str, rows: list[dict[str, Any]], photos: list[dict[str, Any]], notes: list[str]) -> str:
    """The report as one file. photos: {"title", "image" (path of an annotated image), "lines" ([(text, score)])}."""
    from jinja2 import Environment, StrictUndefined, select_autoescape

    environment = Environment(autoescape=select_autoescape(default=True), undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        title=title,
        headers=HEADERS,
        rows=[{"task": row["task"], "cells": cells(row)} for row in rows],
        photos=[{**photo, "data": data_uri(Path(photo["image"]))} for photo in photos],
        notes=notes,
    )


def data_uri(path: Path) -> str:
    kind = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg"}[path.suffix.lower()]
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def size_text(count: int | None) -> str:
    if count is None:
        return ""
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.0f} KB"


def _metric(metric: dict[str, Any] | None) -> str:
    if metric is None:
        return ""
    return f"{metric['name']} {metric['value']:.4f}"


def _latency(latency: dict[str, float] | str | None) -> str:
    if latency is None or isinstance(latency, str):
        return latency or ""
    return f"{latency['median']:.1f}"


def in_readme(text: str, rows: list[dict[str, Any]]) -> str:
    """The README's text with the table between its marks replaced. Raises UsageError where the marks are missing."""
    before, start, rest = text.partition(README_START)
    _, end, after = rest.partition(README_END)
    if not start or not end:
        raise command.UsageError(f"expected the lines {README_START} and {README_END}, found none; add them")
    return f"{before}{start}\n{markdown_table(rows)}\n{end}{after}"


def put_in_readme(path: Path, rows: list[dict[str, Any]]) -> None:
    """Replace the table of a Markdown file. Raises UsageError for a missing file or missing marks."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise command.UsageError(f"{path}: expected a Markdown file, found {error}; give another --readme") from None
    command.write_text(path, in_readme(text, rows))


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="render.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("results", type=Path, metavar="RESULTS.json", help="what benchmarks/demo.py measured")
    parser.add_argument("--readme", type=Path, metavar="FILE", help="put the table into this Markdown file")
    command.add_common(parser)
    return parser


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a results file. Raises UsageError when it is not one."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        for row in rows:
            cells(row)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        found = command.one_line(str(error)) or type(error).__name__
        raise command.UsageError(f"{path}: expected a results file, found {found}; make one with make demo") from None
    return rows


def run(args: argparse.Namespace) -> int:
    rows = read_rows(args.results)
    if args.readme:
        put_in_readme(args.readme, rows)
    command.emit(args, rows, text_table(rows))
    return command.EXIT_DONE


if __name__ == "__main__":
    command.main(build_parser(), run)
