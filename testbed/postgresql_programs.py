"""The programs of Debian's PostgreSQL, run as somebody who may not do everything."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from psycopg.conninfo import make_conninfo

from testbed.errors import ControlPlaneError
from testbed.unprivileged import give_away, make_directory, unprivileged, write_secret

_INSTALLATIONS: Final = Path("/usr/lib/postgresql")

_ICU_SINCE: Final = 15
_RUN_SECONDS: Final = 60.0


def obstacle() -> str:
    """Tell why no server can run on this machine; empty when one can."""
    return "" if _newest() else "PostgreSQL is not installed; run: scripts/bootstrap tests"


@dataclass(frozen=True, slots=True)
class Programs:
    """One installed version.

    Attributes:
        directory: Where the programs are.
        environment: The whole environment that they run in.
    """

    directory: Path
    environment: Mapping[str, str]

    @classmethod
    def newest(cls) -> Programs:
        """Find the newest version that is installed.

        Raises:
            ControlPlaneError: PostgreSQL is not installed.
        """
        directory = _newest()
        if directory is None:
            raise ControlPlaneError(obstacle())
        return cls(directory, {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"})

    def server(self, data: Path, settings: Mapping[str, str]) -> Sequence[str | Path]:
        """Tell the command that serves a directory of data."""
        options = [f"--{name}={value}" for name, value in settings.items()]
        return (*unprivileged(), self.directory / "postgres", "-D", data, *options)

    def make_data(self, data: Path, admin: str, password_file: Path) -> None:
        """Make the data of a server that asks everybody for a password.

        Args:
            data: The directory; it does not exist yet.
            admin: The one role that there is.
            password_file: With that role's password.

        Raises:
            ControlPlaneError: It failed.
        """
        make_directory(data)
        is_icu = int(self.directory.parent.name) >= _ICU_SINCE
        self._run("initdb", f"--pgdata={data}", f"--username={admin}", "--no-sync",
                  f"--pwfile={password_file}", "--encoding=UTF8",
                  "--auth-local=reject", "--auth-host=scram-sha-256",
                  *(("--locale-provider=icu", "--icu-locale=en-US") if is_icu else ()))  # fmt: skip

    def copy_data(self, data: Path, origin: str, password_file: Path) -> None:
        """Copy the data of a running server, so that a server on the copy follows it.

        Args:
            data: The directory; it does not exist yet.
            origin: A connection string of the running server, without the password.
            password_file: With that password; a file beside it is made for libpq.

        Raises:
            ControlPlaneError: It failed.
        """
        make_directory(data)
        login = make_conninfo(origin, passfile=str(_pass_file(password_file)))
        self._run("pg_basebackup", "--write-recovery-conf", "--checkpoint=fast", "--no-sync",
                  f"--pgdata={data}", f"--dbname={login}")  # fmt: skip

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*unprivileged(), self.directory / program, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=_RUN_SECONDS,
        )
        if done.returncode != 0:
            raise ControlPlaneError(f"{program} ended with {done.returncode}: {done.stderr}")


def _newest() -> Path | None:
    found = [path.parent for path in _INSTALLATIONS.glob("*/bin/postgres")]
    return max(found, key=lambda path: int(path.parent.name), default=None)


def _pass_file(password_file: Path) -> Path:
    """Copy a password into the form, and to the owner, that libpq asks for."""
    file = password_file.with_suffix(".pgpass")
    write_secret(file, f"*:*:*:*:{password_file.read_text(encoding='ascii').strip()}")
    give_away(file)
    return file
