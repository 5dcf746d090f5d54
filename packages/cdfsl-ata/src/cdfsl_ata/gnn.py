"""The graph neural network head (6.4): labels travel over a learned graph of support and query images."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cdfsl_ata.learners import Learner


class EdgeNetwork(nn.Module):
    """A row-stochastic adjacency without loops from |v_i - v_j|: four 1x1 convolutions, one more to a scalar, softmax.

    Args:
        dim: of a node.
        width: nf; hidden widths are 2 nf, 2 nf, nf, nf.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        widths = (dim, 2 * width, 2 * width, width, width)
        for number in range(1, 5):
            self.add_module(f"conv2d_{number}", nn.Conv2d(widths[number - 1], widths[number], 1))
            self.add_module(f"bn_{number}", nn.BatchNorm2d(widths[number], track_running_stats=False))
        self.conv2d_last = nn.Conv2d(width, 1, 1)

    def forward(self, nodes: Tensor) -> Tensor:
        """[graphs, nodes, dim] -> [graphs, nodes, nodes]."""
        edges = (nodes[:, :, None] - nodes[:, None]).abs().permute(0, 3, 2, 1)
        for number in range(1, 5):
            convolution, norm = self.get_submodule(f"conv2d_{number}"), self.get_submodule(f"bn_{number}")
            edges = F.leaky_relu(norm(convolution(edges)))
        scores = self.conv2d_last(edges)[:, 0].transpose(1, 2)
        loops = 1e8 * torch.eye(nodes.shape[1], dtype=nodes.dtype, device=nodes.device)
        return (scores - loops).softmax(dim=2)


class GraphConvolution(nn.Module):
    """Linear([V; E V]), with batch normalisation over all nodes of all graphs but in the last layer."""

    def __init__(self, dim: int, width: int, *, norm: bool = True) -> None:
        super().__init__()
        self.fc = nn.Linear(2 * dim, width)
        self.bn = nn.BatchNorm1d(width, track_running_stats=False) if norm else None

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        """[graphs, nodes, dim] -> [graphs, nodes, width]."""
        outputs = self.fc(torch.cat([nodes, adjacency @ nodes], dim=2))
        return outputs if self.bn is None else self.bn(outputs.flatten(0, 1)).view_as(outputs)


class GraphNetwork(nn.Module):
    """Two layers that append nf / 2 features to each node, and one that scores.

    Args:
        dim: of a node, labels included.
        width: nf of the edge networks.
        n_way: scores a node.
    """

    def __init__(self, dim: int, width: int, n_way: int) -> None:
        super().__init__()
        new = width // 2
        self.layer_w0, self.layer_l0 = EdgeNetwork(dim, width), GraphConvolution(dim, new)
        self.layer_w1, self.layer_l1 = EdgeNetwork(dim + new, width), GraphConvolution(dim + new, new)
        self.w_comp_last = EdgeNetwork(dim + 2 * new, width)
        self.layer_last = GraphConvolution(dim + 2 * new, n_way, norm=False)

    def forward(self, nodes: Tensor) -> Tensor:
        """[graphs, nodes, dim] -> [graphs, nodes, n_way]."""
        for edges, convolution in ((self.layer_w0, self.layer_l0), (self.layer_w1, self.layer_l1)):
            nodes = torch.cat([nodes, F.leaky_relu(convolution(nodes, edges(nodes)))], dim=2)
        return self.layer_last(nodes, self.w_comp_last(nodes))


class Gnn(Learner):
    """GNN head.

    Args:
        feature, n_support: see `Learner`.
        n_way: classes of every episode.
        dim: of the features.
        embedding: width after the first linear layer.
        width: nf of the edge networks.
        queries: `published` puts the i-th query of every class into one graph, which therefore knows that it holds one
            query a class; `independent` gives every query its own.
    """

    def __init__(
        self,
        feature: nn.Module,
        n_support: int,
        n_way: int = 5,
        dim: int = 512,
        embedding: int = 128,
        width: int = 96,
        queries: Literal["published", "independent"] = "published",
    ) -> None:
        super().__init__(feature, n_support)
        if queries not in ("published", "independent"):
            raise ValueError(f"queries: expected 'published' or 'independent', got {queries!r}")
        self.fc = nn.Sequential(nn.Linear(dim, embedding), nn.BatchNorm1d(embedding, track_running_stats=False))
        self.gnn = GraphNetwork(embedding + n_way, width, n_way)
        self.n_way, self.queries = n_way, queries

    def head(self, z: Tensor) -> Tensor:
        """Scores of vectors [n_way, n_support + n_query, dim].

        Raises:
            ValueError: an episode of another number of classes.
        """
        if len(z) != self.n_way:
            raise ValueError(f"episode: expected {self.n_way} classes, got {len(z)}")
        return self.classify(self.embed(z))

    def embed(self, z: Tensor) -> Tensor:
        """[n_way, n_support + n_query, embedding], normalised over the episode."""
        return self.fc(z.flatten(0, 1)).view(*z.shape[:2], -1)

    def classify(self, embedded: Tensor) -> Tensor:
        """Scores of embedded features [n_way, n_support + n_query, embedding]."""
        nodes = self.nodes(embedded)
        if self.queries == "independent":
            # One graph a query: the support's nodes, then the query's
            return self.gnn(nodes)[:, -1]
        scores = self.gnn(nodes).view(len(nodes), self.n_way, self.n_support + 1, self.n_way)
        return scores[:, :, -1].transpose(0, 1).flatten(0, 1)

    def nodes(self, embedded: Tensor) -> Tensor:
        """Features with labels, [graphs, nodes, embedding + n_way]; a query's label is all zeros."""
        support, query = self.split(embedded)
        n_way, n_query = query.shape[:2]
        labels = torch.eye(n_way, dtype=embedded.dtype, device=embedded.device)
        labels = labels[:, None].expand(-1, self.n_support, -1)
        told = torch.cat([support, labels], dim=2)
        asked = torch.cat([query, query.new_zeros(n_way, n_query, n_way)], dim=2)
        if self.queries == "independent":
            alone = asked.flatten(0, 1)[:, None]
            return torch.cat([told.flatten(0, 1).expand(len(alone), -1, -1), alone], dim=1)
        graphs = torch.cat([told.expand(n_query, -1, -1, -1), asked.transpose(0, 1)[:, :, None]], dim=2)
        return graphs.flatten(1, 2)
