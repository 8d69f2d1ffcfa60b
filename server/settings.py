"""The settings of the server: from the command line, else from the environment, else their defaults."""

import argparse
import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from server.errors import SettingsError

ENVIRONMENT = "NANORECSYS_"  # and the setting's name in capitals: NANORECSYS_MAX_QUEUE=32
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def _told(
    explained: str, unit: str = "", *, low: float | None = None, high: float | None = None
) -> dict[str, Any]:
    return {"help": explained, "unit": unit, "low": low, "high": high}


@dataclass(frozen=True)
class Settings:
    """All of them; `parse` checks the bounds."""

    # what is served
    bundle: Path = field(
        default=Path("data/runs/quick/bundle"),
        metadata=_told("serving bundle, as `nanorecsys bundle` builds it", "DIR"),
    )
    engine: str = field(
        default="onnx",
        metadata=_told("onnx; torch is the study's baseline: eager fp32, padded, blocking", "NAME"),
    )
    models: Path | None = field(
        default=None,
        metadata=_told("folder with retriever.pt and ranker.pt, for --engine torch alone", "DIR"),
    )

    # where
    host: str = field(
        default="127.0.0.1",
        metadata=_told("address to listen on; 0.0.0.0 for every network", "HOST"),
    )
    port: int = field(default=8000, metadata=_told("port to listen on", "N", low=0, high=65535))
    workers: int = field(
        default=1,
        metadata=_told(
            "processes that share the port; one that dies is replaced", "N", low=1, high=256
        ),
    )

    # how it computes
    threads: int = field(
        default=2,
        metadata=_told(
            "compute threads a worker; 0: on the event loop, blocking", "N", low=0, high=256
        ),
    )
    max_batch: int = field(
        default=8,
        metadata=_told(
            "requests of like history length encoded at once, at most; their events fit one window",
            "N",
            low=1,
            high=1024,
        ),
    )
    candidates: int = field(
        default=100,
        metadata=_told("items retrieved for the ranker to order", "N", low=100, high=10_000),
    )
    read_events: int = field(
        default=0,
        metadata=_told(
            "events of a history that are encoded, the last ones, at most the model's window; 0: as many as the bundle "
            "says",
            "N",
            low=0,
        ),
    )
    pad: bool = field(
        default=False,
        metadata=_told("encode the whole window, padded, as the study's baseline does"),
    )

    # when there is too much to do
    max_queue: int = field(
        default=64,
        metadata=_told("requests a worker lets wait; beyond it 503", "N", low=1, high=1_000_000),
    )
    deadline_ms: float = field(
        default=75.0,
        metadata=_told(
            "longest wait in the queue; beyond it 503, and while that happens a part of it is allowed",
            "MS",
            low=1.0,
        ),
    )

    # what it remembers
    cache: str = field(
        default="memory",
        metadata=_told(
            "where answers are kept: memory (of each worker), none, or redis://HOST:PORT/DB", "URL"
        ),
    )
    cache_size: int = field(
        default=100_000,
        metadata=_told("answers that the memory cache keeps, a KiB each", "N", low=1),
    )
    cache_ttl_s: float = field(
        default=3600.0, metadata=_told("seconds that an answer is kept", "S", low=1.0)
    )
    coalesce: bool = field(default=True, metadata=_told("compute equal requests in flight once"))
    events: Path | None = field(
        default=None,
        metadata=_told("SQLite file of posted events; beside the bundle by default", "FILE"),
    )

    # patience
    read_timeout_s: float = field(
        default=10.0,
        metadata=_told("longest time a client may take to send its request", "S", low=0.1),
    )
    keepalive_s: float = field(
        default=75.0, metadata=_told("seconds that an idle connection is kept", "S", low=1.0)
    )
    max_body: int = field(
        default=256 * 1024, metadata=_told("largest request body", "BYTES", low=1024)
    )
    lame_duck_s: float = field(
        default=1.0,
        metadata=_told(
            "after SIGTERM: seconds in which answers tell clients to leave, before connections close",
            "S",
            low=0.0,
        ),
    )
    drain_s: float = field(
        default=10.0,
        metadata=_told("after that: seconds in which requests at work may end", "S", low=0.1),
    )

    @property
    def events_path(self) -> Path:
        """Where events are stored."""
        bundle = self.bundle.absolute()
        return self.events or bundle.with_name(f"{bundle.name}.events.sqlite")


