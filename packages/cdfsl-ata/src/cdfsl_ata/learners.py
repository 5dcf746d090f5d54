"""Episodic learners: an encoder and a head that scores the queries of an episode given its support set (section 6).

An episode is [n_way, n_support + n_query, ...], the first `n_support` of each class being its support set. Scores are
[n_way n_query, n_way], class by class. A learner called on an episode's images gives its loss, so that it is what
`AdversarialTaskAugmenter` takes.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cdfsl_ata.encoders import init_convolutions


class Learner(nn.Module):
    """Base of all heads.

    Args:
        feature: images [n, channels, h, w] -> [n, dim], or [n, channels, h', w'] for heads on maps.
        n_support: images a class in the support set.

    Raises:
        ValueError: `n_support` below 1.
    """

    def __init__(self, feature: nn.Module, n_support: int) -> None:
        super().__init__()
        if n_support < 1:
            raise ValueError(f"n_support: expected at least 1, got {n_support}")
        self.feature, self.n_support = feature, n_support

    def forward(self, images: Tensor) -> Tensor:
        """The episode's loss, scalar, of images [n_way, n_support + n_query, channels, h, w]."""
        return self.loss(self.scores(images))

    def scores(self, images: Tensor) -> Tensor:
        """[n_way n_query, n_way] of images [n_way, n_support + n_query, channels, h, w].

        Raises:
            ValueError: an episode without queries, or of another form.
        """
        if images.ndim < 3 or images.shape[1] <= self.n_support:
            raise ValueError(
                f"images: expected [n_way, {self.n_support} + n_query, ...] with queries, got {list(images.shape)}"
            )
        encoded = self.feature(images.flatten(0, 1))
        return self.head(encoded.view(*images.shape[:2], *encoded.shape[1:]))

    def head(self, z: Tensor) -> Tensor:
        """Scores of encoder outputs [n_way, n_support + n_query, ...]."""
        raise NotImplementedError

    def loss(self, scores: Tensor) -> Tensor:
        """Mean over the queries; cross-entropy as a rule."""
        return F.cross_entropy(scores, query_labels(scores))

    def features(self, images: Tensor) -> Tensor:
        """One vector a image, [n_way (n_support + n_query), dim]; maps are averaged over space."""
        encoded = self.feature(images.flatten(0, 1))
        return encoded.mean(dim=(2, 3)) if encoded.ndim == 4 else encoded

    def split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Support [n_way, n_support, ...] and queries [n_way, n_query, ...]."""
        return z[:, : self.n_support], z[:, self.n_support :]


def query_labels(scores: Tensor) -> Tensor:
    """0, ..., 0, 1, ..., 1, ...: int64 [n_way n_query], for scores [n_way n_query, n_way]."""
    n_way = scores.shape[1]
    return torch.arange(n_way, device=scores.device).repeat_interleave(len(scores) // n_way)


class ProtoNet(Learner):
    """Minus the squared Euclidean distance to the mean of each class's support (6.1)."""

    def head(self, z: Tensor) -> Tensor:
        """Scores of vectors [n_way, n_support + n_query, dim]."""
        support, query = self.split(z)
        return -(query.flatten(0, 1)[:, None] - support.mean(dim=1)).square().sum(dim=2)


class LstmCell(nn.Module):
    """An LSTM cell with the names of the published checkpoints; gates in the order input, forget, cell, output."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.x2h, self.h2h = nn.Linear(width_in, 4 * width), nn.Linear(width, 4 * width)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(width**-0.5), width**-0.5)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Next hidden and cell state, [batch, width] each."""
        i, f, g, o = (self.x2h(x) + self.h2h(h)).chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class _Encoder(nn.Module):
    """Holds the support's cell under its published name."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.lstm = LstmCell(dim, dim)


class _Attention(nn.Module):
    """Holds the queries' cell under its published name."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.lstmcell = LstmCell(2 * dim, dim)


class MatchingNet(Learner):
    """Cosine attention over fully contextual embeddings (6.2).

    Args:
        feature, n_support: see `Learner`.
        dim: of the features.
        order: of the backward pass over the support set: `published` visits rows 0, N-1, ..., 1 and adds output i to
            row i; `correct` visits N-1, ..., 0 and adds each output to its own row.
    """

    def __init__(
        self, feature: nn.Module, n_support: int, dim: int = 512, order: Literal["published", "correct"] = "published"
    ) -> None:
        super().__init__(feature, n_support)
        if order not in ("published", "correct"):
            raise ValueError(f"order: expected 'published' or 'correct', got {order!r}")
        self.FCE, self.G_encoder, self.order = _Attention(dim), _Encoder(dim), order

    def head(self, z: Tensor) -> Tensor:
        """Log-probabilities of vectors [n_way, n_support + n_query, dim]; the 1e-6 keeps them from summing to 1."""
        support, query = (part.flatten(0, 1) for part in self.split(z))
        context = self.encode_support(support)
        read = self.attend(query, context)
        cosine = unit(read) @ unit(context).T
        attention = (100 * cosine.relu()).softmax(dim=1)
        labels = torch.eye(len(z), dtype=z.dtype, device=z.device).repeat_interleave(self.n_support, dim=0)
        return (attention @ labels + 1e-6).log()

    def loss(self, scores: Tensor) -> Tensor:
        """Negative log-likelihood."""
        return F.nll_loss(scores, query_labels(scores))

    def encode_support(self, support: Tensor) -> Tensor:
        """G [N, dim]: the rows with a forward and a backward pass of one LSTM cell added."""
        count = len(support)
        forward = list(range(count))
        back = [0, *range(count - 1, 0, -1)] if self.order == "published" else forward[::-1]
        there, back_again = self._run(support[forward]), self._run(support[back])
        return support + there + (back_again if self.order == "published" else back_again.flip(0))

    def attend(self, query: Tensor, context: Tensor) -> Tensor:
        """As many attention steps as there are rows of context: h <- cell([f; a G]) + f with a = softmax(h G^T)."""
        hidden, cell = query, torch.zeros_like(query)
        for _ in range(len(context)):
            read = (hidden @ context.T).softmax(dim=1) @ context
            hidden, cell = self.FCE.lstmcell(torch.cat([query, read], dim=1), hidden, cell)
            hidden = hidden + query
        return hidden

    def _run(self, rows: Tensor) -> Tensor:
        hidden = cell = torch.zeros_like(rows[:1])
        outputs = []
        for row in rows:
            hidden, cell = self.G_encoder.lstm(row[None], hidden, cell)
            outputs.append(hidden)
        return torch.cat(outputs)


