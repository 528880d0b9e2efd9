"""A local HTTPS server with a certificate of its own that can misbehave as real ones do."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(certificate.public_bytes(pem))
    plain = serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return folder / "ca.pem", folder / "key.pem"


class Server:
    """Serves `files` by name. `faults`: what each coming request meets, in order; after them all goes well.

    Faults: ("cut", n): n bytes of the body, then the connection ends; ("stall", s): s seconds of silence;
    ("status", code); ("redirect", address); ("no ranges",): the whole file although a part was asked for;
    ("other range",): a part that nobody asked for.
    """

    def __init__(self, folder: Path) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: list[tuple] = []
        self.asked: list[tuple[str, str | None]] = []
        self.ca, key = make_certificate(folder)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.ca, key)
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self._http.handle_error = lambda *_: None  # type: ignore[method-assign]
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def url(self, name: str) -> str:
        return f"https://127.0.0.1:{self._http.server_port}/{name}"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            name, asked = self.path.lstrip("/"), self.headers.get("Range")
            server.asked.append((name, asked))
            fault = server.faults.pop(0) if server.faults else ("",)
            if fault[0] == "stall":
                time.sleep(fault[1])
            if fault[0] == "redirect":
                return self.answer(302, {"Location": fault[1]})
            if fault[0] == "status" or name not in server.files:
                return self.answer(fault[1] if fault[0] == "status" else 404)
            body, headers, code = server.files[name], {}, 200
            if asked and fault[0] != "no ranges":
                start = int(asked.removeprefix("bytes=").rstrip("-"))
                if start >= len(body):
                    return self.answer(416)
                shown = start + 1 if fault[0] == "other range" else start
                headers = {"Content-Range": f"bytes {shown}-{len(body) - 1}/{len(body)}"}
                body, code = body[start:], 206
            return self.answer(code, headers, body, cut=fault[1] if fault[0] == "cut" else None)

        def answer(self, code: int, headers: dict | None = None, body: bytes = b"", cut: int | None = None) -> None:
            self.send_response(code)
            for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body[:cut])
            self.wfile.flush()
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    return Handler
