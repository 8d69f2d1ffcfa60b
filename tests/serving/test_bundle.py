"""A bundle is whole or refused, with a message that names the file. 8 s."""

import dataclasses
import json
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from nanorecsys.ann import bundle as command
from nanorecsys.ann.indexes import users_projection
from nanorecsys.data import Dataset, Histories, Interactions, leave_one_out, save_prepared
from nanorecsys.data.load import ids_sha256
from nanorecsys.serving import bundle as module
from nanorecsys.serving.bundle import (
    FILES,
    MANIFEST,
    Bundle,
    Manifest,
    Parts,
    build_bundle,
    check_bundle,
    open_bundle,
)
from nanorecsys.serving.encoder import encode_users
from nanorecsys.serving.errors import BundleError
from nanorecsys.study.layout import Layout
from nanorecsys.study.records import FORMAT, Record, write_record
from nanorecsys.system.blas import faiss
from nanorecsys.system.errors import NanorecsysError
from nanorecsys.system.processor import has_int8_dot_products
from tests.records import example_provenance as made

N_ITEMS, N_USERS, D, WINDOW = 20, 5, 8, 6
ALL = (*FILES, MANIFEST)


def item_vectors(seed: int = 0) -> np.ndarray:
    """Random unit vectors, float32 (N_ITEMS, D)."""
    vectors = np.random.default_rng(seed).normal(size=(N_ITEMS, D)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def tower(
    vectors: np.ndarray,
    *,
    items: str = "items",
    batch: int | str = "B",
    length: int | str = "L",
    normalize: bool = True,
    vectors_name: str = "vectors",
) -> onnx.ModelProto:
    """The mean over all places of the item vectors, the padding's among them, of norm 1."""
    table = np.concatenate([np.full((1, D), D**-0.5, np.float32), vectors])
    nodes = [
        helper.make_node("Gather", ["table", items], ["x"]),  # (B, L, D)
        helper.make_node("ReduceMean", ["x", "axis"], ["mean"], keepdims=0),
        helper.make_node("Cast", ["lengths"], ["l"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["l", "axis"], ["scale"]),
        helper.make_node("Mul", ["mean", "scale"], ["sum"]),
        helper.make_node("LpNormalization", ["sum"], ["unit"], axis=-1, p=2),
        helper.make_node("Identity", ["unit" if normalize else "sum"], [vectors_name]),
    ]
    inputs = [
        helper.make_tensor_value_info(items, TensorProto.INT64, [batch, length]),
        helper.make_tensor_value_info("lengths", TensorProto.INT64, [batch]),
    ]
    output = helper.make_tensor_value_info(vectors_name, TensorProto.FLOAT, [batch, D])
    weights = [
        numpy_helper.from_array(table, "table"),
        numpy_helper.from_array(np.array([1]), "axis"),
    ]
    return checked(helper.make_graph(nodes, "tower", inputs, [output], weights))


def ranker(vectors: np.ndarray, *, scale: float = 1.0) -> onnx.ModelProto:
    """Inner products, times `scale`."""
    nodes = [
        helper.make_node("Gather", ["table", "items"], ["x"]),  # (B, C, D)
        helper.make_node("Unsqueeze", ["users", "axis"], ["u"]),  # (B, D, 1)
        helper.make_node("MatMul", ["x", "u"], ["products"]),
        helper.make_node("Squeeze", ["products", "axis"], ["raw"]),
        helper.make_node("Mul", ["raw", "scale"], ["scores"]),
    ]
    inputs = [
        helper.make_tensor_value_info("users", TensorProto.FLOAT, ["B", D]),
        helper.make_tensor_value_info("items", TensorProto.INT64, ["B", "C"]),
    ]
    output = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["B", "C"])
    weights = [
        numpy_helper.from_array(vectors, "table"),
        numpy_helper.from_array(np.array([2]), "axis"),
        numpy_helper.from_array(np.float32(scale), "scale"),
    ]
    return checked(helper.make_graph(nodes, "ranker", inputs, [output], weights))


def checked(graph: onnx.GraphProto) -> onnx.ModelProto:
    """A model of `graph` that ONNX's own checker takes."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def save(model: onnx.ModelProto, path: Path) -> Path:
    """Write a model, return its path."""
    path.parent.mkdir(exist_ok=True)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """Parts that fit each other; user 2 has no history."""
    folder = tmp_path_factory.mktemp("parts")
    vectors = item_vectors()
    events = np.array([3, 1, 4, 1, 5, 9, 2, 6, 19, 0], np.int32)
    return Parts(
        tower=save(tower(vectors), folder / "int8.onnx"),
        tower_fp32=save(tower(vectors), folder / "fp32.onnx"),
        ranker=save(ranker(vectors), folder / "ranker.onnx"),
        item_vectors=vectors,
        items=pl.DataFrame(
            {
                "item": pl.Series(range(N_ITEMS), dtype=pl.Int32),
                "item_id": [100 + 3 * i for i in range(N_ITEMS)],
                "title": [f"Film {i}" for i in range(N_ITEMS)],
                "year": pl.Series([None, *range(1981, 1980 + N_ITEMS)], dtype=pl.Int16),
                "genres": [["Drama"]] * N_ITEMS,
                "unused": [0] * N_ITEMS,
            }
        ),
        histories=Histories(np.array([0, 4, 7, 7, 8, 10]), events),
        user_ids=np.array([11, 22, 33, 44, 55]),
        popularity=np.bincount(events, minlength=N_ITEMS),
        dataset="tiny",
        commit="0123456789ab",
        window=WINDOW,
        events_read=WINDOW,
        tower_variant="int8_dynamic",
        tower_is_int8=True,
    )


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


def refused(path: Path, *says: str, verify: bool = True) -> None:
    """Both readers refuse the bundle, with a message that says all this and a remedy."""
    readers: list[Callable[[], object]] = [lambda: check_bundle(path)]
    if verify:
        readers.append(lambda: open_bundle(path))
    for read in readers:
        with pytest.raises(BundleError) as error:
            read()
        assert all(text in error.value.message for text in (str(path), *says)), error.value.message
        assert "nanorecsys" in error.value.remedy


def snapshot(folder: Path) -> dict[str, bytes]:
    """Everything under a folder, hidden files too."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def rewrite(folder: Path, **changes: object) -> None:
    """Write the manifest of a folder anew, over the files as they are, so that only its content can be wrong."""
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    files = {}
    for name, file in manifest.files.items():
        content = (folder / name).read_bytes()
        files[name] = msgspec.structs.replace(
            file, sha256=module._sha256(folder / name), bytes=len(content)
        )
        if name.endswith(".npy"):
            array = np.load(folder / name)
            files[name] = msgspec.structs.replace(
                files[name], shape=list(array.shape), dtype=array.dtype.str
            )
    module._write_manifest(
        folder, msgspec.structs.replace(manifest, **({"files": files} | changes))
    )


# What is built


def test_what_went_in_comes_out(parts: Parts, built: Path) -> None:
    assert {path.name for path in built.iterdir()} == set(ALL)
    assert [path.name for path in built.parent.iterdir()] == ["bundle"]
    manifest = check_bundle(built)
    assert (manifest.d, manifest.n_items, manifest.n_users, manifest.window) == (
        D,
        N_ITEMS,
        N_USERS,
        WINDOW,
    )
    assert (manifest.dataset, manifest.commit, manifest.tower_variant) == (
        "tiny",
        "0123456789ab",
        "int8_dynamic",
    )
    assert manifest.files["item_vectors.npy"].shape == [N_ITEMS, D]
    assert manifest.files["item_vectors.npy"].dtype == "<f4"
    bundle = open_bundle(built)
    assert bundle.manifest == manifest
    np.testing.assert_array_equal(bundle.item_vectors, parts.item_vectors)
    np.testing.assert_array_equal(bundle.histories.items, parts.histories.items)
    np.testing.assert_array_equal(bundle.histories.offsets, parts.histories.offsets)
    np.testing.assert_array_equal(bundle.popularity, parts.popularity)
    assert bundle.popular[:4].tolist() == [
        1,
        0,
        2,
        3,
    ]  # item 1 twice, the others once, ties by number
    assert bundle.items.equals(parts.items.drop("unused"))
    assert bundle.item_numbers[103] == 1
    assert bundle.user_numbers == {11: 0, 22: 1, 33: 2, 44: 3, 55: 4}
    for array in (bundle.item_vectors, bundle.histories.items, bundle.popularity):
        assert not array.flags.writeable
        assert type(array) is np.ndarray


def test_the_bundle_says_how_many_events_are_read(
    parts: Parts, built: Path, tmp_path: Path
) -> None:
    assert check_bundle(built).events_read == WINDOW
    build_bundle(tmp_path / "fewer", dataclasses.replace(parts, events_read=3))
    assert open_bundle(tmp_path / "fewer").manifest.events_read == 3


def test_it_answers(parts: Parts, built: Path) -> None:
    bundle = open_bundle(built)
    users = encode_users(bundle.encoder, bundle.histories, bundle.manifest.window)
    expected = parts.item_vectors[[3, 1, 4, 1]].mean(0)
    np.testing.assert_allclose(users[0], expected / np.linalg.norm(expected), atol=1e-6)
    _, found = bundle.index.search(users, 3)
    np.testing.assert_array_equal(found, np.argsort(-users @ parts.item_vectors.T, 1)[:, :3])
    scores = bundle.ranker.run(None, {"users": users, "items": found})[0]
    np.testing.assert_allclose(
        scores, np.einsum("bd,bcd->bc", users, parts.item_vectors[found]), atol=1e-6
    )


def test_text_ids_and_no_event_at_all(parts: Parts, tmp_path: Path) -> None:
    names = ["ann", "ann ", "ümit", "", "x" * 40]
    nothing = Histories(np.zeros(N_USERS + 1, np.int64), np.zeros(0, np.int32))
    items = parts.items.with_columns(item_id=pl.format("tt{}", "item_id"))
    build_bundle(
        tmp_path / "b",
        dataclasses.replace(parts, user_ids=np.array(names), histories=nothing, items=items),
    )
    bundle = open_bundle(tmp_path / "b")
    assert list(bundle.user_numbers) == names
    assert bundle.item_numbers["tt103"] == 1
    assert encode_users(bundle.encoder, bundle.histories, bundle.manifest.window).shape == (
        N_USERS,
        D,
    )


@pytest.mark.parametrize(
    ("cpuinfo", "has"),
    [
        ("flags\t\t: fpu avx512f avx512_vnni", True),
        ("flags: fpu avx_vnni", True),
        ("flags: avx2 avx512f", False),
        ("Features : fp asimd asimddp", True),
        ("", False),
    ],
)
def test_int8_runs_where_the_processor_has_it(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpuinfo: str, has: bool
) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert has_int8_dot_products(tmp_path / "cpuinfo") is has
    assert not has_int8_dot_products(tmp_path / "none")
    monkeypatch.setattr(module, "has_int8_dot_products", lambda: has)
    assert open_bundle(built).tower == ("tower.onnx" if has else "tower_fp32.onnx")
    assert open_bundle(built, fp32=has).tower == ("tower_fp32.onnx" if has else "tower.onnx")


def test_search_parameters_are_applied(parts: Parts, tmp_path: Path) -> None:
    build_bundle(
        tmp_path / "b",
        dataclasses.replace(parts, index_factory="IVF2,Flat", index_search="nprobe=2"),
    )
    assert faiss.extract_index_ivf(open_bundle(tmp_path / "b").index).nprobe == 2


def test_a_given_index_is_taken(parts: Parts, tmp_path: Path) -> None:
    index = faiss.IndexHNSWFlat(D, 4, faiss.METRIC_INNER_PRODUCT)
    index.add(parts.item_vectors)
    build_bundle(tmp_path / "b", dataclasses.replace(parts, index=index, index_factory="HNSW4"))
    bundle = open_bundle(tmp_path / "b")
    assert isinstance(bundle.index, faiss.IndexHNSW)
    assert bundle.manifest.index_factory == "HNSW4"


# What is refused


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=st.sampled_from(ALL), where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_noticed(copy: Path, name: str, where: float, bit: int) -> None:
    path = copy / name
    good = path.read_bytes()
    damaged = bytearray(good)
    damaged[int(where * len(good))] ^= 1 << bit
    path.write_bytes(damaged)
    try:
        refused(copy, name if name != MANIFEST else "")
    finally:
        path.write_bytes(good)


@pytest.mark.parametrize("name", ALL)
def test_a_truncated_or_missing_file_is_named(copy: Path, name: str) -> None:
    content = (copy / name).read_bytes()
    for kept in (len(content) - 3, len(content) // 2, 0):
        (copy / name).write_bytes(content[:kept])
        refused(copy, name)
        if name != MANIFEST:
            with pytest.raises(BundleError, match=name):
                open_bundle(copy, verify=False)
    (copy / name).write_bytes(content + b"\n{}")
    refused(copy, name)
    (copy / name).unlink()
    refused(copy, name, "no such file")
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
    rewrite_plain(copy, one, other)
    with pytest.raises(BundleError, match=f"({one}|{other}).*: (expected|cannot be read)"):
        open_bundle(copy, verify=False)


def rewrite_plain(folder: Path, *names: str) -> None:
    """Make the manifest's sizes and hashes those of the files as they are, whatever they hold."""
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    files = dict(manifest.files)
    for name in names:
        path = folder / name
        files[name] = msgspec.structs.replace(
            files[name], sha256=module._sha256(path), bytes=path.stat().st_size
        )
    module._write_manifest(folder, msgspec.structs.replace(manifest, files=files))


def test_what_is_no_bundle_at_all(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "expected the manifest", "no such file")
    (tmp_path / "file").write_text("{}")
    refused(tmp_path / "file", "expected the folder", "found a file")
    refused(tmp_path / "nothing", "found no such folder")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"not json", "cannot be read"),
        (b"[1]", "cannot be read"),
        (b"{}", "expected format 2, found None"),
        (b"\xff\xfe", "cannot be read"),
        (b'{"format": 2}', "altered"),
    ],
)
def test_a_manifest_of_something_else(copy: Path, content: bytes, says: str) -> None:
    (copy / MANIFEST).write_bytes(content)
    refused(copy, MANIFEST, says)


