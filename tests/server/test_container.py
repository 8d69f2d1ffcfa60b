"""The container's files agree with the server and with each other. 4 s."""

import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from server.settings import Settings
from server.supervisor import KILL_AFTER_S

ROOT = Path(__file__).parents[2]
# Serves one answer while every package outside a list is hidden.
SERVE = """
import json, sys
from importlib import metadata
from pathlib import Path

allowed, bundle, events = json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]

class Hide:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        owners = {owner.lower().replace("_", "-") for owner in distributions.get(top, [])}
        if owners and not owners & set(allowed):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

distributions = metadata.packages_distributions()
sys.meta_path.insert(0, Hide())

import server.supervisor
import uvloop
from aiohttp import ClientSession, web
from server.app import create_app
from server.settings import Settings

async def main():
    runner = web.AppRunner(create_app(Settings(bundle=bundle, events=events)))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/recommend"
    async with ClientSession() as session:
        async with session.post(url, json={"user_id": 1002}) as answer:
            assert answer.status == 200
    await runner.cleanup()

uvloop.run(main())  # as the worker
tops = {name.partition(".")[0] for name in list(sys.modules)}
print(json.dumps(sorted({o.lower() for top in tops for o in distributions.get(top, [])})))
"""


def listed() -> set[str]:
    """Packages that the container installs by name."""
    lines = (ROOT / "server" / "requirements.txt").read_text().splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def with_dependencies(names: set[str]) -> set[str]:
    """Names and all that they require, without extras."""
    found: set[str] = set()
    waiting = {canonical(name) for name in names}
    while waiting:
        found.add(name := waiting.pop())
        for requirement in metadata.requires(name) or []:
            if "extra ==" not in requirement:
                waiting.add(canonical(re.match(r"[\w.-]+", requirement)[0]))
        waiting = {name for name in waiting - found if installed(name)}
    return found


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:  # for another system or Python
        return False
    return True


def test_the_server_answers_with_the_listed_packages_alone_and_imports_each(small, tmp_path):
    allowed = [*with_dependencies(listed()), "nanorecsys"]
    assert not {"torch", "matplotlib", "ipykernel"} & set(allowed)
    arguments = [json.dumps(allowed), str(small.bundle), str(tmp_path / "events.sqlite")]
    command = [sys.executable, "-c", SERVE, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    imported = {canonical(name) for name in json.loads(done.stdout.splitlines()[-1])}
    assert listed() <= imported


def test_the_listed_packages_are_pinned_dependencies_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().split()}
    assert listed() <= set(project["dependencies"])
    assert listed() <= pinned


@pytest.fixture(scope="module")
def compose() -> dict:
    return yaml.safe_load((ROOT / "server" / "compose.yaml").read_text())


def test_compose_starts_two_equal_servers_on_two_cores(compose):
    servers = {n: s for n, s in compose["services"].items() if s["image"] == "nanorecsys-server"}
    assert sum(server["cpus"] for server in servers.values()) == 2
    assert len({json.dumps(server) for server in servers.values()}) == 1
    conf = (ROOT / "server" / "nginx.conf").read_text()
    assert set(re.findall(r"server (\w+):8000", conf)) == set(servers) == {"one", "two"}
    assert compose["services"]["milvus"]["profiles"] == ["milvus"]
    for server in servers.values():
        assert server["read_only"]
        stop_s = int(server["stop_grace_period"].rstrip("s"))
        assert stop_s > Settings.lame_duck_s + Settings.drain_s + KILL_AFTER_S


def test_container_and_compose_set_what_the_server_reads(compose):
    text = (ROOT / "server" / "Containerfile").read_text()
    names = set(re.findall(r"NANORECSYS_(\w+)=", text))
    names |= {name.removeprefix("NANORECSYS_") for name in compose["x-server"]["environment"]}
    known = {field.upper() for field in Settings.__dataclass_fields__}
    assert names <= known
    assert {"EVENTS", "CACHE", "BUNDLE"} <= names


def test_the_user_of_the_container_is_not_root():
    text = (ROOT / "server" / "Containerfile").read_text()
    [user] = re.findall(r"^USER (\d+):\d+$", text, re.M)
    assert int(user) > 0
    assert text.index("USER") > text.rindex("RUN")
