"""The quality lab: contestants at equal bytes.

    python -m benchmarks.quality.run main [--quick] [--data criteo,gowalla,...] [--out DIR]
    python -m benchmarks.quality.run passes [--quick] [--data criteo,...]
    python -m benchmarks.quality.run steps [--quick]
    python -m benchmarks.quality.run calibrate [--install]
    python -m benchmarks.quality.run headline [--quick]
    python -m benchmarks.quality.run splits [--quick]
    python -m benchmarks.quality.run kinds [--quick]
    python -m benchmarks.quality.run files [--quick]
    python -m benchmarks.quality.run pair_files [--quick]
    python -m benchmarks.quality.run few_bits [--quick] [--only Criteo] [--seeds 12]

``main``: every contestant on every data set, model and compression. Each has the same number of trials, each with three seeds; the
figure is the mean test AUROC, with a 95 % interval, of the trial whose mean validation AUROC is best.
``passes``: of the click logs in ``main``, the trials that it chose, trained again in as many passes as `train_criteo.py` takes.
``steps``: AUROC against steps on generated rows, the array at several compressions and full tables.
``headline``: `train_criteo.py` at Kaggle's shape, 1000x and 10,000x, and at MLPerf's with an array of 10 MB.
``splits``: the array against row hashing, narrow and full tables on random splits of Criteo's rows, split by split.
``kinds``: likewise on the other kinds of files that ``files`` makes of them, against row hashing and narrow tables.
``files``: `train_criteo.py`, nothing tuned, on a Criteo file, what can be made of it, and generated rows: the array, row hashing, narrow tables.
``pair_files``: `train_interactions.py`, nothing tuned, on Gowalla and generated pairs: the array, narrow tables, row hashing.
``few_bits``: every contestant in 4 bits an element at equal stored bytes, the array untuned, its rivals by the trials that ``main`` chose.
``calibrate``: the array and full tables over many compressions and data sets, for `torchrec_pss.advise`; --install puts the runs into the package.

Results land in --out as they come; started again, a study goes on where it stopped.
"""

import json
import logging
from pathlib import Path

from benchmarks.quality import (
    calibrate,
    equal_bytes,
    few_bits,
    files,
    headline,
    main_study,
    pair_files,
    rivals,
    splits,
    steps,
    tables,
)
from benchmarks.quality.jobs import Results
from torchrec_pss.advise.prediction import CALIBRATION
from torchrec_pss.flags import Parser, add_number
from torchrec_pss.modules.pss_config import BITS
from torchrec_pss.whole_file import write_json

logger: logging.Logger = logging.getLogger("benchmarks.quality")

_RECORDED_MAIN = Path(__file__).parents[1] / "results" / "quality" / "main.json"


def main() -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "study",
        choices=[
            "main",
            "passes",
            "steps",
            "calibrate",
            "headline",
            "splits",
            "kinds",
            "files",
            "pair_files",
            "few_bits",
        ],
    )
    parser.add_argument(
        "--data",
        default=",".join(main_study.MAIN),
        help=f"of main and passes, comma-separated: {', '.join(main_study.MAIN)}",
    )
    parser.add_argument(
        "--install", action="store_true", help="of calibrate: write torchrec_pss/advise/calibration.json"
    )
    parser.add_argument(
        "--only",
        default="",
        help="of headline, files and few_bits: those whose names have this in them, such as kaggle or dense",
    )
    add_number(parser, "--seeds", default=3, help="of headline and few_bits (of splits, too): so many, from 0 on")
    add_number(parser, "--least", default=1, help="of few_bits: compressions from that on, for lower ones take longest")
    parser.add_argument(
        "--contestants", default="", help="of few_bits: those besides pss, comma-separated (default: all)"
    )
    add_number(parser, "--bits", default=32, choices=BITS, help="of files: of an element, the rivals' too")
    parser.add_argument("--quick", action="store_true", help="one trial, one seed: minutes instead of hours")
    add_number(parser, "--workers", default=2, help="processes, one thread each")
    parser.add_argument("--out", type=Path, help="default runs/quality, or runs/quality_quick")
    args = parser.parse_args()
    # By force: an import has configured the root logger already.
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True)
    logger.setLevel(logging.INFO)
    out = args.out or Path("runs/quality_quick" if args.quick else "runs/quality")
    out.mkdir(parents=True, exist_ok=True)
    results = Results(out / "trials.jsonl")
    if args.study == "steps":
        found = steps.study(results, args.workers, args.quick, out)
        print(json.dumps({k: v for k, v in found.items() if k != "curves"}, indent=2))
    elif args.study == "headline":
        found = headline.study(out, args.workers, args.quick, args.only, args.seeds)
        text = tables.headline(found)
        (out / "headline.md").write_text(text)
        print(text)
    elif args.study == "splits":
        found = splits.study(results, args.workers, args.quick)
        print(splits.markdown(found))
    elif args.study == "few_bits":
        others = [n for n in args.contestants.split(",") if n]
        found = few_bits.study(
            results, args.workers, args.quick, args.only, _RECORDED_MAIN, others, args.seeds, args.least
        )
        equal_bytes.write_csv(out / "few_bits.csv", found)
        equal_bytes.plot(out / "few_bits.png", found)
        print(equal_bytes.markdown(found))
    elif args.study == "kinds":
        found = splits.study_kinds(results, out, args.workers, args.quick)
        print(splits.markdown(found))
    elif args.study == "files":
        found = files.study(out, args.workers, args.quick, args.bits, args.only)
        print(files.markdown(found))
    elif args.study == "pair_files":
        found = pair_files.study(out, args.workers, args.quick)
        print(files.markdown(found))
    elif args.study == "calibrate":
        found = calibrate.study(results, args.workers, args.quick)
        print(json.dumps({k: v for k, v in found.items() if k != "runs"}, indent=2))
        if args.install:
            write_json(CALIBRATION, {"runs": found["runs"]})
    else:
        data_sets = args.data.split(",")
        unknown = [d for d in data_sets if d not in main_study.MAIN]
        if unknown:
            parser.error(f"unknown data {unknown}; there are {', '.join(main_study.MAIN)}")
        if args.study == "main":
            found = main_study.study(data_sets, results, args.workers, args.quick)
        else:
            chosen_in = next(p for p in (out / "main.json", _RECORDED_MAIN) if p.exists())
            click_logs = [d for d in data_sets if main_study.MAIN[d][2]]  # those with rows a step
            chosen = [r for r in json.loads(chosen_in.read_text()) if r["data"] in click_logs]
            if not chosen:
                parser.error(f"{chosen_in} has no click log of {args.data}")
            found = main_study.study_passes(chosen, results, args.workers, args.quick)
        text = tables.markdown(found, list(rivals.CONTESTANTS))
        (out / f"{args.study}.md").write_text(text)
        tables.plot(out / f"{args.study}.png", found)
        print(text)
    write_json(out / f"{args.study}.json", found)


if __name__ == "__main__":
    main()
