"""Who holds which sequence number and how many KV cells. Finished sequences stay as residents to be found by prefix.

What sequences hold is copied to the store between steps; when others run, idle sequences leave the cells for it. Cells
that two sequences share are counted twice, so the count errs towards full; the engine's own refusal (`CacheFull`) is
the last word.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from backends.engine import Engine
from backends.kv.keys import packed
from backends.kv.quotes import Quotes
from backends.kv.store import Store
from backends.kv.tree import Match, Node, Step
from backends.kv_frames import Tier
from backends.prefix import Held

_WORTH = 8
"""Shortest common prefix worth taking over, in tokens."""
_DEAR_S = 0.004
"""A copy that takes longer than this delays a token by what people measure."""
_FORGET = 0.9
"""Share of the dearest copy seen that still counts at the next one."""
_SPACING = 128
_PURGE_LASTS_S = 60.0
"""Seconds for which a purge holds: requests that were on their way when it came have been taken in by then."""
"""Steps between two such copies while others decode: their 99th percentile gap never sees them."""

PrefillCost = Callable[[int, int], float | None]
"""Expected seconds of so many prompt tokens that end at so deep a position; None where nothing was seen yet."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sequence runs: its number, how many of its tokens that holds already, from where, and the cost."""

    seq: int
    held: int
    cached: dict[Tier, int] = field(default_factory=dict)
    restore_s: float = 0.0


@dataclass(slots=True)
class _Filled:
    """What a sequence holds: `length` tokens of `held`, the first of them in the store up to the end of `stored`.

    Below `floor` tokens it cannot be cut. The first `asked` are a prompt, the rest its answer. What is `secret` quotes
    what was forgotten while it ran: it is not kept.
    """

    held: Held
    length: int = 0
    stored: Node | None = None
    tail: bool = False
    floor: int = 0
    asked: int = 0
    secret: bool = False

    @property
    def now(self) -> Held:
        return Held(self.held.tokens[: self.length], self.held.root)


