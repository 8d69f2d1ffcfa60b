"""The settings of the server, read by click from the command line, else from the environment."""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import click
from redis.asyncio import ConnectionPool
from redis.exceptions import RedisError

from nanorecsys.system.limits import cores

CORES = min(cores(), 256)
EVENTS_KEPT = 1000  # latest events of a user that answers depend on; the help names it
EMBEDDED = "embedded"
MILVUS = re.compile(r"https?://([^/\s@]+@)?[\w.-]+(:\d+)?(/\w*)?")


@dataclass(frozen=True)
class Settings:
    """All settings. The command line shows the texts below as the help of its options.

    What is served:
        bundle: Folder that `nanorecsys bundle` wrote.
        engine: Engine of the models. onnx runs the bundle's. torch runs PyTorch's in fp32,
            histories at their own lengths, the last layer at the last position. torch-padded works
            as the earlier benchmark: every history padded to the window, every position computed.
        models: Folder of retriever.pt and ranker.pt, for the torch engines.
        compile: Compile the PyTorch encoder; it stays eager where no C++ compiler works.

    Network:
        host: Address to listen on; 0.0.0.0 for every network.
        port: Port to listen on.
        workers: Processes that share the port, by default one for each core that the server may
            use. Two with a compute thread each answer more requests than one with two threads,
            which wait for the interpreter's lock. Each has its own models, index and cache in
            memory. One that dies is replaced.

    Computing:
        threads: Compute threads per worker. More than one pays only where a worker has several
            cores. 0 computes on the event loop, which blocks it.
        max_batch: Most requests in a batch. They have similar history lengths, and together at most
            the events of one window.
        candidates: Items retrieved. The ranker orders them where the bundle has one.
        read_events: Latest events of a history to encode, at most the model's window; 0 for the
            bundle's own number.
        pad: Pad every history to the whole window, as the earlier benchmark does.

    Retrieval:
        retrieval: Where items are searched: embedded, the bundle's index in each worker; or
            http://HOST:PORT of a Milvus that has the bundle's vectors, see `nanorecsys serving
            load-milvus`. While a compute thread waits for it, another can compute: --threads 2.
        retrieval_timeout_ms: Longest time of one search in Milvus in ms, and of a connection to it.
        retrieval_retries: Further tries of a search that fails, each on a new connection. After the
            last one requests get 503 with the reason, and Milvus is tried again after a second.
        retrieval_pool: Most connections of a worker to Milvus. A thread that searches holds one.

    Overload:
        max_queue: Requests that may wait in a worker; beyond it 503.
        deadline_ms: Longest wait in the queue in ms; beyond it 503. The queue counts as full once
            the next request would wait for half of this time.

    Cache and events:
        cache: Cache of answers: memory (of each worker), none, or redis://HOST:PORT/DB.
        cache_size: Answers that the memory cache keeps, about 1 KiB each.
        cache_ttl_s: Seconds for which an answer is kept.
        events: SQLite file of posted events, for one host; BUNDLE.events.sqlite if it is not given.
            Or redis://HOST:PORT/DB for several hosts. The latest 1,000 of each user count.

    Limits:
        read_timeout_s: Seconds that a client may take to send the headers of a request, and as many
            again for its body.
        keepalive_s: Seconds for which an idle connection is kept.
        max_body: Largest request body in bytes.
        lame_duck_s: Seconds from SIGTERM, when /readyz starts to fail, to the close of the
            listener. Choose more than the load balancer's check interval.
        drain_s: Seconds after that in which open requests may finish.
    """

    bundle: Annotated[Path, click.Path(path_type=Path)] = Path("data/runs/quick/bundle")
    engine: Annotated[str, click.Choice(["onnx", "torch", "torch-padded"])] = "onnx"
    models: Annotated[Path | None, click.Path(path_type=Path)] = None
    compile: Annotated[bool, click.BOOL] = False

    host: Annotated[str, click.STRING] = "127.0.0.1"
    port: Annotated[int, click.IntRange(0, 65_535)] = 8000
    workers: Annotated[int, click.IntRange(1, 256)] = CORES

    threads: Annotated[int, click.IntRange(0, 256)] = 1
    max_batch: Annotated[int, click.IntRange(1, 1024)] = 8
    candidates: Annotated[int, click.IntRange(100, 10_000)] = 100
    read_events: Annotated[int, click.IntRange(0)] = 0
    pad: Annotated[bool, click.BOOL] = False

    retrieval: Annotated[str, click.STRING] = EMBEDDED
    retrieval_timeout_ms: Annotated[float, click.FloatRange(1, 3_600_000)] = 250.0
    retrieval_retries: Annotated[int, click.IntRange(0, 100)] = 1
    retrieval_pool: Annotated[int, click.IntRange(1, 256)] = 4

    max_queue: Annotated[int, click.IntRange(1, 1_000_000)] = 64
    deadline_ms: Annotated[float, click.FloatRange(1, 3_600_000)] = 150.0

    cache: Annotated[str, click.STRING] = "memory"
    cache_size: Annotated[int, click.IntRange(1)] = 100_000
    cache_ttl_s: Annotated[float, click.FloatRange(1, 10**9)] = 3600.0
    events: Annotated[str | None, click.STRING] = None

    read_timeout_s: Annotated[float, click.FloatRange(0.1, 3600)] = 10.0
    keepalive_s: Annotated[float, click.FloatRange(1, 86_400)] = 75.0
    max_body: Annotated[int, click.IntRange(1024, 2**30)] = 256 * 1024
    lame_duck_s: Annotated[float, click.FloatRange(0, 3600)] = 1.0
    drain_s: Annotated[float, click.FloatRange(0.1, 3600)] = 10.0

    @property
    def events_place(self) -> str:
        """Where events are stored: a path, or a Redis URL."""
        bundle = self.bundle.absolute()
        return self.events or str(bundle.with_name(f"{bundle.name}.events.sqlite"))


