"""Fetches one file over https and keeps it, checked by its sha256.

pooch compares the hash and puts the file in place; the transfer itself is done here, because a cut one has to go on
where it stopped and no redirect may lead to plain http. A file in the cache is whole and has the hash in its name.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import command
from command import ModelError, UsageError, one_line

# Seconds to wait for a connection, and for the next byte.
TIMEOUT_S = (15.0, 60.0)
ATTEMPTS = 3
PAUSE_S = 1.0
MAX_BYTES = 4 << 30
_BLOCK = 1 << 16


class _Cut(Exception):
    """The connection ended early or the server is busy: worth another attempt."""


def is_url(text: str) -> bool:
    return "://" in text


def cache_folder() -> Path:
    """PPOCR_CACHE, or the user's own cache folder."""
    import pooch

    return Path(os.environ.get("PPOCR_CACHE") or pooch.os_cache("ppocr-edge")) / "downloads"


def fetch(url: str, sha256: str | None) -> Path:
    """Path of the file behind `url`, downloaded unless the cache holds it already.

    Raises UsageError for another scheme than https and for a missing sha256, which is then told, and ModelError when
    the file cannot be had or is another one. The server's certificate is checked against the system's authorities, or
    those in REQUESTS_CA_BUNDLE.
    """
    import pooch

    name = _name(url)
    if sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", sha256 := sha256.lower()):
        raise UsageError(f"expected --sha256 as 64 hexadecimal digits, found {sha256!r}; copy it again")
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    if sha256 is None:
        found = _unknown(url, folder, name)
        raise UsageError(f"{url}: found sha256 {found}; compare it with the publisher's and give it with --sha256")
    pooch.get_logger().setLevel("ERROR")
    try:
        path = pooch.retrieve(
            url, known_hash=f"sha256:{sha256}", path=folder, fname=f"{sha256[:16]}-{name}", downloader=_Transfer(folder)
        )
    except ValueError as error:  # pooch's word for another hash
        got = re.search(r"[0-9a-f]{64}", str(error).replace(sha256, ""))
        raise ModelError(
            f"{url}: expected sha256 {sha256}, found {got[0] if got else 'another'}; "
            "compare the hash with the publisher's, and do not use the file if it is right"
        ) from None
    return Path(path)


def _name(url: str) -> str:
    """The file's name in `url`, fit for a path."""
    parts = urlsplit(url)
    if parts.scheme.lower() != "https" or not parts.hostname:
        raise UsageError(f"{url}: expected an https:// address, found {parts.scheme or 'none'}; give one")
    name = re.sub(r"[^A-Za-z0-9._-]", "_", PurePosixPath(unquote(parts.path)).name).lstrip(".")[-100:]
    if not name:
        raise UsageError(f"{url}: expected the address of a file, found one without a name; give the file's own")
    return name


def _unknown(url: str, folder: Path, name: str) -> str:
    """Download a file whose hash nobody gave, keep it under the hash that it has, and return that."""
    import pooch

    part = _Transfer(folder).complete(url)
    found = pooch.file_hash(str(part))
    part.replace(folder / f"{found[:16]}-{name}")
    return found


class _Transfer:
    """A downloader for pooch. What it has so far lies in `folder` as `*.part`, and the next attempt goes on there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, url: str, out: str, _pooch: Any, check_only: bool = False) -> None:
        # Gone from the folder before the hash is compared: a wrong file must not be continued.
        self.complete(url).replace(out)

    def complete(self, url: str) -> Path:
        """Download `url` into its part file, in as many attempts as it is worth."""
        part = self.folder / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.part"
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._attempt(url, part)
                return part
            except _Cut as error:
                if attempt == ATTEMPTS:
                    had = part.stat().st_size if part.exists() else 0
                    raise ModelError(
                        f"{url}: expected the whole file in {ATTEMPTS} attempts, found {error} after {had:,} bytes; "
                        "run again, it goes on from there"
                    ) from None
                time.sleep(PAUSE_S * attempt)
        raise AssertionError

    def _attempt(self, url: str, part: Path) -> None:
        import requests
        import urllib3

        have = part.stat().st_size if part.exists() else 0
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        try:
            with requests.get(
                url, headers=headers, stream=True, timeout=TIMEOUT_S, hooks={"response": _stay_on_https}
            ) as response:
                code = response.status_code
                if code == 416 or (code == 206 and not _continues(response, have)):
                    part.unlink(missing_ok=True)
                    raise _Cut("another file than before")
                if code in (408, 429) or code >= 500:
                    raise _Cut(f"HTTP status {code}")
                if code not in (200, 206):
                    raise ModelError(f"{url}: expected the file, found HTTP status {code}; check the address")
                _save(url, response, part, have if code == 206 else 0)
        except requests.exceptions.SSLError as error:
            raise ModelError(
                f"{url}: expected a server with a trusted certificate, found {_reason(error)}; check the address, "
                "or name your authority's certificate in REQUESTS_CA_BUNDLE"
            ) from None
        except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError):
            raise _Cut(f"no answer within {TIMEOUT_S[1]:g} s") from None
        except (requests.exceptions.ConnectionError, urllib3.exceptions.HTTPError) as error:
            raise _Cut(_reason(error)) from None
        except requests.exceptions.RequestException as error:
            raise ModelError(f"{url}: expected to download it, found {_reason(error)}; check the address") from None


def _stay_on_https(response: Any, **_: Any) -> None:
    """Called for every answer, a redirect among them, before it is followed."""
    from requests.compat import urljoin

    if response.is_redirect:
        target = urljoin(response.url, response.headers["location"])
        if urlsplit(target).scheme.lower() != "https":
            raise ModelError(
                f"{response.url}: expected to stay on https, found a redirect to {target}; give another address"
            )


def _continues(response: Any, have: int) -> bool:
    return response.headers.get("Content-Range", "").startswith(f"bytes {have}-")


def _save(url: str, response: Any, part: Path, have: int) -> None:
    """Write the answer's body behind the first `have` bytes of `part`. Raises _Cut when it ends early."""
    length = response.headers.get("Content-Length", "")
    total = have + int(length) if length.isdigit() else None
    if total is not None and total > MAX_BYTES:
        raise ModelError(f"{url}: expected at most {MAX_BYTES:,} bytes, found {total:,}; give a model's address")
    blocks = -(-(total - have) // _BLOCK) if total is not None else None
    with part.open("r+b" if have else "wb") as file:
        file.seek(have)
        file.truncate()
        # As sent: an archive that the server calls "gzip-encoded" is that archive.
        body = response.raw.stream(_BLOCK, decode_content=False)
        for block in command.progress(body, f"{_name(url)}, blocks of 64 KiB", blocks):
            file.write(block)
            if file.tell() > MAX_BYTES:
                raise ModelError(f"{url}: expected at most {MAX_BYTES:,} bytes, found more; give a model's address")
        if total is not None and file.tell() != total:
            raise _Cut(f"{file.tell():,} of {total:,} bytes")


def _reason(error: BaseException) -> str:
    """The innermost cause, without the address and the object that every layer above it repeats."""
    while True:
        below = getattr(error, "reason", None) or next(iter(error.args), None)
        if not isinstance(below, BaseException):
            break
        error = below
    text = re.sub(r"^\S*(?:\([^)]*\)|<[^>]*>): ", "", one_line(str(error)))
    return text[:160] or type(error).__name__
