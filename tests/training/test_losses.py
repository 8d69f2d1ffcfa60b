"""Every loss against a loop over targets and candidates, written from its formula."""

import math

import pytest
import torch

from nanorecsys.training import losses
from nanorecsys.training.losses import BCE, LOSSES, FullSoftmax, InBatch, SampledSoftmax

N, D, V = 9, 6, 20


def example():
    torch.manual_seed(0)
    users = (torch.randn(N, D, dtype=torch.float64) * 2).requires_grad_()
    table = torch.randn(V + 1, D, dtype=torch.float64).requires_grad_()
    targets = torch.randint(1, V + 1, (N,))
    targets[3] = targets[5]  # a repeat, so that in-batch negatives hit the target
    weights = torch.rand(N, dtype=torch.float64) / N
    counts = torch.cat([torch.zeros(1), torch.randint(1, 30, (V,))]).double()
    had = torch.rand(N, V + 1) < 0.3
    had[torch.arange(N), targets] = False
    return users, table, targets, had, weights, counts


def sigmoid(x):
    return 1 / (1 + torch.exp(-x))


def full(s, t, had, candidates, counts):
    return torch.log(sum(torch.exp(s[j]) for j in range(1, V + 1) if not had[j])) - s[t]


def sampled(s, t, had, candidates, counts):
    rest = sum(torch.exp(s[j]) for j in candidates.tolist() if j != t and not had[j])
    return torch.log(torch.exp(s[t]) + V / len(candidates) * rest) - s[t]


def in_batch(s, t, had, candidates, counts):
    total = torch.exp(s[t])
    for j in candidates.tolist():
        if j != t and not had[j]:
            q = counts[j] / counts.sum()
            total = total + torch.exp(s[j] - math.log(len(candidates) * q))
    return torch.log(total) - s[t]


def bce(s, t, had, candidates, counts):
    negatives = [torch.log(1 - sigmoid(s[j])) for j in candidates.tolist() if j != t and not had[j]]
    return -torch.log(sigmoid(s[t])) - sum(negatives) / len(candidates)


CASES = {
    "full_softmax": (FullSoftmax(), full),
    "sampled_softmax": (SampledSoftmax(k=5), sampled),
    "in_batch": (InBatch(), in_batch),
    "bce": (BCE(k=5), bce),
}


def both(name, monkeypatch):
    # Several chunks, the last one short.
    monkeypatch.setattr(losses, "CHUNK", 4)
    loss, naive = CASES[name]
    users, table, targets, had, weights, counts = example()
    candidates = loss.candidates(targets, counts, torch.Generator().manual_seed(1))
    fast = loss(users, table, targets, had, weights, candidates, counts)
    slow = sum(
        weights[n] * naive(table @ users[n], int(targets[n]), had[n], candidates, counts)
        for n in range(N)
    )
    return users, table, fast, slow


def test_every_loss_is_tested():
    assert CASES.keys() == LOSSES.keys()
    assert all(type(CASES[name][0]) is type(loss) for name, loss in LOSSES.items())


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradients_equal_a_loop(name, monkeypatch):
    users, table, fast, slow = both(name, monkeypatch)
    torch.testing.assert_close(fast, slow)
    got, wanted = (torch.autograd.grad(loss, (users, table)) for loss in (fast, slow))
    for mine, loop in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, loop)


@pytest.mark.parametrize("name", CASES)
def test_a_better_target_lowers_the_loss(name):
    users, table, targets, had, weights, counts = example()
    loss = CASES[name][0]
    candidates = loss.candidates(targets, counts, torch.Generator().manual_seed(1))
    before = loss(users, table, targets, had, weights, candidates, counts)
    (towards,) = torch.autograd.grad(before, users)
    assert loss(users - 10 * towards, table, targets, had, weights, candidates, counts) < before


@pytest.mark.parametrize("name", CASES)
def test_candidates_are_items_and_repeat_with_the_seed(name):
    _, _, targets, _, _, counts = example()
    draws = [
        CASES[name][0].candidates(targets, counts, torch.Generator().manual_seed(3))
        for _ in range(2)
    ]
    if name == "full_softmax":
        assert draws == [None, None]
    else:
        assert torch.equal(*draws)
        assert draws[0].min() >= 1
        assert draws[0].max() <= V


@pytest.mark.parametrize("name", CASES)
def test_a_catalogue_of_one_item_has_a_finite_loss_and_gradient(name):
    users, table = torch.randn(4, D, requires_grad=True), torch.randn(2, D, requires_grad=True)
    targets, counts = torch.ones(4, dtype=torch.int64), torch.tensor([0, 4])
    loss = LOSSES[name]
    candidates = loss.candidates(targets, counts, torch.Generator())
    value = loss(
        users,
        table,
        targets,
        torch.zeros(4, 2, dtype=torch.bool),
        torch.full((4,), 0.25),
        candidates,
        counts,
    )
    value.backward()
    assert value.isfinite()
    assert users.grad.isfinite().all()


def test_sampled_softmax_estimates_the_full_one():
    users, table, targets, had, weights, counts = example()
    generator = torch.Generator().manual_seed(0)
    loss = SampledSoftmax(k=20_000)
    candidates = loss.candidates(targets, counts, generator)
    estimate = loss(users, table, targets, had, weights, candidates, counts)
    exact = FullSoftmax()(users, table, targets, had, weights, None, counts)
    assert estimate.item() == pytest.approx(exact.item(), rel=0.02)
