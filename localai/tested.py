"""The memory of self-tests: what an engine survived or died of on this device enters, and the best setting leaves.

One small JSON file, replaced whole under a lock, so that several processes may use it. Runs no test itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from backends.errors import DeathStep
from localai.errors import EngineFailed
from localai.state_file import StateFile

Value = bool | int | str

_FORMAT = 1
_ASKED_TO_END = ("stopped", "SIGTERM", "SIGINT", "SIGHUP")
_PLAIN_WORDS: dict[tuple[str, Value], str] = {
    ("extra_bufts", False): "AMX tile kernels and weight repacking",
    ("flash_attention", False): "flash attention",
    ("gpu_layers", 0): "the GPU",
    ("kv_unified", False): "the unified KV cache",
}


@dataclass(frozen=True, slots=True)
class Key:
    """What a verdict holds for. `device` is a fingerprint, `library` the build's label.

    `model` is an architecture with its quantisation (`llama Q4_1`), or a file's digest.
    """

    device: str
    engine: str
    library: str
    model: str


@dataclass(frozen=True, slots=True)
class Setting:
    """Engine settings that are tried together; make one with `Setting.of(extra_bufts=True)`."""

    values: tuple[tuple[str, Value], ...]

    @classmethod
    def of(cls, **values: Value) -> Setting:
        return cls(tuple(sorted(values.items())))

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.values)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a trial ended. `reason` is a signal's name or a few words, `step` the kind of step, `at` Unix seconds."""

    outcome: Literal["survived", "died"]
    reason: str = ""
    step: DeathStep = "self-test"
    at: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True)
class _Trial:
    """All that is known of one setting: deaths in order, and the last survival."""

    setting: Setting
    survived_at: float | None = None
    deaths: tuple[Verdict, ...] = ()

    def verdict(self) -> Verdict | None:
        """Bad after one death in the self-test, or a second on the same kind of step."""
        steps = [death.step for death in self.deaths]
        for death in self.deaths:
            if death.step == "self-test" or steps.count(death.step) >= 2:
                return death
        return None if self.survived_at is None else Verdict("survived", at=self.survived_at)


@dataclass(frozen=True, slots=True)
class _Entry:
    """What is known of one key. `threads` is decode speed in token/s by thread count."""

    key: Key
    trials: tuple[_Trial, ...] = ()
    threads: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _File:
    format: int = _FORMAT
    entries: tuple[_Entry, ...] = ()


