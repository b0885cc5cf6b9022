"""`NumberedIds`: of the ids of a dense log the rows that training gave them, in a program's own operators."""

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss.datasets.numbering import Numbering
from torchrec_pss.quant.out_of_range import bags_of


class NumberedIds(nn.Module):
    """Of the features of a model, in their order. An id that was not in the training rows has row 0."""

    first: torch.Tensor
    ids: torch.Tensor
    rows: torch.Tensor

    def __init__(self, numbering: Numbering) -> None:
        super().__init__()
        known, rows = numbering.sorted_rows()
        sizes = torch.tensor([len(ids) for ids in known])
        self._rounds = int(sizes.max()).bit_length() if len(known) else 0
        self.register_buffer("first", torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]))
        # One more, that no search finds: a place behind the last id can be read.
        self.register_buffer("ids", torch.cat([*map(torch.from_numpy, known), sizes.new_zeros(1)]))
        self.register_buffer("rows", torch.cat([*map(torch.from_numpy, rows), sizes.new_zeros(1)]))

    def forward(self, features: KeyedJaggedTensor) -> KeyedJaggedTensor:
        """The same bags of rows. A binary search of all ids at once: each in its own feature's ids."""
        given, offsets = features.values(), features.offsets()
        feature = bags_of(given, offsets) // features.stride()
        low, end = self.first[feature], self.first[feature + 1]
        high = end
        for _ in range(self._rounds):
            middle = (low + high) // 2
            below = (low < high) & (self.ids[middle] < given)
            low, high = torch.where(below, middle + 1, low), torch.where(below, high, middle)
        rows = torch.where((low < end) & (self.ids[low] == given), self.rows[low], 0)
        return KeyedJaggedTensor(
            features.keys(),
            rows,
            features.weights_or_none(),
            lengths=features.lengths(),
            offsets=offsets,
            stride=features.stride(),
        )
