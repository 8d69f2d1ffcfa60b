"""What /metrics shows, summed over the workers."""

import functools

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

_SECONDS = [1e-4 * 2**i for i in range(16)]  # 0.1 ms to 3.3 s
_SIZES = (1, 2, 4, 8, 16, 32, 64)

REQUESTS = Counter("nanorecsys_requests", "Responses by route and status.", ["route", "status"])
ANSWERS = Counter("nanorecsys_answers", "Recommendations by source.", ["source"])
LATENCY = Histogram(
    "nanorecsys_stage_seconds", "Time of a recommendation by stage.", ["stage"], buckets=_SECONDS
)
stage = functools.cache(LATENCY.labels)  # A look-up of a label costs as much as the count.
SOURCE = {source: ANSWERS.labels(source) for source in ("model", "cache", "fallback")}
BATCH = Histogram("nanorecsys_batch_size", "Requests per batch.", buckets=_SIZES)
QUEUE = Gauge("nanorecsys_queue_depth", "Requests that wait.", multiprocess_mode="livesum")
SHED = Counter("nanorecsys_shed", "Requests rejected for lack of capacity, by reason.", ["reason"])
COALESCED = Counter("nanorecsys_coalesced", "Requests that joined an equal one in flight.")
CACHE_FAILURES = Counter("nanorecsys_cache_failures", "Calls to the cache that failed.")
EVENT_FAILURES = Counter("nanorecsys_event_failures", "Calls to Redis for events that failed.")
RETRIEVAL_FAILURES = Counter(
    "nanorecsys_retrieval_failures", "Requests that failed or were degraded because Milvus failed."
)
EVENTS = Counter("nanorecsys_events", "Events stored.")
RELOADS = Counter("nanorecsys_reloads", "Reloads of the bundle by outcome.", ["outcome"])


def exposition() -> bytes:
    """Everything in Prometheus's text format."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return generate_latest(registry)
