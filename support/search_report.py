"""How the architectures of a search stand: rungs, leaderboard, which parameter matters, the final."""

import math
from dataclasses import replace
from fractions import Fraction

from support import pictures
from support.chance import difference, mean_sd
from support.console import duration
from support.settings import command_line
from support.trials import Architecture, Trial, architecture_of


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
    trainings = []
    for passes, n, n_seeds in rungs:
        trainings.append(f"{n} for {length(passes)}" + (f" from {n_seeds} seeds" if n_seeds > 1 else ""))
    which = "" if rungs[-1][1] == rungs[0][1] > 2 else "the best "
    print(f"the plan: {f', then {which}'.join(trainings)};")
    if rungs[0][1] < n_candidates:
        print(f"there is not the time for all: only {rungs[0][1]} of {n_candidates}, chosen at random")
    print(f"last the winner and the sheet's, from {n_final_seeds} seeds each, for the test set")
    print(f"this takes about {duration(seconds)}; Ctrl-C stops it, the same command goes on", flush=True)


def print_rung(title, rung, rows):
    """Say what came of a rung, (passes, architectures, seeds); `rows` is None where the time was up."""
    passes, n, n_seeds = rung
    text = f"{title}: {n} architectures for {length(passes)}" + (f", {n_seeds} seeds" if n_seeds > 1 else "")
    if rows is None:
        print(f"{text}: the time is up, so it does not count", flush=True)
        return
    accuracies = {}
    for row in rows:
        if not row["error"]:
            accuracies.setdefault(architecture_of(row), []).append(row["accuracy"])
    if accuracies:
        means = {architecture: mean_sd(of_seeds)[0] for architecture, of_seeds in accuracies.items()}
        best = max(means, key=means.get)
        text += f": {min(means.values()):.2%} to {means[best]:.2%}, the best {best}"
    n_failed = sum(bool(row["error"]) for row in rows)
    if n_failed:
        text += f", {n_failed} failed (see error in results.csv)"
    print(text, flush=True)


def leaderboard(rows, ranked):
    """Return a dict for each architecture of the list `ranked`, in its order, that has been trained.

    Each holds its architecture, what its longest trials in `rows`, {Trial: row}, have in common, and of their
    accuracies on the validation images the mean, sd and n, the number of seeds.
    """
    board = []
    for architecture in ranked:
        trials = [trial for trial in judged(rows, "validation") if trial.architecture == architecture]
        if not trials:
            continue
        passes = max(trial.passes for trial in trials)
        longest = [rows[trial] for trial in trials if trial.passes == passes]
        mean, sd = mean_sd([row["accuracy"] for row in longest])
        seconds = sum(row["seconds"] for row in longest) / (len(longest) * passes)  # a pass
        entry = {"architecture": architecture, "mean": mean, "sd": sd, "n": len(longest), "seconds": seconds}
        board.append({**longest[0], **entry})
    return board


def judged(rows, judged_on):
    """Return the trials among `rows`, {Trial: row}, that did not fail and were judged on `judged_on`."""
    return [trial for trial, row in rows.items() if trial.judged_on == judged_on and not row["error"]]


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
    by_length = {}  # {passes: {architecture: {seed: percent}}}
    for trial in judged(rows, "validation"):
        by_seed = by_length.setdefault(trial.passes, {}).setdefault(trial.architecture, {})
        by_seed[trial.seed] = 100 * rows[trial]["accuracy"]
    passes = max(by_length, key=lambda passes: (len(by_length[passes]), passes))
    accuracies = by_length[passes]
    print(f"\nwhat matters, after {length(passes)}: the change of the validation accuracy, in points")
    for parameter in Architecture._fields:
        first, *others = sorted({getattr(architecture, parameter) for architecture in accuracies})
        for value in others:
            changes = []  # a pair's each
            for architecture, before in accuracies.items():
                after = accuracies.get(architecture._replace(**{parameter: value}), {})
                seeds = before.keys() & after.keys()
                if getattr(architecture, parameter) == first and seeds:
                    changes.append(mean_sd([after[seed] - before[seed] for seed in seeds])[0])
            if changes:
                mean, sd = mean_sd(changes)
                error = f"± {sd / math.sqrt(len(changes)):.2f} (standard error)" if len(changes) > 1 else ""
                print(f"{parameter:13} {first} → {value}: {mean:+.2f} {error} in {len(changes)} pairs")


def print_final(rows, winner, reference, passes):
    """Say how the winner compares with the sheet's architecture on the test set, over the seeds both had."""
    accuracies = {winner: {}, reference: {}}
    for trial in judged(rows, "test"):
        if trial.passes == passes and trial.architecture in accuracies:
            accuracies[trial.architecture][trial.seed] = 100 * rows[trial]["accuracy"]
    seeds = sorted(accuracies[winner].keys() & accuracies[reference].keys())
    if not seeds:
        print(
            "\nnot judged on the test set: there was not the time, or the training failed (see results.csv)"
        )
        return
    print(f"\ntest accuracy after {length(passes)}, trained on the held-out images too,", end=" ")
    print(f"mean ± sd of {len(seeds)} seeds" if len(seeds) > 1 else "one seed: there was no time for more")
    percents = {each: [accuracies[each][seed] for seed in seeds] for each in (winner, reference)}
    for title, architecture in (("the winner", winner), ("the sheet's", reference)):
        mean, sd = mean_sd(percents[architecture])
        print(f"{title:12} {mean:6.2f} ± {sd:.2f} %  {architecture}")
    if winner == reference:
        print("the winner is the sheet's own architecture")
        return
    mean, sd, verdict = difference(percents[reference], percents[winner])
    print(f"{'difference':12} {mean:+6.2f} ± {sd:.2f} points: {verdict}")


def print_next(settings, winner, passes):
    """Say how the winner is trained by train.py: for so many `passes`, or as long as by default."""
    epochs = int(passes) if passes == int(passes) else None
    best = replace(settings, **winner._asdict(), epochs=epochs)
    print(f"\nnext, to train the winner: {command_line(best)}")