class Cells:
    """Sequence numbers 0..n_seq-1 over `n_cells` KV cells of one engine, and the store behind them, if there is one."""

    def __init__(self, engine: Engine, store: Store | None, cost: PrefillCost = lambda _, __: None) -> None:
        info = engine.info()
        self._engine = engine
        self._store = store
        self._cost = cost
        self._recorder = store.recorder if store else None
        self.n_cells = info.n_ctx
        self._bytes_per_token = info.kv_bytes / info.n_ctx
        self._can_share = {"fork", "trim"} <= info.capabilities
        # Where there is one sequence, whoever shares with it takes it over.
        self._can_share = self._can_share or ("trim" in info.capabilities and info.n_seq == 1)
        self._n_seq = info.n_seq
        self._free = list(range(info.n_seq - 1, -1, -1))
        self._active: dict[int, _Filled] = {}
        self._residents: OrderedDict[int, _Filled] = OrderedDict()
        self._export_s = 1.0
        self._since_copy = 0
        self._purge: tuple[float, Quotes] | None = None

    @property
    def used(self) -> int:
        return sum(f.length for group in (self._active, self._residents) for f in group.values())

    @property
    def active(self) -> int:
        return len(self._active)

    @property
    def residents(self) -> int:
        return len(self._residents)

    @property
    def free(self) -> int:
        """Sequence numbers that hold nothing."""
        return len(self._free)

    # -- starting a sequence

    def expect(self, wanted: Held) -> None:
        """Begin to bring back what the SSD holds of a sequence that will come."""
        if self._store is not None:
            match = self._store.match(_sought(wanted))
            _, common = self._best_match(_sought(wanted))
            if match.length > common:
                self._store.lease(match.steps)
                self._store.read_ahead([step for step in match.steps if step.node.end > common])

    def reading(self, wanted: Held) -> bool:
        """Whether it is worth waiting, because something of it is on its way from the SSD."""
        return self._store is not None and self._store.reading(self._store.match(_sought(wanted)))

    def acquire(self, wanted: Held, *, cells: int, reuse: bool) -> Place | None:
        """A place for what is `wanted`; None where there is no room.

        `cells` is what must fit beside the active sequences; residents make way for it, oldest first, but not the one
        that is taken over. The last token is never taken from the cache, because its logits are wanted.
        """
        sought = _sought(wanted)
        source, common = self._best_match(sought) if reuse else (-1, 0)
        stored = self._worthwhile(self._store.match(sought), common) if reuse and self._store else ()
        if stored and (not common or stored[0].node.start == 0):
            source, common = -1, 0
        elif stored:
            common = min(common, stored[0].node.start)
        taken = sum(f.length for f in self._active.values()) + (common if source in self._residents else 0)
        new = cells - common
        if taken + new > self.n_cells or len(self._active) == self._n_seq:
            return None
        # Nobody waits for a token while nobody runs; else copying is spread over the steps to come.
        self._spill(keep=source, copy=not self._active)
        while self.n_cells - self.used < new and self.evict_one(keep=source):
            pass
        seq, filled = self._share(source, common, new) if common else (self._take_free(), _Filled(wanted))
        filled.held, filled.asked = wanted, len(wanted)
        filled.secret = self._quoted(wanted.tokens)
        self._active[seq] = filled
        cached: dict[Tier, int] = {"live": common} if common else {}
        begun = time.monotonic()
        for at, step in enumerate(stored):
            if self._store is None or not self._restore(seq, filled, step, cached):
                break
            self._store.read_ahead(stored[at + 1 :])
        if self._store is not None:
            for tier, count in cached.items():
                self._store.counts.hit_tokens[tier] += count
        return Place(seq, filled.length, cached, time.monotonic() - begun if stored else 0.0)

    def _worthwhile(self, match: Match, common: int) -> tuple[Step, ...]:
        """The blocks to bring back behind the first `common` tokens: as far as that beats computing them."""
        assert self._store is not None
        if match.length < common + _WORTH:
            return ()
        chosen: list[Step] = []
        saved = 0.0
        best = 0
        for step in match.steps:
            node = step.node
            if node.end <= common:
                continue
            computing = self._cost(step.take, node.start + step.take)
            restoring = self._store.speed.restore_s(node.size, from_ssd=not node.in_ram)
            saved += (computing if computing is not None else restoring + 1.0) - restoring
            chosen.append(step)
            if saved > 0.0:
                best, saved = len(chosen), 0.0
        return tuple(chosen[:best])

    def _restore(self, seq: int, filled: _Filled, step: Step, cached: dict[Tier, int]) -> bool:
        """Put one block behind what `seq` holds; False where it cannot be used, and the rest is computed."""
        assert self._store is not None
        node = step.node
        size = len(node.tokens)
        if self.n_cells - self.used < size and not self._room_for(size, seq):
            return False
        found = self._store.take(node)
        if found is None:
            return False
        payload, tier = found
        begun = time.monotonic()
        if not self._store.codec.append(seq, node.start, node.end, payload):
            self._store.discard(node)
            return False
        self._store.speed.append(len(payload), time.monotonic() - begun)
        filled.length = node.start + step.take
        if step.take < size:
            self._engine.trim(seq, filled.length)
        elif size == self._store.codec.block:
            filled.stored = node
        if self._store.codec.whole:
            filled.floor = filled.length
        cached[tier] = cached.get(tier, 0) + step.take
        return True

    def _room_for(self, size: int, seq: int) -> bool:
        while self.n_cells - self.used < size:
            if not self.evict_one(keep=seq):
                return False
        return True

    def _best_match(self, sought: Held) -> tuple[int, int]:
        """The sequence in the cells that shares the most with `sought`, and how much; (-1, 0) for too little."""
        best, length = -1, _WORTH - 1
        for group in (self._residents, self._active):
            for seq, filled in group.items():
                common = min(sought.common(filled.held), filled.length)
                cut = common < filled.length or group is self._active
                if cut and (not self._can_share or common < filled.floor):
                    continue
                if common > length:
                    best, length = seq, common
        return (best, length) if best >= 0 else (-1, 0)

    def _share(self, source: int, common: int, new: int) -> tuple[int, _Filled]:
        filled = self._residents.get(source)
        cramped = not self._free or self.n_cells - self.used < common + new
        if filled is not None and (2 * common >= filled.length or cramped or not self._can_share):
            if common < filled.length:
                self._save(source, filled)
            del self._residents[source]
            seq = source
        else:
            filled = filled or self._active[source]
            seq = self._take_free()
            self._engine.fork(source, seq)
        if common < filled.length:
            self._engine.trim(seq, common)
        stored = filled.stored
        while stored is not None and stored.end > common:
            stored = stored.parent
        return seq, _Filled(filled.held, common, stored, floor=filled.floor)

    def _take_free(self) -> int:
        if not self._free:
            self.evict_one()
        return self._free.pop()

    def fork(self, source: int, tokens: list[int]) -> int:
        """A new sequence that shares all of `source`."""
        seq = self._take_free()
        self._engine.fork(source, seq)
        old = self._active[source]
        held = Held(tokens, old.held.root)
        self._active[seq] = _Filled(held, old.length, old.stored, floor=old.floor, asked=old.asked, secret=old.secret)
        return seq

    def grow(self, seq: int, length: int) -> None:
        """Note that `seq` holds `length` tokens now."""
        self._active[seq].length = length

    # -- ending one

    def release(self, seq: int, *, keep: bool) -> None:
        """Give the number back; with `keep`, what it holds stays to be found."""
        filled = self._active.pop(seq)
        filled.held = filled.now
        secret = filled.secret or self._quoted(filled.held.tokens)
        if keep and not secret and self._recorder is not None:
            self._recorder.note(filled.held.tokens, filled.asked)
        if keep and not secret and filled.length >= _WORTH and (self._can_share or self._store is not None):
            self._residents[seq] = filled
            if self._active:
                self._spill(copy=False)
        else:
            self._engine.drop(seq)
            self._free.append(seq)

    def _spill(self, *, copy: bool, keep: int = -1) -> None:
        """Let residents other than number `keep` leave the cells: there they would slow every step down.

        One that the store has not, or does not take, stays: slower steps cost less than computing it again.
        """
        if self._store is None:
            return
        for seq, filled in list(self._residents.items()):
            if seq != keep and (self._save(seq, filled) if copy else self._is_saved(filled)):
                self._leave(seq)

    def evict_one(self, keep: int = -1) -> bool:
        """Drop the oldest resident other than number `keep`; False where there is none."""
        seq = next((s for s in self._residents if s != keep), None)
        if seq is None:
            return False
        self._save(seq, self._residents[seq])
        self._leave(seq)
        return True

    def purge(self, quotes: Quotes) -> int:
        """Let no sequence that quotes outlive its request, now and for a minute; how many residents went at once."""
        self._purge = time.monotonic() + _PURGE_LASTS_S, quotes
        gone = [seq for seq, filled in self._residents.items() if quotes.within(filled.held.tokens)]
        for seq in gone:
            self._leave(seq)
        for filled in self._active.values():
            filled.secret = filled.secret or quotes.within(filled.held.tokens)
        return len(gone)

    def _quoted(self, tokens: Sequence[int]) -> bool:
        if self._purge is not None and self._purge[0] < time.monotonic():
            self._purge = None
        return self._purge is not None and self._purge[1].within(tokens)

    def _leave(self, seq: int) -> None:
        del self._residents[seq]
        self._engine.drop(seq)
        self._free.append(seq)

    # -- copying to the store

    def tend(self, *, hurry: bool) -> bool:
        """Copy one block that the store lacks; False where there is none. `hurry`: only if that takes no time to feel.

        Called between steps, and over and over while there is nothing else to do.
        """
        if self._store is None:
            return False
        self._store.settle()
        self._since_copy += 1
        if hurry and self._export_s > _DEAR_S and self._since_copy < _SPACING:
            return False
        groups = ((self._residents, True), (self._active, False))
        copied = any(self._copy_next(seq, f, ended) for group, ended in groups for seq, f in group.items())
        if copied and self._active:
            self._spill(copy=False)
        return copied

    def _save(self, seq: int, filled: _Filled) -> bool:
        """Copy all of a resident; False where the store does not take it all."""
        if self._store is None:
            return False
        while self._copy_next(seq, filled, ended=True):
            pass
        return self._is_saved(filled)

    def _is_saved(self, filled: _Filled) -> bool:
        return filled.tail or self._missing(filled) == 0

    def _missing(self, filled: _Filled) -> int:
        return filled.length - (filled.stored.end if filled.stored is not None else 0)

    def _copy_next(self, seq: int, filled: _Filled, ended: bool) -> bool:
        """Copy one block of `seq`, the short last one only where the sequence has ended; False where none is left."""
        store = self._store
        assert store is not None
        while not filled.tail and not filled.secret:
            missing, whole = self._missing(filled), store.codec.block
            size = whole if whole and missing >= whole else missing
            if not size or (size != whole and not ended):
                return False
            parent = filled.stored if filled.stored is not None else store.root(filled.held)
            tokens = packed(filled.held.tokens[parent.end : parent.end + size])
            known = store.known(parent, tokens)
            node = known or self._copy(seq, parent, parent.end + size, filled)
            if node is None:
                return False
            if size == whole:
                filled.stored = node
            else:
                filled.tail = True
            if known is None:
                return True
        return False

    def _copy(self, seq: int, parent: Node, end: int, filled: _Filled) -> Node | None:
        store = self._store
        assert store is not None
        start = parent.end
        if not store.has_room(int(self._bytes_per_token * (end - start))):
            return None
        begun = time.monotonic()
        payload = store.codec.export(seq, start, end)
        took = time.monotonic() - begun
        self._export_s = max(took, _FORGET * self._export_s)
        self._since_copy = 0
        cost = self._cost(end - start, end) or (end - start) * 1e-3
        return store.put(parent, packed(filled.held.tokens[start:end]), payload, cost)


def _sought(wanted: Held) -> Held:
    return Held(wanted.tokens[:-1], wanted.root)
