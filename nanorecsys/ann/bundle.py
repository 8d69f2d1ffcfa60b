"""The parts of a serving bundle, gathered from the chapters of a finished run."""

from pathlib import Path
from typing import Any

import numpy as np

from nanorecsys.ann.indexes import build_index
from nanorecsys.ann.specs import fitted
from nanorecsys.data import histories, load_prepared
from nanorecsys.serving.bundle import Parts, SecondChoice
from nanorecsys.serving.retrieval import library
from nanorecsys.study.records import FILE, read_record
from nanorecsys.study.session import Upstream
from nanorecsys.system.errors import NanorecsysError

DATA, TRAINING, EXPORT, ANN = "01_data", "02_training", "03_export", "04_ann"


def gather(run: Path, *, with_ranker: bool = False) -> Parts:
    """Collect the parts of a bundle from a run's folder.

    Histories and popularity count all events, so that a user's newest ones are served.

    Args:
        run: Folder of the run.
        with_ranker: Whether to include the ranker even where chapter 02 does not serve it.

    Raises:
        NanorecsysError: A chapter has not run there, is older than one that it reads, or lacks a
            file or a result; the remedy is the command to run.
    """
    data, training, export = (_chapter(run, name) for name in (DATA, TRAINING, EXPORT))
    _check_order(data, training)
    _check_order(training, export)
    first = second = {"factory": "Flat", "search": ""}
    users = None
    if (run / ANN / FILE).exists():
        ann = _chapter(run, ANN)
        _check_order(export, ann)
        first = ann.record.result["recommended"]
        second = ann.record.result.get("second_choice", second)
        if any(choice["factory"].startswith("Users") for choice in (first, second)):
            users = np.load(_file(ann, "training_queries"))
    dataset = load_prepared(run / DATA).dataset
    item_vectors = np.load(_file(training, "item_vectors"))
    serves_ranker = _of(training, "result", "serves_ranker")
    choices = [fitted(c["factory"], c["search"], len(item_vectors)) for c in (first, second)]
    is_other = library(choices[0][0]) != "faiss"
    # built as the chapter built them, with its limits on training vectors
    built: list[Any] = [
        build_index(factory, item_vectors, users=users) for factory, _ in choices[: 1 + is_other]
    ]
    return Parts(
        tower=_file(export, "tower"),
        ranker=_file(export, "ranker") if serves_ranker or with_ranker else None,
        item_vectors=item_vectors,
        items=dataset.items,
        histories=histories(dataset.interactions),
        user_ids=np.array(dataset.users["user_id"].to_list()),
        popularity=np.bincount(dataset.interactions.item, minlength=len(dataset.items)),
        dataset=dataset.name,
        commit=export.record.provenance.commit,
        window=training.record.parameters["window"],
        events_read=_of(training, "result", "events_read"),
        tower_variant=export.record.result["chosen"],
        tower_is_int8=export.record.result["chosen_is_int8"],
        index_factory=choices[0][0],
        index_search=choices[0][1],
        index=built[0] if is_other else built[0].index,
        second=SecondChoice(*choices[1], built[1].index) if is_other else SecondChoice(),
    )


def fp32_tower(run: Path) -> Path:
    """The ONNX file of the tower in fp32, which chapter 03 exports beside the chosen one.

    Raises:
        NanorecsysError: The chapter has not run there; the remedy is the command to run.
    """
    return _file(_chapter(run, EXPORT), "tower_fp32")


def _chapter(run: Path, name: str) -> Upstream:
    return Upstream(run / name, read_record(run / name, dict[str, Any]))


def _check_order(earlier: Upstream, later: Upstream) -> None:
    """Check that a chapter ran after the one that it reads."""
    if later.record.provenance.started_utc < earlier.record.provenance.started_utc:
        run = later.folder.parent.name
        raise NanorecsysError(
            f"{later.folder.name} in run {run!r} is older than {earlier.folder.name}, "
            "which it reads",
            f"nanorecsys run {run}",
        )


def _file(chapter: Upstream, name: str) -> Path:
    return chapter.folder / _of(chapter, "files", name)


def _of(chapter: Upstream, part: str, name: str) -> Any:
    """Read an entry of a record's files or result."""
    entries = getattr(chapter.record, part)
    if name not in entries:
        raise NanorecsysError(
            f"{chapter.folder.name} has no {name!r} in its {part}, which a bundle is made from",
            f"nanorecsys run {chapter.folder.parent.name} --only {chapter.folder.name} --force",
        )
    return entries[name]