def test_another_format_is_told_before_all_else(copy: Path) -> None:
    fields = json.loads((copy / MANIFEST).read_text()) | {"format": 3, "something": "new"}
    (copy / MANIFEST).write_text(json.dumps(fields))
    (copy / "tower.onnx").unlink()
    with pytest.raises(BundleError, match=r"manifest.json: expected format 2, found 3") as error:
        open_bundle(copy)
    assert "the version that built it" in error.value.remedy


@pytest.mark.parametrize("field", ["window", "index_search", "tower_is_int8", "commit"])
def test_an_edited_manifest_is_noticed(copy: Path, field: str) -> None:
    fields = json.loads((copy / MANIFEST).read_text())
    fields[field] = {int: 7, str: "nprobe=1", bool: False}[type(fields[field])]
    (copy / MANIFEST).write_text(json.dumps(fields))
    refused(copy, MANIFEST, "altered")


def test_a_manifest_that_lists_other_files(copy: Path) -> None:
    manifest = check_bundle(copy)
    for files in (
        {n: f for n, f in manifest.files.items() if n != "ranker.onnx"},
        {**manifest.files, "../secret": manifest.files["ranker.onnx"]},
    ):
        rewrite(copy, files=files)
        refused(copy, MANIFEST, "expected the files")


def broken(vectors: np.ndarray, row: int, value: float) -> np.ndarray:
    changed = vectors.copy()
    changed[row] *= value
    return changed


