"""Two hosts behind nginx with one Redis, one of them killed, over real sockets. 25 s."""

from collections import Counter
from dataclasses import replace

import pytest

from benchmarks.soak import RedisProcess
from benchmarks.two_hosts import CHECKED, Nginx, Report, run

pytestmark = pytest.mark.timed


@pytest.mark.skipif(not RedisProcess.available(), reason="needs redis-server")
@pytest.mark.skipif(not Nginx.available(), reason="needs nginx: apt-get install nginx-light")
def test_hosts_are_equal_and_the_death_of_one_loses_nothing(served, tmp_path):
    report = run(served.served, tmp_path, requests=900, events=100)
    assert report.cached_by_the_other == report.known_to_the_other == CHECKED
    assert report.answered >= 900
    assert report.events == 100
    assert (report.lost, report.events_lost) == (0, 0)
    assert not report.wrong
    assert min(report.by_host["one"], report.by_host["two"], report.from_cache) > 0
    assert report.passed


COMPLETE = Report(
    cached_by_the_other=CHECKED,
    known_to_the_other=CHECKED,
    events_away=1,
    requests_away=1,
    back=1,
)


def test_a_complete_report_without_a_loss_passes():
    assert COMPLETE.passed


@pytest.mark.parametrize(
    "values",
    [
        {"cached_by_the_other": CHECKED - 1},
        {"known_to_the_other": CHECKED - 1},
        {"lost": 1},
        {"events_lost": 1},
        {"wrong": Counter({"scores that rise": 1})},
        {"events_away": 0},
        {"requests_away": 0},
        {"back": 0},
    ],
)
def test_an_incomplete_or_bad_report_does_not_pass(values):
    assert not replace(COMPLETE, **values).passed
