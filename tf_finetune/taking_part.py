"""What this process is in a run: the only one, or one worker of several."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from tf_finetune.cluster.join import joined
from tf_finetune.cluster.meeting import Meeting
from tf_finetune.cluster.spec import cluster_for
from tf_finetune.config import FineTuneConfig
from tf_finetune.finished import versions
from tf_finetune.fit.distribution import refuse_unsound
from tf_finetune.fit.strategy import is_chief, own_folder, strategy_of
from tf_finetune.preflight import share_gpu
from tf_finetune.stopping import Stop

Say = Callable[[str], None]


@dataclasses.dataclass(slots=True, kw_only=True)
class Part:
    """A process's part in a run.

    Attributes:
        folder: where it writes: the run folder, or one that goes away.
        shared: the run folder.
        chief: whether it is the one whose files and words count.
        stop: whose wish to stop all workers follow, after the same batch.
        say: where lines for people go; those of the others go nowhere.
        scope: of the strategy; it is closed when all is trained.
    """

    folder: Path
    shared: Path
    chief: bool
    stop: Stop
    say: Say
    scope: contextlib.ExitStack
    _meeting: Meeting | None

    def agree(self, facts: Callable[[], dict[str, str]]) -> None:
        """Raises `UserError` unless all workers, if there are several, have these facts."""
        if self._meeting:
            self._meeting.agree(facts())


@contextlib.contextmanager
def taking_part(config: FineTuneConfig, shared: Path, stop: Stop, say: Say) -> Iterator[Part]:
    """Meets the other workers of a run, if there are any, and puts up its strategy.

    Args:
        config: of the run, validated.
        shared: the run folder.
        stop: may ask the run to stop.
        say: where lines for people go.

    Raises:
        UserError: if there is no such strategy here, or the workers differ.
        PeerLost: if a worker does not come, or is gone.
    """
    share_gpu(config)
    refuse_unsound()
    cluster = cluster_for(config.fit.strategy)
    with contextlib.ExitStack() as held:
        meeting = None
        if cluster:
            facts = {"config": json.loads(config.to_json()), "versions": versions()}
            # Before TensorFlow computes anything.
            meeting = held.enter_context(joined(cluster, facts, timeout=config.fit.peer_timeout))
            stop.together = meeting.stops
        strategy = strategy_of(config.fit.strategy)
        chief = is_chief(strategy)
        folder = held.enter_context(own_folder(shared, strategy))
        scope = held.enter_context(contextlib.ExitStack())
        scope.enter_context(strategy.scope())
        yield Part(
            folder=folder,
            shared=shared,
            chief=chief,
            stop=stop,
            say=say if chief else _nowhere,
            scope=scope,
            _meeting=meeting,
        )


def _nowhere(line: str) -> None:
    """Takes the words of a worker that is not the chief."""
