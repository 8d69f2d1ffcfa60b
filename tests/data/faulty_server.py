"""A server on 127.0.0.1 that drops connections on demand."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Answer requests as the words of `plan` say (ok, drop or missing), then with `content`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = b""
        self.plan: list[str] = []
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/movielens"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        answer = self.server.plan.pop(0) if self.server.plan else "ok"
        if answer == "missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        content = self.server.content
        self.wfile.write(content[: len(content) // 2] if answer == "drop" else content)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass
