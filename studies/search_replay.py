"""Replay search strategies on a grid that was trained once: how good is what they pick, and at what cost?

    python search.py --grid --data mnist                     trains the grid, for an hour on two cores
    python -m studies.search_replay results/search_grid.csv  replays our search and random search on it

Each of the grid's seeds is held out in turn: a strategy searches by the other seeds' accuracies, and what it
picks is judged by the accuracy from the held-out seed, which it has not seen.

With --optuna also Optuna's TPE with Hyperband (pip install optuna first; nothing else here needs it).
"""

import importlib.util
import math
import random
import statistics
from pathlib import Path
from typing import NamedTuple

from support.chance import mean_sd
from support.console import Parser, UserError, positive, run_command
from support.files import read_csv
from support.trials import Architecture, parsed

import search


class Table(NamedTuple):
    """A trained grid: `accuracies` is {(architecture, passes): list of accuracies, one per seed}."""

    accuracies: dict
    mflop: dict  # by architecture
    lengths: tuple  # in passes, ascending

    def mean(self, architecture):
        """Return the mean accuracy of an architecture that was trained in full, in percent."""
        return 100 * statistics.mean(self.accuracies[architecture, self.lengths[-1]])

    def hold_out(self, number):
        """Return (a Table without the seed at `number`, a Table of that seed alone)."""
        seen = {key: by_seed[:number] + by_seed[number + 1 :] for key, by_seed in self.accuracies.items()}
        unseen = {key: [by_seed[number]] for key, by_seed in self.accuracies.items()}
        return self._replace(accuracies=seen), self._replace(accuracies=unseen)

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
            accuracies.setdefault((trial.architecture, trial.passes), {})[trial.seed] = row["accuracy"]
            mflop[trial.architecture] = row["mflop"]
    lengths = tuple(sorted({passes for _, passes in accuracies}))
    needed = {rung[0] for rung in search.halving_rungs(len(mflop), max(lengths, default=1))}
    seeds = sorted(set().union(*accuracies.values()))
    whole = len(accuracies) == 3 * len(mflop) and all(len(each) == len(seeds) for each in accuracies.values())
    if not whole or not needed <= set(lengths) or len(seeds) < 3:
        raise UserError(
            f"{path}: needs every architecture at three lengths from the same three seeds, as a finished "
            "search.py --grid leaves them"
        )
    in_order = {key: [by_seed[seed] for seed in seeds] for key, by_seed in accuracies.items()}
    return Table(in_order, mflop, lengths)


# ---------------------------------------------------------------- strategies: (architecture picked, cost)


def ours(table, rng, budget=None):
    """Successive halving with the rungs of search.py, the architectures and the seeds in random order."""
    candidates = rng.sample(list(table.mflop), len(table.mflop))
    spent, shuffled = {}, {}  # by training; the accuracies by (architecture, passes)

    def run(number, asked):
        accuracies = []
        for architecture, passes, seed in asked:
            known = table.accuracies[architecture, passes]
            by_seed = shuffled.setdefault((architecture, passes), rng.sample(known, len(known)))
            spent[architecture, passes, seed] = table.cost(architecture, passes)
            accuracies.append(by_seed[seed])
        return accuracies

    rungs = search.halving_rungs(len(candidates), table.lengths[-1])
    winner = search.successive_halving(candidates, rungs, run)[0]
    return winner, sum(spent.values())


def random_search(table, rng, budget):
    """Train architectures in full, in random order, while there is budget; the best accuracy wins."""
    full = table.lengths[-1]
    seen, spent = {}, 0
    for architecture in rng.sample(list(table.mflop), len(table.mflop)):
        cost = table.cost(architecture, full)
        if spent + cost <= budget:
            spent += cost
            seen[architecture] = rng.choice(table.accuracies[architecture, full])
    return max(seen, key=seen.get), spent


def all_in_full(table, rng, budget):
    """Train every architecture in full from every seed of `table`; the best mean wins."""
    return max(table.mflop, key=table.mean), table.whole_cost()


def optuna_search(table, rng, budget):
    """Optuna's TPE and Hyperband. Its trainings go on where ours start anew: they cost only the longest."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    values = {name: sorted({getattr(each, name) for each in table.mflop}) for name in Architecture._fields}
    seed = rng.randrange(2**31)
    sampler = optuna.samplers.TPESampler(seed=seed)
    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=9, reduction_factor=3)
    # The pruner goes by the study's name, which is a random one unless it is given.
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner, study_name=str(seed))
    spent, seen = 0, {}

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


def judged(table, strategy, n_replays, budget=None):
    """Replay a strategy `n_replays` times for each seed held out; return (accuracies, mean cost).

    The accuracies are those of its picks from the held-out seed, in percent: a list for each of the seeds.
    """
    rng = random.Random(0)
    accuracies, costs = [], []
    for number in range(len(next(iter(table.accuracies.values())))):
        seen, unseen = table.hold_out(number)
        picks = [strategy(seen, rng, budget) for _ in range(n_replays)]
        accuracies.append([unseen.mean(architecture) for architecture, _ in picks])
        costs += [cost for _, cost in picks]
    return accuracies, statistics.mean(costs)


def main(arguments=None):
    """Replay each strategy and print how good its picks are by a seed that it did not see."""
    parser = Parser(description=__doc__)
    parser.add_argument("table", help="results.csv of search.py --grid")
    about = "of each strategy for each held-out seed (default: 1000)"
    parser.add_argument("--replays", type=positive(int), default=1000, metavar="N", help=about)
    parser.add_argument("--optuna", action="store_true", help="Optuna's TPE with Hyperband too")
    given = parser.parse_args(arguments)
    if given.optuna and not importlib.util.find_spec("optuna"):
        raise UserError("--optuna needs Optuna: pip install optuna")
    table = read_table(given.table)
    strategies = {"search.py": ours, "random search": random_search}
    if given.optuna:
        strategies["Optuna"] = optuna_search
    strategies["all in full"] = all_in_full
    print(f"{len(table.mflop)} architectures, {table.lengths[-1]:g} epochs, {given.replays} replays for each")
    print("seed held out; ± is the standard error over replays; the difference is to search.py, in points\n")
    print("strategy          accuracy (%)  difference, by held-out seed     cost of the grid")
    our_means, budget = None, None
    for name, strategy in strategies.items():
        accuracies, cost = judged(table, strategy, given.replays, budget)
        means, sds = zip(*map(mean_sd, accuracies), strict=True)
        our_means = our_means or means
        budget = budget or cost  # the others have as much as ours
        mean = statistics.mean(means)
        error = math.hypot(*sds) / len(sds) / math.sqrt(given.replays)
        gains = [each - our_mean for each, our_mean in zip(means, our_means, strict=True)]
        by_seed = " ".join(f"{gain:+.3f}" for gain in gains)
        print(f"{name:14} {mean:7.3f} ± {error:.3f}      {statistics.mean(gains):+.3f} ({by_seed})", end="")
        print(f"{cost / table.whole_cost():12.1%}", flush=True)


if __name__ == "__main__":
    run_command(main)
