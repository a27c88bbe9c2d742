"""The graph network of the score-extrapolation paper, which predicts scores along a graph of nearest rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from hf_dlc.scorer.predict import Prediction


if TYPE_CHECKING:
    from torch_geometric.data import Data

_WIDTHS = (512, 256)
_DROPOUT = 0.5
_LEARNING_RATE = 1e-3
_VALIDATION_SHARE = 0.1
_DISTANCES_IN_MEMORY = 4_000_000


@dataclass(frozen=True)
class GraphPredictor:
    """
    Three graph convolutions over the graph of the nearest rows, trained on the scored ones.

    The graph has all rows, and an edge from each of the nearest neighbours of a row with the weight exp(-d / 2). The
    layers have 512, 256 and 1 numbers, with ReLU and dropout 0.5. A tenth of the scored rows chooses the epoch, by the
    Pearson correlation. Nothing else is chosen: the number of neighbours is the one that is given.

    The score-extrapolation paper (submitted to ICLR 2026) draws neighbours in batches of 128. Here each epoch is one
    step over the whole graph, which needs no compiled sampler, but memory for all rows. The paper may also feed each
    row's label to the network, one-hot beside its features; here labels are left out.

    Args:
        neighbors (`int`, *optional*, defaults to 10):
            Nearest rows that a row is told by.
        epochs (`int`, *optional*, defaults to 300):
            Steps of Adam with the learning rate 0.001.
        seed (`int`, *optional*, defaults to 0):
            Seed of weights, dropout and the rows that choose the epoch.

    Raises:
        ImportError: If PyTorch Geometric is not installed.
    """

    neighbors: int = 10
    epochs: int = 300
    seed: int = 0
    name: ClassVar[str] = "gnn"

    def __post_init__(self) -> None:
        try:
            import torch_geometric  # noqa: F401
        except ImportError as error:
            raise ImportError(
                "method='gnn' needs PyTorch Geometric, which is not installed. Install the extra: pip install "
                "'hf-dlc[gnn]', or pass method='ridge' or 'knn'."
            ) from error

    def predict(self, features: np.ndarray, known: np.ndarray, scores: np.ndarray, wanted: np.ndarray) -> Prediction:
        """Predict as [`~predict.Predictor`] has it; the graph has all rows, also those that nobody asks for."""
        settings = {"neighbors": min(self.neighbors, len(features) - 1)}
        center, spread = scores.mean(), scores.std() or 1.0
        with _own_random_state(self.seed):
            graph = _graph(features, settings["neighbors"])
            order = torch.randperm(len(known)).numpy()
            checking = order[: max(2, round(_VALIDATION_SHARE * len(known)))]
            training = order[len(checking) :]
            targets = torch.from_numpy((scores - center) / spread).float()
            values, epoch = self._train(graph, torch.from_numpy(known), targets, training, checking)
        return Prediction(values[wanted] * spread + center, {**settings, "epoch": epoch})

    def _train(
        self, graph: Data, known: torch.Tensor, targets: torch.Tensor, training: np.ndarray, checking: np.ndarray
    ) -> tuple[np.ndarray, int]:
        """Outputs for all rows at the epoch that ranks the checking rows best, and that epoch."""
        network = _Network(graph.num_node_features)
        optimizer = torch.optim.Adam(network.parameters(), lr=_LEARNING_RATE)
        best, kept, at = -np.inf, np.zeros(graph.num_nodes), 0
        for epoch in range(1, self.epochs + 1):
            network.train()
            optimizer.zero_grad()
            nn.functional.mse_loss(network(graph)[known[training]], targets[training]).backward()
            optimizer.step()
            network.eval()
            with torch.no_grad():
                found = network(graph)
            pearson = torch.corrcoef(torch.stack([found[known[checking]], targets[checking]]))[0, 1].item()
            if pearson > best or epoch == 1:  # of the first epoch it may be NaN
                best, kept, at = np.nan_to_num(pearson, nan=-np.inf), found.double().numpy(), epoch
        return kept, at


class _Network(nn.Module):
    def __init__(self, size: int) -> None:
        from torch_geometric.nn import GCNConv

        super().__init__()
        sizes = (size, *_WIDTHS, 1)
        self.layers = nn.ModuleList(GCNConv(*pair) for pair in itertools.pairwise(sizes))

    def forward(self, graph: Data) -> torch.Tensor:
        states = graph.x
        for place, layer in enumerate(self.layers):
            states = layer(states, graph.edge_index, graph.edge_attr)
            if place < len(self.layers) - 1:
                states = nn.functional.dropout(states.relu(), _DROPOUT, self.training)
        return states[:, 0]


def _graph(features: np.ndarray, neighbors: int) -> Any:
    """The graph of the nearest rows; a row is no neighbour of itself, the convolutions add it."""
    from torch_geometric.data import Data

    points = torch.from_numpy(np.ascontiguousarray(features)).float()
    size, sources, weights = max(1, _DISTANCES_IN_MEMORY // len(points)), [], []
    for start in range(0, len(points), size):
        distances = torch.cdist(points[start : start + size], points)
        places = torch.arange(len(distances))
        distances[places, places + start] = torch.inf
        nearest = distances.topk(neighbors, largest=False)
        sources.append(nearest.indices.flatten())
        weights.append((-nearest.values.flatten() / 2).exp())
    edges = torch.stack([torch.cat(sources), torch.arange(len(points)).repeat_interleave(neighbors)])
    return Data(x=points, edge_index=edges, edge_attr=torch.cat(weights))


@contextmanager
def _own_random_state(seed: int) -> Iterator[None]:
    """Random numbers of a seed, that leave those of the user as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