WRONG: dict[str, tuple[Callable[[Parts, Path], dict[str, object]], str]] = {
    "vectors not of norm 1": (
        lambda p, t: {"item_vectors": broken(p.item_vectors, 3, 1.01)},
        "item_vectors.npy: expected finite vectors of norm 1, found one of norm 1.01",
    ),
    "vectors with NaN": (
        lambda p, t: {"item_vectors": broken(p.item_vectors, 3, np.nan)},
        "item_vectors.npy",
    ),
    "vectors in fp64": (
        lambda p, t: {"item_vectors": p.item_vectors.astype(np.float64)},
        "item_vectors.npy: expected <f4 (20, 8), found <f8 (20, 8)",
    ),
    "vectors flat": (
        lambda p, t: {"item_vectors": p.item_vectors.ravel()},
        "expected item vectors (n_items, d)",
    ),
    "vectors of too few items": (
        lambda p, t: {"item_vectors": p.item_vectors[:-1]},
        "popularity.npy: expected <i8",
    ),
    "popularity of another dtype": (
        lambda p, t: {"popularity": p.popularity.astype(np.int32)},
        "popularity.npy: expected <i8 (20), found <i4 (20,)",
    ),
    "popularity below 0": (
        lambda p, t: {"popularity": p.popularity - 1},
        "popularity.npy: expected counts from 0",
    ),
    "one user too many": (
        lambda p, t: {"user_ids": np.arange(N_USERS + 1)},
        "histories_offsets.npy: expected <i8 (7), found <i8 (6,)",
    ),
    "users twice": (
        lambda p, t: {"user_ids": np.zeros(N_USERS, np.int64)},
        "user_ids.npy: expected 5 different ids, found 1",
    ),
    "user ids as objects": (
        lambda p, t: {"user_ids": p.user_ids.astype(object)},
        "Object arrays cannot be saved",
    ),
    "user ids as floats": (
        lambda p, t: {"user_ids": p.user_ids * 1.0},
        "user_ids.npy: expected <i8 or text (5)",
    ),
    "items twice": (
        lambda p, t: {"items": p.items.with_columns(item_id=pl.lit(1))},
        "items.parquet: expected 20 different ids, found 1",
    ),
    "items in another order": (
        lambda p, t: {"items": p.items.reverse()},
        "items.parquet: expected the items 0 to 19 in order",
    ),
    "an item too few": (
        lambda p, t: {"items": p.items[:-1]},
        "items.parquet: expected the items 0 to 19",
    ),
    "items without titles": (lambda p, t: {"items": p.items.drop("title")}, "title"),
    "titles of another type": (
        lambda p, t: {"items": p.items.with_columns(title=pl.lit(1))},
        "items.parquet: expected the columns",
    ),
    "histories that fall": (
        lambda p, t: {"histories": Histories(np.array([0, 4, 3, 7, 8, 10]), p.histories.items)},
        "histories_offsets.npy",
    ),
    "histories that begin late": (
        lambda p, t: {"histories": Histories(np.array([1, 4, 7, 7, 8, 10]), p.histories.items)},
        "histories_offsets.npy: expected numbers that rise from 0 to the 10 events",
    ),
    "histories that end early": (
        lambda p, t: {"histories": Histories(p.histories.offsets, p.histories.items[:-1])},
        "histories_offsets.npy: expected numbers that rise from 0 to the 9 events",
    ),
    "histories of unknown items": (
        lambda p, t: {"histories": Histories(p.histories.offsets, p.histories.items + 1)},
        "histories_items.npy: expected items from 0 to 19, found 1 to 20",
    ),
    "histories of negative items": (
        lambda p, t: {"histories": Histories(p.histories.offsets, p.histories.items - 1)},
        "histories_items.npy",
    ),
    "no items": (
        lambda p, t: {
            "item_vectors": p.item_vectors[:0],
            "items": p.items[:0],
            "popularity": p.popularity[:0],
        },
        "manifest.json: cannot be read: Expected `int` >= 1",
    ),
    "an index over other vectors": (
        lambda p, t: {"index": flat(p.item_vectors[::-1])},
        "index.faiss: expected neighbours",
    ),
    "an index of too few": (
        lambda p, t: {"index": flat(p.item_vectors[1:])},
        "index.faiss: expected 20 vectors",
    ),
    "an index by distance": (
        lambda p, t: {"index": flat(p.item_vectors, faiss.METRIC_L2)},
        "index.faiss: expected 20 vectors of 8 by inner product, found 20 of 8 by another metric",
    ),
    "an index with other ids": (
        lambda p, t: {"index": with_ids(p.item_vectors, np.arange(N_ITEMS) + 1)},
        "index.faiss: expected ids from 0 to 19",
    ),
    "an index that does not exist": (
        lambda p, t: {"index_factory": "Flatter"},
        "could not parse index string",
    ),
    "a search parameter that does not exist": (
        lambda p, t: {"index_search": "nprobe=4"},
        "index.faiss: cannot be read",
    ),
    "a model that is no ONNX": (lambda p, t: {"ranker": text(t)}, "ranker.onnx: cannot be read"),
    "a model that is not there": (lambda p, t: {"ranker": t / "none.onnx"}, "No such file"),
    "a tower with other names": (
        lambda p, t: {"tower": save(tower(p.item_vectors, items="history"), t / "m")},
        "tower.onnx: expected the inputs items int64 (symbolic, symbolic); lengths int64 (symbolic), found history",
    ),
    "a tower with another output": (
        lambda p, t: {"tower_fp32": save(tower(p.item_vectors, vectors_name="users"), t / "m")},
        "tower_fp32.onnx: expected the outputs vectors float (symbolic, 8), found users",
    ),
    "a tower of fixed length": (
        lambda p, t: {"tower": save(tower(p.item_vectors, length=WINDOW), t / "m")},
        "found items int64 (symbolic, 6)",
    ),
    "a tower of fixed batch": (
        lambda p, t: {"tower_fp32": save(tower(p.item_vectors, batch=1), t / "m")},
        "tower_fp32.onnx: expected the inputs",
    ),
    "a tower that does not normalize": (
        lambda p, t: {"tower_fp32": save(tower(p.item_vectors, normalize=False), t / "m")},
        "tower_fp32.onnx: expected finite vectors of norm 1",
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
        "ranker.onnx: expected finite scores (3, 2), found NaN or infinity",
    ),
    "more events read than a window has": (
        lambda p, t: {"events_read": WINDOW + 1},
        f"manifest.json: expected at most {WINDOW} events read, the window, found {WINDOW + 1}",
    ),
    "a window of nothing": (
        lambda p, t: {"window": 0},
        "manifest.json: cannot be read: Expected `int` >= 1",
    ),
}


