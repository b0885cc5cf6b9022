"""A small click model, saved as a run leaves it, and what it answers; for tests of files, servers and C++ clients."""

import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection
from torchrec_pss.datasets.rows import RowBlock
from torchrec_pss.export import saved_model
from torchrec_pss.models import ClickModel, ClickModelConfig

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples" / "serving"))

NUM_DENSE, ROWS = 3, {"few": 40, "many": 10**7, "more": 10**9}


def save(folder, bits=4, seed=0, numbering=None, schema=None, texts=None):
    """Of random weights; returns the model."""
    torch.manual_seed(seed)
    tables = [
        EmbeddingBagConfig(name=f"t_{n}", num_embeddings=rows, embedding_dim=8, feature_names=[n])
        for n, rows in ROWS.items()
    ]
    config = PSSConfig(
        array_bytes=20_000,
        bits=bits,
        exact=["t_few"],
        hot={"t_many": range(20)},
        width={"t_many": 4, "t_more": 4},
        bias=True,
    )
    ebc = PSSEmbeddingBagCollection(tables, config=config)
    torch.nn.init.normal_(ebc.array)
    of = ClickModelConfig(NUM_DENSE, [16, 8], [16, 1])
    model = ClickModel(of.dlrm(ebc))
    held_out = rows_of(600, seed)
    saved_model.save(
        folder, "click", asdict(of), ebc, model.state_dict(), held_out, {"auroc_test": 0.5}, numbering, schema, texts
    )
    return model.eval()


def rows_of(number, seed):
    rng = np.random.default_rng(seed)
    ids = np.stack(
        [rng.integers(0, 40, number), rng.integers(-(1 << 62), 1 << 62, number), rng.integers(0, 25, number)]
    )
    return RowBlock(
        rng.normal(size=(number, NUM_DENSE)).astype(np.float32), ids, rng.integers(0, 2, number).astype(np.float32)
    )


@torch.no_grad()
def answers(model, dense, bags):
    """The model's probabilities: dense fp32 [n, d], bags by row then feature."""
    lengths = torch.tensor([len(row[f]) for f in range(len(ROWS)) for row in bags], dtype=torch.int64)
    values = torch.tensor([i for f in range(len(ROWS)) for row in bags for i in row[f]], dtype=torch.int64)
    return torch.sigmoid(
        model.dlrm(torch.as_tensor(dense), KeyedJaggedTensor(list(ROWS), values, lengths=lengths))
    ).squeeze(1)
