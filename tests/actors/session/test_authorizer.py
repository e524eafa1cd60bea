"""The gate in front of actions, where what it asks changes under its hands."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from msgspec import structs

from retinue import Boundary, McpToolCall, Policy
from retinue.actors.domain.permissions.action_ref import ActionRef
from retinue.actors.domain.permissions.actions import argument_hash
from retinue.actors.domain.permissions.approvals.question import (
    Answer,
    Permitted,
    Question,
    Waiting,
)
from retinue.actors.domain.permissions.approvals.request import Resolution, Scope, request_for
from retinue.actors.domain.permissions.approvals.state import Entry, Status
from retinue.actors.domain.permissions.boundary import EscapeState
from retinue.actors.domain.session.settings import Limits
from retinue.actors.domain.session.state import Budget, Profile
from retinue.actors.leases.budget_lease import BudgetLease
from retinue.actors.leases.permission_leases import PermissionLeases
from retinue.actors.ports import BudgetPort, CapabilitiesPort, PermissionsPort, Stores
from retinue.actors.session.authorizer import Authorizer, real_path
from retinue.actors.views import WorkspaceSettings

NOW = 1_800_000_000_000_000
TOOL = McpToolCall("guarded", "tool")
MINE = ActionRef(TOOL, argument_hash(TOOL), "mine")
REQUEST = request_for(TOOL, id="it", session_id="session", family_id="session", now=NOW)


@dataclass
class Permissions:
    """An inbox in which a request is approved once, after its time, when somebody waits for it.

    ``claimed_by`` is the operation that has used this up before the one that waits hears of it;
    ``grants`` are the requests that are still good for one operation each.
    """

    claimed_by: str | None
    grants: list[str] = field(default_factory=list)
    entry: Entry | None = None

    async def resolve(self, question: Question) -> Answer:
        if self.entry and self.grants:
            return Permitted(_approval(self.grants.pop(0)))
        self.entry = self.entry or Entry(REQUEST)
        return Waiting(self.entry, watched=True)

    async def await_decision(self, request_id: str, timeout_s: float) -> Entry:
        assert self.entry is not None
        self.entry = structs.replace(
            self.entry,
            status=Status.DECIDED,
            decision=_approval(request_id),
            claimable=self.claimed_by is None,
            claimed_by=self.claimed_by,
            finished=NOW,
        )
        return self.entry


class NoTokens:
    async def find(self, *_: object) -> None:
        return None


class EmptyPurse:
    async def give_back(self, amount: int) -> None:
        assert amount == 0


def _approval(request_id: str) -> Resolution:
    return Resolution(request_id, True, Scope.ONCE, Scope.ONCE, "", "ann", NOW, "hash")


def _gate(permissions: Permissions) -> Authorizer:
    profile = Profile(
        id="session",
        user_id="0123456789abcdef",
        workspace_id="workspace",
        family_id="session",
        created_at=NOW,
        agent=None,
        isolation="shared",
        budget=Budget(1, 1, 80),
        limits=Limits(),
    )
    policy = Policy(approval_required_tools=("guarded",))
    return Authorizer(
        profile,
        WorkspaceSettings("workspace", None, policy, Boundary()),
        Stores(
            cast(BudgetPort, None),
            cast(PermissionsPort, permissions),
            cast(CapabilitiesPort, NoTokens()),
        ),
        cast(BudgetLease, EmptyPurse()),
        lambda: NOW,
        PermissionLeases(),
        lambda path, always: None,
    )


async def test_an_approval_that_another_has_used_up_lets_nobody_else_pass() -> None:
    gate = _gate(Permissions(claimed_by="another operation"))
    decision = await gate.authorize(MINE, 0, "", 1_000_000, EscapeState())
    assert decision.kind == "deferred"


async def test_the_proof_is_the_approval_that_was_used_up() -> None:
    gate = _gate(Permissions(claimed_by="another operation", grants=["a later request"]))
    decision = await gate.authorize(MINE, 0, "", 1_000_000, EscapeState())
    assert decision.proof == "approval:a later request"


NAMES = st.sampled_from(
    ("a", "b", "link", "up", "loop", "dangling", "absolute", "..", ".", "", "x")
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Directories, links to and fro, and links to nowhere."""
    root = tmp_path_factory.mktemp("tree").resolve()
    (root / "a" / "b" / "a").mkdir(parents=True)
    (root / "a" / "b" / "x").touch()
    for name, target in {
        "link": "a/b",
        "a/up": "..",
        "loop": "loop",
        "dangling": "nowhere/x",
        "absolute": str(root / "a"),
        "a/b/link": "../../link/a",
    }.items():
        Path(root / name).symlink_to(target)
    return str(root)


@settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(NAMES, max_size=6), slash=st.sampled_from(("", "/")))
def test_a_real_path_is_what_the_library_says(tree: str, names: list[str], slash: str) -> None:
    for start in (tree, "", "/" + tree, os.path.relpath(tree)):
        path = "/".join([start, *names]) + slash
        assert real_path(path) == os.path.realpath(path)
