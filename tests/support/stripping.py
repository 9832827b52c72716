"""A proxy before an S3 server that drops `If-None-Match`: a server that ignores the condition."""

import contextlib
import http.client
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.support.s3 import ACCESS, SECRET

_DROPPED = {
    "if-none-match", "host", "authorization", "x-amz-date", "connection", "expect",
    "amz-sdk-invocation-id", "amz-sdk-request",
}  # fmt: skip
_OWN = {"transfer-encoding", "content-length", "connection", "date", "server"}
"""Headers of an answer that the proxy writes itself."""


@contextlib.contextmanager
def stripping_proxy(endpoint: str) -> Iterator[str]:
    """Yields the proxy's URL. What it passes on is signed anew: signatures cover every header."""
    behind = urlsplit(endpoint).netloc
    signing = S3SigV4Auth(Credentials(ACCESS, SECRET), "s3", "us-east-1")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            size = int(self.headers.get("content-length") or 0)
            body = self.rfile.read(size) if size else None
            headers = {n: v for n, v in self.headers.items() if n.lower() not in _DROPPED}
            request = AWSRequest(self.command, f"{endpoint}{self.path}", headers, body)
            signing.add_auth(request)
            connection = http.client.HTTPConnection(behind, timeout=30)
            connection.request(self.command, self.path, body, dict(request.headers.items()))
            answer = connection.getresponse()
            data = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in _OWN:
                    self.send_header(name, value)
            length = answer.getheader("content-length") if self.command == "HEAD" else None
            self.send_header("Content-Length", length or str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)
            connection.close()

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = pass_on  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
