"""Questions about agents and their versions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, bindparam, delete, false, func, select, update
from sqlalchemy.exc import IntegrityError

from cupola.agents import Agent, AgentVersion, Definition, Failure, Phase, VersionRule, VersionStatus
from cupola.errors import Conflict
from cupola.store.paging import Page, PageOf, fetch_page
from cupola.store.state import delete_stores
from cupola.store.statements import upsert
from cupola.store.tables import agents, versions
from cupola.store.timings import delete_timings_of_agent

_AGENT_KEYS = ("project", "name")
_VERSION_KEYS = ("project", "agent", "version")

_THIS_AGENT = and_(agents.c.project == bindparam("p_project"), agents.c.name == bindparam("p_name"))
_VERSIONS_OF_AGENT = and_(versions.c.project == bindparam("p_project"), versions.c.agent == bindparam("p_agent"))
_THIS_VERSION = and_(_VERSIONS_OF_AGENT, versions.c.version == bindparam("p_version"))

_GET_AGENT = select(agents).where(_THIS_AGENT)
_DELETE_AGENT = delete(agents).where(_THIS_AGENT)
_GET_VERSION = select(versions).where(_THIS_VERSION)
_STATUS = select(versions.c.status).where(_THIS_VERSION)
_DELETE_VERSION = delete(versions).where(_THIS_VERSION)
_RELEASED: ColumnElement[bool] = and_(versions.c.draft == false(), versions.c.status != VersionStatus.DELETED.value)
_NEWEST = select(versions).where(_VERSIONS_OF_AGENT).order_by(versions.c.seq.desc())
_NEWEST_RELEASES = _NEWEST.where(versions.c.draft == false())
_LATEST = _NEWEST.where(_RELEASED).limit(1)
_WITH_POOLS = select(versions.c.project, versions.c.agent).where(versions.c.warm_pool > 0).distinct()
_EVERY_AGENT = select(agents.c.project, agents.c.name)
_SET_POOL = update(versions).where(_THIS_VERSION).values(warm_pool=bindparam("p_size"))
_SET_BINDS_LATE = update(versions).where(_THIS_VERSION).values(binds_late=bindparam("p_binds_late"))
_CODE_IN_USE = select(versions.c.seq).where(versions.c.code_sha256 == bindparam("p_sha256")).limit(1)


def get_agent(conn: Connection, project: str, name: str) -> Agent | None:
    row = conn.execute(_GET_AGENT, {"p_project": project, "p_name": name}).first()
    return None if row is None else _agent(row)


def put_agent(conn: Connection, agent: Agent) -> None:
    """Makes the agent, or replaces it where it stands in the list."""
    row = {
        "project": agent.project,
        "name": agent.name,
        "guid": agent.guid,
        "created_at": agent.created_at,
        "last_number": agent.last_number,
        "enabled": agent.enabled,
        "rules": [[rule.version, rule.percentage] for rule in agent.rules],
        "endpoint": dict(agent.endpoint),
        "card": None if agent.card is None else dict(agent.card),
    }
    upsert(conn, agents, row, _AGENT_KEYS)


def delete_agent(conn: Connection, project: str, name: str) -> bool:
    """Deletes the agent with its versions and its state stores; False where there was none."""
    delete_stores(conn, project, name)
    delete_timings_of_agent(conn, project, name)
    return conn.execute(_DELETE_AGENT, {"p_project": project, "p_name": name}).rowcount > 0


def list_agents(conn: Connection, project: str, page: Page) -> PageOf[Agent]:
    question = select(agents).where(agents.c.project == project)
    return fetch_page(conn, question, page, seq=agents.c.seq, cursor=agents.c.name, read=_agent)


def disabled_agents(conn: Connection) -> list[tuple[str, str]]:
    """Project and name of every agent whose endpoint rejects requests."""
    question = select(agents.c.project, agents.c.name).where(agents.c.enabled.is_(False))
    return [(project, name) for project, name in conn.execute(question)]


def endpoints(conn: Connection) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Project, name and endpoint configuration of every agent."""
    question = select(agents.c.project, agents.c.name, agents.c.endpoint)
    return [(project, name, endpoint) for project, name, endpoint in conn.execute(question)]


def get_version(conn: Connection, project: str, agent: str, version: str) -> AgentVersion | None:
    row = conn.execute(_GET_VERSION, {"p_project": project, "p_agent": agent, "p_version": version}).first()
    return None if row is None else _version(row)


def is_active(conn: Connection, version: tuple[str, str, str]) -> bool:
    """Whether sessions may begin on the version now: asked in the transaction that begins one."""
    return conn.execute(_STATUS, _named(version)).scalar() == VersionStatus.ACTIVE.value


def put_version(conn: Connection, version: AgentVersion) -> None:
    """Makes the version, or replaces it where it stands in the list. Conflict where its agent is gone."""
    row = {
        "project": version.project,
        "agent": version.agent,
        "version": version.version,
        "definition": version.definition.to_json(),
        "code_sha256": None if version.definition.code is None else version.definition.code.sha256,
        "created_at": version.created_at,
        "status": version.status.value,
        "phase": None if version.phase is None else version.phase.value,
        "failure": None if version.failure is None else version.failure.to_json(),
        "description": version.description,
        "metadata": dict(version.metadata),
        "draft": version.draft,
        "warnings": list(version.warnings),
        "image_content": version.image_content,
        "warm_pool": version.warm_pool,
        "binds_late": version.binds_late,
    }
    try:
        upsert(conn, versions, row, _VERSION_KEYS)
    except IntegrityError as error:
        raise Conflict(f"Agent {version.agent} was deleted; create it again before its version.") from error


