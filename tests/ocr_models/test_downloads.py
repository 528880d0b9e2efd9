"""Downloads over a real TLS connection to a local server, with the faults that networks have."""

import hashlib

import numpy as np
import pytest

from command import ModelError, UsageError
from ocr_models import downloads

BODY = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def stocked(request):
    if "server" in request.fixturenames:
        request.getfixturevalue("server").files["det.tar"] = BODY


def kept():
    """Names of what lies in the cache."""
    folder = downloads.cache_folder()
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_file_is_fetched_once(server):
    url = server.url("det.tar")
    path = downloads.fetch(url, SHA256.upper())
    assert path.read_bytes() == BODY and path.name.endswith("-det.tar")
    assert downloads.fetch(url, SHA256) == path and len(server.asked) == 1
    assert kept() == [path.name]


def test_a_changed_file_in_the_cache_is_fetched_again(server):
    path = downloads.fetch(server.url("det.tar"), SHA256)
    path.write_bytes(BODY[:-1])
    assert downloads.fetch(server.url("det.tar"), SHA256).read_bytes() == BODY


def test_without_a_hash_it_is_told_and_nothing_is_used(server):
    with pytest.raises(UsageError, match=f"found sha256 {SHA256}; compare it .* give it with --sha256"):
        downloads.fetch(server.url("det.tar"), None)
    # The second call, with the hash, needs no second download.
    assert downloads.fetch(server.url("det.tar"), SHA256).read_bytes() == BODY
    assert len(server.asked) == 1


@pytest.mark.parametrize("cuts", [[100_000], [100_000, 65_536]], ids=["once", "twice"])
def test_a_cut_download_goes_on_where_it_stopped(server, cuts):
    server.faults = [("cut", size) for size in cuts]
    assert downloads.fetch(server.url("det.tar"), SHA256).read_bytes() == BODY
    ranges = [asked for _, asked in server.asked]
    assert ranges[0] is None and len(ranges) == len(cuts) + 1
    starts = [int(asked.removeprefix("bytes=").rstrip("-")) for asked in ranges[1:]]
    assert starts == sorted(set(starts)) and 0 < starts[0] <= 100_000


def test_a_download_that_stays_cut_is_never_taken_for_whole(server):
    url = server.url("det.tar")
    server.faults = [("cut", 100_000), ("cut", 10), ("cut", 10)]
    with pytest.raises(ModelError, match=r"whole file in 3 attempts, found .*; run again, it goes on from there"):
        downloads.fetch(url, SHA256)
    assert [name.endswith(".part") for name in kept()] == [True]
    assert downloads.fetch(url, SHA256).read_bytes() == BODY
    assert server.asked[-1][1] is not None and len(kept()) == 1


@pytest.mark.parametrize("fault", [("no ranges",), ("other range",), ("status", 416)])
def test_a_server_that_does_not_continue_starts_over(server, fault):
    server.faults = [("cut", 100_000), fault]
    assert downloads.fetch(server.url("det.tar"), SHA256).read_bytes() == BODY


def test_another_file_is_refused_and_not_kept(server):
    server.files["det.tar"] = other = b"x" + BODY[1:]
    found = hashlib.sha256(other).hexdigest()
    with pytest.raises(ModelError, match=f"expected sha256 {SHA256}, found {found}; compare"):
        downloads.fetch(server.url("det.tar"), SHA256)
    assert kept() == []


def test_the_rest_of_another_file_is_no_file(server):
    """The server changed the file between two attempts: the splice is refused, and the next run starts from nothing."""
    url = server.url("det.tar")
    server.faults = [("cut", 100_000), ("status", 500), ("status", 500)]
    with pytest.raises(ModelError, match="HTTP status 500"):
        downloads.fetch(url, SHA256)
    server.files["det.tar"] = bytes(len(BODY))
    with pytest.raises(ModelError, match="expected sha256"):
        downloads.fetch(url, SHA256)
    server.files["det.tar"] = BODY
    assert downloads.fetch(url, SHA256).read_bytes() == BODY
    assert server.asked[-1][1] is None


def test_a_redirect_to_http_is_refused_before_it_is_followed(server):
    server.faults = [("redirect", "http://127.0.0.1:9/det.tar")]
    with pytest.raises(ModelError, match="stay on https, found a redirect to http://127"):
        downloads.fetch(server.url("det.tar"), SHA256)
    assert kept() == []


def test_a_redirect_within_https_is_followed(server):
    server.faults = [("redirect", server.url("det.tar"))]
    assert downloads.fetch(server.url("latest"), SHA256).read_bytes() == BODY


def test_a_redirect_in_a_circle_ends(server):
    server.faults = [("redirect", "/det.tar")] * 40
    with pytest.raises(ModelError, match="expected to download it, found Exceeded 30 redirects"):
        downloads.fetch(server.url("det.tar"), SHA256)


def test_a_missing_file_is_not_asked_for_again(server):
    with pytest.raises(ModelError, match="found HTTP status 404; check the address"):
        downloads.fetch(server.url("none.tar"), SHA256)
    assert len(server.asked) == 1 and kept() == []


def test_a_busy_server_is_asked_again(server):
    server.faults = [("status", 503), ("status", 429)]
    assert downloads.fetch(server.url("det.tar"), SHA256).read_bytes() == BODY


def test_a_silent_server_is_left(server, monkeypatch):
    monkeypatch.setattr(downloads, "TIMEOUT_S", (5.0, 0.2))
    server.faults = [("stall", 0.6)] * 3
    with pytest.raises(ModelError, match=r"no answer within 0\.2 s"):
        downloads.fetch(server.url("det.tar"), SHA256)


def test_an_untrusted_certificate_is_refused(server, monkeypatch):
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    with pytest.raises(ModelError, match=r"trusted certificate, found .*certificate verify failed"):
        downloads.fetch(server.url("det.tar"), SHA256)
    assert server.asked == []


def test_nobody_listens(server):
    with pytest.raises(ModelError, match=r"3 attempts, found .*refused"):
        downloads.fetch("https://127.0.0.1:9/det.tar", SHA256)


def test_more_than_a_model_has_is_not_stored(server, monkeypatch):
    monkeypatch.setattr(downloads, "MAX_BYTES", 1_000)
    with pytest.raises(ModelError, match="at most 1,000 bytes, found 300,000"):
        downloads.fetch(server.url("det.tar"), SHA256)


@pytest.mark.parametrize(
    ("url", "sha256", "said"),
    [
        ("http://example.org/a.tar", SHA256, "expected an https:// address, found http"),
        ("file:///etc/passwd", SHA256, "expected an https:// address, found file"),
        ("ftp://example.org/a.tar", None, "expected an https:// address, found ftp"),
        ("https:///a.tar", SHA256, "expected an https:// address"),
        ("https://example.org/", SHA256, "expected the address of a file"),
        ("https://example.org/a.tar", "abc", "expected --sha256 as 64 hexadecimal digits, found 'abc'"),
    ],
)
def test_what_is_no_address_is_one_line(url, sha256, said):
    with pytest.raises(UsageError, match=said):
        downloads.fetch(url, sha256)
