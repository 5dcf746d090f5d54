"""Explanation-guided training (Sun et al., ICPR 2020; section 8), a baseline for RelationNet and GNN.

The head runs twice in training: what it relied on in the first pass (layer-wise relevance propagation) weighs its input
in the second, w = 1 + R / max|R|, and both losses count. No gradient goes through the relevance.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cdfsl_ata.gnn import Gnn, GraphConvolution
from cdfsl_ata.learners import RelationBlock, RelationNet, query_labels

EPSILON = 0.01
TINY = 1e-7


class Explained(NamedTuple):
    """Both passes of a head.

    Attributes:
        scores, weighted_scores: [n_way n_query, n_way], before and after weighing.
        weight: of the head's input, in [0, 2].
        loss: l(scores) + factor l(weighted_scores).
    """

    scores: Tensor
    weighted_scores: Tensor
    weight: Tensor
    loss: Tensor


def loss_factor(n_support: int) -> float:
    """Of the second loss: 0.5 at 1 shot, else 1 (published for 1 and 5 shots)."""
    return 0.5 if n_support == 1 else 1.0


def initial_relevance(scores: Tensor) -> Tensor:
    """log(4 (q + 0.01) / (1.01 - q)) of q = softmax(scores over the last dimension), of the scores' shape."""
    q = scores.softmax(dim=-1)
    return (4 * (q + 0.01) / (1.01 - q)).log()


def linear_relevance(x: Tensor, weight: Tensor, relevance: Tensor) -> Tensor:
    """eps rule of y = x weight^T: x * ((R / Z) weight), Z = y + eps sign(y), eps where y is 0; the bias is ignored.

    Args:
        x: [..., in]; weight: [out, in]; relevance: R, [..., out].

    Returns:
        [..., in].
    """
    return x * ((relevance / _stabilised(x @ weight.mT)) @ weight)


def convolution_relevance(x: Tensor, weight: Tensor, relevance: Tensor, padding: int) -> Tensor:
    """alpha-1 beta-0 rule: what products of equal sign contribute, in proportion to it."""
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        z = F.conv2d(leaf.clamp(min=0), weight.clamp(min=0), padding=padding)
        z = z + F.conv2d(leaf.clamp(max=0), weight.clamp(max=0), padding=padding)
        share = relevance / torch.where(z == 0, TINY, z).detach()
        (gradient,) = torch.autograd.grad(z, leaf, share)
    return x * gradient


def pooling_relevance(x: Tensor, relevance: Tensor) -> Tensor:
    """To the largest entry of each 2 x 2 window."""
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        z = F.max_pool2d(leaf, 2)
        (gradient,) = torch.autograd.grad(z, leaf, relevance / torch.where(z == 0, TINY, z).detach())
    return x * gradient


def input_weight(relevance: Tensor, dim: int) -> Tensor:
    """w = 1 + R / max|R| over one dimension; 1 where there is no relevance."""
    largest = relevance.abs().amax(dim=dim, keepdim=True)
    return 1 + relevance / torch.where(largest == 0, 1.0, largest)


def explain_relation(learner: RelationNet, z: Tensor) -> Explained:
    """Both passes of RelationNet on maps [n_way, n_support + n_query, channels, size, size]."""
    pairs = learner.pairs(z)
    relations = learner.relations(pairs, len(z))
    with torch.no_grad():
        weight = input_weight(relation_relevance(learner, pairs.detach(), initial_relevance(relations)), dim=1)
    weighted = learner.relations(pairs * weight, len(z))
    scores, weighted_scores = learner.activation(relations), learner.activation(weighted)
    loss = learner.loss(scores) + loss_factor(learner.n_support) * learner.loss(weighted_scores)
    return Explained(scores, weighted_scores, weight, loss)


@torch.no_grad()
def relation_relevance(learner: RelationNet, pairs: Tensor, relevance: Tensor) -> Tensor:
    """Relevance of the pairs [pairs, 2 channels, size, size] for raw relations' relevance [queries, n_way]."""
    module = learner.relation_module
    inner = module.layer1(pairs)
    maps = module.layer2(inner)
    flat = maps.flatten(1)
    hidden = module.fc1(flat)
    relevance = linear_relevance(_without_zeros(hidden.relu()), module.fc2.weight, relevance.reshape(-1, 1)) * (
        hidden > 0
    )
    relevance = linear_relevance(_without_zeros(flat), module.fc1.weight, relevance).view_as(maps)
    relevance = _block_relevance(module.layer2, inner, relevance)
    return _block_relevance(module.layer1, pairs, relevance)


