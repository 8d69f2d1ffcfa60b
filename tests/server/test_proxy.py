"""Behind nginx, under a prefix: pages, document and requests work. 4 s."""

import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from urllib.parse import urljoin

import pytest

from nanorecsys.system.processes import free_port
from tests.server.films import build, serving

NGINX = shutil.which("nginx")
CONFIG = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr;
events {{}}
http {{
  access_log off; client_body_temp_path {folder}; proxy_temp_path {folder};
  fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{
    listen 127.0.0.1:{port};
    location /films/ {{ proxy_pass {url}/; }}
  }}
}}
"""


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory):
    """Address of the server behind nginx, without a slash at its end."""
    if NGINX is None:
        pytest.skip("nginx is not installed: apt-get install nginx-light")
    folder = tmp_path_factory.mktemp("proxied")
    port = free_port()
    with serving(build(folder), folder) as running:
        (folder / "nginx.conf").write_text(CONFIG.format(folder=folder, port=port, url=running.url))
        command = [NGINX, "-p", str(folder), "-c", "nginx.conf", "-e", "stderr"]
        with (folder / "nginx.log").open("wb") as log:
            process = subprocess.Popen(command, stderr=log)
        try:
            address = f"http://127.0.0.1:{port}/films"
            for _ in range(200):
                try:
                    urllib.request.urlopen(f"{address}/healthz")
                    break
                except urllib.error.URLError:
                    assert process.poll() is None, (folder / "nginx.log").read_text()
                    time.sleep(0.02)
            yield address
        finally:
            process.terminate()
            process.wait(10)


def read(url: str) -> str:
    with urllib.request.urlopen(url) as answer:
        return answer.read().decode()


def test_pages_and_all_that_they_load_are_found(prefix):
    for page in ("/", "/docs"):
        linked = re.findall(r'(?:href|src)="([^"#:]+)"', read(prefix + page))
        assert len(linked) > 4
        for link in linked:
            assert read(urljoin(prefix + page, link))
    # The scripts ask for these, relative to their page.
    for script in ("index.js", "docs.js"):
        assert not re.findall(r"""fetch\(["'`]/""", read(f"{prefix}/static/{script}"))


def test_the_document_leads_to_every_operation(prefix):
    """The address of its server is relative to its own, as OpenAPI 3.1 says in 4.8.1."""
    location = f"{prefix}/openapi.json"
    document = json.loads(read(location))
    server = urljoin(location, document["servers"][0]["url"]).rstrip("/")
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            expected, query = "2", ""
            if "parameters" in operation:
                query = "?q=star"
            body = b"{}" if "requestBody" in operation else None
            if body:
                expected = "422"  # {} lacks a field, which only the operation itself can say
            assert str(status(server + path + query, method, body)).startswith(expected), path


def status(url: str, method: str, body: bytes | None) -> int:
    headers = {"Content-Type": "application/json"} if body else {}
    request = urllib.request.Request(url, body, headers, method=method.upper())
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_a_prefix_without_its_slash_is_completed(prefix):
    assert "<title>" in read(prefix)
