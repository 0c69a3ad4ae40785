"""Model, optimiser and training must belong to one distribution strategy."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.distribute.distribute_lib import _get_default_strategy as none

from tf_finetune.errors import UserError


def check_strategy(model: keras.Model, optimizer: Any = None) -> None:
    """Raises `UserError` where TensorFlow would end in a message of its insides.

    Args:
        model: is to train where this is called.
        optimizer: that it was compiled with; None for one that is made here.
    """
    here = tf.distribute.get_strategy()
    # The property gives that of the moment for a model that was made under none.
    owner = model._distribute_strategy or none()
    made = here if optimizer is None else getattr(optimizer, "_distribution_strategy", owner)
    if made is not owner:
        what, other = "trains" if optimizer is None else "was compiled", made
    elif tf.distribute.has_strategy() and here is not owner:
        what, other = "trains", here
    else:
        return
    raise UserError(
        f'the model "{model.name}" was made under {_name(owner)}, but {what} under {_name(other)}; '
        "make, compile and train it inside one `with strategy.scope():`."
    )


def check_building(optimizer: Any) -> None:
    """Raises `UserError` where an optimiser is built under another strategy than its own.

    Keras builds it before callbacks are heard.
    """
    here, made = tf.distribute.get_strategy(), optimizer._distribution_strategy
    if tf.distribute.has_strategy() and here is not made:
        raise UserError(
            f"the model trains under {_name(here)}, but was compiled under {_name(made)}, where "
            "its optimizer was made; make, compile and train it inside one "
            "`with strategy.scope():`."
        )


def _name(strategy: tf.distribute.Strategy) -> str:
    return "no strategy" if strategy is none() else type(strategy).__name__
