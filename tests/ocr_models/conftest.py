"""The https server that several tests of this room share."""

import pytest
from https_server import Server

from ocr_models import downloads


@pytest.fixture(scope="session")
def running(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("tls"))
    yield server
    server.close()


@pytest.fixture
def server(running, tmp_path, monkeypatch):
    """The server without files and faults, trusted, and an empty cache."""
    running.files, running.faults, running.asked = {}, [], []
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(running.ca))
    monkeypatch.setenv("PPOCR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(downloads, "PAUSE_S", 0.0)
    monkeypatch.setattr(downloads, "TIMEOUT_S", (5.0, 5.0))
    return running
