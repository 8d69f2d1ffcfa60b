"""The losses of the retriever, all with one signature, so that an ablation is a parameter.

Every loss maps users' vectors, the item table and the targets to one number,

    loss = sum_n w_n l_n,

where l_n is the loss of target n, t its item, and s_j = u_n . v_j the logit of item j, with u_n the
user's vector divided by the temperature. V is the number of items. H is what the user had before
the target: a ranking leaves these items out, so no loss pushes the user away from them. The weights
carry the mean: it has to be one over the global batch, of which a process may hold a share only.
`candidates` draws the items that a whole global batch shares.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

# Targets that the full softmax handles at once: their logits stay in a last-level cache, and never
# exist for a whole batch (at 4,000 targets and 27k items they would take 430 MB).
CHUNK = 512


@dataclass(frozen=True)
class Loss(ABC):
    """What the training loop needs of a loss.

    Args:
        k: Number of uniform negatives that the global batch shares, in losses that draw any.
    """

    k: int = 256

    def candidates(
        self, targets: Tensor, counts: Tensor, generator: torch.Generator
    ) -> Tensor | None:
        """Items that every target competes with, int64 (C,), repeats allowed; None for all items.

        Args:
            targets: Targets of the global batch, int64 (N,).
            counts: Events of each item in training, (V + 1,).
            generator: Random generator on the CPU, in the same state in every process.
        """
        return torch.randint(1, len(counts), (self.k,), generator=generator).to(counts.device)

    @abstractmethod
    def __call__(self, users, table, targets, had, weights, candidates, counts) -> Tensor:
        """The loss, a scalar tensor. All arguments are tensors.

        Args:
            users: User vectors divided by the temperature, (N, D).
            table: Item vectors, (V + 1, D); row 0 is padding and never a candidate.
            targets: Targets, int64 (N,), from 1.
            had: Items in H, bool (N, V + 1); never a target.
            weights: Weights of the targets, (N,), in the precision that logits are summed in.
            candidates: Items from `candidates`.
            counts: Events of each item in training, (V + 1,).
        """


class FullSoftmax(Loss):
    """Cross entropy over the catalogue without H: l = log sum_{j not in H} exp s_j - s_t.

    Computed with its gradient chunk by chunk, so that the logits of a batch never exist (the idea
    of Wijmans et al. 2024, Cut your losses in large-vocabulary language models).
    """

    def candidates(self, targets: Tensor, counts: Tensor, generator: torch.Generator) -> None:
        return None

    def __call__(self, users, table, targets, had, weights, candidates, counts):
        return _FullSoftmax.apply(users, table[1:], targets - 1, had[:, 1:], weights)


class _FullSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, users, items, targets, had, weights):
        device, dtype = users.device.type, users.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        u, v = users.to(dtype), items.to(dtype)
        loss = weights.new_zeros(())
        users_grad = torch.empty_like(u)
        items_grad = torch.zeros_like(items)
        for start in range(0, len(u), CHUNK):
            part = slice(start, start + CHUNK)
            target, weight = targets[part, None], weights[part, None]
            logits = (u[part] @ v.T).masked_fill_(had[part], -torch.inf)  # (CHUNK, V)
            log_p = logits.log_softmax(1, dtype=weights.dtype)
            loss -= (weight * log_p.gather(1, target)).sum()
            # d loss / d s = w (softmax - onehot), in place of the log-probabilities
            grad = log_p.exp_().mul_(weight).scatter_add_(1, target, -weight).to(dtype)
            users_grad[part] = grad @ v
            items_grad += grad.T @ u[part]
        ctx.save_for_backward(users_grad, items_grad)
        ctx.dtype = users.dtype
        return loss

    @staticmethod
    def backward(ctx, grad):
        users_grad, items_grad = ctx.saved_tensors
        return users_grad.to(ctx.dtype) * grad, items_grad * grad, None, None, None


class SampledSoftmax(Loss):
    """Cross entropy over the target and k uniform negatives S that the batch shares:

        l = log(exp s_t + V / k * sum_{j in S \\ H, j != t} exp s_j) - s_t

    The factor makes the sum an unbiased estimate of the full one (Jean et al. 2015, On using very
    large target vocabulary for neural machine translation, section 3, with a uniform proposal).
    """

    def __call__(self, users, table, targets, had, weights, candidates, counts):
        positive, negative = _logits(users, table, targets, had, candidates)
        negative = negative - self.expected(candidates, counts).log()
        log_sum = torch.cat([positive[:, None], negative], 1).logsumexp(1)
        return weights @ (log_sum - positive)

    def expected(self, candidates: Tensor, counts: Tensor) -> Tensor:
        """Expected number of times that a candidate is drawn, (C,) or one for all."""
        return torch.tensor(self.k / (len(counts) - 1))


class InBatch(SampledSoftmax):
    """InfoNCE over the batch's own targets B, logQ-corrected since popular items occur more often:

        l = log(exp s_t + sum_{j in B \\ H, j != t} exp(s_j - log(|B| q_j))) - s_t,  q_j = count_j /
        sum_i count_i

    (Yi et al. 2019, Sampling-bias-corrected neural modeling, eq. 3; but the positive is in the sum
    for certain and so not corrected: Khrylchenko et al. 2025, Correcting the logQ correction.)
    """

    def candidates(self, targets: Tensor, counts: Tensor, generator: torch.Generator) -> Tensor:
        return targets

    def expected(self, candidates: Tensor, counts: Tensor) -> Tensor:
        return len(candidates) * counts[candidates] / counts.sum()


class BCE(Loss):
    """Binary cross entropy against k uniform negatives S that the batch shares, averaged:

        l = -log sigma(s_t) - 1/k sum_{j in S \\ H, j != t} log(1 - sigma(s_j))

    (Kang and McAuley 2018, Self-attentive sequential recommendation, eq. 6, in expectation over its
    one negative.)
    """

    def __call__(self, users, table, targets, had, weights, candidates, counts):
        positive, negative = _logits(users, table, targets, had, candidates)
        return weights @ (
            functional.softplus(-positive) + functional.softplus(negative).sum(1) / self.k
        )


LOSSES: dict[str, Loss] = {
    "full_softmax": FullSoftmax(),
    "sampled_softmax": SampledSoftmax(k=1024),
    "in_batch": InBatch(),
    "bce": BCE(),
}


def _logits(
    users: Tensor, table: Tensor, targets: Tensor, had: Tensor, candidates: Tensor
) -> tuple[Tensor, Tensor]:
    """Logits of targets (N,) and candidates (N, C); -inf if a candidate is the target or in H."""
    positive = (users * table[targets]).sum(1)
    negative = (users @ table[candidates].T).to(positive.dtype)
    return positive, negative.masked_fill(
        (targets[:, None] == candidates) | had[:, candidates], -torch.inf
    )
