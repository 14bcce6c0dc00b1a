"""How the architectures of a search stand: rungs, leaderboard, which parameter matters, the final."""

import math
from fractions import Fraction

from support import pictures
from support.chance import difference, mean_sd
from support.console import duration
from support.trials import Architecture, Trial


def length(passes):
    """Return how long a training is as a text, such as "1/3 epoch"."""
    return f"{Fraction(passes).limit_denominator(100)} {'epoch' if passes <= 1 else 'epochs'}"


def introduce(trials, candidates, reference):
    """Say what there is to search, and what one costs: the `reference`, the sheet's architecture."""
    learned, held_out = trials.data["validation"]
    mflop, n_parameters = trials.sizes[reference]
    seconds = len(learned) * trials.cost[reference]
    print(f"{learned.source}: {len(learned):,} training images, and {len(held_out):,} held out to compare by")
    print(
        f"{len(candidates)} architectures; the sheet's, {reference}, has {n_parameters:,} parameters, "
        f"{mflop:.1f} MFLOP forward, and takes {seconds:.1f} s an epoch"
    )
    every = [Trial("validation", each, 5.0, seed) for each in candidates for seed in range(3)]
    needed = duration(sum(map(trials.seconds_of, every)))
    print(f"all of them for 5 epochs from 3 seeds would take one process {needed}")


def print_plan(rungs, n_candidates, seconds, n_final_seeds):
    """Say which networks will be trained, in about `seconds`."""
    parts = []
    for passes, n, n_seeds in rungs:
        parts.append(f"{n} for {length(passes)}" + (f" from {n_seeds} seeds" if n_seeds > 1 else ""))
    which = "" if rungs[-1][1] == rungs[0][1] > 2 else "the best "
    print(f"the plan: {f', then {which}'.join(parts)};")
    if rungs[0][1] < n_candidates:
        print(f"there is not the time for all: only {rungs[0][1]} of {n_candidates}, chosen at random")
    print(f"last the winner and the sheet's, from {n_final_seeds} seeds each, for the test set")
    print(f"this takes about {duration(seconds)}; Ctrl-C stops it, the same command goes on", flush=True)


def print_rung(title, rung, rows):
    """Say what came of a rung, (passes, architectures, seeds); `rows` is None where the time was up."""
    passes, n, n_seeds = rung
    what = f"{title}: {n} architectures for {length(passes)}" + (f", {n_seeds} seeds" if n_seeds > 1 else "")
    if rows is None:
        print(f"{what}: the time is up, so it does not count", flush=True)
        return
    accuracies, done = {}, [row for row in rows if not row["error"]]
    for row in done:
        architecture = Architecture(*(row[field] for field in Architecture._fields))
        accuracies.setdefault(architecture, []).append(row["accuracy"])
    means = {architecture: mean_sd(own)[0] for architecture, own in accuracies.items()}
    if means:
        what += (
            f": {min(means.values()):.2%} to {max(means.values()):.2%}, the best {max(means, key=means.get)}"
        )
    if len(done) < len(rows):
        what += f", {len(rows) - len(done)} failed (see error in results.csv)"
    print(what, flush=True)


def leaderboard(rows, ranked):
    """Return a dict for each architecture of the list `ranked`, in its order, that has been trained.

    Each holds its architecture, what its longest trials in `rows`, {Trial: row}, have in common, and of their
    accuracies on the validation images the mean, sd and n, the number of seeds.
    """
    good = [trial for trial, row in rows.items() if trial.judged_on == "validation" and not row["error"]]
    good = [trial for trial in good if trial.architecture in ranked]
    longest = {}
    for trial in sorted(good, key=lambda trial: trial.passes):
        longest[trial.architecture] = trial.passes
    board = []
    for architecture, passes in longest.items():
        own = [rows[each] for each in good if (each.architecture, each.passes) == (architecture, passes)]
        mean, sd = mean_sd([row["accuracy"] for row in own])
        seconds = sum(row["seconds"] for row in own) / (len(own) * passes)
        entry = {"architecture": architecture, "mean": mean, "sd": sd, "n": len(own), "seconds": seconds}
        board.append({**own[0], **entry})
    return sorted(board, key=lambda entry: ranked.index(entry["architecture"]))


