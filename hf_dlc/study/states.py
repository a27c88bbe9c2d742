"""States of many rows below the layers that are trained: computed once, kept in a file, handed out in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers  # before datasets: huggingface_hub 2.4 has an import cycle that prints noise
from datasets import Dataset
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn.utils.rnn import pad_sequence

from .upper_layers import UpperLayers, layers_of, states_below


Batch = dict[str, torch.Tensor]

_TOKENS_AT_ONCE = 1024  # padding included


@dataclass(frozen=True)
class States:
    """
    What the trained layers read of some rows.

    Args:
        inputs (`torch.Tensor` of shape `(tokens, hidden size)`):
            States of all rows, one after another; or token ids of shape `(tokens,)`.
        labels (`torch.Tensor` of shape `(tokens,)`):
            Token ids at target tokens, -100 elsewhere.
        lengths (`np.ndarray` of shape `(rows,)`):
            Tokens of each row.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    lengths: np.ndarray

    @property
    def targets(self) -> np.ndarray:
        """Number of target tokens of each row, of shape `(rows,)`."""
        ends = np.cumsum(self.lengths)
        counts = np.concatenate([[0], np.cumsum((self.labels != -100).numpy())])
        return counts[ends] - counts[ends - self.lengths]

    def batch(self, rows: Sequence[int], device: torch.device) -> Batch:
        """Padded inputs, attention mask and labels of some rows."""
        starts = np.cumsum(self.lengths) - self.lengths
        parts = [slice(starts[row], starts[row] + self.lengths[row]) for row in rows]
        batch = {
            "states": pad_sequence([self.inputs[part] for part in parts], batch_first=True),
            "attention_mask": pad_sequence(
                [torch.ones(int(self.lengths[row]), dtype=torch.int64) for row in rows], batch_first=True
            ),
            "labels": pad_sequence([self.labels[part] for part in parts], batch_first=True, padding_value=-100),
        }
        return {name: tensor.to(device) for name, tensor in batch.items()}

    def batches(self) -> Iterator[list[int]]:
        """Numbers of the rows of each batch, rows of like length together, the longest first."""
        order, start = np.argsort(-self.lengths, kind="stable"), 0
        while start < len(order):
            count = max(1, _TOKENS_AT_ONCE // int(self.lengths[order[start]]))
            yield order[start : start + count].tolist()
            start += count

    @classmethod
    def of(cls, rows: Dataset) -> States:
        """
        Token ids of rows, for a model that is trained whole.

        Args:
            rows ([`~datasets.Dataset`]):
                What `scorer.tokenize` returned.
        """
        ids, labels = ([torch.tensor(row) for row in rows[name][:]] for name in ("input_ids", "labels"))
        return cls(torch.cat(ids), torch.cat(labels), np.array([len(row) for row in ids]))

    def below(self, upper: UpperLayers, model: transformers.PreTrainedModel) -> States:
        """
        Run the layers below, once.

        Args:
            upper ([`UpperLayers`]):
                The layers that will read the states; where they are the whole model, token ids stay.
            model ([`~transformers.PreTrainedModel`]):
                The whole model.
        """
        if upper.reads == "input_ids":
            return self
        count, starts = len(layers_of(upper.model)), np.cumsum(self.lengths) - self.lengths
        found = torch.empty(len(self.inputs), model.get_input_embeddings().weight.shape[1], dtype=model.dtype)
        for rows in self.batches():
            batch = self.batch(rows, model.device)
            states = states_below(model, count, {**batch, "input_ids": batch["states"]}).cpu()
            for row, state in zip(rows, states, strict=True):
                found[starts[row] : starts[row] + self.lengths[row]] = state[: self.lengths[row]]
        return States(found, self.labels, self.lengths)

    def save(self, path: Path, identity: str) -> None:
        """Write a file that other processes may read as soon as it is there."""
        path.parent.mkdir(parents=True, exist_ok=True)
        written = path.with_suffix(".tmp")
        save_file({"inputs": self.inputs, "labels": self.labels}, written, {"identity": identity})
        written.replace(path)

    def load(self, path: Path, identity: str) -> States | None:
        """Read what [`States.save`] has written of the same rows; `None` if the file is of others."""
        with safe_open(path, "pt") as file:
            if file.metadata().get("identity") != identity:
                return None
            return States(file.get_tensor("inputs"), file.get_tensor("labels"), self.lengths)
