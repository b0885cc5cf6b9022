"""Our collections against TorchRec's on random cases: forward and every gradient.

    python tests/compare_collections.py --number 20000 [--first 0]

TorchRec's module gets tables whose rows are those that ours reads, so that its gradients come back to array and projections.
`make sanitize` runs it on a build with AddressSanitizer and UndefinedBehaviorSanitizer.
"""

import copy
import random
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.func import functional_call
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, EmbeddingConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.modules.feature_processor_ import PositionWeightedModule
from torchrec.modules.fp_embedding_modules import FeatureProcessedEmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from tqdm import tqdm

import torchrec_pss
from torchrec_pss import PSSConfig, PSSEmbeddingBagCollection, PSSEmbeddingCollection
from torchrec_pss.flags import Parser, add_number
from torchrec_pss.modules import PSSFeatureProcessedEmbeddingBagCollection
from torchrec_pss.ops import PoolingMode

FEATURES = ["a", "b", "c", "d", "e"]
LONGEST = 4
MODES = ["train", "after inference_mode", "after no_grad", "autocast", "frozen array", "frozen projections"]


@dataclass
class Case:
    """What a seed stands for; ``labels`` say what is special about it."""

    draw: random.Random
    generator: torch.Generator
    sequences: bool
    weighted: bool
    processed: bool
    half: bool
    varying: bool
    mode: str
    labels: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, seed: int) -> "Case":
        draw = random.Random(seed)
        sequences = draw.random() < 0.25
        processed = not sequences and draw.random() < 0.15
        weighted = processed or (not sequences and draw.random() < 0.6)
        varying = not processed and draw.random() < 0.15
        half = not processed and draw.random() < 0.15
        case = cls(
            draw, torch.Generator().manual_seed(seed), sequences, weighted, processed, half, varying, draw.choice(MODES)
        )
        case.labels |= {case.mode, "sequences" if sequences else "bags"}
        case.labels |= {n for n in ("weighted", "processed", "half", "varying") if getattr(case, n)}
        return case

    def tables(self) -> list:
        draw, common = self.draw, self.draw.choice([1, 3, 4, 8])
        mean = not self.weighted and draw.random() < 0.5
        tables = []
        for number in range(draw.randint(1, 3)):
            arguments = {
                "name": f"t{number}",
                "num_embeddings": draw.choice([1, 5, 40, 300]),
                "embedding_dim": common if self.sequences else draw.choice([1, 2, 4, 6, 16]),
                "feature_names": draw.sample(FEATURES, draw.randint(1, 3)),
                "data_type": DataType.FP16 if self.half else DataType.FP32,
            }
            if self.sequences:
                tables.append(EmbeddingConfig(**arguments))
            else:
                pooling = draw.choice([PoolingType.SUM, PoolingType.MEAN]) if mean else PoolingType.SUM
                tables.append(EmbeddingBagConfig(**arguments, pooling=pooling))
        read = [name for t in tables for name in t.feature_names]
        if len(set(read)) < len(read):
            self.labels.add("repeated feature")
        if not self.sequences and len({t.pooling for t in tables}) > 1:
            self.labels.add("two poolings")
        return tables

    def config(self, tables: list) -> PSSConfig:
        """Exact tables, or a small array in each of its kinds; half precision without projections, which would round differently."""
        draw = self.draw
        kind = draw.choice(
            ["exact", "shared"] if self.half else ["exact", "shared", "projected", "prefixed", "hot", "auto"]
        )
        self.labels.add(kind)
        bytes_ = 1 << 14
        choices = {
            "exact": {"array_bytes": 1 << 20},
            "shared": {"array_bytes": bytes_, "exact": ()},
            "projected": {"array_bytes": bytes_, "exact": (), "width": 2, "bias": draw.random() < 0.5},
            "prefixed": {"array_bytes": 1 << 17, "exact": (), "prefix": {t.name: 1 for t in tables}, "block_size": 1},
            "hot": {
                "array_bytes": bytes_,
                "exact": (),
                "width": 2,
                "hot": {t.name: [0] for t in tables},
                "segments": True,
            },
            "auto": {"array_bytes": bytes_, "layout": "auto"},
        }[kind]
        return PSSConfig(**{"layout": "plain", "seed": draw.randrange(100)} | choices)

    def features(self, tables: list) -> KeyedJaggedTensor:
        """The features that are read, maybe others between them, in any order; weights that may need a gradient."""
        draw, generator = self.draw, self.generator
        read = list(dict.fromkeys(name for t in tables for name in t.feature_names))
        keys = read + draw.sample([f for f in FEATURES if f not in read], draw.randint(0, len(FEATURES) - len(read)))
        if len(keys) > len(read):
            self.labels.add("features that nobody reads")
        if draw.random() < 0.7:
            draw.shuffle(keys)
        rows = {n: min(t.num_embeddings for t in tables if n in t.feature_names) for n in read}
        batch_size = draw.choice([1, 2, 7])
        strides = [draw.randint(1, batch_size) if self.varying else batch_size for _ in keys]
        lengths = [torch.randint(0, LONGEST, (s,), generator=generator) for s in strides]
        counts = [int(of.sum()) for of in lengths]
        ids = [torch.randint(0, rows.get(k, 9), (n,), generator=generator) for k, n in zip(keys, counts, strict=True)]
        values = torch.cat(ids).to(draw.choice([torch.int32, torch.int64]))
        weights = None
        if self.weighted or draw.random() < 0.2:
            weights = torch.rand(len(values), generator=generator)
            if draw.random() < 0.7:
                weights.requires_grad_()
                self.labels.add("gradients of weights")
        if not self.varying:
            return KeyedJaggedTensor(keys, values, weights, lengths=torch.cat(lengths), stride=batch_size)
        inverse = torch.stack([torch.randint(0, s, (batch_size + 2,), generator=generator) for s in strides])
        return KeyedJaggedTensor(
            keys, values, weights, lengths=torch.cat(lengths), stride_per_key_per_rank=[[s] for s in strides],
            inverse_indices=(keys, inverse),
        )  # fmt: skip