def flat(vectors: np.ndarray, metric: int = faiss.METRIC_INNER_PRODUCT) -> faiss.Index:
    index = faiss.IndexFlat(D, metric)
    index.add(vectors)
    return index


def with_ids(vectors: np.ndarray, ids: np.ndarray) -> faiss.Index:
    index = faiss.index_factory(D, "IDMap,Flat", faiss.METRIC_INNER_PRODUCT)
    index.add_with_ids(vectors, ids)
    return index


def text(folder: Path) -> Path:
    (folder / "text.onnx").write_text("no model")
    return folder / "text.onnx"


@pytest.mark.parametrize("case", WRONG)
def test_parts_that_do_not_fit_are_refused(
    parts: Parts, tmp_path: Path, built: Path, case: str
) -> None:
    change, says = WRONG[case]
    (tmp_path / "made").mkdir()
    shutil.copytree(built, tmp_path / "out" / "bundle")
    before = snapshot(tmp_path / "out")
    changed = dataclasses.replace(parts, **change(parts, tmp_path / "made"))
    with pytest.raises(BundleError) as error:
        build_bundle(tmp_path / "out" / "bundle", changed)
    assert says in error.value.message
    assert error.value.message.startswith(str(tmp_path / "out" / "bundle"))
    assert "untouched" in error.value.remedy
    assert snapshot(tmp_path / "out") == before


