"""docs/how/hashing.md: its vectors hold for the package and for an implementation written from the page alone."""

import random
import re
from pathlib import Path

import address_spec as spec
import numpy as np
import pytest
import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from torchrec_pss import PSSConfig
from torchrec_pss.modules.allocation import allocate
from torchrec_pss.ops import HASH_MIX64, HASH_ROBE, FeatureColumn, feature_matrix, hashing, quantize, reference

PAGE = (Path(__file__).parent.parent / "docs/how/hashing.md").read_text()
VECTORS = re.findall(r"^(\w+)\((.*)\) = (.*)$", PAGE[PAGE.index("## 5.") :], re.MULTILINE)


def arguments(text):
    return eval(f"(lambda *args, **kwargs: (args, kwargs))({text})", {})


def feature(**columns):
    values = dict.fromkeys(FeatureColumn, 0) | {FeatureColumn[k.upper()]: v for k, v in columns.items()}
    return feature_matrix([values], torch.device("cpu"))[0]


def package_read(
    name,
    seed,
    row,
    *,
    width,
    prefix,
    block,
    shared_numel,
    rows,
    base,
    sign,
    first=0,
    hot=(),
    hot_base=0,
    bits=32,
    short_keys=False,
):
    key = hashing.table_key(name, seed)
    own = hashing.hot_keys_of(key, torch.tensor(hot, dtype=torch.int64))
    hot_keys, drop = quantize.kept_keys(own, short_keys or bits < 32)
    slots = shared_numel // block
    meta = feature(key=key, rows=rows, width=width, prefix=prefix, base=base, block=block, slots=slots,
                   first=first, hot_end=len(hot_keys), hot_base=hot_base, hot_drop=drop)  # fmt: skip
    addresses, signs = reference.row_addresses(meta, hot_keys, torch.tensor([row]), HASH_MIX64, sign)
    return list(zip(addresses[0].tolist(), signs[0].tolist(), strict=True))


def package_robe(first_row, row, *, width, block, numel):
    meta = feature(key=first_row, rows=1 << 32, width=width, block=block, slots=numel - block + 1)
    no_keys = torch.zeros(0, dtype=torch.int32)
    return reference.row_addresses(meta, no_keys, torch.tensor([row]), HASH_ROBE, False)[0][0].tolist()


def package_allocate(tables, array_bytes, itemsize, **choices):
    configs = [EmbeddingBagConfig(name=n, num_embeddings=r, embedding_dim=d) for n, r, d in tables]
    layout = allocate(configs, PSSConfig(array_bytes=array_bytes, layout="plain", **choices), itemsize)
    places = {t.name: (t.width, t.prefix, t.block, t.base, t.first, t.num_hot, t.hot_base) for t in layout.tables}
    return layout.shared_numel, layout.numel, places


def package_quantize(bits, *elements):
    array = torch.tensor(elements)
    scales = quantize.scales_of(array, bits)
    codes = quantize.codes_of(array, scales, bits)
    assert torch.equal(quantize.quantize(array, bits), (codes + 0.5) * scales.float())
    return float(scales), codes.tolist()


PACKAGE = {
    "mix64": lambda x: int(hashing.mix64(torch.tensor(hashing.to_signed(x)))) % (1 << 64),
    "table_key": lambda name, seed: hashing.table_key(name, seed) % (1 << 64),
    "hot_key": lambda name, seed, row: int(hashing.hot_keys_of(hashing.table_key(name, seed), torch.tensor([row]))),
    "read": package_read,
    "robe": package_robe,
    "allocate": package_allocate,
    "quantize": package_quantize,
}


def shown(function, value):
    if function in ("mix64", "table_key"):
        return f"{value:#018x}"
    if function == "hot_key":
        return str(value)
    if function == "read":
        return " ".join(f"{'-' if sign < 0 else '+'}{address}" for address, sign in value)
    if function == "robe":
        return " ".join(map(str, value))
    if function == "quantize":
        return f"{value[0]:.9g}: {' '.join(map(str, value[1]))}"
    shared, numel, places = value
    tables = [
        f"{n}: d {d} p {p} Z {z}"
        + f" base {base}" * bool(p)
        + f" F {f}" * bool(f)
        + f" hot {h} at {hot_base}" * bool(h)
        for n, (d, p, z, base, f, h, hot_base) in places.items()
    ]
    return f"S {shared}, N {numel}; " + "; ".join(tables)


