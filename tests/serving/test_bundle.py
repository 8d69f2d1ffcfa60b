"""A bundle is whole or refused, with a message that names the file."""

import dataclasses
import fcntl
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanorecsys.ann.indexes import build_index
from nanorecsys.data import Histories
from nanorecsys.serving import bundle as module
from nanorecsys.serving.bundle import (
    FILES,
    MANIFEST,
    Manifest,
    Parts,
    SecondChoice,
    build_bundle,
    check_bundle,
    open_bundle,
)
from nanorecsys.serving.candidates import candidates_of
from nanorecsys.serving.encoder import encode_users
from nanorecsys.serving.errors import BundleError
from nanorecsys.serving.retrieval import LIBRARIES, FaissIndex, LorannIndex, ScannIndex, library
from nanorecsys.system.blas import faiss
from server.engine import Engine, Query
from server.settings import Settings
from tests.libraries import NEEDS, remove
from tests.serving import small_bundle
from tests.serving.small_bundle import (
    N_ITEMS,
    N_USERS,
    WINDOW,
    D,
    item_vectors,
    ranker,
    save,
    small_parts,
    tower,
)

ALL = (*FILES, MANIFEST)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return small_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def built(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good bundle, for tests that only read it or copy it."""
    path = tmp_path_factory.mktemp("built") / "bundle"
    build_bundle(path, parts)
    return path


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    """A good bundle to damage."""
    return Path(shutil.copytree(built, tmp_path / "bundle"))


def refused(path: Path, *says: str) -> None:
    """Both readers refuse the bundle, with a message that says all this and a remedy."""
    for read in (check_bundle, open_bundle):
        with pytest.raises(BundleError) as error:
            read(path)
        assert all(text in error.value.message for text in (str(path), *says)), error.value.message
        assert "nanorecsys" in error.value.remedy


def snapshot(folder: Path) -> dict[str, bytes]:
    """Everything under a folder, hidden files and links too."""
    return {
        str(path.relative_to(folder)): os.fsencode(path.readlink())
        if path.is_symlink()
        else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def rewrite(folder: Path) -> None:
    """Let the manifest list the files as they are, so that only their content can be wrong."""
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    files = {
        name: module.File(sha256=module._sha256(folder / name), bytes=path.stat().st_size)
        for name in (*FILES, module.OTHER_INDEX)
        for path in [folder / name]
        if path.exists()
    }
    module._write_manifest(folder, msgspec.structs.replace(manifest, files=files))


# What is built


def test_what_went_in_comes_out(parts: Parts, built: Path) -> None:
    assert {path.name for path in built.iterdir()} == set(ALL)
    manifest = check_bundle(built)
    sizes = (manifest.d, manifest.n_items, manifest.n_users, manifest.window)
    assert sizes == (D, N_ITEMS, N_USERS, WINDOW)
    assert (manifest.dataset, manifest.commit) == (parts.dataset, parts.commit)
    assert (manifest.tower_variant, manifest.events_read) == ("int8_dynamic", WINDOW)
    bundle = open_bundle(built)
    assert bundle.manifest == manifest
    np.testing.assert_array_equal(bundle.item_vectors, parts.item_vectors)
    np.testing.assert_array_equal(bundle.histories.items, parts.histories.items)
    np.testing.assert_array_equal(bundle.histories.offsets, parts.histories.offsets)
    np.testing.assert_array_equal(bundle.popularity, parts.popularity)
    # item 1 has two events, others one, ties by number
    assert bundle.popular[:4].tolist() == [1, 0, 2, 3]
    pd.testing.assert_frame_equal(bundle.items, parts.items)
    assert type(bundle.items["genres"][0]) is list
    assert bundle.item_numbers[103] == 1
    assert bundle.user_numbers == {11: 0, 22: 1, 33: 2, 44: 3, 55: 4}
    for array in (bundle.item_vectors, bundle.histories.items, bundle.popularity):
        assert not array.flags.writeable
        assert type(array) is np.ndarray


def test_it_answers(parts: Parts, built: Path) -> None:
    bundle = open_bundle(built)
    users = encode_users(bundle.encoder, bundle.histories, bundle.manifest.window)
    expected = parts.item_vectors[[3, 1, 4, 1]].mean(0)
    np.testing.assert_allclose(users[0], expected / np.linalg.norm(expected), atol=1e-6)
    _, found = bundle.index.search(users, 3)
    np.testing.assert_array_equal(found, np.argsort(-users @ parts.item_vectors.T, 1)[:, :3])
    scores = bundle.ranker(users, found)
    expected = np.einsum("bd,bcd->bc", users, parts.item_vectors[found])
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_a_bundle_may_have_no_ranker(parts: Parts, tmp_path: Path) -> None:
    build_bundle(tmp_path / "b", dataclasses.replace(parts, ranker=None))
    assert {path.name for path in (tmp_path / "b").iterdir()} == set(ALL) - {"ranker.onnx"}
    assert "ranker.onnx" not in check_bundle(tmp_path / "b").files
    bundle = open_bundle(tmp_path / "b")
    assert bundle.ranker is None
    users = encode_users(bundle.encoder, bundle.histories, bundle.manifest.window)
    candidates, scores = candidates_of(bundle, users[:1], [np.array([3, 1, 4])], 5)
    expected = users[0] @ parts.item_vectors.T
    expected[[3, 1, 4]] = -np.inf
    np.testing.assert_array_equal(candidates[0], np.argsort(-expected)[:5])
    np.testing.assert_allclose(scores[0], np.sort(expected)[:-6:-1], atol=1e-6)


def test_who_has_seen_most_of_the_nearest_is_searched_for_deeper(
    parts: Parts, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, users = open_bundle(built), parts.item_vectors[:1]
    nearest = np.argsort(-(users[0] @ parts.item_vectors.T))
    depths = []

    def search(queries: np.ndarray, k: int, search=bundle.index.search):
        depths.append(k)
        return search(queries, k)

    monkeypatch.setattr(bundle.index, "search", search)
    monkeypatch.setattr("nanorecsys.serving.candidates.top_items", None)  # no exact comparison
    for n_seen, searched in ((2, [4]), (4, [4, 8])):
        depths.clear()
        [candidates], _ = candidates_of(bundle, users, [nearest[:n_seen]], 2)
        assert candidates.tolist() == nearest[n_seen : n_seen + 2].tolist()
        assert depths == searched


def test_a_row_with_fewer_candidates_is_filled(parts: Parts, built: Path) -> None:
    users = parts.item_vectors[:1]
    candidates, scores = candidates_of(open_bundle(built), users, [np.arange(2, N_ITEMS)], 5)
    assert set(candidates[0, :2]) == {0, 1}
    assert candidates[0, 2:].tolist() == [-1] * 3
    assert np.isneginf(scores[0, 2:]).all()


def test_a_bundle_without_any_other_file_is_refused(copy: Path) -> None:
    for name in set(FILES) - {"ranker.onnx"}:
        manifest = msgspec.json.decode((copy / MANIFEST).read_bytes())
        del manifest["files"][name]
        other = Path(shutil.copytree(copy, copy.with_name(name)))
        (other / MANIFEST).write_bytes(msgspec.json.encode(manifest))
        refused(other, MANIFEST, "expected the files", "the ranker may be absent")


def test_text_ids_other_columns_and_no_event_at_all(parts: Parts, tmp_path: Path) -> None:
    names = ["ann", "ann ", "ümit", "", "x" * 40]
    nothing = Histories(np.zeros(N_USERS + 1, np.int64), np.zeros(0, np.int32))
    items = parts.items.assign(item_id=[f"tt{name}" for name in parts.items["item_id"]], unused=0)
    changed = {"user_ids": np.array(names), "histories": nothing, "items": items}
    build_bundle(tmp_path / "b", dataclasses.replace(parts, **changed))
    bundle = open_bundle(tmp_path / "b")
    assert list(bundle.user_numbers) == names
    assert bundle.item_numbers["tt103"] == 1
    assert "unused" not in bundle.items
    users = encode_users(bundle.encoder, bundle.histories, bundle.manifest.window)
    assert users.shape == (N_USERS, D)


def test_search_parameters_are_applied(parts: Parts, tmp_path: Path) -> None:
    changed = dataclasses.replace(parts, index_factory="IVF2,Flat", index_search="nprobe=2")
    build_bundle(tmp_path / "b", changed)
    assert faiss.extract_index_ivf(open_bundle(tmp_path / "b").index.index).nprobe == 2


def test_a_given_index_is_taken(parts: Parts, tmp_path: Path) -> None:
    index = faiss.IndexHNSWFlat(D, 4, faiss.METRIC_INNER_PRODUCT)
    index.add(parts.item_vectors)
    build_bundle(tmp_path / "b", dataclasses.replace(parts, index=index, index_factory="HNSW4"))
    bundle = open_bundle(tmp_path / "b")
    assert isinstance(bundle.index.index, faiss.IndexHNSW)
    assert bundle.manifest.index_factory == "HNSW4"


@pytest.fixture(
    params=[
        pytest.param("scann:leaves=2", marks=NEEDS["scann"]),
        pytest.param("lorann:clusters=2,dims=32,rank=16", marks=NEEDS["lorann"]),
    ]
)
def two_choices(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, Path]:
    """A library, and a bundle with its index and one of FAISS."""
    monkeypatch.setattr(small_bundle, "D", 64)
    parts = small_parts(tmp_path / "parts")
    factory = request.param
    name = library(factory)
    part = "leaves" if name == "scann" else "clusters"
    second = faiss.index_factory(64, "IVF2,Flat", faiss.METRIC_INNER_PRODUCT)
    second.train(parts.item_vectors)
    second.add(parts.item_vectors)
    changed = dataclasses.replace(
        parts,
        index=build_index(factory, parts.item_vectors),
        index_factory=factory,
        index_search=f"{part}=2,rerank=20",
        second=SecondChoice("IVF2,Flat", "nprobe=2", second),
    )
    build_bundle(tmp_path / "b", changed)
    return name, tmp_path / "b"


def test_an_index_of_another_library_serves(two_choices: tuple[str, Path]) -> None:
    name, path = two_choices
    assert check_bundle(path).second_factory == "IVF2,Flat"
    bundle = open_bundle(path)
    assert library(bundle.manifest.index_factory) == name
    assert isinstance(bundle.index, {"scann": ScannIndex, "lorann": LorannIndex}[name])
    answers, _ = Engine(Settings(bundle=path))([Query(np.array([3, 1]), exclude_seen=True)])
    exact = bundle.item_vectors @ bundle.encoder(np.array([[4, 2]]), np.array([2]))[0]
    exact[[3, 1]] = -np.inf
    assert set(answers[0].items) == set(range(N_ITEMS)) - {1, 3}
    assert bundle.index.search(bundle.item_vectors[:5], 1)[1][:, 0].tolist() == [0, 1, 2, 3, 4]


def test_without_its_library_the_second_choice_serves_with_a_warning(
    two_choices: tuple[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    name, path = two_choices
    first = Engine(Settings(bundle=path))
    with_library = first.bundle.index.search(item_vectors()[:4], N_ITEMS)[1]
    remove(name, monkeypatch)
    for read in (check_bundle, open_bundle, lambda path: Engine(Settings(bundle=path))):
        caplog.clear()
        opened = read(path)
        (record,) = caplog.records
        assert record.levelname == "WARNING"
        assert f"the library {name} is not installed here" in record.getMessage()
        assert record.getMessage().endswith(LIBRARIES[name][1])
    assert opened.cache_id != first.cache_id  # hosts of one Redis may differ in their libraries
    index = opened.bundle.index
    assert faiss.extract_index_ivf(index.index).nprobe == 2
    assert np.array_equal(index.search(item_vectors()[:4], N_ITEMS)[1], with_library)


def test_both_indexes_of_a_bundle_are_checked(two_choices: tuple[str, Path]) -> None:
    _, path = two_choices
    bundle = open_bundle(path)
    rng = np.random.default_rng(1)
    wrong = faiss.IndexFlatIP(64)
    wrong.add(bundle.item_vectors[rng.permutation(N_ITEMS)])
    for name in ("index.faiss", "index.other"):
        damaged = Path(shutil.copytree(path, path.with_name(f"damaged {name}")))
        faiss.write_index(wrong, str(damaged / name))
        rewrite(damaged)
        with pytest.raises(BundleError, match=name):
            check_bundle(damaged)


def test_without_a_second_choice_flat_is_it(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(FaissIndex):
        """An index of a library that this host has."""

    other = Other(faiss.IndexFlatIP(D))
    other.index.add(parts.item_vectors)
    changed = dataclasses.replace(parts, index=other, index_factory="lorann:")
    assert build_bundle(tmp_path / "b", changed).second_factory == "Flat"


# What is refused


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_noticed(copy: Path, name: str, place: float, bit: int) -> None:
    path = copy / name
    good = path.read_bytes()
    damaged = bytearray(good)
    damaged[int(place * len(good))] ^= 1 << bit
    path.write_bytes(damaged)
    try:
        refused(copy, name, "altered")
    finally:
        path.write_bytes(good)


@pytest.mark.parametrize("name", ALL)
def test_a_truncated_or_missing_file_is_named(copy: Path, name: str) -> None:
    content = (copy / name).read_bytes()
    for kept in (len(content) - 3, 0):
        (copy / name).write_bytes(content[:kept])
        refused(copy, name)
    (copy / name).write_bytes(content + b"\n{}")
    refused(copy, name)
    (copy / name).unlink()
    refused(copy, name, "No such file")
    (copy / name).mkdir()
    refused(copy, name)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("tower.onnx", "ranker.onnx"),
        ("item_vectors.npy", "index.faiss"),
        ("popularity.npy", "histories_offsets.npy"),
        ("items.parquet", "user_ids.npy"),
    ],
)
def test_swapped_files_are_named(copy: Path, one: str, other: str) -> None:
    (copy / one).rename(copy / "kept")
    (copy / other).rename(copy / one)
    (copy / "kept").rename(copy / other)
    refused(copy, "expected")
    rewrite(copy)
    with pytest.raises(BundleError, match=f"({one}|{other}).*: (expected|cannot be read)"):
        check_bundle(copy)


def test_what_is_no_bundle_at_all(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", MANIFEST, "No such file")
    (tmp_path / "file").write_text("{}")
    refused(tmp_path / "file", "expected the folder", "found a file")
    refused(tmp_path / "nothing", "found no such folder")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"not json", "cannot be read"),
        (b"[1]", "cannot be read"),
        (b"{}", "expected format 4, which this version of nanorecsys reads, found None"),
        (b"\xff\xfe", "cannot be read"),
        (b'{"format": 4}', "missing required field"),
    ],
)
def test_a_manifest_of_something_else(copy: Path, content: bytes, says: str) -> None:
    (copy / MANIFEST).write_bytes(content)
    refused(copy, MANIFEST, says)


def test_another_format_is_told_before_all_else(copy: Path) -> None:
    fields = json.loads((copy / MANIFEST).read_text()) | {"format": 2, "something": "old"}
    (copy / MANIFEST).write_text(json.dumps(fields))
    (copy / "tower.onnx").unlink()
    refused(copy, MANIFEST, "expected format 4", "found 2")


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("window", "6", "Expected `int`, got `str`"),
        ("window", 0, "Expected `int` >= 1"),
        ("files", {"../secret": {"sha256": "", "bytes": 0}}, "expected the files tower.onnx"),
        ("n_items", N_ITEMS + 1, "expected <i8 (21,), found <i8 (20,)"),
    ],
)
def test_a_manifest_that_was_edited(copy: Path, field: str, value: object, says: str) -> None:
    fields = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps(fields | {field: value}))
    refused(copy, says)


def flat(vectors: np.ndarray) -> faiss.Index:
    index = faiss.IndexFlatIP(D)
    index.add(vectors)
    return index


def with_ids(vectors: np.ndarray, ids: np.ndarray) -> faiss.Index:
    index = faiss.index_factory(D, "IDMap,Flat", faiss.METRIC_INNER_PRODUCT)
    index.add_with_ids(vectors, ids)
    return index


def text(path: Path) -> Path:
    path.write_text("no model")
    return path


# What is wrong, the parts that make it so (from good parts and a folder), and what the error says.
WRONG: dict[str, tuple[Callable[[Parts, Path], dict[str, object]], str]] = {
    "vectors in fp64": (
        lambda p, t: {"item_vectors": p.item_vectors.astype(np.float64)},
        "item_vectors.npy: expected <f4 (20, 8), found <f8 (20, 8)",
    ),
    "vectors of too few items": (
        lambda p, t: {"item_vectors": p.item_vectors[:-1]},
        "popularity.npy: expected <i8 (19,)",
    ),
    "popularity of another dtype": (
        lambda p, t: {"popularity": p.popularity.astype(np.int32)},
        "popularity.npy: expected <i8 (20,), found <i4 (20,)",
    ),
    "one user too many": (
        lambda p, t: {"user_ids": np.arange(N_USERS + 1)},
        "histories_offsets.npy: expected <i8 (7,), found <i8 (6,)",
    ),
    "user ids as objects": (
        lambda p, t: {"user_ids": p.user_ids.astype(object)},
        "Object arrays cannot be saved",
    ),
    "user ids as floats": (
        lambda p, t: {"user_ids": p.user_ids * 1.0},
        "user_ids.npy: expected <i8|<U[0-9]+ (5,), found <f8 (5,)",
    ),
    "an item too few": (
        lambda p, t: {"items": p.items[:-1]},
        "items.parquet: expected 20 items, found 19",
    ),
    "items without titles": (lambda p, t: {"items": p.items.drop(columns="title")}, "title"),
    "titles of another type": (
        lambda p, t: {"items": p.items.assign(title=1)},
        "Expected a string or bytes dtype, got int64",
    ),
    "histories that end early": (
        lambda p, t: {"histories": Histories(p.histories.offsets, p.histories.items[:-1])},
        "histories_items.npy: expected <i4 (10,), found <i4 (9,)",
    ),
    "histories of unknown items": (
        lambda p, t: {"histories": Histories(p.histories.offsets, p.histories.items + 1)},
        "histories_items.npy: expected items from 0 to 19, found 0 to 20",
    ),
    "histories of negative items": (
        lambda p, t: {"histories": Histories(p.histories.offsets, p.histories.items - 1)},
        "histories_items.npy: expected items from 0 to 19, found -1 to 18",
    ),
    "an index over other vectors": (
        lambda p, t: {"index": flat(p.item_vectors[::-1])},
        "index.faiss: expected neighbours",
    ),
    "an index of too few": (
        lambda p, t: {"index": flat(p.item_vectors[1:])},
        "index.faiss: expected vectors (n_items, d) (20, 8), found (19, 8)",
    ),
    "an index with other ids": (
        lambda p, t: {"index": with_ids(p.item_vectors, np.arange(N_ITEMS) + 1)},
        "index.faiss: cannot be read",
    ),
    "an index that does not exist": (
        lambda p, t: {"index_factory": "Flatter"},
        "could not parse index string",
    ),
    "a search parameter that does not exist": (
        lambda p, t: {"index_search": "nprobe=4"},
        "index.faiss: cannot be read",
    ),
    "a model that is no ONNX": (
        lambda p, t: {"ranker": text(t / "text.onnx")},
        "ranker.onnx: cannot be read",
    ),
    "a model that is not there": (lambda p, t: {"ranker": t / "none.onnx"}, "No such file"),
    "a tower with other inputs": (
        lambda p, t: {"tower": save(tower(p.item_vectors, items="history"), t / "m")},
        "tower.onnx: cannot be read: Required inputs (['history']) are missing",
    ),
    "a tower of fixed length": (
        lambda p, t: {"tower": save(tower(p.item_vectors, length=WINDOW), t / "m")},
        "tower.onnx: cannot be read: [ONNXRuntimeError]",
    ),
    "a tower of fixed batch": (
        lambda p, t: {"tower": save(tower(p.item_vectors, batch=3), t / "m")},
        "tower.onnx: cannot be read: [ONNXRuntimeError]",
    ),
    "a tower that does not normalize": (
        lambda p, t: {"tower": save(tower(p.item_vectors, normalize=False), t / "m")},
        "tower.onnx: expected finite vectors of norm 1",
    ),
    "a tower of fewer items": (
        lambda p, t: {"tower": save(tower(p.item_vectors[:-1]), t / "m")},
        "tower.onnx: cannot be read",
    ),
    "a ranker of fewer items": (
        lambda p, t: {"ranker": save(ranker(p.item_vectors[:-1]), t / "m")},
        "ranker.onnx: cannot be read",
    ),
    "a ranker without finite scores": (
        lambda p, t: {"ranker": save(ranker(p.item_vectors, scale=np.inf), t / "m")},
        "ranker.onnx: expected finite scores, found NaN or infinity",
    ),
    "no items": (
        lambda p, t: {
            "item_vectors": p.item_vectors[:0],
            "items": p.items[:0],
            "popularity": p.popularity[:0],
        },
        "manifest.json: cannot be read: Expected `int` >= 1",
    ),
    "a window of nothing": (
        lambda p, t: {"window": 0, "events_read": 0},
        "manifest.json: cannot be read: Expected `int` >= 1",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_parts_that_do_not_fit_are_refused(parts: Parts, tmp_path: Path, case: str) -> None:
    change, says = WRONG[case]
    folder = tmp_path / "made"
    folder.mkdir()
    changed = dataclasses.replace(parts, **change(parts, folder))
    with pytest.raises(BundleError) as error:
        build_bundle(tmp_path / "out" / "bundle", changed)
    assert says in error.value.message
    assert error.value.message.startswith(str(tmp_path / "out" / "bundle"))
    assert "unchanged" in error.value.remedy
    assert names(tmp_path / "out") == {"bundle.d"}
    assert not names(tmp_path / "out" / "bundle.d")


# What a build leaves


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_bundle_is_a_link_to_a_folder_named_by_its_id(parts: Parts, built: Path) -> None:
    manifest = check_bundle(built)
    assert os.readlink(built) == f"bundle.d/{manifest.id}"
    assert names(built.parent) == {"bundle", "bundle.d"}
    assert names(built.parent / "bundle.d") == {manifest.id}


def test_a_new_bundle_replaces_an_old_or_a_damaged_one(parts: Parts, tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    build_bundle(target, parts)
    server = open_bundle(target)
    (target / "ranker.onnx").write_bytes(b"")
    second = build_bundle(target, dataclasses.replace(parts, dataset="other"))
    assert check_bundle(target) == second
    assert names(tmp_path / "bundle.d") == {second.id}
    np.testing.assert_array_equal(server.item_vectors, parts.item_vectors)  # an open one lives on
    third = build_bundle(target, dataclasses.replace(parts, dataset="other"))
    assert names(tmp_path / "bundle.d") == {third.id}


def test_a_bundle_that_is_replaced_while_it_is_read_opens_as_the_new_one(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "bundle"
    build_bundle(target, parts)
    load = module._load

    def load_late(*arguments: Any) -> module.Bundle:
        monkeypatch.setattr(module, "_load", load)
        build_bundle(target, dataclasses.replace(parts, dataset="other"))
        return load(*arguments)

    monkeypatch.setattr(module, "_load", load_late)
    assert open_bundle(target).manifest.dataset == "other"


def test_what_is_no_bundle_is_left_alone(parts: Parts, copy: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    (tmp_path / "current").symlink_to("mine")
    (tmp_path / "bundle-202411301530").mkdir()
    before = snapshot(tmp_path)
    for target in ("file", "empty", "mine", "current", "bundle"):
        with pytest.raises(BundleError, match="expected the link to a serving") as error:
            build_bundle(tmp_path / target, parts)
        assert "another folder" in error.value.remedy
    assert snapshot(tmp_path) == before
    assert {"empty", "bundle-202411301530"} <= names(tmp_path)


def test_a_backup_beside_the_bundle_stays(parts: Parts, tmp_path: Path) -> None:
    build_bundle(tmp_path / "bundle", parts)
    backup = tmp_path / "bundle-202411301530"
    shutil.copytree(tmp_path / "bundle", backup)
    build_bundle(tmp_path / "bundle", parts)
    check_bundle(backup)


def test_of_two_builds_at_once_the_second_waits(parts: Parts, tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    manifest = build_bundle(target, parts)
    handle = os.open(tmp_path / "bundle.d", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(build_bundle, target, dataclasses.replace(parts, dataset="other"))
        with pytest.raises(TimeoutError):
            second.result(timeout=0.2)
        assert check_bundle(target) == manifest
        os.close(handle)
        assert second.result() == check_bundle(target)


KILLED = """
import os, pickle, signal, sys
from nanorecsys.serving import bundle
parts, targets = pickle.load(open(sys.argv[1], "rb"))
owners = {
    "index": (bundle.faiss, "write_index"),
    "manifest": (bundle, "_write_manifest"),
    "check": (bundle, "_check"),
    "link": (bundle.os, "replace"),
    "clear": (bundle.shutil, "rmtree"),
}
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
for step, target in targets.items():
    child = os.fork()
    if not child:
        setattr(*owners[step], die)
        bundle.build_bundle(target, parts)
        os._exit(0)
    print(step, os.waitpid(child, 0)[1])
"""


def test_a_killed_build_leaves_one_whole_bundle(parts: Parts, tmp_path: Path) -> None:
    other = dataclasses.replace(parts, dataset="other")
    steps = "index", "manifest", "check", "link", "clear"
    targets = {step: tmp_path / step / "bundle" for step in steps}
    for target in targets.values():
        build_bundle(target, parts)
    arguments = tmp_path / "arguments"
    arguments.write_bytes(pickle.dumps((other, targets)))
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(arguments)], capture_output=True, text=True
    )
    killed = [f"{step} {signal.SIGKILL.value}" for step in steps]
    assert done.stdout.splitlines() == killed, done.stderr
    for step, target in targets.items():
        assert len(names(target.parent / "bundle.d")) > 1  # leftovers beside the bundle
        assert check_bundle(target).dataset == ("other" if step == "clear" else "tiny")
        manifest = build_bundle(target, other)
        assert check_bundle(target) == manifest
        assert names(target.parent / "bundle.d") == {manifest.id}


# Without torch

SERVE = """
import sys
from nanorecsys.serving.bundle import check_bundle, open_bundle
from nanorecsys.serving.encoder import encode_users
check_bundle(sys.argv[1])
bundle = open_bundle(sys.argv[1])
users = encode_users(bundle.encoder, bundle.histories, bundle.manifest.window)
scores = bundle.ranker(users, bundle.index.search(users, 3)[1])
heavy = {"torch", "onnx", "onnxscript", "nbformat", "papermill"}
print(*scores.shape, heavy & {name.partition(".")[0] for name in sys.modules})
"""


def test_it_serves_without_torch(built: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SERVE, str(built)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{N_USERS} 3 set()\n"), done.stderr


def test_item_vectors_of_another_size_than_the_index(copy: Path) -> None:
    np.save(copy / "item_vectors.npy", item_vectors()[:, :4])
    rewrite(copy)
    refused(copy, "item_vectors.npy: expected <f4 (20, 8), found <f4 (20, 4)")
