"""The loops of others: how long they train, which seconds count, and that they learn."""

import copy
import sys
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from studies import peers
from studies.bench import random_digits


class Trainer:
    """What a loop with Lightning's Trainer asks of a module."""

    def __init__(self, max_epochs, **switched_off):
        self.max_epochs, self.should_stop = max_epochs, False
        assert not any(switched_off.values())

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


@pytest.mark.parametrize("loop", [peers.plain_loop, peers.lightning])
def test_a_loop_of_others_trains_until_enough_is_right_and_the_tests_and_the_start_do_not_count(
    monkeypatch, loop
):
    monkeypatch.setitem(sys.modules, "lightning", SimpleNamespace(LightningModule=nn.Module, Trainer=Trainer))
    clock = count().__next__  # a second from one look to the next
    monkeypatch.setattr(peers, "time", SimpleNamespace(perf_counter=clock))
    data = replace(random_digits(150), labels=torch.zeros(150, dtype=torch.int64))
    answers, tested = [False, False, True], []

    def is_enough(model, test, settings, is_enough=peers.is_enough):
        clock()
        tested.append((test, is_enough(model, test, settings), copy.deepcopy(model.state_dict())))
        return answers.pop(0)

    monkeypatch.setattr(peers, "is_enough", is_enough)
    assert loop(data, test=data) == 3  # epochs
    assert [test for test, *_ in tested] == [data] * 3
    assert tested[-1][1]  # that all labels are the same is soon learnt
    weights = [state["stem.weight"] for *_, state in tested]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    started = clock()
    assert loop(data, n_to_warm_up=1) == 1
    assert clock() - started == 4  # it looked at the start, after a step, and at the end