class TestedSettings:
    """The file at `path`. A damaged file is set aside as `.corrupt` and everything is tested anew."""

    __test__ = False  # the name invites test collectors

    def __init__(self, path: Path) -> None:
        self._file = StateFile(path, _File, "engines are tested anew")

    def verdict(self, key: Key, setting: Setting) -> Verdict | None:
        """The verdict on `setting`, None where it has not been tried enough to tell."""
        return next((trial.verdict() for trial in self._entry(key).trials if trial.setting == setting), None)

    def record(self, key: Key, setting: Setting, verdict: Verdict) -> bool:
        """Add a trial's end; True where the setting counts as bad from now on.

        An end that somebody asked for says nothing of the engine and does not count; nor does SIGKILL, but in the
        self-test, where it is the system's memory killer: the setting does not fit this machine. Raises OutOfResources
        where the file cannot be written.
        """
        killed = verdict.reason == "SIGKILL" and verdict.step != "self-test"
        if verdict.outcome == "died" and (killed or verdict.reason in _ASKED_TO_END):
            return self._is_bad(key, setting)

        def change(entry: _Entry) -> _Entry:
            old = next((trial for trial in entry.trials if trial.setting == setting), _Trial(setting))
            if verdict.outcome == "died":
                new = replace(old, deaths=(*old.deaths, verdict)[-8:])
            else:
                new = replace(old, survived_at=verdict.at)
            others = tuple(trial for trial in entry.trials if trial.setting != setting)
            return replace(entry, trials=(*others, new))

        self._update(key, change)
        return self._is_bad(key, setting)

    def best(self, key: Key, candidates: Sequence[Setting]) -> Setting:
        """The first candidate, fastest first, not known to be bad. Raises EngineFailed where all of them are."""
        for setting in candidates:
            if not self._is_bad(key, setting):
                return setting
        raise EngineFailed(
            f"{key.engine} died on this device with every setting that it has ({len(candidates)} tried)",
            "`localai doctor` says how, `localai doctor --calibrate` tests again; another engine build may survive",
        )

    def hopeless(self, key: Key, candidates: Sequence[Setting]) -> bool:
        """Whether every candidate is known to be bad."""
        return all(self._is_bad(key, setting) for setting in candidates)

    def deaths(self, key: Key, setting: Setting) -> dict[DeathStep, int]:
        """How often the setting died, by kind of step."""
        counts: dict[DeathStep, int] = {}
        for trial in self._entry(key).trials:
            for death in trial.deaths if trial.setting == setting else ():
                counts[death.step] = counts.get(death.step, 0) + 1
        return counts

    def record_threads(self, key: Key, rates: Mapping[int, float]) -> None:
        """Keep measured decode speeds: thread count to token/s; counts measured before are replaced."""
        self._update(key, lambda entry: replace(entry, threads=entry.threads | dict(rates)))

    def threads(self, key: Key) -> dict[int, float]:
        """The measured decode speeds, {} where none were measured."""
        return dict(self._entry(key).threads)

    def explain(self, key: Key) -> list[str]:
        """One sentence for each setting that is turned off, one for the threads measured."""
        return _sentences(self._entry(key))

    def turned_off(self, key: Key) -> list[str]:
        """One sentence for each setting that is turned off."""
        return _deaths(self._entry(key))

    def explain_device(self, fingerprint: str) -> list[str]:
        """The sentences of all that is known of a device, each once."""
        entries = [entry for entry in self._file.read().entries if entry.key.device == fingerprint]
        return list(dict.fromkeys(line for entry in entries for line in _sentences(entry)))

    def clear(self) -> None:
        """Forget everything, so that all is tested anew."""
        self._file.clear()

    def _is_bad(self, key: Key, setting: Setting) -> bool:
        known = self.verdict(key, setting)
        return known is not None and known.outcome == "died"

    def _entry(self, key: Key) -> _Entry:
        return next((entry for entry in self._file.read().entries if entry.key == key), _Entry(key))

    def _update(self, key: Key, change: Callable[[_Entry], _Entry]) -> None:
        def edit(content: _File) -> _File:
            entry = next((entry for entry in content.entries if entry.key == key), _Entry(key))
            others = tuple(entry for entry in content.entries if entry.key != key)
            return _File(entries=(*others, change(entry)))

        self._file.change(edit)


def _sentences(entry: _Entry) -> list[str]:
    lines = _deaths(entry)
    if entry.threads:
        rates = ", ".join(f"{count}: {rate:.0f}" for count, rate in sorted(entry.threads.items()))
        lines.append(f"threads measured for {entry.key.model}, token/s: {rates}")
    return lines


def _deaths(entry: _Entry) -> list[str]:
    lines = []
    survivors = [trial.setting for trial in entry.trials if (v := trial.verdict()) and v.outcome == "survived"]
    for trial in entry.trials:
        verdict = trial.verdict()
        if verdict is None or verdict.outcome == "survived":
            continue
        day = time.strftime("%Y-%m-%d", time.localtime(verdict.at))
        times = "in its self-test" if verdict.step == "self-test" else f"twice in {verdict.step}, first"
        how = _how(verdict.reason)
        off = _turned_off(trial.setting, survivors)
        lines.append(f"{off}: the engine process {how} {times} on {day} ({entry.key.library})")
    return lines


def _how(reason: str) -> str:
    """The predicate for a signal's name, an exit status, or words that are one already."""
    if reason.startswith("SIG"):
        return f"was killed by {reason}"
    return f"ended with {reason}" if reason.startswith("exit") else reason or "died"


def _turned_off(bad: Setting, survivors: Sequence[Setting]) -> str:
    """What gave way: the values in which the first surviving setting differs, in words where there are some."""
    for survivor in survivors:
        changed = [pair for pair in survivor.values if pair not in bad.values]
        if changed:
            names = [_PLAIN_WORDS.get((name, value), f"{name} other than {value}") for name, value in changed]
            return " and ".join(names) + " turned off"
    return f"setting {bad} turned off"
