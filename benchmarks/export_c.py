"""A call of a net in C, as `to_c` writes it, beside emlearn's C code of the same weights.

Both stand in one program, and take turns; of each the least time of all turns counts, as other
programs on the machine only add to it.
"""

import argparse
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import machine, output
from benchmarks.scores import Record
from fastmlp import MLP, to_c
from fastmlp.rules.activations import ActivationName

PAGE = output.DOCS / "how-to" / "export-to-c.md"
NETS: list[tuple[tuple[int, ...], ActivationName]] = [
    ((4, 32, 32, 1), "relu"),
    ((16, 64, 64, 1), "relu"),
    ((4, 32, 32, 1), "tanh"),
    ((16, 64, 64, 1), "tanh"),
]
OPTIONS = ("-O3 -march=native", "-O2")
# Short turns: where other programs run, a long one is interrupted.
TURNS, CALLS = 3_000, 128

PROGRAM = """\
#define _POSIX_C_SOURCE 199309L
#include <stdio.h>
#include <time.h>
@INCLUDES
static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}

static float rows[64][16];
static volatile float sink;

#define RACE(ours, theirs) \\
    do { \\
        double best[2] = {1e30, 1e30}, apart = 0, begin, took; \\
        float y = 0, sum; \\
        for (int i = 0; i < 64; ++i) { \\
            ours(rows[i], &y); \\
            const double d = (double)y - (double)theirs; \\
            apart = d > apart ? d : -d > apart ? -d : apart; \\
        } \\
        for (int turn = 0; turn < @TURNS; ++turn) { \\
            begin = now(), sum = 0; \\
            for (int i = 0; i < @CALLS; ++i) { ours(rows[i & 63], &y); sum += y; } \\
            took = now() - begin, sink = sum; \\
            best[0] = took < best[0] ? took : best[0]; \\
            begin = now(), sum = 0; \\
            for (int i = 0; i < @CALLS; ++i) sum += theirs; \\
            took = now() - begin, sink = sum; \\
            best[1] = took < best[1] ? took : best[1]; \\
        } \\
        printf("[%g, %g, %g]\\n", best[0] / @CALLS, best[1] / @CALLS, apart); \\
    } while (0)

int main(void)
{
    for (int i = 0; i < 64 * 16; ++i) rows[i / 16][i % 16] = (float)(i * 37 % 101 - 50) / 30;
@RACES
    return 0;
}
"""


def measure(options: argparse.Namespace, results: Record) -> Record:
    """Nanoseconds of a call of each net, by the compiler's options."""
    import emlearn
    from emlearn.net import c_generate_net_loadable

    with tempfile.TemporaryDirectory() as folder:
        includes, races = [], []
        for i, (sizes, activation) in enumerate(NETS):
            net = MLP(sizes, activation=activation, seed=i)
            to_c(net, Path(folder, f"ours{i}.h"), prefix=f"ours{i}", tests=0)
            names = [activation] * (len(sizes) - 2) + ["identity"]
            code = c_generate_net_loadable(names, net.weights, net.biases, f"theirs{i}")
            Path(folder, f"theirs{i}.h").write_text(code)
            includes += [f"#define OURS{i}_IMPLEMENTATION", f'#include "ours{i}.h"']
            includes += [f'#include "theirs{i}.h"']
            races.append(
                f"    RACE(ours{i}_predict, theirs{i}_regress1(rows[i & 63], {sizes[0]}));"
            )
        filled = {"@INCLUDES": "\n".join(includes), "@RACES": "\n".join(races)}
        program = PROGRAM
        for place, text in {
            **filled,
            "@TURNS": str(TURNS),
            "@CALLS": str(CALLS),
        }.items():
            program = program.replace(place, text)
        Path(folder, "race.c").write_text(program)
        times = {}
        for flags in OPTIONS:
            command = [
                options.compiler,
                *flags.split(),
                "-I",
                emlearn.includedir,
                "race.c",
                "-lm",
            ]
            subprocess.run([*command, "-o", "race"], cwd=folder, check=True)
            lines = subprocess.check_output(
                ["./race"], cwd=folder, text=True
            ).splitlines()
            times[flags] = [json.loads(line) for line in lines]
    version = subprocess.check_output(
        [options.compiler, "--version"], text=True
    ).splitlines()[0]
    about = f"{version}, emlearn {machine.installed('emlearn')}"
    return {"times": times, "about": about}


def table(results: Record) -> Iterator[str]:
    yield machine.measured(results, results["about"], versions={})
    yield "\nNanoseconds of a call, and emlearn's time over fastmlp's.\n"
    rows = []
    for flags, pairs in results["times"].items():
        for (sizes, activation), (ours, theirs, _) in zip(NETS, pairs, strict=True):
            net = f"{'-'.join(map(str, sizes))} {activation}"
            cells = f"{ours:.0f}", f"{theirs:.0f}", f"{theirs / ours:.1f}x"
            rows.append((f"`{flags}`", net, *cells))
    titles = ("gcc", "net", ">fastmlp", ">emlearn", ">ratio")
    yield from output.Table(titles, rows).markdown()
    apart = max(pair[2] for pairs in results["times"].values() for pair in pairs)
    yield f"\nTheir predictions differ by {apart:.0e} at most."


main = output.program(
    PAGE, measure, {"--compiler": {"default": "gcc"}}, benchmarks=table
)

if __name__ == "__main__":
    main()