def collections(case: Case, tables: list, config: PSSConfig) -> tuple[nn.Module, nn.Module]:
    """Ours and TorchRec's."""
    if case.sequences:
        need = case.draw.random() < 0.5
        ours = PSSEmbeddingCollection(tables, need_indices=need, config=config)
        return ours, EmbeddingCollection(tables, need_indices=need)
    ours, theirs = (
        PSSEmbeddingBagCollection(tables, case.weighted, config=config),
        EmbeddingBagCollection(tables, case.weighted),
    )
    if not case.processed:
        return ours, theirs
    own, their = {}, {}
    for name in dict.fromkeys(n for t in tables for n in t.feature_names):
        own[name] = PositionWeightedModule(LONGEST)
        own[name].position_weight.data.uniform_(generator=case.generator)
        their[name] = copy.deepcopy(own[name])
    return PSSFeatureProcessedEmbeddingBagCollection(ours, own), FeatureProcessedEmbeddingBagCollection(theirs, their)


def tables_of(ours: nn.Module, theirs: nn.Module, tables: list) -> dict[str, torch.Tensor]:
    """TorchRec's weights by name: the rows that ours reads, differentiable in its parameters."""
    array = getattr(ours, "_embedding_bag_collection", ours)
    rows = {}
    for name, _ in theirs.named_parameters():
        table = name.removesuffix(".weight").rsplit(".", 1)[-1]
        if name.endswith(".weight") and table in {t.name for t in tables}:
            layout, position = array._table(table)
            arguments = array._arguments([position], PoolingMode.SUM)
            rows[name] = array._read_rows(array.array, torch.arange(layout.rows), arguments).to(array.array.dtype)
    return rows


def outputs(found) -> list[torch.Tensor]:
    if isinstance(found, dict):
        return [
            t
            for jagged in found.values()
            for t in (jagged.values(), jagged.lengths(), jagged.weights_or_none())
            if t is not None
        ]
    return [found.values()]


