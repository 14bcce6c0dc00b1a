"""How the architectures of a search stand: rungs, leaderboard, which parameter matters, the final."""

from fractions import Fraction

import figures
from effect import difference, mean_sd
from runs import duration
from trials import Architecture


def length(passes):
    """Return how long a training is as a text, such as "1/3 epoch"."""
    return f"{Fraction(passes).limit_denominator(100)} {'epoch' if passes <= 1 else 'epochs'}"


def name(row):
    """Return a row's architecture as a text."""
    return str(Architecture(*(row[field] for field in Architecture._fields)))


def print_plan(rungs, seconds, n_final_seeds):
    """Say which networks will be trained, in at most `seconds`."""
    parts = []
    for passes, n, n_seeds in rungs:
        seeds = f" from {n_seeds} seeds" if n_seeds > 1 else ""
        parts.append(f"{n} for {length(passes)}{seeds}")
    print(f"the plan: {', then the best '.join(parts)};")
    print(f"last the winner and the sheet's, from {n_final_seeds} seeds each, for the test set")
    print(f"this takes at most {duration(seconds)}; Ctrl-C stops it, the same command goes on", flush=True)


def print_rung(title, rung, rows):
    """Say what came of a rung, (passes, architectures, seeds); `rows` is None where the time was up."""
    passes, n, n_seeds = rung
    what = f"{title}: {n} architectures for {length(passes)}" + (f", {n_seeds} seeds" if n_seeds > 1 else "")
    if rows is None:
        print(f"{what}: the time is up, so it does not count", flush=True)
        return
    done = sorted((row for row in rows if not row["error"]), key=lambda row: row["accuracy"])
    failed = f", {len(rows) - len(done)} failed (see error in results.csv)" if len(done) < len(rows) else ""
    if done:
        low, high = done[0]["accuracy"], done[-1]["accuracy"]
        what += f": {low:.2%} to {high:.2%}, the best {name(done[-1])}"
    print(what + failed, flush=True)


def leaderboard(rows):
    """Return a dict for each architecture, the longest trained first and of these the best first.

    Each holds what its trials of that length, one per seed, have in common, and their accuracies on the
    validation images: mean, sd, n.
    """
    longest = {}
    for row in rows:
        if row["judged_on"] == "validation" and row["accuracy"] is not None:
            key = name(row)
            best = longest.get(key, [row])
            if row["passes"] > best[0]["passes"]:
                best = []
            elif row["passes"] < best[0]["passes"]:
                continue
            longest[key] = [*(each for each in best if each is not row), row]
    board = []
    for trials in longest.values():
        mean, sd = mean_sd([row["accuracy"] for row in trials])
        seconds = sum(row["seconds"] for row in trials) / sum(row["passes"] for row in trials)
        board.append({**trials[0], "mean": mean, "sd": sd, "n": len(trials), "seconds": seconds})
    return sorted(board, key=lambda entry: (-entry["passes"], -entry["mean"]))


def report(rows, folder, source):
    """Print the leaderboard and what each parameter does, and draw accuracy against cost."""
    rows = list(rows)
    board = leaderboard(rows)
    if not board:
        return
    print("\nrank  validation accuracy    trained for  parameters  MFLOP  s/epoch  architecture")
    for rank, entry in enumerate(board[:10], 1):
        spread = f"± {100 * entry['sd']:.2f} ({entry['n']})" if entry["n"] > 1 else ""
        print(
            f"{rank:4}  {entry['mean']:9.2%} {spread:12} {length(entry['passes']):>10}  "
            f"{int(entry['n_parameters']):10,}  {entry['mflop']:5.1f}  {entry['seconds']:7.1f}  {name(entry)}"
        )
    print_importance(rows)
    if folder:
        figures.draw_costs(folder / "costs.png", board, f"architecture search on {source}")
        print(f"look at {folder}/costs.png: accuracy against cost; every trial is in {folder}/results.csv")


def print_importance(rows):
    """Print the mean accuracy by each parameter's values, of the longest trials that all candidates had.

    Only where all were trained alike does a mean compare the values, and not who was promoted.
    """
    by_length = {}
    for row in rows:
        if row["judged_on"] == "validation" and row["accuracy"] is not None:
            by_length.setdefault(row["passes"], []).append(row)
    counts = {passes: len({name(row) for row in each}) for passes, each in by_length.items()}
    passes = max(length for length, count in counts.items() if count == max(counts.values()))
    print(f"\nmean validation accuracy after {length(passes)}, by value")
    for parameter in Architecture._fields:
        values = {}
        for row in by_length[passes]:
            values.setdefault(row[parameter], []).append(row["accuracy"])
        if len(values) > 1:
            means = {value: mean_sd(each)[0] for value, each in sorted(values.items())}
            texts = ", ".join(f"{value}: {mean:.2%}" for value, mean in means.items())
            spread = 100 * (max(means.values()) - min(means.values()))
            print(f"{parameter:13} {texts}  ({spread:.2f} points apart)")


def print_final(rows, winner, reference, passes):
    """Say how the winner compares with the sheet's architecture on the test set, over the seeds both had."""
    accuracies = {winner: {}, reference: {}}
    for row in rows:
        for architecture, by_seed in accuracies.items():
            same = all(row[key] == value for key, value in architecture._asdict().items())
            if (
                same
                and row["judged_on"] == "test"
                and row["passes"] == passes
                and row["accuracy"] is not None
            ):
                by_seed[row["seed"]] = 100 * row["accuracy"]
    seeds = sorted(accuracies[winner].keys() & accuracies[reference].keys())
    print(f"\ntest accuracy after {length(passes)} on all training images, mean ± sd of {len(seeds)} seeds")
    if not seeds:
        print("not measured: the time was up")
        return
    for title, architecture in (("the winner", winner), ("the sheet's", reference)):
        mean, sd = mean_sd([accuracies[architecture][seed] for seed in seeds])
        print(f"{title:12} {mean:6.2f} ± {sd:.2f} %  {architecture}")
    if winner == reference:
        print("the winner is the sheet's own architecture")
        return
    both = [[accuracies[architecture][seed] for seed in seeds] for architecture in (reference, winner)]
    mean, sd, verdict = difference(*both)
    print(f"{'difference':12} {mean:+6.2f} ± {sd:.2f} points: {verdict}")
