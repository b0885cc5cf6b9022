"""The shared array as plain PyTorch modules: no TorchRec, no FBGEMM."""

from torchrec_pss.nn.shared_embedding_bag import SharedEmbeddingBag, Table

__all__ = ["SharedEmbeddingBag", "Table"]
