"""What Prometheus is told of a service."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

REQUESTS = Counter(
    "cadc_rec_requests",
    "Requests for recommendations, by protocol and by what came of them.",
    ("protocol", "outcome"),
)
SECONDS = Histogram(
    "cadc_rec_request_seconds",
    "From a request's last byte to its answer.",
    ("protocol",),
    buckets=_SECONDS,
)
USERS = Counter("cadc_rec_users", "Users answered, by what the answer is based on.", ("source",))
BATCH_REQUESTS = Histogram(
    "cadc_rec_batch_requests", "Requests answered by one call of the predictor.", buckets=_SIZES
)
BATCH_USERS = Histogram(
    "cadc_rec_batch_users", "Users answered by one call of the predictor.", buckets=_SIZES
)
WAITING = Gauge("cadc_rec_waiting_requests", "Requests that wait for the predictor.")
RELOADS = Counter("cadc_rec_reloads", "Bundles loaded or refused.", ("outcome",))
LOADED = Gauge(
    "cadc_rec_bundle_loaded_timestamp_seconds",
    "When the bundle that answers was loaded.",
    ("fingerprint",),
)