def test_content_that_was_altered_with_its_manifest(copy: Path) -> None:
    np.save(copy / "item_vectors.npy", item_vectors() * 2)
    rewrite(copy)
    refused(copy, "item_vectors.npy: expected finite vectors of norm 1", verify=False)
    np.save(copy / "item_vectors.npy", item_vectors()[:, :4])
    rewrite(copy)
    refused(copy, "item_vectors.npy: expected <f4 (20, 8), found <f4 (20, 4)")
    np.save(copy / "item_vectors.npy", item_vectors())
    rewrite(copy)
    check_bundle(copy)
    files = dict(check_bundle(copy).files)
    files["popularity.npy"] = msgspec.structs.replace(files["popularity.npy"], shape=[N_ITEMS - 1])
    rewrite(copy, files=files)
    refused(copy, "popularity.npy: the manifest lists <i8 [19], found <i8 (20,)")


# What a build leaves


def test_a_target_that_is_no_bundle_is_left_alone(parts: Parts, copy: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    (copy / "notes.txt").write_text("mine")
    for target in ("file", "empty", "mine", "bundle"):
        before = snapshot(tmp_path)
        with pytest.raises(BundleError, match="expected a serving bundle or nothing") as error:
            build_bundle(tmp_path / target, parts)
        assert "another folder" in error.value.remedy
        assert snapshot(tmp_path) == before
    assert (tmp_path / "empty").is_dir()


def test_a_new_bundle_replaces_an_old_or_a_damaged_one(parts: Parts, copy: Path) -> None:
    server = open_bundle(copy)
    (copy / "ranker.onnx").write_bytes(b"")
    other = dataclasses.replace(parts, dataset="other")
    build_bundle(copy, other)
    assert check_bundle(copy).dataset == "other"
    assert [p.name for p in copy.parent.iterdir()] == ["bundle"]
    np.testing.assert_array_equal(server.item_vectors, parts.item_vectors)  # an open one lives on
    (copy.parent / "link").symlink_to(copy)
    build_bundle(copy.parent / "link", parts)
    assert (copy.parent / "link").is_symlink()
    assert check_bundle(copy).dataset == "tiny"


def test_a_second_build_beside_the_first_is_refused(parts: Parts, tmp_path: Path) -> None:
    with module._alone(tmp_path), pytest.raises(BundleError, match="another build"):
        build_bundle(tmp_path / "bundle", parts)
    build_bundle(tmp_path / "bundle", parts)


class KilledError(BaseException):
    """What no handler expects."""


STEPS = (
    *((shutil, "copyfile"), (faiss, "write_index"), (pl.DataFrame, "write_parquet"), (np, "save")),
    *((module, "_write_manifest"), (module, "_check"), (module, "_exchange")),
)


def die_at(step: int | None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the build die before its step number `step`, from 0; returns the list of steps, which it fills."""
    taken: list[str] = []

    def counted(name: str, function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            taken.append(name)
            if len(taken) - 1 == step:
                raise KilledError
            return function(*arguments, **options)

        return call

    for owner, name in STEPS:
        monkeypatch.setattr(owner, name, counted(name, getattr(owner, name)))
    return taken


ORDER = (
    ["copyfile"] * 3
    + ["write_index", "write_parquet"]
    + ["save"] * 5
    + ["_write_manifest", "_check", "_exchange"]
)


@pytest.mark.parametrize("step", range(len(ORDER)))
def test_an_error_at_any_step_leaves_the_old_bundle(
    parts: Parts, copy: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    before = snapshot(copy.parent)
    taken = die_at(step, monkeypatch)
    with pytest.raises(KilledError):
        build_bundle(copy, dataclasses.replace(parts, dataset="other"))
    monkeypatch.undo()
    assert taken == ORDER[: step + 1]
    assert snapshot(copy.parent) == before
    check_bundle(copy)


def test_an_error_leaves_nothing_where_nothing_was(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = die_at(ORDER.index("_check"), monkeypatch)
    with pytest.raises(KilledError):
        build_bundle(tmp_path / "bundle", parts)
    monkeypatch.undo()
    assert taken[-1] == "_check"
    assert not list(tmp_path.iterdir())


def test_without_an_exchange_two_renames_do(
    parts: Parts, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_exchange", lambda one, other: False)
    before = snapshot(copy.parent)
    rename = Path.rename

    def second_fails(path: Path, target: Path) -> Path:
        if path.name == ".bundle.part":
            assert not copy.exists()  # the first is done
            raise KilledError
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", second_fails)
    with pytest.raises(KilledError):
        build_bundle(copy, dataclasses.replace(parts, dataset="other"))
    assert snapshot(copy.parent) == before
    monkeypatch.setattr(Path, "rename", rename)
    build_bundle(copy, dataclasses.replace(parts, dataset="other"))
    assert check_bundle(copy).dataset == "other"
    assert [p.name for p in copy.parent.iterdir()] == ["bundle"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux swaps two folders in one step")
def test_linux_swaps_in_one_step(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert module._exchange(tmp_path / "one", tmp_path / "other")
    assert (tmp_path / "one" / "other").exists()
    assert (tmp_path / "other" / "one").exists()
    assert not module._exchange(tmp_path / "one", tmp_path / "nothing")
    assert (tmp_path / "one" / "other").exists()


KILLED = """
import os, pickle, signal, sys
from pathlib import Path
from nanorecsys.serving import bundle
parts, target, when, exchange = pickle.load(open(sys.argv[1], "rb"))
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
if not exchange:
    bundle._exchange = lambda one, other: False
if when == "manifest":
    bundle._write_manifest = die
elif when == "before":
    bundle._put_in_place = die
elif when == "between":
    rename = Path.rename
    Path.rename = lambda self, to: die() if self.name.endswith(".part") else rename(self, to)
elif when == "after":
    put = bundle._put_in_place
    bundle._put_in_place = lambda *folders: (put(*folders), die())
bundle.build_bundle(target, parts)
"""


@pytest.mark.parametrize(
    ("when", "exchange", "leaves"),
    [
        ("manifest", True, "tiny"),
        ("before", True, "tiny"),
        ("after", True, "other"),
        ("between", False, None),
    ],
)
def test_a_killed_build_leaves_one_whole_bundle(
    parts: Parts, copy: Path, tmp_path: Path, when: str, exchange: bool, leaves: str | None
) -> None:
    other = dataclasses.replace(parts, dataset="other")
    (tmp_path / "script").mkdir()
    arguments = tmp_path / "script" / "arguments"
    arguments.write_bytes(pickle.dumps((other, copy, when, exchange)))
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(arguments)], capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert any(p.name.startswith(".bundle.") for p in tmp_path.iterdir())
    if leaves:
        assert check_bundle(copy).dataset == leaves
    else:  # the two renames of a system without an exchange: the next build brings it back, even one that fails
        assert not copy.exists()
        with pytest.raises(BundleError, match="Flatter"):
            build_bundle(copy, dataclasses.replace(other, index_factory="Flatter"))
        assert check_bundle(copy).dataset == "tiny"
    build_bundle(copy, other)
    assert check_bundle(copy).dataset == "other"
    assert {p.name for p in tmp_path.iterdir()} == {"bundle", "script"}


# Without torch

SERVE = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnx", "onnxscript", "nbformat", "papermill"):
            raise ModuleNotFoundError(f"No module named {name!r}")
sys.meta_path.insert(0, NoTorch())
from nanorecsys.serving.bundle import check_bundle, open_bundle
from nanorecsys.serving.encoder import encode_users
check_bundle(sys.argv[1])
bundle = open_bundle(sys.argv[1])
users = encode_users(bundle.encoder, bundle.histories, bundle.manifest.window)
scores = bundle.ranker.run(None, {"users": users, "items": bundle.index.search(users, 3)[1]})[0]
assert "torch" not in sys.modules
print(*scores.shape)
"""


def test_it_serves_where_torch_is_not_installed(built: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SERVE, str(built)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{N_USERS} 3\n"), done.stderr


def test_it_does_not_import_torch_where_it_is_installed(built: Path) -> None:
    code = (
        "import sys; from nanorecsys.serving.bundle import open_bundle; open_bundle(sys.argv[1]);"
    )
    code += (
        "print([m for m in sys.modules if m.partition('.')[0] in ('torch', 'onnx', 'nbformat')])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(built)], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


# The command


def write_chapter(
    run: Path, name: str, started: str, result: object, files: dict[str, str]
) -> None:
    record = Record(
        format=FORMAT,
        chapter=name,
        parameters={"window": WINDOW},
        provenance=made(f"commit of {name}", started),
        files=files,
        result=result,
    )
    write_record(run / name, record)


@pytest.fixture
def run(parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run called quick in a study of its own, without chapter 04."""
    root = tmp_path / "study"
    (root / "notebooks").mkdir(parents=True)
    monkeypatch.setenv("NANORECSYS_ROOT", str(root))
    folder = Layout(root).run("quick")
    counts = parts.histories.lengths
    user = np.repeat(np.array([0, 1, 2, 3], np.int32), counts[counts > 0])
    # every item has an event: the last user has met all
    user, item = (
        np.append(user, [4] * N_ITEMS),
        np.append(parts.histories.items, np.arange(N_ITEMS)),
    )
    interactions = Interactions(
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        rating=np.ones(len(user), np.float32),
        timestamp=np.arange(len(user)),
        ids_sha256=ids_sha256(pl.Series(parts.user_ids), parts.items["item_id"]),
    )
    users = pl.DataFrame(
        {"user": pl.Series(range(N_USERS), dtype=pl.Int32), "user_id": parts.user_ids}
    )
    dataset = Dataset("tiny", interactions, users, parts.items.drop("unused"))
    save_prepared(folder / "01_data", dataset, [leave_one_out(interactions)])
    write_chapter(folder, "01_data", "2026-01-01T00:00:00+00:00", {}, {})
    write_chapter(
        folder,
        "02_training",
        "2026-01-01T00:01:00+00:00",
        {"events_read": 4},
        {"item_vectors": "item_vectors.npy"},
    )
    np.save(folder / "02_training" / "item_vectors.npy", parts.item_vectors)
    names = {"tower": "int8.onnx", "tower_fp32": "fp32.onnx", "ranker": "ranker.onnx"}
    write_chapter(
        folder,
        "03_export",
        "2026-01-01T00:02:00+00:00",
        {"chosen": "int8_static", "chosen_is_int8": True},
        names,
    )
    for name in names.values():
        shutil.copy(parts.ranker.with_name(name), folder / "03_export" / name)
    return folder


def test_the_command_builds_from_a_run(run: Path) -> None:
    done = CliRunner().invoke(command.bundle, [])
    assert done.exit_code == 0, done.output
    for text in (
        *FILES,
        "all",
        "tower int8_static (int8)",
        "nanorecsys bundle --check data/runs/quick/bundle",
    ):
        assert text in done.output
    bundle: Bundle = open_bundle(run / "bundle")
    assert (bundle.manifest.index_factory, bundle.manifest.commit) == (
        "Flat",
        "commit of 03_export",
    )
    assert (bundle.manifest.window, bundle.manifest.events_read) == (WINDOW, 4)
    assert "the last 4 events read" in done.output.replace("\n", " ")
    assert bundle.histories.lengths.tolist() == [
        4,
        3,
        1,
        2,
        N_ITEMS,
    ]  # all events of all parts of the split
    assert bundle.popularity.sum() == 10 + N_ITEMS
    checked = CliRunner().invoke(command.bundle, ["--check", str(run / "bundle")])
    assert checked.exit_code == 0
    assert checked.output.count("KiB") == 1


def test_the_command_takes_the_recommended_index(run: Path, tmp_path: Path) -> None:
    spec = {"factory": "IVF2,SQ8", "search": "nprobe=2", "recall": 0.99}
    write_chapter(run, "04_ann", "2026-01-01T00:03:00+00:00", {"recommended": spec}, {})
    target = tmp_path / "elsewhere" / "b"
    assert CliRunner().invoke(command.bundle, ["quick", "--output", str(target)]).exit_code == 0
    assert check_bundle(target).index_search == "nprobe=2"
    assert isinstance(open_bundle(target).index, faiss.IndexIVFScalarQuantizer)


def test_an_index_that_is_fitted_on_users_gets_them_from_the_chapter(
    run: Path, tmp_path: Path
) -> None:
    spec = {"factory": "Users4,PQ4x4fs,RFlat", "search": "k_factor_rf=2"}
    write_chapter(run, "04_ann", "2026-01-01T00:03:00+00:00", {"recommended": spec}, {})
    with pytest.raises(NanorecsysError, match="04_ann lists no file 'training_queries'"):
        command.gather(run)
    np.save(run / "04_ann" / "users.npy", item_vectors(seed=5))
    write_chapter(
        run,
        "04_ann",
        "2026-01-01T00:03:00+00:00",
        {"recommended": spec},
        {"training_queries": "users.npy"},
    )
    parts = command.gather(run)
    build_bundle(tmp_path / "b", parts)
    projection = faiss.downcast_VectorTransform(
        faiss.downcast_index(parts.index.base_index).chain.at(0)
    )
    kept = faiss.vector_to_array(projection.A).reshape(4, D)
    assert kept == pytest.approx(users_projection(parts.item_vectors, item_vectors(seed=5), 4))
    served = open_bundle(tmp_path / "b").index
    faiss.ParameterSpace().set_index_parameters(parts.index, parts.index_search)
    assert np.array_equal(
        served.search(item_vectors(), 3)[1], parts.index.search(item_vectors(), 3)[1]
    )


@pytest.mark.parametrize("chapter", ["01_data", "02_training", "03_export"])
def test_a_missing_chapter_is_named(run: Path, chapter: str) -> None:
    shutil.rmtree(run / chapter)
    error = CliRunner().invoke(command.bundle, []).exception
    assert isinstance(error, NanorecsysError)
    assert chapter in error.message
    assert error.remedy == "nanorecsys run quick"
    assert not (run / "bundle").exists()


def test_a_run_that_is_half_renewed_is_refused(run: Path) -> None:
    write_chapter(
        run, "02_training", "2026-01-02T00:00:00+00:00", {}, {"item_vectors": "item_vectors.npy"}
    )
    with pytest.raises(NanorecsysError, match="03_export in run 'quick' is older than 02_training"):
        command.gather(run)


def test_a_record_without_a_file_is_named(run: Path) -> None:
    write_chapter(run, "02_training", "2026-01-01T00:01:00+00:00", {}, {})
    with pytest.raises(NanorecsysError, match="02_training lists no file 'item_vectors'"):
        command.gather(run)


def test_the_command_refuses_a_damaged_bundle(copy: Path) -> None:
    (copy / "index.faiss").unlink()
    done = CliRunner().invoke(command.bundle, ["--check", str(copy)])
    assert done.exit_code == 1
    assert isinstance(done.exception, BundleError)
    assert "index.faiss" in done.exception.message
    both = CliRunner().invoke(command.bundle, ["--check", str(copy), "--output", str(copy)])
    assert both.exit_code == 2
