"""`nanorecsys bundle`: a bundle from a finished run."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from nanorecsys import cli
from nanorecsys.ann import bundle as command
from nanorecsys.ann.indexes import users_projection
from nanorecsys.data import Dataset, Interactions, leave_one_out, save_prepared
from nanorecsys.data.load import ids_sha256
from nanorecsys.serving.bundle import FILES, Parts, build_bundle, check_bundle, open_bundle
from nanorecsys.serving.errors import BundleError
from nanorecsys.serving.retrieval import FaissIndex
from nanorecsys.study.layout import Layout
from nanorecsys.study.records import FORMAT, Record, write_record
from nanorecsys.system.blas import faiss
from nanorecsys.system.errors import NanorecsysError
from tests.records import example_provenance as made
from tests.serving.small_bundle import N_ITEMS, N_USERS, WINDOW, D, item_vectors, small_parts

TRAINED = {"events_read": 4, "serves_ranker": True}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return small_parts(tmp_path_factory.mktemp("parts"))


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
    """A finished run called quick in a separate study, without chapter 04."""
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
        ids_sha256=ids_sha256(pd.Series(parts.user_ids), parts.items["item_id"]),
    )
    users = pd.DataFrame({"user": np.arange(N_USERS, dtype=np.int32), "user_id": parts.user_ids})
    dataset = Dataset("tiny", interactions, users, parts.items)
    save_prepared(folder / "01_data", dataset, [leave_one_out(interactions)])
    write_chapter(folder, "01_data", "2026-01-01T00:00:00+00:00", {}, {})
    write_chapter(
        folder,
        "02_training",
        "2026-01-01T00:01:00+00:00",
        TRAINED,
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
        source = "int8.onnx" if name == "fp32.onnx" else name
        shutil.copy(parts.ranker.with_name(source), folder / "03_export" / name)
    return folder


def test_the_command_builds_from_a_run(run: Path) -> None:
    done = CliRunner().invoke(cli.bundle, [])
    assert done.exit_code == 0, done.output
    for text in (
        *FILES,
        "tower int8_static (int8)",
        "nanorecsys bundle --check data/runs/quick/bundle",
    ):
        assert text in done.output
    bundle = open_bundle(run / "bundle")
    assert (bundle.manifest.index_factory, bundle.manifest.commit) == (
        "Flat",
        "commit of 03_export",
    )
    assert (bundle.manifest.window, bundle.manifest.events_read) == (WINDOW, 4)
    assert "the last 4 events read" in done.output
    assert bundle.histories.lengths.tolist() == [
        4,
        3,
        1,
        2,
        N_ITEMS,
    ]  # all events of all parts of the split
    assert bundle.popularity.sum() == 10 + N_ITEMS
    checked = CliRunner().invoke(cli.bundle, ["--check", str(run / "bundle")])
    assert checked.exit_code == 0
    assert checked.output.count("KiB") == len(FILES)


def test_the_tower_in_fp32_is_found_beside_the_chosen_one(run: Path, tmp_path: Path) -> None:
    assert command.fp32_tower(run) == run / "03_export" / "fp32.onnx"
    assert command.gather(run).tower == run / "03_export" / "int8.onnx"
    with pytest.raises(NanorecsysError, match="03_export"):
        command.fp32_tower(tmp_path / "none")


def test_the_command_takes_the_recommended_index(run: Path, tmp_path: Path) -> None:
    spec = {"factory": "IVF2,SQ8", "search": "nprobe=2", "recall": 0.99}
    write_chapter(run, "04_ann", "2026-01-01T00:03:00+00:00", {"recommended": spec}, {})
    target = tmp_path / "elsewhere" / "b"
    assert CliRunner().invoke(cli.bundle, ["quick", "--output", str(target)]).exit_code == 0
    assert check_bundle(target).index_search == "nprobe=2"
    assert isinstance(open_bundle(target).index.index, faiss.IndexIVFScalarQuantizer)


def test_an_index_that_is_fitted_on_users_gets_them_from_the_chapter(
    run: Path, tmp_path: Path
) -> None:
    spec = {"factory": "Users4,PQ4x4fs,RFlat", "search": "k_factor_rf=2"}
    write_chapter(run, "04_ann", "2026-01-01T00:03:00+00:00", {"recommended": spec}, {})
    with pytest.raises(NanorecsysError, match="04_ann has no 'training_queries' in its files"):
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
    assert kept == pytest.approx(
        users_projection(spec["factory"], parts.item_vectors, item_vectors(seed=5))
    )
    served = open_bundle(tmp_path / "b").index
    faiss.ParameterSpace().set_index_parameters(parts.index, parts.index_search)
    assert np.array_equal(
        served.search(item_vectors(), 3)[1], parts.index.search(item_vectors(), 3)[1]
    )


def write_training(run: Path, result: dict[str, object]) -> None:
    files = {"item_vectors": "item_vectors.npy"}
    write_chapter(run, "02_training", "2026-01-01T00:01:00+00:00", result, files)


def test_a_second_choice_comes_from_the_chapter(run: Path, monkeypatch) -> None:
    first = {"factory": "lorann:clusters=2", "search": "clusters=2,rerank=20"}
    second = {"factory": "IVF2,SQ8", "search": "nprobe=2"}
    result = {"recommended": first, "second_choice": second}
    write_chapter(run, "04_ann", "2026-01-01T00:03:00+00:00", result, {})
    built = []

    def build_index(factory: str, vectors: np.ndarray, users: object = None) -> FaissIndex:
        built.append(factory)
        return FaissIndex(faiss.index_factory(D, "Flat"))

    monkeypatch.setattr("nanorecsys.ann.bundle.build_index", build_index)
    parts = command.gather(run)
    assert built == [first["factory"], second["factory"]]
    assert (parts.index_factory, parts.index_search) == tuple(first.values())
    assert isinstance(parts.index, FaissIndex)
    assert (parts.second.factory, parts.second.search) == tuple(second.values())
    assert isinstance(parts.second.index, faiss.Index)


def test_a_ranker_that_is_not_served_is_left_out_unless_the_caller_asks(run: Path) -> None:
    write_training(run, TRAINED | {"serves_ranker": False})
    done = CliRunner().invoke(cli.bundle, [])
    assert done.exit_code == 0, done.output
    assert "ranker.onnx" not in done.output
    assert open_bundle(run / "bundle").ranker is None
    assert command.gather(run, with_ranker=True).ranker == run / "03_export" / "ranker.onnx"


def test_an_older_record_that_does_not_judge_the_ranker_is_refused(run: Path) -> None:
    write_training(run, {"events_read": 4})
    with pytest.raises(NanorecsysError, match="02_training has no 'serves_ranker'") as error:
        command.gather(run)
    assert error.value.remedy == "nanorecsys run quick --only 02_training --force"


@pytest.mark.parametrize("chapter", ["01_data", "02_training", "03_export"])
def test_a_missing_chapter_is_named(run: Path, chapter: str) -> None:
    shutil.rmtree(run / chapter)
    error = CliRunner().invoke(cli.bundle, []).exception
    assert isinstance(error, NanorecsysError)
    assert chapter in error.message
    assert error.remedy == f"nanorecsys run quick --only {chapter}"
    assert not (run / "bundle").exists()


def test_a_run_that_is_half_renewed_is_refused(run: Path) -> None:
    write_chapter(
        run,
        "02_training",
        "2026-01-02T00:00:00+00:00",
        TRAINED,
        {"item_vectors": "item_vectors.npy"},
    )
    with pytest.raises(NanorecsysError, match="03_export in run 'quick' is older than 02_training"):
        command.gather(run)


def test_an_index_that_is_older_than_the_encoder_is_refused(run: Path) -> None:
    spec = {"factory": "IVF2,SQ8", "search": "nprobe=2"}
    write_chapter(run, "04_ann", "2026-01-01T00:01:30+00:00", {"recommended": spec}, {})
    with pytest.raises(NanorecsysError, match="04_ann in run 'quick' is older than 03_export"):
        command.gather(run)


def test_a_record_without_a_file_is_named(run: Path) -> None:
    write_chapter(run, "02_training", "2026-01-01T00:01:00+00:00", {}, {})
    with pytest.raises(NanorecsysError, match="02_training has no 'item_vectors' in its files"):
        command.gather(run)


def test_the_command_refuses_a_damaged_bundle(parts: Parts, tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    build_bundle(target, parts)
    (target / "index.faiss").unlink()
    done = CliRunner().invoke(cli.bundle, ["--check", str(target)])
    assert done.exit_code == 1
    assert isinstance(done.exception, BundleError)
    assert "index.faiss" in done.exception.message
    both = CliRunner().invoke(cli.bundle, ["--check", str(target), "--output", str(target)])
    assert both.exit_code == 2
