"""Who may do what in the feedback app: people, the links that invite them, their sessions, and tokens for programs.

Links, sessions and tokens are random numbers of 256 bits. The database keeps their SHA-256, so that reading it opens no door.
A person's id is a pseudonym drawn at random; it is the `judge` of their rankings. `forget` deletes what tells who it was, and what
they wrote in their own words.
"""

from __future__ import annotations

import hashlib
import secrets
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from manners.errors import MannersError
from manners.feedback.clock import Clock, iso, now
from manners.feedback.personal import erase
from manners.feedback.store import Store
from manners.feedback.tables import INVITES, SESSIONS, SETTINGS, TOKENS, USERS

Role = Literal["annotator", "reviewer", "admin"]
ROLES: tuple[Role, ...] = ("annotator", "reviewer", "admin")

_HOUR = 3600.0
INVITE_SECONDS = 7 * 24 * _HOUR
SESSION_SECONDS = 14 * 24 * _HOUR
IDLE_SECONDS = 48 * _HOUR
# How stale `seen_at` may grow: looking at a page should not be a write.
_SEEN_EVERY = 600.0
LONGEST_NAME = 60


@dataclass(frozen=True, slots=True)
class User:
    """A person. `name` is empty once they were forgotten."""

    id: str
    name: str
    role: Role
    active: bool
    created_at: str

    def may(self, role: Role) -> bool:
        """Roles contain each other: an admin may do what a reviewer may, a reviewer what an annotator may."""
        return self.active and ROLES.index(self.role) >= ROLES.index(role)


@dataclass(frozen=True, slots=True)
class Session:
    """A signed-in browser. `csrf` is the token that its forms carry."""

    user: User
    csrf: str


@dataclass(frozen=True, slots=True)
class Invite:
    """A link that makes an account. `note` says for whom it was meant."""

    id: str
    role: Role
    note: str
    uses_left: int
    expires_at: str


@dataclass(frozen=True, slots=True)
class Token:
    """A program's key to the API, acting as `user_id`; the key itself was shown once."""

    id: str
    user_id: str
    name: str
    created_at: str


