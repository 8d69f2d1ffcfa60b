"""What /metrics shows, added up over the workers."""

import os

import prometheus_client as prometheus
from prometheus_client import multiprocess

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"  # set by the supervisor before this is imported
_SECONDS = (*(1e-4 * 2**i for i in range(16)),)  # 0.1 ms to 3.3 s

REQUESTS = prometheus.Counter(
    "nanorecsys_requests", "Answers by route and status.", ["route", "status"]
)
ANSWERS = prometheus.Counter(
    "nanorecsys_answers", "Recommendations by where they came from.", ["source"]
)
LATENCY = prometheus.Histogram(
    "nanorecsys_stage_seconds",
    "Time of a recommendation by stage; total is all of it.",
    ["stage"],
    buckets=_SECONDS,
)
# looking a label up costs as much as counting
STAGE = {
    stage: LATENCY.labels(stage)
    for stage in ("cache", "queue", "encode", "retrieve", "rank", "total")
}
SOURCE = {source: ANSWERS.labels(source) for source in ("model", "cache", "fallback")}
BATCH = prometheus.Histogram(
    "nanorecsys_batch_size", "Requests encoded at once.", buckets=(1, 2, 4, 8, 16, 32, 64)
)
QUEUE = prometheus.Gauge(
    "nanorecsys_queue_depth", "Requests that wait to be computed.", multiprocess_mode="livesum"
)
SHED = prometheus.Counter(
    "nanorecsys_shed", "Requests not computed for want of capacity, by reason.", ["reason"]
)
COALESCED = prometheus.Counter(
    "nanorecsys_coalesced", "Requests that joined an equal one in flight."
)
CACHE_FAILURES = prometheus.Counter("nanorecsys_cache_failures", "Calls to the cache that failed.")
EVENTS = prometheus.Counter("nanorecsys_events", "Events stored.")
RELOADS = prometheus.Counter(
    "nanorecsys_reloads", "Bundles taken up or refused, by outcome.", ["outcome"]
)
LOOP_LAG = prometheus.Histogram(
    "nanorecsys_loop_lag_seconds", "How late the event loop wakes a timer.", buckets=_SECONDS
)


def exposition() -> bytes:
    """All of it in Prometheus's text format."""
    if DIRECTORY not in os.environ:
        return prometheus.generate_latest()
    registry = prometheus.CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    return prometheus.generate_latest(registry)
