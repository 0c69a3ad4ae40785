"""Input that other machines prepare."""

from __future__ import annotations

import re
import socket
from typing import Any

import tensorflow as tf

from tf_finetune.errors import UserError

_SECONDS = 10.0


def served(train: Any, service: str) -> Any:
    """A data set whose batches the workers of a tf.data service make, each row by one of them.

    For input that takes longer to prepare than a step to compute (Audibert et al. 2023,
    "tf.data service", arXiv:2210.14826). Several servers give batches in no fixed order;
    hosts that train together need the same, so that they can have one server only.

    Args:
        train: a `tf.data.Dataset` of batches that calls no Python.
        service: the dispatcher's address, `grpc://HOST:PORT`.

    Raises:
        UserError: for an address of another form, or data of another kind.
    """
    if not re.fullmatch(r"grpc://[^/:]+:\d+", service):
        raise UserError(f'data_service is "{service}"; write grpc://HOST:PORT.')
    if not isinstance(train, tf.data.Dataset):
        raise UserError(
            f'data_service is "{service}", but train is a {type(train).__name__}, which cannot be '
            "sent there; give a tf.data.Dataset, or leave data_service out."
        )
    host, _, port = service.removeprefix("grpc://").rpartition(":")
    try:  # TensorFlow would try for an hour
        socket.create_connection((host, int(port)), timeout=_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f'data_service is "{service}", but nothing answers there ({error}); start its '
            "dispatcher, or correct the address."
        ) from None
    policy = tf.data.experimental.service.ShardingPolicy.DYNAMIC
    return train.apply(tf.data.experimental.service.distribute(policy, service))
