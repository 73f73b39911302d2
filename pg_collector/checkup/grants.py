"""What is hidden from the role, proved by counting it.

https://www.postgresql.org/docs/current/predefined-roles.html
"""

from collections.abc import Iterator

from pg_collector.checkup.finding import Finding, Level
from pg_collector.checkup.login import ALONE, is_shared, own_role, quoted
from pg_collector.pg.examination import Examination

INHERIT_BY_GRANT = 16  # from this version on it is the grant that says whether it is inherited


def findings(target: str, examined: Examination) -> Iterator[Finding]:
    """Count the sessions and statements that are hidden; without any all is well."""
    standing, sessions = examined.standing, examined.sessions
    hidden = sessions.hidden if sessions is not None else 0
    others = sessions.others if sessions is not None else 0
    statements = examined.statements
    unseen = statements.hidden if statements is not None else 0
    measured = {
        "sessions": others, "hidden_sessions": hidden,
        "statements": statements.entries if statements is not None else None,
        "hidden_statements": unseen,
    }  # fmt: skip
    if hidden or unseen or not examined.reads_all_stats:
        seen = [f"{hidden} of {others} sessions hidden"]
        if unseen and statements is not None:
            seen.append(f"{unseen} of {statements.entries} statements hidden")
        yield Finding(
            section="grants",
            target=target,
            level=Level.FAIL,
            found=f"{', '.join(seen)}: {_why(examined)}",
            remedy=_remedy(examined),
            measured=measured,
        )
        return
    if standing is not None and not (standing.monitor and standing.reads_settings):
        yield Finding(
            section="grants",
            target=target,
            level=Level.WARN,
            found=f"role {examined.role} sees all sessions, but not all settings, nor WAL files: "
            "it lacks the rest of pg_monitor",
            remedy=_remedy(examined),
            measured=measured,
        )
        return
    seen = [f"0 of {others} sessions hidden"]
    if statements is not None:
        seen.append(f"0 of {statements.entries} statements")
    yield Finding(
        section="grants", target=target, level=Level.OK, found=", ".join(seen), measured=measured
    )


def _why(examined: Examination) -> str:
    standing = examined.standing
    if standing is not None and standing.monitor_member and not standing.monitor:
        return f"role {examined.role} is a member of pg_monitor and does not inherit from it"
    return f"role {examined.role} lacks pg_read_all_stats"


def _remedy(examined: Examination) -> str:
    role, standing = quoted(examined.role), examined.standing
    if standing is None or not standing.monitor_member or standing.monitor:
        return f"GRANT pg_monitor TO {role};"
    if examined.major >= INHERIT_BY_GRANT:
        return f"GRANT pg_monitor TO {role} WITH INHERIT TRUE;"
    if is_shared(examined):  # it would have the rights of all its other roles, too
        return own_role(examined)
    return f"ALTER ROLE {role} INHERIT;  {ALONE}"
