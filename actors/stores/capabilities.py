"""The store of the cluster's capability tokens."""

from __future__ import annotations

from retinue.actors.domain.permissions.actions import Action
from retinue.actors.domain.permissions.approvals.request import ALWAYS_US, ApprovalRequest
from retinue.actors.domain.permissions.capabilities import machine as capabilities
from retinue.actors.domain.permissions.capabilities.token import Token, mint, verify
from retinue.actors.domain.permissions.resource_pattern import exactly
from retinue.actors.domain.values.ids import derived_id
from retinue.actors.durable.machines import CAPABILITIES
from retinue.actors.durable.runtime import Runtime
from retinue.actors.durable.singleton import SingletonEntity


class CapabilitiesActor:
    """``capabilities``: implements `retinue.actors.ports.CapabilitiesPort`."""

    def __init__(self, runtime: Runtime, workspace_id: str) -> None:
        self._runtime = runtime
        self._entity = SingletonEntity(CAPABILITIES, workspace_id, "capabilities", runtime)

    async def add(self, token: Token) -> None:
        """Accepts a token; raises Tampered if it is not one of ours, InvalidValue if not valid."""
        verify(self._runtime.keyring, token, self._runtime.clock())
        await self._entity.execute(capabilities.Add(token))

    async def find(
        self, op: str, action: Action, family_id: str, user_id: str, only: list[str] | None
    ) -> Token | None:
        """The token that covers ``action`` for operation ``op``; ``only`` narrows the choice."""
        uri, permission = action.wanted()
        now = self._runtime.clock()
        return await self._entity.query(
            lambda state: capabilities.find(
                state,
                uri,
                permission,
                family_id=family_id,
                user=user_id,
                now=now,
                op=op,
                only=only,
            )
        )

    async def use(self, op: str, token_id: str) -> bool:
        reply = await self._entity.execute(capabilities.Use(op, token_id))
        return not isinstance(reply, capabilities.UseRefused)

    async def issue(self, request: ApprovalRequest, decided_at: int) -> Token:
        """The token of an approval "always", made once: for the requested action, no more."""
        uri, permission = request.action.wanted()
        token = mint(
            self._runtime.keyring,
            id=derived_id(f"token of {request.id}"),
            resource=exactly(uri),
            permissions=(permission,),
            now=request.created,
            expires=decided_at + ALWAYS_US,
            user=request.user_id,
            audit_entry=request.id,
        )
        entity = await self._entity.entity()
        known = entity.state.tokens.get(token.id)
        if known is None:
            await self._entity.execute(capabilities.Add(token))
        await entity.confirmed()
        return known or token

    async def revoke(self, token_id: str) -> None:
        await self._entity.execute(capabilities.Revoke(token_id))

    async def clear_session(self, family_id: str) -> None:
        """Revoke the session tokens of a family that ended."""
        await self._entity.execute(capabilities.ClearSession(family_id))

    async def tokens(self) -> list[Token]:
        now = self._runtime.clock()
        return await self._entity.query(lambda state: capabilities.usable(state, now))
