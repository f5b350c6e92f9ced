"""The memory over HTTP: add, search, list, judge, export, import, forget, examine.

A token may be bound to namespaces; its program then sees these alone, and says what it says in its own name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from localai.api.caller import Who
from localai.api.visitor import Visitor
from localai.api.wire import JsonRoute, json_response
from localai.errors import BadRequest
from localai.forgetting import Forgetting
from localai.memories import Memories
from localai.watched import WatchedFolders
from memory_store.records import DEFAULT_NAMESPACE, OWNER, Author, Memory, NewMemory

if TYPE_CHECKING:
    from memory_store.recall import Hit, Question
    from memory_store.rows import Filter

_PARTS = ("words", "vector", "turns", "graph", "cosine", "relevance", "learned")

_SHOWN = 1000
"""Of what would be forgotten."""

Name = Annotated[str, Field(max_length=4096)]
Moment = Annotated[float, Field(allow_inf_nan=False)]


Number = Annotated[int, Query(ge=0, lt=2**63)]
"""What the store can count to."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class SourceBody(_Body):
    kind: Literal["person", "agent", "file", "tool", "web"]
    name: Name


class AddBody(_Body):
    text: str
    source: SourceBody | None = None
    namespace: Name = DEFAULT_NAMESPACE
    kind: Literal["verbatim", "derived"] = "verbatim"
    id: Name | None = None
    taint: Literal["own", "model", "file", "tool", "web"] | None = None
    time: Moment | None = None
    valid_from: Moment | None = None
    valid_to: Moment | None = None
    place: Name | None = None
    episode: Name | None = None
    position: Annotated[int, Field(ge=0, lt=2**62)] | None = None
    tags: tuple[Name, ...] = ()
    derived_from: tuple[Name, ...] = ()

    def new(self, who: Visitor) -> NewMemory:
        fields = self.model_dump(exclude={"source", "namespace"})
        author = who.author(None if self.source is None else author_of(self.source))
        return NewMemory(author=author, namespace=namespace_of(self, who), **fields)


class SearchBody(_Body):
    query: str
    k: int = 10
    namespace: Name = DEFAULT_NAMESPACE
    since: Moment | None = None
    until: Moment | None = None
    at: Moment | None = None
    past: bool = False
    exact: bool = False

    def question(self, who: Visitor) -> Question:
        from memory_store.recall import Question

        fields = self.model_dump(include=SearchBody.model_fields.keys() - {"query", "namespace"})
        return Question(text=self.query, namespace=namespace_of(self, who), **fields)


class ForgetBody(_Body):
    ids: tuple[Name, ...] = ()
    query: str | None = None
    source: SourceBody | None = None
    namespace: Name | None = None
    tag: Name | None = None
    since: Moment | None = None
    until: Moment | None = None
    dry_run: bool = False


class JudgeBody(_Body):
    verdict: Literal["confirmed", "refuted"]
    source: SourceBody | None = None


class ImportBody(_Body):
    records: list[dict[str, Any]] = Field(max_length=1000)
    first: int = 1