def delete_version(conn: Connection, project: str, agent: str, version: str) -> bool:
    found = {"p_project": project, "p_agent": agent, "p_version": version}
    return conn.execute(_DELETE_VERSION, found).rowcount > 0


def list_versions(
    conn: Connection, project: str, agent: str, page: Page, include_drafts: bool = False
) -> PageOf[AgentVersion]:
    """Cursors are the wire's ids of versions, `name:1`, or the version alone."""
    question = _versions_of(project, agent, include_drafts)
    by_version = replace(page, after=_bare(page.after), before=_bare(page.before))
    return fetch_page(conn, question, by_version, seq=versions.c.seq, cursor=versions.c.version, read=_version)


def newest_versions(conn: Connection, project: str, agent: str, include_drafts: bool = False) -> list[AgentVersion]:
    """All versions of the agent, newest first."""
    question = _NEWEST if include_drafts else _NEWEST_RELEASES
    return [_version(row) for row in conn.execute(question, {"p_project": project, "p_agent": agent})]


def latest_version(conn: Connection, project: str, agent: str) -> AgentVersion | None:
    """The newest version that is neither draft nor deleted, in whatever status."""
    row = conn.execute(_LATEST, {"p_project": project, "p_agent": agent}).first()
    return None if row is None else _version(row)


def latest_versions(conn: Connection, project: str, names: Collection[str]) -> dict[str, AgentVersion]:
    """`latest_version` of many agents at once; agents without one are left out."""
    newest = (
        select(func.max(versions.c.seq))
        .where(versions.c.project == project, versions.c.agent.in_(list(names)), _RELEASED)
        .group_by(versions.c.agent)
    )
    found = map(_version, conn.execute(select(versions).where(versions.c.seq.in_(newest))))
    return {version.agent: version for version in found}


def versions_in(conn: Connection, statuses: Collection[VersionStatus]) -> list[AgentVersion]:
    """All versions of all projects in one of the statuses, oldest first."""
    question = select(versions).where(versions.c.status.in_([s.value for s in statuses])).order_by(versions.c.seq)
    return [_version(row) for row in conn.execute(question)]


def agents_with_pools(conn: Connection) -> list[tuple[str, str]]:
    """Project and name of the agents of which some version was told to have a warm pool."""
    return [(project, agent) for project, agent in conn.execute(_WITH_POOLS)]


def every_agent(conn: Connection) -> list[tuple[str, str]]:
    """Project and name of every agent."""
    return [(project, name) for project, name in conn.execute(_EVERY_AGENT)]


def set_warm_pool(conn: Connection, version: tuple[str, str, str], size: int | None) -> None:
    """The last word on a version's warm pool; passed over where there is no such version."""
    conn.execute(_SET_POOL, {**_named(version), "p_size": size})


def set_binds_late(conn: Connection, version: tuple[str, str, str], binds_late: bool) -> None:
    """What a sandbox of the version has shown; passed over where there is no such version."""
    conn.execute(_SET_BINDS_LATE, {**_named(version), "p_binds_late": binds_late})


def _named(version: tuple[str, str, str]) -> dict[str, str]:
    return dict(zip(("p_project", "p_agent", "p_version"), version, strict=True))


def code_in_use(conn: Connection, sha256: str) -> bool:
    """Whether any version of any project was made from this zip."""
    return conn.execute(_CODE_IN_USE, {"p_sha256": sha256}).first() is not None


def _versions_of(project: str, agent: str, include_drafts: bool) -> Select[Any]:
    question = select(versions).where(versions.c.project == project, versions.c.agent == agent)
    return question if include_drafts else question.where(versions.c.draft == false())


def _bare(cursor: str | None) -> str | None:
    return None if cursor is None else cursor.rpartition(":")[2]


def _agent(row: Row[Any]) -> Agent:
    return Agent(
        project=row.project,
        name=row.name,
        guid=row.guid,
        created_at=row.created_at,
        last_number=row.last_number,
        enabled=row.enabled,
        rules=tuple(VersionRule(version, percentage) for version, percentage in row.rules),
        endpoint=row.endpoint,
        card=row.card,
    )


def _version(row: Row[Any]) -> AgentVersion:
    return AgentVersion(
        project=row.project,
        agent=row.agent,
        version=row.version,
        definition=Definition.from_json(row.definition),
        created_at=row.created_at,
        status=VersionStatus(row.status),
        phase=None if row.phase is None else Phase(row.phase),
        failure=None if row.failure is None else Failure.from_json(row.failure),
        description=row.description,
        metadata=row._mapping["metadata"],
        draft=row.draft,
        warnings=tuple(row.warnings),
        image_content=row.image_content,
        warm_pool=row.warm_pool,
        binds_late=row.binds_late,
    )