def unit(x: Tensor) -> Tensor:
    """x / (|x| + 1e-5), row by row."""
    return x / (x.norm(dim=1, keepdim=True) + 1e-5)


class RelationBlock(nn.Module):
    """conv3x3, batch normalisation by the episode's own statistics always, ReLU, max-pooling by 2."""

    def __init__(self, width_in: int, width_out: int, padding: int) -> None:
        super().__init__()
        self.C = nn.Conv2d(width_in, width_out, 3, padding=padding)
        self.BN = nn.BatchNorm2d(width_out, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        """[pairs, width_in, h, w] -> [pairs, width_out, ...]."""
        return self.after_convolution(self.C(x))

    def after_convolution(self, y: Tensor) -> Tensor:
        """Everything but the convolution."""
        return F.max_pool2d(F.relu(self.BN(y)), 2)


class RelationModule(nn.Module):
    """How alike a prototype and a query are: two blocks and two linear layers on their maps.

    Args:
        channels, size: of the encoder's maps, [channels, size, size].
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        padding = 1 if size < 10 else 0
        self.layer1 = RelationBlock(2 * channels, channels, padding)
        self.layer2 = RelationBlock(channels, channels, padding)
        for _ in range(2):
            size = (size - 2 + 2 * padding) // 2
        self.fc1, self.fc2 = nn.Linear(channels * size**2, 8), nn.Linear(8, 1)
        init_convolutions(self)

    def forward(self, pairs: Tensor) -> Tensor:
        """[pairs, 2 channels, size, size] -> [pairs, 1], before the sigmoid."""
        return self.after_first(self.layer1(pairs))

    def compare(self, prototypes: Tensor, queries: Tensor) -> Tensor:
        """`forward` of all pairs (prototype, query), query by query, without making the pairs.

        The first convolution is linear in its input: its two halves see each prototype and each query once, and their
        outputs are added for every pair. For n_way prototypes that is about 2 n_way times less work.

        Args:
            prototypes: [n_way, channels, size, size].
            queries: [n, channels, size, size].

        Returns:
            [n n_way, 1], before the sigmoid.
        """
        first = self.layer1.C
        to_prototype, to_query = first.weight.chunk(2, dim=1)
        ours = F.conv2d(prototypes, to_prototype, first.bias, padding=first.padding)
        theirs = F.conv2d(queries, to_query, padding=first.padding)
        return self.after_first(self.layer1.after_convolution((ours + theirs[:, None]).flatten(0, 1)))

    def after_first(self, maps: Tensor) -> Tensor:
        """The second block and the linear layers."""
        return self.fc2(F.relu(self.fc1(self.layer2(maps).flatten(1))))


class RelationNet(Learner):
    """A learned relation of every query to every prototype map (6.3).

    Args:
        feature, n_support: see `Learner`; the encoder gives maps.
        channels, size: of the maps.
        objective: `mse` of sigmoids against one-hot labels, as the paper has it, or `softmax` cross-entropy.
    """

    def __init__(
        self,
        feature: nn.Module,
        n_support: int,
        channels: int = 512,
        size: int = 7,
        objective: Literal["mse", "softmax"] = "mse",
    ) -> None:
        super().__init__(feature, n_support)
        if objective not in ("mse", "softmax"):
            raise ValueError(f"objective: expected 'mse' or 'softmax', got {objective!r}")
        self.relation_module, self.objective = RelationModule(channels, size), objective

    def head(self, z: Tensor) -> Tensor:
        """Scores of maps [n_way, n_support + n_query, channels, size, size]."""
        support, query = self.split(z)
        relations = self.relation_module.compare(support.mean(dim=1), query.flatten(0, 1))
        return self.activation(relations.view(-1, len(z)))

    def pairs(self, z: Tensor) -> Tensor:
        """(prototype, query) by channels, [n_way n_query n_way, 2 channels, size, size], query by query."""
        support, query = self.split(z)
        prototypes, queries = support.mean(dim=1), query.flatten(0, 1)
        count = len(queries)
        both = [prototypes.expand(count, *prototypes.shape), queries[:, None].expand(-1, len(z), -1, -1, -1)]
        return torch.cat(both, dim=2).flatten(0, 1)

    def relations(self, pairs: Tensor, n_way: int) -> Tensor:
        """Raw relations [queries, n_way]."""
        return self.relation_module(pairs).view(-1, n_way)

    def activation(self, relations: Tensor) -> Tensor:
        """The sigmoid for `mse`."""
        return relations.sigmoid() if self.objective == "mse" else relations

    def loss(self, scores: Tensor) -> Tensor:
        """Mean squared error against one-hot labels, or cross-entropy."""
        if self.objective == "softmax":
            return super().loss(scores)
        return F.mse_loss(scores, F.one_hot(query_labels(scores), scores.shape[1]).to(scores))
