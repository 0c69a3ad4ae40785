"""The frozen part of a run's phases, run once over the rows and kept."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_finetune.config import Phase
from tf_finetune.data.pipeline import Store, evaluation_order
from tf_finetune.errors import UserError
from tf_finetune.fit import feature_cache
from tf_finetune.fit.activations import ActivationStore, NotKept, Writer, read, written
from tf_finetune.fit.cut_check import check_cut, some_of
from tf_finetune.fit.feature_cache import FeatureStore
from tf_finetune.fit.frozen_pass import frozen_pass
from tf_finetune.fit.keeping import Keeping
from tf_finetune.fit.kept_features import KeptFeatures, read_features, write_features
from tf_finetune.fit.planned_cuts import Planned
from tf_finetune.fit.strategy import so_on_all_hosts
from tf_finetune.model.blocks import Groups
from tf_finetune.model.slicing import Cut, NotCut, Suffix, cut_before, key_of, steps_of
from tf_finetune.model.wiring import wiring_of


class FrozenPart:
    """The activations of a run: made, found again, and given to its phases.

    Args:
        groups: of the network.
        planned: by `plan_cuts`.
        phases: as given there.
        store: of the rows' inputs.
        rows: of which features are needed.
        kept: of these, those of which activations are kept.
        encoder: from inputs to what the head trains on.
        keeping: how.
        say: where lines for people go.
    """

    def __init__(
        self,
        groups: Groups,
        planned: Sequence[Planned],
        phases: Sequence[Phase],
        store: Store,
        rows: np.ndarray,
        kept: np.ndarray,
        encoder: keras.Model,
        keeping: Keeping,
        say: Callable[[str], None],
    ) -> None:
        self._groups, self._planned, self._phases = groups, planned, phases
        self._store, self._encoder, self._keeping, self._say = store, encoder, keeping, say
        self._all, self._kept = rows, kept
        self._is_kept = np.zeros(len(store.lengths), bool)
        self._is_kept[self._kept] = True

    def features(self, place: int) -> FeatureStore | KeptFeatures:
        """What a head trains on, of all rows; later phases' activations are made beside it.

        Both are found again by whoever shares the folder, as trials of a tuning do.
        """
        name, folders = self._phases[place].name, self._folders(place, place)
        folder = self._features(place)
        rows = self._all[evaluation_order(self._store, self._all)]
        wanted = rows, len(self._store.lengths), self._keeping.memory
        there = all(folder.exists() for folder in folders.values())
        found = read_features(folder, *wanted) if there else None
        if so_on_all_hosts(found is not None) and found:
            self._say(f"phase {name}: the frozen backbone has been run over all rows before")
            return found
        self._say(f"phase {name}: running the frozen backbone once over all rows")
        if self._run_backbone(place, folders, folder):
            found = read_features(folder, *wanted)
        if so_on_all_hosts(found is not None) and found:
            return found
        # There is no room on some disk.
        batch, count = self._keeping.batch, len(self._store.lengths)
        held = feature_cache.outputs_of(self._encoder, self._store, self._all, batch_size=batch)
        return FeatureStore(feature_cache.at_rows(held, self._all, count))

    def of_phase(
        self, place: int, *, mixes: bool = False, before: bool | None = None
    ) -> tuple[ActivationStore, Suffix, Suffix | None] | None:
        """What a phase, whose `trainable` is set, trains on; None where that is the whole.

        Args:
            place: of the phase.
            mixes: what goes into the head is mixed.
            before: where the phase goes on, whether it trained on a cut; so it does again.

        Returns:
            The activations; the model that trains on them; and of the same layers, where
            it mixes, one that ends where the head begins.

        Raises:
            UserError: if it has to train on a cut, and cannot.
        """
        name = self._phases[place].name
        if before is False:
            return None
        found, reason = None, Exception("another host could not keep it")
        try:
            found = self._tried(place, mixes, bool(before))
        except (NotCut, NotKept, OSError) as error:
            reason = error
        everywhere = so_on_all_hosts(found is not None)
        if found is None or not everywhere:
            if before:
                raise UserError(
                    f"phase {name} went on with kept activations, which cannot be made again: "
                    f"{reason}. Mend that, or choose another workdir to begin anew."
                )
            if str(reason):
                self._say(f"phase {name}: the model is not cut, because {reason}")
            return None
        size, where = found[0].bytes / 1e6, "in memory" if found[0].in_memory else "on the disk"
        self._say(f"phase {name}: trains on kept activations, {size:,.1f} MB {where}")
        return found

    def share(self, place: int) -> float:
        """Of the network's multiplications, those that a phase is spared in each step."""
        return self._planned[place].share

    def _run_backbone(self, place: int, folders: dict[int, Path], folder: Path) -> bool:
        """Writes the features of all rows, where there is room for them."""
        width, batch = self._encoder.outputs[0].shape[-1], self._keeping.batch
        for wanted in [folders, {}] if folders else [{}]:
            alone = feature_cache.batches_of(self._encoder, self._store, self._all, batch)
            batches = self._pass(place, wanted) if wanted else alone
            try:
                write_features(folder, batches, len(self._all), width, self._keeping.room)
                return True
            except (NotKept, OSError) as error:
                if not so_on_all_hosts(all(made.exists() for made in wanted.values())):
                    self._give_up(wanted, error)
        return False

    def _features(self, place: int) -> Path:
        """Named by all that decides what they are, to the bit: what is made beside them too."""
        try:
            steps = steps_of(self._groups.model)
            wiring = wiring_of(cut_before(steps, self._encoder.outputs[0]))
        except NotCut:
            wiring = ""
        beside = [cut.ends() for cut in self._made_by(place).values()]
        return self._keeping.features(self._encoder, wiring, beside, self._all)

    def _tried(
        self, place: int, mixes: bool, before: bool
    ) -> tuple[ActivationStore, Suffix, Suffix | None]:
        """As `of_phase`, or raises why not."""
        cut, key = self._planned[place].cut, None
        if cut is None:
            raise NotCut(self._planned[place].why_not)
        if mixes:
            key = key_of(cut.steps, self._encoder.outputs[0])
            if not any(key in step.writes for step in cut.suffix):
                raise NotCut("what is mixed is part of what is frozen")
        store, suffix = self._opened(place, cut)
        if not before:
            rows = self._kept[evaluation_order(self._store, self._kept)]
            rows = rows[some_of(len(rows))]  # from the shortest to the longest
            x, kept, lengths = self._store.batch(rows), store.batch(rows), self._store.lengths
            check_cut(cut, suffix, self._groups, x, kept, lengths[rows])
        return store, suffix, Suffix(cut, suffix.dtypes, key) if mixes else None

    def _opened(self, place: int, cut: Cut) -> tuple[ActivationStore, Suffix]:
        host = self._planned[place].made_by
        folders = self._folders(host, place)
        folder, rows = folders[place], self._rows(host)
        rows = rows[self._is_kept[rows]]
        sizes = self._store.lengths[rows]
        kept = read(folder, sizes)
        if not so_on_all_hosts(kept is not None):
            self._say(f"phase {self._phases[place].name}: running the frozen part once over rows")
            for _ in self._pass(host, folders):
                pass
            kept = kept or read(folder, sizes)
        if kept is None:
            raise NotKept(f"what was written to {folder} cannot be read")
        names = cut.steps.inputs
        passed = {name: _picker(cut, list(names).index(name)) for name in cut.passed}
        memory = self._keeping.memory
        store = ActivationStore(folder, kept, rows, self._store, passed, memory)
        return store, Suffix(cut, {one.name: one.computed for one in kept})

    def _made_by(self, host: int) -> dict[int, Cut]:
        return {i: p.cut for i, p in enumerate(self._planned) if p.cut and p.made_by == host}

    def _give_up(self, places: Iterable[int], error: Exception) -> None:
        for place in places:
            self._planned[place].cut, self._planned[place].why_not = None, str(error)

    def _rows(self, host: int) -> np.ndarray:
        """Those that a pass goes over, in its order."""
        rows = self._kept if self._planned[host].cut else self._all
        return rows[evaluation_order(self._store, rows)]

    def _pass(self, host: int, folders: dict[int, Path]) -> Iterator[np.ndarray]:
        """Goes over the rows once, as phase `host` did or does.

        Whatever is there already, it is the same computation, so that it gives the same
        bits.

        Args:
            host: place of the phase.
            folders: for the activations of a phase, by its place, where they are wanted.

        Yields:
            What the head trains on, batch by batch, where a head's phase is `host`.

        Raises:
            NotKept, OSError: at the end, if some host could not keep them.
        """
        places = self._made_by(host)
        cuts = [*places.values()]
        if not self._planned[host].cut:
            cuts.append(cut_before(cuts[0].steps, self._encoder.outputs[0]))
        # Phases of the same cut share a folder.
        wanted = {folders[place]: i for i, place in enumerate(places) if place in folders}
        writers = {i: self._writer(cuts[i], f) for f, i in wanted.items() if not f.exists()}
        rows, batch = self._rows(host), self._keeping.batch
        passed = frozen_pass(cuts, self._store, rows, batch, self._is_kept, writers)
        heads = len(cuts) > len(places)
        for found in passed:
            if heads:
                yield found["kept_0"].numpy()

    def _writer(self, cut: Cut, folder: Path) -> contextlib.AbstractContextManager[Writer]:
        lengths = self._store.lengths[self._kept]
        needed = cut.row_bytes(float(lengths.mean())) * len(lengths)
        return written(folder, cut.shape, self._keeping.dtype, int(needed) + self._keeping.room)

    def _folders(self, host: int, first: int) -> dict[int, Path]:
        """Of what is made together and needed from phase `first` on, by the phase's place."""
        rows, cuts = self._rows(host), self._made_by(host)
        return {at: self._keeping.activations(c, rows) for at, c in cuts.items() if at >= first}


def _picker(cut: Cut, number: int) -> Callable[[Any], np.ndarray]:
    """Finds an input of the model in a batch."""
    name = cut.steps.tensors["input", number].name

    def pick(batch: Any) -> np.ndarray:
        return batch[name] if isinstance(batch, dict) else tf.nest.flatten(batch)[number]

    return pick
