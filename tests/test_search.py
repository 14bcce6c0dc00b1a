"""Search: the space, the stages, single trials, the plan of the time, and the command."""

import itertools
import math
import random
import re
import time
from argparse import Namespace
from collections import Counter
from pathlib import Path

import pytest
from commands import copies, started, together
from conftest import NETWORK, contents, small_settings, stripes, trained
from hypothesis import given
from hypothesis import strategies as st

import models
import search
from search import SHEET, Architecture, Trial
from support.console import UserError
from support.run_folder import read_csv, write_csv

copies()

# ---------------------------------------------------------------- the space and the strategy

numbers = st.lists(st.integers(1, 5), min_size=1, max_size=3, unique=True)
kinds = st.lists(st.sampled_from(["encoder", "resnet"]), min_size=1, unique=True)
spaces = st.fixed_dictionaries({"model": kinds} | dict.fromkeys(models.ARCHITECTURE, numbers))


@given(spaces, *2 * [st.integers(1, 20)])
def test_the_loops_yield_the_combinations_that_the_models_accept(space, height, width):
    accepted = []
    for combination in itertools.product(*(space[name] for name in Architecture._fields)):
        network = {"encoder": models.encoder, "resnet": models.ResNet}[combination[0]]
        try:
            network(3, 1, (height, width), **dict(zip(models.ARCHITECTURE, combination[1:], strict=True)))
            accepted.append(combination)
        except UserError:
            pass
    assert list(search.architectures(space, (height, width))) == accepted