def explain_gnn(learner: Gnn, z: Tensor) -> Explained:
    """Both passes of the GNN head on vectors [n_way, n_support + n_query, dim].

    Raises:
        ValueError: a learner with independent queries, for which this is not defined.
    """
    if learner.queries != "published":
        raise ValueError("learner: explanation-guided training is defined for queries='published'")
    embedded = learner.embed(z)
    nodes = learner.nodes(embedded)
    with torch.no_grad():
        weight = input_weight(gnn_relevance(learner, nodes.detach())[..., : embedded.shape[-1]], dim=2)
    labels = nodes[..., embedded.shape[-1] :]
    weighted = torch.cat([nodes[..., : embedded.shape[-1]] * weight, labels], dim=2)
    scores, weighted_scores = (_query_scores(learner, learner.gnn(each)) for each in (nodes, weighted))
    loss = learner.loss(scores) + loss_factor(learner.n_support) * F.cross_entropy(
        weighted_scores, query_labels(weighted_scores)
    )
    return Explained(scores, weighted_scores, weight, loss)


@torch.no_grad()
def gnn_relevance(learner: Gnn, nodes: Tensor) -> Tensor:
    """Relevance [graphs, nodes, dim] of the nodes' features for the scores of all nodes.

    Normalisation and LeakyReLU count as identities and adjacencies as constants; the features that a layer appended
    carry their relevance back to it, and what reaches the input by each of the three ways is added up.
    """
    network, dim = learner.gnn, nodes.shape[2]
    inputs, adjacencies = [nodes], []
    for edges, convolution in ((network.layer_w0, network.layer_l0), (network.layer_w1, network.layer_l1)):
        adjacencies.append(edges(inputs[-1]))
        inputs.append(torch.cat([inputs[-1], F.leaky_relu(convolution(inputs[-1], adjacencies[-1]))], dim=2))
    adjacencies.append(network.w_comp_last(inputs[-1]))
    scores = network.layer_last(inputs[-1], adjacencies[-1])
    last = _graph_relevance(network.layer_last, inputs[2], adjacencies[2], initial_relevance(scores))
    middle = _graph_relevance(network.layer_l1, inputs[1], adjacencies[1], last[..., inputs[1].shape[2] :])
    first = _graph_relevance(network.layer_l0, inputs[0], adjacencies[0], middle[..., dim:])
    return first + middle[..., :dim] + last[..., :dim]


def _graph_relevance(layer: GraphConvolution, nodes: Tensor, adjacency: Tensor, relevance: Tensor) -> Tensor:
    """Through Linear([V; E V]), then through the product [I; E] V, both by the eps rule."""
    both = torch.cat([nodes, adjacency @ nodes], dim=2)
    halves = linear_relevance(both, layer.fc.weight, relevance).chunk(2, dim=2)
    identity = torch.eye(nodes.shape[1], dtype=nodes.dtype, device=nodes.device).expand_as(adjacency)
    mixing = torch.cat([identity, adjacency], dim=1)
    share = torch.cat(halves, dim=1) / _stabilised(mixing @ nodes)
    return nodes * (mixing.mT @ share)


def _block_relevance(block: RelationBlock, x: Tensor, relevance: Tensor) -> Tensor:
    normalised = block.BN(block.C(x))
    relevance = pooling_relevance(normalised.relu(), relevance) * (normalised > 0)
    assert isinstance(block.C.padding, tuple)
    return convolution_relevance(x, block.C.weight, relevance, block.C.padding[0])


def _query_scores(learner: Gnn, scores: Tensor) -> Tensor:
    per_class = scores.view(len(scores), learner.n_way, learner.n_support + 1, learner.n_way)
    return per_class[:, :, -1].transpose(0, 1).flatten(0, 1)


def _without_zeros(x: Tensor) -> Tensor:
    return torch.where(x == 0, -1e-6, x)


def _stabilised(z: Tensor) -> Tensor:
    return torch.where(z == 0, EPSILON, z + EPSILON * z.sign())


class ExplainedLearner(nn.Module):
    """A learner whose loss is the explanation-guided one; for training only, test with the learner itself.

    Args:
        learner: RelationNet, or GNN with published queries.
    """

    def __init__(self, learner: RelationNet | Gnn) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, images: Tensor) -> Tensor:
        """The loss of images [n_way, n_support + n_query, channels, h, w]."""
        encoded = self.learner.feature(images.flatten(0, 1))
        z = encoded.view(*images.shape[:2], *encoded.shape[1:])
        if isinstance(self.learner, RelationNet):
            return explain_relation(self.learner, z).loss
        return explain_gnn(self.learner, z).loss