def read_settings(**values: Any) -> Settings:
    """Make settings from values that click has read one by one, and check them together.

    Raises:
        click.UsageError: A value does not fit another, or names nothing that can be used.
    """
    for name, value in values.items():
        if value != value:  # click's ranges accept NaN
            raise click.BadParameter("NaN is not a number", param_hint=_flag(name))
    settings = Settings(**values)
    if settings.engine != "onnx" and settings.models is None:
        raise click.UsageError(
            f"--engine {settings.engine} reads PyTorch models, which a bundle does not have. "
            "Name their folder: --models data/runs/quick/02_training"
        )
    if settings.cache not in ("memory", "none"):
        _check_redis("--cache", settings.cache, "memory, none")
    if "://" in settings.events_place:
        _check_redis("--events", settings.events_place, "a file")
    if settings.retrieval != EMBEDDED and not MILVUS.fullmatch(settings.retrieval):
        expected = "expected embedded or http[s]://[USER:PASSWORD@]HOST:PORT[/DATABASE]"
        raise click.BadParameter(expected, param_hint="--retrieval")
    if not (settings.bundle / "manifest.json").is_file():
        missing = (
            f"{settings.bundle} is no serving bundle: it has no manifest.json. Build one: "
            "nanorecsys bundle quick (`make serve` also runs what it is made from)"
        )
        raise click.BadParameter(missing, param_hint="--bundle")
    return settings


def is_redis(place: str) -> bool:
    """Whether a setting names a Redis."""
    return place.startswith(("redis://", "rediss://"))


def _check_redis(flag: str, url: str, others: str) -> None:
    """Check the URL of a Redis without connecting to it."""
    try:
        if not re.fullmatch(r"rediss?://[^/\s]+(/\d*)?(\?\S*)?", url):
            raise ValueError
        ConnectionPool.from_url(url).make_connection()  # it does not connect yet
    except (ValueError, TypeError, RedisError):  # their texts may hold the password
        expected = f"expected {others} or redis://[[USER]:PASSWORD@]HOST:PORT/DB"
        raise click.BadParameter(expected, param_hint=flag) from None


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _groups() -> dict[str, dict[str, str]]:
    """Help of each setting by group, from the docstring of `Settings`."""
    groups = {}
    for block in (inspect.getdoc(Settings) or "").split("\n\n")[1:]:
        heading, *texts = re.split(r"\n    (\w+): ", block)
        groups[heading.rstrip(":")] = dict(zip(texts[::2], texts[1::2], strict=True))
    return groups


class _Command(click.Command):
    """A command whose help lists the options in groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        records = {option.name: option.get_help_record(ctx) for option in self.params}
        for heading, texts in _groups().items():
            with formatter.section(heading):
                formatter.write_dl([record for name in texts if (record := records[name])])


def make_command(serve: Callable[[Settings], None]) -> click.Command:
    """Make the command line that calls `serve` with the settings; its docstring is the help."""
    types = get_type_hints(Settings, include_extras=True)
    options: list[click.Parameter] = []
    for name, text in (setting for group in _groups().values() for setting in group.items()):
        flag, [kind] = _flag(name), types[name].__metadata__
        flags = f"{flag}/--no-{flag[2:]}" if kind is click.BOOL else flag
        default = getattr(Settings, name)
        options.append(click.Option([flags], type=kind, default=default, help=text))
    context = {"auto_envvar_prefix": "NANORECSYS", "show_default": True, "max_content_width": 100}
    return _Command(
        "python -m server",
        params=options,
        callback=lambda **values: serve(read_settings(**values)),
        help=serve.__doc__,
        context_settings=context,
    )