def test_the_page_has_vectors_of_every_kind():
    assert {function for function, _, _ in VECTORS} == set(PACKAGE)
    assert len(VECTORS) >= 20


@pytest.mark.parametrize("function, text, expected", VECTORS)
def test_vector(function, text, expected):
    args, kwargs = arguments(text)
    assert shown(function, getattr(spec, function)(*args, **kwargs)) == expected
    assert shown(function, PACKAGE[function](*args, **kwargs)) == expected


def test_random_reads_agree():
    draw = random.Random(0)
    for _ in range(300):
        width = draw.randint(1, 12)
        prefix = draw.choice([0, 0, draw.randint(0, width)])
        block = draw.choice([z for z in range(1, 9) if (width - prefix) % z == 0])
        case = dict(
            width=width, prefix=prefix, block=block, rows=1000, base=draw.randint(0, 99), sign=draw.random() < 0.7,
            shared_numel=draw.choice([16, 1000, 27_000_000, block * ((1 << 32) - 1)]),
        )  # fmt: skip
        case["shared_numel"] = max(case["shared_numel"], block)
        row = draw.randrange(1000) if prefix else draw.randrange(-(1 << 63), 1 << 63)
        case["first"] = draw.choice([0, 48])
        # Hot rows near the row, it among them or not.
        case["hot"] = [row + k for k in draw.sample(range(-3, 4), draw.choice([0, 0, 3])) if abs(row + k) < 1 << 63]
        case["hot"] = [] if width == prefix else case["hot"]
        case["hot_base"] = draw.randint(0, 99)
        case["bits"], case["short_keys"] = draw.choice([32, 4]), draw.random() < 0.5
        name, seed = f"table_{draw.random()}", draw.randrange(-(1 << 63), 1 << 63)
        assert package_read(name, seed, row, **case) == spec.read(name, seed, row, **case)


def test_random_allocations_agree():
    draw = random.Random(1)
    agreed = 0
    for _ in range(200):
        tables = [
            (f"t{i}", draw.choice([3, 40, 500, 10**5, 10**11]), draw.choice([4, 8, 12, 16]))
            for i in draw.sample(range(100), draw.randint(1, 6))
        ]
        choices = dict(
            exact=draw.choice(["auto", "auto", [tables[0][0]]]) if tables[0][1] < 600 else "auto",
            exact_fraction=draw.choice([0.0, 0.3, 1.0]),
            width=draw.choice([None, 4, {tables[-1][0]: 4}]),
            prefix=draw.choice([0, {tables[-1][0]: 2}]) if tables[-1][1] < 600 else 0,
            block_size=draw.choice([None, 1, 2]),
            segments=draw.choice([False, True]),
            bias=draw.choice([False, True]),
            bits=draw.choice([32, 32, 8, 4, 3, 2]),
        )
        if choices["bits"] == 32:
            choices["short_keys"] = draw.choice([None, False, True])
        if choices["segments"] and tables[-1][0] not in choices["exact"]:
            choices["slices"] = draw.choice([None, {}, {tables[-1][0]: draw.randint(1, 3000)}])
        if draw.random() < 0.5 and tables[0][0] not in choices["exact"]:
            choices["hot"] = {tables[0][0]: draw.sample(range(tables[0][1]), draw.randint(0, 3))}
        budget, itemsize = draw.choice([1500, 9000, 100_000, 3_000_001]), draw.choice([2, 4])
        try:
            ours = package_allocate(tables, budget, itemsize, **choices)
        except ValueError as error:
            assert "too small" in str(error)
            continue
        theirs = spec.allocate(tables, budget, itemsize, **choices)
        assert shown("allocate", ours) == shown("allocate", theirs)
        agreed += 1
    assert agreed > 100


def test_random_groups_agree():
    draw = random.Random(2)
    for _ in range(300):
        size = draw.choice([1, 1e-3, 1e-30, 1e-44])
        elements = [draw.gauss(0, size) for _ in range(draw.randint(1, 64))]
        bits = draw.choice(quantize.FEW_BITS)
        assert package_quantize(bits, *elements) == spec.quantize(bits, *elements)


def test_robe_constants_are_the_authors_random_state():
    numbers = np.random.RandomState(1024).randint(0, hashing.ROBE_P, 50)
    assert numbers[:3].tolist() == [hashing.ROBE_R1, hashing.ROBE_R2, hashing.ROBE_R3]
