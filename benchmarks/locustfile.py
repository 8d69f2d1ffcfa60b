"""A second opinion on the server by Locust, with the load test's mix of cold and hot users.

The study does not depend on Locust. Install it in a separate environment:

    python3 -m venv /tmp/locust && /tmp/locust/bin/pip install locust==2.47.0
    /tmp/locust/bin/locust -f benchmarks/locustfile.py --headless -H http://127.0.0.1:8000 \\
        --ids ids.txt -u 100 -r 20 -t 60s --throughput 5

`--ids` names a file with one user id a line, such as
`python -c "import numpy; print(*numpy.load('BUNDLE/user_ids.npy'), sep='\\n')" > ids.txt`. Warm the
server's cache by a shorter run first, or leave the first minute out.

Locust's users wait for their answers, so its latency is that of a closed loop: while the server
stalls, requests are not sent, and the percentiles lie below those of the load test's open loop.
With `--throughput`, each user keeps a pace while answers are faster than it; without, it asks
again at once.
"""

import itertools
import random
import re
from pathlib import Path

from locust import FastHttpUser, constant_throughput, events, task

# The rule of nanorecsys.data.read, which is not installed beside Locust: ids are numbers if all of
# them are plain whole numbers, so that "007" stays a text.
PLAIN_NUMBER = re.compile(r"(0|-?[1-9][0-9]{0,17})(\.0+)?")
HEADERS = ("user", "userid", "user_id")


def read_ids(path: Path) -> list[int] | list[str]:
    """Read user ids, one a line; a byte order mark, a header line and blank lines are no ids."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    ids = [line for line in lines if line]
    if ids and ids[0].lower() in HEADERS:
        del ids[0]
    if all(map(PLAIN_NUMBER.fullmatch, ids)):
        return [int(text.partition(".")[0]) for text in ids]
    return ids


@events.init_command_line_parser.add_listener
def options(parser) -> None:
    """Add options of the workload to Locust's."""
    parser.add_argument("--ids", required=True, metavar="FILE", help="user ids, one a line")
    parser.add_argument(
        "--cold-share", type=float, default=0.3, help="share of requests from users who come once"
    )
    parser.add_argument(
        "--hot-users", type=int, default=1000, help="number of users who make the others"
    )
    parser.add_argument(
        "--throughput", type=float, default=0.0, help="requests a second of each Locust user"
    )
    parser.add_argument("--k", type=int, default=10, help="items asked for")
    parser.add_argument("--seed", type=int, default=0, help="random seed of users and mix")


@events.init.add_listener
def population(environment, **_: object) -> None:
    """Read the user ids once for all of Locust's users."""
    asked = environment.parsed_options
    ids = read_ids(Path(asked.ids))
    environment.mix = random.Random(asked.seed)
    environment.mix.shuffle(ids)
    environment.hot = ids[: asked.hot_users]
    environment.cold = itertools.cycle(ids[asked.hot_users :] or ids)
    if asked.throughput:
        Visitor.wait_time = constant_throughput(asked.throughput)


class Visitor(FastHttpUser):
    """Asks for recommendations for hot and cold users."""

    @task
    def recommend(self) -> None:
        """Send one request, named by whether its user is cold."""
        there = self.environment
        cold = there.mix.random() < there.parsed_options.cold_share
        user = next(there.cold) if cold else there.mix.choice(there.hot)
        body = {"user_id": user, "k": there.parsed_options.k, "include_titles": False}
        self.client.post("/recommend", json=body, name="cold" if cold else "hot")
