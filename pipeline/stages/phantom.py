"""Stage `phantom`: draw the built-in data set into data/raw/phantom."""

import argparse

from medistill.errors import UserError
from medistill.layout import HERE
from medistill.params import load_params
from pipeline.stage import run_stage


def main(argv: list[str] | None = None) -> int:
    """Write data/raw/phantom from `phantom` in params.yaml."""
    argparse.ArgumentParser(prog="python -m pipeline.stages.phantom", description=__doc__).parse_args(argv)

    from tqdm import tqdm

    from medistill.phantom.write import write_phantom

    try:
        write_phantom(
            HERE.phantom,
            **load_params().phantom.model_dump(),
            progress=lambda images, total: tqdm(images, total=total, desc="draw", unit="image", disable=None),
        )
    except ValueError as error:
        raise UserError(str(error)) from None
    return 0


if __name__ == "__main__":
    run_stage(main)