def routes(memories: Memories, forgetting: Forgetting, watched: WatchedFolders) -> APIRouter:
    """The routes under /localai/memory."""
    router = APIRouter(prefix="/localai/memory", tags=["memory"], route_class=JsonRoute)
    _whole_store(router, memories, forgetting, watched)

    @router.post("")
    async def add(body: AddBody, who: Who) -> Response:
        """Remember one text; what an agent says passes the write gate."""
        added = await asyncio.to_thread(memories.remember, body.new(who))
        return json_response({**asdict(added), "fallback": memories.fallback})

    @router.get("")
    async def listing(
        who: Who,
        namespace: str | None = None,
        source: str | None = None,
        tag: str | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        state: Literal["kept", "quarantined", "contested", "superseded"] | None = None,
        before: Number | None = None,
        limit: int = 50,
    ) -> Response:
        """Memories, the last written first; `before` is the number where the page before ended."""
        author = None if source is None else parsed_source(source)
        namespace = who.namespace(namespace, usual=None)
        conditions = {"namespace": namespace, "author": author, "tag": tag, "since": since, "until": until}
        found = await asyncio.to_thread(
            lambda: memories.store.list(**conditions, state=state, before=before, limit=limit)  # type: ignore[arg-type]
        )
        return json_response({"memories": [shown(memory) for memory in found]})

    @router.post("/search")
    async def search(body: SearchBody, who: Who) -> Response:
        """What answers a question, best first, with the reason of each hit."""
        hits = await asyncio.to_thread(memories.search, body.question(who))
        return json_response({"hits": [hit_json(hit) for hit in hits], "fallback": memories.fallback})

    @router.get("/{memory_id}")
    async def show(memory_id: str, who: Who) -> Response:
        """One memory, with its trust and the turns beside it."""
        (found,) = await asyncio.to_thread(meant, memories, [memory_id], who)
        return json_response(await asyncio.to_thread(_shown_whole, memories, found))

    @router.post("/{memory_id}/judge")
    async def judge(memory_id: str, body: JudgeBody, who: Who) -> Response:
        """Confirm or refute a memory; `counted` is false where the word of this judge has no weight."""
        judge = who.author(None if body.source is None else author_of(body.source))
        (found,) = await asyncio.to_thread(meant, memories, [memory_id], who)
        return json_response({"counted": await asyncio.to_thread(memories.judge, found.id, body.verdict, judge)})

    return router


def _whole_store(router: APIRouter, memories: Memories, forgetting: Forgetting, watched: WatchedFolders) -> None:
    """What is about more than one memory; before `/{memory_id}`, which takes any word."""

    @router.get("/stats")
    async def stats(who: Who) -> Response:
        """How much is remembered, where, and by whom."""
        who.whole_memory()
        return json_response(await asyncio.to_thread(_stats, memories))

    @router.post("/doctor")
    async def doctor(repair: bool = False) -> Response:
        """Is everything findable? With `repair`, it is afterwards."""
        return json_response(await asyncio.to_thread(_doctor, memories, watched, repair))

    @router.get("/export")
    async def export(who: Who, after: Number = 0, limit: int = 500, namespace: str | None = None) -> Response:
        """One page of all memories with their evidence; the next begins `after` its last number."""
        namespace = who.namespace(namespace, usual=None)
        return json_response(await asyncio.to_thread(_export, memories, after, max(1, min(limit, 1000)), namespace))

    @router.post("/import")
    async def bring_in(body: ImportBody, who: Who) -> Response:
        """All of these records, or none of them. They name their authors, which a bound token may not."""
        who.whole_memory()
        return json_response({"created": await asyncio.to_thread(_import, memories, body)})

    @router.post("/forget")
    async def forget(body: ForgetBody, who: Who) -> Response:
        """Erase, and search the raw files for what is left; with `dry_run`, say what would go and erase nothing."""
        ids = [found.id for found in await asyncio.to_thread(meant, memories, body.ids, who)]
        if body.dry_run:
            found = await asyncio.to_thread(memories.would_go, ids, body.query, _filter(body, who))
            return json_response({"count": len(found), "memories": [shown(memory) for memory in found[:_SHOWN]]})
        return json_response(await forgetting.forget(ids, body.query, _filter(body, who)))


def author_of(body: SourceBody | None) -> Author:
    return OWNER if body is None else Author(kind=body.kind, name=body.name)


def parsed_source(text: str) -> Author:
    """`kind:name`. Raises BadRequest."""
    kind, colon, name = text.partition(":")
    if not colon or kind not in ("person", "agent", "file", "tool", "web"):
        raise BadRequest(f"{text!r} is no source", "write it as person:NAME, agent:, file:, tool: or web:NAME")
    return Author(kind=kind, name=name)  # type: ignore[arg-type]


