"""Counters and histograms for Prometheus: ledger rows and step records in, the text format out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from backends.contract import StepRecord
from backends.kv_frames import KvReport
from backends.paging_report import WeightsReport
from localai.energy.meter import Totals
from localai.pressure import Pressure

M = TypeVar("M", Counter, Histogram)
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Metrics:
    """A registry of its own, so that two daemons in one process do not meet."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        labels = ("model", "backend", "finish")
        self._queries = Counter("localai_queries", "Queries by how they ended", labels, registry=own)
        self._tokens = Counter("localai_tokens", "Tokens by kind", ("model", "kind"), registry=own)
        self._ttft = _histogram("localai_ttft_seconds", "Time to first token", own)
        self._total = _histogram("localai_query_seconds", "Whole query", own)
        self._load = _histogram("localai_load_seconds", "Model load waited for", own)
        self.running = Gauge("localai_queries_running", "Queries in progress", registry=own)
        self.engines = Gauge("localai_engines", "Engines by state", ("state",), registry=own)
        self.charged = Gauge("localai_engine_bytes", "Memory charged for loaded engines", registry=own)
        self._steps = Counter("localai_engine_steps", "Engine steps", registry=own)
        self._step_seconds = Counter("localai_engine_step_seconds", "Wall time in engine steps", registry=own)
        self._cpu_seconds = Counter("localai_engine_cpu_seconds", "CPU time in engine steps", registry=own)
        self._switches = Counter("localai_adapter_switches", "Changes of LoRA adapters", registry=own)
        self._switch_seconds = Counter("localai_adapter_switch_seconds", "Wall time in those changes", registry=own)
        self._joules = Counter(
            "localai_energy_joules", "Energy of answers", ("model", "phase", "quality"), registry=own
        )
        self._idle = Gauge("localai_energy_idle_joules", "Energy of being idle while sensors were read", registry=own)
        self._lost = Gauge("localai_energy_unattributed_joules", "Energy seen that is nobody's", registry=own)
        self.energy: Callable[[], Totals] | None = None
        self._drafted = Counter("localai_draft_tokens", "Tokens guessed ahead", registry=own)
        self._accepted = Counter("localai_draft_accepted_tokens", "Guessed tokens that were right", registry=own)
        self._new_steps, self._new_seconds, self._new_cpu = 0, 0.0, 0.0
        self._labelled: dict[tuple[int, tuple[str, ...]], Any] = {}
        self.kv = KvMetrics(own)
        self.weights = WeightMetrics(own)

    def count(self, row: dict[str, Any]) -> None:
        """Add one ledger row."""
        # A name that led nowhere is whatever a client typed, and must not become a label.
        model = row["model"] if row.get("backend") else ""
        self._of(self._queries, model, row.get("backend") or "", row.get("finish") or "").inc()
        for kind in ("prompt", "cached", "completion"):
            self._of(self._tokens, model, kind).inc(row.get(f"{kind}_tokens") or 0)
        for phase in ("prefill", "decode", "idle"):
            if row.get(f"{phase}_joules") is not None:
                self._of(self._joules, model, phase, row["quality"]).inc(row[f"{phase}_joules"])
        self._of(self._total, model).observe(row["total_ms"] / 1000)
        if row.get("ttft_ms") is not None:
            self._of(self._ttft, model).observe(row["ttft_ms"] / 1000)
        if row.get("load_ms"):
            self._of(self._load, model).observe(row["load_ms"] / 1000)

    def _of(self, metric: M, *labels: str) -> M:
        """`metric` with `labels`, kept: looking one up in its registry takes as long as counting."""
        found = self._labelled.get((id(metric), labels))
        if found is None:
            found = self._labelled[id(metric), labels] = metric.labels(*labels)
        return found

    def count_step(self, record: StepRecord) -> None:
        """Add one engine step; plain sums, because this runs once per token."""
        self._new_steps += 1
        self._new_seconds += record.t1 - record.t0
        self._new_cpu += record.cpu_s
        for share in record.shares:
            if share.drafted:
                self._drafted.inc(share.drafted)
                self._accepted.inc(share.accepted)
        if record.switch_s is not None:
            self._switches.inc()
            self._switch_seconds.inc(record.switch_s)

    def render(self) -> bytes:
        """The text format, with the steps counted since the last time."""
        if self.energy is not None:
            totals = self.energy()
            self._idle.set(totals.idle)
            self._lost.set(totals.unattributed)
        self._steps.inc(self._new_steps)
        self._step_seconds.inc(self._new_seconds)
        self._cpu_seconds.inc(self._new_cpu)
        self._new_steps, self._new_seconds, self._new_cpu = 0, 0.0, 0.0
        return generate_latest(self.registry)


class WeightMetrics:
    """Of models larger than the memory left to them, and how hard the system works for memory and disks."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._bytes = Gauge("localai_weights_bytes", "Paged models' weights", ("model", "kind"), registry=registry)
        self._rate = Gauge("localai_weights_predicted_tps", "Expected decode rate", ("model",), registry=registry)
        self._stall = Gauge("localai_pressure", "Percent of 10 s waited", ("resource", "kind"), registry=registry)

    def hold(self, reports: Mapping[str, WeightsReport], stalls: Sequence[Pressure]) -> None:
        """What is in memory now, by model."""
        self._bytes.clear()
        self._rate.clear()
        for model, report in reports.items():
            for kind in ("budget", "resident", "pinned", "paged", "read"):
                self._bytes.labels(model, kind).set(getattr(report, kind))
            self._rate.labels(model).set(report.predicted_tps)
        for stall in stalls:
            self._stall.labels(stall.resource, "some").set(stall.some)
            self._stall.labels(stall.resource, "full").set(stall.full)


class KvMetrics:
    """Of the KV cache, by tier: live cells, RAM, SSD. Children report sums; the registry gets what is new."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str) -> Counter:
            return Counter(f"localai_kv_{name}", text, ("tier",), registry=registry)

        self._hits = counter("hit_tokens", "Prompt tokens that were not computed again")
        self._restores = counter("restores", "Blocks brought back into the cells")
        self._restored = counter("restored_bytes", "Bytes of those blocks")
        self._evictions = counter("evictions", "Blocks given up for others")
        self._bad = Counter("localai_kv_bad_blocks", "Blocks found damaged or missing", registry=registry)
        self._bytes = Gauge("localai_kv_bytes", "Bytes of KV blocks", ("tier",), registry=registry)
        self._blocks = Gauge("localai_kv_blocks", "KV blocks", ("tier",), registry=registry)
        for tier in ("ram", "ssd"):
            self._evictions.labels(tier)

    def count(self, report: KvReport, before: KvReport | None) -> None:
        """Add what has come since `before`, the same child's last report."""
        for counter, name in (
            (self._hits, "hit_tokens"),
            (self._restores, "restores"),
            (self._restored, "restored_bytes"),
        ):
            old = getattr(before, name, {})
            for tier, value in getattr(report, name).items():
                counter.labels(tier).inc(value - old.get(tier, 0))
        self._bad.inc(report.bad - (before.bad if before else 0))
        self.evicted("ram", report.ram_evictions - (before.ram_evictions if before else 0))

    def evicted(self, tier: str, count: int) -> None:
        self._evictions.labels(tier).inc(count)

    def hold(self, tier: str, size: int, blocks: int) -> None:
        """What a tier holds now."""
        self._bytes.labels(tier).set(size)
        self._blocks.labels(tier).set(blocks)


def _histogram(name: str, text: str, registry: CollectorRegistry) -> Histogram:
    return Histogram(name, text, ("model",), buckets=_SECONDS, registry=registry)
