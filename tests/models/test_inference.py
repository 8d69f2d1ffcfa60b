"""PyTorch as an engineer would serve it: own lengths, compiled where the machine can. 30 s."""

import numpy as np
import pytest
import torch

from nanorecsys.data import Histories
from nanorecsys.models import inference
from nanorecsys.models.inference import TorchEncoder, missing_compiler
from nanorecsys.models.retriever import EveryPosition
from nanorecsys.serving.encoder import encode_users
from tests.export.conftest import small_encoder

WINDOW = 10


@pytest.fixture(scope="module")
def histories():
    lengths = [0, 1, 2, 3, 5, 9, 10, 14]
    rng = np.random.default_rng(0)
    items = rng.integers(0, 40, sum(lengths)).astype(np.int32)
    return Histories(np.concatenate([[0], np.cumsum(lengths)]), items)


@pytest.mark.parametrize("layers", [1, 3])
def test_a_history_is_encoded_alike_at_its_own_length_and_padded(layers, histories):
    encoder = small_encoder(layers=layers)
    own = encode_users(TorchEncoder(encoder), histories, WINDOW, batch_tokens=1)
    whole = encode_users(TorchEncoder(EveryPosition(encoder)), histories, WINDOW)
    np.testing.assert_allclose(own, whole, atol=1e-5)


@pytest.mark.skipif(bool(missing_compiler()), reason="torch.compile needs a C++ compiler")
def test_compiled_equals_eager_at_any_length_and_batch_and_is_compiled_once(histories):
    torch.compiler.reset()
    encoder = small_encoder(layers=1)
    compiled = TorchEncoder(encoder, compiled=True)
    assert compiled.why_eager == ""
    assert compiled.compile_s > 0
    with torch.compiler.set_stance("fail_on_recompile"):
        for tokens in (1, 1000):
            found = encode_users(compiled, histories, WINDOW, batch_tokens=tokens)
            expected = encode_users(TorchEncoder(encoder), histories, WINDOW, batch_tokens=tokens)
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_without_a_compiler_it_says_why_and_stays_eager(histories, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    encoder = small_encoder()
    found = TorchEncoder(encoder, compiled=True)
    assert "no-such-compiler" in found.why_eager
    assert found.compile_s == 0
    expected = encode_users(TorchEncoder(encoder), histories, WINDOW)
    np.testing.assert_array_equal(encode_users(found, histories, WINDOW), expected)


def test_a_failed_compilation_says_why_and_stays_eager(histories, monkeypatch):
    def fails(module, dynamic):
        def call(*_):
            raise RuntimeError("\nno header Python.h\nand more")

        return call

    monkeypatch.setattr(inference.torch, "compile", fails)
    encoder = small_encoder()
    found = TorchEncoder(encoder, compiled=True)
    assert found.why_eager == "torch.compile failed: no header Python.h"
    expected = encode_users(TorchEncoder(encoder), histories, WINDOW)
    np.testing.assert_array_equal(encode_users(found, histories, WINDOW), expected)