@given(st.integers(1, 200), st.integers(1, 100_000), st.integers(1, 50))
def test_later_stages_train_fewer_architectures_for_longer(n, n_images, epochs):
    first, second, third = search.stages_of(n, n_images, epochs)
    assert (first[0], first[3]) == (n, 1)
    assert min(n_images, 2000) <= first[1] <= max(2000, n_images / 3 + 1)
    assert first[2] == max(1, epochs // 3)
    assert second == (max(3, math.ceil(n / 5)), n_images, epochs, 1)
    assert third == (3, n_images, epochs, 2)
    grid = search.stages_of(n, n_images, epochs, grid=True)
    assert {stage[::3] for stage in grid} == {(n, 3)}
    assert [stage[1:3] for stage in grid] == [first[1:3], (n_images, first[2]), (n_images, epochs)]


accuracies = st.one_of(st.none(), st.just(math.nan), st.integers(0, 3).map(lambda tenth: tenth / 10))


@given(st.data(), st.integers(1, 12), st.permutations(range(12)))
def test_each_stage_keeps_the_most_accurate_and_of_equals_the_cheapest(content, n, costs):
    before, stages = list(range(n)), search.stages_of(n, 9000, 3)

    def run(number, chosen, *length_and_seeds):
        nonlocal before
        assert chosen == before[: stages[number - 1][0]]
        assert tuple(length_and_seeds) == stages[number - 1][1:]
        drawn = {each: content.draw(accuracies) for each in chosen}
        rest, before = before, []
        for accuracy, cost in itertools.product((0.3, 0.2, 0.1, 0), range(12)):  # the oracle
            before += [each for each in rest if drawn.get(each) == accuracy and costs[each] == cost]
        before += [each for each in rest if drawn.get(each) is None]
        return {each: drawn[each] for each in random.sample(chosen, len(chosen)) if drawn[each] is not None}

    assert search.successive_halving(range(n), stages, run, costs) == before


# ---------------------------------------------------------------- one training


def make_shared(folder, n_train=120, **options):
    """Return what the functions of a search share, for small stripes, and no trainings yet."""
    learned, n = stripes(n_train), n_train // 6
    held_out, rest = search.random_order(n_train, 0).split([n, n_train - n])
    validation = learned.subset(rest), learned.subset(held_out)
    data = {"validation": validation, "test": (learned, stripes(30, seed=1))}
    sizes = {each: (sum(each[1:]), 7) for each in [SHEET, *SMALL]} | {TINY: (5.0, 7)}
    settings = small_settings(lr=None, init="xavier", **options)
    return Namespace(file=folder / "results.csv", data=data, settings=settings, sizes=sizes, grid=False)


TINY = Architecture("resnet", *NETWORK.values())
SMALL = [Architecture(model, n, 2, 2, 4, 4) for model in ("encoder", "resnet") for n in (1, 2)]


@pytest.mark.parametrize(("epochs", "lr"), [(1, 0.005), (2, 0.003)])
def test_a_final_trial_is_the_training_of_train_py(tmp_path, epochs, lr):
    shared = make_shared(tmp_path)
    row = search.train_trial(Trial("test", *TINY, 120, epochs, 4), shared, "task")
    _, history = trained(small_settings(epochs=epochs, lr=lr, seed=4, init="xavier"), *shared.data["test"])
    assert (row["accuracy"], row["loss"]) == (history[-1]["test_accuracy"], history[-1]["test_loss"])
    assert (row["mflop"], row["n_parameters"], row["error"]) == (5.0, 7, "")


def test_a_brief_trial_sees_a_random_part_and_is_judged_by_as_many(tmp_path):
    shared = make_shared(tmp_path)
    learned, judged = shared.data["validation"]
    order = learned.labels.argsort(stable=True)
    shared.data["validation"] = learned.subset(order), judged  # sorted by class, as a folder is
    row = search.train_trial(Trial("validation", *TINY, 12, 2, 0), shared, "task")
    part = shared.data["validation"][0].subset(search.random_part(100, 12))
    assert len(set(part.labels.tolist())) == 3
    few = judged.subset(search.random_part(20, 12))
    _, history = trained(small_settings(init="xavier"), part, few)
    assert row["loss"] == history[-1]["test_loss"]


def test_the_flops_are_those_of_a_hand_count():
    # Stem 1→2, one block 2→2→3 with its 1×1 bypass, all at 8×8; then 3·4·4 = 48 → 4 → 4 → 3.
    convolutions, linear = 64 * (9 * (1 * 2 + 2 * 2 + 2 * 3) + 2 * 3), 48 * 4 + 4 * 4 + 4 * 3
    network = Architecture("resnet", 1, 2, 3, 4, 4)
    mflop, n_parameters = search.network_size(network, small_settings(), stripes(3))
    assert mflop == pytest.approx(2 * (convolutions + linear) / 1e6)
    assert n_parameters == 9 * (1 * 2 + 2 * 2 + 2 * 3) + 2 * 3 + linear + (2 + 2 + 3 + 3 + 4 + 4 + 3)


# ---------------------------------------------------------------- time


def remember_speeds(shared, seconds_an_image):
    """Write results.csv with the speeds of the cheapest and the costliest network on 12,000 images."""
    rows = []
    for choose in (min, max):
        each = choose([*SMALL, SHEET], key=shared.sizes.get)
        trial = Trial("validation", *each, 12000, 2, 0)._asdict()
        seconds = seconds_an_image(shared.sizes[each][0]) * 12000 * 2 * 4 / 3
        rows.append(dict.fromkeys(search.COLUMNS, "0") | trial | {"seconds": seconds, "error": ""})
    write_csv(shared.file, rows)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """What the functions of a search on many images share."""
    return make_shared(tmp_path_factory.mktemp("plan"), n_train=14400, epochs=5)


@given(start=st.floats(0, 1), a_mflop=st.floats(0.0001, 100), budget=st.floats(1, 1e6))
def test_the_plan_is_the_longest_that_fits(shared, start, a_mflop, budget):
    remember_speeds(shared, lambda mflop: start + a_mflop * mflop)
    plans = []
    for shared.seconds in (budget, 2 * budget):
        n_images, epochs, seconds, final = search.plan(SMALL, shared)
        assert 2000 <= n_images <= 12000
        assert 1 <= epochs <= 5
        assert final < seconds < shared.seconds or (n_images, epochs) == (2000, 1)
        plans.append((n_images * epochs, seconds))
    assert plans[0] <= plans[1]
    # By hand: the costliest networks advance, and testing an image takes a third of training on it.
    cost = sorted(start + a_mflop * shared.sizes[each][0] for each in SMALL)
    last, brief = 1.2 * n_images + 800, max(2000, round(n_images / 3))
    by_hand = final_by_hand = 10 * cost[-1] * epochs * (last + min(last, 2400) / 3)
    by_hand += sum(cost) * max(1, epochs // 3) * (brief + min(brief, 2400) / 3)
    by_hand += 3 * sum(cost[1:]) * epochs * (n_images + min(n_images, 2400) / 3)
    assert (final, seconds) == (pytest.approx(final_by_hand), pytest.approx(by_hand))


# ---------------------------------------------------------------- the command

FLAGS = "--data images --n-blocks 1 2 --n-features-1 2 3 --n-features-2 2 --n-fully-1 4 --n-fully-2 4"
FLAGS += " --batch-size 8 --precision fp32 --minutes 9 --threads 1 --epochs 2 --device cpu --augment"


def rows_of(folder):
    """Return the rows of results.csv, in an order of their own, without times."""
    return sorted(tuple({**row, "seconds": 0}.items()) for row in read_csv(folder / "results.csv"))


def timeless(out):
    """Return what a search printed, without its estimate of the time."""
    return re.sub("about .*", "", out)


WHOLE = {}  # the files and the output of one search, for `searched`


@pytest.fixture
def searched(type_in, folder):
    """(type_in, what a search printed): in the current folder runs/search is that of FLAGS."""
    if not WHOLE:
        out = type_in(f"search.py {FLAGS}").out
        WHOLE.update(files=contents(Path("runs")), out=out)
    for name, content in WHOLE["files"].items():
        Path("runs", name).parent.mkdir(parents=True, exist_ok=True)
        Path("runs", name).write_bytes(content)
    return type_in, WHOLE["out"]


def test_a_search_from_its_plan_to_the_command_that_it_prints(searched):
    type_in, out = searched
    rows = read_csv("runs/search/results.csv")
    names = "judged_on", "n_images", "epochs", "seed"
    n = Counter(tuple(row[name] for name in names) for row in rows)
    assert (n["validation", "20", "1", "0"], n["validation", "20", "2", "1"]) == (8, 3)  # stages 1 and 3
    assert n["validation", "20", "2", "0"] in (4, 5)  # stage 2, and two trainings that measure the speed
    assert [n["test", "24", "2", seed] for seed in "01234"] == 5 * [2]
    assert len(n) == 8  # nothing else was trained
    assert "24 training and 12 test images" in out
    assert "full training has 20 of 20 images" in out
    assert "stage 2 of 4: there was time for 3 of 3 trainings" in out
    assert "stage 3 of 4: there was time for 6 of 6 trainings" in out
    assert Path("runs/search/costs.png").exists()
    line = out.split("next, to train the winner: python ")[1].strip()
    type_in(f"train.py {line.split(maxsplit=1)[1]} --out again")
    pattern = r"the winner .*  (\w+), (\d) blocks, (\d)/(\d) channels, (\d)/(\d)"
    winner = re.search(pattern, out).groups()
    tested = [row for row in rows if row["judged_on"] == "test" and tuple(row.values())[1:7] == winner]
    again = read_csv("again/metrics.csv")[-1]
    assert [row["accuracy"] for row in tested if row["seed"] == "0"] == [again["test_accuracy"]]
    mean = sum(float(row["accuracy"]) for row in tested) / 5
    assert f"the winner   {100 * mean:6.2f} ±" in out


def test_a_search_continues_from_unordered_and_torn_lines(searched):
    type_in, out = searched
    results = Path("runs/search/results.csv")
    whole, (header, *lines) = rows_of(results.parent), results.read_text().splitlines(keepends=True)
    for n_left in (len(lines), 14):
        results.write_text(header + "".join(random.Random(n_left).sample(lines, n_left)) + lines[-1][:20])
        assert timeless(type_in(f"search.py {FLAGS}").out) == timeless(out)
        assert rows_of(results.parent) == whole
    results.write_text(header[:9])  # torn in the first line
    assert timeless(type_in(f"search.py {FLAGS}").out) == timeless(out)


def test_a_failed_training_is_a_row_and_leaves_its_architecture_out(searched):
    type_in, _ = searched
    results = Path("runs/search/results.csv")
    best = re.search(r"^ +1 .*  (\w+), (\d) blocks, (\d)/(\d) channels", searched[1], re.MULTILINE).groups()
    lines = results.read_text().splitlines()
    failed = f"validation,{','.join(best)},4,4,20,1,0,"
    kept = [line for line in lines if not line.startswith(failed)]
    results.write_text("\n".join([*kept, f"{failed},,0.1,9,1,it diverged"]) + "\n")
    out = type_in(f"search.py {FLAGS}").out
    assert f"{best[0]}, {best[1]} blocks, {best[2]}/{best[3]}" not in out
    assert "   7  " in out
    assert "   8  " not in out


def test_if_all_trainings_fail_the_error_names_their_table(refused, folder):
    assert "results.csv" in refused(f"search.py {FLAGS} --lr 1e30")
    rows = read_csv("runs/search/results.csv")
    assert all("diverged" in row["error"] and not row["accuracy"] for row in rows)


def test_no_time_still_gives_an_answer_and_more_time_reuses_it(type_in, folder):
    flags = f"{FLAGS} --epochs 1 --n-features-1 2"
    for _ in range(2):  # the second time nothing more is trained
        out = type_in(f"search.py {flags} --minutes 0.00001").out
        assert "stage 1 of 4: there was time for 1 of 4 trainings" in out
    assert "not compared on the test set" in out
    first = rows_of(Path("runs/search"))
    assert len(first) == 3
    out = type_in(f"search.py {flags} --n-blocks 2 1").out
    assert "stage 1 of 4: there was time for 4 of 4 trainings" in out
    assert set(first) < set(rows_of(Path("runs/search")))
    sheets = "--n-blocks 3 --n-features-1 32 --n-features-2 32 --n-fully-1 144 --n-fully-2 72 --out sheets"
    for other in ("--limit 2", "--lr 0.01", sheets):  # encoder and ResNet of the sheet cost the same
        type_in(f"search.py {flags} --minutes 0.00001 {other}")
    assert sorted(each.name for each in Path("runs").iterdir()) == ["search", "search-2", "search-3"]


def test_a_grid_has_every_architecture_at_every_length_from_three_seeds(type_in, folder):
    flags = FLAGS.replace("--minutes 9", "--grid --out grid")
    type_in(f"search.py {flags} --n-blocks 1 --n-features-1 2 --epochs 3")
    trials = {tuple(row.values())[:10] for row in read_csv("grid/results.csv")}
    small = itertools.product(["encoder", "resnet"], "1", "2", "2", "4", "4", ["20"], "13", "012")
    assert {("validation", *each) for each in small} <= trials


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--grid --minutes 3", "--minutes"),
        ("--data images --n-blocks 4", "--n-blocks"),
        ("--data images --limit 1", "one training image"),
        ("--data images --out images", "images"),
        ("--data images --minutes 1 --out old", "old/results.csv"),
    ],
)
def test_invalid_searches_are_refused(type_in, refused, folder, flags, message):
    if "old" in flags:
        type_in(f"search.py {FLAGS} --minutes 0.00001 --out old")
        Path("old/results.csv").write_text("judged_on,model\ntest,resnet\n")
        flags = f"{FLAGS} --out old"
    assert message in refused(f"search.py {flags}")


def test_a_search_that_is_killed_or_shared_by_two_processes_ends_the_same(searched):
    root, whole = Path.cwd(), rows_of(Path("runs/search"))
    two = together("search", 2 * [f"{FLAGS} --out two"], root)
    killed, results = started("search", f"{FLAGS} --out killed", root), root / "killed" / "results.csv"
    while killed.is_alive() and (not results.exists() or results.read_bytes().count(b"\n") < 6):
        time.sleep(0.02)
    killed.kill()
    killed.join()
    assert set(rows_of(results.parent)) < set(whole)
    for process in two:
        process.join()
        assert process.exitcode == 0, (root / "stderr0").read_text()
    assert rows_of(root / "two") == whole
