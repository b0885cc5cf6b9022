"""The runs that `torchrec_pss.advise` predicts from: the array and full tables over many compressions and data sets."""

from benchmarks.quality import rivals
from benchmarks.quality.click_trial import ClickTrial
from benchmarks.quality.jobs import Job, Results
from torchrec_pss.advise.prediction import Calibration

_DATA = {  # data: rows a step
    "criteo": 64,
    "generated:200000:0.02:1.05": 256,
    "generated:200000:0.02:1.2": 256,
    "generated:200000:0.02:1.4": 256,
    "generated:400000:0.01:1.1": 256,
    "generated:100000:0.05:1.1": 128,
}
_COMPRESSIONS = (4, 10, 30, 100, 300, 1000, 3000)


def study(results: Results, workers: int, quick: bool) -> dict:
    """Runs of the array with what full tables lose it, and how the advisor's interval does on data sets left out."""
    data_sets = dict(list(_DATA.items())[:2] if quick else _DATA)

    def job(data: str, name: str, compression: float) -> Job:
        return Job(data, ClickTrial(name, compression, batch_size=data_sets[data], points=16))

    full = {data: job(data, "full", rivals.FULL) for data in data_sets}
    arrays = {(data, c): job(data, "pss", float(c)) for data in data_sets for c in _COMPRESSIONS}
    results.run([*full.values(), *arrays.values()], workers, "calibrate")
    runs = []
    for (data, compression), array in arrays.items():
        ours, theirs = results.of(array), results.of(full[data])
        if "impossible" in ours:
            continue
        target = min(ours["auroc_test"], theirs["auroc_test"]) - 0.0005
        steps = [next(step for step, auroc in r["curve"] if auroc >= target) for r in (ours, theirs)]
        runs.append({
            "data": data, "compression": compression, "lost_share": ours["lost_share"],
            "drop": theirs["auroc_test"] - ours["auroc_test"], "steps_ratio": steps[0] / steps[1],
        })  # fmt: skip
    calibration = Calibration(runs)
    shown = {share: vars(calibration.steps_ratio(share)) for share in (0.02, 0.1, 0.3, 0.5)}
    return {"coverage": calibration.coverage(), "steps_ratio_at_lost_share": shown, "runs": runs}
