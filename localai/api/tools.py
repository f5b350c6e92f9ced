"""Tools of MCP servers over HTTP: what there is, what the user said about each, and answers to questions.

For the Unix socket, or a token of scope admin: a tool acts with the user's own rights.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from localai.api.wire import JsonRoute, json_response
from localai.messages import ToolAsked, ToolUsed
from localai.tools.consent import Decision
from localai.tools.servers import Offer
from localai.tools.spec import Consent
from localai.tools.toolbox import Toolbox


class ConsentBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    consent: Consent


class DecisionBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    decision: Decision


def routes(toolbox: Toolbox) -> APIRouter:
    """The routes under /localai/tools."""
    router = APIRouter(prefix="/localai/tools", tags=["tools"], route_class=JsonRoute)

    @router.get("")
    async def listing() -> Response:
        """Declared servers with their tools; a server that cannot be reached has a `problem`."""
        found = await toolbox.listed()
        return json_response(
            {
                "servers": [
                    {
                        "name": one.server,
                        "kind": one.kind,
                        "problem": one.problem or None,
                        "tools": [_shown(offer, said) for offer, said in one.tools],
                    }
                    for one in found
                ]
            }
        )

    @router.post("/{name}/consent")
    async def consent(name: str, body: ConsentBody) -> Response:
        """Say whether a tool may be called: `ask` each time, `always` or `never`. It is kept."""
        return json_response(_shown(await toolbox.say(name, body.consent), body.consent))

    @router.post("/calls/{call}")
    async def decide(call: str, body: DecisionBody) -> Response:
        """Answer a question that a chat waits for: `once`, `always`, `no` or `never`."""
        tool = toolbox.consents.answer(call, body.decision)
        return json_response({"call": call, "tool": tool, "decision": body.decision})

    return router


def asked_json(event: ToolAsked) -> dict[str, Any]:
    """The frame of a stream that asks whether a call may happen."""
    fields = {name: getattr(event, name) for name in ToolAsked.__dataclass_fields__}
    return {"type": "tool_asked", **fields}


def used_json(event: ToolUsed) -> dict[str, Any]:
    """The frame of a stream that tells of a call; `shown` is what the model is told, `taint` its class."""
    fields = {name: getattr(event, name) for name in ToolUsed.__dataclass_fields__}
    return {"type": "tool_used", **fields, "taint": "tool"}


def _shown(offer: Offer, consent: Consent) -> dict[str, Any]:
    return {
        "name": offer.name,
        "server": offer.server,
        "description": offer.tool.description,
        "parameters": offer.tool.parameters,
        "consent": consent,
    }
