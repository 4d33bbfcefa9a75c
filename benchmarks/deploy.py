"""What `dynaconv.deploy` gains: latency before and after, beside the static network treated alike.

    python benchmarks/deploy.py                          # the table of docs/results/inference.md
    python benchmarks/deploy.py odconv_mobilenetv2_100 --batch 1 8 --rounds 40 --side 224
    python benchmarks/deploy.py --threads 2              # wall-clock time instead of the processor's

Networks have their initial weights and running statistics, which changes no timing. The candidates of a line take
turns. On one thread the time is the processor's, which other programs lengthen little.
"""

import argparse
import itertools
import platform
import time

import timm
import torch
from _runtimes import processors

import dynaconv.models  # noqa: F401  # registers the networks with timm
from dynaconv.deployment import deploy
from dynaconv.markdown import markdown_table
from dynaconv.measure.latency import measure_latency
from dynaconv.train.factory import static_twin

NETWORKS = (
    "dcd_mobilenetv2_050",
    "dcd_mobilenetv2_100",
    "dcd_mobilenetv2_100_published",
    "dcd_resnet18",
    "dcd_resnet18_published",
)


def row(name: str, batch: int, args: argparse.Namespace) -> list[object]:
    """One line of the table: milliseconds of each candidate, and what deployment and dynamic kernels cost."""
    size = (batch, 3, args.side, args.side)
    dynamic = timm.create_model(name).eval()
    static = timm.create_model(str(static_twin(name))).eval()
    models = {
        "dynamic": dynamic,
        "deployed": deploy(dynamic),
        "deployed for the size": deploy(dynamic, size),
        "static": static,
        "static deployed": deploy(static, size),
    }
    clock = time.process_time if args.threads == 1 else time.perf_counter
    found = measure_latency(models, size, rounds=args.rounds, warmup=3, clock=clock)
    cells = [f"{found[key].median_ms:.1f}" for key in models]
    gain = found["deployed for the size"].ratio
    over = found["deployed for the size"].median_ms / found["static deployed"].median_ms
    return [name, batch, *cells, f"{gain:.2f}", f"{over:.2f}"]


def main() -> None:
    """Print the table and where it was taken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS, help="timm names")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    columns = ["network", "batch", "dynamic ms", "deployed", "deployed for the size", "static", "static deployed"]
    columns += ["deployed / dynamic", "deployed / static deployed"]
    rows = (row(name, batch, args) for name, batch in itertools.product(args.networks, args.batch))
    for line in markdown_table(columns, rows):
        print(line, flush=True)
    print(
        f"\n{args.side} pixels, {args.threads} thread(s), median of {args.rounds} alternating rounds, torch "
        f"{torch.__version__}, {platform.processor() or platform.machine()}, {processors()}"
    )


if __name__ == "__main__":
    main()
