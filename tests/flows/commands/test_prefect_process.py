import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from flows.commands.prefect_process import answers


class Guarded(BaseHTTPRequestHandler):
    """Answers who says `admin:pass`."""

    def do_GET(self):
        self.send_response(200 if self.headers["Authorization"] == "Basic YWRtaW46cGFzcw==" else 401)
        self.end_headers()

    def log_message(self, *_):
        return


def test_a_page_behind_a_password_is_there_for_who_gives_it(monkeypatch):
    with HTTPServer(("127.0.0.1", 0), Guarded) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/api/work_pools/tapir-cpu"
        monkeypatch.delenv("PREFECT_API_AUTH_STRING", raising=False)
        assert not answers(url)
        monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:pass")
        assert answers(url)
        server.shutdown()
        thread.join()
