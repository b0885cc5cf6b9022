"""Writes a file that serves a trained model.

    torchrec-pss export runs/demo --output demo.pt2 --aoti
    torchrec-pss export runs/interactions --part user --output user.pt2

The run is an output folder of train_criteo.py or train_interactions.py that has ended. Held-out rows of the run go through the model and
through the file; how far they are apart stands in the file and is printed.
"""

from pathlib import Path
from typing import Any

import torch

from torchrec_pss.export import exporting, runs, saved_model
from torchrec_pss.flags import add_number, command_parser
from torchrec_pss.quant.embedding_modules import OUT_OF_RANGE
from torchrec_pss.quant.packed_array import STORED_BITS

TRANSFORMS = {
    "log": "sign(x) * log(1 + |x|), 0 for a value that is missing",
    "none": "the value, 0 for one that is missing",
}
DENSE_DTYPES = ("float32", "bfloat16", "float16")
_ALLOWED = {8: 0.0001, 4: 0.0005}  # AUROC


def main(argv: list[str] | None = None) -> None:
    parser = command_parser("export", __doc__)
    parser.add_argument("run", type=Path, help="output folder of train_criteo.py or train_interactions.py")
    parser.add_argument("--output", type=Path, required=True, help="the file, .pt2")
    add_number(parser, "--bits", choices=STORED_BITS, help="of a stored element (default: as trained)")
    parser.add_argument(
        "--dense_dtype", choices=DENSE_DTYPES, help="of layers behind the embeddings (default: as trained)"
    )
    parser.add_argument(
        "--aoti",
        action="store_true",
        help="compile it for this machine too: faster, and what C++ loads; takes a minute",
    )
    parser.add_argument(
        "--out_of_range", choices=OUT_OF_RANGE, default="error", help="ids without a row in an exact table"
    )
    parser.add_argument(
        "--part",
        choices=[p for parts in runs.PARTS.values() for p in parts],
        help="of a two-tower model: pairs (default), user, item",
    )
    args = parser.parse_args(argv)
    try:
        metadata = export_run(
            args.run, args.output, args.part, args.bits, args.dense_dtype, args.aoti, args.out_of_range
        )
    except (FileNotFoundError, ValueError, OSError) as error:
        parser.error(str(error))
    if metadata["numbering_bytes"]:
        print(f"it numbers ids by {metadata['numbering_bytes']:,} bytes beside")
    check = metadata["check"]
    print(f"{args.output}: {args.output.stat().st_size:,} bytes, of the embeddings {metadata['embedding_bytes']:,} in {metadata['bits'][0]} bits"
          f"{', compiled' if args.aoti else ''}")  # fmt: skip
    print(f"{check['rows']:,} held-out rows: largest difference to the model {check['largest_difference']:.2g}")
    if "auroc_of_file" in check:
        lost = check["auroc_of_model"] - check["auroc_of_file"]
        print(f"AUROC {check['auroc_of_file']:.5f}, the model's {check['auroc_of_model']:.5f}")
        if lost > _ALLOWED.get(metadata["bits"][0], 0.0001):
            print(f"warning: the file loses {lost:.5f} of AUROC; more --bits lose less")


def export_run(
    run: Path, output: Path, part: str | None, bits: int | None, dense_dtype: str | None, aoti: bool, out_of_range: str
) -> dict[str, Any]:
    """The file's metadata.

    Raises:
        FileNotFoundError, OSError, ValueError: see `saved_model.load`, `runs.part_of` and `export`.
    """
    saved = saved_model.load(run)
    part = part or runs.PARTS[saved.kind][0]
    model, names = runs.part_of(saved, part)
    if saved.kind != "click" and out_of_range != "error":
        raise ValueError(f"--out_of_range {out_of_range} is of embedding bags, and a two-tower model has none")
    said: dict[str, Any] = {"run": saved.results, "part": part, "features": saved.collection._feature_names}
    if saved.kind == "click":
        number = max(saved.rows.dense.shape[1], 1)
        transforms = saved.schema.transforms if saved.schema is not None else ("log",) * number
        # A model without dense values is given one that is 0.
        said |= {"dense": None if saved.schema is None else list(saved.schema.dense), "texts": saved.texts}
        said["separators"] = saved.separators
        said["bags"] = [] if saved.schema is None else [bag.name for bag in saved.schema.bags]
        said |= {"num_dense": number, "dense_transforms": list(transforms) or ["none"], "transforms": TRANSFORMS}
    return exporting.export(
        model, runs.arguments(saved, part, slice(0, 2)), output, bits=bits, dense_dtype=getattr(torch, dense_dtype) if dense_dtype else None, aoti=aoti, out_of_range=out_of_range, names=names, said=said,
        check=lambda file: runs.compare(model, file, saved, part),
    )  # fmt: skip


if __name__ == "__main__":
    main()
