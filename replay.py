"""Replay search strategies on a grid that was trained once: how good is what they pick, at the same cost?

    python search.py --grid --data mnist         trains the grid, for an hour on two cores
    python replay.py results/search_grid.csv     replays our search and random search on it

With --optuna also Optuna's TPE with Hyperband (pip install optuna first; nothing else here needs it).
"""

import argparse
import importlib.util
import random
import statistics
from pathlib import Path
from typing import NamedTuple

from runs import Parser, UserError, positive, run_command

import search
from effect import mean_sd
from files import read_csv
from trials import Architecture, parsed


class Table(NamedTuple):
    """A trained grid: `accuracies` is {(architecture, passes): list of accuracies, one per seed}."""

    accuracies: dict
    mflop: dict  # by architecture
    lengths: tuple  # in passes, ascending

    def mean(self, architecture):
        """Return the mean accuracy of an architecture that was trained in full, in percent."""
        return 100 * statistics.mean(self.accuracies[architecture, self.lengths[-1]])

    def cost(self, architecture, passes):
        """Return what a training costs, in MFLOP passes, the test on a fifth as many images included."""
        return self.mflop[architecture] * (passes + max(1, round(passes)) / 15)

    def whole_cost(self):
        """Return what training every architecture in full from every seed costs."""
        full = self.lengths[-1]
        return sum(self.cost(each, full) * len(self.accuracies[each, full]) for each in self.mflop)


def read_table(path):
    """Return the Table in a results.csv of `search.py --grid`; UserError where something is missing."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; python search.py --grid makes one")
    accuracies, mflop = {}, {}
    for row in read_csv(path):
        trial, row = parsed(row, path)
        if trial.judged_on == "validation" and row["accuracy"] is not None:
            accuracies.setdefault((trial.architecture, trial.passes), []).append(row["accuracy"])
            mflop[trial.architecture] = row["mflop"]
    lengths = tuple(sorted({passes for _, passes in accuracies}))
    needed = {rung[0] for rung in search.halving_rungs(len(mflop), max(lengths, default=1))}
    n_seeds = {len(own) for own in accuracies.values()}
    if (
        len(accuracies) != 3 * len(mflop)
        or not needed <= set(lengths)
        or len(n_seeds) != 1
        or min(n_seeds) < 2
    ):
        raise UserError(
            f"{path}: needs every architecture at three lengths from the same seeds, as a finished "
            "search.py --grid leaves them"
        )
    return Table(accuracies, mflop, lengths)


# ---------------------------------------------------------------- strategies: (architecture picked, cost)


def ours(table, rng, budget=None):
    """Successive halving with the rungs of search.py, the architectures and the seeds in random order."""
    candidates, spent, seeds = rng.sample(list(table.mflop), len(table.mflop)), {}, {}

    def run(number, asked):
        accuracies = []
        for architecture, passes, seed in asked:
            known = table.accuracies[architecture, passes]
            order = seeds.setdefault((architecture, passes), rng.sample(known, len(known)))
            spent[architecture, passes, seed] = table.cost(architecture, passes)
            accuracies.append(order[seed])
        return accuracies

    rungs = search.halving_rungs(len(candidates), table.lengths[-1])
    winner = search.successive_halving(candidates, rungs, run)[0]
    return winner, sum(spent.values())


def random_search(table, rng, budget):
    """Train architectures in full, in random order, while there is budget; the best accuracy wins."""
    full, seen, spent = table.lengths[-1], {}, 0
    for architecture in rng.sample(list(table.mflop), len(table.mflop)):
        cost = table.cost(architecture, full)
        if spent + cost <= budget:
            spent += cost
            seen[architecture] = rng.choice(table.accuracies[architecture, full])
    return max(seen, key=seen.get), spent


def optuna_search(table, rng, budget):
    """Optuna's TPE and Hyperband. Its trainings go on where ours start anew: they cost only the longest."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    values = {name: sorted({getattr(each, name) for each in table.mflop}) for name in Architecture._fields}
    sampler = optuna.samplers.TPESampler(seed=rng.randrange(2**31))
    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=9, reduction_factor=3)
    study, spent, seen = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner), 0, {}

    def objective(trial):
        nonlocal spent
        architecture = Architecture(*(trial.suggest_categorical(name, values[name]) for name in values))
        for step, passes in zip((1, 3, 9), table.lengths, strict=True):
            accuracy = rng.choice(table.accuracies[architecture, passes])
            trial.report(accuracy, step)
            if passes < table.lengths[-1] and trial.should_prune():
                break
        spent += table.cost(architecture, passes)
        if spent >= budget:
            study.stop()
        if passes < table.lengths[-1]:
            raise optuna.TrialPruned
        seen.setdefault(architecture, []).append(accuracy)
        return accuracy

    study.optimize(objective, n_trials=1000)
    return max(seen, key=lambda each: statistics.mean(seen[each])), spent


# ---------------------------------------------------------------- the command line


def main(arguments=None):
    """Replay each strategy and print how far its pick is from the grid's best."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", help="results.csv of search.py --grid")
    parser.add_argument("--replays", type=positive(int), default=100, metavar="N", help="(default: 100)")
    parser.add_argument("--optuna", action="store_true", help="Optuna's TPE with Hyperband too")
    given = parser.parse_args(arguments)
    if given.optuna and not importlib.util.find_spec("optuna"):
        raise UserError("--optuna needs Optuna: pip install optuna")
    table = read_table(given.table)
    best = max(map(table.mean, table.mflop))
    full = len(table.accuracies[next(iter(table.mflop)), table.lengths[-1]])
    print(
        f"{len(table.mflop)} architectures, {table.lengths[-1]:g} epochs, {full} seeds: the best {best:.2f}%"
    )
    print(f"\n{given.replays} replays of     below it (points)      most  within 0.03  cost of the grid")
    budget = None
    strategies = {"search.py": ours, "random search": random_search}
    if given.optuna:
        strategies["Optuna"] = optuna_search
    for name, strategy in strategies.items():
        rng = random.Random(0)
        picks = [strategy(table, rng, budget) for _ in range(given.replays)]
        behind = [best - table.mean(architecture) for architecture, _ in picks]
        spent = statistics.mean(cost for _, cost in picks)
        budget = budget or spent  # the others have as much as ours
        mean, sd = mean_sd(behind)
        near = mean_sd([each < 0.03 + 1e-9 for each in behind])[0]
        print(f"{name:14} {mean:10.3f} ± {sd:.3f}  {max(behind):8.3f}  {near:11.0%}", end="")
        print(f"  {spent / table.whole_cost():15.1%}")


if __name__ == "__main__":
    run_command(main)
