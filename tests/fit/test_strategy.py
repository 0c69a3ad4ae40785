"""Which strategy a run gets, and what is refused; two devices are tried in tests/distribution."""

import subprocess
import sys

import keras
import pytest
import tensorflow as tf

from tests.distribution.processes import environment
from tf_finetune import Phase, UserError, fit_phases
from tf_finetune.fit import strategy as subject
from tf_finetune.fit.distribution import refuse_unsound
from tf_finetune.fit.service import served


def test_none_is_the_strategy_of_the_moment():
    assert subject.strategy_of("none") is tf.distribute.get_strategy()
    assert subject.is_chief()
    assert subject.told_by_chief(7) == 7


def test_workers_need_to_know_each_other(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UserError, match="TF_CONFIG is not set"):
        subject.strategy_of("multi_worker")


@pytest.mark.parametrize("count", ["0", "two"])
def test_a_wrong_number_of_devices(count, monkeypatch):
    monkeypatch.setenv(subject.LOGICAL_CPUS, count)
    with pytest.raises(UserError, match=f'{subject.LOGICAL_CPUS} is "{count}"'):
        subject.strategy_of("mirrored")


def test_a_strategy_must_come_first():
    code = (
        "import tensorflow as tf; tf.constant(0)\n"
        "from tf_finetune.fit.strategy import strategy_of\n"
        "strategy_of('mirrored')"
    )
    around = environment(TF_FINETUNE_LOGICAL_CPUS="2")
    done = subprocess.run(
        [sys.executable, "-c", code], env=around, capture_output=True, text=True, timeout=240
    )
    assert "UserError" in done.stderr
    assert "has begun to compute in this process" in done.stderr


def test_other_versions_of_keras_are_warned_of(monkeypatch):
    monkeypatch.setattr(keras, "__version__", "3.99.0")
    with pytest.warns(UserWarning, match=r"tested with Keras 3.15, this is 3.99.0"):
        subject._warn_of_versions()


def test_keras_distribution_is_refused():
    mesh = keras.distribution.DeviceMesh((1,), ["batch"], ["cpu:0"])
    keras.distribution.set_distribution(keras.distribution.DataParallel(mesh))
    try:
        with pytest.raises(UserError, match="does nothing on TensorFlow"):
            fit_phases(keras.Sequential(), None, None, [Phase()], loss="mse")
    finally:
        keras.distribution.set_distribution(None)


def test_parameter_servers_are_refused(monkeypatch):
    class ParameterServerStrategyV2:
        pass

    monkeypatch.setattr(tf.distribute, "get_strategy", ParameterServerStrategyV2)
    with pytest.raises(UserError, match="ParameterServerStrategy"):
        refuse_unsound()


def test_a_batch_too_small_for_all_replicas(monkeypatch):
    class Three:
        num_replicas_in_sync = 3

    monkeypatch.setattr(tf.distribute, "get_strategy", Three)
    subject.check_global_batch("config.fit.global_batch", 3)
    with pytest.raises(UserError, match=r"config.fit.global_batch is 2, .* 3 replicas"):
        subject.check_global_batch("config.fit.global_batch", 2)


@pytest.mark.parametrize(
    ("train", "service", "words"),
    [
        (tf.data.Dataset.range(2), "localhost", "write grpc://HOST:PORT"),
        (([0], [0]), "grpc://localhost:1", "train is a tuple"),
        (tf.data.Dataset.range(8).batch(2), "grpc://localhost:1", "nothing answers there"),
    ],
)
def test_a_service_that_cannot_serve(train, service, words):
    with pytest.raises(UserError, match=words):
        served(train, service)