class People:
    """Accounts in a store. Every method is one short transaction."""

    def __init__(self, store: Store, clock: Clock = now) -> None:
        self._store, self._clock = store, clock

    def secret(self) -> str:
        """The key that signs cookies: made once and kept with the store, so that every server of one store agrees."""
        query = sa.select(SETTINGS.c.value).where(SETTINGS.c.name == "secret")
        with self._store.reading() as connection:
            found = connection.scalar(query)
        if found:
            return str(found)
        with self._store.transaction() as connection:
            found = connection.scalar(query)
            if not found:
                found = secrets.token_urlsafe(32)
                connection.execute(SETTINGS.insert().values(name="secret", value=found))
        return str(found)

    # Invitations

    def invite(self, role: Role, note: str = "", uses: int = 1, by: str | None = None, seconds: float = INVITE_SECONDS) -> str:  # fmt: skip
        """Make a link for `uses` new accounts; gives the secret part of its address."""
        token, moment = secrets.token_urlsafe(32), self._clock()
        row = {"id": secrets.token_hex(8), "token_hash": _hash(token), "role": role, "note": note, "uses_left": uses,
               "expires_at": iso(moment + seconds), "created_by": by, "created_at": iso(moment)}  # fmt: skip
        with self._store.transaction() as connection:
            connection.execute(INVITES.insert().values(row))
        return token

    def first_admin(self) -> str | None:
        """A link for the first admin while there is none; it takes the place of an earlier one that nobody used."""
        admins = sa.select(USERS.c.id).where(USERS.c.role == "admin", USERS.c.active)
        with self._store.transaction() as connection:
            if connection.scalar(admins.limit(1)) is not None:
                return None
            unused = (INVITES.c.role == "admin") & INVITES.c.created_by.is_(None)
            connection.execute(INVITES.update().where(unused).values(uses_left=0))
            return self.invite("admin", "first admin", seconds=24 * _HOUR)

    def invitation(self, token: str) -> Invite | None:
        """The invitation behind a link, while it can still be used."""
        with self._store.reading() as connection:
            row = connection.execute(self._usable().where(INVITES.c.token_hash == _hash(token))).one_or_none()
        return _invite(row) if row else None

    def invitations(self) -> list[Invite]:
        """All links that can still be used, the newest first."""
        with self._store.reading() as connection:
            return [_invite(row) for row in connection.execute(self._usable().order_by(INVITES.c.sequence.desc()))]

    def withdraw(self, invite_id: str) -> None:
        with self._store.transaction() as connection:
            connection.execute(INVITES.update().where(INVITES.c.id == invite_id).values(uses_left=0, note=""))

    def accept(self, token: str, name: str, password: str) -> User:
        """Make the account that a link invites to; `password` is a hash. Raises MannersError when the link or name cannot be used."""
        name, login = _named(name)
        with self._store.transaction() as connection:
            row = connection.execute(self._usable().where(INVITES.c.token_hash == _hash(token))).one_or_none()
            if row is None:
                raise MannersError("this invitation was used or has expired; ask for a new one")
            if connection.scalar(sa.select(USERS.c.id).where(USERS.c.login == login)) is not None:
                raise MannersError("this name is taken; choose another one")
            user = User(secrets.token_hex(8), name, row.role, True, iso(self._clock()))
            left = row.uses_left - 1
            # Whom a used link was meant for is nobody's business any more.
            used = {"uses_left": left, "note": row.note if left else ""}
            connection.execute(INVITES.update().where(INVITES.c.id == row.id).values(**used))
            values = {
                "id": user.id,
                "name": name,
                "login": login,
                "password": password,
                "role": user.role,
                "active": True,
            }
            connection.execute(USERS.insert().values(**values, created_at=user.created_at))
        return user

    def _usable(self) -> sa.Select[Any]:
        return sa.select(INVITES).where(INVITES.c.uses_left > 0, INVITES.c.expires_at > iso(self._clock()))

    # Accounts

    def everybody(self) -> list[User]:
        with self._store.reading() as connection:
            return [_user(row) for row in connection.execute(sa.select(USERS).order_by(USERS.c.sequence)).mappings()]

    def find(self, name_or_id: str) -> User:
        """The person of that name or pseudonym. Raises MannersError where there is nobody."""
        query = sa.select(USERS).where((USERS.c.login == login_of(name_or_id)) | (USERS.c.id == name_or_id))
        with self._store.reading() as connection:
            rows = connection.execute(query).mappings().all()
        if len(rows) != 1:
            raise MannersError(
                f"there is nobody called {name_or_id!r} here; the page People lists names and pseudonyms"
            )
        return _user(rows[0])

    def credentials(self, name: str) -> tuple[User, str] | None:
        """The active person of that name with the hash of their password."""
        query = sa.select(USERS).where(USERS.c.login == login_of(name), USERS.c.active)
        with self._store.reading() as connection:
            row = connection.execute(query).mappings().one_or_none()
        return (_user(row), row["password"]) if row else None

    def set_password(self, user_id: str, password: str) -> None:
        """Keep a new hash and end every session of that person."""
        with self._store.transaction() as connection:
            connection.execute(USERS.update().where(USERS.c.id == user_id).values(password=password))
            connection.execute(SESSIONS.delete().where(SESSIONS.c.user_id == user_id))

    def set_role(self, user_id: str, role: Role) -> None:
        self._change(user_id, {"role": role}, still_admin=role == "admin")

    def set_active(self, user_id: str, active: bool) -> None:
        """Lock somebody out, or let them in again. Locking ends their sessions and their programs' tokens."""
        self._change(user_id, {"active": active}, still_admin=active)

    def forget(self, user_id: str, by: str = "") -> None:
        """Delete a person's account and every word they wrote (see `personal`); `by` is the pseudonym of whoever does it.

        Their judgements stay, under a pseudonym that now belongs to nobody, and the hash chain stays whole.
        """
        values = {"name": None, "login": None, "password": None, "active": False}
        with self._store.transaction() as connection:
            self._change(user_id, values, still_admin=False)
            erase(connection, user_id, by, iso(self._clock()))
        self._store.scrub()

    def _change(self, user_id: str, values: Mapping[str, Any], still_admin: bool) -> None:
        others = sa.select(USERS.c.id).where(USERS.c.role == "admin", USERS.c.active, USERS.c.id != user_id).limit(1)
        with self._store.transaction() as connection:
            row = connection.execute(sa.select(USERS).where(USERS.c.id == user_id)).one_or_none()
            if row is None:
                raise MannersError("there is no such person")
            if row.login is None:
                raise MannersError("this person was forgotten; there is no account left to change")
            if row.role == "admin" and not still_admin and connection.scalar(others) is None:
                raise MannersError("this is the only admin; make somebody else admin first")
            connection.execute(USERS.update().where(USERS.c.id == user_id).values(**values))
            if values.get("active") is False:
                connection.execute(SESSIONS.delete().where(SESSIONS.c.user_id == user_id))
                unrevoked = (TOKENS.c.user_id == user_id) & TOKENS.c.revoked_at.is_(None)
                connection.execute(TOKENS.update().where(unrevoked).values(revoked_at=iso(self._clock())))

    # Sessions

    def start_session(self, user_id: str) -> str:
        """Sign somebody in; gives the new session's token. Expired sessions are swept out on the way."""
        token, moment = secrets.token_urlsafe(32), self._clock()
        row = {"id": secrets.token_hex(8), "token_hash": _hash(token), "user_id": user_id, "csrf": secrets.token_urlsafe(32),
               "seen_at": iso(moment), "expires_at": iso(moment + SESSION_SECONDS), "created_at": iso(moment)}  # fmt: skip
        with self._store.transaction() as connection:
            connection.execute(SESSIONS.delete().where(SESSIONS.c.expires_at < iso(moment)))
            connection.execute(SESSIONS.insert().values(row))
        return token

    def session(self, token: str) -> Session | None:
        """The session behind a token, unless it has expired, lay idle too long, or belongs to somebody locked out."""
        moment = self._clock()
        query = (
            sa.select(USERS, SESSIONS.c.csrf, SESSIONS.c.seen_at, SESSIONS.c.token_hash)
            .join(SESSIONS, SESSIONS.c.user_id == USERS.c.id)
            .where(SESSIONS.c.token_hash == _hash(token), SESSIONS.c.expires_at > iso(moment), USERS.c.active)
        )
        with self._store.reading() as connection:
            row = connection.execute(query).mappings().one_or_none()
        if row is None or row["seen_at"] < iso(moment - IDLE_SECONDS):
            return None
        if row["seen_at"] < iso(moment - _SEEN_EVERY):
            with self._store.transaction() as connection:
                mine = SESSIONS.c.token_hash == row["token_hash"]
                connection.execute(SESSIONS.update().where(mine).values(seen_at=iso(moment)))
        return Session(_user(row), row["csrf"])

    def end_session(self, token: str) -> None:
        with self._store.transaction() as connection:
            connection.execute(SESSIONS.delete().where(SESSIONS.c.token_hash == _hash(token)))

    # Tokens for programs

    def make_token(self, user_id: str, name: str) -> str:
        """A new key to the API, acting as that person; it is shown this once."""
        token = f"manners_{secrets.token_urlsafe(32)}"
        row = {"id": secrets.token_hex(8), "token_hash": _hash(token), "user_id": user_id, "name": name}
        with self._store.transaction() as connection:
            connection.execute(TOKENS.insert().values(**row, created_at=iso(self._clock())))
        return token

    def tokens(self, user_id: str) -> list[Token]:
        query = sa.select(TOKENS).where(TOKENS.c.user_id == user_id, TOKENS.c.revoked_at.is_(None))
        with self._store.reading() as connection:
            rows = connection.execute(query.order_by(TOKENS.c.sequence.desc())).all()
        return [Token(row.id, row.user_id, row.name, row.created_at) for row in rows]

    def revoke(self, user_id: str, token_id: str) -> None:
        """Make one of somebody's own tokens useless."""
        mine = (TOKENS.c.user_id == user_id) & (TOKENS.c.id == token_id)
        with self._store.transaction() as connection:
            connection.execute(TOKENS.update().where(mine).values(revoked_at=iso(self._clock())))

    def by_token(self, token: str) -> User | None:
        """Whom a program's token stands for, while both may come in."""
        query = (
            sa.select(USERS)
            .join(TOKENS, TOKENS.c.user_id == USERS.c.id)
            .where(TOKENS.c.token_hash == _hash(token), TOKENS.c.revoked_at.is_(None), USERS.c.active)
        )
        with self._store.reading() as connection:
            row = connection.execute(query).mappings().one_or_none()
        return _user(row) if row else None


def login_of(name: str) -> str:
    """What names are compared by: without case, spaces at the ends and ways to write the same letter differently."""
    return " ".join(unicodedata.normalize("NFKC", name).split()).casefold()


def _named(name: str) -> tuple[str, str]:
    """A name as it is shown, and as it is compared."""
    shown = " ".join(unicodedata.normalize("NFKC", name).split())
    if not shown or len(shown) > LONGEST_NAME:
        raise MannersError(f"a name has 1 to {LONGEST_NAME} characters")
    if any(unicodedata.category(character)[0] == "C" for character in shown):
        raise MannersError("a name cannot hold control characters or characters that turn the direction of writing")
    return shown, login_of(shown)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _user(row: Any) -> User:
    return User(row["id"], row["name"] or "", row["role"], row["active"], row["created_at"])


def _invite(row: sa.Row[Any]) -> Invite:
    return Invite(row.id, row.role, row.note, row.uses_left, row.expires_at)
