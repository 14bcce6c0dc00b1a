"""The loops of others: how long they train, which seconds count, and that they learn."""

import sys
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import pytest
import torch
from conftest import small_settings
from torch import nn

from studies import peers
from studies.bench import random_digits


class Trainer:
    """What a loop with Lightning's Trainer asks of a module."""

    def __init__(self, max_epochs, precision, devices, barebones):
        assert (precision, devices, barebones) == ("32-true", 1, True)
        self.max_epochs, self.should_stop = max_epochs, False

    def fit(self, module, loader):
        module.trainer, optimizer, n_epochs = self, module.configure_optimizers(), 0
        while n_epochs != self.max_epochs and not self.should_stop:
            n_epochs += 1
            module.on_train_epoch_start()
            for index, batch in enumerate(loader):
                assert module.training
                loss = module.training_step(batch)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                module.on_train_batch_end({"loss": loss.detach()}, batch, index)
            module.on_train_epoch_end()


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by a second at each look and in each step. Lightning has a stand-in."""
    lightning = SimpleNamespace(LightningModule=nn.Module, Trainer=Trainer)
    monkeypatch.setitem(sys.modules, "lightning", lightning)
    clock = count().__next__

    def cross_entropy(logits, labels):
        clock()
        return nn.functional.cross_entropy(logits, labels)

    monkeypatch.setattr(peers, "time", SimpleNamespace(perf_counter=clock))
    monkeypatch.setattr(peers, "F", SimpleNamespace(cross_entropy=cross_entropy))
    monkeypatch.setattr(peers, "complete", lambda settings: small_settings(precision="fp32"))
    monkeypatch.setattr(peers, "BATCH_SIZE", 20)
    torch.manual_seed(0)
    return clock


loops = pytest.mark.parametrize("loop", [peers.plain_loop, peers.lightning])


@loops
def test_a_loop_learns_until_enough_is_right_and_the_tests_do_not_count(monkeypatch, clock, loop):
    data = replace(random_digits(60), labels=torch.zeros(60, dtype=torch.int64))
    answers, tested = [False, False, True], []

    def is_enough(model, test, settings, is_enough=peers.is_enough):
        clock()
        tested.append((test, is_enough(model, test, settings), model.stem.weight.tolist()))
        return answers.pop(0)

    monkeypatch.setattr(peers, "is_enough", is_enough)
    seconds, n_epochs = loop(data, test=data)
    assert n_epochs == 3
    assert seconds == 3 * 4  # of three steps each, and the look at the end
    assert [test for test, *_ in tested] == [data] * 3
    assert tested[-1][1]  # that all labels are the same is soon learnt
    weights = [weight for *_, weight in tested]
    assert weights[0] != weights[1] != weights[2]


@loops
def test_the_first_steps_do_not_count(clock, loop):
    assert loop(random_digits(100), n_to_warm_up=2) == (4, 1)  # of five steps three, and the look at the end


@pytest.mark.parametrize(("accuracy", "enough"), [(0.9899, False), (0.99, True)])
def test_99_percent_are_enough(monkeypatch, capsys, accuracy, enough):
    monkeypatch.setattr(
        peers.train, "evaluate", lambda model, test, settings: print("testing") or (0, accuracy)
    )
    assert peers.is_enough(None, None, None) == enough
    assert capsys.readouterr().out == ""