def compare(seed: int) -> set[str]:
    """The case's labels. Raises AssertionError where they differ."""
    case = Case.of(seed)
    tables = case.tables()
    torch.manual_seed(seed)
    ours, theirs = collections(case, tables, case.config(tables))
    array = getattr(ours, "_embedding_bag_collection", ours)
    features = case.features(tables)
    weights = features.weights_or_none()
    their_weights = None if weights is None else weights.detach().clone().requires_grad_(weights.requires_grad)
    other = _with_weights(features, None if their_weights is None else their_weights.to(array.array.dtype))
    if case.mode.startswith("after"):
        with torch.inference_mode() if case.mode == "after inference_mode" else torch.no_grad():
            assert not any(t.requires_grad for t in outputs(ours(features)))
    frozen = {"frozen array": array.array, "frozen projections": array.projections}.get(case.mode)
    if frozen is not None:
        frozen.requires_grad_(False)
    with torch.autocast("cpu", dtype=torch.bfloat16) if case.mode == "autocast" else nullcontext():
        found = ours(features)
        expected = functional_call(theirs, tables_of(ours, theirs, tables), (other,))
    where = f"seed {seed}"
    assert list(found.keys()) == list(expected.keys()), where
    assert case.sequences or found.length_per_key() == expected.length_per_key(), where
    pairs = list(zip(outputs(found), outputs(expected), strict=True))
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if case.half else {"rtol": 1e-4, "atol": 1e-5}
    for number, (a, b) in enumerate(pairs):
        torch.testing.assert_close(a, b, **tolerance, msg=lambda m, n=number: f"{where}, output {n}: {m}")
    slopes = [torch.randn(a.shape, generator=case.generator) for a, _ in pairs]
    common = {"array": array.array, "projections": array.projections}
    mine = _gradients([a for a, _ in pairs], slopes, common | {"weights": weights} | _processors(ours))
    truth = _gradients([b for _, b in pairs], slopes, common | {"weights": their_weights} | _processors(theirs))
    assert mine.keys() == truth.keys(), where
    for name, gradient in truth.items():
        torch.testing.assert_close(
            mine[name], gradient, **tolerance, msg=lambda m, n=name: f"{where}, gradient of {n}: {m}"
        )
    return case.labels


def _processors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {n: p for n, p in module.named_parameters() if "position_weight" in n}


def _with_weights(features: KeyedJaggedTensor, weights: torch.Tensor | None) -> KeyedJaggedTensor:
    strides = None
    if features.variable_stride_per_key():
        strides = [[s] for s in features.stride_per_key()]
    return KeyedJaggedTensor(
        features.keys(), features.values(), weights, lengths=features.lengths(),
        stride=None if strides else features.stride(), stride_per_key_per_rank=strides,
        inverse_indices=features.inverse_indices_or_none(),
    )  # fmt: skip


def _gradients(outputs: list, slopes: list, leaves: dict[str, torch.Tensor | None]) -> dict[str, torch.Tensor]:
    """Of the leaves that need one; zeros where nothing depends on one, which one side says with None."""
    leaves = {n: t for n, t in leaves.items() if t is not None and t.requires_grad}
    terms = [(out * slope).sum() for out, slope in zip(outputs, slopes, strict=True) if out.requires_grad]
    if not terms:
        return {}
    found = torch.autograd.grad(sum(terms), list(leaves.values()), allow_unused=True)
    return {n: torch.zeros_like(t) if g is None else g for (n, t), g in zip(leaves.items(), found, strict=True)}


def main() -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    add_number(parser, "--number", default=20_000)
    add_number(parser, "--first", default=0)
    args = parser.parse_args()
    for seed in tqdm(range(args.first, args.first + args.number), mininterval=5):
        compare(seed)
    print(f"{args.number} cases equal TorchRec's modules ({torchrec_pss.__file__})")


if __name__ == "__main__":
    main()
