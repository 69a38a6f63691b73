"""Stage `export`: one student as ONNX, proven equal to the network and timed."""

import argparse
import sys

from medistill.data.dataset import Dataset
from medistill.errors import UserError
from medistill.layout import HERE
from medistill.params import load_params
from pipeline.stage import run_stage


def main(argv: list[str] | None = None) -> int:
    """Export the student named by `argv` into `exports/`; a failed parity is printed, and refused by the gate."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.stages.export", description=__doc__)
    parser.add_argument("student")
    parser.add_argument("recipe")
    parser.add_argument("seed", type=int)
    args = parser.parse_args(argv)
    params = load_params()
    name = f"{args.student}-{args.recipe}-{args.seed}"
    trained = [model.name for model in params.student_models()]
    if name not in trained:
        raise UserError(f"params.yaml: run does not train {name}; it trains {', '.join(trained)}")
    dataset = Dataset.open()

    from medistill.export.bundle import export_model
    from medistill.records.licenses import read_recorded

    source, target, ancestors = HERE.student(name).folder, HERE.export(name).folder, read_recorded(HERE.reports, name)
    proofs = export_model(source, dataset, target, params.export, ancestors, HERE.reports.stress)
    parity, latency = proofs.parity, proofs.latency
    difference = parity.max_abs_logit_difference
    print(
        f"{name}: parity {'passed' if parity.passed else 'FAILED'} on {parity.images} images (largest logit "
        f"difference {'not finite' if difference is None else f'{difference:.1e}'}, limit {parity.limit:.0e}); "
        f"{latency.onnx_mb:.1f} MB, {latency.p50_ms:.1f} ms per image on {latency.threads} thread(s)"
    )
    if parity.maps is not None and not parity.maps.passed:
        print(f"{name}: without model.explain.onnx, whose heat maps are not autograd's (parity.json)", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run_stage(main)
