"""A proxy before a real S3 server: slow, refusing, or letting few bytes a second through."""

import http.client
import http.server
import socket
import struct
import threading
import time

_HOP = {"connection", "transfer-encoding", "keep-alive", "content-length", "date", "server"}
_PIECE = 1 << 16


def refusal(status, code, message="said the store"):
    """What S3 answers instead of doing it."""
    text = f"<?xml version='1.0'?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return status, text.encode()


class _Server(http.server.ThreadingHTTPServer):
    """Closes a connection without a word before, which would keep it from being reset."""

    def shutdown_request(self, request):
        self.close_request(request)


class Proxy:
    """Forwards to a server on loopback.

    Attributes:
        delay: seconds before each answer.
        bytes_per_second: of bodies in both directions, all connections together.
        refuses: given method and path, what to answer instead; None forwards.
        drops: given method and path, ``before`` or ``after`` the server does it the connection
            is reset, without an answer; None answers. None in place of a function drops nothing.
        asked: method and path of every request.
    """

    def __init__(self, port):
        self.target, self.delay, self.bytes_per_second = port, 0.0, None
        self.refuses = lambda method, path: None
        self.drops = None
        self.asked = []
        self._turn = threading.Lock()
        self.running = _Server(("127.0.0.1", 0), self._handler())
        self.running.daemon_threads = True
        threading.Thread(target=self.running.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.running.server_port}"

    def stop(self):
        self.running.shutdown()
        self.running.server_close()

    def _let_through(self, count):
        if self.bytes_per_second:
            with self._turn:
                time.sleep(count / self.bytes_per_second)

    def _handler(proxy):
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self):
                body = self._body(int(self.headers.get("Content-Length", 0)))
                proxy.asked.append((self.command, self.path))
                time.sleep(proxy.delay)
                refused = proxy.refuses(self.command, self.path)
                if refused is not None:
                    self._answer(refused[0], {"Content-Type": "application/xml"}, refused[1])
                    return
                dropped = proxy.drops and proxy.drops(self.command, self.path)
                if dropped == "before":
                    self._break_off()
                    return
                onward = http.client.HTTPConnection("127.0.0.1", proxy.target, timeout=60)
                onward.request(self.command, self.path, body, dict(self.headers))
                answer = onward.getresponse()
                if dropped == "after":
                    answer.read()
                    onward.close()
                    self._break_off()
                    return
                told = {k: v for k, v in answer.getheaders() if k.lower() not in _HOP}
                length = answer.getheader("Content-Length") if self.command == "HEAD" else None
                self._answer(answer.status, told, answer.read(), length)
                onward.close()

            def _break_off(self):
                """As the connection of a server that was killed: it is reset."""
                self.close_connection = True
                now = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)

            def _body(self, left):
                parts = []
                while left > 0:
                    parts.append(self.rfile.read(min(left, _PIECE)))
                    left -= len(parts[-1])
                    proxy._let_through(len(parts[-1]))
                return b"".join(parts)

            def _answer(self, status, headers, body, length=None):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", length or str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    for start in range(0, len(body), _PIECE):
                        self.wfile.write(body[start : start + _PIECE])
                        proxy._let_through(len(body[start : start + _PIECE]))

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = forward

            def log_message(self, *_):
                pass

        return Handler