def report(rows, ranked, folder, source):
    """Print the leaderboard and what each parameter does, and draw accuracy against cost.

    `ranked` are the architectures, the best first; `rows` is {Trial: row}.
    """
    board = leaderboard(rows, ranked)
    print("\nrank  validation accuracy    trained for  parameters  MFLOP   s/pass  architecture")
    for rank, entry in enumerate(board[:10], 1):
        spread = f"± {100 * entry['sd']:.2f} ({entry['n']})" if entry["n"] > 1 else ""
        print(
            f"{rank:4}  {entry['mean']:9.2%} {spread:12} {length(entry['passes']):>10}  "
            f"{entry['n_parameters']:10,}  {entry['mflop']:5.1f}  {entry['seconds']:7.1f}  "
            f"{entry['architecture']}"
        )
    print("(2): mean ± sd of two seeds; who was promoted further is ahead", end="")
    print(f"; {len(board) - 10} more are in results.csv" if len(board) > 10 else "")
    print_importance(rows)
    if folder:
        pictures.draw_costs(folder / "costs.png", board, f"architecture search on {source}")
        print(f"look at {folder}/costs.png: error against cost; every trial is in {folder}/results.csv")


def print_importance(rows):
    """Print what each parameter does to the accuracy, by the pairs of architectures that differ in it alone.

    A pair's change is the mean over the seeds that both had; the standard error is over pairs, since the
    seeds of one pair say nothing of other architectures. The trials are those of the longest training that
    all candidates had, so that like is compared with like.
    """
    by_length = {}
    for trial, row in rows.items():
        if trial.judged_on == "validation" and not row["error"]:
            own = by_length.setdefault(trial.passes, {}).setdefault(trial.architecture, {})
            own[trial.seed] = 100 * row["accuracy"]
    most = max(map(len, by_length.values()))
    passes = max(passes for passes, own in by_length.items() if len(own) == most)
    accuracies = by_length[passes]  # {architecture: {seed: percent}}
    print(f"\nwhat matters, after {length(passes)}: the change of the validation accuracy, in points")
    for parameter in Architecture._fields:
        first, *others = sorted({getattr(architecture, parameter) for architecture in accuracies})
        for value in others:
            changes = []
            for architecture, own in accuracies.items():
                other = accuracies.get(architecture._replace(**{parameter: value}), {})
                seeds = own.keys() & other.keys()
                if getattr(architecture, parameter) == first and seeds:
                    changes.append(mean_sd([other[seed] - own[seed] for seed in seeds])[0])
            if changes:
                mean, sd = mean_sd(changes)
                error = f"± {sd / math.sqrt(len(changes)):.2f} (standard error)" if len(changes) > 1 else ""
                print(f"{parameter:13} {first} → {value}: {mean:+.2f} {error} in {len(changes)} pairs")


def print_final(rows, winner, reference, passes):
    """Say how the winner compares with the sheet's architecture on the test set, over the seeds both had."""
    accuracies = {winner: {}, reference: {}}
    for trial, row in rows.items():
        if (trial.judged_on, trial.passes) == ("test", passes) and not row["error"]:
            accuracies.get(trial.architecture, {})[trial.seed] = 100 * row["accuracy"]
    seeds = sorted(accuracies[winner].keys() & accuracies[reference].keys())
    if not seeds:
        print(
            "\nnot judged on the test set: there was not the time, or the training failed (see results.csv)"
        )
        return
    print(f"\ntest accuracy after {length(passes)}, trained on the held-out images too,", end=" ")
    print(f"mean ± sd of {len(seeds)} seeds" if len(seeds) > 1 else "one seed: there was no time for more")
    for title, architecture in (("the winner", winner), ("the sheet's", reference)):
        mean, sd = mean_sd([accuracies[architecture][seed] for seed in seeds])
        print(f"{title:12} {mean:6.2f} ± {sd:.2f} %  {architecture}")
    if winner == reference:
        print("the winner is the sheet's own architecture")
        return
    both = [[accuracies[architecture][seed] for seed in seeds] for architecture in (reference, winner)]
    mean, sd, verdict = difference(*both)
    print(f"{'difference':12} {mean:+6.2f} ± {sd:.2f} points: {verdict}")