def parse(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Settings:
    """Settings from the command line and the environment, checked.

    Raises:
        SettingsError: an environment variable or a value out of bounds; argparse itself ends the
            process (status 2) for arguments that it does not know.
    """
    values = {}
    for name, text in environment.items():
        setting = name.removeprefix(ENVIRONMENT).lower()
        if name.startswith(ENVIRONMENT) and setting in _FIELDS:
            values[setting] = _read(_FIELDS[setting], text, name)
    given = vars(_parser().parse_args(arguments))
    values |= {
        name: value
        if isinstance(value, bool)
        else _read(_FIELDS[name], value, f"--{name.replace('_', '-')}")
        for name, value in given.items()
        if value is not None
    }
    settings = Settings(**values)
    _check(settings)
    return settings


_FIELDS = {f.name: f for f in dataclasses.fields(Settings)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m server",
        description="Serve recommendations over HTTP from a bundle. The page at / tries it, /docs documents it.",
        epilog=f"Each setting can also come from the environment, as {ENVIRONMENT}MAX_QUEUE=32 for --max-queue 32; the "
        "command line wins. Signals: SIGTERM answers what is at work and ends, SIGHUP takes up a new bundle in DIR "
        "without a failed request (a broken one is refused, the old one stays).",
    )
    for setting in dataclasses.fields(Settings):
        flag = f"--{setting.name.replace('_', '-')}"
        default = "" if setting.default is None else f" ({setting.default})"
        if setting.type is bool:
            shown = "on" if setting.default else "off"
            explained = f"{setting.metadata['help']} ({shown})"
            parser.add_argument(
                flag, action=argparse.BooleanOptionalAction, default=None, help=explained
            )
        else:
            parser.add_argument(
                flag, metavar=setting.metadata["unit"], help=setting.metadata["help"] + default
            )
    return parser


def _read(setting: dataclasses.Field, text: str, name: str) -> Any:
    """The value of a setting from its text."""
    kind = setting.type
    if kind is bool:
        if text.lower() not in _TRUE + _FALSE:
            raise SettingsError(
                f"{name}: expected one of {', '.join(_TRUE + _FALSE)}, got {text!r}"
            )
        return text.lower() in _TRUE
    if kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            wanted = "a whole number" if kind is int else "a number"
            raise SettingsError(f"{name}: expected {wanted}, got {text!r}") from None
        low, high = setting.metadata["low"], setting.metadata["high"]
        if not (low is None or value >= low) or not (high is None or value <= high):
            bounds = f"at least {low:,}" if high is None else f"{low:,} to {high:,}"
            raise SettingsError(f"{name}: expected {bounds}, got {text}")
        return value
    return text if kind is str else Path(text)


def _check(settings: Settings) -> None:
    if settings.engine not in ("onnx", "torch"):
        raise SettingsError(f"--engine: expected onnx or torch, got {settings.engine!r}")
    if settings.engine == "torch" and settings.models is None:
        raise SettingsError(
            "--engine torch reads PyTorch models, which a bundle does not have",
            "Name their folder: --models data/runs/quick/02_training",
        )
    if settings.cache not in ("memory", "none"):
        url = urlsplit(settings.cache)
        if (
            url.scheme not in ("redis", "rediss")
            or not url.hostname
            or not re.fullmatch(r"(/\d*)?", url.path)
        ):
            raise SettingsError(
                f"--cache: expected memory, none or redis://HOST:PORT/DB, got {settings.cache!r}"
            )
    if not (settings.bundle / "manifest.json").is_file():
        raise SettingsError(
            f"--bundle: {settings.bundle} is no serving bundle, it has no manifest.json",
            "Build one: nanorecsys bundle quick (or `make serve`, which also runs what it is made from)",
        )