def shown(memory: Memory) -> dict[str, Any]:
    fields = asdict(memory)
    del fields["author"], fields["num"]
    return {**fields, "num": memory.num, "source": f"{memory.author.kind}:{memory.author.name}"}


def hit_json(hit: Hit) -> dict[str, Any]:
    why = asdict(hit.why)
    return {
        "id": hit.memory.id,
        "text": hit.memory.text,
        "score": round(hit.score, 6),
        "source": f"{hit.memory.author.kind}:{hit.memory.author.name}",
        "trust": round(hit.trust, 4),
        "time": hit.memory.time,
        "why": hit.why.sentence(),
        "parts": {
            name: round(why[name], 4)
            for name in ("words", "vector", "turns", "graph", "cosine", "relevance", "learned")
        },
        **{name: getattr(hit.memory, name) for name in ("namespace", "state", "taint", "place", "episode", "position")},
    }


def _stats(memories: Memories) -> dict[str, Any]:
    from memory_store.erase import store_files

    store = memories.store
    sources = [{"source": f"{s.author.kind}:{s.author.name}", "memories": s.memories} for s in store.sources()]
    namespaces = store.namespaces()
    return {
        "memories": sum(namespaces.values()),
        "namespaces": namespaces,
        "sources": sources,
        "bytes": sum(path.stat().st_size for path in store_files(store.path) if path.exists()),
        "embedder": store.own_embedder().digest,
        "fallback": memories.fallback,
    }


def _doctor(memories: Memories, watched: WatchedFolders, repair: bool) -> dict[str, Any]:
    found, fits = memories.examine(repair=repair)
    return {
        "healthy": found.healthy and fits,
        **asdict(found),
        "index_differs": not fits,
        "doubts": watched.doubts(),
        "fallback": memories.fallback,
    }


def _export(memories: Memories, after: int, limit: int, namespace: str | None) -> dict[str, Any]:
    import msgspec

    from memory_store.export import records

    found = records(memories.store, after=after, limit=limit, namespace=namespace)
    return {"records": [msgspec.to_builtins(record) for _, record in found], "last": found[-1][0] if found else None}


def _import(memories: Memories, body: ImportBody) -> int:
    from memory_store.export import record_of

    return memories.bring_in([record_of(value, f"memory {body.first + n}") for n, value in enumerate(body.records)])


def _filter(body: ForgetBody, who: Visitor) -> Filter | None:
    from memory_store.rows import Filter

    author = None if body.source is None else author_of(body.source)
    fields = body.model_dump(include={"namespace", "tag", "since", "until"})
    chosen = Filter(author=author, **fields)
    if chosen == Filter() and body.query is None:
        return None
    chosen = Filter(**{**fields, "namespace": who.namespace(body.namespace, usual=None)}, author=author)
    return None if chosen == Filter() else chosen


def meant(memories: Memories, ids: Sequence[str], who: Visitor) -> list[Memory]:
    """Each by its id or the beginning of it. Raises NotFound where one lies in a namespace that is not this visitor's,
    NoSuchMemory, InvalidMemory.
    """
    found = memories.meant(ids) if ids else []
    who.check_namespaces([memory.namespace for memory in found], "memory")
    return found


def namespace_of(body: BaseModel, who: Visitor) -> str:
    """What the body names, else what is usual for who asks. Raises Forbidden."""
    given = body.namespace if "namespace" in body.model_fields_set else None  # type: ignore[attr-defined]
    return who.namespace(given) or DEFAULT_NAMESPACE


def _shown_whole(memories: Memories, memory: Memory) -> dict[str, Any]:
    beside = []
    if memory.episode is not None and memory.position is not None:
        beside = [m for m in memories.store.episode(memory.episode, around=memory.position) if m.num != memory.num]
    near = [shown(other) for other in beside if other.namespace == memory.namespace]
    return {**shown(memory), "trust": round(memories.trust_in([memory])[0], 4), "beside": near}
