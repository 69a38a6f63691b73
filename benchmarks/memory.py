"""What a training step gains when freed memory is kept: `python -m benchmarks.memory`, on an idle CPU.

Steps with and without `pipeline.stage.keep_freed_memory` take turns, each in a process of its own, since a process
cannot undo the setting. A ratio is of two successive processes. Writes its table into docs/distillation.md.
"""

import argparse
import subprocess
import sys
import time

from tqdm import tqdm

from benchmarks.page import spread, write_between

NETWORKS = [("eeea_net_c2", 96), ("eeea_net_c2", 224), ("densenet121", 224)]
BATCH, STEPS = 16, 10


def step_rate(arch: str, size: int, *, keep: bool) -> float:
    """Images per second of forward pass, backward pass and optimiser step on one batch in memory."""
    import torch

    from medistill.models.build import create_classifier
    from medistill.models.settings import Network
    from pipeline.stage import keep_freed_memory

    if keep:
        keep_freed_memory()
    torch.manual_seed(0)
    model = create_classifier(Network(arch=arch), labels=list("abcdefghijklmn"), image_size=size)
    model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    images = torch.rand(BATCH, 3, size, size).contiguous(memory_format=torch.channels_last)
    targets = torch.rand(BATCH, 14).round()

    def step() -> None:
        torch.nn.functional.binary_cross_entropy_with_logits(model(images), targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(3):
        step()
    start = time.perf_counter()
    for _ in range(STEPS):
        step()
    return BATCH * STEPS / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--one", nargs=3, metavar=("ARCH", "SIZE", "KEEP"), help="print one rate: for the script itself"
    )
    arguments = parser.parse_args()
    if arguments.one:
        arch, size, keep = arguments.one
        print(step_rate(arch, int(size), keep=keep == "yes"))
        return
    rates: dict[tuple[str, int, str], list[float]] = {}
    for _ in tqdm(range(arguments.rounds), desc="rounds"):
        for arch, size in NETWORKS:
            for keep in ("no", "yes"):
                command = [sys.executable, "-m", "benchmarks.memory", "--one", arch, str(size), keep]
                said = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
                rates.setdefault((arch, size, keep), []).append(float(said.stdout))
    rows = ["| step, batches of 16 | given back, images/s | kept, images/s | ratio |", "|---|---|---|---|"]
    for arch, size in NETWORKS:
        given, kept = rates[arch, size, "no"], rates[arch, size, "yes"]
        ratios = [more / less for more, less in zip(kept, given, strict=True)]
        rows.append(f"| {arch}, {size} px | {spread(given, 1)} | {spread(kept, 1)} | {spread(ratios, 2)} |")
    table = "\n".join(rows)
    print(table)
    write_between("docs/distillation.md", "memory", table)


if __name__ == "__main__":
    main()
